"""The SDK against the catalog's real namespace, in one process: leases by hand, devices in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog import audit, sweep
from reedbed.catalog.committer import Committer
from reedbed.catalog.edit import editing
from reedbed.catalog.memory import MemoryEngine
from reedbed.catalog.objects import ObjectService
from reedbed.catalog.twins import manual_needs
from reedbed.client import put as put_module
from reedbed.client import registrar
from reedbed.client.catalog import UploadInfo
from reedbed.client.core import Core
from reedbed.client.store import AsyncStore
from reedbed.common.clock import Deadline
from reedbed.common.errors import (
    BelowHorizon,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
    ReedbedError,
    StaleGeneration,
    Unavailable,
)
from reedbed.common.ids import make_block
from reedbed.common.limits import MIB
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos import methods
from reedbed.protos.types import ObjectInfo
from reedbed.transport.lane import Hello, Reply, Request, Response
from reedbed.transport.service import Router

Before = Callable[[str, bytes], Awaitable[None]]


class World:
    """The real namespace; map and devices are those of the twin. `lose[method]`: answers that get lost."""

    def __init__(self, twin: Any) -> None:
        self.twin = twin
        self.engine = MemoryEngine()
        self.needs, self.leases, self.judge, self.clock = manual_needs()
        self.committer = Committer(self.engine)
        self.blocks = 0
        self.after: Callable[[str, bytes], None] = lambda method, header: None
        self.start()

    def start(self) -> None:
        objects = ObjectService(self.engine, self.committer, self.needs)
        own = {methods.LEASE_IDS: self.lease}
        self.router = Router({**objects.handlers, **own})

    async def restart(self) -> None:
        """What was acknowledged is there again, under the next term."""
        await self.committer.close()
        self.engine = self.engine.crash()
        self.committer = Committer(self.engine)
        self.twin.term += 1
        self.leases.term_now += 1
        self.start()

    async def lease(self, request: Request) -> Response:
        self.blocks += 1
        prefix = make_block(self.leases.time_ms, self.blocks)
        reply = pb.LeaseReply(prefix=prefix, count=1 << 20, horizon=self.leases.horizon(), good_for_ms=60_000)
        return Response(reply.SerializeToString())

    async def open(self, address: str, *, cluster: bytes, deadline: Deadline) -> Any:
        lane = await self.twin.open(address, cluster=cluster, deadline=deadline)
        return lane if address.startswith("device:") else Lane(self, lane)

    def sweep(self) -> None:
        with self.engine.write() as writer, editing(writer, self.needs) as edit:
            while sweep.step(edit, sweep.Retention()).busy:
                pass

    def problems(self) -> list[str]:
        with self.engine.read() as reader:
            return audit.check(reader)


class Lane:
    def __init__(self, world: World, twin: Any) -> None:
        self._world, self._twin = world, twin
        self.hello: Hello = twin.hello
        self._handlers = world.router

    @property
    def broken(self) -> bool:
        return self._world.router is not self._handlers

    async def close(self) -> None:
        await self._twin.close()

    async def call(
        self, method: str, header: bytes, payload: Any = (), *, deadline: Deadline, into: Any = None, epoch: int = 0
    ) -> Reply:
        world = self._world
        if method in (methods.GET_MAP, methods.ENSURE_PROFILE):
            reply: Reply = await self._twin.call(method, header, payload, deadline=deadline, into=into, epoch=epoch)
            return reply
        term = world.twin.term
        response = await self._handlers.handle(Request(method, header, payload, deadline, epoch, 0))
        world.twin.calls[method] += 1
        world.after(method, header)
        if world.twin.lose[method] > 0:
            world.twin.lose[method] -= 1
            raise Unavailable("the lane broke", maybe_applied=True)
        return Reply(response.header, memoryview(b""), world.twin.map.epoch, term)


@pytest.fixture
async def world(cluster: Any) -> AsyncIterator[World]:
    made = World(cluster)
    yield made
    assert made.problems() == []
    await made.committer.close()


@pytest.fixture
async def real(world: World, core_of: Callable[..., Core]) -> AsyncIterator[AsyncStore]:
    """A store with the buckets `data` and, versioned, `kept`."""
    async with AsyncStore(core_of(world)) as opened:
        await opened.create_bucket("data", profile="rs-2-1")
        await opened.create_bucket("kept", versioned=True, profile="rs-2-1")
        yield opened


async def test_a_packed_object_outlives_the_deletion_of_its_neighbour(
    real: AsyncStore, monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]
) -> None:
    """Two objects of one extent, committed in different rounds; the first is gone before the second comes."""
    commits = real._core.commits
    submit = commits.submit
    held: list[Any] = []

    def later(op: bytes, *rest: Any) -> None:
        if pb.CommitOp.FromString(op).key == b"b":
            held.append((op, *rest))
        else:
            submit(op, *rest)

    monkeypatch.setattr(commits, "submit", later)
    putting = asyncio.create_task(real.put_many("data", {"a": b"a" * 100, "b": b"b" * 100}))
    await until(lambda: held)
    await until(lambda: real.metrics().get("puts.objects"))
    assert await real.delete("data", "a")
    submit(*held[0])
    results = await putting
    assert all(isinstance(info, ObjectInfo) for info in results.values())
    assert real.metrics()["packer.extents"] == 1
    assert "puts.repeated" not in real.metrics()
    assert await real.get("data", "b") == b"b" * 100
    assert not await real.exists("data", "a")


async def test_below_the_horizon_a_lost_commit_is_of_unknown_outcome(
    real: AsyncStore, world: World, cluster: Any
) -> None:
    """The answer is lost and its memory too: the put must not be done again under another id."""
    cluster.lose[methods.COMMIT] = 1

    def after(method: str, header: bytes) -> None:
        if method == methods.COMMIT and cluster.lose[methods.COMMIT]:
            world.leases.raise_horizon()
            world.sweep()

    world.after = after
    with pytest.raises(BelowHorizon) as caught:
        await real.put("data", "k", b"mine")
    assert caught.value.maybe_applied
    assert cluster.calls[methods.COMMIT] == 2
    cluster.lose[methods.COMMIT] = 1
    with pytest.raises(BelowHorizon) as again:
        await real.delete("data", "k")
    assert again.value.maybe_applied


async def test_an_id_that_the_horizon_passed_before_its_commit_is_replaced(real: AsyncStore, world: World) -> None:
    await real.put("data", "a", b"1")
    world.leases.raise_horizon()
    # the block at hand is old; its ids are refused, surely without effect, and the put takes new ones in the end
    with pytest.raises(BelowHorizon) as caught:
        await real.put("data", "b", b"2")
    assert not caught.value.maybe_applied
    assert not await real.exists("data", "b")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extents of 64 bytes, so that an object of thousands of them is small."""
    monkeypatch.setattr(put_module, "extent_bytes", lambda profile: 64)
    monkeypatch.setattr(put_module, "PACK_MAX", 63)


