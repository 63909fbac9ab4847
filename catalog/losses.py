"""What would be lost with a device: extents that could not be read any more, and the objects that lie in them.

A shard counts as left if the row counts on it, and its device is up and not the one that goes: those that are down may
come back or not, and the one that goes may be the last hope where they do not. Walks are made some
rows at a time, so what is written meanwhile may count or not; a new extent never rests on one device.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from reedbed.catalog import extents, keys, lacks, mending, records
from reedbed.catalog.comparing import holder
from reedbed.catalog.engine import Engine, Reader
from reedbed.catalog.lacks import Lack
from reedbed.catalog.moves import is_up
from reedbed.catalog.records import ExtentRow, SliceRow, VersionRow
from reedbed.catalog.slices import page_of_list
from reedbed.common.ids import Id, format_id
from reedbed.common.limits import SLICES_CHUNK
from reedbed.protos.names import shown
from reedbed.protos.types import ClusterMap, PlacementGroup

PAGE: Final = 500  # rows between two looks at what else there is to do
NAMED: Final = 10  # objects that are told by name


@dataclass(frozen=True, slots=True)
class Losses:
    """`bytes` of the lost extents that objects name; `names` of some of the `objects`."""

    extents: int = 0
    bytes: int = 0
    objects: int = 0
    names: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        return {"extents": self.extents, "bytes": self.bytes, "objects": self.objects, "names": list(self.names)}


async def find_losses(engine: Engine, map_: ClusterMap, number: int) -> Losses:
    """What could not be read without the device, as things are now."""
    with engine.read() as reader:
        found, marked = lacks.lacks(reader), mending.marks(reader)
    lost: dict[Id, int] = {}
    for pg in map_.pgs.values():
        if pg.id in marked or may_lose(map_, pg, found, number):
            await _of_pg(engine, map_, pg, number, lost)
    if not lost:
        return Losses()
    names = [name async for name in _objects(engine, lost)]
    return Losses(len(lost), sum(lost.values()), len(names), tuple(sorted(names)[:NAMED]))


def may_lose(map_: ClusterMap, pg: PlacementGroup, found: Iterable[Lack], number: int) -> bool:
    """Whether an extent of a PG without a mark could be short of shards without the device; from counts alone, so it
    may be wrong where it says so."""
    names = [(place.device, place.source) for place in pg.positions]
    if not any(number in pair for pair in names):
        return False
    gone = sum(
        any(one and (one == number or not is_up(map_, one)) for one in pair) << i for i, pair in enumerate(names)
    )
    missing = [lack.masks.missing for lack in found if lack.pg == pg.id]
    return any((gone | bits).bit_count() > pg.m for bits in (0, *missing))


async def _of_pg(engine: Engine, map_: ClusterMap, pg: PlacementGroup, number: int, lost: dict[Id, int]) -> None:
    after = b""
    while True:
        with engine.read() as reader:
            mark = mending.get_mark(reader, pg.id)
            page = list(islice(lacks.extents_of(reader, pg.id, after), PAGE))
            for extent_id in page:
                row = extents.get(reader, extent_id)
                if row is not None and _is_lost(map_, pg, mending.as_of(row, mark), number):
                    lost[extent_id] = row.live
        if len(page) < PAGE:
            return
        after = page[-1]
        await asyncio.sleep(0)


def _is_lost(map_: ClusterMap, pg: PlacementGroup, row: ExtentRow, number: int) -> bool:
    """Whether the device has a shard of the extent, and those of others do not suffice."""
    holders = [holder(pg, row, index) for index in range(row.k + row.m) if row.present >> index & 1]
    left = sum(1 for one in holders if one != number and is_up(map_, one))
    needed = row.k - sum(1 for length in row.lengths if not length)
    return number in holders and left < needed


async def _objects(engine: Engine, lost: Container[bytes]) -> AsyncIterator[str]:
    """The names of objects that have a slice in one of these extents; versions that are not the latest with theirs."""
    buckets: dict[int, tuple[str, bool]] = {}
    with engine.read() as reader:
        for key, data in reader.scan(keys.BUCKETS, keys.after(keys.BUCKETS)):
            row = records.BUCKET.decode(data, key)
            buckets[row.number] = key[len(keys.BUCKETS) :].decode(), row.versioned
    for number, (name, versioned) in buckets.items():
        prefix = keys.versions(number) if versioned else keys.objects(number)
        start = prefix
        while True:
            with engine.read() as reader:
                page = list(islice(reader.scan(start, keys.after(prefix)), PAGE))
                found = [_name(name, versioned, key, row) for key, row in _touched(reader, page, lost)]
            for one in found:
                yield one
            if len(page) < PAGE:
                break
            start = page[-1][0] + b"\x00"
            await asyncio.sleep(0)


def _touched(
    reader: Reader, page: Iterable[tuple[bytes, bytes]], lost: Container[bytes]
) -> Iterator[tuple[bytes, VersionRow]]:
    for key, data in page:
        row = records.VERSION.decode(data, key)
        if any(slice_.extent in lost for slice_ in _slices(reader, row)):
            yield key, row


def _slices(reader: Reader, row: VersionRow) -> Iterator[SliceRow]:
    yield from row.slices
    first = 0
    while row.slice_list is not None and (part := page_of_list(reader, Id(row.slice_list), first, SLICES_CHUNK)):
        yield from part
        first += len(part)


def _name(bucket: str, versioned: bool, key: bytes, row: VersionRow) -> str:
    if not versioned:
        return f"reedbed://{bucket}/{shown(key[5:])}"
    return f"reedbed://{bucket}/{shown(keys.split_version(key)[0])} (version {format_id(row.version)})"
