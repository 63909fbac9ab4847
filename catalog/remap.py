"""The cluster map of a catalog that is begun anew, where its copy is older than what devices heard of. Pure.

Where shards lie is told by the newest map that anybody heard of: a placement group's positions, and its generation, are
facts of that moment, whatever the copy remembers. What they mean for the extents that the copy knows:

- A position with a source: the shard is at the source, and may be at the device too. It counts as moving (or as gone,
  if the source is not in service), and is copied once more: putting a shard again is harmless.
- A position without: the shard is at the device. If it is not, the comparison that follows finds that out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from reedbed.catalog.mapstate import Counters
from reedbed.catalog.moves import IN_SERVICE
from reedbed.catalog.records import ExtentRow
from reedbed.protos.types import ClusterMap, MapChange, PlacementGroup

EPOCH_STEP: Final = 1_000_000  # above every epoch that was told and never heard of again


@dataclass(frozen=True, slots=True)
class Remapped:
    """The map to begin with; `changed`: PGs that are not as the copy has them, and rows of their extents follow."""

    map: ClusterMap
    counters: Counters
    changed: frozenset[int]


def remap(
    copy: ClusterMap,
    counters: Counters,
    copy_term: int,
    heard: ClusterMap | None,
    heard_term: int,
    generations: Mapping[int, int],
) -> Remapped:
    """The newer of the two maps, in a later epoch than either, with no PG's generation below what a device knows."""
    devices, pgs = dict(copy.devices), dict(copy.pgs)
    epoch = copy.epoch
    if heard is not None:
        epoch = max(epoch, heard.epoch)
        if (heard_term, heard.epoch) > (copy_term, copy.epoch):
            devices = dict(heard.devices)
            pgs.update(heard.pgs)
            named = {place.device for pg in pgs.values() for place in pg.positions}
            devices.update(
                (number, copy.devices[number]) for number in named - devices.keys() if number in copy.devices
            )
    for pg_id, pg in pgs.items():
        known = generations.get(pg_id, 0)
        if known > pg.generation:
            pgs[pg_id] = replace(pg, generation=known + 1)
    return Remapped(
        replace(copy, epoch=epoch + EPOCH_STEP, devices=devices, pgs=pgs),
        Counters(
            max([counters.next_device, *(number + 1 for number in devices)]),
            max([counters.next_pg, *(pg_id + 1 for pg_id in pgs)]),
        ),
        frozenset(pg_id for pg_id, pg in pgs.items() if copy.pgs.get(pg_id) != pg and pg_id in copy.pgs),
    )


def change_to(copy: ClusterMap, new: ClusterMap) -> MapChange:
    """What makes the stored map of the copy the new one."""
    return MapChange(
        base=copy.epoch,
        epoch=new.epoch,
        cluster=new.cluster,
        devices=tuple(device for number, device in new.devices.items() if copy.devices.get(number) != device),
        removed_devices=tuple(number for number in copy.devices if number not in new.devices),
        pgs=tuple(pg for pg_id, pg in new.pgs.items() if copy.pgs.get(pg_id) != pg),
        default_profile=new.default_profile,
        level=new.level,
    )


def realigned(row: ExtentRow, pg: PlacementGroup, map_: ClusterMap) -> ExtentRow:
    """A live extent's row as of the PG's new positions: see the module's text."""
    gone = moving = 0
    for index, place in enumerate(pg.positions):
        if place.source and row.present >> index & 1:
            source = map_.devices.get(place.source)
            if source is not None and source.state in IN_SERVICE:
                moving |= 1 << index
            else:
                gone |= 1 << index
    return msgspec.structs.replace(row, generation=pg.generation, gone=gone, moving=moving)
