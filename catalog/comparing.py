"""What devices hold against what they should hold, both ways; and shards that devices report as damaged.

Invariants
- A shard is noted as missing only if the row, by the map and the marks of the same transaction, says that this device
  is the one that holds it. A damaged shard stays reported until its extent's id is below the horizon: until then a
  request may bring the extent along, new or once more or to revive it, and count the shard again.
- Garbage is a shard of a live extent on a device that is neither that of its position nor its source, and a shard of an
  extent that nobody knows: one whose commit never came. Either only below the durable horizon, where no commit can name
  it any more. Dropped extents are the collector's.
- Both are kept, and counted as unknown, as far as they are held (hold.py), and while a device in service has not told
  what it remembers of its catalog (warden.py): then this catalog may be older than its devices, and not know it yet.
  So is what nobody knows on a placement group that the map does not have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import msgspec

from reedbed.catalog import extents, keys, lacks, mending, records
from reedbed.catalog.carry_on import carried_on
from reedbed.catalog.edit import Edit, editing
from reedbed.catalog.engine import Engine, Reader, Writer
from reedbed.catalog.hold import NO_HOLD, Hold
from reedbed.catalog.leases import Leases, Transactor
from reedbed.catalog.mapkeeper import MapKeeper
from reedbed.catalog.needs import Needs
from reedbed.catalog.records import ExtentRow
from reedbed.catalog.removals import Order, Removals
from reedbed.catalog.warden import Warden
from reedbed.common import logs
from reedbed.common.ids import Id
from reedbed.extents.digest import ShardsDigest
from reedbed.protos.types import ClusterMap, PlacementGroup

SCAN: Final = 2000  # extents that are looked at without a pause, and by one call at most

_log = logs.get("catalog.comparing")


@dataclass(frozen=True, slots=True)
class Held:
    """One shard that a device has."""

    extent: Id
    index: int
    pg: int
    length: int


ShardKey = tuple[Id, int]


@dataclass(slots=True)
class Compared:
    """What the comparison of a range found; `upto` is where it ended, None at the end of all extents.

    suspects: shards that the device should have and did not tell; it is asked to look again. missing: how many of the
    absent ones are noted. unknown: shards of extents that nobody knows, and that are kept.
    """

    upto: Id | None = None
    suspects: list[ShardKey] = field(default_factory=list)
    missing: int = 0
    garbage: int = 0
    unknown: int = 0


def holder(pg: PlacementGroup, row: ExtentRow, index: int) -> int:
    """The device that is counted on for this shard; 0 if none is."""
    if not row.present >> index & 1 or index >= len(pg.positions):
        return 0
    place = pg.positions[index]
    return place.source if (row.gone | row.moving) >> index & 1 else place.device


def expected(reader: Reader, map_: ClusterMap, device: int, extent_id: Id, row: ExtentRow) -> Iterator[tuple[int, int]]:
    """(index, length) of the shards of a live extent that a device is counted on for."""
    pg = map_.pgs.get(row.pg)
    if pg is None:
        return
    row = mending.as_of(row, mending.get_mark(reader, row.pg))
    for index in range(len(pg.positions)):
        if holder(pg, row, index) == device:
            yield index, lacks.shard_length(row, index)


def note_lost(edit: Edit, map_: ClusterMap, device: int, shard: ShardKey) -> tuple[bool, bool]:
    """A device does not have this shard whole: whether that need not be told again, and whether it was counted on."""
    extent_id, index = shard
    for_good = edit.below_horizon(extent_id)
    old = extents.get(edit.writer, extent_id)
    if old is None or old.dropped_ms is not None:
        return for_good, False
    row = mending.as_of(old, mending.get_mark(edit.writer, old.pg))
    pg = map_.pgs.get(row.pg)
    if pg is None or holder(pg, row, index) != device:
        return for_good, False
    keep = ~(1 << index)
    new = msgspec.structs.replace(row, present=row.present & keep, gone=row.gone & keep, moving=row.moving & keep)
    lacks.store(edit, extent_id, old, new)
    return for_good, True


class Comparing:
    """See the module's text. Belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        transactor: Transactor,
        leases: Leases,
        keeper: MapKeeper,
        needs: Needs,
        removals: Removals,
        hold: Hold = NO_HOLD,
        warden: Warden | None = None,
    ) -> None:
        """Without a `warden` all devices count as heard."""
        self._hold = hold
        self._warden = warden
        self._engine = engine
        self._transactor = transactor
        self._leases = leases
        self._keeper = keeper
        self._needs = needs
        self._removals = removals
        self._under_way: set[asyncio.Future[Any]] = set()

    async def lost(self, reports: Mapping[int, tuple[int, Sequence[ShardKey]]]) -> dict[int, list[ShardKey]]:
        """By device its incarnation and shards that it found damaged; returns those that need not be told again."""

        def write(writer: Writer) -> dict[int, list[ShardKey]]:
            with editing(writer, self._needs) as edit:
                map_ = self._keeper.deciding()
                return {
                    device: [shard for shard in shards if note_lost(edit, map_, device, shard)[0]]
                    for device, (incarnation, shards) in reports.items()
                    if _is_same(map_, device, incarnation)
                }

        return await self._transactor.run(write, urgent=True)

    def below(self) -> Id:
        """Where the digests of a comparison end: what is above may still change."""
        return self._leases.horizon()

    async def differing(self, device: int, below: Id, digests: Mapping[int, ShardsDigest]) -> list[int]:
        """The PGs in which the device holds something else than it should, of extents with ids below `below`."""
        map_ = self._keeper.map
        found = []
        for pg in list(map_.pgs.values()):
            concerned = any(device in (place.device, place.source) for place in pg.positions)
            if not concerned and pg.id not in digests:
                continue
            if await self._expected_digest(map_, device, pg.id, below) != digests.get(pg.id, ShardsDigest()):
                found.append(pg.id)
        return found + [pg for pg in digests if pg not in map_.pgs]

    async def _expected_digest(self, map_: ClusterMap, device: int, pg: int, below: Id) -> ShardsDigest:
        digest = ShardsDigest()
        after = b""
        while True:
            with self._engine.read() as reader:
                page = list(islice(lacks.extents_of(reader, pg, after), SCAN))
                for extent_id in page:
                    if extent_id >= below:
                        return digest
                    row = extents.get(reader, extent_id)
                    assert row is not None, extent_id.hex()
                    for index, length in expected(reader, map_, device, extent_id, row):
                        digest.add(extent_id, index, length)
            if len(page) < SCAN:
                return digest
            after = page[-1]
            await asyncio.sleep(0)

    async def shards(
        self,
        device: int,
        incarnation: int,
        below: Id,
        pgs: Iterable[int],
        after: bytes,
        upto: bytes,
        held: Sequence[Held],
        absent: Sequence[ShardKey],
    ) -> Compared:
        """Compare the extents behind `after` up to `upto` (empty: all), of these PGs or from `below` on."""
        chosen = frozenset(pgs)
        sure = self._warden is None or not self._warden.unheard(self._keeper.map)

        def write(writer: Writer) -> tuple[Compared, list[Order]]:
            with editing(writer, self._needs) as edit:
                map_ = self._keeper.deciding()
                compared = Compared()
                if not _is_same(map_, device, incarnation):
                    return compared, []
                for shard in absent:
                    compared.missing += note_lost(edit, map_, device, shard)[1]
                has = {(one.extent, one.index): one for one in held}
                self._find_missing(writer, map_, device, below, chosen, after, upto, has, compared)
                end = compared.upto
                surplus = [one for one in held if end is None or one.extent <= end]
                orders = self._find_garbage(edit, map_, device, surplus, compared, sure)
                return compared, orders

        async def carry_out() -> Compared:
            compared, orders = await self._transactor.run(write)
            self._removals.written(orders)
            return compared

        compared = await carried_on(carry_out(), self._under_way)
        if compared.missing or compared.garbage:
            _log.warning(
                "device %d: %d shards missing, %d shards of nobody", device, compared.missing, compared.garbage
            )
        return compared

    def _find_missing(
        self,
        reader: Reader,
        map_: ClusterMap,
        device: int,
        below: Id,
        pgs: frozenset[int],
        after: bytes,
        upto: bytes,
        has: Mapping[ShardKey, Held],
        compared: Compared,
    ) -> None:
        start = keys.EXTENTS + after + b"\x00" if after else keys.EXTENTS
        end = keys.EXTENTS + upto + b"\x00" if upto else keys.after(keys.EXTENTS)
        compared.upto = Id(upto) if upto else None
        last = Id(after)
        for looked_at, (key, data) in enumerate(reader.scan(start, end)):
            if looked_at == SCAN:
                compared.upto = last
                return
            last = keys.last_id(key)
            row = records.EXTENT.decode(data, key)
            if row.dropped_ms is not None or (last < below and row.pg not in pgs):
                continue
            for index, length in expected(reader, map_, device, last, row):
                one = has.get((last, index))
                if one is None or one.length != length:
                    compared.suspects.append((last, index))

    def _find_garbage(
        self, edit: Edit, map_: ClusterMap, device: int, held: Iterable[Held], compared: Compared, sure: bool
    ) -> list[Order]:
        orders = []
        for one in held:
            if not edit.below_horizon(one.extent):
                continue
            row = extents.get(edit.writer, one.extent)
            pg = map_.pgs.get(one.pg)
            if row is not None and not _misplaced(pg, row, device, one):
                continue
            kept = self._hold.predates(one.extent) if row is not None else self._hold.covers(one.extent)
            if kept or not sure or pg is None:
                compared.unknown += 1
            else:
                orders.append(self._removals.add(edit.writer, device, one.extent, one.index, one.pg, pg.generation))
        compared.garbage += len(orders)
        return orders


def _is_same(map_: ClusterMap, device: int, incarnation: int) -> bool:
    known = map_.devices.get(device)
    return known is not None and known.incarnation == incarnation


def _misplaced(pg: PlacementGroup | None, row: ExtentRow, device: int, one: Held) -> bool:
    """Whether nobody will ever look for this shard of a known extent on the device."""
    if row.dropped_ms is not None or row.pg != one.pg or pg is None or one.index >= len(pg.positions):
        return False
    place = pg.positions[one.index]
    return device not in (place.device, place.source)
