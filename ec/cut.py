"""Cutting bytes into extents, data shards and blocks: at most k data shards, at natural borders, for every size.

The bytes of an extent are its data shards one after the other. Where there are fewer bytes than k shards deserve, the
last data shards are empty: they cost nothing. Parity is as long as the longest data shard, so what is stored of an
extent is `size + m * parity_length` bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heapreplace
from itertools import accumulate
from typing import Final

from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import BLOCK, K_MAX, OBJECT_MAX, SHARD_DEFAULT, SHARD_MAX, SMALL_SHARD
from reedbed.ec.profiles import Profile

_ALIGNMENTS: Final = (BLOCK, 4096, 64)  # a block, a page, what the processor takes at a time
_ALIGNMENT_COST: Final = 64  # shards may grow by one part in so many for the sake of an aligned border

_WORTH: Final = 1.1  # whole objects within one shard may cost that much more than equal shards

assert SMALL_SHARD % BLOCK == 0
assert SHARD_MAX % BLOCK == 0
assert K_MAX < _ALIGNMENT_COST  # so that growing never empties the last shard


@dataclass(frozen=True)
class Layout:
    """The lengths in bytes of the k data shards of one extent. InvalidArgument for lengths that no extent has."""

    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.lengths) <= K_MAX:
            raise InvalidArgument(f"an extent has 1 to {K_MAX} data shards, not {len(self.lengths)}")
        for length in self.lengths:
            if not 0 <= length <= SHARD_MAX:
                raise InvalidArgument(f"a data shard has 0 to {SHARD_MAX} bytes, not {length}")

    @cached_property
    def size(self) -> int:
        """Bytes of the extent: all data shards together."""
        return sum(self.lengths)

    @cached_property
    def parity_length(self) -> int:
        """Bytes of each parity shard."""
        return max(self.lengths)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each data shard begins in the extent's bytes."""
        return tuple(accumulate(self.lengths[:-1], initial=0))

    def shard_at(self, offset: int) -> int:
        """The data shard that holds the extent's byte at `offset`; InvalidArgument if there is none."""
        if not 0 <= offset < self.size:
            raise InvalidArgument(f"offset {offset} is outside an extent of {self.size} bytes")
        return bisect_right(self.starts, offset) - 1  # of shards that start there the last one: it is not empty

    def length_of(self, shard: int) -> int:
        """Bytes of any shard of the extent, data (below k) or parity. `shard` is not checked against m."""
        return self.lengths[shard] if shard < len(self.lengths) else self.parity_length

    def stored(self, profile: Profile) -> int:
        """Bytes of all shards, parity included."""
        return self.size + profile.m * self.parity_length


def extent_bytes(profile: Profile, shard_size: int = SHARD_DEFAULT) -> int:
    """Bytes of a full extent: k data shards of `shard_size`. InvalidArgument if that is not 1 to SHARD_MAX."""
    if not 1 <= shard_size <= SHARD_MAX:
        raise InvalidArgument(f"a shard has 1 to {SHARD_MAX} bytes, not {shard_size}", hint="The default is 4 MiB")
    return profile.k * shard_size


def layout_for(size: int, profile: Profile, shard_size: int = SHARD_DEFAULT) -> Layout:
    """How one extent of `size` bytes (0 to `extent_bytes`) is cut: equal shards, the last used one a little shorter.

    One data shard for each 64 KiB begun, up to k, and as many as `shard_size` demands. Borders lie on whole blocks
    where that makes shards longer by little, so that an aligned read touches whole blocks.
    """
    full = extent_bytes(profile, shard_size)
    if not 0 <= size <= full:
        raise InvalidArgument(f"an extent of {profile} and shards of {shard_size} has 0 to {full} bytes, not {size}")
    if size == 0:
        return Layout((0,) * profile.k)
    used = min(profile.k, max(_ceil_div(size, SMALL_SHARD), _ceil_div(size, shard_size)))
    width = _align(_ceil_div(size, used), shard_size)
    return Layout(tuple(min(width, max(0, size - i * width)) for i in range(profile.k)))


def cut_object(size: int, profile: Profile, shard_size: int = SHARD_DEFAULT) -> Iterator[Layout]:
    """The extents of an object of `size` bytes, in order: full ones, then one for the rest; none for no bytes."""
    full = extent_bytes(profile, shard_size)
    if not 0 <= size <= OBJECT_MAX:
        raise InvalidArgument(f"an object has 0 to {OBJECT_MAX} bytes, not {size}")
    whole, rest = divmod(size, full)
    return _cut(whole, rest, profile, shard_size)


