"""What a storaged answers over lanes: real stores in folders, behind lanes within the process."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reedbed.common.checksums import block_sum
from reedbed.common.clock import Deadline, ManualClock
from reedbed.common.errors import (
    AlreadyExists,
    Corrupt,
    DamagedShard,
    DeviceFailed,
    InvalidArgument,
    ReedbedError,
    ResourceExhausted,
    StaleGeneration,
    Unavailable,
    UnknownShard,
)
from reedbed.common.ids import Id
from reedbed.common.limits import BLOCK, PAYLOAD_MAX
from reedbed.extents.blocks import pack_table, unpack_table
from reedbed.protos import methods, storage_pb2
from reedbed.storaged import reading as module
from reedbed.storaged.calls import ReadShard
from reedbed.storaged.operations import Put
from reedbed.storaged.reading import READS_PER_CALL
from reedbed.storaged.readroom import SMALL, ReadRoom
from reedbed.storaged.service import StorageService
from reedbed.storaged.state import CatalogState
from reedbed.storaged.store import ShardStore
from reedbed.transport.inprocess import InProcessNetwork
from reedbed.transport.lane import Lane, Reply, Request
from reedbed.transport.mux_server import ServerCall

CLUSTER = bytes(range(16))
DEVICE, OTHER = 7, 9


def extent(number: int) -> Id:
    return Id(number.to_bytes(16, "big"))


def table_of(id_: Id, index: int, data: bytes, block: int = BLOCK) -> list[tuple[int, int]]:
    pieces = [data[at : at + block] for at in range(0, len(data), block)]
    return [(len(piece), block_sum(id_, index, number, piece)) for number, piece in enumerate(pieces)]


def put_message(number: int, data: bytes, index: int = 0, **changes: Any) -> storage_pb2.PutShardRequest:
    id_ = extent(number)
    given_ = {
        "device": DEVICE,
        "extent": id_,
        "index": index,
        "k": 2,
        "m": 1,
        "pg": 1,
        "generation": 1,
        "table": pack_table(table_of(id_, index & 0xFFFF, data)),
    }
    return storage_pb2.PutShardRequest(**{**given_, **changes})


def read_of(number: int, offset: int, length: int, index: int = 0, **changes: Any) -> storage_pb2.ShardRange:
    return storage_pb2.ShardRange(
        **{"device": DEVICE, "extent": extent(number), "index": index, "offset": offset, "length": length, **changes}
    )


@dataclass
class World:
    service: StorageService
    stores: dict[int, ShardStore]
    state: CatalogState
    clock: ManualClock
    lane: Lane

    async def call(self, method: str, header: bytes, payload: bytes = b"") -> Reply:
        return await self.lane.call(method, header, [payload] if payload else [], deadline=Deadline(20.0))

    async def put(self, number: int, data: bytes, index: int = 0, **changes: Any) -> storage_pb2.PutShardReply:
        message = put_message(number, data, index, **changes)
        reply = await self.call(methods.PUT_SHARD, message.SerializeToString(), data)
        return storage_pb2.PutShardReply.FromString(reply.header)

    async def read(self, *reads: storage_pb2.ShardRange) -> tuple[list[storage_pb2.ShardBytes], bytes]:
        message = storage_pb2.ReadShardsRequest(reads=reads)
        reply = await self.call(methods.READ_SHARDS, message.SerializeToString())
        return list(storage_pb2.ReadShardsReply.FromString(reply.header).results), bytes(reply.payload)

    async def list(self, **fields: Any) -> storage_pb2.ListShardsReply:
        message = storage_pb2.ListShardsRequest(**{"device": DEVICE, **fields})
        reply = await self.call(methods.LIST_SHARDS, message.SerializeToString())
        return storage_pb2.ListShardsReply.FromString(reply.header)

    @property
    def shards(self) -> list[int]:
        return [store.status().shards for store in self.stores.values()]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = ManualClock()
    state = CatalogState(CLUSTER, clock, epoch=3, term=5)
    state.granted(clock.monotonic(), 10.0)
    service = StorageService(state, lambda _: ThreadPoolExecutor(2))
    stores = {number: ShardStore.open(tmp_path / str(number), CLUSTER) for number in (DEVICE, OTHER)}
    for number, store in stores.items():
        service.serve(number, store)
    network = InProcessNetwork()
    network.serve("here", service)
    lane = await network.open("here", cluster=CLUSTER, deadline=Deadline(5.0))
    yield World(service, stores, state, clock, lane)
    await lane.close()
    await network.close()
    service.close()
    for store in stores.values():
        store.close()


DATA = bytes(range(256)) * 600  # three blocks


async def test_what_is_put_is_read_listed_and_counted(world: World) -> None:
    assert (await world.put(1, DATA)).incarnation == 1
    assert (await world.put(1, DATA)).incarnation == 1  # once more changes nothing
    (result,), payload = await world.read(read_of(1, 1000, 70_000))
    assert payload == DATA[1000:71_000]
    assert (result.failed, result.length, result.shard_length) == (False, 70_000, len(DATA))
    rows = unpack_table(result.rows.table)
    assert sum(length for length, _ in rows) == 70_000
    assert (result.rows.first_block, result.rows.offset) == (0, 1000)
    assert rows[0][1] == block_sum(extent(1), 0, 0, DATA[1000:BLOCK])
    listed = await world.list()
    assert [(row.extent, row.index, row.length, row.generation) for row in listed.shards] == [
        (extent(1), 0, len(DATA), 1)
    ]
    assert not listed.more
    header = storage_pb2.StorageStatusRequest().SerializeToString()
    reply = await world.call(methods.STORAGE_STATUS, header)
    status = json.loads(storage_pb2.StorageStatusReply.FromString(reply.header).json)
    assert (status["epoch"], status["term"], status["may_write"]) == (3, 5, True)
    assert [status["devices"][str(number)]["shards"] for number in (DEVICE, OTHER)] == [1, 0]
    assert (reply.epoch, reply.term) == (3, 5)


async def test_two_devices_of_one_process_are_told_apart(world: World) -> None:
    await world.put(1, b"one")
    await world.put(1, b"other", device=OTHER)
    results, payload = await world.read(read_of(1, 0, 5, device=OTHER), read_of(1, 0, 3), read_of(1, 1, 2))
    assert [result.length for result in results] == [5, 3, 2]
    assert payload == b"otheronene"
    assert world.shards == [1, 1]


async def test_pages_of_a_listing(world: World) -> None:
    for number in (3, 1, 2):
        await world.put(number, b"x")
    first = await world.list(limit=2)
    assert ([row.extent for row in first.shards], first.more) == ([extent(1), extent(2)], True)
    rest = await world.list(limit=2, after_extent=extent(2), after_index=0)
    assert ([row.extent for row in rest.shards], rest.more) == ([extent(3)], False)
    for wrong in ({"after_extent": b"short"}, {"after_extent": extent(1), "after_index": 1 << 20}):
        with pytest.raises(InvalidArgument):
            await world.list(**wrong)
    with pytest.raises(Unavailable, match="device 8"):
        await world.list(device=8)


async def test_each_read_of_a_batch_fails_alone(world: World, tmp_path: Path) -> None:
    await world.put(1, b"a" * 100)
    await world.put(2, b"b" * 100)
    (segment,) = (tmp_path / str(DEVICE) / "segments").iterdir()
    raw = bytearray(segment.read_bytes())
    at = raw.index(b"b" * 100)
    raw[at + 50] ^= 1
    segment.write_bytes(raw)
    results, payload = await world.read(
        read_of(1, 0, 10),
        read_of(2, 0, 100),  # damaged
        read_of(3, 0, 1),  # unknown
        read_of(1, 90, 11),  # past its end
        read_of(1, 0, 1, device=8),
        read_of(1, 0, 1, extent=b"no id"),
        read_of(1, 0, 1, index=70_000),
        read_of(1, 0, 1, rows_of=[0], rows_end=1),  # of a data shard
        read_of(1, 0, 1, rows_of=[200], rows_end=1),
        read_of(1, 0, 1, rows_of=[0], rows_start=2, rows_end=1),
        read_of(1, 99, 1),
    )
    assert [result.code for result in results] == [
        "",
        DamagedShard.code,
        UnknownShard.code,
        InvalidArgument.code,
        Unavailable.code,
        *[InvalidArgument.code] * 5,
        "",
    ]
    assert all(result.what for result in results if result.failed)
    assert payload == b"a" * 11
    assert world.stores[DEVICE].status().damaged == 1


async def test_rows_of_data_shards_come_from_parity(world: World) -> None:
    tables = [pack_table(table_of(extent(1), shard, DATA)) for shard in (0, 1)]
    await world.put(1, DATA, index=2, data_tables=tables)
    (result,), payload = await world.read(
        read_of(1, 0, 0, index=2, rows_of=[1, 0], rows_start=BLOCK + 5, rows_end=len(DATA))
    )
    assert payload == b""
    assert [(rows.shard, rows.first_block, rows.offset) for rows in result.data_rows] == [(0, 1, BLOCK), (1, 1, BLOCK)]
    assert [rows.table for rows in result.data_rows] == [table[8:] for table in tables]
    (result,), _ = await world.read(read_of(1, 5, 10, index=2, rows_of=[0], rows_start=0, rows_end=0))
    assert [(rows.shard, rows.table) for rows in result.data_rows] == [(0, b"")]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"table": pack_table([(5, 1), (5, 1)])}, Corrupt),
        ({"table": pack_table([(9, 1)])}, Corrupt),
        ({"table": pack_table([(0, 1), (10, 1)])}, Corrupt),
        ({"table": b"1234567"}, Corrupt),
        ({"table": pack_table([(10, 1)])}, Corrupt),
        ({"data_tables": [b"", b""]}, InvalidArgument),
        ({"index": 2}, InvalidArgument),
        ({"index": 3}, InvalidArgument),
        ({"index": 1 << 31}, InvalidArgument),
        ({"k": 0}, InvalidArgument),
        ({"k": 33}, InvalidArgument),
        ({"m": 0}, InvalidArgument),
        ({"m": 9}, InvalidArgument),
        ({"extent": b"x"}, InvalidArgument),
        ({"extent": b"x" * 17}, InvalidArgument),
        ({"device": 8}, Unavailable),
        ({"device": 0}, Unavailable),
    ],
)
async def test_a_put_that_is_wrong_changes_nothing(
    world: World, changes: dict[str, Any], error: type[ReedbedError]
) -> None:
    with pytest.raises(error):
        await world.put(1, b"0123456789", **changes)
    assert world.shards == [0, 0]


async def test_other_content_and_older_generations_are_refused(world: World) -> None:
    await world.put(1, b"one", generation=4)
    with pytest.raises(AlreadyExists):
        await world.put(1, b"two", generation=4)
    with pytest.raises(StaleGeneration):
        await world.put(2, b"two", generation=3)
    assert world.shards == [1, 0]


async def test_no_puts_once_the_catalog_was_not_heard_for_too_long(world: World) -> None:
    await world.put(1, b"one")
    world.clock.advance(10.1)
    with pytest.raises(DeviceFailed) as caught:
        await world.put(2, b"two")
    assert caught.value.retryable
    assert (await world.read(read_of(1, 0, 3)))[1] == b"one"
    assert world.shards == [1, 0]
    world.state.granted(world.clock.monotonic(), 10.0)
    await world.put(2, b"two")


async def test_limits_of_one_call_of_reads(world: World) -> None:
    await world.put(1, b"x")
    results, payload = await world.read(*[read_of(1, 0, 1)] * READS_PER_CALL)
    assert (len(results), payload) == (READS_PER_CALL, b"x" * READS_PER_CALL)
    with pytest.raises(InvalidArgument, match="1025 reads"):
        await world.read(*[read_of(1, 0, 1)] * (READS_PER_CALL + 1))
    half = PAYLOAD_MAX // 2
    results, _ = await world.read(read_of(1, 0, half), read_of(1, 0, half))
    assert [result.code for result in results] == [InvalidArgument.code] * 2
    for lengths in ((half, half + 1), (1 << 63, 1 << 63)):
        with pytest.raises(InvalidArgument, match="at most"):
            await world.read(*(read_of(1, 0, length) for length in lengths))
    # texts of errors are short enough for as many as there can be
    results, _ = await world.read(*[read_of(2, 0, 1)] * READS_PER_CALL)
    assert {result.code for result in results} == {UnknownShard.code}


async def test_tables_too_long_for_one_answer_are_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_MAX", 8 * 5)
    await world.put(1, DATA)
    whole = read_of(1, 0, len(DATA))
    results, payload = await world.read(whole, whole, read_of(1, 0, 1))
    assert [result.code for result in results] == ["", ResourceExhausted.code, ResourceExhausted.code]
    assert payload == DATA


async def test_a_method_that_is_unknown(world: World) -> None:
    with pytest.raises(InvalidArgument, match="no method"):
        await world.call("shard.remove", b"")


HEADERS: list[tuple[str, bytes]] = [
    (methods.PUT_SHARD, put_message(1, b"0123456789").SerializeToString()),
    (methods.READ_SHARDS, storage_pb2.ReadShardsRequest(reads=[read_of(5, 0, 3, rows_of=[1])]).SerializeToString()),
    (methods.LIST_SHARDS, storage_pb2.ListShardsRequest(device=7, after_extent=extent(1)).SerializeToString()),
    (methods.STORAGE_STATUS, b""),
]


async def answer(world: World, method: str, header: bytes, payload: bytes = b"") -> ReedbedError | None:
    """Asked without a lane, so that nothing but one of our errors may come out."""
    request = Request(method, header, [payload] if payload else [], Deadline(20.0), 0, 0)
    try:
        response = await world.service.handle(request)
    except ReedbedError as error:
        return error
    if response.done is not None:
        response.done()
    return None


async def test_every_truncation_of_a_message_is_named_and_changes_nothing(world: World) -> None:
    for method, whole in HEADERS:
        for end in range(len(whole)):
            error = await answer(world, method, whole[:end], b"0123456789")
            assert error is None or error.code != ReedbedError.code, (method, end)
            if method == methods.PUT_SHARD:
                assert error is not None, end
    assert world.shards == [0, 0]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_garbage_is_named_and_changes_nothing(world: World, data: st.DataObject) -> None:
    method, whole = data.draw(st.sampled_from(HEADERS))
    raw = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    header = data.draw(st.sampled_from([bytes(raw), data.draw(st.binary(max_size=80))]))
    # the table does not match these bytes, so that no put can be right
    error = await answer(world, method, header, b"another!!!")
    assert error is None or error.code != ReedbedError.code, header
    assert world.shards == [0, 0]
    assert world.service._room.held == 0


class Slow:
    """A store whose reads wait until they are told to go on."""

    def __init__(self, store: ShardStore) -> None:
        self.store = store
        self.go = threading.Event()
        self.began = threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def read_many(self, asked: list[ReadShard]) -> Any:
        self.began.release()
        assert self.go.wait(20)
        return self.store.read_many(asked)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  threads tell no event loop
            await asyncio.sleep(0.001)


async def test_a_cancelled_read_keeps_its_room_until_its_thread_has_ended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reedbed.storaged.service.NOW_BYTES", 0)
    await world.put(1, DATA)
    slow = Slow(world.stores[DEVICE])
    world.service._stores[DEVICE] = slow  # type: ignore[assignment]
    task = asyncio.ensure_future(world.read(read_of(1, 0, len(DATA))))
    assert await asyncio.to_thread(slow.began.acquire, timeout=20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await world.list()  # the cancellation has come
    assert world.service._room.held == len(DATA)
    slow.go.set()
    await until(lambda: world.service._room.held == 0)
    assert (await world.read(read_of(1, 0, 3)))[1] == DATA[:3]


async def test_the_loop_goes_on_while_the_disk_works(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.put(1, DATA)
    go = threading.Event()
    sync = os.fdatasync

    def slow(file: int) -> None:
        assert go.wait(20)
        sync(file)

    monkeypatch.setattr(os, "fdatasync", slow)
    put = asyncio.create_task(world.put(2, DATA))
    for _ in range(20):
        assert (await world.read(read_of(1, 0, 3)))[1] == DATA[:3]
    assert len((await world.list()).shards) == 1
    assert not put.done()
    go.set()
    await put


async def test_a_read_waits_for_the_room_of_others(world: World) -> None:
    await world.put(1, DATA)
    world.service._room = ReadRoom(len(DATA))
    message = storage_pb2.ReadShardsRequest(reads=[read_of(1, 0, len(DATA))])
    request = Request(methods.READ_SHARDS, message.SerializeToString(), (), Deadline(20.0), 3, 5)
    first = await world.service.handle(request)
    second = asyncio.create_task(world.service.handle(request))
    for _ in range(100):
        await asyncio.sleep(0.001)
    assert not second.done(), "the first answer has not left yet"
    assert first.done is not None
    first.done()
    answer = await second
    assert answer.done is not None
    answer.done()
    assert world.service._room.held == 0


async def test_reads_give_their_room_back(world: World) -> None:
    await world.put(1, DATA)
    world.service._room = ReadRoom(len(DATA))  # room for one at a time
    replies = await asyncio.gather(*(world.read(read_of(1, 0, len(DATA))) for _ in range(10)))
    assert all(payload == DATA for _, payload in replies)
    assert world.service._room.held == 0
    with pytest.raises(InvalidArgument):
        await world.read(*[read_of(1, 0, 1)] * (READS_PER_CALL + 1))
    assert world.service._room.held == 0


async def test_a_cancelled_put_lets_go_of_its_bytes(world: World) -> None:
    store = world.stores[DEVICE]
    go, began = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        assert go.wait(20)

    await world.put(1, b"one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._writer._tools.__class__, "on_batch", property(lambda _: wait))
        second = asyncio.ensure_future(world.put(2, b"two"))
        assert await asyncio.to_thread(began.wait, 20)
        task = asyncio.ensure_future(world.put(3, DATA))
        await until(lambda: store.status().queued_bytes > len(DATA))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: store.status().queued_bytes < len(DATA))
        go.set()
        await second
    await world.put(4, b"four")
    assert [row.extent for row in (await world.list()).shards] == [extent(1), extent(2), extent(4)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["take", "give", "cancel"]), st.integers(1, 4 * SMALL)), max_size=40))
async def test_room_is_bounded_and_never_lost(steps: list[tuple[str, int]]) -> None:
    room = ReadRoom(4 * SMALL)
    waiting: list[tuple[asyncio.Task[None], int]] = []
    held: list[int] = []

    async def settle() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        for one in list(waiting):
            if one[0].done():
                waiting.remove(one)
                if not one[0].cancelled():
                    held.append(one[1])

    for kind, count in steps:
        if kind == "take":
            waiting.append((asyncio.ensure_future(room.take(count)), count))
        elif kind == "give" and held:
            room.give(held.pop(count % len(held)))
            if count % 2 and waiting:  # at once, when it may have been let in just now
                waiting[0][0].cancel()
        elif kind == "cancel" and waiting:
            waiting[count % len(waiting)][0].cancel()
        await settle()
        assert room.held == sum(held)
        assert room.held <= room.total + room.total // 4 or len(held) == 1
    while held or waiting:
        while held:
            room.give(held.pop())
        await settle()
        assert held or not waiting
    assert room.held == 0


async def test_payloads_are_free_without_the_garbage_collector(world: World) -> None:
    """A cycle would keep megabytes of each call until Python happens to look for cycles."""
    gc.collect()
    gc.disable()
    try:
        for number in range(1, 6):
            await world.put(number, DATA)
            await world.read(read_of(number, 0, len(DATA)))
            with pytest.raises(AlreadyExists):
                await world.put(number, b"other")
        await world.list()
        kept = [type(one).__name__ for one in gc.get_objects() if type(one) in (ServerCall, Put)]
    finally:
        gc.enable()
    # what the last calls have left on a stack may live on for a moment
    assert len(kept) <= 3, kept
