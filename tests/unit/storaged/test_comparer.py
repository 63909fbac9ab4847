"""A device compared with its catalog: by digests, then shard by shard; and what heartbeats tell of damage."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from reedbed.common.errors import Unavailable
from reedbed.common.ids import NO_ID, Id
from reedbed.extents.digest import ShardsDigest
from reedbed.protos import catalog_pb2, methods
from reedbed.storaged import comparer, telling
from reedbed.storaged.calls import Damage
from reedbed.storaged.comparer import Comparer, Comparison
from reedbed.storaged.disk_twin import MemoryDisk
from reedbed.storaged.pace import Pace
from reedbed.storaged.record import HEAD, SEGMENT_HEADER
from reedbed.storaged.segments import segment_name
from reedbed.storaged.store import ShardStore
from reedbed.storaged.telling import PER_BEAT, Telling
from tests.unit.storaged.conftest import extent, shard

Opener = Callable[..., ShardStore]
ALL = Id(b"\xff" * 16)


@dataclass
class OneDevice:
    store: ShardStore
    number: int = 7


class Catalog:
    """A catalog that expects some shards, (extent, index, pg, length), and knows of no others."""

    def __init__(self, below: Id = ALL, page: int = 1000) -> None:
        self.expects: set[tuple[Id, int, int, int]] = set()
        self.below = below
        self.page = page
        self.listed: list[Id] = []
        self.calls: list[str] = []
        self.missing: list[tuple[Id, int]] = []
        self.garbage: list[tuple[Id, int]] = []
        self.down = False
        self.meanwhile: Callable[[], None] = lambda: None

    async def ask(self, method: str, message: Any, answer: Any) -> Any:
        if self.down:
            raise Unavailable("nobody there")
        self.calls.append(method)
        assert message.device == 7
        if method == methods.COMPARE:
            return self._digests(message)
        return self._shards(message)

    def _digests(self, message: catalog_pb2.CompareRequest) -> catalog_pb2.CompareReply:
        if not message.below:
            return catalog_pb2.CompareReply(below=self.below)
        wanted: dict[int, ShardsDigest] = {}
        for id_, index, pg, length in self.expects:
            if id_ < self.below:
                wanted.setdefault(pg, ShardsDigest()).add(id_, index, length)
        told = {one.pg: ShardsDigest(one.count, int.from_bytes(one.sum, "big")) for one in message.digests}
        differing = [pg for pg in wanted.keys() | told.keys() if wanted.get(pg) != told.get(pg)]
        return catalog_pb2.CompareReply(below=self.below, differing=differing)

    def _shards(self, message: catalog_pb2.CompareShardsRequest) -> catalog_pb2.CompareShardsReply:
        reply = catalog_pb2.CompareShardsReply(missing=len(message.absent))
        self.missing += [(Id(one.extent), one.index) for one in message.absent]
        mine = sorted(
            one
            for one in self.expects
            if one[0] > message.after
            and (not message.upto or one[0] <= message.upto)
            and (one[0] >= message.below or one[2] in message.pgs)
        )
        reply.upto = message.upto
        if len(mine) > self.page:
            reply.upto = mine[self.page - 1][0]
        has = {(one.extent, one.index, one.pg, one.length) for one in message.held}
        self.listed += [Id(one.extent) for one in message.held]
        for one in mine[: self.page]:
            if one not in has:
                reply.suspects.add(extent=one[0], index=one[1])
        known = {(one[0], one[1]) for one in self.expects}
        for held in message.held:
            if (not reply.upto or held.extent <= reply.upto) and (held.extent, held.index) not in known:
                self.garbage.append((Id(held.extent), held.index))
                reply.garbage += 1
        self.meanwhile()
        return reply


def put(store: ShardStore, *numbers: int, pg: int = 1) -> set[tuple[Id, int, int, int]]:
    for number in numbers:
        store.put(shard(number, os.urandom(100), pg=pg)).result(5)
    return {(extent(number), 0, pg, 100) for number in numbers}


async def compared(store: ShardStore, catalog: Catalog) -> Comparison:
    return await Comparer(list, catalog.ask).compare(OneDevice(store))


async def test_an_equal_device_lists_nothing(store: ShardStore) -> None:
    catalog = Catalog()
    catalog.expects = put(store, *range(1, 50)) | put(store, 60, 61, pg=2)
    assert await compared(store, catalog) == Comparison()
    assert catalog.calls == [methods.COMPARE, methods.COMPARE, methods.COMPARE_SHARDS]
    assert catalog.listed == []


async def test_only_pgs_that_differ_are_listed(store: ShardStore) -> None:
    catalog = Catalog()
    catalog.expects = put(store, *range(1, 50)) | put(store, 60, 61, pg=2) | {(extent(62), 0, 2, 100)}
    assert await compared(store, catalog) == Comparison(differing=1, missing=1)
    assert catalog.missing == [(extent(62), 0)]
    assert catalog.listed == [extent(60), extent(61)]


@pytest.mark.parametrize(("page", "theirs"), [(2, 3), (3, 2), (1000, 1000)])
async def test_both_ways_in_pages_of_any_length(
    store: ShardStore, page: int, theirs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparer, "PAGE_MAX", page)
    catalog = Catalog(page=theirs)
    rows = put(store, *range(1, 20))
    catalog.expects = {row for row in rows if row[0] != extent(4)} | {(extent(n), 0, 1, 100) for n in (30, 31, 32, 33)}
    found = await compared(store, catalog)
    assert catalog.missing == [(extent(number), 0) for number in (30, 31, 32, 33)]
    assert catalog.garbage == [(extent(4), 0)]
    assert (found.missing, found.garbage) == (4, 1)


async def test_what_is_newer_than_the_digests_is_always_listed(store: ShardStore) -> None:
    catalog = Catalog(below=extent(10))
    catalog.expects = put(store, *range(1, 15)) | {(extent(20), 0, 1, 100)}
    assert await compared(store, catalog) == Comparison(missing=1)
    assert catalog.listed == [extent(number) for number in range(10, 15)]


async def test_a_put_that_was_under_way_is_not_missing(store: ShardStore) -> None:
    """The catalog knows of it when the device's list, taken before, does not have it."""
    catalog = Catalog(below=NO_ID)
    catalog.expects = put(store, 1) | {(extent(2), 0, 1, 100)}
    catalog.meanwhile = lambda: put(store, 2) and None
    assert await compared(store, catalog) == Comparison()
    assert catalog.missing == []


