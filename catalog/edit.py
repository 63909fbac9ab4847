"""One change of the namespace under way within a write transaction: log entries, counters, and the way back.

Invariants:
- Log numbers are gapless: the state row and the entries of one Edit reach the writer together, or neither does.
- The time of an entry is never below that of the entry before, whatever the machine's clock does.
- Only one Edit at a time is open on a writer; `flush` writes what it holds in memory before the next one begins.
- The rows of extents that the Edit names or lets go wait in `waiting` and are written once, with all that follows from
  them, however many of its operations touch them. Whoever takes `writer` finds them written. `rows` is the same writer
  without that, for whoever looks at none of the tables of extents (extents.py, lacks.py, sparse.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from reedbed.catalog import keys, records
from reedbed.catalog.engine import Reader, Writer
from reedbed.catalog.needs import Needs
from reedbed.catalog.records import CountersRow, ExtentRow, LogRow, LogStateRow, SparseRow
from reedbed.common.ids import Id

if TYPE_CHECKING:
    from reedbed.catalog.buckets import Bucket

# The row that the writer has, and the one that it is to get
Waiting = tuple[ExtentRow | None, ExtentRow]
Settle = Callable[["Edit", Id, ExtentRow | None, ExtentRow], None]
Mark = tuple[int, int, LogStateRow, dict[str, int], dict[int, int], dict[int, int]]


class Edit:
    """Made by `editing`. `term` and `end` are those of the newest log entry."""

    def __init__(self, writer: Writer, needs: Needs) -> None:
        self.rows: Final = writer
        self.needs = needs
        self._stored = log_state(writer)
        self.log = self._stored
        self._tally: dict[str, int] = {}
        self._sparse: dict[int, int] = {}
        self._wasted: dict[int, int] = {}
        self.waiting: dict[Id, Waiting] = {}
        self._journal: list[tuple[Id, Waiting | None]] = []
        self._settle: Settle | None = None
        self.buckets: dict[str, Bucket] = {}  # that were looked up (buckets.of)

    @property
    def writer(self) -> Writer:
        """The transaction, with everything written that this Edit has done so far."""
        if self.waiting:
            self.settle()
        return self.rows

    def wait(self, extent_id: Id, stored: ExtentRow | None, row: ExtentRow, settle: Settle) -> None:
        """Have `settle` write this row of an extent in place of `stored`, which the writer has, later and once."""
        self._journal.append((extent_id, self.waiting.get(extent_id)))
        self.waiting[extent_id] = (stored, row)
        self._settle = settle

    def settle(self) -> None:
        """Write the rows of extents that wait."""
        while self.waiting:
            extent_id, waiting = self.waiting.popitem()
            self._journal.append((extent_id, waiting))
            assert self._settle is not None
            self._settle(self, extent_id, *waiting)

    def append(
        self, kind: int, id_: bytes, bucket: str, key: bytes = b"", version: bytes = b"", size: int = 0
    ) -> LogRow:
        """Write the next log entry; its number is `self.log.seq` afterwards."""
        log = self.log
        time_us = max(int(self.needs.clock.wall() * 1e6), log.time_us)
        term, seq = self.needs.leases.term(), log.seq + 1
        row = LogRow(term, time_us, kind, id_, bucket, key, b"" if version == id_ else version, size)
        self.rows.put(keys.log(seq), records.LOG.encode(row))
        self.log = LogStateRow(term, seq, log.floor_term, log.floor_seq, time_us)
        return row

    def trimmed(self, term: int, seq: int) -> None:
        """The floor of the log is this position from now on."""
        self.log = msgspec.structs.replace(self.log, floor_term=term, floor_seq=seq)

    def count(self, **deltas: int) -> None:
        """Add to counters of CountersRow."""
        tally = self._tally
        for name, delta in deltas.items():
            tally[name] = tally.get(name, 0) + delta

    def count_sparse(self, fill: int, extents: int, size: int) -> None:
        """So many extents more of that fill, with so many bytes more beyond what their live ones are worth."""
        self._sparse[fill] = self._sparse.get(fill, 0) + extents
        self._wasted[fill] = self._wasted.get(fill, 0) + size

    def mark(self) -> Mark:
        """Where the Edit stands."""
        counts = self._tally.copy(), self._sparse.copy(), self._wasted.copy()
        return self.rows.mark(), len(self._journal), self.log, *counts

    def undo_to(self, mark: Mark) -> None:
        """Undo everything since `mark` said this, log numbers and counts too."""
        rows, length, self.log, self._tally, self._sparse, self._wasted = mark
        while len(self._journal) > length:
            extent_id, before = self._journal.pop()
            if before is None:
                self.waiting.pop(extent_id, None)
            else:
                self.waiting[extent_id] = before
        self.rows.undo_to(rows)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """The writer's savepoint, which also takes back log numbers, counts, and rows that wait."""
        mark = self.mark()
        try:
            yield
        except BaseException:
            self.undo_to(mark)
            raise

    def flush(self) -> None:
        """Write what is held in memory."""
        self.settle()
        if self.log != self._stored:
            self.rows.put(keys.LOG_STATE, records.LOG_STATE.encode(self.log))
            self._stored = self.log
        if any(self._tally.values()):
            more = self._tally
            now = msgspec.structs.astuple(counters(self.rows))
            counts = [count + more.get(name, 0) for name, count in zip(CountersRow.__struct_fields__, now, strict=True)]
            assert min(counts) >= 0, counts
            self.rows.put(keys.COUNTERS, records.COUNTERS.encode(CountersRow(*counts)))
        self._tally.clear()
        if any(self._sparse.values()) or any(self._wasted.values()):
            known, sparse, wasted = sparse_counts(self.rows), self._sparse, self._wasted
            extents = tuple([count + sparse.get(at, 0) for at, count in enumerate(known.extents, 1)])
            size = tuple([count + wasted.get(at, 0) for at, count in enumerate(known.bytes, 1)])
            assert min(*extents, *size) >= 0, (extents, size)
            self.rows.put(keys.SPARSE_COUNTS, records.SPARSE.encode(SparseRow(extents, size)))
        self._sparse.clear()
        self._wasted.clear()

    def below_horizon(self, id_: Id) -> bool:
        return id_ < self.needs.leases.horizon()


@contextmanager
def editing(writer: Writer, needs: Needs) -> Iterator[Edit]:
    """An Edit whose counters and log state are written on normal exit."""
    edit = Edit(writer, needs)
    yield edit
    edit.flush()


def log_state(reader: Reader) -> LogStateRow:
    """Where the log ends and begins."""
    data = reader.get(keys.LOG_STATE)
    return LogStateRow() if data is None else records.LOG_STATE.decode(data, keys.LOG_STATE)


def counters(reader: Reader) -> CountersRow:
    """The counters as of the last finished Edit."""
    data = reader.get(keys.COUNTERS)
    return CountersRow() if data is None else records.COUNTERS.decode(data, keys.COUNTERS)


def sparse_counts(reader: Reader) -> SparseRow:
    """The counts of sparse extents as of the last finished Edit."""
    data = reader.get(keys.SPARSE_COUNTS)
    return SparseRow() if data is None else records.SPARSE.decode(data, keys.SPARSE_COUNTS)


def status(reader: Reader) -> dict[str, int]:
    """Counters and log positions for status reports."""
    log = log_state(reader)
    return {
        **msgspec.structs.asdict(counters(reader)),
        "log_term": log.term,
        "log_seq": log.seq,
        "log_floor_seq": log.floor_seq,
    }
