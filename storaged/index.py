"""The index of a device: rows and their bytes are those of entries.py, kept by an engine of sorted tables (`Rows`).

Invariants
- It is changed only by `commit`, in one synced transaction, together with the mark up to which it covers the segments.
- No read transaction outlives a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeVar

from reedbed.common.errors import Corrupt
from reedbed.storaged import entries
from reedbed.storaged.entries import Entry, IndexState, Note, Position, SegmentInfo

T = TypeVar("T")

_MADE_AGAIN: Final = "It is made again from the segments at the next start"


class RowReader(Protocol):
    """One state of all tables, for one thread. A value is good until the reader ends."""

    def get(self, table: str, key: bytes) -> bytes | None: ...

    def range(self, table: str, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to `limit` rows from `start` on, below `stop` unless that is empty, in bytewise order."""
        ...

    def last(self, table: str) -> bytes:
        """The highest key; b"" in an empty table."""
        ...


class RowWriter(RowReader, Protocol):
    """One transaction; its reads see its own writes."""

    def put(self, table: str, key: bytes, value: bytes) -> None: ...

    def delete(self, table: str, key: bytes) -> None:
        """Also where there is no such row."""
        ...


class Rows(Protocol):
    """The tables of entries.TABLES, open. Reads from many threads, `write` from one at a time."""

    def read(self) -> AbstractContextManager[RowReader]:
        """Corrupt, OSError."""
        ...

    def write(self, change: Callable[[RowWriter], None]) -> None:
        """What `change` does, durably and at once; it may be called again where there was no room. OSError (ENOSPC for
        a full disk); then nothing has changed."""
        ...

    def close(self) -> None: ...


class IndexHome(Protocol):
    """Where a device has its index, open or not."""

    def exists(self) -> bool: ...

    def check(self) -> str:
        """What is wrong with the index that exists, the empty string if nothing is. NewerFormat."""
        ...

    def open(self) -> Index:
        """Opens or makes it. Corrupt, FileExistsError or NotADirectoryError if it must be made again, OSError."""
        ...

    def remove(self) -> None:
        """Clear a damaged index away; it is made again from the segments."""
        ...

    def sum(self) -> tuple[int, int]:
        """Size and CRC32C of the closed index, (0, 0) if there is none."""
        ...


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


class Index:
    """The open index. Reads from many threads, `commit` from one at a time."""

    def __init__(self, rows: Rows) -> None:
        """Takes the rows over: `close` closes them."""
        self._rows = rows
        self.suspect = False  # a row with a wrong sum was met: it must be checked at the next start

    def close(self) -> None:
        self._rows.close()

    def state(self) -> IndexState | None:
        """None in an index that was just made."""
        with self._rows.read() as reader:
            raw = reader.get("meta", entries.STATE_KEY)
        return None if raw is None else entries.decode_state(raw)

    def get(self, key: bytes) -> Entry | None:
        with self._rows.read() as reader:
            raw = reader.get("shards", key)
        return None if raw is None else self._entry(key, raw)

    def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        with self._rows.read() as reader:
            found = [reader.get("shards", key) for key in keys]
        return [None if raw is None else self._entry(key, raw) for key, raw in zip(keys, found, strict=True)]

    def page(self, after: bytes, limit: int) -> list[tuple[bytes, Entry | None]]:
        """Up to `limit` rows with keys above `after`, removed ones included, in order; None for one that is bad."""
        rows = self._range("shards", after + b"\0", b"", limit)
        return [(key, self._good(entries.decode_entry, key, raw)) for key, raw in rows]

    def last(self) -> bytes:
        """The highest key of a row, removed ones included; b"" if there is none."""
        with self._rows.read() as reader:
            return reader.last("shards")

    def note(self, target: Position) -> Note | None:
        key = entries.position_key(target)
        with self._rows.read() as reader:
            raw = reader.get("notes", key)
        if raw is None:
            return None
        note = self._good(entries.decode_note, key, raw)
        if note is None:
            raise Corrupt("a row of the index is damaged", where="the device's index", hint=_MADE_AGAIN)
        return note

    def notes_about(self, segment: int) -> list[Note]:
        """Notes whose target lies in the segment, but those whose rows are bad."""
        found = [self._good(entries.decode_note, key, raw) for key, raw in self._of_segment("notes", segment)]
        return [note for note in found if note is not None]

    def notes_in(self, segment: int) -> list[Position]:
        """Targets of the notes that lie in the segment, but those whose rows are bad."""
        found = [self._good(entries.decode_home, key, raw) for key, raw in self._of_segment("homes", segment)]
        return [target for target in found if target is not None]

    def segments(self) -> dict[int, SegmentInfo]:
        rows = self._range("segments", b"", b"", 1 << 62)
        return {entries.split_segment(key): entries.decode_info(key, raw) for key, raw in rows}

    def check_rows(self, table: str, after: bytes, limit: int) -> Checked:
        """Verify the sums of up to `limit` rows of a table with keys above `after`. Corrupt if the engine refuses."""
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
        self._rows.write(lambda writer: self._write(writer, changes))

    def _entry(self, key: bytes, raw: bytes) -> Entry:
        try:
            return entries.decode_entry(key, raw)
        except Corrupt:
            self.suspect = True
            raise

    def _good(self, decode: Callable[[bytes, bytes], T], key: bytes, raw: bytes) -> T | None:
        """The row, None for a bad one: the index is made again at the next start then."""
        try:
            return decode(key, raw)
        except Corrupt:
            self.suspect = True
            return None

    def _of_segment(self, table: str, segment: int) -> list[tuple[bytes, bytes]]:
        return self._range(table, entries.segment_key(segment), entries.segment_key(segment + 1), 1 << 62)

    def _range(self, table: str, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        with self._rows.read() as reader:
            return reader.range(table, start, stop, limit)

    def _write(self, writer: RowWriter, changes: Changes) -> None:
        for key in sorted(changes.shards):
            entry = changes.shards[key]
            if entry is None:
                writer.delete("shards", key)
            else:
                writer.put("shards", key, entries.encode_entry(key, entry))
        for target in sorted(changes.notes):
            key = entries.position_key(target)
            old = writer.get("notes", key)
            before = None if old is None else self._good(entries.decode_note, key, old)
            if before is not None:
                writer.delete("homes", entries.position_key(before.home))
            note = changes.notes[target]
            if note is None:
                writer.delete("notes", key)
            else:
                home = entries.position_key(note.home)
                writer.put("notes", key, entries.encode_note(key, note))
                writer.put("homes", home, entries.encode_home(home, target))
        for number, info in changes.segments.items():
            key = entries.segment_key(number)
            if info is None:
                writer.delete("segments", key)
            else:
                writer.put("segments", key, entries.encode_info(key, info))
        writer.put("meta", entries.STATE_KEY, entries.encode_state(changes.state))
