"""The pieces of a catalog's copy, found and read without any catalog: by listing devices, and decoding what they hold.

Extents of the copy are told by their ids. Where the shards of one lie is what the devices list; the lengths of its data
shards are those listed, and of missing ones what the tables in its parity shards say. Reading is that of the extents
room: over a map made for the purpose, in which each extent has a placement group of its own. Every block is checked
against its sum, and each piece tells its own length, digest and place in the chain.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from reedbed.catalog import pieces
from reedbed.catalog.asking import Asking, ShardPlace
from reedbed.catalog.chain import Found, merged
from reedbed.catalog.pieces import HEAD_BYTES, Head
from reedbed.catalog.witness import Witness
from reedbed.common import logs
from reedbed.common.checksums import Buffer
from reedbed.common.clock import Clock, Deadline
from reedbed.common.errors import Corrupt, DataLoss, NewerFormat, ReedbedError, Unavailable
from reedbed.common.ids import ID_BYTES, SNAPSHOT, STREAM, Id, format_id, owner_of
from reedbed.common.metrics import Metrics
from reedbed.extents.choose import needed_positions
from reedbed.extents.latency import LatencyBook
from reedbed.extents.lengths import ask_lengths
from reedbed.extents.read import read_extent
from reedbed.protos.types import ClusterMap, Device, Extent, PlacementGroup, Position
from reedbed.transport.lane import Reply
from reedbed.transport.pool import LanePool

READ_S: Final = 60.0  # for one piece
AT_ONCE: Final = 16
_HIGHEST_INDEX: Final = 39

Progress = Callable[[int], None]  # bytes that were read

_log = logs.get("catalog.rebuild")


class _Access:
    """A ClusterAccess over the extents that were found."""

    def __init__(
        self, pool: LanePool, map_: ClusterMap, clock: Clock, latency: LatencyBook, rng: random.Random
    ) -> None:
        self._pool = pool
        self._map = map_
        self.clock = clock
        self.metrics = Metrics()
        self.rng = rng
        self.latency = latency

    @property
    def map(self) -> ClusterMap:
        return self._map

    def log_position(self) -> tuple[int, int]:
        return 0, 0

    async def refresh(self, newer_than: int, deadline: Deadline) -> ClusterMap:
        """There is no other."""
        deadline.check("reading a piece")
        return self._map

    async def call(
        self,
        device: Device,
        method: str,
        header: bytes,
        payload: Sequence[Buffer] = (),
        *,
        deadline: Deadline,
        into: memoryview | None = None,
    ) -> Reply:
        return await self._pool.call(device.address, method, header, payload, deadline=deadline, into=into)

    async def new_id(self, deadline: Deadline) -> Id:
        raise Unavailable("whoever gathers pieces writes none", retryable=False)


class Gathering:
    """See the module's text. Belongs to one event loop."""

    def __init__(self, pool: LanePool, asking: Asking, witness: Witness, clock: Clock, progress: Progress) -> None:
        self._pool = pool
        self._asking = asking
        self._witness = witness
        self._clock = clock
        self._progress = progress
        self._latency = LatencyBook()
        self._rng = random.Random()
        self._addresses = {device.number: answer.address for answer in witness.answers for device in answer.devices}
        self._places: dict[Id, dict[tuple[int, int], ShardPlace]] = {}  # by (index, device)
        self._heads: dict[Id, Head | None] = {}  # None: no piece, or one that cannot be read
        self.unreadable: dict[Id, ReedbedError] = {}

    @property
    def extents(self) -> int:
        """Extents of the copy that were found."""
        return len(self._places)

    async def find(self, begin: Id | None) -> list[Found]:
        """The pieces of the redo stream, and ends of snapshots, among the extents from `begin` on (None: among all)."""

        async def one(device: int, address: str) -> None:
            after = None if begin is None else (_before(begin), _HIGHEST_INDEX)
            more = True
            while more:
                found, more = await self._asking.shards(address, device, after, system=True)
                for place in found:
                    self._places.setdefault(place.extent, {})[place.index, place.device] = place
                if found:
                    after = found[-1].extent, found[-1].index

        results = await asyncio.gather(
            *(one(device, address) for device, address in self._addresses.items()), return_exceptions=True
        )
        for device, result in zip(self._addresses, results, strict=True):
            if isinstance(result, ReedbedError):
                _log.warning("device %d: its shards cannot be listed: %s", device, result)
            elif isinstance(result, BaseException):
                raise result
        await self._read_heads([id_ for id_ in self._places if owner_of(id_) == STREAM and id_ not in self._heads])
        return merged((head, id_) for id_, head in self._heads.items() if head is not None)

    async def _read_heads(self, extents: Iterable[Id]) -> None:
        room = asyncio.Semaphore(AT_ONCE)

        async def one(extent: Id) -> None:
            async with room:
                try:
                    head = pieces.decode_head(await self._read(extent, HEAD_BYTES), _where(extent))
                except NewerFormat:
                    raise
                except ReedbedError as error:
                    self.unreadable[extent] = error
                    self._heads[extent] = None
                    return
            self._heads[extent] = head if head.cluster == self._witness.cluster else None

        async with asyncio.TaskGroup() as group:
            for extent in extents:
                group.create_task(one(extent))

    async def body(self, found: Found) -> bytes:
        """The body of a piece. DataLoss, Unavailable or Corrupt if none of its extents can be read right."""
        last: ReedbedError = DataLoss("the piece is nowhere")
        for extent in found.extents:
            try:
                return await self._body(extent, found.head)
            except ReedbedError as error:
                last = error
        raise last

    async def rows_piece(self, extent: Id) -> tuple[Head, bytes]:
        """A piece of a snapshot's rows, which only its end names. Errors as of `body`."""
        if owner_of(extent) != SNAPSHOT:
            raise Corrupt("a snapshot names an extent that cannot be one of its pieces", where=_where(extent))
        raw = await self._read(extent, None)
        head = pieces.decode_head(raw, _where(extent))
        body = raw[HEAD_BYTES:]
        pieces.check_body(head, body, _where(extent))
        return head, body

    async def _body(self, extent: Id, head: Head) -> bytes:
        raw = await self._read(extent, None)
        if pieces.decode_head(raw, _where(extent)) != head:
            raise Corrupt("the piece is not what its head was", where=_where(extent))
        body = raw[HEAD_BYTES:]
        pieces.check_body(head, body, _where(extent))
        return body

    async def _read(self, extent_id: Id, length: int | None) -> bytes:
        """The first bytes of an extent, all of them for None."""
        places = list(self._places.get(extent_id, {}).values())
        if not places:
            raise DataLoss("no device that answers holds a shard of it", where=_where(extent_id))
        deadline = Deadline(READ_S, self._clock)
        access = _Access(self._pool, self._map_for(places), self._clock, self._latency, self._rng)
        extent = await self._extent(access, extent_id, places, deadline)
        size = extent.size if length is None else min(length, extent.size)
        into = memoryview(bytearray(size))
        await read_extent(access, extent, 0, size, into, deadline)
        self._progress(size)
        return bytes(into)

    def _map_for(self, places: Sequence[ShardPlace]) -> ClusterMap:
        k, m = places[0].k, places[0].m
        holders: dict[int, list[int]] = {}
        for place in places:
            holders.setdefault(place.index, []).append(place.device)
        positions = []
        for index in range(k + m):
            device, source = [*holders.get(index, []), 0, 0][:2]
            positions.append(Position(device, source))
        devices = {place.device: Device(place.device, b"", self._addresses[place.device], "up") for place in places}
        return ClusterMap(self._witness.cluster, 1, devices, {1: PlacementGroup(1, k, m, 1, tuple(positions))})

    async def _extent(self, access: _Access, extent_id: Id, places: Sequence[ShardPlace], deadline: Deadline) -> Extent:
        k, m = places[0].k, places[0].m
        if any((place.k, place.m) != (k, m) or place.index >= k + m for place in places):
            raise Corrupt("devices disagree about the profile of an extent", where=_where(extent_id))
        lengths = {place.index: place.length for place in places if place.index < k}
        unknown = [shard for shard in range(k) if shard not in lengths]
        parity = [place for place in places if place.index >= k]
        last: ReedbedError | None = None
        for place in parity if unknown else ():
            device = access.map.devices[place.device]
            try:
                lengths.update(
                    await ask_lengths(access, device, extent_id, place.index, unknown, place.length, deadline)
                )
                break
            except ReedbedError as error:
                last = error
        else:
            if unknown and last is not None:
                raise last
        whole = tuple(lengths.get(shard, 0) for shard in range(k))  # without parity, whoever is not listed is empty
        present = sum(1 << index for index in {place.index for place in places})
        needed = sum(1 << position for position in needed_positions(whole, m))
        return Extent(extent_id, k, m, 1, 1, whole, present & needed)


def _before(id_: Id) -> Id:
    return Id((max(1, int.from_bytes(id_, "big")) - 1).to_bytes(ID_BYTES, "big"))


def _where(extent: Id) -> str:
    return f"extent {format_id(extent)}"
