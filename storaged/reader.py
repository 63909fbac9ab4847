"""Reading shards: find the record, compare its head with what was asked, verify every block that is touched.

Invariants: no byte is returned whose block's sum was not right; a shard that is removed while it is read is unknown,
not damaged.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from reedbed.common.checksums import block_sum
from reedbed.common.errors import Corrupt, DamagedShard, InvalidArgument, ReedbedError, ResourceExhausted, UnknownShard
from reedbed.common.ids import format_id
from reedbed.common.limits import MIB
from reedbed.storaged import record
from reedbed.storaged.book import Book
from reedbed.storaged.calls import DataRow, ReadResult, ReadShard
from reedbed.storaged.damage import DamageLog
from reedbed.storaged.disk import NOT_THE_DISK
from reedbed.storaged.entries import LIVE, Entry, Position, shard_key
from reedbed.storaged.record import HEAD, Row, ShardHead
from reedbed.storaged.segments import SegmentPool

ROWS_OF_CALL: Final = 1 << 18  # of tables in one answer; one read may go beyond it alone
HEADS_BYTES: Final = 16 * MIB  # of heads and tables kept in memory, about
_ROW_BYTES: Final = 192  # that Python takes for a row and its place
_HEAD_BYTES: Final = 1024


class Opened(NamedTuple):
    """A record's head and tables, both verified; `starts` are the offsets of its blocks, and its end."""

    head: ShardHead
    tables: bytes
    rows: list[Row]
    starts: list[int]


