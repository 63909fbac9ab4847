"""The bytes of one new extent, ready to send under any id: data shards, parity, and block tables for an id."""

from __future__ import annotations

from collections.abc import Sequence

from reedbed.common.checksums import Buffer
from reedbed.common.errors import InvalidArgument
from reedbed.common.ids import Id
from reedbed.common.limits import BLOCK, PAYLOAD_MAX
from reedbed.ec.codec import codec_for
from reedbed.ec.cut import block_borders
from reedbed.ec.profiles import Profile
from reedbed.extents.blocks import build_table
from reedbed.extents.offload import off_loop


class Encoded:
    """k data shards and their parity. `parts[i]` is the buffer of shard i; a caller's own buffers are used as they are,
    except that a shard in several pieces is joined."""

    def __init__(
        self, profile: Profile, shards: Sequence[Sequence[Buffer]], borders: Sequence[Sequence[int]], first: Id
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
            if sum(blocks) != length or any(not 1 <= block <= BLOCK for block in blocks):
                raise InvalidArgument(f"the blocks of shard {shard} do not make up its {length} bytes")
        self._borders = [*borders, *[block_borders(longest)] * profile.m]
        self.parts: list[Buffer] = [*data, *(memoryview(bytearray(longest)) for _ in range(profile.m))]
        self._first = first
        self._sums: list[bytes] = []

    @classmethod
    async def make(
        cls, profile: Profile, shards: Sequence[Sequence[Buffer]], borders: Sequence[Sequence[int]], first: Id
    ) -> Encoded:
        """Computes parity, and tables for the id `first`. InvalidArgument for impossible lengths, and as `check`."""
        encoded = cls(profile, shards, borders, first)
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

    def _encode(self) -> None:
        k = self.profile.k
        self._sums = [self._table(self._first, shard) for shard in range(k)]
        codec_for(self.profile).encode(self.parts[:k], [memoryview(part) for part in self.parts[k:]])
        self._sums += [self._table(self._first, shard) for shard in range(k, self.profile.n)]
        self._check()

    def _tables(self, extent: Id) -> list[bytes]:
        tables = [self._table(extent, shard) for shard in range(self.profile.n)]
        self._check()  # after summing: the tables are those of the bytes that parity was computed from
        return tables

    def _check(self) -> None:
        for shard in range(self.profile.k):
            if self._table(self._first, shard) != self._sums[shard]:
                raise InvalidArgument(
                    f"the buffer changed while it was being written (data shard {shard})",
                    hint="Leave the buffer alone until the put has ended, or hand over a copy",
                )

    def _table(self, extent: Id, shard: int) -> bytes:
        return build_table(extent, shard, (self.parts[shard],), self._borders[shard])


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
