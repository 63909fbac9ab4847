"""The embedded engine: one LMDB environment on catalogd's own disk, every transaction synced.

Invariants:
- One transaction is one LMDB transaction: rows, long-key nodes and the redo record appear together or not at all.
- LMDB runs with its safe defaults (data synced, then the meta page synced); the environment is open once per folder.
- The map is grown only between transactions, while no reader is there.
- The file never shrinks: room is what the disk has left and what the file has of pages that are free again.
- After a commit or write that failed for anything but room, nothing is written until the engine is opened anew, for a
  later sync that succeeds proves nothing.

Tables and trees: lmdb_rows.py.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb

from reedbed.catalog import redo
from reedbed.catalog.engine import Reader, RedoRecord, Usage, Writer
from reedbed.catalog.folder import Folder
from reedbed.catalog.gate import Gate
from reedbed.catalog.lmdb_check import check_in_child
from reedbed.catalog.lmdb_rows import TREES, LmdbRows, engine_error, free_bytes, open_trees, used_pages
from reedbed.catalog.longkeys import LongKeys
from reedbed.catalog.sealed import seal
from reedbed.catalog.transaction import Changes, SnapshotReader, TransactionWriter
from reedbed.common import logs
from reedbed.common.errors import DeviceFailed, DiskFull, ForkedStore, ReedbedError, Unavailable
from reedbed.common.ids import Id
from reedbed.common.limits import CATALOG_RESERVE, GIB, MIB

MAP_FIRST: Final = GIB
MAP_ROOM: Final = 128 * MIB  # kept free in the map for one transaction
SLACK: Final = MIB  # of free pages, which every transaction takes and gives back
READERS_MAX: Final = 1024
_MAP_STEP_MAX: Final = 64 * GIB
_GROW_WAIT_S: Final = 1.0
_CLOSE_WAIT_S: Final = 10.0
_REDO_READ_BYTES: Final = 64 * MIB
_TRIM_ROWS: Final = 20_000  # of one transaction

_log = logs.get("catalog.engine")


class _Process:
    """`number` is another one in a process that was forked off; to ask the system each time would cost too much."""

    number = 0

    @classmethod
    def forked(cls) -> None:
        cls.number += 1


os.register_at_fork(after_in_child=_Process.forked)


class LmdbEngine:
    """An Engine in a folder (see folder.py for the files)."""

    def __init__(
        self,
        path: Path | str,
        *,
        cluster: Id | None = None,
        reserve: int = CATALOG_RESERVE,
        capacity: int = 0,
        map_first: int = MAP_FIRST,
        map_room: int = MAP_ROOM,
        check: bool | None = None,
        free: Callable[[Path], int] = free_bytes,
        restoring: bool = False,
    ) -> None:
        """Open the catalog in `path`, or make one there for `cluster`; without `cluster` any existing one is taken.

        reserve: bytes of the disk that only urgent transactions may use. capacity: bytes that the data file may have,
        the reserve among them, 0 for the whole disk. restoring: for a copy, which is not served before
        `finish_restoring`; what an earlier try left is thrown away. map_first, map_room: bytes of the map at
        first, and kept free in it for one transaction. check: whether all rows are read first, in a child process;
        by default after anything but an orderly close.

        Raises Unavailable (another process serves it; the pid is named), WrongCluster, NewerFormat, Corrupt,
        InvalidArgument (the folder holds something else), NotFound (nothing there and no cluster given), DiskFull.
        """
        self.path = Path(path)
        self._reserve = reserve
        self._capacity = capacity
        self._restoring = restoring
        self._room = map_room
        self._free = free
        self._process = _Process.number
        self._writing = threading.Lock()
        self._writing_thread: int | None = None
        self._gate = Gate()
        self._closed = False
        self._failed: str | None = None
        self._folder = Folder(self.path, cluster, restoring=restoring)
        self.cluster: Id = self._folder.cluster
        try:
            if self._folder.created:
                clean = self._folder.was_closed_in_order()
                if check or (check is None and not clean):
                    check_in_child(self.path)
            self._env = self._open_env(map_first)
            try:
                self._make_room()
                self._trees = open_trees(self._env)
                if not self._folder.created and not restoring:
                    self._env.sync(True)
                    self._folder.finish_creating()
            except BaseException:
                self._env.close()
                raise
        except lmdb.Error as error:
            self._folder.release()
            raise engine_error(error, self.path) from error
        except BaseException:
            self._folder.release()
            raise

    def _open_env(self, map_first: int) -> Any:
        return lmdb.open(
            str(self.path), map_size=map_first, max_readers=READERS_MAX, max_dbs=TREES, subdir=True, readahead=False
        )

    def _rows(self, txn: Any) -> LmdbRows:
        return LmdbRows(txn, self._trees, self.path)

    def read(self) -> AbstractContextManager[Reader]:
        return _Reading(self)

    @contextmanager
    def write(self, *, urgent: bool = False) -> Iterator[Writer]:
        with self._exclusive():
            self._check_writable()
            if not urgent:
                self._check_reserve()
            self._make_room()
            txn = self._begin_write()
            writer = TransactionWriter(LongKeys(self._rows(txn)))
            try:
                yield writer
                changes = writer.finish()
                if changes:
                    self._store_redo(txn, changes)
            except BaseException as error:
                self._abort(txn, error)
                raise
            finally:
                writer.end()
            if changes:
                self._commit(txn)
            else:
                txn.abort()

    def redo_position(self) -> int:
        with self._snapshot() as txn:
            return _position(self._rows(txn))

    def read_redo(self, after: int, limit: int) -> list[RedoRecord]:
        with self._snapshot() as txn:
            rows = self._rows(txn)
            redo.check_range(after, limit, _floor(rows), _position(rows))
            records: list[RedoRecord] = []
            size = 0
            found = rows.scan(redo.row_key(after + 1), redo.AFTER_REDO, False)
            for record in redo.decode(found, after):
                records.append(record)
                size += sum(len(key) + len(value or b"") for key, value in record.changes)
                if len(records) == limit or size >= _REDO_READ_BYTES:
                    break
            return records

    def trim_redo(self, upto: int) -> None:
        done = False
        while not done:
            with self._exclusive():
                self._check_writable()
                self._make_room()
                txn = self._begin_write()
                try:
                    done = _trim_step(self._rows(txn), upto)
                except BaseException as error:
                    self._abort(txn, error)
                    raise
                self._commit(txn)

    def load(self, changes: Iterable[tuple[bytes, bytes | None]], position: int) -> None:
        with self._exclusive():
            self._check_writable()
            self._make_room()
            txn = self._begin_write()
            try:
                rows = self._rows(txn)
                redo.check_load(position, _floor(rows), _position(rows))
                keys = LongKeys(rows)
                for key, value in changes:
                    if value is None:
                        keys.delete(key)
                    else:
                        keys.put(key, seal(key, value))
                rows.put(redo.FLOOR_ROW, redo.encode_floor(position))
            except BaseException as error:
                self._abort(txn, error)
                raise
            self._commit(txn)

    def finish_restoring(self) -> None:
        """The copy is complete: from now on it is served as any other catalog."""
        with self._exclusive():
            self._check_writable()
            self._env.sync(True)
            self._folder.finish_creating()
            self._restoring = False

    def usage(self) -> Usage:
        with self._snapshot() as txn:
            page = self._env.stat()["psize"]
            used = used_pages(self._env, txn, self._trees) * page
        return Usage(used, self._left(tight=True) - self._reserve)

    def close(self) -> None:
        with self._writing:
            if self._closed:
                return
            self._closed = True
            if self._process != _Process.number:
                return  # the environment is the other process's
            with self._gate.alone(_CLOSE_WAIT_S) as alone:
                if not alone:
                    _log.warning("the catalog's engine closes while readers are under way")
                self._env.close()
            try:
                if self._failed is None and not self._restoring:
                    self._folder.mark_closed_in_order()
            except OSError as error:
                # Without the mark the next start reads everything once: slower, nothing worse
                _log.warning("the catalog's folder cannot be marked as closed: %s", error)
            finally:
                self._folder.release()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        me = threading.get_ident()
        assert self._writing_thread != me, "a write transaction within a write transaction"
        with self._writing:
            self._writing_thread = me
            try:
                yield
            finally:
                self._writing_thread = None

    @contextmanager
    def _snapshot(self) -> Iterator[Any]:
        txn = self._begin_read()
        try:
            yield txn
        finally:
            self._end_read(txn)

    def _begin_read(self) -> Any:
        """A transaction that only reads, until `_end_read`."""
        self._gate.enter()
        try:
            self._check_open()
            return self._env.begin()
        except BaseException as error:
            self._gate.leave()
            if isinstance(error, lmdb.Error):
                raise engine_error(error, self.path) from error
            raise

    def _end_read(self, txn: Any) -> None:
        txn.abort()
        self._gate.leave()

    def _begin_write(self) -> Any:
        try:
            return self._env.begin(write=True)
        except lmdb.Error as error:
            raise self._fail(error) from error

    def _abort(self, txn: Any, error: BaseException) -> None:
        txn.abort()
        cause = error.__cause__
        if isinstance(cause, lmdb.MapFullError):
            self._room *= 2  # the next try finds more
        elif isinstance(error, DeviceFailed) and isinstance(cause, lmdb.Error):
            self._fail(cause)

    def _commit(self, txn: Any) -> None:
        try:
            txn.commit()
        except lmdb.MapFullError as error:
            self._room *= 2
            raise engine_error(error, self.path) from error
        except lmdb.Error as error:
            named = engine_error(error, self.path)
            if isinstance(named, DiskFull):
                named.maybe_applied = not self._still_writable()
            else:
                self._fail(error)
                named.maybe_applied = True
            raise named from error

    def _still_writable(self) -> bool:
        """False if LMDB itself gave up, which it does when its meta page could not be written."""
        try:
            self._env.begin(write=True).abort()
        except lmdb.Error as error:
            self._fail(error)
            return False
        return True

    def _fail(self, error: lmdb.Error) -> ReedbedError:
        """Take no more writes."""
        self._failed = str(error)
        _log.error("the catalog takes no more writes: %s", error)
        return engine_error(error, self.path)

    def _store_redo(self, txn: Any, changes: Changes) -> None:
        rows = self._rows(txn)
        for key, stored in redo.encode(_position(rows) + 1, changes):
            rows.append(key, stored)

    def _check_open(self) -> None:
        if self._process != _Process.number:
            raise ForkedStore("the catalog's engine was opened before this process was forked", where=str(self.path))
        if self._closed:
            raise Unavailable("the catalog's engine is closed", where=str(self.path), retryable=False)

    def _check_writable(self) -> None:
        self._check_open()
        if self._failed is not None:
            raise DeviceFailed(
                f"the catalog takes no more writes since one failed: {self._failed}",
                where=str(self.path),
                hint="Look at the disk, then start catalogd again",
                retryable=False,
            )

    def _check_reserve(self) -> None:
        left = self._left()
        if left < self._reserve:
            raise DiskFull(
                f"the catalog's disk has {left} bytes left and keeps {self._reserve} in reserve",
                where=str(self.path),
                hint="Remove objects or make room on that disk",
            )

    def _left(self, *, tight: bool = False) -> int:
        """Bytes that are left; free pages of the file are counted only if it matters, or with `tight`."""
        try:
            left = self._free(self.path)
        except OSError as error:
            raise DeviceFailed(
                f"the room on the catalog's disk cannot be read: {error.strerror}", where=str(self.path)
            ) from error
        page = self._env.stat()["psize"]
        pages = self._env.info()["last_pgno"] + 1
        if self._capacity:
            left = min(left, self._capacity - pages * page)
        if left >= self._reserve and not tight:
            return left
        with self._env.begin() as txn:
            again: int = (pages - used_pages(self._env, txn, self._trees)) * page
        return left + max(0, again - SLACK)

    def _make_room(self) -> None:
        """Grow the map until `_room` bytes of it are unused, unless readers do not let go for a second."""
        page = self._env.stat()["psize"]
        info = self._env.info()
        used = (info["last_pgno"] + 1) * page
        if info["map_size"] - used >= self._room:
            return
        grown = info["map_size"] + min(info["map_size"], _MAP_STEP_MAX)
        size = -(-max(grown, used + self._room) // MIB) * MIB
        with self._gate.alone(_GROW_WAIT_S) as alone:
            if not alone:
                _log.warning("the catalog's map could not grow to %d bytes, since readers are under way", size)
                return
            try:
                self._env.set_mapsize(size)
            except lmdb.Error as error:
                raise self._fail(error) from error


class _Reading:
    """One `read`. A class, since lookups are many and a generator costs more."""

    __slots__ = ("_engine", "_reader", "_txn")

    def __init__(self, engine: LmdbEngine) -> None:
        self._engine = engine

    def __enter__(self) -> Reader:
        self._txn = self._engine._begin_read()
        self._reader = SnapshotReader(LongKeys(self._engine._rows(self._txn)))
        return self._reader

    def __exit__(self, *_: object) -> None:
        self._reader.end()
        self._engine._end_read(self._txn)


def _floor(rows: LmdbRows) -> int:
    return redo.decode_floor(rows.get(redo.FLOOR_ROW))


def _position(rows: LmdbRows) -> int:
    for key, _ in rows.scan(redo.row_key(1), redo.AFTER_REDO, True):
        return redo.row_number(key)
    return _floor(rows)


def _trim_step(rows: LmdbRows, upto: int) -> bool:
    """Remove some of the records up to `upto`, whole ones only; True if none is left."""
    redo.check_trim(upto, _position(rows))
    doomed: list[bytes] = []
    last = _floor(rows)
    for key, _ in rows.scan(redo.row_key(1), redo.row_key(upto + 1), False):
        number = redo.row_number(key)
        if len(doomed) >= _TRIM_ROWS and number != last:
            break
        doomed.append(key)
        last = number
    for key in doomed:
        rows.delete(key)
    if doomed:
        rows.put(redo.FLOOR_ROW, redo.encode_floor(last))
    return last >= upto