async def registered(store: AsyncStore, count: int) -> UploadInfo:
    """The one upload under way, once it has so many slices."""
    while True:
        uploads = await store.list_uploads("data")
        if uploads and uploads[0].slices >= count:
            return uploads[0]
        await asyncio.sleep(0)


async def test_more_slices_than_one_commit_may_name(
    real: AsyncStore, world: World, tiny: None, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reedbed.catalog.operations.SLICES_PER_COMMIT", 64)
    monkeypatch.setattr(registrar, "REGISTER_SLICES", 48)
    monkeypatch.setattr(registrar, "SLICES_CHUNK", 16)
    count = 300
    data = random.Random(1).randbytes(64 * count)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 1000):
            yield data[at : at + 1000]

    info = await real.put("data", "long", pieces())
    assert info.size == len(data)
    assert cluster.calls[methods.REGISTER] >= (count - 64) // 16
    assert await real.list_uploads("data") == []
    assert await real.get("data", "long") == data
    assert await real.get("data", "long", 7_001, 7_100) == data[7_001:7_100]
    # a copy shares the chunks, by count; each outlives the other
    await real.copy("data", "long", "data", "twin")
    await real.delete("data", "long")
    world.sweep()
    assert await real.get("data", "twin") == data
    await real.delete("data", "twin")
    world.sweep()
    assert world.problems() == []


