"""Small reads in rounds: calls are shared, fates are not; late, failing and altered answers as for any read."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reedbed.common.clock import Deadline
from reedbed.common.errors import Corrupt, DeadlineExceeded, Unavailable
from reedbed.ec.cut import block_borders
from reedbed.extents import rounds as rounds_module
from reedbed.extents.rounds import READ_MAX, ROUNDS, ReadRounds, SmallRead, _request
from reedbed.extents.small import SmallReads
from reedbed.protos import storage_pb2
from reedbed.protos.types import Device


class Reading:
    """A twin with an extent of many small objects, and what reads them."""

    def __init__(self, twin, extent, data):
        self.twin, self.extent, self.data = twin, extent, data
        self.reads = SmallReads(twin)

    async def get(self, offset, length, seconds=5.0):
        return await self.reads.read(self.extent, offset, length, Deadline(seconds))

    async def check(self, offset, length, seconds=5.0):
        assert await self.get(offset, length, seconds) == self.data[offset : offset + length]


@pytest.fixture
async def small(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(300_000)
    extent = await twin.write(data)
    twin.teach(0.0001)
    reading = Reading(twin, extent, data)
    yield reading
    await reading.reads.close()
    await asyncio.sleep(0)


async def settled(small):
    """What was cancelled takes a few turns to end."""
    for _ in range(20):
        await asyncio.sleep(0)


def counts(small):
    return small.twin.metrics.snapshot()


async def test_reads_of_one_turn_share_a_call(small, monkeypatch):
    monkeypatch.setattr(small.twin.latency, "patience", lambda *_: 100.0)
    await asyncio.gather(*(small.check(number * 1000, 1000) for number in range(40)))
    assert small.twin.calls() == 1
    assert counts(small)["reads.direct"] == 40
    await asyncio.gather(*(small.check(number * 2000, 1500) for number in range(140)))
    assert small.twin.calls() <= 1 + 12  # at most ROUND_READS in one, from four devices; those across shards alone


async def test_all_kinds_of_ranges(small):
    rng = random.Random(5)
    spans = [(rng.randrange(299_000), rng.choice([1, 7, 1000, 65_536, 65_537, 120_000])) for _ in range(80)]
    await asyncio.gather(*(small.check(offset, min(length, 300_000 - offset)) for offset, length in spans))
    assert await small.get(17, 0) == b""
    for offset, length in ((-1, 5), (299_999, 2), (300_000, 1)):
        with pytest.raises(ValueError, match="outside"):
            await small.get(offset, length)


async def test_a_busy_device_gets_few_calls_with_many_reads(small):
    holder = small.twin.holder(small.extent, 0)
    for number in small.twin.devices:
        small.twin.latency.record(number, 100, 100.0)  # so that nothing is late
    small.twin.latency.patience = lambda *_: 100.0
    holder.gate = asyncio.Event()
    reads = []
    for number in range(60):
        reads.append(asyncio.ensure_future(small.check(number * 100, 100)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert holder.under_way == ROUNDS
    holder.gate.set()
    await asyncio.gather(*reads)
    assert holder.served["shard.read"] == ROUNDS + 1


async def test_fates_are_not_coupled(small):
    """In one call: a range that is altered, one whose rows are another's, a failure, one that was given up."""
    holder = small.twin.holder(small.extent, 0)

    def alter(reply, payload):
        if len(reply.results) < 5:
            return
        payload[0] ^= 1
        reply.results[1].rows.offset += 1
        result = reply.results[2]
        result.failed, result.code, result.what = True, "DamagedShard", "rot"
        del payload[2000:3000]

    holder.alter = alter
    reads = [asyncio.ensure_future(small.get(number * 1000, 1000)) for number in range(6)]
    while not holder.under_way:  # noqa: ASYNC110  what is waited for tells nobody
        await asyncio.sleep(0)
    reads[4].cancel()
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert isinstance(results[4], asyncio.CancelledError)
    for number in (0, 1, 2, 3, 5):
        assert results[number] == small.data[number * 1000 : number * 1000 + 1000]
    assert counts(small)["reads.decoded"] == 3
    assert counts(small)["reads.direct"] == 2
    assert counts(small)["reads.damaged"] >= 3


@pytest.mark.parametrize("how", ["short", "long", "few", "garbage", "empty table", "block of none"])
async def test_answers_that_cannot_be_right(small, how):
    holder = small.twin.holder(small.extent, 0)

    def alter(reply, payload):
        if how == "short":
            del payload[-10:]
        elif how == "long":
            payload[:0] = b"x"
        elif how == "few":
            del reply.results[0]
        elif how == "garbage":
            reply.results[0].rows.table = b"\1"
        elif how == "empty table":
            reply.results[0].rows.table = b""
        else:
            reply.results[0].rows.table = bytes(16)

    holder.alter = alter
    await asyncio.gather(small.check(0, 1000), small.check(2000, 1000))
    assert counts(small)["reads.decoded"] >= 1


