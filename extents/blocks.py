"""Block tables: what a shard's record says of its blocks, and the rows of it that travel with every read.

A table is a row for each block in order, 8 bytes each, little-endian:

    bytes 0..3    length of the block, 1 to 65,536
    bytes 4..7    CRC32C of the block, seeded with its place (common/checksums.py)

Rows of an answer have the same form. The first and the last row of a range that begins or ends inside a block stand
for the part of the block within the range, summed anew with the same seed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from reedbed.common.checksums import Buffer, Sums, block_sum_parts, joined_block, place_sums
from reedbed.common.errors import Corrupt
from reedbed.common.ids import Id
from reedbed.common.limits import BLOCK

_ROW = struct.Struct("<II")
ROW_BYTES: Final = _ROW.size
unpack_row: Final = _ROW.unpack  # the (length, sum) of one row


@dataclass(frozen=True, slots=True)
class BlockRows:
    """Rows of one shard's table: of blocks `first_block` and on, whose bytes begin at `offset` of the shard."""

    shard: int
    first_block: int
    offset: int
    rows: tuple[tuple[int, int], ...]  # (length, sum)

    @property
    def end(self) -> int:
        """Where the last row's bytes end in the shard."""
        return self.offset + sum(length for length, _ in self.rows)


def pack_table(rows: Iterable[tuple[int, int]]) -> bytes:
    """The table of (length, sum) rows."""
    numbers = [number for row in rows for number in row]
    return struct.pack(f"<{len(numbers)}I", *numbers)


def split_table(table: Buffer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Lengths and sums of a table's blocks; Corrupt if it is cut short or a block has no bytes or too many."""
    if len(table) % ROW_BYTES:
        raise Corrupt(f"block table of {len(table)} bytes is not made of whole rows")
    numbers = struct.unpack(f"<{len(table) // 4}I", table)
    lengths = numbers[::2]
    if lengths and not (min(lengths) > 0 and max(lengths) <= BLOCK):
        wrong = next(length for length in lengths if not 0 < length <= BLOCK)
        raise Corrupt(f"block table with a block of {wrong} bytes")
    return lengths, numbers[1::2]


def unpack_table(table: bytes) -> tuple[tuple[int, int], ...]:
    """The rows of a table; Corrupt if it is cut short or a block has no bytes or too many."""
    return tuple(zip(*split_table(table), strict=True))


def build_table(extent: Id, shard: int, parts: Sequence[Buffer], borders: Sequence[int]) -> bytes:
    """The table of a shard whose bytes lie in `parts`, cut into blocks of the lengths `borders`.

    The lengths must add up to those of the parts, which must have bytes as items.
    """
    if len(parts) == 1:
        sums = Sums(parts[0])
        rows = []
        at = 0
        for length, seed in zip(borders, place_sums(extent, shard, 0, len(borders)), strict=True):
            rows.append((length, sums.of(at, length, seed)))
            at += length
        assert at == sums.size, "borders do not add up to the shard"
        return pack_table(rows)
    cuts = _Cuts(parts)
    table = pack_table(
        (length, block_sum_parts(extent, shard, block, cuts.take(length))) for block, length in enumerate(borders)
    )
    assert cuts.at_end(), "borders do not add up to the shard"
    return table


def verify_rows(extent: Id, rows: BlockRows, data: Buffer) -> int | None:
    """The number of the first block whose bytes are wrong, None if all are right.

    `data` holds the bytes from `rows.offset` to `rows.end`.
    """
    sums = Sums(data)
    at = 0
    first = rows.first_block
    seeds = place_sums(extent, rows.shard, first, len(rows.rows))
    for block, ((length, value), seed) in enumerate(zip(rows.rows, seeds, strict=True), first):
        if at + length > sums.size or sums.of(at, length, seed) != value:
            return block
        at += length
    return None if at == sums.size else first + len(rows.rows)


class RowsCheck:
    """`verify_rows` step by step, of bytes that come into being from front to back.

    `data` holds the bytes from `start` of the shard on; those from `rows.offset` to `rows.end` are checked.
    """

    __slots__ = ("_at", "_next", "_rows", "_seeds", "_start", "_sums")

    def __init__(self, extent: Id, rows: BlockRows, data: Buffer, start: int) -> None:
        self._sums = Sums(data)
        self._rows = rows.rows
        self._seeds = place_sums(extent, rows.shard, rows.first_block, len(rows.rows))
        self._start = start
        self._at = rows.offset
        self._next = 0

    def upto(self, end: int) -> bool:
        """Whether the blocks that end by there, and were not checked before, are right."""
        while self._next < len(self._rows):
            length, value = self._rows[self._next]
            if self._at + length > end:
                break
            begin = self._at - self._start
            if begin < 0 or begin + length > self._sums.size:
                return False
            if self._sums.of(begin, length, self._seeds[self._next]) != value:
                return False
            self._at += length
            self._next += 1
        return True

    def done(self) -> bool:
        """Whether all blocks have been checked."""
        return self._next == len(self._rows)


def content_sum(extent: Id, rows: BlockRows, data: Buffer, value: int = 0) -> int:
    """The plain CRC32C, continuing from `value`, of bytes that match their rows: got from those, where blocks are
    whole, without reading the bytes again."""
    sums = Sums(data)
    at = 0
    seeds = place_sums(extent, rows.shard, rows.first_block, len(rows.rows))
    for (length, own), seed in zip(rows.rows, seeds, strict=True):
        # the sum of the seed's bytes and the block's is `own`; of what came before and the block's it is `value`
        value = joined_block(value ^ seed, own) if length == BLOCK else sums.of(at, length, value)
        at += length
    return value


class _Cuts:
    """Takes bytes off the front of several buffers, as views."""

    def __init__(self, parts: Sequence[Buffer]) -> None:
        self._parts = [memoryview(part) for part in parts if len(part)]
        self._part = 0
        self._at = 0

    def take(self, length: int) -> list[memoryview]:
        taken: list[memoryview] = []
        while length and self._part < len(self._parts):
            piece = self._parts[self._part][self._at : self._at + length]
            taken.append(piece)
            length -= len(piece)
            self._at += len(piece)
            if self._at == len(self._parts[self._part]):
                self._part += 1
                self._at = 0
        assert length == 0, "borders reach past the shard"
        return taken

    def at_end(self) -> bool:
        return self._part == len(self._parts)
