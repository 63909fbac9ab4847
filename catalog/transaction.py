"""Readers and writers over plain rows, shared by the engines: sizes, seals, savepoints, and what changed.

Invariants of a TransactionWriter:
- `changes` holds exactly the keys whose rows were set or removed since the transaction began, with the last value.
- `_undo` holds one table per open savepoint: what each key touched since then was before, in rows and in `changes`.
- After an error of the rows themselves nothing more is done, and `finish` raises that error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from reedbed.catalog.engine import KEY_BYTES_MAX, VALUE_BYTES_MAX
from reedbed.catalog.sealed import seal, show_key, unseal
from reedbed.common.errors import InvalidArgument, ReedbedError, Unavailable

Changes = dict[bytes, bytes | None]
_Before = tuple[bytes | None, bool, bytes | None]  # stored row, was in changes, its value there

_ENDED: Final = "a transaction of the catalog was used after its end"


class Rows(Protocol):
    """Ordered rows within one transaction, with keys up to KEY_BYTES_MAX + 1 bytes and values as stored."""

    def get(self, key: bytes) -> bytes | None: ...

    def put(self, key: bytes, stored: bytes) -> None: ...

    def delete(self, key: bytes) -> bool: ...

    def scan(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        """start <= key < end; rows may change only once the iterator is given up."""


class SnapshotReader:
    """A Reader over rows that do not change."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._ended = False

    def end(self) -> None:
        """Refuse all use from now on."""
        self._ended = True

    def _check_open(self) -> None:
        if self._ended:
            raise Unavailable(_ENDED, retryable=False)

    def get(self, key: bytes) -> bytes | None:
        self._check_open()
        _check_key(key)
        stored = self._rows.get(key)
        return None if stored is None else unseal(key, stored)

    def scan(self, start: bytes, end: bytes | None = None, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        self._check_open()
        for key, stored in self._rows.scan(start, end, reverse):
            yield key, unseal(key, stored)
            self._check_open()


class TransactionWriter(SnapshotReader):
    """A Writer over rows that the engine commits or drops as a whole."""

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows)
        self.changes: Changes = {}
        self._undo: list[dict[bytes, _Before]] = []
        self._broken: ReedbedError | None = None

    def finish(self) -> Changes:
        """The changes to commit; raises the error that broke the transaction, if one did."""
        if self._broken is not None:
            raise self._broken
        assert not self._undo, "a savepoint is still open"
        return self.changes

    def _check_open(self) -> None:
        super()._check_open()
        if self._broken is not None:
            raise self._broken

    def scan(self, start: bytes, end: bytes | None = None, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        while True:
            self._check_open()
            row = next(self._rows.scan(start, end, reverse), None)
            if row is None:
                return
            key, stored = row
            yield key, unseal(key, stored)
            if reverse:
                end = key
            else:
                start = key + b"\0"

    def put(self, key: bytes, value: bytes) -> None:
        self._check_open()
        _check_key(key)
        if len(value) > VALUE_BYTES_MAX:
            raise InvalidArgument(
                f"a value of {len(value)} bytes is over the limit of {VALUE_BYTES_MAX}", where=f"key {show_key(key)}"
            )
        self._remember(key)
        self._put(key, seal(key, value))
        self.changes[key] = value

    def delete(self, key: bytes) -> bool:
        self._check_open()
        _check_key(key)
        self._remember(key)
        if not self._delete(key):
            return False
        self.changes[key] = None
        return True

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        self._check_open()
        before: dict[bytes, _Before] = {}
        self._undo.append(before)
        try:
            yield
        except BaseException:
            top = self._undo.pop()
            assert top is before, "savepoints must end in the reverse order of their begin"
            if self._broken is None and not self._ended:
                self._restore(before)
            raise
        top = self._undo.pop()
        assert top is before, "savepoints must end in the reverse order of their begin"
        if self._undo:
            for key, row in before.items():
                self._undo[-1].setdefault(key, row)

    def _remember(self, key: bytes) -> None:
        if self._undo and key not in self._undo[-1]:
            self._undo[-1][key] = (self._rows.get(key), key in self.changes, self.changes.get(key))

    def _restore(self, before: dict[bytes, _Before]) -> None:
        for key, (stored, changed, value) in before.items():
            if stored is None:
                self._delete(key)
            else:
                self._put(key, stored)
            if changed:
                self.changes[key] = value
            else:
                self.changes.pop(key, None)

    def _put(self, key: bytes, stored: bytes) -> None:
        try:
            self._rows.put(key, stored)
        except ReedbedError as error:
            self._broken = error
            raise

    def _delete(self, key: bytes) -> bool:
        try:
            return self._rows.delete(key)
        except ReedbedError as error:
            self._broken = error
            raise


def _check_key(key: bytes) -> None:
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise InvalidArgument(
            f"a key of the catalog's engine has {len(key)} bytes instead of 1 to {KEY_BYTES_MAX}",
            where=f"key {show_key(key)}",
        )
