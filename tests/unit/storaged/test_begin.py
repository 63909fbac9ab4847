"""Calls without a task: what `begin` takes, answers and leaves to tasks; stores on disks in memory, all in one loop."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from reedbed.common.clock import Deadline, ManualClock
from reedbed.common.errors import (
    AlreadyExists,
    Corrupt,
    DamagedShard,
    DeviceFailed,
    InvalidArgument,
    ReedbedError,
    Unavailable,
    UnknownShard,
)
from reedbed.common.limits import BLOCK
from reedbed.extents.blocks import build_table
from reedbed.protos import methods, storage_pb2
from reedbed.storaged.buffers import LARGE, Buffers
from reedbed.storaged.calls import RemoveOrder
from reedbed.storaged.disk_twin import MemoryDisk
from reedbed.storaged.politeness import WINDOW_S, Foreground
from reedbed.storaged.readroom import ReadRoom
from reedbed.storaged.segments import segment_name
from reedbed.storaged.service import NOW_BYTES, StorageService
from reedbed.storaged.state import CatalogState
from reedbed.storaged.store import ShardStore
from reedbed.storaged.writer import HERE_BYTES
from reedbed.transport.lane import HotService, Request, Response
from tests.unit.storaged.conftest import CLUSTER, extent, forget_rows, open_store

DEVICE = 7
DATA = bytes(range(256)) * 40


@dataclass
class Begun:
    """A call that was begun: its answers, and what cancels it."""

    cancel: Callable[[], None] | None = None
    answers: list[Response | ReedbedError] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, outcome: Response | ReedbedError) -> None:
        self.answers.append(outcome)
        self.came.set()

    async def outcome(self) -> Response | ReedbedError:
        async with asyncio.timeout(20):
            await self.came.wait()
        assert len(self.answers) == 1
        return self.answers[0]


@dataclass
class Hot:
    service: StorageService
    store: ShardStore
    disk: MemoryDisk
    clock: ManualClock

    def begin(self, method: str, header: bytes, payload: bytes = b"") -> Begun:
        made = Begun()
        request = Request(method, header, [payload] if payload else [], Deadline(20.0), 0, 0)
        made.cancel = self.service.begin(request, made.answer)
        return made

    def put(self, number: int, data: bytes = DATA, **changes: Any) -> Begun:
        table = build_table(
            extent(number), 0, [data], [min(BLOCK, len(data) - at) for at in range(0, len(data), BLOCK)]
        )
        given = {"device": DEVICE, "extent": extent(number), "k": 2, "m": 1, "pg": 1, "generation": 1, "table": table}
        return self.begin(
            methods.PUT_SHARD, storage_pb2.PutShardRequest(**{**given, **changes}).SerializeToString(), data
        )

    def read(self, *reads: tuple[int, int, int]) -> Begun:
        return self.begin(methods.READ_SHARDS, read_header(*reads))

    @property
    def held(self) -> int:
        return self.service._room.held

    @property
    def under_way(self) -> int:
        return self.service.foreground._under_way


def read_header(*reads: tuple[int, int, int]) -> bytes:
    ranges = [
        storage_pb2.ShardRange(device=DEVICE, extent=extent(number), offset=offset, length=length)
        for number, offset, length in reads
    ]
    return storage_pb2.ReadShardsRequest(reads=ranges).SerializeToString()


@pytest.fixture
async def hot(tmp_path: Path) -> AsyncIterator[Hot]:
    disk = MemoryDisk(tmp_path, capacity=1 << 30)
    disk.cached = True
    async for made in serving(disk):
        yield made


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Hot]:
    """On a disk that nothing waits for."""
    disk = MemoryDisk(tmp_path, capacity=1 << 30)
    disk.cached = disk.in_memory = True
    async for made in serving(disk):
        yield made


async def serving(disk: MemoryDisk) -> AsyncIterator[Hot]:
    clock = ManualClock()
    state = CatalogState(CLUSTER, clock)
    state.granted(clock.monotonic(), 10.0)
    service = StorageService(state, lambda _: ThreadPoolExecutor(2))
    store = open_store(disk, segment_bytes=1 << 24)
    service.serve(DEVICE, store)
    yield Hot(service, store, disk, clock)
    service.close()
    store.close(clean=False)


class Held:
    """Holds the syncs of segments until they are let go; then they fail with `error`, if it is given."""

    def __init__(self, disk: MemoryDisk, error: int = 0) -> None:
        self._error = error
        self.reached = threading.Event()
        self._go = threading.Event()
        self._disk = disk
        disk.fail = self._check

    def _check(self, operation: str, name: str) -> None:
        if operation == "sync" and name.startswith("segments/") and not self._go.is_set():
            self.reached.set()
            self._disk.mutex.release()
            self._go.wait(10)
            self._disk.mutex.acquire()
            if self._error:
                raise OSError(self._error, "on purpose")

    async def hold(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 10)

    def let_go(self) -> None:
        self._disk.fail = None
        self._go.set()


def results_of(outcome: Response | ReedbedError) -> tuple[list[storage_pb2.ShardBytes], bytes]:
    assert isinstance(outcome, Response)
    return list(storage_pb2.ReadShardsReply.FromString(outcome.header).results), b"".join(outcome.payload)


async def test_the_service_is_hot_and_leaves_other_calls_to_tasks(hot: Hot) -> None:
    assert isinstance(hot.service, HotService)
    assert hot.begin(methods.STORAGE_STATUS, b"").cancel is None


# Reads


async def test_a_small_read_is_answered_at_once_as_a_task_would(hot: Hot) -> None:
    await hot.put(1).outcome()
    await hot.put(2, b"abc").outcome()
    asked = ((1, 10, 5000), (2, 0, 3), (1, 0, len(DATA)), (9, 0, 1), (2, 0, 4))
    begun = hot.read(*asked)
    assert len(begun.answers) == 1
    request = Request(methods.READ_SHARDS, read_header(*asked), (), Deadline(20.0), 0, 0)
    by_task = await hot.service.handle(request)
    (at_once,) = begun.answers
    assert results_of(at_once) == results_of(by_task)
    results, payload = results_of(at_once)
    assert [one.code for one in results] == ["", "", "", UnknownShard.code, InvalidArgument.code]
    assert payload == DATA[10:5010] + b"abc" + DATA
    assert isinstance(at_once, Response)
    wanted = sum(length for _, _, length in asked)
    assert hot.held == 2 * wanted
    for one in (at_once, by_task):
        assert one.done is not None
        one.done()
    assert hot.held == 0
    assert begun.cancel is not None
    begun.cancel()
    assert len(begun.answers) == 1


async def test_what_would_wait_for_the_disk_is_left_to_a_task(hot: Hot) -> None:
    await hot.put(1).outcome()
    await hot.put(2).outcome()
    assert hot.read((1, 0, 100)).answers
    hot.disk.cached = False
    begun = hot.read((2, 0, 100), (1, 0, 100))
    assert (begun.cancel, begun.answers) == (None, [])
    assert hot.held == 100, "what the first read holds, whose answer has not left"
    request = Request(methods.READ_SHARDS, read_header((2, 0, 100)), (), Deadline(20.0), 0, 0)
    assert results_of(await hot.service.handle(request))[1] == DATA[:100]


async def test_a_row_that_may_be_in_the_index_alone_is_left_to_a_task(hot: Hot) -> None:
    await hot.put(1).outcome()
    hot.store.checkpoint()
    assert hot.read((1, 0, 100)).answers, "the checkpoint that wrote the row leaves it in memory"
    forget_rows(hot.store)
    assert hot.read((1, 0, 100)).cancel is None
    request = Request(methods.READ_SHARDS, read_header((1, 0, 100)), (), Deadline(20.0), 0, 0)
    await hot.service.handle(request)
    assert hot.read((1, 0, 100)).answers, "it was looked for just now"
    assert hot.read((2, 0, 100)).answers, "the index holds nothing so new"


async def test_on_a_disk_in_memory_rows_are_looked_for_at_once(quick: Hot) -> None:
    await quick.put(1).outcome()
    quick.store.checkpoint()
    forget_rows(quick.store)
    assert results_of(quick.read((1, 0, 100)).answers[0])[1] == DATA[:100]


async def test_large_reads_and_those_without_room_are_left_to_tasks(hot: Hot) -> None:
    await hot.put(1, os.urandom(2 * NOW_BYTES)).outcome()
    assert hot.read((1, 0, NOW_BYTES)).answers
    assert hot.read((1, 0, NOW_BYTES + 1)).cancel is None
    assert hot.read((1, 0, NOW_BYTES), (1, 0, 1)).cancel is None
    hot.service._room = ReadRoom(100)
    assert hot.read((1, 0, 126)).cancel is None
    assert hot.held == 0


async def test_a_damaged_or_removed_shard_is_named_at_once(hot: Hot) -> None:
    for number in (1, 2, 3):
        await hot.put(number, bytes([number]) * 1000).outcome()
    content = hot.disk.content(segment_name(1))
    content[content.index(b"\2" * 1000) + 500] ^= 1
    hot.store.remove([RemoveOrder(extent(3), 0, 1, 1)], 1)
    results, payload = results_of(hot.read((1, 0, 10), (2, 0, 10), (3, 0, 10), (1, 5, 10)).answers[0])
    assert [one.code for one in results] == ["", DamagedShard.code, UnknownShard.code, ""]
    assert payload == b"\1" * 20
    assert [one.extent for one in hot.store.damaged()] == [extent(2)]
    await hot.put(2, b"\2" * 1000).outcome()  # written anew
    assert results_of(hot.read((2, 0, 10)).answers[0])[1] == b"\2" * 10
    assert hot.store.damaged() == []


async def test_garbage_is_refused_by_name_and_holds_nothing(hot: Hot) -> None:
    many = storage_pb2.ReadShardsRequest(reads=[storage_pb2.ShardRange(length=1 << 63)] * 2).SerializeToString()
    for method, header in ((methods.READ_SHARDS, b"\xff"), (methods.PUT_SHARD, b"\xff"), (methods.READ_SHARDS, many)):
        with pytest.raises(InvalidArgument):
            hot.begin(method, header)
    with pytest.raises(Unavailable, match="device 8"):
        hot.put(1, device=8)
    assert (hot.held, hot.under_way) == (0, 0)


async def test_a_bug_is_told_as_such_and_gives_its_room_back(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(ShardStore, "read_now", bug)
    with pytest.raises(ReedbedError, match="failed at this call"):
        hot.read((1, 0, 10))
    assert hot.held == 0


# Puts


async def test_a_put_is_answered_once_it_is_durable(hot: Hot) -> None:
    held = Held(hot.disk)
    begun = hot.put(1)
    await held.hold()
    await asyncio.sleep(0.01)
    assert (begun.answers, hot.under_way) == ([], 1)
    assert results_of(hot.read((1, 0, 1)).answers[0])[0][0].code == UnknownShard.code
    held.let_go()
    outcome = await begun.outcome()
    assert isinstance(outcome, Response)
    assert storage_pb2.PutShardReply.FromString(outcome.header).incarnation == 1
    assert results_of(hot.read((1, 0, 3)).answers[0])[1] == DATA[:3]
    assert hot.under_way == 0


async def test_a_batch_comes_back_in_one_call_and_each_put_by_itself(hot: Hot, monkeypatch: pytest.MonkeyPatch) -> None:
    await hot.put(1).outcome()
    held = Held(hot.disk)
    first = hot.put(2)
    await held.hold()
    waiting = [hot.put(number) for number in range(10, 40)]
    waiting.append(hot.put(1, DATA[:-1] + b"?"))  # is there with other bytes
    waiting.append(hot.put(50, DATA, table=build_table(extent(50), 0, [DATA[:-1] + b"?"], [len(DATA)])))
    waiting.append(hot.put(51))
    loop, calls = asyncio.get_running_loop(), []
    plain = loop.call_soon_threadsafe

    def counting(callback: Any, *arguments: Any, **more: Any) -> Any:
        calls.append(callback)
        return plain(callback, *arguments, **more)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
    held.let_go()
    outcomes = [await one.outcome() for one in (first, *waiting)]
    assert len(calls) == 2, "one for each batch"
    kinds = [type(one) for one in outcomes]
    assert kinds == [Response] * 31 + [AlreadyExists, Corrupt, Response]
    assert hot.under_way == 0


async def test_a_put_that_is_cancelled_before_it_begins_is_dropped(hot: Hot) -> None:
    held = Held(hot.disk)
    first = hot.put(1)
    await held.hold()
    dropped, kept = hot.put(2), hot.put(3)
    before = hot.store.status().queued_bytes
    for begun in (dropped, first):
        assert begun.cancel is not None
        begun.cancel()
    assert hot.store.status().queued_bytes < before
    assert hot.under_way == 2, "what was begun goes on"
    held.let_go()
    await kept.outcome()
    assert len(first.answers) == 1
    assert dropped.answers == []
    assert [info.extent for info in hot.store.list()] == [extent(1), extent(3)]
    assert hot.under_way == 0
    assert kept.cancel is not None
    kept.cancel()
    assert hot.under_way == 0


async def test_puts_are_refused_at_once_where_they_can_be(hot: Hot) -> None:
    hot.clock.advance(10.1)
    with pytest.raises(DeviceFailed, match="catalogd has not answered"):
        hot.put(1)
    hot.service._state.granted(hot.clock.monotonic(), 10.0)
    hot.store._writer.fail("on purpose")
    with pytest.raises(DeviceFailed, match="on purpose"):
        hot.put(1)
    assert hot.under_way == 0


async def test_what_waits_when_a_device_fails_is_told(hot: Hot) -> None:
    held = Held(hot.disk, errno.EIO)
    begun = [hot.put(1)]
    await held.hold()
    begun += [hot.put(number) for number in range(2, 6)]
    held.let_go()
    outcomes = [await one.outcome() for one in begun]
    assert {type(one) for one in outcomes} == {DeviceFailed}
    assert hot.under_way == 0


async def test_background_puts_do_not_count_as_foreground(hot: Hot) -> None:
    begun = hot.put(1, background=True)
    assert hot.under_way == 0
    await begun.outcome()
    assert hot.under_way == 0


# A disk that nothing waits for


async def test_small_puts_are_written_in_the_loop_together(quick: Hot) -> None:
    await quick.put(1).outcome()
    before = quick.disk.counts["sync"]
    begun = [quick.put(number) for number in range(2, 12)]
    assert not any(one.answers for one in begun)
    await asyncio.sleep(0)
    assert all(len(one.answers) == 1 for one in begun), "no thread was waited for"
    assert quick.disk.counts["sync"] == before + 1
    assert results_of(quick.read(*((number, 0, 2) for number in range(1, 12))).answers[0])[1] == DATA[:2] * 11


async def test_large_puts_are_not(quick: Hot) -> None:
    threads: list[int] = []
    quick.disk.fail = lambda operation, _: threads.append(threading.get_ident()) if operation == "write" else None
    await quick.put(1, os.urandom(HERE_BYTES)).outcome()
    assert threads
    assert threading.get_ident() not in threads


async def test_what_another_thread_is_writing_is_not_waited_for(quick: Hot) -> None:
    held = Held(quick.disk)
    large = quick.put(1, os.urandom(HERE_BYTES))
    await held.hold()
    small = quick.put(2)
    await asyncio.sleep(0.01)
    assert not small.answers
    held.let_go()
    await large.outcome()
    await small.outcome()


async def test_a_put_in_the_loop_that_is_cancelled_before_it_is_dropped(quick: Hot) -> None:
    dropped, kept = quick.put(1), quick.put(2)
    assert dropped.cancel is not None
    dropped.cancel()
    await kept.outcome()
    assert (dropped.answers, quick.under_way) == ([], 0)
    assert [info.extent for info in quick.store.list()] == [extent(2)]


async def test_what_waits_for_the_loop_is_written_when_the_store_is_closed(quick: Hot) -> None:
    begun = quick.put(1)
    quick.store._writer.stop()
    await begun.outcome()
    assert [info.extent for info in quick.store.list()] == [extent(1)]


# Memory for large reads


async def test_memory_of_large_reads_is_used_again_once_it_has_left(hot: Hot) -> None:
    contents = {number: os.urandom(LARGE + 5000) for number in (1, 2)}
    for number, data in contents.items():
        await hot.put(number, data).outcome()

    async def read(number: int, offset: int = 0) -> Response:
        header = read_header((number, offset, LARGE))
        return await hot.service.handle(Request(methods.READ_SHARDS, header, (), Deadline(20.0), 0, 0))

    one = await read(1)
    two = await read(2, 5000)
    assert b"".join(one.payload) == contents[1][:LARGE]
    assert b"".join(two.payload) == contents[2][5000:]
    places = {id(memoryview(part).obj) for reply in (one, two) for part in reply.payload}
    assert len(places) == 2, "neither has left yet"
    for reply in (one, two):
        assert reply.done is not None
        reply.done()
    third = await read(1, 77)
    assert b"".join(third.payload) == contents[1][77 : LARGE + 77]
    assert {id(memoryview(part).obj) for part in third.payload} <= places


def test_kept_memory_is_bounded() -> None:
    buffers = Buffers(3 * LARGE + 2 * BLOCK)
    taken = [buffers.take(LARGE) for _ in range(4)]
    assert len({id(one.obj) for one in taken}) == 4
    for one in taken:
        assert len(one) >= LARGE + 2 * BLOCK
        buffers.give(one)
    assert 0 < buffers.kept <= 3 * LARGE + 2 * BLOCK
    again = buffers.take(LARGE)
    assert again in taken
    assert buffers.kept == 0
    buffers.give(again)
    assert len(buffers.take(100 * LARGE)) > 100 * LARGE, "what is kept is too small for that"


def test_calls_that_are_answered_at_once_are_foreground() -> None:
    foreground = Foreground(0.0)
    assert foreground.share(0.5) == 0.0
    foreground.passed(0.6)
    assert foreground.share(0.7) > 0.0
    assert foreground.share(0.6 + 3 * WINDOW_S) == 0.0