async def test_a_damaged_shard_counts_as_not_held(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    catalog = Catalog()
    catalog.expects = put(store, 1, 2, 3)
    disk.content(segment_name(1))[SEGMENT_HEADER + HEAD + 8 + 50] ^= 1
    store.read_many([])
    with pytest.raises(OSError, match="damaged"):
        store.read(extent(1), 0, 0, 100)
    found = await compared(store, catalog)
    assert (found.missing, catalog.missing) == (1, [(extent(1), 0)])


async def test_a_device_is_compared_after_an_unclean_start_and_after_each_pass(
    opened: Opener, disk: MemoryDisk
) -> None:
    catalog = Catalog()
    store = opened()
    catalog.expects = put(store, 1, 2)
    store.close()
    clean = opened()
    device = OneDevice(clean)
    worker = Comparer(lambda: [device], catalog.ask)
    assert not clean.unclean
    assert not await worker.step(device)
    scrubber = clean.scrubber(Pace())
    scrubber.ask()
    while not scrubber.status().passes:
        scrubber.step()
    assert await worker.step(device)
    assert worker.status(7) == Comparison(done=1, passes=1)
    assert not await worker.step(device)
    clean.close(clean=False)
    device.store = opened()
    assert device.store.unclean
    assert await worker.step(device)
    assert not await worker.step(device)
    device.store.close()
    device.store = opened(check_index=lambda _: "broken")
    assert not device.store.unclean


async def test_a_comparison_that_failed_stays_due(store: ShardStore) -> None:
    catalog = Catalog()
    catalog.down = True
    device = OneDevice(store)
    worker = Comparer(lambda: [device], catalog.ask)
    with pytest.raises(Unavailable):
        await worker.step(device)
    catalog.down = False
    assert await worker.step(device)


async def test_a_store_that_is_closed_while_it_is_compared_ends_nothing(store: ShardStore) -> None:
    """As when the device is cleaned."""
    catalog = Catalog()
    device = OneDevice(store)
    store.unclean = True
    worker = Comparer(lambda: [device], catalog.ask)
    stop = asyncio.Event()
    store.close()
    running = asyncio.create_task(worker.run(stop))
    while not worker.status(device.number).error:  # noqa: ASYNC110 - a status tells nobody
        await asyncio.sleep(0.001)
    stop.set()
    await running


async def test_a_comparison_ends_when_the_process_does(store: ShardStore) -> None:
    catalog = Catalog()
    put(store, *range(1, 40))
    device = OneDevice(store)
    worker = Comparer(lambda: [device], catalog.ask)
    stop = asyncio.Event()
    stop.set()
    await worker.run(stop)
    with pytest.raises(Unavailable, match="stopping"):
        await worker.compare(device)


async def test_a_device_that_forgot_damage_is_not_compared(store: ShardStore) -> None:
    device = OneDevice(store)
    store.unclean = True
    worker = Comparer(lambda: [device], Catalog().ask)
    store._damage.overflowed = True
    assert not await worker.step(device)
    store._damage.overflowed = False
    assert await worker.step(device)


def test_lost_shards_are_told_in_turn_until_they_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "PER_BEAT", 2)
    assert PER_BEAT > 2
    one = Telling()
    all_ = [Damage(extent(number), 0, 0, 0.0) for number in range(5)]
    keys = [(damage.extent, 0) for damage in all_]
    assert one.next(all_) == keys[:2]
    assert one.next(all_) == keys[2:4]
    assert one.next(all_) == [keys[4], keys[0]]
    one.noted(keys[1:4])
    assert sorted(one.next(all_)) == [keys[0], keys[4]]
    assert one.next(all_[1:4]) == []  # healed: these two
    assert one.next([]) == []
    assert one.next(all_[:2]) == keys[:2]  # damaged once more