async def test_a_late_read_is_overtaken_and_its_call_ends(small):
    holder = small.twin.holder(small.extent, 0)
    holder.gate = asyncio.Event()
    await small.check(100, 1000)
    assert counts(small)["reads.spare_won"] == counts(small)["reads.spare_asked"] == 1
    assert "reads.direct" not in counts(small)
    await settled(small)
    assert holder.under_way == 0, "the loser was cancelled"


async def test_a_late_read_that_comes_before_the_spare_one(small):
    holder = small.twin.holder(small.extent, 0)
    for device in small.twin.devices.values():
        device.gate = asyncio.Event()
    reading = asyncio.ensure_future(small.check(100, 1000))
    await small.twin.holder(small.extent, 1).arrived.wait()
    while not counts(small).get("reads.spare_asked"):  # noqa: ASYNC110  what is waited for tells nobody
        await asyncio.sleep(0)
    holder.gate.set()
    await reading
    assert counts(small)["reads.direct"] == 1
    assert "reads.decoded" not in counts(small)
    assert small.twin.idle()


async def test_a_call_goes_on_while_anybody_wants_it(small, monkeypatch):
    holder = small.twin.holder(small.extent, 0)
    holder.gate = asyncio.Event()
    monkeypatch.setattr(small.twin.latency, "patience", lambda *_: 100.0)
    reads = [asyncio.ensure_future(small.check(number, 1)) for number in range(3)]
    await holder.arrived.wait()
    while not holder.under_way:  # noqa: ASYNC110  what is waited for tells nobody
        await asyncio.sleep(0)
    for read in reads[:2]:
        read.cancel()
    await asyncio.wait(reads[:2])
    await asyncio.sleep(0.01)
    assert holder.under_way == 1
    reads[2].cancel()
    await asyncio.wait(reads)
    await settled(small)
    assert holder.under_way == 0


async def test_the_budget_holds(small, monkeypatch):
    twin = small.twin
    monkeypatch.setattr(twin.latency, "is_slow", lambda *_: False)
    monkeypatch.setattr(twin.latency, "avoid", lambda *_: False)
    assert twin.latency.budget.take(10**6, 0)
    holder = twin.holder(small.extent, 0)
    holder.gate = asyncio.Event()
    reads = [asyncio.ensure_future(small.check(number, 10)) for number in range(20)]
    await asyncio.sleep(0.05)
    assert "reads.spare_asked" not in counts(small)
    holder.gate.set()
    await asyncio.gather(*reads)
    assert counts(small)["reads.direct"] == 20


async def test_a_device_that_hangs_is_an_error_outside_the_budget(small, monkeypatch):
    monkeypatch.setattr("reedbed.extents.latency.HUNG_FLOOR_S", 0.01)
    assert small.twin.latency.budget.take(10**6, 0)
    small.twin.holder(small.extent, 0).gate = asyncio.Event()
    await small.check(0, 1000)
    assert counts(small)["reads.spare_won"] == 1


async def test_a_read_has_its_own_deadline(small, monkeypatch):
    monkeypatch.setattr(small.twin.latency, "patience", lambda *_: 100.0)
    holder = small.twin.holder(small.extent, 0)
    holder.gate = asyncio.Event()
    patient = asyncio.ensure_future(small.check(0, 10, seconds=5.0))
    with pytest.raises(DeadlineExceeded):
        await small.get(10, 10, seconds=0.02)
    holder.gate.set()
    await patient


async def test_a_dead_device_and_one_that_is_down(small):
    holder = small.twin.holder(small.extent, 0)
    holder.dead = True
    await asyncio.gather(*(small.check(number * 100, 100) for number in range(10)))
    assert counts(small)["reads.decoded"] == 10
    served = holder.served["shard.read"]
    small.twin.set_state(small.twin.number(small.extent, 0), "down")
    await small.check(0, 100)
    assert holder.served["shard.read"] == served


async def test_a_slow_device_is_avoided(small):
    number = small.twin.number(small.extent, 0)
    for _ in range(20):
        small.twin.latency.record(number, 1000, 10.0)
    await small.check(0, 1000)
    assert counts(small)["reads.avoided"] == 1


