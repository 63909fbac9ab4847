"""Which positions are given to other devices, and which sources are released. Pure: from a map to the next one.

What holds for every plan:

- A position moves only off a device that is out, failed, leaving, gone from the map or full, or because a `Shift` says
  so, and only to one that is up, has room, and keeps the failure domains; where there is none it stays, and is planned
  again with the next map.
- The old device becomes the position's source until every extent of the PG has its shard at the new one; so a device
  that comes back before that serves what it has. A position has one source: of two candidates the one in service.
- A position that moves from a source in service does not move on: where its device is to leave, it does so afterwards;
  where that is full or gone, the position turns back.
- A PG changes only when what its last change did is noted in all of its extents (`MarkRow`).
- A device that no PG names any more gets a new incarnation, and is out until it has come back as that, without what it
  still holds: until then no PG may name it, for it could not come back as the one that is named. But while extents are
  held (hold.py) it stays what it is, for it may have the last shards of what is not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from reedbed.catalog.lacks import Lack
from reedbed.catalog.mapstate import check_cluster_settings, placed
from reedbed.catalog.placement import Vacancy, domain_of, replace_devices
from reedbed.catalog.records import MarkRow
from reedbed.protos.types import ClusterMap, Device, PlacementGroup, Position

HEARD_MS: Final = 2000  # until every device that serves has heard of a move, and refuses what is older
FULL_ABOVE: Final = 0.9  # of its size: then a device is given no further positions
IN_SERVICE: Final = ("up", "down")


@dataclass(frozen=True, slots=True)
class Released:
    """A device that was named by a position until this generation of the PG."""

    pg: int
    position: int
    device: int
    generation: int


@dataclass(frozen=True, slots=True)
class Moves:
    """What is to change in the map; `marks` by PG. `stuck` positions have no device to go to.

    released: devices that may still hold shards which no position looks for there, and stay in the cluster.
    """

    devices: tuple[Device, ...] = ()
    pgs: tuple[PlacementGroup, ...] = ()
    marks: Mapping[int, MarkRow] = field(default_factory=dict)
    stuck: int = 0
    released: tuple[Released, ...] = ()


@dataclass(frozen=True, slots=True)
class Shift:
    """A position that is to go from one device to another, though both are well."""

    pg: int
    position: int
    source: int
    device: int


def plan_moves(
    map_: ClusterMap,
    marked: Collection[int],
    lacks: Iterable[Lack],
    leaving: Collection[int] = frozenset(),
    unripe: Collection[tuple[int, int]] = frozenset(),
    full: Collection[int] = frozenset(),
    held: bool = False,
) -> Moves:
    """What to do now. `marked`: PGs that must not change yet; `leaving`: devices that are to hold nothing.

    unripe: positions (PG, number) whose sources, while in service, may have acknowledged what is not committed yet, and
    stay. full: devices that have refused shards for want of room. held: no device is to be cleaned.
    """
    lacks = list(lacks)
    state = _State(map_, frozenset(leaving), frozenset(full), lacks)
    vacant: dict[int, int] = {}
    turned: dict[int, int] = {}
    for pg in map_.pgs.values():
        if pg.id not in marked:
            vacant[pg.id], turned[pg.id] = state.vacant(pg), state.turned(pg)
    changed: dict[int, PlacementGroup] = {}
    marks: dict[int, MarkRow] = {}
    stuck = 0
    if any(vacant.values()):
        for pg_id, group in _filled(map_, {pg_id: bits for pg_id, bits in vacant.items() if bits}, state).items():
            pg, mark = _given(map_, map_.pgs[pg_id], group)
            stuck += sum(1 for number in group if number is None)
            if mark is not None:
                changed[pg_id], marks[pg_id] = pg, mark
    for pg_id, bits in turned.items():
        if bits and pg_id not in changed:
            changed[pg_id], marks[pg_id] = _turned(map_, map_.pgs[pg_id], bits)
    at_sources = _held_at_sources(lacks)
    for pg in map_.pgs.values():
        if pg.id in marked or pg.id in changed or not any(place.source for place in pg.positions):
            continue
        kept = at_sources.get(pg.id, 0)
        for index, place in enumerate(pg.positions):
            if (pg.id, index) in unripe and serves(map_, place.source):
                kept |= 1 << index
        released = _released(pg, kept)
        if released is not None:
            changed[pg.id] = released
    left = () if held else _left(map_, changed)
    anew = {device.number for device in left}
    names_no_more = [
        one
        for pg_id, after in changed.items()
        for one in _names_no_more(map_.pgs[pg_id], after)
        if one.device in map_.devices and one.device not in anew
    ]
    return Moves(left, tuple(changed.values()), marks, stuck, tuple(names_no_more))


def begin(
    map_: ClusterMap, shifts: Iterable[Shift], blocked: Collection[int], avoid: Collection[int] = frozenset()
) -> Moves:
    """The first steps of these moves that may be made now, in their order; `blocked` PGs must not change yet, and
    devices to `avoid` get nothing.

    Moves that the map has left behind are passed over, and so are those off and to devices that are not up. While a
    position moves, its shards lie on both devices: of both no domain may hold more than m shards of an extent.
    """
    level = check_cluster_settings(map_.level, map_.default_profile)
    domains = {device.number: domain_of(device, level) for device in placed(map_.devices.values())}
    stopped = set(blocked)
    groups: dict[int, dict[int, int]] = {}
    for shift in shifts:
        pg, given = map_.pgs[shift.pg], groups.get(shift.pg, {})
        may = (
            shift.pg not in stopped
            and pg.positions[shift.position] == Position(shift.source)
            and shift.position not in given
            and shift.device not in avoid
            and all(is_up(map_, number) for number in (shift.source, shift.device))
        )
        if may and _fits(pg, {**given, shift.position: shift.device}, domains):
            groups.setdefault(shift.pg, {})[shift.position] = shift.device
        else:
            stopped.add(shift.pg)  # what comes later in this PG rests on what comes before
    changed, marks = [], {}
    for pg_id, given in groups.items():
        pg = map_.pgs[pg_id]
        group = [given.get(index, place.device) for index, place in enumerate(pg.positions)]
        moved, mark = _given(map_, pg, group)
        if mark is not None:
            changed.append(moved)
            marks[pg_id] = mark
    return Moves((), tuple(changed), marks)


def is_up(map_: ClusterMap, number: int) -> bool:
    """Whether the device is in the map, and up."""
    device = map_.devices.get(number)
    return device is not None and device.state == "up"


def _fits(pg: PlacementGroup, given: Mapping[int, int], domains: Mapping[int, str]) -> bool:
    """Whether all devices differ, and no domain gets too much, wherever each shard lies meanwhile."""
    holders: list[tuple[int, ...]] = []
    for index, place in enumerate(pg.positions):
        holders.append(tuple({number for number in (place.device, place.source, given.get(index, 0)) if number}))
    numbers = [number for held in holders for number in held]
    counts = Counter(domain for held in holders for domain in {domains.get(number, "") for number in held})
    return len(set(numbers)) == len(numbers) and all(counts[domains[number]] <= pg.m for number in given.values())


class _State:
    """What is known of devices and of what PGs lack."""

    def __init__(self, map_: ClusterMap, leaving: frozenset[int], full: frozenset[int], lacks: Iterable[Lack]) -> None:
        self._map = map_
        self._leaving = leaving
        self.full = full
        self._work: Counter[int] = Counter()
        self._beyond: set[int] = set()
        for lack in lacks:
            self._work[lack.pg] |= lack.masks.work
            pg = map_.pgs.get(lack.pg)
            if pg is not None and (lack.masks.missing | lack.masks.gone).bit_count() > pg.m:
                self._beyond.add(lack.pg)

    def away(self, number: int) -> bool:
        """Whether the device is to hold nothing, or cannot."""
        return not serves(self._map, number) or number in self._leaving

    def vacant(self, pg: PlacementGroup) -> int:
        """The positions that need another device.

        A device that serves is not left where extents cannot be read for now: their last hope may be a source that is
        away, and would be forgotten.
        """
        bits = 0
        for index, place in enumerate(pg.positions):
            if not serves(self._map, place.device):
                bits |= (not self._takes_back(place) or place.source in self._leaving) << index
            elif place.source and serves(self._map, place.source):
                continue
            elif (place.device in self._leaving and pg.id not in self._beyond) or self._crowded(pg, index):
                bits |= 1 << index
        return bits

    def turned(self, pg: PlacementGroup) -> int:
        """The positions that go back to their source."""
        return sum(
            1 << index
            for index, place in enumerate(pg.positions)
            if self._takes_back(place)
            and (
                # a source that is to leave takes it back only so that it can go elsewhere with all that it has
                self._crowded(pg, index) if serves(self._map, place.device) else place.source not in self._leaving
            )
        )

    def _takes_back(self, place: Position) -> bool:
        """Whether the position's source can be its device again: it has what it had, and room for the rest."""
        return serves(self._map, place.source) and place.source not in self.full

    def _crowded(self, pg: PlacementGroup, index: int) -> bool:
        """Whether the position's device has no room for what it is still to get."""
        wanting = bool(self._work[pg.id] >> index & 1)
        return wanting and pg.positions[index].device in self.full and pg.id not in self._beyond

    def candidates(self) -> list[int]:
        """The devices that may get positions."""
        return [
            number
            for number, device in self._map.devices.items()
            if device.state == "up" and not self.away(number) and number not in self.full and has_room(device)
        ]


