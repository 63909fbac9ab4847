"""Readers and writers over plain rows, shared by the engines: sizes, seals, savepoints, and what changed.

A writer keeps what it is told in memory, and hands it to the rows when the transaction ends, in the order of keys and
each key once, however often it was set. A scan needs rows that are up to date: what waits is handed over before it.

Invariants of a TransactionWriter:
- `changes` holds exactly the keys whose rows were set or removed since the transaction began, with the last value.
- `_pending` holds the keys of which the rows do not say what `changes` says, or, for keys that are not among the
  changes any more, what `_before` says: what the row was before the first scan that handed the key over.
- `_journal` tells what `changes` said of each key before it was touched, oldest first; a mark is a place in it.
- After an error of the rows themselves nothing more is done, and `finish` raises that error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn, Protocol

from reedbed.catalog.engine import KEY_BYTES_MAX, VALUE_BYTES_MAX
from reedbed.catalog.sealed import seal, show_key, unseal
from reedbed.common.errors import InvalidArgument, ReedbedError, Unavailable

Changes = dict[bytes, bytes | None]

_ENDED: Final = "a transaction of the catalog was used after its end"


class Rows(Protocol):
    """Ordered rows within one transaction, with keys up to KEY_BYTES_MAX + 1 bytes and values as stored."""

    def get(self, key: bytes) -> bytes | None: ...

    def store(self, rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Set rows in the order of their keys, and remove those without a value, which need not be there."""

    def scan(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        """start <= key < end; rows may change only once the iterator is given up."""


class SnapshotReader:
    """A Reader over rows that do not change."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._shut = False

    def end(self) -> None:
        """Refuse all use from now on."""
        self._shut = True

    def get(self, key: bytes) -> bytes | None:
        if self._shut or not 0 < len(key) <= KEY_BYTES_MAX:
            self._refuse(key)
        stored = self._rows.get(key)
        return None if stored is None else unseal(key, stored)

    def scan(self, start: bytes, end: bytes | None = None, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        if self._shut:
            self._refuse()
        for key, stored in self._rows.scan(start, end, reverse):
            yield key, unseal(key, stored)
            if self._shut:
                self._refuse()

    def _refuse(self, key: bytes | None = None) -> NoReturn:
        """Raise what keeps this from being done."""
        if self._shut or key is None:
            raise Unavailable(_ENDED, retryable=False)
        raise InvalidArgument(
            f"a key of the catalog's engine has {len(key)} bytes instead of 1 to {KEY_BYTES_MAX}",
            where=f"key {show_key(key)}",
        )


class TransactionWriter(SnapshotReader):
    """A Writer over rows that the engine commits or drops as a whole."""

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows)
        self.changes: Changes = {}
        self._pending: set[bytes] = set()
        self._before: dict[bytes, bytes | None] = {}
        self._journal: list[tuple[bytes, bool, bytes | None]] = []
        self._open = 0
        self._broken: ReedbedError | None = None

    def finish(self) -> Changes:
        """Hand all to the rows: the changes to commit. Raises the error that broke the transaction, if one did."""
        if self._broken is not None:
            raise self._broken
        assert not self._open, "a savepoint is still open"
        self._hand_over()
        return self.changes

    def get(self, key: bytes) -> bytes | None:
        if self._shut:
            self._refuse()
        if key in self.changes:
            return self.changes[key]
        if not 0 < len(key) <= KEY_BYTES_MAX:
            self._refuse(key)
        stored = self._unchanged(key)
        return None if stored is None else unseal(key, stored)

    def scan(self, start: bytes, end: bytes | None = None, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        while True:
            if self._shut:
                self._refuse()
            if self._pending:
                self._hand_over_for_scan()
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
        if self._shut or not 0 < len(key) <= KEY_BYTES_MAX:
            self._refuse(key)
        if len(value) > VALUE_BYTES_MAX:
            raise InvalidArgument(
                f"a value of {len(value)} bytes is over the limit of {VALUE_BYTES_MAX}", where=f"key {show_key(key)}"
            )
        self._change(key, value)

    def delete(self, key: bytes) -> bool:
        if self._shut or not 0 < len(key) <= KEY_BYTES_MAX:
            self._refuse(key)
        there = self.changes[key] if key in self.changes else self._unchanged(key)
        if there is None:
            return False
        self._change(key, None)
        return True

    def mark(self) -> int:
        return len(self._journal)

    def undo_to(self, mark: int) -> None:
        if self._shut:
            return  # nothing of it is committed
        journal, changes = self._journal, self.changes
        while len(journal) > mark:
            key, changed, value = journal.pop()
            if changed:
                changes[key] = value
            else:
                changes.pop(key, None)
            self._pending.add(key)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        if self._shut:
            self._refuse()
        mark = self.mark()
        self._open += 1
        try:
            yield
        except BaseException:
            self.undo_to(mark)
            raise
        finally:
            self._open -= 1

    def _refuse(self, key: bytes | None = None) -> NoReturn:
        if self._broken is not None:
            raise self._broken
        super()._refuse(key)

    def _unchanged(self, key: bytes) -> bytes | None:
        """The row of a key that is not among the changes."""
        return self._before[key] if key in self._before else self._rows.get(key)

    def _change(self, key: bytes, value: bytes | None) -> None:
        changes = self.changes
        self._journal.append((key, key in changes, changes.get(key)))
        changes[key] = value
        self._pending.add(key)

    def _hand_over_for_scan(self) -> None:
        """What is handed over before the end may be taken back yet: so what was there before is kept."""
        try:
            for key in self._pending:
                if key not in self._before:
                    self._before[key] = self._rows.get(key)
        except ReedbedError as error:
            self._break(error)
        self._hand_over()

    def _hand_over(self) -> None:
        changes, before = self.changes, self._before
        rows: list[tuple[bytes, bytes | None]] = []
        for key in sorted(self._pending):
            if key in changes:
                value = changes[key]
                rows.append((key, None if value is None else seal(key, value)))
            elif key in before:
                rows.append((key, before[key]))
        try:
            self._rows.store(rows)
        except ReedbedError as error:
            self._break(error)
        self._pending.clear()

    def _break(self, error: ReedbedError) -> NoReturn:
        self._broken = error
        self._shut = True
        raise error
