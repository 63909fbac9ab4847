"""The plan of a read, of a decoding and of a rebuild: which bytes of which shards. Values in, values out.

Shard indexes are 0..k-1 for data and k..k+m-1 for parity. What an extent has of data beyond a shard's end is zero and
known to be: such shards count among the k that decoding needs, whether or not their device is up, and cost nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from reedbed.common.errors import DataLoss, InvalidArgument
from reedbed.ec.cut import Layout
from reedbed.ec.profiles import Profile


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` bytes from `start` of data shard `shard`, which belong at `at` in the result."""

    shard: int
    start: int
    length: int
    at: int


@dataclass(frozen=True, slots=True)
class Part:
    """`length` bytes from `start` of one shard."""

    shard: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """How to compute a byte range of lost shards from exactly k others.

    `want` and `sources` all begin at `start`; each is as long as its shard reaches within the range, and none is
    empty. With `zeros`, shards known to be zero there, the sources are k, so for a codec:

        rebuild(have={part.shard: its bytes for part in sources} | {shard: b"" for shard in zeros}, want=...)

    `table_shard` is a usable parity shard, one of the sources where it can be, whose block tables tell whether data
    came out right. None only where nothing is wanted, or only parity is and no other parity shard is usable.
    """

    start: int
    want: tuple[Part, ...]
    sources: tuple[Part, ...]
    zeros: tuple[int, ...]
    table_shard: int | None


def pieces(layout: Layout, offset: int, length: int) -> list[Piece]:
    """The parts of data shards that make up the extent's bytes from `offset`, in order; none for no bytes.

    InvalidArgument unless the range lies within the extent.
    """
    if offset < 0 or length < 0 or offset + length > layout.size:
        raise InvalidArgument(f"range of {length} bytes from {offset} is outside an extent of {layout.size} bytes")
    found: list[Piece] = []
    if length == 0:
        return found
    shard = layout.shard_at(offset)
    at = 0
    while at < length:
        start = offset + at - layout.starts[shard]
        here = min(layout.lengths[shard] - start, length - at)
        if here:
            found.append(Piece(shard, start, here, at))
            at += here
        shard += 1
    return found


def decode_plan(
    layout: Layout, profile: Profile, lost_shard: int, start: int, length: int, usable: Sequence[int]
) -> DecodePlan:
    """What to ask for instead of `length` bytes from `start` of one shard.

    `usable` holds the shards that can be asked, the preferred first; the lost one among them is passed over.
    DataLoss where too few are usable, InvalidArgument for a range outside the lost shard or an index that cannot be.
    """
    _check_shards(layout, profile, (lost_shard,))
    has = layout.length_of(lost_shard)
    if start < 0 or length < 0 or start + length > has:
        raise InvalidArgument(f"range of {length} bytes from {start} is outside shard {lost_shard} of {has} bytes")
    return rebuild_plan(layout, profile, (lost_shard,), usable, start, length)


def rebuild_plan(
    layout: Layout,
    profile: Profile,
    lost: Collection[int],
    usable: Sequence[int],
    start: int = 0,
    length: int | None = None,
) -> DecodePlan:
    """What to ask for to compute the shards of `lost` again, data or parity, whole or within one range for all.

    A lost shard that ends before the range, or is empty, is not in `want`. Otherwise as `decode_plan`; a `length` of
    None, or one past the end of the lost shards, means up to their end.
    """
    _check_shards(layout, profile, (*lost, *usable))
    if start < 0 or (length is not None and length < 0):
        raise InvalidArgument(f"not a range of a shard: {length} bytes from {start}")
    want = _clip(layout, sorted(set(lost)), start, length)
    askable = [shard for shard in dict.fromkeys(usable) if shard not in lost]
    parity = [shard for shard in askable if shard >= profile.k]
    if not want:
        return DecodePlan(start, (), (), (), parity[0] if parity else None)

    reach = max(part.length for part in want)
    zeros = tuple(shard for shard, has in enumerate(layout.lengths) if has <= start)
    # never as many as k: where something is wanted, the longest data shard reaches past `start`
    candidates = [shard for shard in askable if shard not in zeros]
    needed = profile.k - len(zeros)
    if len(candidates) < needed:
        raise DataLoss(
            f"{len(candidates)} shards are usable and {needed} are needed",
            where=f"{profile}, wanted shards {[part.shard for part in want]}, usable {sorted(candidates)}",
        )
    sources = _clip(layout, candidates[:needed], start, reach)
    table = next((part.shard for part in sources if part.shard >= profile.k), parity[0] if parity else None)
    return DecodePlan(start, want, sources, zeros, table)


def remaining(layout: Layout, profile: Profile, present: Collection[int]) -> int:
    """How many more shards may be lost, any ones, with all bytes still there: 0 to m, and below 0 after a loss.

    `present` holds the shards that are whole; an empty data shard counts as present anyway.
    """
    _check_shards(layout, profile, present)
    whole = set(present).union(shard for shard, length in enumerate(layout.lengths) if length == 0)
    return len(whole) - profile.k


def durable(layout: Layout, profile: Profile, present: Collection[int]) -> bool:
    """Whether enough shards are there to acknowledge a write: one more than decoding needs."""
    return remaining(layout, profile, present) >= 1


def _clip(layout: Layout, shards: Iterable[int], start: int, length: int | None) -> tuple[Part, ...]:
    parts: list[Part] = []
    for shard in shards:
        here = layout.length_of(shard) - start
        if length is not None:
            here = min(here, length)
        if here > 0:
            parts.append(Part(shard, start, here))
    return tuple(parts)


def _check_shards(layout: Layout, profile: Profile, shards: Iterable[int]) -> None:
    if len(layout.lengths) != profile.k:
        raise InvalidArgument(f"a layout of {len(layout.lengths)} data shards is not one of {profile}")
    for shard in shards:
        if not 0 <= shard < profile.n:
            raise InvalidArgument(f"{profile} has no shard {shard}")