def has_room(device: Device) -> bool:
    """Whether a device may be given further positions."""
    return device.used <= FULL_ABOVE * max(1, device.capacity)


def _filled(map_: ClusterMap, vacant: Mapping[int, int], state: _State) -> dict[int, tuple[int | None, ...]]:
    level = check_cluster_settings(map_.level, map_.default_profile)
    loads = Counter(place.device for pg in map_.pgs.values() for place in pg.positions)
    vacancies = {
        pg_id: Vacancy(
            tuple(None if bits >> index & 1 else place.device for index, place in enumerate(map_.pgs[pg_id].positions)),
            map_.pgs[pg_id].m,
            frozenset(place.source for place in map_.pgs[pg_id].positions if place.source),
        )
        for pg_id, bits in vacant.items()
    }
    return replace_devices(vacancies, placed(map_.devices.values()), state.candidates(), loads, level)


def _turned(map_: ClusterMap, pg: PlacementGroup, bits: int) -> tuple[PlacementGroup, MarkRow]:
    """The PG with device and source of these positions exchanged, and the note about it."""
    positions = list(pg.positions)
    gone = lost = 0
    for index, place in enumerate(pg.positions):
        if bits >> index & 1:
            known = place.device in map_.devices
            positions[index] = Position(place.source, place.device if known else 0)
            gone |= (known and not serves(map_, place.device)) << index
            lost |= (not known) << index
    generation = pg.generation + 1
    mark = MarkRow(generation, gone=gone, lost=lost, back=bits)
    return replace(pg, generation=generation, positions=tuple(positions)), mark