async def test_a_long_put_outlives_the_horizon_and_can_be_seen_and_aborted(
    world: World, core_of: Callable[..., Core], tiny: None, until: Any, cluster: Any
) -> None:
    core = core_of(world)
    core.putter._register_after = 0.0  # whatever is written is old
    async with AsyncStore(core) as store:
        await store.create_bucket("data", profile="rs-2-1")
        go = asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            yield b"a" * 64 * 20
            await go.wait()
            yield b"b" * 64 * 20

        put = asyncio.create_task(store.put("data", "k", pieces()))
        upload = await registered(store, 20)
        assert (upload.key, upload.bucket) == ("k", "data")
        assert upload.bytes == upload.slices * 64
        assert upload.started
        world.leases.raise_horizon()
        core.cluster.ids._block = None  # the client's clock would have asked for a new block by now
        go.set()
        info = await put
        assert await store.get("data", "k") == b"a" * 1280 + b"b" * 1280
        assert (await store.stat("data", "k")).version == info.version
        assert await store.list_uploads("data") == []

        go.clear()
        put = asyncio.create_task(store.put("data", "other", pieces()))
        await until(lambda: cluster.calls[methods.BEGIN_UPLOAD] == 2)
        (upload,) = await store.list_uploads("data")
        await store.abort_upload(upload.id)
        with pytest.raises(NotFound):
            await store.abort_upload(upload.id)
        go.set()
        with pytest.raises(NotFound):
            await put
        assert not await store.exists("data", "other")
        assert await store.list_uploads("data") == []


async def test_what_the_catalog_decides_of_a_registration_is_not_asked_for_again(
    world: World, core_of: Callable[..., Core], tiny: None, cluster: Any
) -> None:
    """The bytes of a stream are gone: the put fails at once, with the catalog's word, whatever its timeout."""
    core = core_of(world, timeout=None)
    core.putter._register_after = 0.0
    async with AsyncStore(core) as store:
        await store.create_bucket("data", profile="rs-2-1")

        async def pieces() -> AsyncIterator[bytes]:
            yield b"a" * 64 * 20
            await registered(store, 20)
            world.judge.generation = 0
            yield b"b" * 64 * 20
            await asyncio.Event().wait()

        async with asyncio.timeout(20):
            with pytest.raises(StaleGeneration):
                await store.put("data", "k", pieces())
        assert await store.list_uploads("data") == []


