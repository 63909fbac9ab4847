"""The index of a device in memory, for simulations: the same semantics, and a `crash`.

Invariants: a state is never changed, a transaction makes the next one, so that readers keep what they have. What a
crash leaves is the state of the last transaction that finished, or of the one under way.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reedbed.common.checksums import crc32c
from reedbed.storaged import entries
from reedbed.storaged.index import Index, RowReader, RowWriter


class _Table:
    __slots__ = ("keys", "rows")

    def __init__(self, keys: list[bytes], rows: dict[bytes, bytes]) -> None:
        self.keys = keys
        self.rows = rows

    def copy(self) -> _Table:
        return _Table(self.keys.copy(), self.rows.copy())


_State = dict[str, _Table]


def _empty() -> _State:
    return {name: _Table([], {}) for name in entries.TABLES}


class _Transaction:
    """A RowWriter, or a RowReader, of a state whose tables it copies at their first change."""

    def __init__(self, state: _State) -> None:
        self.state = dict(state)
        self._own: set[str] = set()

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.state[table].rows.get(key)

    def range(self, table: str, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        of = self.state[table]
        low = bisect_left(of.keys, start)
        high = bisect_left(of.keys, stop) if stop else len(of.keys)
        return [(key, of.rows[key]) for key in of.keys[low : min(high, low + limit)]]

    def last(self, table: str) -> bytes:
        keys = self.state[table].keys
        return keys[-1] if keys else b""

    def put(self, table: str, key: bytes, value: bytes) -> None:
        of = self._changing(table)
        if key not in of.rows:
            insort(of.keys, key)
        of.rows[key] = value

    def delete(self, table: str, key: bytes) -> None:
        if key in self.state[table].rows:
            of = self._changing(table)
            del of.rows[key]
            del of.keys[bisect_left(of.keys, key)]

    def _changing(self, table: str) -> _Table:
        if table not in self._own:
            self.state[table] = self.state[table].copy()
            self._own.add(table)
        return self.state[table]


class MemoryHome:
    """An IndexHome, and the medium of its index. `check_disk` is called with "index begin" and "index end" around
    each commit, and may raise OSError, as a failing, full or vanishing disk does; after the end it is durable."""

    def __init__(self, check_disk: Callable[[str], None] = lambda _: None) -> None:
        self.check_disk = check_disk
        self._state: _State | None = None
        self.begun = False  # a transaction has ended since it was made

    def exists(self) -> bool:
        return self._state is not None

    def check(self) -> str:
        return ""

    def open(self) -> Index:
        self.check_disk("index open")
        if self._state is None:
            self._state = _empty()
        return Index(_MemoryRows(self))

    def remove(self) -> None:
        self._state, self.begun = None, False

    def sum(self) -> tuple[int, int]:
        if self._state is None:
            return 0, 0
        size = value = 0
        for name in entries.TABLES:
            for key in self._state[name].keys:
                for piece in (key, self._state[name].rows[key]):
                    size += len(piece)
                    value = crc32c(piece, value)
        return size, value

    def crash(self, check_disk: Callable[[str], None] = lambda _: None) -> MemoryHome:
        """What is there after a power cut."""
        after = MemoryHome(check_disk)
        after._state, after.begun = self._state, self.begun
        return after

    @property
    def state(self) -> _State:
        assert self._state is not None, "the index is not open"
        return self._state

    def become(self, state: _State) -> None:
        self.check_disk("index begin")
        self._state, self.begun = state, True
        self.check_disk("index end")


class _MemoryRows:
    def __init__(self, home: MemoryHome) -> None:
        self._home = home

    @contextmanager
    def read(self) -> Iterator[RowReader]:
        yield _Transaction(self._home.state)

    def write(self, change: Callable[[RowWriter], None]) -> None:
        transaction = _Transaction(self._home.state)
        change(transaction)
        self._home.become(transaction.state)

    def close(self) -> None:
        """Nothing is held."""
