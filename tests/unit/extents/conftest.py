"""A twin of a cluster in memory: devices that speak the real messages of storage.proto, with faults to switch on."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from reedbed.common.checksums import Buffer, block_sum
from reedbed.common.clock import Deadline, SystemClock
from reedbed.common.errors import (
    AlreadyExists,
    Corrupt,
    DiskFull,
    ReedbedError,
    StaleGeneration,
    Unavailable,
    UnknownShard,
)
from reedbed.common.ids import Id, IdBlock, make_block
from reedbed.common.metrics import Metrics
from reedbed.ec.cut import block_borders, layout_for
from reedbed.ec.profiles import Profile
from reedbed.extents.blocks import pack_table, unpack_table
from reedbed.extents.latency import LatencyBook
from reedbed.extents.read import read_extent
from reedbed.extents.write import write_extent
from reedbed.protos import storage_pb2
from reedbed.protos.methods import PUT_SHARD, READ_SHARDS
from reedbed.protos.types import ClusterMap, Device, Extent, PlacementGroup, Position
from reedbed.transport.lane import Reply

Alter = Callable[[storage_pb2.ReadShardsReply, bytearray], None]


@dataclass
class Shard:
    data: bytes
    table: bytes
    data_tables: tuple[bytes, ...]


@dataclass
class TwinDevice:
    """One device. Faults: `dead`, `full`, `gate` (answers wait for it), `alter` (changes answers to reads), `spoil`
    (that many puts arrive altered), `lose` (answers to that many puts get lost), `generations` (lowest accepted)."""

    shards: dict[tuple[bytes, int], Shard] = field(default_factory=dict)
    dead: bool = False
    full: bool = False
    gate: asyncio.Event | None = None
    alter: Alter | None = None
    spoil: int = 0
    lose: int = 0
    generations: dict[int, int] = field(default_factory=dict)
    on_put: Callable[[], None] | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)  # since a test last cleared it, a call has come
    served: Counter[str] = field(default_factory=Counter)
    bytes_read: int = 0
    under_way: int = 0

    def put(self, request: storage_pb2.PutShardRequest, data: bytes) -> bytes:
        if self.full:
            raise DiskFull("no room is left")
        if request.generation < self.generations.get(request.pg, 0):
            raise StaleGeneration(f"generation {request.generation} is old")
        if self.spoil:
            self.spoil -= 1
            data = bytes([data[0] ^ 1]) + data[1:]
        at = 0
        for block, (length, value) in enumerate(unpack_table(request.table)):
            if block_sum(Id(request.extent), request.index, block, data[at : at + length]) != value:
                raise Corrupt(f"block {block} does not match its checksum")
            at += length
        assert at == len(data)
        assert len(request.data_tables) == (request.k if request.index >= request.k else 0)
        shard = Shard(data, request.table, tuple(request.data_tables))
        if self.shards.setdefault((request.extent, request.index), shard) != shard:
            raise AlreadyExists("another shard of that name is there")
        if self.lose:
            self.lose -= 1
            raise Unavailable("the lane broke", maybe_applied=True)
        return storage_pb2.PutShardReply(incarnation=7).SerializeToString()

    def read(self, request: storage_pb2.ReadShardsRequest) -> tuple[storage_pb2.ReadShardsReply, bytearray]:
        reply, payload = storage_pb2.ReadShardsReply(), bytearray()
        for asked in request.reads:
            result = reply.results.add()
            try:
                self._read_one(asked, result, payload)
            except ReedbedError as error:
                result.failed, result.code, result.what = True, error.code, error.what
        return reply, payload

    def _read_one(self, asked: storage_pb2.ShardRange, result: storage_pb2.ShardBytes, payload: bytearray) -> None:
        shard = self.shards.get((asked.extent, asked.index))
        if shard is None:
            raise UnknownShard(f"no shard {asked.index}")
        end = asked.offset + asked.length
        assert end <= len(shard.data)
        rows, first, at = [], None, 0
        for block, (length, _) in enumerate(unpack_table(shard.table)):
            lo, hi = max(at, asked.offset), min(at + length, end)
            if lo < hi:
                first = block if first is None else first
                rows.append((hi - lo, block_sum(Id(asked.extent), asked.index, block, shard.data[lo:hi])))
            at += length
        result.length, result.shard_length = asked.length, len(shard.data)
        result.rows.shard, result.rows.first_block = asked.index, first or 0
        result.rows.offset, result.rows.table = asked.offset, pack_table(rows)
        payload += shard.data[asked.offset : end]
        for of in asked.rows_of:
            given, at = result.data_rows.add(), 0
            given.shard = of
            for block, (length, value) in enumerate(unpack_table(shard.data_tables[of])):
                if at < asked.rows_end and at + length > asked.rows_start:
                    if not given.table:
                        given.first_block, given.offset = block, at
                    given.table += pack_table([(length, value)])
                at += length


class Twin:
    """A ClusterAccess over such devices, numbered from 1."""

    def __init__(self, profile: Profile, devices: int, pgs: int = 1, seed: int = 1) -> None:
        self.profile = profile
        self.rng = random.Random(seed)
        self.devices = {number: TwinDevice() for number in range(1, devices + 1)}
        groups = {}
        for number in range(1, pgs + 1):
            order = self.rng.sample(sorted(self.devices), profile.n)
            groups[number] = PlacementGroup(number, profile.k, profile.m, 1, tuple(Position(d) for d in order))
        infos = {n: Device(n, bytes([n]) * 16, f"twin:{n}", "up") for n in self.devices}
        self.map = ClusterMap(b"c" * 16, 1, infos, groups)
        self.next_map: ClusterMap | None = None  # what a refresh brings
        self.metrics = Metrics()
        self.clock = SystemClock()
        self.latency = LatencyBook()
        self.refreshes = 0
        self._ids = IdBlock(make_block(1, 1), 1 << 20)

    def log_position(self) -> tuple[int, int]:
        return (3, 14)

    async def new_id(self, deadline: Deadline) -> Id:
        return self._ids.take()

    async def refresh(self, newer_than: int, deadline: Deadline) -> ClusterMap:
        self.refreshes += 1
        if self.next_map is not None:
            self.map = self.next_map
        return self.map

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
        twin = self.devices[device.number]
        twin.served[method] += 1
        twin.arrived.set()
        twin.under_way += 1
        try:
            return await self._serve(twin, device, method, header, payload, deadline, into)
        finally:
            twin.under_way -= 1

    async def _serve(self, twin, device, method, header, payload, deadline, into) -> Reply:  # type: ignore[no-untyped-def]
        await asyncio.sleep(0)
        if twin.dead:
            raise Unavailable(f"nobody answers at {device.address}")
        if method == PUT_SHARD:
            if twin.on_put is not None:
                twin.on_put()
            data = b"".join(payload)
            await self._pass(twin, deadline)
            return Reply(twin.put(storage_pb2.PutShardRequest.FromString(header), data))
        assert method == READ_SHARDS
        request = storage_pb2.ReadShardsRequest.FromString(header)
        assert all(asked.device == device.number for asked in request.reads)
        reply, answer = twin.read(request)
        twin.bytes_read += len(answer)
        if twin.alter is not None:
            twin.alter(reply, answer)
        raw = reply.SerializeToString()
        if into is None:
            await self._pass(twin, deadline)
            return Reply(raw, memoryview(answer))
        if len(answer) > len(into):
            raise Corrupt("the answer is longer than its place")
        half = len(answer) // 2
        into[:half] = answer[:half]
        await self._pass(twin, deadline)
        into[half : len(answer)] = answer[half:]
        return Reply(raw, into[: len(answer)])

    @staticmethod
    async def _pass(twin: TwinDevice, deadline: Deadline) -> None:
        if twin.gate is not None:
            try:
                await asyncio.wait_for(twin.gate.wait(), deadline.left())
            except TimeoutError:
                deadline.check("a call")
                raise

    # What tests do with it

    def set_state(self, number: int, state: str) -> None:
        devices = {**self.map.devices, number: replace(self.map.devices[number], state=state)}  # type: ignore[arg-type]
        self.map = replace(self.map, epoch=self.map.epoch + 1, devices=devices)

    def holder(self, extent: Extent, shard: int) -> TwinDevice:
        return self.devices[self.number(extent, shard)]

    def number(self, extent: Extent, shard: int) -> int:
        return self.map.pgs[extent.pg].positions[shard].device

    def teach(self, seconds: float, numbers: Sequence[int] | None = None, sizes: Sequence[int] | None = None) -> None:
        """Let devices have answered so fast lately."""
        for number in self.devices if numbers is None else numbers:
            for size in [4**i for i in range(13)] if sizes is None else sizes:
                for _ in range(10):
                    self.latency.record(number, size, seconds)

    async def write(
        self,
        data: bytes,
        lengths: Sequence[int] | None = None,
        starts: Sequence[Sequence[int]] | None = None,
        seconds: float = 5.0,
    ) -> Extent:
        if lengths is None:
            lengths = layout_for(len(data), self.profile).lengths
        shards, borders, at = [], [], 0
        for shard, length in enumerate(lengths):
            shards.append([memoryview(data)[at : at + length]] if length else [])
            borders.append(block_borders(length, starts[shard] if starts else ()))
            at += length
        return await write_extent(self, self.profile, shards, borders, Deadline(seconds))

    async def read(self, extent: Extent, offset: int = 0, length: int | None = None, seconds: float = 5.0) -> bytes:
        length = extent.size - offset if length is None else length
        into = bytearray(length)
        await read_extent(self, extent, offset, length, memoryview(into), Deadline(seconds))
        return bytes(into)

    def calls(self, method: str = READ_SHARDS) -> int:
        return sum(device.served[method] for device in self.devices.values())

    def idle(self) -> bool:
        return not any(device.under_way for device in self.devices.values())


@pytest.fixture
def make_twin() -> Iterator[Callable[..., Twin]]:
    """Makes twins, and at the end checks that no call to any of them was left running."""
    made: list[Twin] = []

    def make(profile: Profile = Profile(4, 2), devices: int | None = None, pgs: int = 1, seed: int = 1) -> Twin:  # noqa: B008
        twin = Twin(profile, devices or profile.n, pgs, seed)
        made.append(twin)
        return twin

    yield make
    assert all(twin.idle() for twin in made), "calls were left running"


@pytest.fixture
def some_bytes() -> Callable[[int], bytes]:
    """Bytes that look random and are the same in each run."""
    return lambda length: random.Random(length).randbytes(length)


@pytest.fixture(scope="session")
def twin_class() -> type[Twin]:
    """For hypothesis, which wants fixtures that live longer than one example."""
    return Twin