async def test_a_registration_under_way_at_the_end_is_not_named_twice(
    world: World, core_of: Callable[..., Core], tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper is in the midst of a registration when the last part has been written."""
    core = core_of(world)
    core.putter._register_after = 1e9
    ready, inside, go = asyncio.Event(), asyncio.Event(), asyncio.Event()
    register, written = core.catalog.register, put_module._LongPut._written

    async def slow(*arguments: Any) -> None:
        await register(*arguments)
        inside.set()
        await go.wait()

    async def keep(self: registrar.Registrar) -> None:
        await ready.wait()
        self._after = 0.0
        await self.step()
        await asyncio.Event().wait()

    async def all_written(self: Any) -> None:
        await written(self)
        ready.set()
        await inside.wait()
        asyncio.get_running_loop().call_later(0.01, go.set)

    monkeypatch.setattr(core.catalog, "register", slow)
    monkeypatch.setattr(registrar.Registrar, "keep", keep)
    monkeypatch.setattr(put_module._LongPut, "_written", all_written)
    async with AsyncStore(core) as store:
        await store.create_bucket("data", profile="rs-2-1")
        assert (await store.put("data", "k", b"x" * 64 * 6)).size == 64 * 6
        assert await store.get("data", "k") == b"x" * 64 * 6


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_large_buffer_that_changes_during_the_put(
    real: AsyncStore, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Before it is coded: the version is of the bytes that were coded, and can be read whole. After: it is refused."""
    data = bytearray(3 * MIB)
    write = put_module.write_summed

    async def late(*arguments: Any, **settings: Any) -> Any:
        if when == "before":
            data[5] ^= 1
        written = await write(*arguments, **settings)
        if when == "after":
            data[5] ^= 1
        return written

    monkeypatch.setattr(put_module, "write_summed", late)
    if when == "before":
        await real.put("data", "k", data)
        assert await real.get("data", "k") == data
    else:
        with pytest.raises(InvalidArgument, match="changed"):
            await real.put("data", "k", data)
        assert not await real.exists("data", "k")


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1 << 32), st.booleans())
def test_clients_read_what_any_of_them_has_committed_last(
    new_cluster: Callable[..., Any], core_of: Callable[..., Core], seed: int, versioned: bool
) -> None:
    """Whatever each remembers of where things were."""
    rng = random.Random(seed)

    async def run() -> None:
        world = World(new_cluster())
        async with AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(AsyncStore(core_of(world))) for _ in range(3)]
            await stores[0].create_bucket("data", profile="rs-2-1", versioned=versioned)
            model: dict[str, bytes | None] = dict.fromkeys("abc")
            kept: list[tuple[str, str, bytes]] = []
            for _ in range(60):
                store, key = rng.choice(stores), rng.choice("abc")
                what = rng.random()
                if what < 0.2:
                    model[key] = data = rng.randbytes(rng.choice([0, 1, 1000]))
                    info = await store.put("data", key, data)
                    kept.append((key, info.version, data))
                elif what < 0.3:
                    await store.delete("data", key)
                    model[key] = None
                elif what < 0.4 and versioned and kept:
                    key, version, data = rng.choice(kept)
                    assert await store.get("data", key, version=version) == data
                else:
                    found = {name: blob async for name, blob in store.get_many("data", list("abc"), missing="none")}
                    assert found == model
                    if model[key] is not None:
                        assert await store.get("data", key) == model[key]
                        continue
                    with pytest.raises(NotFound):
                        await store.get("data", key)
            assert world.problems() == []
        await world.committer.close()

    asyncio.run(run())


async def test_a_cancelled_long_put_aborts_its_upload(
    world: World, core_of: Callable[..., Core], tiny: None, until: Any, cluster: Any
) -> None:
    core = core_of(world)
    core.putter._register_after = 0.0
    async with AsyncStore(core) as store:
        await store.create_bucket("data", profile="rs-2-1")

        async def pieces() -> AsyncIterator[bytes]:
            yield b"a" * 64 * 20
            await asyncio.Event().wait()

        put = asyncio.create_task(store.put("data", "k", pieces()))
        await registered(store, 20)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        assert await store.list_uploads("data") == []
        assert world.problems() == []


async def test_a_store_that_is_closed_leaves_no_upload(
    world: World, core_of: Callable[..., Core], tiny: None, cluster: Any
) -> None:
    core = core_of(world)
    core.putter._register_after = 0.0
    go = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a" * 64 * 20
        await go.wait()

    async with AsyncStore(core_of(world)) as other:
        async with AsyncStore(core) as store:
            await store.create_bucket("data", profile="rs-2-1")
            put = asyncio.create_task(store.put("data", "k", pieces()))
            await registered(other, 20)
        assert await other.list_uploads("data") == []
        go.set()
        with pytest.raises(ReedbedError):
            await put
        assert not await other.exists("data", "k")


