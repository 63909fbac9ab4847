"""How safe the extents of each PG are now. Pure but for looks at the engine.

Never too high: an extent without a shard at a position that is away may survive one more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from reedbed.catalog import lacks
from reedbed.catalog.engine import Reader
from reedbed.catalog.lacks import Lack, Masks
from reedbed.catalog.records import MarkRow
from reedbed.ec.profiles import Profile
from reedbed.protos.types import ClusterMap, PlacementGroup


def by_pg(reader: Reader, map_: ClusterMap, found: Iterable[Lack], waiting: Mapping[int, MarkRow]) -> dict[int, int]:
    """How many more devices the extents of each PG survive, whatever they are; below 0 where some cannot be had now.

    PGs without extents are left out where they would survive fewer than others. `waiting`: the marks.
    """
    up = {number for number, device in map_.devices.items() if device.state == "up"}
    held: dict[int, list[Masks]] = {}
    for lack in found:
        held.setdefault(lack.pg, []).append(lack.masks)
    least: dict[int, int] = {}
    for pg in map_.pgs.values():
        kinds = held.get(pg.id, [])
        survives = min(pg.m - lost.bit_count() for lost in _lost(pg, kinds, up, waiting.get(pg.id)))
        if survives == pg.m or kinds or next(lacks.extents_of(reader, pg.id), None) is not None:
            least[pg.id] = survives
    return least


def _lost(pg: PlacementGroup, kinds: Iterable[Masks], up: Collection[int], mark: MarkRow | None) -> list[int]:
    """The positions whose shards cannot be had now: of extents that lack nothing, and of each kind that does.

    Which extents a mark is noted in already, nobody knows here: what it may say of any counts for all.
    """
    away = sources_away = 0
    unsure = mark.lost if mark is not None else 0
    for position, place in enumerate(pg.positions):
        away |= (place.device not in up) << position
        # a source that was released while a commit still counted on it is away too
        sources_away |= (place.source not in up) << position
        if place.source and place.source not in up:
            unsure |= (mark is not None) << position
    lost = []
    for masks in (*kinds, Masks()):
        at_source = masks.gone | masks.moving
        lost.append(masks.missing | (at_source & sources_away) | (away & ~at_source) | unsure)
    return lost


def by_profile(map_: ClusterMap, least: Mapping[int, int]) -> dict[str, int]:
    """The same for all PGs of each profile together."""
    found: dict[str, int] = {}
    for pg in map_.pgs.values():
        name = Profile(pg.k, pg.m).name
        found[name] = min(found.get(name, pg.m), least.get(pg.id, pg.m))
    return dict(sorted(found.items()))
