"""The engine's twin in memory, for tests and simulations: the same semantics, and a `crash`.

Invariants:
- A committed state is never changed: a transaction copies it at its first change, so that readers keep what they have.
- States and redo records change only with the writer's lock held, both in one assignment.
- What a crash leaves is the last finished transaction, or the one under way.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from reedbed.catalog.engine import Reader, RedoRecord, Usage, Writer
from reedbed.catalog.redo import check_load, check_range, check_trim
from reedbed.catalog.sealed import seal
from reedbed.catalog.transaction import SnapshotReader, TransactionWriter
from reedbed.common.errors import DeviceFailed, DiskFull, Unavailable


@dataclass(slots=True)
class _State:
    keys: list[bytes] = field(default_factory=list)
    rows: dict[bytes, bytes] = field(default_factory=dict)
    redo: list[RedoRecord] = field(default_factory=list)
    floor: int = 0  # newest trimmed record

    @property
    def position(self) -> int:
        return self.floor + len(self.redo)


class _MemoryRows:
    """Rows of a state, which is copied at the first change."""

    def __init__(self, state: _State) -> None:
        self.state = state
        self._own = False

    def _take(self) -> _State:
        if not self._own:
            old = self.state
            self.state = _State(old.keys.copy(), old.rows.copy(), old.redo, old.floor)
            self._own = True
        return self.state

    def get(self, key: bytes) -> bytes | None:
        return self.state.rows.get(key)

    def put(self, key: bytes, stored: bytes) -> None:
        state = self._take()
        if key not in state.rows:
            insort(state.keys, key)
        state.rows[key] = stored

    def delete(self, key: bytes) -> bool:
        if key not in self.state.rows:
            return False
        state = self._take()
        del state.rows[key]
        del state.keys[bisect_left(state.keys, key)]
        return True

    def store(self, rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        for key, stored in rows:
            if stored is None:
                self.delete(key)
            else:
                self.put(key, stored)

    def scan(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        state = self.state
        low = bisect_left(state.keys, start)
        high = len(state.keys) if end is None else bisect_left(state.keys, end)
        for index in range(high - 1, low - 1, -1) if reverse else range(low, high):
            key = state.keys[index]
            yield key, state.rows[key]


class MemoryEngine:
    """An Engine whose durable state is a Python object. `full` plays a disk that is down to its reserve.

    fail_syncs: the disk takes no more; the transaction under way then is there after a start, or is not. around: called
    with "begin" before and "end" after each change of the durable state.
    """

    def __init__(self) -> None:
        self.full = False
        self.fail_syncs = False
        self.around: Callable[[str], None] = lambda _: None
        self._failed = False
        self._lost: _State | None = None  # of the sync that failed
        self._state = _State()
        self._writing = threading.Lock()
        self._writing_thread: int | None = None
        self._closed = False

    @contextmanager
    def read(self) -> Iterator[Reader]:
        self._check_open()
        reader = SnapshotReader(_MemoryRows(self._state))
        try:
            yield reader
        finally:
            reader.end()

    @contextmanager
    def write(self, *, urgent: bool = False) -> Iterator[Writer]:
        assert self._writing_thread != threading.get_ident(), "a write transaction within a write transaction"
        with self._writing:
            self._writing_thread = threading.get_ident()
            try:
                with self._transaction(urgent) as writer:
                    yield writer
            finally:
                self._writing_thread = None

    @contextmanager
    def _transaction(self, urgent: bool) -> Iterator[Writer]:
        self._check_open()
        if self._failed:
            raise DeviceFailed("the catalog's disk has failed", where="memory")
        if self.full and not urgent:
            raise DiskFull("the catalog's disk is down to its reserve", where="memory")
        rows = _MemoryRows(self._state)
        writer = TransactionWriter(rows)
        try:
            yield writer
            changes = writer.finish()
        finally:
            writer.end()
        self._check_open()
        if changes:
            state = rows.state
            record = RedoRecord(state.position + 1, sorted(changes.items()))
            self._publish(_State(state.keys, state.rows, [*state.redo, record], state.floor))

    def _publish(self, state: _State) -> None:
        self.around("begin")
        if self.fail_syncs:
            self._failed, self._lost = True, state
            raise DeviceFailed("the catalog's disk has failed", where="memory", maybe_applied=True)
        self._state = state
        self.around("end")

    def redo_position(self) -> int:
        self._check_open()
        return self._state.position

    def read_redo(self, after: int, limit: int) -> list[RedoRecord]:
        self._check_open()
        state = self._state
        check_range(after, limit, state.floor, state.position)
        return state.redo[after - state.floor : after - state.floor + limit]

    def trim_redo(self, upto: int) -> None:
        with self._writing:
            self._check_open()
            state = self._state
            check_trim(upto, state.position)
            if upto > state.floor:
                self._publish(_State(state.keys, state.rows, state.redo[upto - state.floor :], upto))

    def load(self, changes: Iterable[tuple[bytes, bytes | None]], position: int) -> None:
        with self._writing:
            self._check_open()
            check_load(position, self._state.floor, self._state.position)
            rows = _MemoryRows(self._state)
            for key, value in changes:
                if value is None:
                    rows.delete(key)
                else:
                    rows.put(key, seal(key, value))
            self._state = _State(rows.state.keys, rows.state.rows, [], position)

    def usage(self) -> Usage:
        used = sum(len(key) + len(stored) for key, stored in self._state.rows.items())
        return Usage(used, -1 if self.full else 1 << 40)

    def close(self) -> None:
        with self._writing:
            self._closed = True

    def crash(self, *, keep_failed: bool = False) -> MemoryEngine:
        """Stop at once, losing transactions under way; returns the engine that starts again from what was committed.

        With `keep_failed` the transaction whose sync failed was written all the same.
        """
        self._closed = True
        again = MemoryEngine()
        again._state = self._lost if keep_failed and self._lost is not None else self._state
        return again

    def spoil(self, key: bytes, change: Callable[[bytes], bytes]) -> None:
        """Alter what lies under `key`, seal and all, as a bad disk would."""
        self._state.rows[key] = change(self._state.rows[key])

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the catalog's engine is closed", retryable=False)