@pytest.mark.parametrize("turns", range(12))
async def test_whoever_puts_while_the_store_is_closed_is_told_at_once(
    world: World, core_of: Callable[..., Core], turns: int
) -> None:
    store = AsyncStore(core_of(world, timeout=None))
    await store.create_bucket("data", profile="rs-2-1")
    await store.put("data", "first", b"x")
    many = asyncio.create_task(store.put_many("data", {f"m{number}": bytes(100) for number in range(200)}))
    puts = [
        asyncio.create_task(store.put("data", f"k{number}", bytes(size))) for number, size in enumerate((9, 600_000))
    ]
    for _ in range(turns):
        await asyncio.sleep(0)
    await store.close()
    async with asyncio.timeout(5):
        ended = await asyncio.gather(many, *puts, return_exceptions=True)
    for result in (*ended, *(ended[0].values() if isinstance(ended[0], dict) else ())):
        assert isinstance(result, ObjectInfo | ReedbedError | dict), result


async def test_one_of_two_clients_wins_a_conditional_put(world: World, core_of: Callable[..., Core]) -> None:
    stores = [AsyncStore(core_of(world)) for _ in range(8)]
    try:
        await stores[0].create_bucket("data", profile="rs-2-1")
        for key, first in (("new", None), ("old", b"0")):
            condition: dict[str, Any] = {"if_none_match": True}
            if first is not None:
                condition = {"if_match": (await stores[0].put("data", key, first)).etag}
            ended = await asyncio.gather(
                *(store.put("data", key, b"%d" % at, **condition) for at, store in enumerate(stores, 1)),
                return_exceptions=True,
            )
            winners = [at for at, result in enumerate(ended, 1) if isinstance(result, ObjectInfo)]
            assert len(winners) == 1
            assert sum(isinstance(result, PreconditionFailed) for result in ended) == len(stores) - 1
            assert await stores[-1].get("data", key) == b"%d" % winners[0]
    finally:
        for store in stores:
            await store.close()


async def test_versions_end_to_end(real: AsyncStore) -> None:
    one = await real.put("kept", "k", b"1", metadata={"n": "1"})
    two = await real.put("kept", "k", b"22")
    assert await real.delete("kept", "k")
    assert not await real.exists("kept", "k")
    with pytest.raises(PreconditionFailed):
        await real.put("kept", "k", b"x", if_match=two.etag)
    listed = [info async for info in real.list_versions("kept")]
    assert [(info.version, info.delete_marker, info.latest) for info in listed] == [
        (listed[0].version, True, True),
        (two.version, False, False),
        (one.version, False, False),
    ]
    assert [await real.get("kept", "k", version=info.version) for info in listed[1:]] == [b"22", b"1"]
    with pytest.raises(NotFound, match="delete marker"):
        await real.get("kept", "k", version=listed[0].version)
    three = await real.put("kept", "k", b"333", if_none_match=True)
    assert await real.delete("kept", "k", version=three.version)
    assert not await real.exists("kept", "k")
    assert await real.delete("kept", "k", version=listed[0].version)
    assert await real.get("kept", "k") == b"22"
    copied = await real.copy("kept", "k", "data", "from", version=one.version)
    assert copied.metadata == {"n": "1"}
    assert await real.get("data", "from") == b"1"
    assert not await real.delete("kept", "k", version=three.version)
    for info in (one, two):
        assert await real.delete("kept", "k", version=info.version)
    assert [info async for info in real.list_versions("kept")] == []
    await real.delete_bucket("kept")