async def test_close_ends_what_waits(small):
    for device in small.twin.devices.values():
        device.gate = asyncio.Event()
    small.twin.latency.patience = lambda *_: 100.0
    reads = [asyncio.ensure_future(small.get(number, 1)) for number in range(5)]
    while not small.twin.holder(small.extent, 0).under_way:  # noqa: ASYNC110  what is waited for tells nobody
        await asyncio.sleep(0)
    closing = asyncio.ensure_future(small.reads.close())
    for device in small.twin.devices.values():
        device.dead = True
        device.gate.set()
    await closing
    for result in await asyncio.gather(*reads, return_exceptions=True):
        assert isinstance(result, Unavailable)
    with pytest.raises(Unavailable):
        await small.get(0, 1)


@pytest.mark.parametrize("seed", range(4))
async def test_races_in_every_order(small, monkeypatch, seed):
    """Answers, failures, damage and the caller's own cancellation after any number of turns: bytes are right."""
    rng, twin = random.Random(seed), small.twin
    monkeypatch.setattr(twin.latency, "patience", lambda *_: rng.choice([0.0, 100.0]))
    monkeypatch.setattr(twin.latency, "avoid", lambda *_: False)
    serve = twin._serve

    async def unsteady(device, info, *rest):
        for _ in range(rng.choice([0, 1, 3, 8, 40])):
            await asyncio.sleep(0)
        fault = rng.random()
        if fault < 0.05:
            raise Unavailable("the lane broke")
        reply = await serve(device, info, *rest)
        if 0.05 < fault < 0.1 and len(reply.payload):
            reply.payload[rng.randrange(len(reply.payload))] ^= 1
        return reply

    twin._serve = unsteady
    for _ in range(30):
        spans = [(rng.randrange(290_000), rng.choice([1, 100, 4096, 9000])) for _ in range(12)]
        reads = [asyncio.ensure_future(small.get(*span)) for span in spans]
        if rng.random() < 0.3:
            await asyncio.sleep(0)
            reads[0].cancel()
        for (offset, length), result in zip(spans, await asyncio.gather(*reads, return_exceptions=True), strict=True):
            if isinstance(result, bytes):
                assert result == small.data[offset : offset + length]
            else:
                assert isinstance(result, asyncio.CancelledError | Corrupt | Unavailable)


NUMBERS = st.integers(0, (1 << 32) - 1)


@given(st.lists(st.tuples(NUMBERS, st.binary(min_size=16, max_size=16), st.integers(0, 39), NUMBERS, NUMBERS)))
def test_requests_read_as_messages(wanted):
    reads = [
        SmallRead(Device(number, b"", "a", "up"), extent, shard, start, length, 0.0, None)
        for number, extent, shard, start, length in wanted
    ]
    read = storage_pb2.ReadShardsRequest.FromString(_request(reads)).reads
    assert [(one.device, one.extent, one.index, one.offset, one.length) for one in read] == wanted


def test_limits_fit():
    assert READ_MAX * rounds_module.ROUND_READS > rounds_module.ROUND_BYTES
    assert block_borders(READ_MAX) == [READ_MAX]


@pytest.mark.parametrize("turns", range(6))
async def test_a_call_that_is_cancelled_before_its_first_turn_counts_no_more(make_twin, some_bytes, turns):
    """Whoever waited for it went on with other bytes in the meantime."""
    twin = make_twin()
    extent = await twin.write(some_bytes(1000))
    reads = ReadRounds(twin)
    device = twin.map.devices[twin.number(extent, 0)]
    for _ in range(3):
        read = reads.ask(device, extent.id, 0, 0, 10, Deadline(5.0))
        for _ in range(turns):
            await asyncio.sleep(0)
        call = read.call
        if call is not None and call.task is not None:
            call.task.cancel()
        reads.drop(read)
    for _ in range(10):
        await asyncio.sleep(0)
    assert all(line.calls == 0 for line in reads._lines.values())
    read = reads.ask(device, extent.id, 0, 0, 10, Deadline(5.0))
    async with asyncio.timeout(5):
        await read.done
    reads.drop(read)
    await reads.close()


@pytest.mark.parametrize("turns", range(6))
async def test_a_read_that_begins_as_the_store_is_closed_ends(make_twin, some_bytes, turns):
    twin = make_twin()
    data = some_bytes(1000)
    extent = await twin.write(data)
    reads = SmallReads(twin)
    reading = asyncio.ensure_future(reads.read(extent, 0, 10, Deadline(5.0)))
    for _ in range(turns):
        await asyncio.sleep(0)
    await reads.close()
    async with asyncio.timeout(3):
        with contextlib.suppress(Unavailable):
            assert await reading == data[:10]
