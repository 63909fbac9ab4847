"""One change of the namespace under way within a write transaction: log entries, counters, and the way back.

Invariants:
- Log numbers are gapless: the state row and the entries of one Edit reach the writer together, or neither does.
- The time of an entry is never below that of the entry before, whatever the machine's clock does.
- Only one Edit at a time is open on a writer; `flush` writes what it holds in memory before the next one begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from reedbed.catalog import keys, records
from reedbed.catalog.engine import Reader, Writer
from reedbed.catalog.needs import Needs
from reedbed.catalog.records import CountersRow, LogRow, LogStateRow, SparseRow
from reedbed.common.ids import Id


class Edit:
    """Made by `editing`. `term` and `end` are those of the newest log entry."""

    def __init__(self, writer: Writer, needs: Needs) -> None:
        self.writer = writer
        self.needs = needs
        self._stored = log_state(writer)
        self.log = self._stored
        self._tally: Counter[str] = Counter()
        self._sparse: Counter[tuple[str, int]] = Counter()

    def append(
        self, kind: int, id_: bytes, bucket: str, key: bytes = b"", version: bytes = b"", size: int = 0
    ) -> LogRow:
        """Write the next log entry; its number is `self.log.seq` afterwards."""
        time_us = max(int(self.needs.clock.wall() * 1e6), self.log.time_us)
        row = LogRow(
            term=self.needs.leases.term(),
            time_us=time_us,
            kind=kind,
            id=id_,
            bucket=bucket,
            key=key,
            version=b"" if version == id_ else version,
            size=size,
        )
        seq = self.log.seq + 1
        self.writer.put(keys.log(seq), records.LOG.encode(row))
        self.log = msgspec.structs.replace(self.log, term=row.term, seq=seq, time_us=time_us)
        return row

    def trimmed(self, term: int, seq: int) -> None:
        """The floor of the log is this position from now on."""
        self.log = msgspec.structs.replace(self.log, floor_term=term, floor_seq=seq)

    def count(self, **deltas: int) -> None:
        """Add to counters of CountersRow."""
        self._tally.update(deltas)

    def count_sparse(self, fill: int, extents: int, size: int) -> None:
        """So many extents more of that fill, with so many bytes more beyond what their live ones are worth."""
        self._sparse["extents", fill] += extents
        self._sparse["bytes", fill] += size

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """The writer's savepoint, which also takes back log numbers and counts."""
        log, tally, sparse = self.log, self._tally.copy(), self._sparse.copy()
        try:
            with self.writer.savepoint():
                yield
        except BaseException:
            self.log, self._tally, self._sparse = log, tally, sparse
            raise

    def flush(self) -> None:
        """Write what is held in memory."""
        if self.log != self._stored:
            self.writer.put(keys.LOG_STATE, records.LOG_STATE.encode(self.log))
            self._stored = self.log
        if any(self._tally.values()):
            now = msgspec.structs.asdict(counters(self.writer))
            row = CountersRow(**{name: value + self._tally[name] for name, value in now.items()})
            assert min(msgspec.structs.astuple(row)) >= 0, row
            self.writer.put(keys.COUNTERS, records.COUNTERS.encode(row))
        self._tally.clear()
        if any(self._sparse.values()):
            known = sparse_counts(self.writer)
            extents = tuple(count + self._sparse["extents", at] for at, count in enumerate(known.extents, 1))
            size = tuple(count + self._sparse["bytes", at] for at, count in enumerate(known.bytes, 1))
            assert min(*extents, *size) >= 0, (extents, size)
            self.writer.put(keys.SPARSE_COUNTS, records.SPARSE.encode(SparseRow(extents, size)))
        self._sparse.clear()

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
