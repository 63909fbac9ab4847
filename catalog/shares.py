"""What it takes to give devices their share: new PGs, and positions that move. Pure: from a map to a plan.

Members are the devices in service that are named by a PG, or asked for, and do not leave. Each profile is balanced by
itself, so that extents to come are shared out as well as those that are there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from reedbed.catalog.balance import Balance, Move
from reedbed.catalog.mapstate import Counters, check_cluster_settings, new_pgs, pgs_of, placed
from reedbed.catalog.moves import FULL_ABOVE, named, serves
from reedbed.catalog.placement import pg_count
from reedbed.common.errors import InvalidArgument
from reedbed.ec.profiles import Profile
from reedbed.protos.types import ClusterMap, Device, PlacementGroup

Sizes = Mapping[int, Sequence[int]]


@dataclass(frozen=True, slots=True)
class SharesPlan:
    """PGs to be made, and the moves in their order; those of one PG may build on each other.

    devices: that were to get something. waiting: PGs that could not be planned for yet.
    """

    pgs: tuple[PlacementGroup, ...] = ()
    moves: tuple[Move, ...] = ()
    devices: tuple[int, ...] = ()
    waiting: int = 0

    @property
    def size(self) -> int:
        return sum(move.size for move in self.moves)

    def as_json(self) -> dict[str, object]:
        """What it is, for whoever ordered it."""
        gets: Counter[int] = Counter()
        positions: Counter[int] = Counter()
        for move in self.moves:
            gets[move.target] += move.size
            positions[move.target] += 1
        return {
            "devices": list(self.devices),
            "positions": len(self.moves),
            "bytes": self.size,
            "new_pgs": dict(sorted(Counter(Profile(pg.k, pg.m).name for pg in self.pgs).items())),
            "by_device": [
                {"device": number, "positions": count, "bytes": gets[number]}
                for number, count in sorted(positions.items())
            ],
        }


def members(map_: ClusterMap, asked: Collection[int], leaving: Collection[int]) -> list[Device]:
    """The devices that are to have a share."""
    wanted = named(map_.pgs.values()) | set(asked)
    return [
        device
        for number, device in sorted(map_.devices.items())
        if number in wanted and number not in leaving and serves(map_, number)
    ]


def profiles_of(map_: ClusterMap) -> list[Profile]:
    """Those that have PGs."""
    return [Profile(k, m) for k, m in sorted({(pg.k, pg.m) for pg in map_.pgs.values()})]


def grown(map_: ClusterMap, counters: Counters, devices: Sequence[Device]) -> list[PlacementGroup]:
    """The PGs that profiles in use want for so many devices and do not have yet."""
    made: list[PlacementGroup] = []
    for profile in profiles_of(map_):
        have = len(pgs_of(map_, profile))
        more = pg_count(len(devices), profile.n) - have
        if more <= 0:
            continue
        try:
            made += new_pgs(map_, Counters(counters.next_device, counters.next_pg + len(made)), profile, devices, more)
        except InvalidArgument:
            continue  # they are too few for it now
    return made


def plan_shares(
    map_: ClusterMap,
    pgs: Sequence[PlacementGroup],
    devices: Sequence[Device],
    targets: Collection[int],
    sizes: Sizes,
    *,
    swaps: bool,
) -> SharesPlan:
    """Moves after which `targets` have their share, once `pgs` are made as well; with `swaps` bytes are evened out too.

    A position that is on its way counts for where it goes. PGs with a position on a device that is no member wait: that
    one has to move first.
    """
    map_ = replace(map_, pgs={**map_.pgs, **{pg.id: pg for pg in pgs}})
    level = check_cluster_settings(map_.level, map_.default_profile)
    own = {device.number for device in devices}
    room = room_of(devices)
    moves: list[Move] = []
    waiting = 0
    for profile in profiles_of(map_):
        groups = {pg.id: tuple(place.device for place in pg.positions) for pg in pgs_of(map_, profile)}
        still = {pg_id for pg_id, group in groups.items() if not own.issuperset(group)}
        waiting += len(still)
        balance = Balance(groups, placed(devices), profile.m, level, sizes, still)
        found = list(balance.plan_moves(targets, room))
        if swaps:
            for pair in balance.plan_swaps(_less(room, found)):
                found += pair
        room = _less(room, found)
        moves += found
    return SharesPlan(tuple(pgs), tuple(moves), tuple(sorted(targets)), waiting)


def room_of(devices: Sequence[Device]) -> dict[int, float]:
    """Bytes that devices may be given."""
    return {device.number: max(0.0, FULL_ABOVE * device.capacity - device.used) for device in devices}


def _less(room: Mapping[int, float], moves: Sequence[Move]) -> dict[int, float]:
    left = dict(room)
    for move in moves:
        left[move.target] -= move.size
    return left
