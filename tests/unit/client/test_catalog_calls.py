"""Calls to the catalog: tries and outcomes, rounds of commits, ids, the map, terms and clusters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from reedbed.client.core import Core
from reedbed.client.store import AsyncStore
from reedbed.common.clock import Deadline, ManualClock
from reedbed.common.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
    ReedbedError,
    Unavailable,
    WrongCluster,
    WrongProtocol,
)
from reedbed.protos import methods
from reedbed.protos.types import ObjectInfo


async def test_a_lost_commit_is_repeated_with_its_id(store: AsyncStore, cluster: Any) -> None:
    cluster.lose[methods.COMMIT] = 2
    info = await store.put("data", "k", b"1", if_none_match=True)
    assert cluster.calls[methods.COMMIT] == 3
    assert (await store.stat("data", "k")).version == info.version
    assert len(cluster.outcomes) == 1


async def test_a_lost_delete_and_copy_are_repeated(store: AsyncStore, cluster: Any) -> None:
    await store.put("data", "k", b"1")
    cluster.lose[methods.COMMIT] = 1
    await store.copy("data", "k", "data", "k2")
    cluster.lose[methods.COMMIT] = 1
    assert await store.delete("data", "k")  # the first one's outcome: there was something
    assert len(cluster.outcomes) == 3


async def test_the_first_outcome_holds_after_an_overwrite(
    store: AsyncStore, cluster: Any, core_of: Callable[..., Core], until: Any
) -> None:
    """The answer is lost, another client overwrites, the call is repeated: our commit is not applied again."""
    cluster.lose[methods.COMMIT] = 1
    cluster.gate[methods.COMMIT] = asyncio.Event()
    cluster.gate[methods.COMMIT].set()
    async with AsyncStore(core_of(cluster)) as other:
        put = asyncio.create_task(store.put("data", "k", b"mine"))
        await until(lambda: cluster.outcomes)
        await other.put("data", "k", b"theirs")
        mine = await put
        assert await other.get("data", "k") == b"theirs"
        assert (await store.stat("data", "k")).version != mine.version


async def test_an_answer_that_stays_lost_says_so(cluster: Any, core_of: Callable[..., Core]) -> None:
    async with AsyncStore(core_of(cluster, timeout=0.3)) as store:
        await store.create_bucket("data")
        cluster.lose[methods.COMMIT] = 1000
        with pytest.raises((Unavailable, DeadlineExceeded)) as lost:
            await store.put("data", "k", b"1")
        assert lost.value.maybe_applied
        assert len(cluster.outcomes) == 1
        results = await store.put_many("data", {"a": b"1", "b": b"2"})
        assert all(isinstance(result, ReedbedError) and result.maybe_applied for result in results.values())
        with pytest.raises((Unavailable, DeadlineExceeded)) as lost:
            await store.delete("data", "k")
        assert lost.value.maybe_applied


async def test_an_answer_that_cannot_be_read_leaves_the_outcome_unknown(store: AsyncStore, cluster: Any) -> None:
    await store.put("data", "k", b"1")
    serve = cluster.serve

    def garbled(address: str, method: str, header: bytes, payload: bytes) -> tuple[bytes, bytes]:
        reply, answer = serve(address, method, header, payload)
        return (b"\xff" * 7 if method in (methods.COMMIT, methods.LOOKUP) else reply), answer

    cluster.serve = garbled
    with pytest.raises(ReedbedError) as lost:
        await store.delete("data", "k")
    assert lost.value.maybe_applied
    with pytest.raises(ReedbedError) as unread:
        await store.stat("data", "k")
    assert not unread.value.maybe_applied


async def test_a_commit_that_was_never_sent_is_not_maybe_applied(cluster: Any, core_of: Callable[..., Core]) -> None:
    async with AsyncStore(core_of(cluster, timeout=0.3)) as store:
        await store.create_bucket("data")
        await store.put("data", "k", b"0")
        cluster.refuse[methods.COMMIT] = 1000
        with pytest.raises((Unavailable, DeadlineExceeded)) as refused:
            await store.copy("data", "k", "data", "k2")
        assert isinstance(refused.value, DeadlineExceeded) or not refused.value.maybe_applied
        cluster.refuse.clear()
        cluster.refuse[methods.LOOKUP] = 1000
        with pytest.raises(Unavailable) as refused:
            await store.stat("data", "k")
        assert not refused.value.maybe_applied


async def test_reads_are_tried_again_and_buckets_only_if_safe(store: AsyncStore, cluster: Any) -> None:
    cluster.lose.update({methods.LOOKUP: 1, methods.LIST: 1, methods.STAT_BUCKET: 1})
    await store.put("data", "k", b"1")
    assert await store.get("data", "k") == b"1"
    assert [row async for row in store.list("data")]
    cluster.refuse[methods.CREATE_BUCKET] = 2
    await store.create_bucket("more")
    cluster.lose[methods.CREATE_BUCKET] = 1
    with pytest.raises(Unavailable) as lost:
        await store.create_bucket("lost")
    assert lost.value.maybe_applied


async def test_a_hung_catalog_ends_at_the_deadline(cluster: Any, core_of: Callable[..., Core]) -> None:
    async with AsyncStore(core_of(cluster, timeout=0.2)) as store:
        await store.create_bucket("data")
        for method, call in (
            (methods.LOOKUP, lambda: store.get("data", "k")),
            (methods.COMMIT, lambda: store.delete("data", "k")),
            (methods.STAT_BUCKET, lambda: store.put("data", "k", b"1")),
        ):
            cluster.hang = {method}
            with pytest.raises((DeadlineExceeded, Unavailable)) as late:
                await call()
            assert late.value.maybe_applied == (method == methods.COMMIT)


async def test_commits_gather_while_one_is_under_way(store: AsyncStore, cluster: Any) -> None:
    await store.put("data", "k", b"1")
    cluster.gate[methods.COMMIT] = asyncio.Event()
    cluster.entered[methods.COMMIT] = asyncio.Event()
    before = cluster.calls[methods.COMMIT]
    first = asyncio.create_task(store.delete("data", "first"))
    await cluster.entered[methods.COMMIT].wait()
    rest = [asyncio.create_task(store.copy("data", "k", "data", f"c{i}", if_none_match=True)) for i in range(20)]
    twice = asyncio.create_task(store.copy("data", "k", "data", "c7", if_none_match=True))
    given_up = asyncio.create_task(store.copy("data", "k", "data", "given up"))
    missing = asyncio.create_task(store.copy("data", "none", "data", "missing"))
    for _ in range(10):
        await asyncio.sleep(0)
    given_up.cancel()
    cluster.gate.pop(methods.COMMIT).set()
    await asyncio.gather(first, *rest)
    with pytest.raises(PreconditionFailed):
        await twice
    with pytest.raises(NotFound):
        await missing
    assert cluster.calls[methods.COMMIT] == before + 2
    assert not await store.exists("data", "given up")


async def test_ids_are_leased_anew_before_they_are_too_old(cluster: Any, core_of: Callable[..., Core]) -> None:
    clock = ManualClock()
    core = core_of(cluster, clock, timeout=None)
    async with AsyncStore(core):
        deadline = Deadline(None, clock)
        seen = {await core.cluster.new_id(deadline) for _ in range(100)}
        assert (len(seen), cluster.blocks) == (100, 1)
        clock.advance(0.79 * cluster.good_for_ms / 1000)
        await core.cluster.new_id(deadline)
        assert cluster.blocks == 1
        clock.advance(0.02 * cluster.good_for_ms / 1000)
        await asyncio.gather(*(core.cluster.new_id(deadline) for _ in range(10)))
        assert cluster.blocks == 2


async def test_a_newer_epoch_renews_the_map(store: AsyncStore, cluster: Any, until: Any) -> None:
    await store.put("data", "k", b"1")
    core = store._core
    cluster.map = replace(cluster.map, epoch=cluster.map.epoch + 1)
    await store.stat("data", "k")
    await until(lambda: core.cluster.map.epoch == cluster.map.epoch)
    asked = cluster.calls[methods.GET_MAP]
    await asyncio.gather(*(core.cluster.refresh(cluster.map.epoch, core.deadline()) for _ in range(10)))
    assert cluster.calls[methods.GET_MAP] <= asked + 2  # one for all, and one for those that came while it ran


async def test_a_failed_renewal_of_the_map_is_tried_again(
    cluster: Any, core_of: Callable[..., Core], until: Any
) -> None:
    """No epoch is told of only once; and while no answer comes, the catalog is not asked without a pause."""
    clock = ManualClock()
    async with AsyncStore(core_of(cluster, clock, timeout=None)) as store:
        await store.create_bucket("data")
        await store.put("data", "k", b"1")
        core = store._core
        cluster.map = replace(cluster.map, epoch=cluster.map.epoch + 1)
        core.cluster._flight._work = _refused
        await store.stat("data", "k")
        await until(lambda: core.metrics.get("map.renewals_failed") == 1)
        await store.stat("data", "k")
        assert core.metrics.get("map.renewals_failed") == 1
        core.cluster._flight._work = core.cluster._fetch
        clock.advance(1.1)
        await store.stat("data", "k")
        await until(lambda: core.cluster.map.epoch == cluster.map.epoch)


async def _refused() -> None:
    raise Unavailable("no map")


async def test_a_replaced_catalog_is_left(cluster: Any, core_of: Callable[..., Core]) -> None:
    async with AsyncStore(core_of(cluster, timeout=0.3)) as store:
        await store.create_bucket("data")
        store._core.cluster.link.saw(0, cluster.term + 1)  # as a storaged's answer would tell
        with pytest.raises(Unavailable, match="replaced"):
            await store.list_buckets()
        cluster.term += 1
        assert await store.list_buckets()


async def test_another_cluster_is_refused(store: AsyncStore, cluster: Any) -> None:
    await store.put("data", "k", b"1")
    lane = await store._core.cluster.link.pool.lane("127.0.0.1:7300", deadline=Deadline(1))
    cluster.name = b"x" * 16
    await lane.close()
    with pytest.raises(WrongCluster):
        await store.list_buckets()


async def test_a_storaged_is_no_endpoint(cluster: Any, core_of: Callable[..., Core]) -> None:
    core = core_of(cluster)
    core.cluster.link.endpoint = "device:1"
    async with AsyncStore(core) as store:
        with pytest.raises(WrongProtocol, match="storaged"):
            await store.list_buckets()


async def test_a_catalog_that_is_not_there(cluster: Any, core_of: Callable[..., Core]) -> None:
    cluster.present = False
    async with AsyncStore(core_of(cluster, timeout=0.2)) as store:
        with pytest.raises(Unavailable) as gone:
            await store.put("data", "k", b"1")
        assert not gone.value.maybe_applied


async def test_too_few_devices(cluster: Any, core_of: Callable[..., Core]) -> None:
    async with AsyncStore(core_of(cluster, timeout=1.0)) as store:
        await store.create_bucket("data")
        await store.put("data", "k", bytes(200_000))
        cluster.down.update(range(1, 9))
        for lane in [slot.lane for slot in store._core._pool._slots.values() if slot.lane is not None]:
            if lane.hello.role == "storaged":
                await lane.close()
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await store.get("data", "k")
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await store.put("data", "new", b"x")
        cluster.down.clear()
        assert not await store.exists("data", "new")


async def test_a_closed_store_and_another_loop(cluster: Any, core_of: Callable[..., Core]) -> None:
    store = AsyncStore(core_of(cluster))
    async with store:
        await store.create_bucket("data")
        writer = await store.open("data", "k", "wb")
        await writer.write(b"x")
    with pytest.raises(Unavailable, match="closed"):
        await store.list_buckets()
    with pytest.raises(Unavailable, match="closed"):
        await writer.close()
    other = AsyncStore(core_of(cluster))
    await other.list_buckets()
    with pytest.raises(InvalidArgument, match="loop"):
        await asyncio.to_thread(lambda: asyncio.run(other.list_buckets()))
    await other.close()


async def test_results_of_put_many(store: AsyncStore, cluster: Any) -> None:
    items = {f"{number}": bytes([number]) * number for number in range(100)}
    items["large"] = bytes(1_000_000)
    results = await store.put_many("data", {**items, "": b"x", "bad": "text"})
    assert isinstance(results.pop(""), InvalidArgument)
    assert isinstance(results.pop("bad"), InvalidArgument)
    assert list(results) == list(items)
    assert all(isinstance(info, ObjectInfo) and info.size == len(items[key]) for key, info in results.items())
    got = [pair async for pair in store.get_many("data", items)]
    assert got == list(items.items())
    with pytest.raises(NotFound):
        await store.put_many("none", items)
    for bad in (5, "text", [("a",)], [5], [(5, b"x")], [("twice", b"1"), ("twice", b"2")]):
        with pytest.raises(InvalidArgument):
            await store.put_many("data", bad)  # type: ignore[arg-type]
    assert cluster.calls[methods.PUT_SHARD] < 60


async def test_get_many_keeps_order_and_bounds(cluster: Any, core_of: Callable[..., Core]) -> None:
    core = core_of(cluster, window=100_000, concurrency=8)
    async with AsyncStore(core) as store:
        await store.create_bucket("data")
        items = {f"{number:03}": bytes([number]) * 30_000 for number in range(200)}
        drawn = 0

        def keys() -> Any:
            nonlocal drawn
            for key in items:
                drawn += 1
                yield key

        await store.put_many("data", ((key, data) for key, data in items.items()))
        seen = 0
        async for key, data in store.get_many("data", keys()):
            assert data == items[key]
            seen += 1
            assert drawn <= seen + 3 * 64
        assert seen == 200
        assert core.getter.buffered_most <= 100_000
        assert core.getter.buffered == 0
        wanted = ["001", "none", "001", "002"]
        assert [data for _, data in [pair async for pair in store.get_many("data", wanted, missing="none")]] == [
            items["001"],
            None,
            items["001"],
            items["002"],
        ]
        pairs = store.get_many("data", wanted)
        assert (await anext(pairs))[0] == "001"
        with pytest.raises(NotFound):
            await anext(pairs)
        assert core.getter.buffered == 0
        for bad in ("001", 5, ["001", 5]):
            with pytest.raises(InvalidArgument):
                [pair async for pair in store.get_many("data", bad)]  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            [pair async for pair in store.get_many("data", [], missing="skip")]  # type: ignore[arg-type]
        with pytest.raises(NotFound):
            [pair async for pair in store.get_many("none", [], missing="none")]


async def test_what_a_catalog_says_after_it_was_replaced_is_not_used(
    cluster: Any, core_of: Callable[..., Core], until: Any
) -> None:
    """A storaged tells of the next term while the old catalogd still answers: that answer may be of the past."""
    core = core_of(cluster)
    async with AsyncStore(core) as store:
        await store.create_bucket("data")
        await store.put("data", "k", b"1")
        gate = cluster.gate[methods.LOOKUP] = asyncio.Event()
        calls = cluster.calls[methods.LOOKUP]
        stat = asyncio.create_task(store.stat("data", "k"))
        await until(lambda: cluster.calls[methods.LOOKUP] > calls)
        core.cluster.link.saw(0, cluster.term + 1)
        gate.set()
        await until(lambda: store.metrics().get("catalog.left"))
        assert not stat.done()
        cluster.term += 1
        assert (await stat).size == 1


async def test_a_catalog_that_was_never_there_is_given_up_early_whatever_the_timeout(
    cluster: Any, core_of: Callable[..., Core], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reedbed.client.link.FIRST_CONTACT_S", 0.1)
    cluster.present = False
    async with asyncio.timeout(10), AsyncStore(core_of(cluster, timeout=None)) as store:
        with pytest.raises(Unavailable, match="nobody answers"):
            await store.list_buckets()


async def test_a_commit_that_has_its_whole_round_refused_fails_alone(store: AsyncStore, cluster: Any) -> None:
    commit = cluster.commit
    sizes = []

    def refusing(request: Any) -> Any:
        sizes.append(len(request.ops))
        if any(op.key == b"bad" for op in request.ops):
            raise InvalidArgument("this makes no sense")
        return commit(request)

    cluster.commit = refusing
    results = await store.put_many("data", {"a": b"1", "bad": b"2", "c": b"3"})
    assert isinstance(results["bad"], InvalidArgument)
    assert isinstance(results["a"], ObjectInfo)
    assert isinstance(results["c"], ObjectInfo)
    assert max(sizes) > 1
