"""What a client remembers of where bytes are is used only with the catalog's word in the same read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from reedbed.client.core import Core
from reedbed.client.known import Known
from reedbed.client.store import AsyncStore
from reedbed.client.targets import Content, Target
from reedbed.common.errors import Corrupt, NotFound, UnknownShard
from reedbed.protos import catalog_pb2, methods
from reedbed.protos.types import Slice


@pytest.fixture
async def other(cluster: Any, core_of: Callable[..., Core]) -> AsyncIterator[AsyncStore]:
    """Another client of the same cluster."""
    async with AsyncStore(core_of(cluster)) as opened:
        yield opened


async def test_what_is_known_is_confirmed_and_read_at_the_same_time(store: AsyncStore, cluster: Any) -> None:
    await store.put("data", "k", b"bytes")
    assert await store.get("data", "k") == b"bytes"
    cluster.gate[methods.LOOKUP] = asyncio.Event()
    cluster.entered[methods.READ_SHARDS] = asyncio.Event()
    before = cluster.calls.copy()
    getting = asyncio.create_task(store.get("data", "k", 1, 3))
    await cluster.entered[methods.READ_SHARDS].wait()
    assert not getting.done()
    cluster.gate.pop(methods.LOOKUP).set()
    assert await getting == b"yt"
    assert cluster.unchanged == 1
    assert cluster.calls[methods.READ_SHARDS] - before[methods.READ_SHARDS] == 1
    assert store.metrics()["gets.ahead"] == 1


async def test_another_client_overwrites_and_deletes(store: AsyncStore, other: AsyncStore) -> None:
    await store.put("data", "k", b"first")
    for round_ in range(4):
        data = b"round %d" % round_
        assert await store.get("data", "k") == await other.get("data", "k")
        await (store, other)[round_ % 2].put("data", "k", data)
        assert await store.get("data", "k") == data
        assert await other.get("data", "k") == data
    await other.delete("data", "k")
    for _ in range(2):
        with pytest.raises(NotFound):
            await store.get("data", "k")
    await other.put("data", "k", b"again")
    assert await store.get("data", "k") == b"again"
    assert store.metrics()["gets.ahead"] >= 4


async def test_bytes_that_were_read_ahead_are_not_those_of_a_version_that_is_gone(
    store: AsyncStore, other: AsyncStore, cluster: Any
) -> None:
    """The old version's bytes have come by the time that the catalog answers."""
    await store.put("data", "k", b"old")
    assert await store.get("data", "k") == b"old"
    cluster.gate[methods.LOOKUP] = asyncio.Event()
    getting = asyncio.create_task(store.get("data", "k"))
    reads = cluster.calls[methods.READ_SHARDS]
    while cluster.calls[methods.READ_SHARDS] == reads:  # noqa: ASYNC110  counters tell nobody
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    await other.put("data", "k", b"new")
    cluster.gate.pop(methods.LOOKUP).set()
    assert await getting == b"new"


async def test_a_swap_of_slices_is_followed(store: AsyncStore, other: AsyncStore, cluster: Any) -> None:
    """As recoding and compaction do: the same version, the same bytes, elsewhere, and where they were nothing is."""
    await store.put("data", "k", b"bytes of both")
    assert await store.get("data", "k") == b"bytes of both"
    old = set(cluster.shards)
    await other.put("data", "other", b"bytes of both")
    version, moved = cluster.content("data", "k"), cluster.content("data", "other")
    version.slices[:] = moved.slices
    for place in old:
        del cluster.shards[place]
    assert await store.get("data", "k") == b"bytes of both"
    assert cluster.unchanged == 0


async def test_a_token_that_stands_for_two_states(store: AsyncStore, other: AsyncStore, cluster: Any) -> None:
    """The catalog confirms what is not so: the bytes are not there, and it is asked without the token."""
    await store.put("data", "k", b"bytes of both")
    assert await store.get("data", "k") == b"bytes of both"
    old = set(cluster.shards)
    await other.put("data", "other", b"bytes of both")
    cluster.content("data", "k").slices[:] = cluster.content("data", "other").slices
    for place in old:
        del cluster.shards[place]
    lookup = cluster.lookup

    def confirming(request: Any) -> Any:
        reply = lookup(request)
        for target, found in zip(request.targets, reply.found, strict=True):
            if target.known:
                found.Clear()
                found.unchanged = True
        return reply

    cluster.lookup = confirming
    assert await store.get("data", "k") == b"bytes of both"
    assert store.metrics()["gets.looked_up_again"] >= 1
    assert await store.get("data", "k") == b"bytes of both"


async def test_what_is_lost_is_still_told(store: AsyncStore, cluster: Any) -> None:
    await store.put("data", "k", b"bytes")
    assert await store.get("data", "k") == b"bytes"
    cluster.drop_shards()
    with pytest.raises(Exception, match="good shards are left") as lost:
        await store.get("data", "k")
    assert not isinstance(lost.value, UnknownShard)


async def test_nothing_goes_on_after_a_lookup_that_failed(store: AsyncStore, other: AsyncStore, cluster: Any) -> None:
    await store.put("data", "k", b"bytes")
    assert await store.get("data", "k") == b"bytes"
    await other.delete("data", "k")
    cluster.hang.add(methods.READ_SHARDS)
    before = len(asyncio.all_tasks())
    with pytest.raises(NotFound):
        await store.get("data", "k")
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before


async def test_while_others_look_up_nothing_is_read_ahead(store: AsyncStore) -> None:
    await store.put_many("data", {f"k{number}": b"%d" % number for number in range(20)})
    for _ in range(2):
        got = await asyncio.gather(*(store.get("data", f"k{number}") for number in range(20)))
        assert got == [b"%d" % number for number in range(20)]
    assert store.metrics()["gets.ahead"] == 1  # by the first of them


async def test_an_answer_that_confirms_nothing(store: AsyncStore, cluster: Any) -> None:
    await store.put("data", "k", b"bytes")
    cluster.lookup = lambda request: catalog_pb2.LookupReply(
        found=[catalog_pb2.Found(unchanged=True) for _ in request.targets]
    )
    with pytest.raises(Corrupt):
        await store.get("data", "k")


def content(token: bytes) -> Content:
    return Content(catalog_pb2.ObjectInfo(size=1), (Slice(bytes(16), 0, 1),), {}, False, token)  # type: ignore[arg-type]


def test_what_is_known_is_bounded_and_the_least_used_goes_first() -> None:
    known = Known(limit=10_000)
    targets = [Target("data", b"k%03d" % number) for number in range(100)]
    for number, target in enumerate(targets):
        known.keep(target, content(b"%d" % number))
        assert known.get(targets[0]) is not None
        assert known.bytes <= 10_000
    left = [target for target in targets if known.get(target)]
    assert left[0] == targets[0]
    assert left[1:] == targets[-(len(left) - 1) :]
    for target in targets:
        known.keep(target, content(b"again"))
        known.forget(target)
        known.forget(target)
    assert known.bytes == 0
