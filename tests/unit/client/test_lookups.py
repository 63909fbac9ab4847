"""Rounds of lookups: shared calls, own outcomes, own deadlines, and none joins a call that was sent before it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reedbed.client.background import Background
from reedbed.client.lookups import ROUND_TARGETS, ROUNDS, SPREAD_FROM, LookupRounds
from reedbed.client.store import AsyncStore
from reedbed.client.targets import Content, Target
from reedbed.common.clock import Deadline
from reedbed.common.errors import DeadlineExceeded, InvalidArgument, NotFound, ReedbedError, Unavailable
from reedbed.extents.wheel import Wheel
from reedbed.protos import catalog_pb2, methods


class Catalog:
    """What the rounds ask. `gate`: answers wait for it; `wrong`: keys that fail whole calls; `missing`."""

    def __init__(self) -> None:
        self.asked: list[list[bytes]] = []
        self.gate: asyncio.Event | None = None
        self.wrong: dict[bytes, ReedbedError] = {}
        self.missing: set[bytes] = set()
        self.under_way = 0
        self.background = Background()
        self.rounds = LookupRounds(self.lookup, True, self.background, Wheel(0.001))

    async def lookup(self, targets: Any, slices: bool, deadline: Deadline) -> list[Content | ReedbedError]:
        self.asked.append([target.key for target in targets])
        self.under_way += 1
        try:
            if self.gate is not None:
                await self.gate.wait()
            for target in targets:
                if target.key in self.wrong:
                    raise self.wrong[target.key]
            return [
                NotFound("none", where=target.where)
                if target.key in self.missing
                else Content(catalog_pb2.ObjectInfo(key=target.key), (), {}, False)
                for target in targets
            ]
        finally:
            self.under_way -= 1

    async def find(self, key: bytes, seconds: float = 5.0) -> bytes:
        return (await self.rounds.find(Target("data", key), Deadline(seconds))).info.key.encode()


def keys(count: int) -> list[bytes]:
    return [b"k%d" % number for number in range(count)]


async def test_lookups_of_one_turn_share_a_call() -> None:
    catalog = Catalog()
    few, many, most = keys(SPREAD_FROM - 1), keys(101), keys(2 * ROUND_TARGETS + 3)
    assert await asyncio.gather(*map(catalog.find, few)) == few
    assert list(map(len, catalog.asked)) == [SPREAD_FROM - 1]
    catalog.asked.clear()
    assert await asyncio.gather(*map(catalog.find, many)) == many
    assert list(map(len, catalog.asked)) == [51, 50]
    catalog.asked.clear()
    assert await asyncio.gather(*map(catalog.find, most)) == most
    assert list(map(len, catalog.asked)) == [ROUND_TARGETS, ROUND_TARGETS, 3]


async def test_what_comes_later_joins_no_call_that_was_sent() -> None:
    catalog = Catalog()
    catalog.gate = asyncio.Event()
    finding = []
    for key in keys(10):
        finding.append(asyncio.ensure_future(catalog.find(key)))
        for _ in range(4):
            await asyncio.sleep(0)
    assert catalog.asked == [[key] for key in keys(ROUNDS)]
    catalog.gate.set()
    assert await asyncio.gather(*finding) == keys(10)
    assert catalog.asked == [[key] for key in keys(ROUNDS)] + [keys(10)[ROUNDS:]]


async def test_fates_are_not_coupled() -> None:
    catalog = Catalog()
    catalog.missing, catalog.wrong = {b"k1"}, {b"k3": InvalidArgument("no")}
    results = await asyncio.gather(*map(catalog.find, keys(5)), return_exceptions=True)
    assert isinstance(results[1], NotFound)
    assert isinstance(results[3], InvalidArgument)
    assert [results[0], results[2], results[4]] == [b"k0", b"k2", b"k4"]


async def test_an_error_of_the_call_is_each_ones_own() -> None:
    catalog = Catalog()
    catalog.wrong = {b"k3": Unavailable("away")}
    results = await asyncio.gather(*map(catalog.find, keys(5)), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert len({id(result) for result in results}) == 5
    assert len(catalog.asked) == 1


async def test_each_has_its_own_deadline() -> None:
    catalog = Catalog()
    catalog.gate = asyncio.Event()
    patient = asyncio.ensure_future(catalog.find(b"a"))
    with pytest.raises(DeadlineExceeded):
        await catalog.find(b"b", 0.01)
    catalog.gate.set()
    assert await patient == b"a"


async def test_a_call_goes_on_while_anybody_wants_it() -> None:
    catalog = Catalog()
    catalog.gate = asyncio.Event()
    finding = [asyncio.ensure_future(catalog.find(key)) for key in keys(3)]
    while not catalog.under_way:  # noqa: ASYNC110  what is waited for tells nobody
        await asyncio.sleep(0)
    for one in finding[:2]:
        one.cancel()
    await asyncio.wait(finding[:2])
    await asyncio.sleep(0)
    assert catalog.under_way == 1
    finding[2].cancel()
    await asyncio.wait(finding)
    for _ in range(5):
        await asyncio.sleep(0)
    assert catalog.under_way == 0


async def test_one_that_was_given_up_before_its_call_is_not_asked() -> None:
    catalog = Catalog()
    finding = [asyncio.ensure_future(catalog.find(key)) for key in keys(3)]
    await asyncio.sleep(0)
    finding[1].cancel()
    await asyncio.wait(finding)
    assert catalog.asked in ([[b"k0", b"k2"]], [keys(3)])  # by who had the first turn


async def test_close_tells_those_who_wait() -> None:
    catalog = Catalog()
    catalog.gate = asyncio.Event()
    finding = [asyncio.ensure_future(catalog.find(key)) for key in keys(3)]
    while not catalog.under_way:  # noqa: ASYNC110  what is waited for tells nobody
        await asyncio.sleep(0)
    finding.append(asyncio.ensure_future(catalog.find(b"later")))
    await asyncio.sleep(0)
    await catalog.background.close()
    for result in await asyncio.gather(*finding, return_exceptions=True):
        assert isinstance(result, Unavailable)
        assert not result.retryable
    with pytest.raises(Unavailable):
        await catalog.find(b"k")


async def test_gets_at_once_share_their_calls(store: AsyncStore, cluster: Any) -> None:
    data = {f"k{number}": bytes([number]) * 1000 for number in range(64)}
    await store.put_many("data", data)
    before = cluster.calls.copy()
    got = await asyncio.gather(*(store.get("data", key) for key in data))
    assert got == list(data.values())
    assert cluster.calls[methods.LOOKUP] - before[methods.LOOKUP] == ROUNDS
    assert cluster.calls[methods.READ_SHARDS] - before[methods.READ_SHARDS] <= 2 * ROUNDS
    before = cluster.calls.copy()
    infos = await asyncio.gather(*(store.stat("data", key) for key in data))
    assert [info.key for info in infos] == list(data)
    assert cluster.calls[methods.LOOKUP] - before[methods.LOOKUP] == ROUNDS


async def test_a_get_sees_what_was_committed_before_it_began(store: AsyncStore, cluster: Any) -> None:
    """A lookup under way may be older than a commit that ended meanwhile: nobody who asks after that may join it."""
    await store.put("data", "k", b"old")
    cluster.gate[methods.LOOKUP] = asyncio.Event()
    cluster.entered[methods.LOOKUP] = asyncio.Event()
    first = asyncio.create_task(store.get("data", "k"))
    await cluster.entered[methods.LOOKUP].wait()
    await store.put("data", "k", b"new")
    second = asyncio.create_task(store.get("data", "k"))
    await asyncio.sleep(0)
    cluster.gate.pop(methods.LOOKUP).set()
    assert await first in (b"old", b"new")
    assert await second == b"new"
