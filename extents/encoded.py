"""The bytes of one new extent, ready to send under any id: data shards, parity, and block tables for an id.

Work goes column by column through all shards, so that each byte is summed, coded and summed again while the processor
has it at hand.

Invariants:
- The tables are those of the bytes that parity was computed from. A buffer that may change is summed before and after
  its bytes were coded.
- A buffer of parity, or one that was lent, is used again only once nobody can read it any more (`release`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from reedbed.common.checksums import Buffer, Sums, crc32c, place_sums
from reedbed.common.errors import InvalidArgument
from reedbed.common.ids import NO_ID, Id
from reedbed.common.limits import BLOCK, KIB, PAYLOAD_MAX
from reedbed.ec.codec import codec_for
from reedbed.ec.cut import block_borders
from reedbed.ec.profiles import Profile
from reedbed.extents import buffers
from reedbed.extents.blocks import BlockRows, build_table, content_sum, pack_table, unpack_table
from reedbed.extents.offload import off_loop

COLUMN: Final = 128 * KIB  # of each shard at a time: those of 4+2 fit what a processor's own cache holds

FEW: Final = 2  # blocks

assert COLUMN % BLOCK == 0


class Encoded:
    """k data shards and their parity. `parts[i]` is the buffer of shard i; a caller's own buffers are used as they are,
    except that a shard in several pieces is joined."""

    def __init__(
        self,
        profile: Profile,
        shards: Sequence[Sequence[Buffer]],
        borders: Sequence[Sequence[int]],
        first: Id,
        mutable: bool = True,
    ) -> None:
        if len(shards) != profile.k or len(borders) != profile.k:
            raise InvalidArgument(f"{len(shards)} shards and {len(borders)} lists of blocks for {profile}")
        data = [_joined(parts) for parts in shards]
        self.profile = profile
        self.lengths = tuple(map(len, data))
        self.size = sum(self.lengths)
        longest = max(self.lengths)
        if not self.size:
            raise InvalidArgument("an extent has at least one byte")
        if longest > PAYLOAD_MAX:
            raise InvalidArgument(f"a shard of {longest} bytes is over the limit of {PAYLOAD_MAX} bytes of one call")
        for shard, (length, blocks) in enumerate(zip(self.lengths, borders, strict=True)):
            if sum(blocks) != length or (blocks and not (min(blocks) >= 1 and max(blocks) <= BLOCK)):
                raise InvalidArgument(f"the blocks of shard {shard} do not make up its {length} bytes")
        self._borders = [*borders, *[block_borders(longest)] * profile.m]
        parity = [buffers.take(longest) for _ in range(profile.m)]
        self.parts: list[Buffer] = [*data, *[memoryview(part) for part in parity]]
        self._lent = parity
        self._first = first
        self._mutable = mutable
        self._sums: list[bytes] = []

    @classmethod
    async def make(
        cls,
        profile: Profile,
        shards: Sequence[Sequence[Buffer]],
        borders: Sequence[Sequence[int]],
        first: Id,
        mutable: bool = True,
    ) -> Encoded:
        """Computes parity, and tables for the id `first`. InvalidArgument for impossible lengths, and as `check`.

        `mutable`: others may change the buffers meanwhile, which is to be found out.
        """
        encoded = cls(profile, shards, borders, first, mutable)
        await off_loop(encoded.size, encoded._encode)
        return encoded

    async def tables(self, extent: Id) -> list[bytes]:
        """The tables of all k+m shards under this id. InvalidArgument as `check`."""
        if extent == self._first:
            return self._sums
        return await off_loop(self.size, lambda: self._tables(extent))

    async def check(self) -> None:
        """InvalidArgument if a buffer is not what it was before parity was computed."""
        await off_loop(self.size, self._check)

    def content(self) -> int:
        """The plain CRC32C of the data shards' bytes, one after the other."""
        value = 0
        for shard in range(self.profile.k):
            rows = BlockRows(shard, 0, 0, unpack_table(self._sums[shard]))
            value = content_sum(self._first, rows, self.parts[shard], value)
        return value

    def lend(self, buffer: bytearray) -> None:
        """The data shards lie in this buffer, and nobody else uses it: it goes the way of those of parity."""
        self._lent.append(buffer)

    def release(self) -> None:
        """Nobody reads lent buffers any more: they serve the next extent. Nothing else may be asked of this."""
        for buffer in self._lent:
            buffers.give(buffer)
        self._lent = []
        self.parts = []

    def _encode(self) -> None:
        k, n = self.profile.k, self.profile.n
        shards = [
            _Shard(part, blocks, self._first, shard) if blocks else _EMPTY
            for shard, (part, blocks) in enumerate(zip(self.parts, self._borders, strict=True))
        ]
        encode = codec_for(self.profile).encoder(self.parts[:k], [memoryview(part) for part in self.parts[k:]])
        longest = max(self.lengths)
        for start in range(0, longest, COLUMN):
            end = min(start + COLUMN, longest)
            for shard in range(k):
                shards[shard].sum(end)
            encode(start, end)
            for shard in range(k if self._mutable else 0):
                if not shards[shard].check(end):
                    raise _changed(shard)
            for shard in range(k, n):
                shards[shard].sum(end)
        self._sums = [pack_table(shard.rows) for shard in shards]

    def _tables(self, extent: Id) -> list[bytes]:
        tables = [self._table(extent, shard) for shard in range(self.profile.n)]
        self._check()  # after summing: the tables are those of the bytes that parity was computed from
        return tables

    def _check(self) -> None:
        for shard in range(self.profile.k):
            if self._table(self._first, shard) != self._sums[shard]:
                raise _changed(shard)

    def _table(self, extent: Id, shard: int) -> bytes:
        return build_table(extent, shard, (self.parts[shard],), self._borders[shard])


