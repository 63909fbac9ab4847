"""The LMDB index of a device, below its folder in `index/`. Rows and their bytes are those of entries.py.

Invariants
- It is changed only by `commit`, in one synced transaction, together with the mark up to which it covers the segments.
- LMDB runs with its safe defaults; one environment per process and folder; no read transaction outlives a call.
- The map grows only while no transaction is open in this process.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import lmdb

from reedbed.common.errors import Corrupt
from reedbed.common.limits import MIB
from reedbed.storaged import entries
from reedbed.storaged.entries import Entry, IndexState, Note, Position, SegmentInfo

FOLDER: Final = "index"
DATA: Final = "data.mdb"
MAP_BYTES: Final = 64 * MIB  # address space at first, not room on the disk
_READERS: Final = 1024


@dataclass(slots=True)
class Changes:
    """What a checkpoint writes; None removes a row."""

    state: IndexState
    shards: Mapping[bytes, Entry | None] = field(default_factory=dict)
    notes: Mapping[Position, Note | None] = field(default_factory=dict)
    segments: Mapping[int, SegmentInfo | None] = field(default_factory=dict)


class Checked(NamedTuple):
    """Bytes of keys and values, keys of rows with a wrong sum, and where to go on, None at the table's end."""

    size: int
    bad: list[bytes]
    last: bytes | None


