"""Reading an extent: every loss that the profile bears, packed extents, altered answers, stale maps, moves."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.common.clock import Deadline
from reedbed.common.errors import (
    Corrupt,
    DamagedShard,
    DataLoss,
    DeadlineExceeded,
    InvalidArgument,
    ReedbedError,
    Unavailable,
)
from reedbed.ec.profiles import Profile
from reedbed.extents import latency as latency_module
from reedbed.extents.read import read_extent
from reedbed.protos.types import Position

LENGTHS = (200_000, 70_000, 0, 65_536)
SIZE = sum(LENGTHS)
RANGES = [(0, SIZE), (1, 10), (199_990, 30), (150_000, 150_000), (65_536, 65_536), (SIZE - 1, 1), (65_000, 1000)]
LOSSES = [lost for count in (1, 2) for lost in combinations(range(6), count)]


@pytest.fixture(scope="module", autouse=True)
def _patience():
    """A stall of this machine must not look like a late device: these tests count calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency_module, "LATE_DEFAULT_S", 30.0)
        patch.setattr(latency_module, "LATE_FLOOR_S", 30.0)
        yield


async def test_the_healthy_case_is_one_call_for_each_shard(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(1_000_000)
    extent = await twin.write(data)
    assert await twin.read(extent) == data
    assert twin.calls() == 4
    assert await twin.read(extent, 10, 100) == data[10:110]
    assert twin.calls() == 5
    assert twin.metrics.snapshot() == {"reads.direct": 5}


@pytest.mark.parametrize("how", ["dead", "down", "gone", "wrong"])
@pytest.mark.parametrize("lost", LOSSES)
async def test_any_two_losses(make_twin, some_bytes, lost, how):
    twin, data = make_twin(), some_bytes(SIZE)
    extent = await twin.write(data, LENGTHS)
    for shard in lost:
        holder = twin.holder(extent, shard)
        holder.dead = how in ("dead", "down")
        if how == "down":
            twin.set_state(twin.number(extent, shard), "down")
        elif how == "gone":
            holder.shards.clear()
        elif how == "wrong":
            holder.alter = flip_payload
    for offset, length in RANGES:
        assert await twin.read(extent, offset, length) == data[offset : offset + length]


def flip_payload(reply, payload):
    payload[len(payload) // 2 : len(payload) // 2 + 1] = bytes([payload[len(payload) // 2] ^ 0x40]) if payload else b""


async def test_three_losses_are_data_loss_or_unavailability(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(1_000_000)
    extent = await twin.write(data)
    for shard in (0, 3, 5):
        twin.holder(extent, shard).shards.clear()
    with pytest.raises(DataLoss, match="3 good shards are left and rs-4-2 needs 4") as caught:
        await twin.read(extent)
    assert caught.value.retryable, "the object may have been moved to other extents"
    assert await twin.read(extent, 300_000, 1000) == data[300_000:301_000], "what is there is still served"

    twin = make_twin()
    extent = await twin.write(data)
    numbers = [twin.number(extent, shard) for shard in (0, 3, 5)]
    for number in numbers:
        twin.devices[number].dead = True
    with pytest.raises(Unavailable) as caught:
        await twin.read(extent)
    assert all(f"device {number} at twin:{number}" in str(caught.value) for number in numbers)
    for number in numbers:
        twin.set_state(number, "down")
    with pytest.raises(Unavailable) as caught:
        await twin.read(extent)
    assert all(f"device {number} at twin:{number}" in str(caught.value) for number in numbers)


async def test_a_device_that_the_map_wrongly_calls_down_is_asked_as_a_last_resort(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(1_000_000)
    extent = await twin.write(data)
    for number in (1, 2, 3, 4):
        twin.set_state(number, "down")
    assert await twin.read(extent) == data
    assert await twin.read(extent, 5, 5) == data[5:10]


async def test_a_shard_that_was_never_written_is_not_asked_for(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(1_000_000)
    twin.holder(type("E", (), {"pg": 1}), 1).full = True
    extent = await twin.write(data)
    assert extent.present == 0b111101
    before = twin.holder(extent, 1).served["shard.read"]
    assert await twin.read(extent) == data
    assert twin.holder(extent, 1).served["shard.read"] == before


async def test_a_whole_degraded_read_asks_k_shards_once(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(1_048_576)
    extent = await twin.write(data)
    for shard in (0, 2):
        twin.set_state(twin.number(extent, shard), "down")
    assert await twin.read(extent) == data
    assert twin.calls() == 4
    assert sum(device.bytes_read for device in twin.devices.values()) == len(data)
    assert twin.metrics.get("reads.decoded") == 2


async def test_a_degraded_range_costs_only_its_own_blocks(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(4 << 20)
    extent = await twin.write(data)
    twin.set_state(twin.number(extent, 1), "down")
    start = (1 << 20) + 100_000
    assert await twin.read(extent, start, 10) == data[start : start + 10]
    assert sum(device.bytes_read for device in twin.devices.values()) == 4 * 65_536
    assert twin.calls() <= 8


async def test_packed_objects_are_decoded_by_their_own_small_blocks(make_twin, some_bytes):
    twin, rng = make_twin(), random.Random(5)
    sizes = [[rng.randint(1, 9000) for _ in range(rng.randint(3, 12))] for _ in range(4)]
    starts = [[sum(shard[:i]) for i in range(len(shard))] for shard in sizes]
    lengths = [sum(shard) for shard in sizes]
    data = some_bytes(sum(lengths))
    extent = await twin.write(data, lengths, starts)
    twin.set_state(twin.number(extent, 1), "down")
    for index, size in enumerate(sizes[1]):
        offset = lengths[0] + starts[1][index]
        before = sum(device.bytes_read for device in twin.devices.values())
        assert await twin.read(extent, offset, size) == data[offset : offset + size]
        assert sum(device.bytes_read for device in twin.devices.values()) - before <= 4 * size
        inner = rng.randrange(size)
        assert await twin.read(extent, offset + inner, size - inner) == data[offset + inner : offset + size]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_random_profiles_layouts_losses_and_ranges(twin_class, data):
    k, m = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    length = st.one_of(st.integers(0, 300), st.integers(60_000, 140_000))
    lengths = data.draw(st.lists(length, min_size=k, max_size=k).filter(any))
    starts = [sorted(data.draw(st.sets(st.integers(0, n), max_size=3))) for n in lengths]
    lost = data.draw(st.sets(st.integers(0, k + m - 1), max_size=m))
    offset = data.draw(st.integers(0, sum(lengths) - 1))
    size = data.draw(st.integers(1, sum(lengths) - offset))
    how = data.draw(st.sampled_from(["dead", "down", "gone", "wrong"]))
    content = random.Random(k).randbytes(sum(lengths))

    async def run():
        twin = twin_class(Profile(k, m), k + m)
        extent = await twin.write(content, lengths, starts)
        for shard in lost:
            twin.holder(extent, shard).dead = how == "dead"
            if how == "down":
                twin.set_state(twin.number(extent, shard), "down")
            elif how == "gone":
                twin.holder(extent, shard).shards.clear()
            elif how == "wrong":
                twin.holder(extent, shard).alter = flip_payload
        assert await twin.read(extent, offset, size) == content[offset : offset + size]
        assert twin.idle()

    asyncio.run(run())


# --- answers that are altered


def flips(twin, extent, field):
    """Every way to flip one bit of a field of an answer, as functions that alter it."""

    def alter(reply, payload, at):
        result = reply.results[0]
        if field == "payload" and payload:
            payload[at % len(payload)] ^= 1 << at % 8
        elif field == "rows" and result.rows.table:
            result.rows.table = flipped(result.rows.table, at)
        elif field == "data_rows" and result.data_rows and result.data_rows[0].table:
            result.data_rows[0].table = flipped(result.data_rows[0].table, at)
        elif field == "place":
            result.rows.first_block ^= 1 << at % 20
        elif field == "rows_place" and result.data_rows:
            result.data_rows[0].offset ^= 1 << at % 20
        elif field == "rows_shard" and result.data_rows:
            result.data_rows[0].first_block ^= 1 << at % 20
        elif field == "offset":
            result.rows.offset ^= 1 << at % 20
        elif field == "shard":
            result.rows.shard ^= 1 << at % 6
        elif field == "length":
            result.length ^= 1 << at % 20
        elif field == "cut" and payload:
            del payload[-1]
        elif field == "rows_missing":
            result.rows.table = result.rows.table[: -8 * (1 + at % 3)]
        elif field == "results":
            del reply.results[:]

    return alter


def flipped(raw, at):
    changed = bytearray(raw)
    changed[at // 8 % len(changed)] ^= 1 << at % 8
    return bytes(changed)


FIELDS = [
    "payload",
    "rows",
    "data_rows",
    "place",
    "rows_place",
    "rows_shard",
    "offset",
    "shard",
    "length",
    "cut",
    "rows_missing",
    "results",
]


@pytest.mark.parametrize("field", FIELDS)
async def test_altered_answers_are_never_returned(make_twin, some_bytes, field):
    lengths = (9000, 70_000, 1, 65_536)
    data = some_bytes(sum(lengths))
    for at in [*range(0, 64), *range(5000, 5008)]:
        twin = make_twin(seed=at)
        extent = await twin.write(data, lengths, [(0, 4000, 8000), (0, 100), (), ()])
        if at % 2:
            twin.set_state(twin.number(extent, 1), "down")
        wrong = twin.holder(extent, (4, 5, 0, 1)[at // 2 % 4])
        alter = flips(twin, extent, field)
        wrong.alter = lambda reply, payload, alter=alter, at=at: alter(reply, payload, at)
        assert await twin.read(extent) == data
        assert await twin.read(extent, 3000, 10_000) == data[3000:13_000]


@pytest.mark.parametrize("field", FIELDS)
async def test_altered_answers_of_too_many_give_an_error(make_twin, some_bytes, field):
    twin, data = make_twin(), some_bytes(300_000)
    extent = await twin.write(data)
    twin.holder(extent, 0).shards.clear()
    alter = flips(twin, extent, field)
    for device in twin.devices.values():
        device.alter = lambda reply, payload: alter(reply, payload, 3)
    with pytest.raises(Corrupt) as caught:
        await twin.read(extent)
    assert caught.value.retryable, "altered on the way, perhaps: nobody knows that it is lost"
    assert twin.metrics.get("reads.damaged") > 0


async def test_damage_of_too_many_is_final(make_twin, some_bytes):
    def damaged(reply, payload):
        raise DamagedShard("block 0 is damaged")

    twin = make_twin()
    extent = await twin.write(some_bytes(300_000))
    for shard in (0, 1, 2):
        twin.holder(extent, shard).alter = damaged
    with pytest.raises(DataLoss, match="3 good shards are left") as caught:
        await twin.read(extent)
    assert not caught.value.retryable


async def test_too_many_altered_on_the_way_are_no_loss(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(300_000)
    extent = await twin.write(data)
    for shard in (0, 1, 2):
        twin.holder(extent, shard).alter = flip_payload
    with pytest.raises(Corrupt, match="3 shards arrived altered, 3 are left") as caught:
        await twin.read(extent)
    assert caught.value.retryable
    for shard in (0, 1, 2):
        twin.holder(extent, shard).alter = None
    assert await twin.read(extent) == data


async def test_a_byte_altered_on_the_way_costs_nothing_where_exactly_k_are_left(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(300_000)
    extent = await twin.write(data)
    for shard in (0, 1):
        twin.set_state(twin.number(extent, shard), "down")
        twin.holder(extent, shard).dead = True
    for shard in (2, 4, 5):
        for field in ("payload", "data_rows"):
            holder, alter = twin.holder(extent, shard), flips(twin, extent, field)

            def once(reply, payload, holder=holder, alter=alter):
                holder.alter = None
                alter(reply, payload, 3)

            holder.alter = once
            assert await twin.read(extent) == data


async def test_garbage_instead_of_an_answer(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(300_000)
    extent = await twin.write(data)
    call = twin._serve

    async def garbled(device, info, *rest):
        reply = await call(device, info, *rest)
        if info.number == twin.number(extent, 0):
            reply.header = b"\xff" * 9
        return reply

    twin._serve = garbled
    assert await twin.read(extent) == data
    assert twin.metrics.get("reads.damaged") == 1


# --- maps


async def test_an_unknown_shard_is_looked_for_with_a_newer_map(make_twin, some_bytes):
    twin, data = make_twin(devices=7), some_bytes(300_000)
    extent = await twin.write(data)
    spare = next(n for n in twin.devices if all(place.device != n for place in twin.map.pgs[1].positions))
    twin.devices[spare].shards.update(twin.holder(extent, 1).shards)
    twin.holder(extent, 1).shards.clear()
    places = list(twin.map.pgs[1].positions)
    places[1] = Position(spare)
    pg = replace(twin.map.pgs[1], generation=2, positions=tuple(places))
    twin.next_map = replace(twin.map, epoch=2, pgs={1: pg})
    assert await twin.read(extent) == data
    assert twin.refreshes == 1
    assert twin.metrics.snapshot()["reads.direct"] == 4


async def test_only_an_unchanged_answer_counts_as_loss(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(300_000)
    extent = await twin.write(data)
    twin.holder(extent, 1).shards.clear()
    assert await twin.read(extent, 80_000, 10) == data[80_000:80_010]
    assert twin.refreshes == 1
    assert twin.holder(extent, 1).served["shard.read"] == 2


async def test_a_placement_group_that_no_map_has(make_twin, some_bytes):
    twin = make_twin()
    extent = await twin.write(some_bytes(10))
    with pytest.raises(Unavailable, match="placement group 9 is not in the cluster map"):
        await twin.read(replace(extent, pg=9))
    assert twin.refreshes == 1


async def test_moving_positions_are_asked_at_the_target_then_at_the_source(make_twin, some_bytes):
    twin, data = make_twin(devices=7), some_bytes(300_000)
    extent = await twin.write(data)
    spare = next(n for n in twin.devices if all(place.device != n for place in twin.map.pgs[1].positions))
    old = twin.number(extent, 1)
    places = list(twin.map.pgs[1].positions)
    places[1] = Position(spare, source=old)
    twin.map = replace(twin.map, epoch=2, pgs={1: replace(twin.map.pgs[1], generation=2, positions=tuple(places))})
    assert await twin.read(extent) == data
    assert (twin.devices[spare].served["shard.read"], twin.devices[old].served["shard.read"]) == (1, 1)
    assert twin.refreshes == 0
    twin.devices[spare].dead = True
    assert await twin.read(extent) == data
    twin.set_state(spare, "down")
    asked = twin.devices[spare].served["shard.read"]
    assert await twin.read(extent) == data
    assert twin.devices[spare].served["shard.read"] == asked
    assert twin.metrics.get("reads.decoded") == 0
    twin.devices[old].shards.clear()
    assert await twin.read(extent) == data
    assert twin.metrics.get("reads.decoded") == 1


# --- input and deadlines


async def test_bad_ranges_and_memory(make_twin, some_bytes):
    twin = make_twin()
    extent = await twin.write(some_bytes(100))
    for offset, length in [(0, 101), (101, 0), (-1, 5), (100, 1)]:
        with pytest.raises(InvalidArgument):
            await read_extent(twin, extent, offset, length, memoryview(bytearray(max(0, length))), Deadline(5))
    with pytest.raises(InvalidArgument):
        await read_extent(twin, extent, 0, 10, memoryview(bytes(10)), Deadline(5))
    with pytest.raises(InvalidArgument):
        await read_extent(twin, extent, 0, 10, memoryview(bytearray(9)), Deadline(5))
    await read_extent(twin, extent, 100, 0, memoryview(bytearray()), Deadline(5))
    assert twin.calls() == 0


async def test_memory_of_other_items(make_twin, some_bytes):
    import numpy as np

    twin, data = make_twin(), some_bytes(800_000)
    extent = await twin.write(data)
    twin.set_state(twin.number(extent, 1), "down")
    into = np.zeros((100, 1000))
    await read_extent(twin, extent, 0, into.nbytes, memoryview(into), Deadline(5))
    assert into.tobytes() == data


async def test_the_deadline_holds_when_everybody_hangs(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(300_000)
    extent = await twin.write(data)
    for device in twin.devices.values():
        device.gate = asyncio.Event()
    for length in (10, 300_000):
        with pytest.raises(DeadlineExceeded):
            await twin.read(extent, 0, length, seconds=0.2)


async def test_a_cancelled_read_leaves_nothing_running(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(300_000)
    extent = await twin.write(data)
    twin.latency.late_after = lambda *_: 0.001
    for device in twin.devices.values():
        device.gate = asyncio.Event()
    for length in (10, 300_000):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(twin.read(extent, 0, length), 0.05)
        assert twin.idle()


async def test_many_at_once(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(300_000)
    extent = await twin.write(data)
    twin.holder(extent, 2).dead = True
    twin.holder(extent, 4).alter = flip_payload
    found = await asyncio.gather(*(twin.read(extent, i * 1000, 50_000) for i in range(250)), return_exceptions=True)
    assert not [error for error in found if isinstance(error, ReedbedError)]
    assert found == [data[i * 1000 : i * 1000 + 50_000] for i in range(250)]