async def test_a_listing_is_right_while_others_write_and_the_catalog_restarts(
    real: AsyncStore, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reedbed.client.catalog.PAGE_MAX", 7)
    stay = [f"k{number:03}" for number in range(0, 100, 2)]
    await real.put_many("data", dict.fromkeys(stay, b"x"))
    seen: list[str] = []
    async for row in real.list("data"):
        assert isinstance(row, ObjectInfo)
        seen.append(row.key)
        if len(seen) % 7 == 3:
            await real.put("data", f"k{len(seen):03}x", b"y")
            await real.delete("data", f"k{len(seen):03}x")
            await real.put("data", f"z{len(seen):03}", b"y")
        if len(seen) == 20:
            await world.restart()
    assert seen == sorted(set(seen))
    assert [key for key in seen if key in stay] == stay


async def test_a_restart_in_the_midst_of_puts_loses_and_doubles_nothing(real: AsyncStore, world: World) -> None:
    async def put(number: int) -> None:
        await real.put("data", f"k{number}", b"%d" % number, if_none_match=True)

    puts = [asyncio.create_task(put(number)) for number in range(50)]
    for _ in range(3):
        await asyncio.sleep(0.005)
        await world.restart()
    await asyncio.gather(*puts)
    rows = [row async for row in real.list("data")]
    assert len(rows) == 50
    for number in range(50):
        assert await real.get("data", f"k{number}") == b"%d" % number


async def test_metadata_of_a_copy_while_the_source_is_overwritten(
    real: AsyncStore, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await real.put("data", "k", b"1", content_type="text/plain")
    stat = real._core.getter.stat
    raced: list[bytes] = [b"22", b"333"]

    async def overtaken(target: Any) -> ObjectInfo:
        info = await stat(target)
        if raced:
            await real.put("data", "k", raced.pop(0), content_type="text/html")
        return info

    monkeypatch.setattr(real._core.getter, "stat", overtaken)
    info = await real.copy("data", "k", "data", "copy", metadata={"a": "b"})
    assert (info.metadata, info.content_type, info.size) == ({"a": "b"}, "text/html", 3)


async def test_many_copies_whose_answers_do_not_fit_one_reply(real: AsyncStore) -> None:
    await real.put("data", "k", b"1", metadata={"long": "m" * 7000})
    copies = await asyncio.gather(*(real.copy("data", "k", "data", f"c{number}") for number in range(900)))
    assert {len(info.metadata["long"]) for info in copies} == {7000}
    found = {key: data async for key, data in real.get_many("data", (f"c{number}" for number in range(900)))}
    assert len(found) == 900
    assert set(found.values()) == {b"1"}


async def test_lookups_whose_answers_do_not_fit_one_reply(real: AsyncStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reedbed.catalog.lookup._REPLY_BYTES", 500)
    await real.put_many("data", {f"k{number}": b"%d" % number for number in range(60)})
    found = [pair async for pair in real.get_many("data", [f"k{number}" for number in range(61)], missing="none")]
    assert found == [*((f"k{number}", b"%d" % number) for number in range(60)), ("k60", None)]


async def test_failures_of_some_of_many(real: AsyncStore, world: World) -> None:
    results = await real.put_many("data", {"ok": b"1", "x" * 2000: b"2", "": b"3", "large": bytes(3 * MIB)})
    assert isinstance(results["ok"], ObjectInfo)
    assert isinstance(results["large"], ObjectInfo)
    assert isinstance(results["x" * 2000], ReedbedError)
    assert isinstance(results[""], ReedbedError)
    ended = await real.delete_many("data", ["ok", "none", "x" * 2000, "large"])
    assert (ended["ok"], ended["none"], ended["large"]) == (True, False, True)
    assert isinstance(ended["x" * 2000], ReedbedError)


async def test_a_read_of_a_version_overwritten_meanwhile_never_mixes(
    real: AsyncStore, world: World, cluster: Any
) -> None:
    await real.put("data", "k", b"1" * 1000)
    async with real.open("data", "k") as file:
        first = await file.read(10)
        await real.put("data", "k", b"2" * 1000)
        # the extent is dropped, and its shards are kept for as long as a read may last
        assert first + await file.read() == b"1" * 1000
    async with real.open("data", "k") as file:
        await real.put("data", "k", b"3" * 1000)
        cluster.drop_shards()
        with pytest.raises(NotFound):
            await file.read()
