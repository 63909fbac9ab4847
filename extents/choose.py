"""Which PG a new extent goes to. Pure: a map and a source of randomness in, a choice out.

A position is needed if its shard has bytes: data shards that are not empty, and all parity. A PG is healthy for an
extent if the devices of all needed positions are up and not among those to avoid. Healthy PGs are drawn at random,
weighted by the free space of their fullest device. Only where there is none is an extent written degraded: to a PG
with the most positions present, an empty one counting as present, and never with fewer than k+1.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from reedbed.common.errors import Unavailable
from reedbed.ec.profiles import Profile
from reedbed.protos.types import ClusterMap, PlacementGroup

_DRAWS: Final = 16  # from all PGs, before each is looked at
_MAPS_KEPT: Final = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """`positions` are to be written, in order; `present` counts them and the empty ones."""

    pg: PlacementGroup
    positions: tuple[int, ...]
    present: int

    @property
    def degraded(self) -> bool:
        return self.present < len(self.pg.positions)


def needed_positions(lengths: Sequence[int], m: int) -> tuple[int, ...]:
    """The positions whose shards have bytes, for data shards of these lengths."""
    k = len(lengths)
    return (*(shard for shard, length in enumerate(lengths) if length), *range(k, k + m))


def choose_pg(
    map_: ClusterMap,
    profile: Profile,
    lengths: Sequence[int],
    rng: random.Random,
    *,
    avoid: Collection[int] = frozenset(),
    wary: Collection[int] = frozenset(),
) -> Choice:
    """The PG for a new extent whose data shards have these lengths.

    Devices in `avoid` have failed in this write and count as down. Those in `wary` have failed in another one lately:
    PGs without them are preferred among healthy ones. Raises Unavailable, with the reason, where no PG has k+1 present.
    """
    index = _index_of(map_, profile)
    if not index.pgs:
        raise Unavailable(
            f"the cluster map has no placement group of {profile}",
            where=f"map epoch {map_.epoch}",
            hint="Ask the catalog to make the profile's placement groups; it needs a device for each position",
        )
    needed = needed_positions(lengths, profile.m)
    dead = index.dead | set(avoid) if avoid else index.dead
    for _ in range(_DRAWS if index.cumulative[-1] else 0):
        pg = rng.choices(index.pgs, cum_weights=index.cumulative)[0]
        if _clear(pg, needed, dead, map_) and (not wary or _clear(pg, needed, wary, map_)):
            return Choice(pg, needed, profile.n)

    healthy = [i for i, pg in enumerate(index.pgs) if _clear(pg, needed, dead, map_)]
    if healthy:
        preferred = [i for i in healthy if _clear(index.pgs[i], needed, wary, map_)]
        return Choice(index.draw(preferred or healthy, rng), needed, profile.n)
    return _degraded(map_, profile, index, needed, dead, rng)


def _degraded(
    map_: ClusterMap,
    profile: Profile,
    index: _Index,
    needed: tuple[int, ...],
    dead: Collection[int],
    rng: random.Random,
) -> Choice:
    counts = [sum(_usable(pg, position, dead, map_) for position in needed) for pg in index.pgs]
    best = max(counts)
    present = best + profile.n - len(needed)
    if present < profile.k + 1:
        up = sum(1 for number in map_.devices if number not in dead)
        raise Unavailable(
            f"too few devices are up to write: {up} of {len(map_.devices)} are, and {profile} needs {profile.k + 1} "
            f"positions present, of which the best placement group has {present}",
            where=f"map epoch {map_.epoch}",
            hint="Bring devices back, or add some",
        )
    pg = index.draw([i for i, count in enumerate(counts) if count == best], rng)
    return Choice(pg, tuple(position for position in needed if _usable(pg, position, dead, map_)), present)


def _usable(pg: PlacementGroup, position: int, dead: Collection[int], map_: ClusterMap) -> bool:
    number = pg.positions[position].device
    return number not in dead and number in map_.devices


def _clear(pg: PlacementGroup, needed: Iterable[int], unwanted: Collection[int], map_: ClusterMap) -> bool:
    positions, devices = pg.positions, map_.devices
    for position in needed:
        number = positions[position].device
        if number in unwanted or number not in devices:
            return False
    return True


@dataclass(frozen=True, slots=True)
class _Index:
    """The PGs of one profile in one map, with weights."""

    pgs: Sequence[PlacementGroup]
    weights: Sequence[float]
    cumulative: Sequence[float]
    dead: frozenset[int]  # devices that are not up

    def draw(self, among: Sequence[int], rng: random.Random) -> PlacementGroup:
        """One of these at random by weight; of full ones, which may yet have room, any."""
        weights = [self.weights[i] for i in among]
        return self.pgs[rng.choices(among, weights if any(weights) else None)[0]]


# A map is immutable and serves many writes, so its indexes are kept for as long as it is among the last few used.
_kept: list[tuple[ClusterMap, dict[Profile, _Index]]] = []


def _index_of(map_: ClusterMap, profile: Profile) -> _Index:
    indexes = next((indexes for known, indexes in _kept if known is map_), None)
    if indexes is None:
        indexes = {}
        _kept.insert(0, (map_, indexes))
        del _kept[_MAPS_KEPT:]
    index = indexes.get(profile)
    if index is None:
        index = indexes[profile] = _make_index(map_, profile)
    return index


def _make_index(map_: ClusterMap, profile: Profile) -> _Index:
    pgs = [pg for _, pg in sorted(map_.pgs.items()) if (pg.k, pg.m) == (profile.k, profile.m)]
    free = {
        number: float(max(0, device.capacity - device.used))
        for number, device in map_.devices.items()
        if device.capacity
    }
    unknown = sum(free.values()) / len(free) if free else 1.0
    weights = [min(free.get(place.device, unknown) for place in pg.positions) for pg in pgs]
    dead = frozenset(number for number, device in map_.devices.items() if device.state != "up")
    return _Index(pgs, weights, list(accumulate(weights)), dead)
