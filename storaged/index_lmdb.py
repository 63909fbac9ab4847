"""The index of a device in LMDB, below its folder in `index/`.

Invariants
- LMDB runs with its safe defaults; one environment per process and folder; no read transaction outlives a call.
- The map grows only while no transaction is open in this process.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb

from reedbed.common.checksums import crc32c
from reedbed.common.errors import Corrupt
from reedbed.common.limits import MIB
from reedbed.storaged import entries
from reedbed.storaged.index import Index, RowReader, RowWriter

FOLDER: Final = "index"
DATA: Final = "data.mdb"
MAP_BYTES: Final = 64 * MIB  # address space at first, not room on the disk
_READERS: Final = 1024


class _Gate:
    """Many may pass at once, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._alone = False

    def enter(self) -> None:
        """Pass; to be followed by `leave`."""
        with self._changed:
            while self._alone:
                self._changed.wait()
            self._inside += 1

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            if self._alone and not self._inside:
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


class _Transaction:
    """A RowWriter, or a RowReader."""

    __slots__ = ("_tables", "_txn")

    def __init__(self, txn: Any, tables: dict[str, Any]) -> None:
        self._txn = txn
        self._tables = tables

    def get(self, table: str, key: bytes) -> bytes | None:
        found: bytes | None = self._txn.get(key, db=self._tables[table])
        return found

    def range(self, table: str, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        rows: list[tuple[bytes, bytes]] = []
        with self._txn.cursor(db=self._tables[table]) as cursor:
            if cursor.set_range(start):
                for key, value in cursor:
                    if len(rows) >= limit or (stop and key >= stop):
                        break
                    rows.append((key, value))
        return rows

    def last(self, table: str) -> bytes:
        with self._txn.cursor(db=self._tables[table]) as cursor:
            return bytes(cursor.key()) if cursor.last() else b""

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._txn.put(key, value, db=self._tables[table])

    def delete(self, table: str, key: bytes) -> None:
        self._txn.delete(key, db=self._tables[table])


class _Reading:
    """The time of one read transaction. A generator would cost several times what looking a row up does."""

    __slots__ = ("_env", "_folder", "_gate", "_tables", "_txn")

    def __init__(self, gate: _Gate, env: Any, tables: dict[str, Any], folder: Path) -> None:
        self._gate, self._env, self._tables, self._folder = gate, env, tables, folder

    def __enter__(self) -> RowReader:
        self._gate.enter()
        try:
            self._txn: Any = self._env.begin()
        except BaseException as error:
            self._gate.leave()
            if isinstance(error, lmdb.Error):
                raise _translated(error, self._folder) from error
            raise
        return _Transaction(self._txn, self._tables)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self._txn.abort()
        finally:
            self._gate.leave()
        if isinstance(error, lmdb.Error):
            raise _translated(error, self._folder) from error


class LmdbRows:
    """Rows in one LMDB environment."""

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
        self.folder = folder

    def close(self) -> None:
        self._env.close()

    def read(self) -> _Reading:
        return _Reading(self._gate, self._env, self._tables, self.folder)

    def write(self, change: Callable[[RowWriter], None]) -> None:
        while True:
            self._gate.enter()
            try:
                with self._env.begin(write=True) as txn:
                    change(_Transaction(txn, self._tables))
                return
            except lmdb.MapFullError:
                pass
            except lmdb.Error as error:
                raise _translated(error, self.folder) from error
            finally:
                self._gate.leave()
            self._grow()

    def _grow(self) -> None:
        try:
            with self._gate.alone():
                self._env.set_mapsize(2 * int(self._env.info()["map_size"]))
        except lmdb.Error as error:
            raise _translated(error, self.folder) from error


class LmdbHome:
    """The index's folder of a device. `check` tells what is wrong with it."""

    def __init__(self, folder: Path, check: Callable[[Path], str]) -> None:
        self.folder = folder
        self._check = check

    def exists(self) -> bool:
        return (self.folder / DATA).exists()

    def check(self) -> str:
        return self._check(self.folder)

    def open(self) -> Index:
        return Index(LmdbRows(self.folder))

    def remove(self) -> None:
        remove_index(self.folder)

    def sum(self) -> tuple[int, int]:
        path = self.folder / DATA
        if not path.is_file():
            return 0, 0
        size = value = 0
        with path.open("rb") as file:
            while piece := file.read(MIB):
                size += len(piece)
                value = crc32c(piece, value)
        return size, value


def remove_index(folder: Path) -> None:
    """Nothing is left of the index there."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.is_file():
        folder.unlink()


def _translated(error: lmdb.Error, folder: Path) -> Exception:
    if isinstance(error, lmdb.DiskError):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError | lmdb.VersionMismatchError):
        return Corrupt("the index is damaged", where=str(folder), hint="Start again: it is rebuilt from the segments")
    return OSError(errno.EIO, f"LMDB: {error}", str(folder))