def _given(map_: ClusterMap, pg: PlacementGroup, group: Sequence[int | None]) -> tuple[PlacementGroup, MarkRow | None]:
    """The PG with the devices of `group`, and the note about it; None where nothing changes."""
    positions = list(pg.positions)
    gone = moving = lost = 0
    for index, number in enumerate(group):
        old = positions[index]
        if number is None or number == old.device:
            continue
        if old.source and serves(map_, old.source) and not serves(map_, old.device):
            positions[index] = Position(number, old.source)
            lost |= 1 << index
        else:
            positions[index] = Position(number, old.device)
            lost |= bool(old.source) << index
            if serves(map_, old.device):
                moving |= 1 << index
            else:
                gone |= 1 << index
    if not gone | moving | lost:
        return pg, None
    generation = pg.generation + 1
    return replace(pg, generation=generation, positions=tuple(positions)), MarkRow(generation, gone, moving, lost)


def serves(map_: ClusterMap, number: int) -> bool:
    """Whether the device is in the map, and up or only down for a while."""
    device = map_.devices.get(number)
    return device is not None and device.state in IN_SERVICE


def _held_at_sources(lacks: Iterable[Lack]) -> dict[int, int]:
    """By PG the positions of which some extent's shard still lies at the source."""
    held: dict[int, int] = {}
    for lack in lacks:
        held[lack.pg] = held.get(lack.pg, 0) | lack.masks.gone | lack.masks.moving
    return held


def _released(pg: PlacementGroup, held: int) -> PlacementGroup | None:
    """The PG without the sources that are not needed any more; None where all are."""
    positions = tuple(
        Position(place.device) if place.source and not held >> index & 1 else place
        for index, place in enumerate(pg.positions)
    )
    if positions == pg.positions:
        return None
    return replace(pg, generation=pg.generation + 1, positions=positions)


def _names_no_more(before: PlacementGroup, after: PlacementGroup) -> Iterable[Released]:
    for index, (old, new) in enumerate(zip(before.positions, after.positions, strict=True)):
        for number in {old.device, old.source} - {new.device, new.source, 0}:
            yield Released(before.id, index, number, after.generation)


def named(pgs: Iterable[PlacementGroup]) -> set[int]:
    """The devices that PGs name."""
    return {number for pg in pgs for place in pg.positions for number in (place.device, place.source) if number}


def _left(map_: ClusterMap, changed: Mapping[int, PlacementGroup]) -> tuple[Device, ...]:
    """The devices that are not named any more, in their next incarnation."""
    if not changed:
        return ()
    suspects = named(map_.pgs[pg_id] for pg_id in changed) - named(changed.values())
    suspects -= named(pg for pg in map_.pgs.values() if pg.id not in changed)
    return tuple(
        replace(device, incarnation=device.incarnation + 1, used=0, state="out")
        for number in sorted(suspects)
        if (device := map_.devices.get(number)) is not None and device.state != "failed"
    )
