"""Packing: small puts at once share extents and commits, and nothing else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.client.core import Core
from reedbed.client.packer import PACK_MAX
from reedbed.client.store import AsyncStore
from reedbed.common.clock import ManualClock
from reedbed.common.errors import Corrupt, InvalidArgument, PreconditionFailed, ReedbedError
from reedbed.common.limits import KIB, MIB
from reedbed.extents import buffers
from reedbed.protos import methods
from reedbed.protos.types import ObjectInfo

SMALL = st.integers(1, 3 * KIB)
MIDDLE = st.sampled_from([64 * KIB, 64 * KIB + 1, 200_000, PACK_MAX - 1, PACK_MAX, PACK_MAX + 1])
MIXED = st.lists(st.one_of(st.just(0), SMALL, SMALL, MIDDLE), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(MIXED, st.sampled_from(["rs-1-1", "rs-2-1", "rs-4-2"]), st.booleans(), st.integers(0, 1 << 32))
def test_any_mix_reads_back(
    new_cluster: Callable[..., Any], core_of: Callable[..., Core], sizes: list[int], profile: str, many: bool, seed: int
) -> None:
    rng = random.Random(seed)
    objects = {f"k{number}": rng.randbytes(size) for number, size in enumerate(sizes)}
    cluster = new_cluster(profile=profile)

    async def run() -> None:
        async with AsyncStore(core_of(cluster)) as store:
            await store.create_bucket("data")
            if many:
                results = await store.put_many("data", objects)
                assert all(isinstance(info, ObjectInfo) for info in results.values())
            else:
                await asyncio.gather(*(store.put("data", key, data) for key, data in objects.items()))
            got = {key: data async for key, data in store.get_many("data", objects)}
            assert got == objects
            key = rng.choice(sorted(objects))
            start = rng.randint(0, len(objects[key]))
            assert await store.get("data", key, start, start + 70_000) == objects[key][start : start + 70_000]

    asyncio.run(run())


async def test_concurrent_puts_share_extents_and_commits(store: AsyncStore, cluster: Any) -> None:
    await store.put("data", "first", b"x")
    extents, commits = len(cluster.extents), cluster.calls[methods.COMMIT]
    await asyncio.gather(*(store.put("data", f"k{number}", bytes(1000)) for number in range(300)))
    assert len(cluster.extents) - extents <= 3
    assert cluster.calls[methods.COMMIT] - commits <= 3
    lonely = cluster.content("data", "first")
    assert cluster.extents[lonely.slices[0].extent].lengths == [1, 0]


async def test_what_packed_bytes_were_copied_to_serves_again(store: AsyncStore) -> None:
    buffers.clear()
    stored: dict[str, bytes] = {}
    kept: list[list[int]] = []
    for round_ in range(3):
        objects = {f"{round_}/{number}": random.Random(f"{round_}{number}").randbytes(300_000) for number in range(6)}
        await asyncio.gather(*(store.put("data", key, data) for key, data in objects.items()))
        stored |= objects
        kept.append(sorted(buffers.kept()))
    assert kept[0], "shards, and so parity, are shorter than what is kept"
    assert all(length % MIB == 0 for length in kept[0])
    assert kept == kept[:1] * 3
    assert {key: data async for key, data in store.get_many("data", stored)} == stored


async def test_an_idle_packer_writes_at_once_and_a_busy_one_gathers(store: AsyncStore, cluster: Any) -> None:
    await store.put("data", "first", b"x")
    extents = len(cluster.extents)
    cluster.gate[methods.PUT_SHARD] = asyncio.Event()
    cluster.entered[methods.PUT_SHARD] = asyncio.Event()
    puts = [asyncio.create_task(store.put("data", "at once", b"1"))]
    await cluster.entered[methods.PUT_SHARD].wait()
    cluster.entered[methods.PUT_SHARD].clear()
    puts.append(asyncio.create_task(store.put("data", "second", b"2")))
    await cluster.entered[methods.PUT_SHARD].wait()
    for number in range(50):
        puts.append(asyncio.create_task(store.put("data", f"later{number}", b"3")))
        await asyncio.sleep(0)
    cluster.gate.pop(methods.PUT_SHARD).set()
    await asyncio.gather(*puts)
    assert len(cluster.extents) - extents == 3


async def test_fates_are_not_coupled(store: AsyncStore, cluster: Any) -> None:
    """In one extent: a condition that fails, a wrong checksum, a buffer that changes, a put that is given up."""
    await store.put("data", "there", b"old")
    cluster.gate[methods.PUT_SHARD] = asyncio.Event()
    cluster.entered[methods.PUT_SHARD] = asyncio.Event()
    changing = bytearray(b"before")
    puts = {
        "there": asyncio.create_task(store.put("data", "there", b"new", if_none_match=True)),
        "wrong": asyncio.create_task(store.put("data", "wrong", b"w", checksum="crc32c:AAAAAA==")),
        "changing": asyncio.create_task(store.put("data", "changing", changing)),
        "given up": asyncio.create_task(store.put("data", "given up", b"g")),
        "good": asyncio.create_task(store.put("data", "good", b"good")),
        "better": asyncio.create_task(store.put("data", "better", b"better", metadata={"m": "b"})),
    }
    extents = len(cluster.extents)
    await cluster.entered[methods.PUT_SHARD].wait()
    puts["given up"].cancel()
    changing[:] = b"after!"
    cluster.gate.pop(methods.PUT_SHARD).set()
    results = dict(zip(puts, await asyncio.gather(*puts.values(), return_exceptions=True), strict=True))
    assert isinstance(results["there"], PreconditionFailed)
    assert isinstance(results["wrong"], Corrupt)
    assert isinstance(results["changing"], InvalidArgument)
    assert isinstance(results["given up"], asyncio.CancelledError)
    assert len(cluster.extents) - extents == 1
    assert await store.get("data", "good") == b"good"
    assert await store.get("data", "better") == b"better"
    assert await store.get("data", "there") == b"old"
    assert [row.key async for row in store.list("data") if isinstance(row, ObjectInfo)] == ["better", "good", "there"]


async def test_buckets_do_not_share_extents(store: AsyncStore, cluster: Any) -> None:
    await store.create_bucket("more")
    await asyncio.gather(store.put("data", "k", b"1"), store.put("more", "k", b"2"))
    assert cluster.content("data", "k").slices[0].extent != cluster.content("more", "k").slices[0].extent


async def test_put_many_takes_no_more_than_its_window(cluster: Any, core_of: Callable[..., Core]) -> None:
    window = 1 << 20
    async with AsyncStore(core_of(cluster, window=window)) as store:
        await store.create_bucket("data")
        drawn = 0

        def pairs() -> Any:
            nonlocal drawn
            for number in range(64):
                drawn += 1
                # all that was drawn and is not committed is held
                assert drawn * 100_000 <= window + len(cluster.objects) * 100_000 + 64 * 100_000
                yield f"k{number}", bytes(100_000)

        results = await store.put_many("data", pairs())
        assert len(results) == drawn == 64
        assert all(isinstance(info, ObjectInfo) for info in results.values())


async def test_a_put_that_runs_out_of_time_in_the_packer(cluster: Any, core_of: Callable[..., Core]) -> None:
    async with AsyncStore(core_of(cluster, timeout=0.2)) as store:
        await store.create_bucket("data")
        cluster.hang.add(methods.PUT_SHARD)
        with pytest.raises((TimeoutError, ConnectionError)) as late:
            await store.put("data", "k", b"x")
        assert not getattr(late.value, "maybe_applied", True)
        cluster.hang.clear()
        assert not await store.exists("data", "k")


async def test_the_time_of_one_of_many_begins_with_its_extent(cluster: Any, core_of: Callable[..., Core]) -> None:
    """Each extent takes less than the timeout, all of them together take more."""
    clock = ManualClock()
    began = clock.monotonic()
    async with AsyncStore(core_of(cluster, clock, timeout=60)) as store:
        await store.create_bucket("data")
        await store.put("data", "first", b"x")
        cluster.gate[methods.COMMIT] = asyncio.Event()
        loop = asyncio.get_running_loop()
        cluster.gate[methods.PUT_SHARD] = asyncio.Event()

        def pulse() -> None:
            # lets one extent after the other through
            for method in (methods.PUT_SHARD, methods.COMMIT):
                cluster.gate.pop(method).set()
                cluster.gate[method] = asyncio.Event()
            clock.advance(12)
            nonlocal timer
            timer = loop.call_later(0.1, pulse)

        timer = loop.call_later(0.1, pulse)
        results = await store.put_many("data", {f"k{number}": bytes(500_000) for number in range(150)})
        timer.cancel()
        assert all(isinstance(info, ObjectInfo) for info in results.values())
        assert clock.monotonic() - began > 60


async def test_an_unexpected_failure_ends_only_what_it_hit(
    store: AsyncStore, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("reedbed.client.packer._copy", no_memory)
        with pytest.raises(ReedbedError, match="MemoryError") as failed:
            await store.put("data", "k", b"x")
        assert not failed.value.maybe_applied
    await store.put("data", "k", b"y")
    assert await store.get("data", "k") == b"y"


async def test_what_put_many_was_to_commit_is_given_up_with_it(store: AsyncStore, cluster: Any, until: Any) -> None:
    """A commit is under way, others wait for its end: after the cancellation they are not sent any more."""
    await store.put("data", "first", b"x")
    cluster.gate[methods.COMMIT] = asyncio.Event()
    cluster.entered[methods.COMMIT] = asyncio.Event()
    before = cluster.calls[methods.COMMIT]
    put = asyncio.create_task(store.put_many("data", {f"k{number}": bytes(300 * KIB) for number in range(150)}))
    await cluster.entered[methods.COMMIT].wait()
    await until(lambda: len(store._core.commits._queue) > 10)
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    cluster.gate.pop(methods.COMMIT).set()
    await store.put("data", "after", b"y")
    assert cluster.calls[methods.COMMIT] == before + 2
    assert await store.get("data", "after") == b"y"