class _Gate:
    """Many may pass at once, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            while self._alone:
                self._changed.wait()
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                if not self._inside:
                    self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._alone = True
            while self._inside:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


class Index:
    """The open index. Reads from many threads, `commit` from one at a time."""

    def __init__(self, folder: Path, map_bytes: int = MAP_BYTES) -> None:
        """Opens or makes it. Corrupt if LMDB refuses the file; OSError for a full or failing disk."""
        folder.mkdir(exist_ok=True)
        self._gate = _Gate()
        size = map_bytes
        if (folder / DATA).exists():
            size = max(size, 2 * (folder / DATA).stat().st_size)
        try:
            self._env: Any = lmdb.open(str(folder), map_size=size, max_dbs=len(entries.TABLES), max_readers=_READERS)
            self._tables: dict[str, Any] = {
                name: self._env.open_db(name.encode(), create=True) for name in entries.TABLES
            }
        except lmdb.Error as error:
            raise _translated(error, folder) from error
        self._folder = folder
        self.suspect = False  # a row with a wrong sum was met: it must be checked at the next start

    def close(self) -> None:
        self._env.close()

    def state(self) -> IndexState | None:
        """None in an index that was just made."""
        with self._read("meta") as txn:
            raw = txn.get(entries.STATE_KEY)
        return None if raw is None else entries.decode_state(raw)

    def get(self, key: bytes) -> Entry | None:
        with self._read("shards") as txn:
            raw = txn.get(key)
        return None if raw is None else self._entry(key, raw)

    def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        with self._read("shards") as txn:
            found = [txn.get(key) for key in keys]
        return [None if raw is None else self._entry(key, raw) for key, raw in zip(keys, found, strict=True)]

    def page(self, after: bytes, limit: int) -> list[tuple[bytes, Entry]]:
        """Up to `limit` rows with keys above `after`, removed ones included, in order."""
        rows = self._range("shards", after + b"\0", b"", limit)
        return [(key, self._entry(key, raw)) for key, raw in rows]

    def note(self, target: Position) -> Note | None:
        key = entries.position_key(target)
        with self._read("notes") as txn:
            raw = txn.get(key)
        return None if raw is None else entries.decode_note(key, raw)

    def notes_about(self, segment: int) -> list[Note]:
        """Notes whose target lies in the segment."""
        return [entries.decode_note(key, raw) for key, raw in self._of_segment("notes", segment)]

    def notes_in(self, segment: int) -> list[Position]:
        """Targets of the notes that lie in the segment."""
        return [entries.decode_home(key, raw) for key, raw in self._of_segment("homes", segment)]

    def segments(self) -> dict[int, SegmentInfo]:
        rows = self._range("segments", b"", b"", 1 << 62)
        return {entries.split_segment(key): entries.decode_info(key, raw) for key, raw in rows}

    def check_rows(self, table: str, after: bytes, limit: int) -> Checked:
        """Verify the sums of up to `limit` rows of a table with keys above `after`. Corrupt if LMDB itself refuses."""
        rows = self._range(table, after + b"\0" if after else b"", b"", limit)
        bad = []
        for key, value in rows:
            try:
                entries.check(table, key, value)
            except Corrupt:
                bad.append(key)
        if bad:
            self.suspect = True
        size = sum(len(key) + len(value) for key, value in rows)
        return Checked(size, bad, rows[-1][0] if len(rows) == limit else None)

    def commit(self, changes: Changes) -> None:
        """All changes, durably and at once. OSError (ENOSPC for a full disk); then nothing has changed."""
        while True:
            try:
                with self._gate.shared(), self._env.begin(write=True) as txn:
                    self._write(txn, changes)
                return
            except lmdb.MapFullError:
                self._grow()
            except lmdb.Error as error:
                raise _translated(error, self._folder) from error

    def map_bytes(self) -> int:
        return int(self._env.info()["map_size"])

    def _entry(self, key: bytes, raw: bytes) -> Entry:
        try:
            return entries.decode_entry(key, raw)
        except Corrupt:
            self.suspect = True
            raise

    def _grow(self) -> None:
        with self._gate.alone():
            self._env.set_mapsize(2 * self.map_bytes())

    def _write(self, txn: Any, changes: Changes) -> None:
        shards, notes, homes, segments, meta = (self._tables[name] for name in entries.TABLES)
        for key in sorted(changes.shards):
            entry = changes.shards[key]
            if entry is None:
                txn.delete(key, db=shards)
            else:
                txn.put(key, entries.encode_entry(key, entry), db=shards)
        for target in sorted(changes.notes):
            key = entries.position_key(target)
            old = txn.get(key, db=notes)
            if old is not None:
                txn.delete(entries.position_key(entries.decode_note(key, old).home), db=homes)
            note = changes.notes[target]
            if note is None:
                txn.delete(key, db=notes)
            else:
                home = entries.position_key(note.home)
                txn.put(key, entries.encode_note(key, note), db=notes)
                txn.put(home, entries.encode_home(home, target), db=homes)
        for number, info in changes.segments.items():
            key = entries.segment_key(number)
            if info is None:
                txn.delete(key, db=segments)
            else:
                txn.put(key, entries.encode_info(key, info), db=segments)
        txn.put(entries.STATE_KEY, entries.encode_state(changes.state), db=meta)

    @contextmanager
    def _read(self, table: str) -> Iterator[Any]:
        try:
            with self._gate.shared(), self._env.begin(db=self._tables[table]) as txn:
                yield txn
        except lmdb.Error as error:
            raise _translated(error, self._folder) from error

    def _of_segment(self, table: str, segment: int) -> list[tuple[bytes, bytes]]:
        return self._range(table, entries.segment_key(segment), entries.segment_key(segment + 1), 1 << 62)

    def _range(self, table: str, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Rows from `start` on, below `stop` unless that is empty."""
        rows: list[tuple[bytes, bytes]] = []
        with self._read(table) as txn, txn.cursor() as cursor:
            if cursor.set_range(start):
                for key, value in cursor:
                    if len(rows) >= limit or (stop and key >= stop):
                        break
                    rows.append((key, value))
        return rows


def remove_index(folder: Path) -> None:
    """Clear a damaged index away; it is made again from the segments."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.is_file():
        folder.unlink()


def _translated(error: lmdb.Error, folder: Path) -> Exception:
    if isinstance(error, lmdb.DiskError):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError | lmdb.VersionMismatchError):
        return Corrupt("the index is damaged", where=str(folder), hint="Start again: it is rebuilt from the segments")
    return OSError(errno.EIO, f"LMDB: {error}", str(folder))