class Reader:
    """Reads of one device. For many threads."""

    def __init__(self, book: Book, pool: SegmentPool, salt: bytes, damage: DamageLog, where: str) -> None:
        self._book = book
        self._pool = pool
        self._salt = salt
        self._damage = damage
        self._where = where
        self._lock = threading.Lock()
        self._heads: OrderedDict[Position, Opened] = OrderedDict()
        self._heads_bytes = 0
        self.served = 0  # reads that were asked for; only to tell whether there are any

    def read(self, asked: ReadShard) -> ReadResult:
        """UnknownShard, DamagedShard, or InvalidArgument for a range outside the shard."""
        return self._read(asked, self._book.get(shard_key(asked.extent, asked.index)))

    def read_many(self, asked: Sequence[ReadShard]) -> list[ReadResult | ReedbedError]:
        """One answer or error for each."""
        keys = [shard_key(one.extent, one.index) for one in asked]
        found: Sequence[Entry | ReedbedError | None]
        try:
            found = self._book.get_many(keys)
        except Corrupt:
            found = [self._row(key) for key in keys]  # one of them is bad
        answers: list[ReadResult | ReedbedError] = []
        rows = 0
        for one, entry in zip(asked, found, strict=True):
            try:
                if isinstance(entry, ReedbedError):
                    raise entry
                if rows > ROWS_OF_CALL:
                    raise ResourceExhausted("one call asks for too many rows", hint="Read less at once")
                answer = self._read(one, entry)
                rows += len(answer.rows) + sum(map(len, answer.data_rows.values()))
                answers.append(answer)
            except ReedbedError as error:
                answers.append(error)
        return answers

    def _row(self, key: bytes) -> Entry | ReedbedError | None:
        try:
            return self._book.get(key)
        except Corrupt as error:
            return error

    def tables(self, entry: Entry, extent: bytes, index: int) -> bytes:
        """The tables of a live shard's record, verified; Corrupt, or OSError."""
        return self._open(entry, extent, index).tables

    def _read(self, asked: ReadShard, entry: Entry | None) -> ReadResult:
        self.served += 1
        if entry is None or entry.state != LIVE:
            raise self._unknown(asked)
        if asked.offset < 0 or asked.length < 0 or asked.offset + asked.length > entry.payload:
            raise InvalidArgument(
                f"no bytes {asked.offset} to {asked.offset + asked.length} in a shard of {entry.payload}",
                where=self._name(asked),
            )
        if asked.data_rows_of and (asked.index < entry.k or not all(0 <= one < entry.k for one in asked.data_rows_of)):
            what = "only a parity shard knows rows of others, and only those of data shards"
            raise InvalidArgument(what, where=self._name(asked))
        block = -1
        try:
            opened = self._open(entry, asked.extent, asked.index)
            data, first_block, rows, block = self._range(asked, entry, opened)
        except (OSError, Corrupt) as error:
            if isinstance(error, OSError) and error.errno in NOT_THE_DISK:
                raise ResourceExhausted(f"cannot read: {error.strerror}", where=self._name(asked)) from error
            # a hole may have been punched under the read
            now = self._book.get(shard_key(asked.extent, asked.index))
            if now is None or now.state != LIVE:
                raise self._unknown(asked) from None
            if now.position != entry.position:
                return self._read(asked, now)
            raise self._damaged(asked, block, entry.position) from error
        if block >= 0:
            now = self._book.get(shard_key(asked.extent, asked.index))
            if now is None or now.state != LIVE:
                raise self._unknown(asked)
            if now.position != entry.position:
                return self._read(asked, now)
            raise self._damaged(asked, block, entry.position)
        begin, length = asked.rows_range or (asked.offset, asked.length)
        return ReadResult(
            asked.extent,
            asked.index,
            asked.offset,
            data,
            first_block,
            rows,
            entry.payload,
            entry.generation,
            {one: _overlapping(opened, one, begin, begin + length) for one in asked.data_rows_of},
        )

    def _range(self, asked: ReadShard, entry: Entry, opened: Opened) -> tuple[memoryview, int, list[Row], int]:
        """Bytes, number of the first block, rows, and the first bad block or -1."""
        if asked.length == 0:
            return memoryview(b""), 0, [], -1
        starts = opened.starts
        first = bisect_right(starts, asked.offset) - 1
        last = bisect_right(starts, asked.offset + asked.length - 1) - 1
        base, end = starts[first], starts[last + 1]
        with self._pool.use(entry.segment) as file:
            raw = memoryview(file.read(entry.offset + HEAD + entry.tables + base, end - base))
        extent, index = asked.extent, asked.index
        if len(raw) != end - base:
            return raw, first, [], first
        for block in range(first, last + 1):
            piece = raw[starts[block] - base : starts[block + 1] - base]
            if block_sum(extent, index, block, piece) != opened.rows[block][1]:
                return raw, first, [], block
        rows = opened.rows[first : last + 1]
        stop = asked.offset + asked.length
        for at, block in ((0, first), (-1, last)):
            low, high = max(starts[block], asked.offset), min(starts[block + 1], stop)
            if high - low != opened.rows[block][0]:
                rows[at] = (high - low, block_sum(extent, index, block, raw[low - base : high - base]))
        data = raw[asked.offset - base : stop - base]
        if 2 * len(data) < len(raw):
            data = memoryview(bytes(data))  # else a few bytes would keep their whole block
        return data, first, rows, -1

    def _open(self, entry: Entry, extent: bytes, index: int) -> Opened:
        position = entry.position
        with self._lock:
            kept = self._heads.get(position)
            if kept is not None:
                self._heads.move_to_end(position)
        if kept is None:
            kept = self._load(entry)
            with self._lock:
                if position not in self._heads:
                    self._heads[position] = kept
                    self._heads_bytes += _weight(kept)
                while self._heads_bytes > HEADS_BYTES and len(self._heads) > 1:
                    self._heads_bytes -= _weight(self._heads.popitem(last=False)[1])
        if kept.head.extent != extent or kept.head.index != index or kept.head.payload != entry.payload:
            raise Corrupt("the record is that of another shard")
        return kept

    def _load(self, entry: Entry) -> Opened:
        with self._pool.use(entry.segment) as file:
            raw = file.read(entry.offset, HEAD + entry.tables)
        head = record.parse_head(raw[:HEAD], record.place(self._salt, *entry.position))
        tables = raw[HEAD:]
        if not isinstance(head, ShardHead):
            raise Corrupt("the record is not that of a shard")
        record.check_tables(head, tables)
        rows = record.own_rows(head, tables)
        return Opened(head, tables, rows, list(accumulate((row[0] for row in rows), initial=0)))

    def _name(self, asked: ReadShard) -> str:
        return f"shard {asked.index} of extent {format_id(asked.extent)}, {self._where}"

    def _unknown(self, asked: ReadShard) -> UnknownShard:
        return UnknownShard("the device does not hold the shard", where=self._name(asked))

    def _damaged(self, asked: ReadShard, block: int, position: Position) -> DamagedShard:
        self._damage.shard(asked.extent, asked.index, block, position)
        what = "the record of the shard is damaged" if block < 0 else f"block {block} of the shard is damaged"
        return DamagedShard(what, where=self._name(asked), hint="Read it from the other shards")


def _weight(opened: Opened) -> int:
    return _HEAD_BYTES + len(opened.tables) + _ROW_BYTES * len(opened.rows)


def _overlapping(opened: Opened, shard: int, begin: int, end: int) -> list[DataRow]:
    found = []
    offset = 0
    for block, (length, sum_) in enumerate(record.data_rows(opened.head, opened.tables, shard)):
        if offset < end and offset + length > begin:
            found.append(DataRow(block, offset, length, sum_))
        offset += length
    return found
