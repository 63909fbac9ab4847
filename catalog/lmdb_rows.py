"""Rows of one LMDB transaction, and LMDB's errors by their names here.

Rows lie in many trees (LMDB's named databases), chosen by how their keys begin:

    0x10 and the first byte of the key     tree "k00" to "kff"
    0x11 (nodes of long keys)              tree "n"
    0xf0 (redo)                            tree "r"

One tree would do, but LMDB fills pages to the brim only where a tree grows at its very end: each table of the catalog
that grows upward, such as the log, gets that by a first byte of its own. The order of trees is the order of rows.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

import lmdb

from reedbed.catalog.longkeys import NODE_TABLE, ROOT_TABLE
from reedbed.catalog.redo import REDO_TABLE
from reedbed.common.errors import Corrupt, DeviceFailed, DiskFull, ReedbedError, ResourceExhausted
from reedbed.common.limits import KIB

_DAMAGE: Final = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
)
_LIMIT: Final = (lmdb.ReadersFullError, lmdb.TxnFullError, lmdb.CursorFullError, lmdb.PageFullError, lmdb.MemoryError)


def free_bytes(path: Path) -> int:
    """Room on the disk of `path` that this process may use. OSError if the disk does not tell."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def engine_error(error: lmdb.Error, path: Path) -> ReedbedError:
    """The named error for what LMDB raised on the environment in `path`."""
    where = str(path)
    if isinstance(error, lmdb.MapFullError):
        return DiskFull(
            "the transaction is larger than the room in the catalog's map",
            where=where,
            hint="The map grows before the next transaction",
            retryable=True,
        )
    if isinstance(error, lmdb.DiskError) or _ran_out_of_room(error, path):
        return DiskFull("the catalog's disk is full", where=where, hint="Make room on that disk")
    if isinstance(error, _DAMAGE):
        return Corrupt(
            f"the catalog's data file is damaged: {error}",
            where=where,
            hint="Rebuild the catalog from its copy: reedbed catalog rebuild",
        )
    if isinstance(error, _LIMIT):
        return ResourceExhausted(f"a limit of the catalog's engine is reached: {error}", where=where)
    return DeviceFailed(
        f"the catalog's disk failed: {error}",
        where=where,
        hint="Look at the disk, then start catalogd again",
        retryable=False,
    )


_STARTS: Final = [*(ROOT_TABLE + bytes([first]) for first in range(256)), NODE_TABLE, REDO_TABLE]
_NAMES: Final = [*(b"k%02x" % first for first in range(256)), b"n", b"r"]
_ROOT: Final = ROOT_TABLE[0]
_NODES: Final = 256
_REDO: Final = 257
_FULL_BELOW: Final = 256 * KIB  # the part of the write that went through has taken what was left
TREES: Final = len(_NAMES)


def open_trees(env: Any, *, create: bool = True) -> list[Any]:
    """All trees of an environment, in order."""
    if not create:
        return [env.open_db(name, create=False) for name in _NAMES]
    with env.begin(write=True) as txn:
        return [env.open_db(name, txn=txn) for name in _NAMES]


def used_pages(env: Any, txn: Any, trees: list[Any]) -> int:
    """Pages that hold something; the others of the file are used again before it grows."""
    last: int = env.info()["last_pgno"]
    stats = [env.stat(), *(txn.stat(tree) for tree in trees)]
    held: int = 2 + sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
    # the list of free pages is a tree that LMDB does not tell of: 8 bytes for each
    return min(last + 1, held + (last + 1 - held) // 500)


def _tree(row: bytes) -> int:
    """Index of the tree that holds `row`, or, for a bound between tables, of the first one above it."""
    table = row[0] if row else 0
    if table == _ROOT:
        return row[1] if len(row) > 1 else 0
    if table < _ROOT:
        return 0
    return _NODES if row[:1] == NODE_TABLE else _REDO


def _ran_out_of_room(error: lmdb.Error, path: Path) -> bool:
    """Whether an I/O error is LMDB's word for a write that the disk took only in part, having no room for the rest."""
    if os.strerror(errno.EIO) not in str(error):
        return False
    try:
        return free_bytes(path) < _FULL_BELOW
    except OSError:
        return False


class LmdbRows:
    """`longkeys.ShortRows` of one transaction."""

    def __init__(self, txn: Any, trees: list[Any], path: Path) -> None:
        self._txn = txn
        self._trees = trees
        self._path = path

    def get(self, key: bytes) -> bytes | None:
        tree = key[1] if len(key) > 1 and key[0] == _ROOT else _tree(key)
        try:
            stored: bytes | None = self._txn.get(key, None, self._trees[tree])
        except lmdb.Error as error:
            raise engine_error(error, self._path) from error
        return stored

    def put(self, key: bytes, stored: bytes) -> None:
        try:
            self._txn.put(key, stored, db=self._trees[_tree(key)])
        except lmdb.Error as error:
            raise engine_error(error, self._path) from error

    def store(self, rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Set rows, and remove those without a value."""
        put, delete, trees = self._txn.put, self._txn.delete, self._trees
        try:
            for key, stored in rows:
                tree = trees[key[1] if len(key) > 1 and key[0] == _ROOT else _tree(key)]
                if stored is None:
                    delete(key, b"", tree)
                else:
                    put(key, stored, True, True, False, tree)
        except lmdb.Error as error:
            raise engine_error(error, self._path) from error

    def append(self, key: bytes, stored: bytes) -> None:
        """`put` of a key above all others, which fills pages to the brim."""
        try:
            self._txn.put(key, stored, append=True, db=self._trees[_tree(key)])
        except lmdb.Error as error:
            raise engine_error(error, self._path) from error

    def delete(self, key: bytes) -> bool:
        try:
            return bool(self._txn.delete(key, db=self._trees[_tree(key)]))
        except lmdb.Error as error:
            raise engine_error(error, self._path) from error

    def scan(self, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        if start >= end:
            return iter(())
        first, last = _tree(start), _tree(end)
        if last > first and _STARTS[last] >= end:
            last -= 1
        walk = self._down if reverse else self._up
        if first == last:
            return walk(first, start, end)
        trees = range(last, first - 1, -1) if reverse else range(first, last + 1)
        return chain.from_iterable(walk(tree, start, end) for tree in trees)

    def _up(self, tree: int, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            cursor = self._txn.cursor(self._trees[tree])
            if cursor.set_range(start):
                for row in cursor.iternext():
                    if row[0] >= end:
                        return
                    yield row
        except lmdb.Error as error:
            raise engine_error(error, self._path) from error

    def _down(self, tree: int, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            cursor = self._txn.cursor(self._trees[tree])
            if cursor.prev() if cursor.set_range(end) else cursor.last():
                for row in cursor.iterprev():
                    if row[0] < start:
                        return
                    yield row
        except lmdb.Error as error:
            raise engine_error(error, self._path) from error