class _Shard:
    """One shard on its way through the columns."""

    __slots__ = ("_at", "_checked", "_checked_to", "_part", "_seeds", "_sums", "blocks", "rows")

    def __init__(self, part: Buffer, blocks: Sequence[int], extent: Id, shard: int) -> None:
        # the way to a buffer's address pays for more than a few blocks only
        self._sums = Sums(part) if len(blocks) > FEW else None
        self._part = part
        self.blocks = blocks
        self._seeds = place_sums(extent, shard, 0, len(blocks))
        self.rows: list[tuple[int, int]] = []
        self._at = 0  # summed up to there
        self._checked = 0  # blocks
        self._checked_to = 0

    def sum(self, end: int) -> None:
        """Sums the blocks that begin before `end`."""
        at, rows = self._at, self.rows
        while at < end and len(rows) < len(self.blocks):
            length = self.blocks[len(rows)]
            rows.append((length, self._of(at, length, self._seeds[len(rows)])))
            at += length
        self._at = at

    def check(self, end: int) -> bool:
        """Whether the blocks that end by then, and were not checked before, are what they were when they were
        summed."""
        while self._checked < len(self.rows):
            length, value = self.rows[self._checked]
            if self._checked_to + length > end:
                break
            if self._of(self._checked_to, length, self._seeds[self._checked]) != value:
                return False
            self._checked += 1
            self._checked_to += length
        return True

    def _of(self, at: int, length: int, seed: int) -> int:
        if self._sums is not None:
            return self._sums.of(at, length, seed)
        return crc32c(memoryview(self._part)[at : at + length], seed)


_EMPTY: Final = _Shard(b"", (), NO_ID, 0)


def _changed(shard: int) -> InvalidArgument:
    return InvalidArgument(
        f"the buffer changed while it was being written (data shard {shard})",
        hint="Leave the buffer alone until the put has ended, or hand over a copy",
    )


def _joined(parts: Sequence[Buffer]) -> Buffer:
    """The bytes of one shard in one buffer, as items of one byte."""
    if len(parts) != 1:
        return b"".join(parts)
    part = parts[0]
    if isinstance(part, memoryview) and (part.format != "B" or part.ndim != 1):
        if not part.c_contiguous:
            raise InvalidArgument("a buffer that is not contiguous cannot be written", hint="Copy it first")
        return part.cast("B") if part.nbytes else b""
    return part
