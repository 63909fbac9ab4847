"""Late devices: spare reads are asked for and win, losers never write, the budget holds, slow devices are avoided."""

from __future__ import annotations

import asyncio
import random

import pytest

from reedbed.common.clock import Deadline
from reedbed.common.errors import Unavailable
from reedbed.extents import latency as latency_module
from reedbed.extents.latency import SPARE_BURST_CALLS, SPARE_SHARE
from reedbed.extents.read import read_extent


@pytest.fixture
async def slow(make_twin, some_bytes):
    """A twin, an extent of 300,000 bytes, its bytes, and the holder of its first shard, which does not answer."""
    twin, data = make_twin(), some_bytes(300_000)
    extent = await twin.write(data)
    twin.teach(0.0001)
    holder = twin.holder(extent, 0)
    holder.gate = asyncio.Event()
    for device in twin.devices.values():
        device.arrived.clear()
    return twin, extent, data, holder


async def test_a_late_read_is_overtaken(slow):
    twin, extent, data, holder = slow
    assert await twin.read(extent, 100, 1000) == data[100:1100]
    counts = twin.metrics.snapshot()
    assert (counts["reads.spare_asked"], counts["reads.spare_won"], counts["reads.decoded"]) == (1, 1, 1)
    assert "reads.direct" not in counts
    assert holder.under_way == 0, "the loser was cancelled"
    assert asyncio.current_task().cancelling() == 0


async def test_a_late_piece_among_others_is_overtaken(slow):
    twin, extent, data, _ = slow
    assert await twin.read(extent) == data
    counts = twin.metrics.snapshot()
    assert (counts["reads.spare_won"], counts["reads.direct"]) == (1, 3)


async def test_the_loser_never_writes_into_the_callers_memory(slow):
    twin, extent, data, holder = slow
    into = bytearray(1000)
    await read_extent(twin, extent, 0, 1000, memoryview(into), Deadline(5))
    assert into == data[:1000]
    into[:] = bytes(1000)
    holder.gate.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert into == bytes(1000)


async def test_the_loser_has_ended_before_the_winners_bytes_are_put_in_place(slow):
    """The call that is overtaken writes to its memory once more while it is being cancelled."""
    twin, extent, data, _ = slow
    serve = twin._serve

    async def scribbling(device, info, method, header, payload, deadline, into):
        try:
            return await serve(device, info, method, header, payload, deadline, into)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            into[:] = b"\xee" * len(into)
            raise

    twin._serve = scribbling
    assert await twin.read(extent, 0, 1000) == data[:1000]
    assert twin.metrics.get("reads.spare_won") == 1


async def test_the_spare_read_loses(slow):
    twin, extent, data, holder = slow
    others = [device for device in twin.devices.values() if device is not holder]
    for device in others:
        device.gate = asyncio.Event()
    reading = asyncio.ensure_future(twin.read(extent, 0, 1000))
    await twin.holder(extent, 1).arrived.wait()
    holder.gate.set()
    assert await reading == data[:1000]
    counts = twin.metrics.snapshot()
    assert (counts["reads.spare_asked"], counts["reads.direct"]) == (1, 1)
    assert "reads.decoded" not in counts
    assert twin.idle()


async def test_a_late_device_that_then_fails_leaves_the_spare_read_to_finish(slow):
    twin, extent, data, holder = slow
    holder.alter = lambda reply, payload: payload.clear()
    others = [device for device in twin.devices.values() if device is not holder]
    for device in others:
        device.gate = asyncio.Event()
    reading = asyncio.ensure_future(twin.read(extent, 0, 65_536))
    await twin.holder(extent, 1).arrived.wait()
    holder.gate.set()
    for device in others:
        device.gate.set()
    assert await reading == data[:65_536]
    assert sum(device.served["shard.read"] for device in others) <= 5, "nothing was asked twice"
    counts = twin.metrics.snapshot()
    assert (counts["reads.damaged"], counts["reads.decoded"]) == (1, 1)
    assert "reads.spare_won" not in counts


async def test_cancelling_the_caller_while_a_spare_read_runs(slow):
    twin, extent, _, _ = slow
    for device in twin.devices.values():
        device.gate = asyncio.Event()
    reading = asyncio.ensure_future(twin.read(extent, 0, 1000))
    await twin.holder(extent, 1).arrived.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert twin.idle()


async def test_cancelling_the_caller_while_the_loser_ends(slow):
    twin, extent, _, _ = slow
    serve = twin._serve

    async def cancelling(*args):
        try:
            return await serve(*args)
        except asyncio.CancelledError:
            reading.cancel()
            await asyncio.sleep(0)
            raise

    twin._serve = cancelling
    reading = asyncio.ensure_future(twin.read(extent, 0, 1000))
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert twin.idle()


async def test_within_a_timeout_of_the_caller(slow):
    twin, extent, data, _ = slow
    async with asyncio.timeout(5):
        assert await twin.read(extent, 0, 1000) == data[:1000]


async def test_decoding_replaces_a_late_source(slow):
    twin, extent, data, holder = slow
    holder.gate = None
    twin.set_state(twin.number(extent, 1), "down")
    late = twin.holder(extent, 2)
    late.gate = asyncio.Event()
    start = extent.lengths[0]
    assert await twin.read(extent, start, 1000) == data[start : start + 1000]
    assert late.served["shard.read"] == 1


