"""The cluster map of a catalog that is begun anew, where its copy is older than what devices heard of. Pure.

Where shards lie is told by the newest map that anybody heard of and that the copy has not been through: a placement
group's positions are facts of that moment, whatever the copy remembers. An old folder may have been served for a while
before it is found to be old, and have told devices maps of its own, in later terms and with higher epochs than those
of the catalog that was lost: they do not count as news, for the copy knows which epochs it had in which term.

What the newer positions mean for the extents that the copy knows:

- As far as a position is as the copy has it, their rows stay right.
- A position that moved since, from start to end, gets the device that the copy has as its source, if that was not
  cleaned meanwhile. An extent that was dropped in between is there alone: nobody moved it along, and now it is live
  again. The others are at the new device; both are asked, and who copies finds out which it is (extents/rebuild.py).
- Else the shard is where the copy believes it, if the position names that device still, or at the source.

A device that the newer map does not have was taken out by an operator, and stays out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from reedbed.catalog.mapstate import Counters, Start
from reedbed.catalog.moves import named, serves
from reedbed.catalog.records import ExtentRow
from reedbed.protos.types import ClusterMap, Device, MapChange, PlacementGroup, Position

# above every epoch, and every generation of a PG, that was told and never heard of again
EPOCH_STEP: Final = 1_000_000
GENERATION_STEP: Final = 1000


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy has. starts: of the terms in which its map was changed. strayed: it may have been served, in the
    newest of its terms, after it was no longer the catalog."""

    map: ClusterMap
    counters: Counters
    starts: Sequence[Start] = ()
    strayed: bool = False

    def later(self, term: int) -> Start | None:
        """The first of its terms above this one in which its map was changed; as it was before."""
        return next((start for start in self.starts if start.term > term), None)

    def has_been(self, term: int, epoch: int) -> bool:
        """Whether a map that was told in this term is one that the copy has been through."""
        later = self.later(term)
        return epoch <= (later.epoch if later is not None else self.map.epoch)

    def strays_from(self, term: int) -> int:
        """The first device number that may have been given by the copy after a catalog of this term was lost."""
        later = self.later(term)
        if later is None and self.strayed:
            later = next((start for start in self.starts if start.term == term), Start())
        return self.counters.next_device if later is None else later.next_device


@dataclass(frozen=True, slots=True)
class Heard:
    """What devices tell: maps with the terms in which they were told, generations by PG; and who of them answered:
    uuids, and the numbers that they had."""

    maps: Sequence[tuple[int, ClusterMap]] = ()
    generations: Mapping[int, int] = field(default_factory=dict)
    uuids: Collection[bytes] = ()
    numbers: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class Remapped:
    """The map to begin with. changed: PGs with other positions than in the copy; rows of their extents follow.
    removed: devices that an operator took out since."""

    map: ClusterMap
    counters: Counters
    changed: frozenset[int]
    removed: tuple[Device, ...] = ()


def remap(copied: Copied, heard: Heard) -> Remapped:
    """The newest map, in a later epoch than any, with each PG in a generation above all that anybody knows."""
    copy = copied.map
    news = [(term, map_) for term, map_ in heard.maps if not copied.has_been(term, map_.epoch)]
    term, newest = max(news, key=lambda one: (one[0], one[1].epoch), default=(0, copy))
    removed = () if newest is copy else _removed(copied, newest, term, heard)
    devices = dict(newest.devices)
    known = {device.uuid for device in (*newest.devices.values(), *removed)}
    for number, device in copy.devices.items():
        if device.uuid not in known:
            devices.setdefault(number, device)
    map_ = replace(copy, devices=devices)
    pgs = {
        pg_id: _joined(copy, pg, map_) if pg_id in copy.pgs else pg for pg_id, pg in {**copy.pgs, **newest.pgs}.items()
    }
    changed = frozenset(pg_id for pg_id, pg in copy.pgs.items() if pg.positions != pgs[pg_id].positions)
    for pg_id, pg in pgs.items():
        generations = [one.pgs[pg_id].generation for _, one in (*heard.maps, (0, copy)) if pg_id in one.pgs]
        highest = max(*generations, heard.generations.get(pg_id, 0), 0)
        pgs[pg_id] = replace(pg, generation=highest + GENERATION_STEP)
    epochs = [copy.epoch, *(one.epoch for _, one in heard.maps)]
    return Remapped(
        replace(map_, epoch=max(epochs) + EPOCH_STEP, pgs=pgs),
        _counters(copied, heard, devices),
        changed,
        removed,
    )


def _removed(copied: Copied, newest: ClusterMap, term: int, heard: Heard) -> tuple[Device, ...]:
    """The devices that the newest map does not have any more. Not those that joined only the copy, as it strayed: where
    that cannot be told from the terms, because the lost catalog had the same one, those that answer are such."""
    known = {device.uuid for device in newest.devices.values()}
    strays_from = copied.strays_from(term)
    certain = copied.later(term) is not None
    return tuple(
        device
        for number, device in sorted(copied.map.devices.items())
        if device.uuid not in known and (number < strays_from or not (certain or device.uuid in heard.uuids))
    )


def _counters(copied: Copied, heard: Heard, devices: Iterable[int]) -> Counters:
    """Above all numbers that anybody has heard of."""
    maps = [copied.map, *(one for _, one in heard.maps)]
    numbers = {*devices, *heard.numbers, *(number for one in maps for number in one.devices)}
    numbers.update(number for one in maps for number in named(one.pgs.values()))
    pgs = {*heard.generations, *(pg_id for one in maps for pg_id in one.pgs)}
    return Counters(
        max([copied.counters.next_device, *(number + 1 for number in numbers)]),
        max([copied.counters.next_pg, *(pg_id + 1 for pg_id in pgs)]),
    )


def _joined(copy: ClusterMap, pg: PlacementGroup, map_: ClusterMap) -> PlacementGroup:
    """A PG of the newest map, where the devices that the copy has are sources, as far as positions have none."""
    positions = []
    for old, new in zip(copy.pgs[pg.id].positions, pg.positions, strict=True):
        before = old.source if old.device == new.device else old.device
        if new.source or before not in copy.devices or not serves(map_, before):
            positions.append(new)
            continue
        then, now = copy.devices[before], map_.devices[before]
        same = (then.uuid, then.incarnation) == (now.uuid, now.incarnation)
        positions.append(Position(new.device, before) if same else new)
    return replace(pg, positions=tuple(positions))


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


def realigned(row: ExtentRow, old: PlacementGroup, new: PlacementGroup, map_: ClusterMap) -> ExtentRow:
    """A live extent's row, which is right as of the PG `old`, as of its new positions: see the module's text.

    A row that is so already, from a beginning that was cut short, counts as lying at every source that there is now.
    What lies at a source that the PG names for another position too costs redundancy: one loss may take both.
    """
    gone = moving = 0
    done = row.generation > old.generation
    names = Counter(number for place in new.positions for number in (place.device, place.source))
    for index, (before, place) in enumerate(zip(old.positions, new.positions, strict=True)):
        bit = 1 << index
        if not row.present & bit or not place.source:
            continue
        holder = before.source if (row.gone | row.moving) & bit else before.device
        at_source = done or holder != place.device
        apart = serves(map_, place.source) and names[place.source] == 1
        if at_source and ((row.gone & bit and place == before) or not apart):
            gone |= bit
        elif at_source:
            moving |= bit
    return msgspec.structs.replace(row, generation=new.generation, gone=gone, moving=moving)
