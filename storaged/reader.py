"""Reading shards: find the record, compare its head with what was asked, verify every block that is touched.

Invariants
- No byte is returned whose block's sum was not right.
- A shard that is removed while it is read is unknown, not damaged.
- `read_now` waits for no disk: whatever is not in memory, row, head or bytes, is left to the others.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from reedbed.common.checksums import Buffer, block_sum, block_sums
from reedbed.common.errors import Corrupt, DamagedShard, InvalidArgument, ReedbedError, ResourceExhausted, UnknownShard
from reedbed.common.ids import format_id
from reedbed.common.limits import KIB, MIB
from reedbed.extents.blocks import ROW_BYTES, pack_table, split_table, unpack_table
from reedbed.storaged import record
from reedbed.storaged.book import Book
from reedbed.storaged.calls import ReadResult, ReadShard, Rows
from reedbed.storaged.damage import DamageLog
from reedbed.storaged.disk import NOT_THE_DISK, Disk
from reedbed.storaged.entries import LIVE, Entry, Position, shard_key
from reedbed.storaged.record import HEAD, ShardHead
from reedbed.storaged.segments import SegmentPool

ROWS_OF_CALL: Final = 1 << 18  # of tables in one answer; one read may go beyond it alone
NOW_TOUCHED: Final = 2 * MIB  # of blocks that one `read_now` goes through: a range of one byte costs its whole block
HEADS_BYTES: Final = 16 * MIB  # of heads and tables kept in memory, about
PIECE: Final = 512 * KIB  # that is read and summed at once, so that it is summed while it is in the processor's cache
_ROW_BYTES: Final = 128  # that Python takes for a row and its place
_HEAD_BYTES: Final = 1024


class Opened(NamedTuple):
    """A record's head and tables, both verified. Of its blocks: the table as it travels, lengths, sums, and where they
    begin, with their end."""

    head: ShardHead
    tables: bytes
    table: bytes
    lengths: tuple[int, ...]
    sums: tuple[int, ...]
    starts: list[int]


class _WouldWait(Exception):
    """What is asked for is not in memory."""


class Reader:
    """Reads of one device. For many threads."""

    def __init__(self, book: Book, pool: SegmentPool, salt: bytes, damage: DamageLog, disk: Disk) -> None:
        self._book = book
        self._pool = pool
        self._salt = salt
        self._damage = damage
        self._where = str(disk.root)
        self._in_memory = disk.in_memory
        self._lock = threading.Lock()
        self._heads: OrderedDict[Position, Opened] = OrderedDict()
        self._heads_bytes = 0
        self._now_left = 0  # bytes of blocks that the present `read_now` may still go through
        self.served = 0  # reads that were asked for; only to tell whether there are any

    def read(self, asked: ReadShard) -> ReadResult:
        """UnknownShard, DamagedShard, or InvalidArgument for a range outside the shard."""
        return self._read(asked, self._book.get(shard_key(asked.extent, asked.index)), now=False)

    def read_many(self, asked: Sequence[ReadShard]) -> list[ReadResult | ReedbedError]:
        """One answer or error for each."""
        return self._read_all(asked, self._find([shard_key(one.extent, one.index) for one in asked]), now=False)

    def read_now(self, asked: Sequence[ReadShard]) -> list[ReadResult | ReedbedError] | None:
        """As `read_many` of what is in memory; None if any of it is not, or cannot be told to be."""
        keys = [shard_key(one.extent, one.index) for one in asked]
        found: Sequence[Entry | ReedbedError | None] | None = self._book.known(keys)
        if found is None and self._in_memory:
            found = self._find(keys)
        if found is None:
            return None
        self._now_left = NOW_TOUCHED
        try:
            return self._read_all(asked, found, now=True)
        except _WouldWait:
            return None

    def _find(self, keys: Sequence[bytes]) -> Sequence[Entry | ReedbedError | None]:
        try:
            return self._book.get_many(keys)
        except Corrupt:
            return [self._row(key) for key in keys]  # one of them is bad

    def _read_all(
        self, asked: Sequence[ReadShard], found: Sequence[Entry | ReedbedError | None], *, now: bool
    ) -> list[ReadResult | ReedbedError]:
        answers: list[ReadResult | ReedbedError] = []
        rows = 0
        for one, entry in zip(asked, found, strict=True):
            try:
                if isinstance(entry, ReedbedError):
                    raise entry
                if rows > ROWS_OF_CALL:
                    raise ResourceExhausted("one call asks for too many rows", hint="Read less at once")
                answer = self._read(one, entry, now=now)
                rows += len(answer.rows.table) // ROW_BYTES
                if answer.data_rows:
                    rows += sum(len(of.table) // ROW_BYTES for of in answer.data_rows.values())
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
        return self._open(entry, extent, index, now=False).tables

    def _read(self, asked: ReadShard, entry: Entry | None, *, now: bool) -> ReadResult:
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
            opened = self._open(entry, asked.extent, asked.index, now=now)
            data, rows, block = self._range(asked, entry, opened, now=now)
        except (OSError, Corrupt) as error:
            if isinstance(error, OSError) and error.errno in NOT_THE_DISK:
                raise ResourceExhausted(f"cannot read: {error.strerror}", where=self._name(asked)) from error
            return self._look_again(asked, entry, block, now=now, cause=error)
        if block >= 0:
            return self._look_again(asked, entry, block, now=now)
        begin, length = asked.rows_range or (asked.offset, asked.length)
        return ReadResult(
            asked.extent,
            asked.index,
            asked.offset,
            data,
            rows,
            entry.payload,
            entry.generation,
            {one: _overlapping(opened, one, begin, begin + length) for one in asked.data_rows_of},
        )

    def _look_again(
        self, asked: ReadShard, entry: Entry, block: int, *, now: bool, cause: Exception | None = None
    ) -> ReadResult:
        """What was found is not right: a hole may have been punched under the read."""
        key = shard_key(asked.extent, asked.index)
        if now and not self._in_memory:
            known = self._book.known([key])
            if known is None:
                raise _WouldWait
            newer = known[0]
        else:
            newer = self._book.get(key)
        if newer is None or newer.state != LIVE:
            raise self._unknown(asked)
        if newer.position != entry.position:
            return self._read(asked, newer, now=now)
        raise self._damaged(asked, block, entry.position) from cause

    def _range(self, asked: ReadShard, entry: Entry, opened: Opened, *, now: bool) -> tuple[Buffer, Rows, int]:
        """Bytes, their rows, and the first bad block or -1."""
        if asked.length == 0:
            return b"", Rows(0, asked.offset), -1
        starts, offset, stop = opened.starts, asked.offset, asked.offset + asked.length
        first = bisect_right(starts, offset) - 1
        end = bisect_left(starts, stop, first + 1)  # the block behind the last one
        raw, bad = self._blocks(asked, entry, opened, first, end, now=now)
        if bad >= 0:
            return b"", Rows(), bad
        table = opened.table[ROW_BYTES * first : ROW_BYTES * end]
        base = starts[first]
        if base == offset and starts[end] == stop:
            return raw, Rows(first, offset, table), -1
        rows = list(unpack_table(table))
        view = memoryview(raw)
        for at, block in ((0, first), (-1, end - 1)):
            low, high = max(starts[block], offset), min(starts[block + 1], stop)
            if high - low != opened.lengths[block]:
                rows[at] = (high - low, block_sum(asked.extent, asked.index, block, view[low - base : high - base]))
        data: Buffer = view[offset - base : stop - base]
        if 2 * len(data) < len(view):
            data = bytes(data)  # else a few bytes would keep their whole block
        return data, Rows(first, offset, pack_table(rows)), -1

    def _blocks(
        self, asked: ReadShard, entry: Entry, opened: Opened, first: int, end: int, *, now: bool
    ) -> tuple[Buffer, int]:
        """The bytes of whole blocks, and the first bad one or -1."""
        starts = opened.starts
        base, size = starts[first], starts[end] - starts[first]
        at = entry.offset + HEAD + entry.tables + base
        if now:
            self._now_left -= size
            if self._now_left < 0:
                raise _WouldWait
        if now or size <= PIECE:
            raw = self._bytes(entry.segment, at, size, now=now)
            return raw, first if len(raw) != size else _wrong(asked, opened, first, end, raw)
        into = asked.into
        target = into[:size] if into is not None and len(into) >= size else memoryview(bytearray(size))
        with self._pool.use(entry.segment) as file:
            while first < end:
                until = max(first + 1, min(end, bisect_right(starts, starts[first] + PIECE) - 1))
                piece = target[starts[first] - base : starts[until] - base]
                if file.read_into(at + starts[first] - base, piece) != len(piece):
                    return target, first
                bad = _wrong(asked, opened, first, until, piece)
                if bad >= 0:
                    return target, bad
                first = until
        return target, -1

    def _bytes(self, segment: int, offset: int, length: int, *, now: bool) -> bytes:
        handle = self._pool.take(segment, opening=not now or self._in_memory)
        if handle is None:
            raise _WouldWait
        try:
            raw = handle.file.read_now(offset, length) if now else handle.file.read(offset, length)
        finally:
            self._pool.give(handle)
        if raw is None:
            raise _WouldWait
        return raw

    def _open(self, entry: Entry, extent: bytes, index: int, *, now: bool) -> Opened:
        position = entry.position
        with self._lock:
            kept = self._heads.get(position)
            if kept is not None:
                self._heads.move_to_end(position)
        if kept is None:
            kept = self._load(entry, now=now)
            with self._lock:
                if position not in self._heads:
                    self._heads[position] = kept
                    self._heads_bytes += _weight(kept)
                while self._heads_bytes > HEADS_BYTES and len(self._heads) > 1:
                    self._heads_bytes -= _weight(self._heads.popitem(last=False)[1])
        if kept.head.extent != extent or kept.head.index != index or kept.head.payload != entry.payload:
            raise Corrupt("the record is that of another shard")
        return kept

    def _load(self, entry: Entry, *, now: bool) -> Opened:
        raw = self._bytes(entry.segment, entry.offset, HEAD + entry.tables, now=now)
        head = record.parse_head(raw[:HEAD], record.place(self._salt, *entry.position))
        tables = raw[HEAD:]
        if not isinstance(head, ShardHead):
            raise Corrupt("the record is not that of a shard")
        record.check_tables(head, tables)
        table = record.own_table(head, tables)
        lengths, sums = split_table(table)
        return Opened(head, tables, table, lengths, sums, list(accumulate(lengths, initial=0)))

    def _name(self, asked: ReadShard) -> str:
        return f"shard {asked.index} of extent {format_id(asked.extent)}, {self._where}"

    def _unknown(self, asked: ReadShard) -> UnknownShard:
        return UnknownShard("the device does not hold the shard", where=self._name(asked))

    def _damaged(self, asked: ReadShard, block: int, position: Position) -> DamagedShard:
        self._damage.shard(asked.extent, asked.index, block, position)
        what = "the record of the shard is damaged" if block < 0 else f"block {block} of the shard is damaged"
        return DamagedShard(what, where=self._name(asked), hint="Read it from the other shards")


def _weight(opened: Opened) -> int:
    return _HEAD_BYTES + len(opened.tables) + _ROW_BYTES * len(opened.lengths)


def _wrong(asked: ReadShard, opened: Opened, first: int, end: int, data: Buffer) -> int:
    """The first of these blocks whose bytes are not those that were put, -1 if all are."""
    found = block_sums(asked.extent, asked.index, first, opened.lengths[first:end], data)
    wanted = list(opened.sums[first:end])
    if found != wanted:
        return first + next((at for at, value in enumerate(wanted) if found[at] != value), 0)
    return -1


def _overlapping(opened: Opened, shard: int, begin: int, end: int) -> Rows:
    """Rows of a data shard's whole blocks that touch the range."""
    table = record.data_table(opened.head, opened.tables, shard)
    starts = list(accumulate(split_table(table)[0], initial=0))
    first = bisect_right(starts, begin) - 1
    stop = bisect_left(starts, end, 0, len(starts) - 1)
    if first >= stop:
        return Rows()
    return Rows(first, starts[first], table[ROW_BYTES * first : ROW_BYTES * stop])
