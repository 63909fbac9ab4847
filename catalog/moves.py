"""Which positions are given to other devices, and which sources are released. Pure: from a map to the next one.

What holds for every plan:

- A position moves only off a device that is out, failed or leaving, and only to one that is up, has room, and keeps the
  failure domains; where there is none it stays, and is planned again with the next map.
- The old device becomes the position's source until every extent of the PG has its shard at the new one; so a device
  that comes back before that serves what it has. A position has one source: of two candidates the one in service.
- A PG changes only when what its last change did is noted in all of its extents (`MarkRow`).
- A device that no PG names any more gets a new incarnation: what it still holds must not be trusted when it comes back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from reedbed.catalog.lacks import Lack
from reedbed.catalog.mapstate import check_cluster_settings, placed
from reedbed.catalog.placement import Vacancy, replace_devices
from reedbed.catalog.records import MarkRow
from reedbed.protos.types import ClusterMap, Device, PlacementGroup, Position

FULL_ABOVE: Final = 0.9  # of its size: then a device is given no further positions
IN_SERVICE: Final = ("up", "down")


@dataclass(frozen=True, slots=True)
class Moves:
    """What is to change in the map; `marks` by PG. `stuck` positions have no device to go to."""

    devices: tuple[Device, ...] = ()
    pgs: tuple[PlacementGroup, ...] = ()
    marks: Mapping[int, MarkRow] = field(default_factory=dict)
    stuck: int = 0


def plan_moves(
    map_: ClusterMap,
    marked: Collection[int],
    lacks: Iterable[Lack],
    leaving: Collection[int] = frozenset(),
    unripe: Collection[int] = frozenset(),
) -> Moves:
    """What to do now. `marked`: PGs that must not change yet; `leaving`: devices that are to hold nothing.

    `unripe`: PGs whose sources in service may have acknowledged what is not committed yet, and stay.
    """
    away = {number for number, device in map_.devices.items() if device.state not in IN_SERVICE or number in leaving}
    vacant = {
        pg.id: pg
        for pg in map_.pgs.values()
        if pg.id not in marked
        and any(place.device in away or place.device not in map_.devices for place in pg.positions)
    }
    changed: dict[int, PlacementGroup] = {}
    marks: dict[int, MarkRow] = {}
    stuck = 0
    if vacant:
        for pg_id, group in _filled(map_, vacant.values(), away).items():
            pg, mark = _given(map_, vacant[pg_id], group)
            stuck += sum(1 for number in group if number is None)
            if mark is not None:
                changed[pg_id], marks[pg_id] = pg, mark
    held = _held_at_sources(lacks)
    for pg in map_.pgs.values():
        if pg.id in marked or pg.id in changed or not any(place.source for place in pg.positions):
            continue
        kept = held.get(pg.id, 0)
        if pg.id in unripe:
            kept |= sum(1 << index for index, place in enumerate(pg.positions) if _serves(map_, place.source))
        released = _released(pg, kept)
        if released is not None:
            changed[pg.id] = released
    return Moves(_left(map_, changed), tuple(changed.values()), marks, stuck)


def _filled(
    map_: ClusterMap, vacant: Iterable[PlacementGroup], away: Collection[int]
) -> dict[int, tuple[int | None, ...]]:
    level = check_cluster_settings(map_.level, map_.default_profile)
    candidates = [
        number
        for number, device in map_.devices.items()
        if device.state == "up" and number not in away and device.used <= FULL_ABOVE * max(1, device.capacity)
    ]
    loads = Counter(place.device for pg in map_.pgs.values() for place in pg.positions)
    vacancies = {
        pg.id: Vacancy(
            tuple(
                place.device if place.device in map_.devices and place.device not in away else None
                for place in pg.positions
            ),
            pg.m,
            frozenset(place.source for place in pg.positions if place.source),
        )
        for pg in vacant
    }
    return replace_devices(vacancies, placed(map_.devices.values()), candidates, loads, level)


def _given(map_: ClusterMap, pg: PlacementGroup, group: Sequence[int | None]) -> tuple[PlacementGroup, MarkRow | None]:
    """The PG with the devices of `group`, and the note about it; None where nothing changes."""
    positions = list(pg.positions)
    gone = moving = lost = 0
    for index, number in enumerate(group):
        old = positions[index]
        if number is None or number == old.device:
            continue
        if old.source and _serves(map_, old.source) and not _serves(map_, old.device):
            positions[index] = Position(number, old.source)
            lost |= 1 << index
        else:
            positions[index] = Position(number, old.device)
            if _serves(map_, old.device):
                moving |= 1 << index
            else:
                gone |= 1 << index
    if not gone | moving | lost:
        return pg, None
    generation = pg.generation + 1
    return replace(pg, generation=generation, positions=tuple(positions)), MarkRow(generation, gone, moving, lost)


def _serves(map_: ClusterMap, number: int) -> bool:
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
        replace(device, incarnation=device.incarnation + 1, used=0)
        for number in sorted(suspects)
        if (device := map_.devices.get(number)) is not None and device.state != "failed"
    )