@pytest.mark.parametrize(("size", "bursts"), [(65_536, 1), (1000, 2)])
async def test_the_budget_holds(slow, monkeypatch, size, bursts):
    """Every read is late; past the burst only a share of them may be answered by others, the rest wait.

    Where a range turns out to need whole blocks around it the budget may be overdrawn once.
    """
    twin, extent, data, holder = slow
    monkeypatch.setattr(twin.latency, "is_slow", lambda *_: False)  # this is about the budget, so avoid nobody
    monkeypatch.setattr(twin.latency, "avoid", lambda *_: False)
    reads = 400
    waiting = [asyncio.ensure_future(twin.read(extent, 0, size)) for _ in range(reads)]
    pending = set(waiting)
    while reads - len(pending) < SPARE_BURST_CALLS // 4:
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    assert twin.metrics.get("reads.spare_won") >= SPARE_BURST_CALLS // 4
    holder.gate.set()
    assert await asyncio.gather(*waiting) == [data[:size]] * reads
    extra = twin.calls() - reads
    assert SPARE_BURST_CALLS <= extra <= bursts * SPARE_BURST_CALLS + SPARE_SHARE * reads + 4


async def test_a_device_that_hangs_is_an_error_outside_the_budget(slow, monkeypatch):
    twin, extent, data, _ = slow
    monkeypatch.setattr(latency_module, "HUNG_FLOOR_S", 0.01)
    assert twin.latency.budget.take(10**6, 0)
    assert not twin.latency.budget.take(1, 0)
    assert await twin.read(extent, 0, 1000) == data[:1000]
    assert twin.metrics.get("reads.spare_won") == 1


async def test_a_slow_device_is_soon_avoided_by_plan_and_probed(slow):
    twin, extent, data, holder = slow
    for _ in range(30):
        assert await twin.read(extent, 0, 1000) == data[:1000]
    assert twin.metrics.get("reads.avoided") > 10
    asked = holder.served["shard.read"]
    for _ in range(102):
        assert await twin.read(extent, 0, 1000) == data[:1000]
    assert 1 <= holder.served["shard.read"] - asked <= 4, "one read in fifty goes there"
    holder.gate = None
    for _ in range(400):
        assert await twin.read(extent, 0, 1000) == data[:1000]
    asked, avoided = holder.served["shard.read"], twin.metrics.get("reads.avoided")
    for _ in range(50):
        assert await twin.read(extent, 0, 1000) == data[:1000]
    assert (holder.served["shard.read"], twin.metrics.get("reads.avoided")) == (asked + 50, avoided)


async def test_a_slow_device_is_still_used_where_it_is_needed(slow):
    twin, extent, data, holder = slow
    holder.gate = None
    number = twin.number(extent, 0)
    for _ in range(10):
        twin.latency.record(number, 1000, 10.0)
    for shard in (1, 2):
        twin.set_state(twin.number(extent, shard), "down")
        twin.holder(extent, shard).dead = True
    assert await twin.read(extent) == data


@pytest.mark.parametrize("seed", range(5))
async def test_races_in_every_order(make_twin, some_bytes, monkeypatch, seed):
    """Answers, failures, damage and the caller's own cancellation, each after a few turns of the loop, chosen at
    random: bytes are right, nobody writes afterwards, nothing is left running."""
    rng = random.Random(seed)
    twin, data = make_twin(seed=seed), some_bytes(300_000)
    extent = await twin.write(data)
    monkeypatch.setattr(twin.latency, "patience", lambda *_: 0.0)
    monkeypatch.setattr(twin.latency, "avoid", lambda *_: False)
    monkeypatch.setattr(twin.latency, "is_slow", lambda *_: False)
    monkeypatch.setattr(twin.latency.budget, "take", lambda *_: rng.random() < 0.8)
    serve = twin._serve
    faults = laggard = 0

    async def unsteady(device, info, *rest):
        nonlocal faults
        for _ in range(rng.choice([0, 1, 2, 3, 5, 8, 13, 40]) + 200 * (info.number == laggard)):
            await asyncio.sleep(0)
        fault = rng.random() < 0.1 and faults < 2
        if fault:
            faults += 1
            if rng.random() < 0.5:
                raise Unavailable("the lane broke")
        reply = await serve(device, info, *rest)
        for _ in range(rng.choice([0, 1, 2, 3, 5])):
            await asyncio.sleep(0)
        if fault and len(reply.payload):
            reply.payload[0] ^= 1
        return reply

    twin._serve = unsteady
    for _ in range(60):
        faults = 0
        laggard = rng.choice([0, *twin.devices])
        offset = rng.randrange(len(data))
        length = rng.choice([10, 1000, 65_536, 300_000])
        length = min(length, len(data) - offset)
        into = bytearray(length)
        reading = asyncio.ensure_future(read_extent(twin, extent, offset, length, memoryview(into), Deadline(5)))
        if rng.random() < 0.2:
            for _ in range(rng.randrange(30)):
                await asyncio.sleep(0)
            reading.cancel()
        await asyncio.wait([reading])
        assert twin.idle()
        if not reading.cancelled():
            reading.result()
            assert into == data[offset : offset + length]
    assert twin.metrics.get("reads.spare_won")
    assert twin.metrics.get("reads.direct")