def _cut(whole: int, rest: int, profile: Profile, shard_size: int) -> Iterator[Layout]:
    layout = Layout((shard_size,) * profile.k)
    for _ in range(whole):
        yield layout
    if rest:
        yield layout_for(rest, profile, shard_size)


@dataclass(frozen=True, slots=True)
class Packing:
    """Many objects in one extent: its layout, and for each object, in the order given, its offset in the extent."""

    layout: Layout
    offsets: tuple[int, ...]


def pack(sizes: Sequence[int], profile: Profile) -> Packing:
    """One extent for objects of these sizes in bytes, each whole within one data shard.

    The number of shards follows the sum as in `layout_for`. The longest object first, each goes to the shard that is
    shortest so far, which keeps the longest shard, and so parity, within 4/3 of the least possible. Objects of one
    shard keep their order. InvalidArgument where a shard would grow past SHARD_MAX.
    """
    for size in sizes:
        if not 0 <= size <= SHARD_MAX:
            raise InvalidArgument(f"an object of {size} bytes cannot be packed", hint="Cut it with cut_object")
    used = max(1, min(profile.k, _ceil_div(sum(sizes), SMALL_SHARD)))
    members: list[list[int]] = [[] for _ in range(used)]
    shortest = [(0, shard) for shard in range(used)]
    heapify(shortest)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        length, shard = shortest[0]
        members[shard].append(index)
        heapreplace(shortest, (length + sizes[index], shard))

    offsets = [0] * len(sizes)
    lengths = [0] * profile.k
    end = 0
    for shard, indexes in enumerate(members):
        for index in sorted(indexes):
            offsets[index] = end
            end += sizes[index]
            lengths[shard] += sizes[index]
    return Packing(Layout(tuple(lengths)), tuple(offsets))


def choose_packing(sizes: Sequence[int], profile: Profile) -> Packing:
    """Each object whole within one shard, unless equal shards are so much smaller that they are worth two reads."""
    total = sum(sizes)
    if total <= SMALL_SHARD:  # then either way it is one shard
        return Packing(
            Layout((total, *[0] * (profile.k - 1))), tuple(accumulate(sizes[:-1], initial=0)) if sizes else ()
        )
    shard_size = max(SHARD_DEFAULT, _ceil_div(total, profile.k))
    equal = layout_for(total, profile, shard_size)
    packed = pack(sizes, profile)
    if packed.layout.stored(profile) <= _WORTH * equal.stored(profile):
        return packed
    offsets: list[int] = []
    at = 0
    for size in sizes:
        offsets.append(at)
        at += size
    return Packing(equal, tuple(offsets))


def group(sizes: Sequence[int], profile: Profile, shard_size: int = SHARD_DEFAULT) -> list[range]:
    """Consecutive runs of objects to `pack` into one extent each: as many as fit a full extent, at least one."""
    full = extent_bytes(profile, shard_size)
    runs: list[range] = []
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > full:
            runs.append(range(start, index))
            start, total = index, 0
        total += size
    if start < len(sizes):
        runs.append(range(start, len(sizes)))
    return runs


def block_borders(shard_length: int, slice_starts_in_shard: Sequence[int] = ()) -> list[int]:
    """The lengths of a shard's blocks in order: 64 KiB each, starting anew at every start of a slice.

    Starts may come in any order and more than once, from 0 to the shard's length; InvalidArgument outside that.
    """
    if not 0 <= shard_length <= SHARD_MAX:
        raise InvalidArgument(f"a shard has 0 to {SHARD_MAX} bytes, not {shard_length}")
    if 0 <= shard_length <= BLOCK and (not slice_starts_in_shard or tuple(slice_starts_in_shard) == (0,)):
        return [shard_length] if shard_length else []
    lengths: list[int] = []
    begin = 0
    for border in (*sorted(set(slice_starts_in_shard)), shard_length):
        if not 0 <= border <= shard_length:
            raise InvalidArgument(f"a slice starts at {border} in a shard of {shard_length} bytes")
        whole, rest = divmod(border - begin, BLOCK)
        lengths.extend([BLOCK] * whole)
        if rest:
            lengths.append(rest)
        begin = border
    return lengths


def _ceil_div(size: int, part: int) -> int:
    return -(-size // part)


def _align(width: int, limit: int) -> int:
    for step in _ALIGNMENTS:
        aligned = _ceil_div(width, step) * step
        if aligned <= limit and (aligned - width) * _ALIGNMENT_COST <= width:
            return aligned
    return width
