"""Writing an extent: what is sent, re-placement, degraded writes, changed buffers, lost answers."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.common.checksums import block_sum, crc32c
from reedbed.common.clock import Deadline
from reedbed.common.errors import Corrupt, DeadlineExceeded, InvalidArgument, ReedbedError, Unavailable
from reedbed.common.ids import Id
from reedbed.common.limits import MIB
from reedbed.ec.codec import codec_for
from reedbed.ec.cut import block_borders, layout_for
from reedbed.ec.profiles import Profile
from reedbed.extents import buffers
from reedbed.extents import encoded as encoded_module
from reedbed.extents import sending as sending_module
from reedbed.extents.blocks import build_table, unpack_table
from reedbed.extents.encoded import Encoded
from reedbed.extents.write import write_extent, write_flat

RS42 = Profile(4, 2)


async def test_what_is_stored(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(300_000)
    extent = await twin.write(data)
    assert extent.present == 0b111111
    assert [(ack.position, ack.incarnation) for ack in extent.acks] == [(i, 7) for i in range(6)]
    assert [ack.device for ack in extent.acks] == [place.device for place in twin.map.pgs[1].positions]
    shards = [twin.holder(extent, i).shards[extent.id, i] for i in range(6)]
    assert b"".join(shard.data for shard in shards[:4]) == data
    parity = [bytearray(max(extent.lengths)) for _ in range(2)]
    codec_for(RS42).encode([shard.data for shard in shards[:4]], parity)
    assert [shard.data for shard in shards[4:]] == parity
    assert all(shard.data_tables == tuple(s.table for s in shards[:4]) for shard in shards[4:])


async def test_empty_shards_cost_nothing(make_twin, some_bytes):
    twin = make_twin()
    extent = await twin.write(some_bytes(1000))
    assert extent.lengths == (1000, 0, 0, 0)
    assert extent.present == 0b110001
    assert twin.calls("shard.put") == 3


async def test_shards_in_many_pieces(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(200_000)
    cuts = [[data[:10], bytearray(data[10:70_000])], [memoryview(data)[70_000:]], [], [b"", b""]]
    borders = [[65_536, 4464], [65_536, 64_464], [], []]
    extent = await write_extent(twin, RS42, cuts, borders, Deadline(5))
    assert extent.lengths == (70_000, 130_000, 0, 0)
    assert await twin.read(extent) == data


async def test_buffers_of_other_items(make_twin):
    import numpy as np

    twin, array = make_twin(), np.arange(1000.0).reshape(10, 100)
    blocks = [[memoryview(array)], [], [], []]
    extent = await write_extent(twin, RS42, blocks, [[8000], [], [], []], Deadline(5))
    assert await twin.read(extent) == array.tobytes()
    with pytest.raises(InvalidArgument, match="contiguous"):
        await write_extent(twin, RS42, [[memoryview(array[:, ::2])], [], [], []], [[4000], [], [], []], Deadline(5))


@pytest.mark.parametrize(
    ("shards", "borders"),
    [
        ([[b"abc"]], [[3]]),
        ([[b"abc"], [], [], []], [[2], [], [], []]),
        ([[b"abc"], [], [], []], [[3, 0], [], [], []]),
        ([[b"abc"], [], [], []], [[3], [1], [], []]),
        ([[bytes(70_000)], [], [], []], [[70_000], [], [], []]),
        ([[], [], [], []], [[], [], [], []]),
    ],
)
async def test_lengths_that_cannot_be(make_twin, shards, borders):
    twin = make_twin()
    with pytest.raises(InvalidArgument):
        await write_extent(twin, RS42, shards, borders, Deadline(5))
    assert twin.calls("shard.put") == 0


@pytest.mark.parametrize("how", ["dead", "full", "stale for ever", "spoiled lanes"])
async def test_a_failing_device_is_avoided_by_another_group(make_twin, some_bytes, how):
    twin, data = make_twin(devices=8, pgs=60), some_bytes(300_000)
    bad = twin.devices[3]
    bad.dead, bad.full = how == "dead", how == "full"
    if how == "stale for ever":
        bad.generations = dict.fromkeys(range(1, 61), 9)
    if how == "spoiled lanes":
        bad.lose = 10**6
    ids = set()
    for _ in range(20):
        extent = await twin.write(data)
        assert extent.present == 0b111111
        assert 3 not in {ack.device for ack in extent.acks}
        assert await twin.read(extent) == data
        ids.add(extent.id)
    assert twin.metrics.get("writes.replaced") >= 1
    assert twin.metrics.get("writes.degraded") == 0
    assert len(ids) == 20


async def test_a_new_try_has_a_new_id(make_twin, some_bytes):
    twin = make_twin(devices=7, pgs=40)
    twin.devices[2].dead = True
    while not twin.metrics.get("writes.replaced"):
        extent = await twin.write(some_bytes(300_000))
    seen = {name for device in twin.devices.values() for name, _ in device.shards}
    for device in twin.devices.values():
        groups = {place.device: i for i, place in enumerate(twin.map.pgs[extent.pg].positions)}
        for name, index in device.shards:
            if name == extent.id:
                assert twin.devices[next(n for n, i in groups.items() if i == index)] is device
    assert len(seen) > 1


async def test_what_failed_lately_is_not_tried_again_at_once(make_twin, some_bytes):
    twin = make_twin(devices=8, pgs=60)
    twin.devices[3].dead = True
    while not twin.metrics.get("writes.replaced"):
        await twin.write(some_bytes(1000))
    asked = twin.devices[3].served["shard.put"]
    for _ in range(20):
        await twin.write(some_bytes(1000))
    assert twin.devices[3].served["shard.put"] == asked


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("number", [1, 4])
async def test_degraded_only_where_no_healthy_group_is(make_twin, some_bytes, number, known):
    twin, data = make_twin(pgs=10), some_bytes(300_000)
    twin.devices[number].dead = True
    if known:
        twin.set_state(number, "down")
    extent = await twin.write(data)
    assert extent.present.bit_count() == 5
    assert number not in {ack.device for ack in extent.acks}
    assert twin.calls("shard.put") == (5 if known else 6), "what the first try left is good enough"
    assert twin.metrics.get("writes.degraded") == 1
    assert await twin.read(extent) == data


async def test_an_empty_shard_counts_as_present(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(1000)
    first, *_, parity = [place.device for place in twin.map.pgs[1].positions]
    twin.devices[parity].dead = True
    extent = await twin.write(data)
    assert extent.present == 0b010001
    twin.devices[first].dead = True
    with pytest.raises(Unavailable):
        await twin.write(data)


@pytest.mark.parametrize("known", [False, True])
async def test_never_below_one_more_than_decoding_needs(make_twin, some_bytes, known):
    for dead in list(combinations(range(1, 7), 2))[::4]:
        twin = make_twin(pgs=10)
        for number in dead:
            twin.devices[number].dead = True
            if known:
                twin.set_state(number, "down")
        with pytest.raises(Unavailable) as caught:
            await twin.write(some_bytes(300_000))
        assert "4 of 6" in str(caught.value)
        assert "needs 5" in str(caught.value)
        assert known or "nobody answers at twin:" in str(caught.value)


async def test_an_old_generation_is_refreshed(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(300_000)
    twin.next_map = replace(twin.map, epoch=2, pgs={1: replace(twin.map.pgs[1], generation=2)})
    for device in twin.devices.values():
        device.generations = {1: 2}
    extent = await twin.write(data)
    assert (extent.generation, extent.present) == (2, 0b111111)
    assert twin.refreshes == 1


async def test_a_laggard_is_left_behind_where_there_is_another_group(make_twin, some_bytes, monkeypatch):
    monkeypatch.setattr(sending_module, "LAG_FLOOR_S", 0.01)
    twin, data = make_twin(devices=8, pgs=60), some_bytes(300_000)
    twin.devices[3].gate = asyncio.Event()
    for _ in range(10):
        extent = await twin.write(data)
        assert extent.present == 0b111111
        assert 3 not in {ack.device for ack in extent.acks}
    assert twin.metrics.get("writes.replaced") >= 1


async def test_a_laggard_is_waited_for_where_there_is_none(make_twin, some_bytes, monkeypatch):
    monkeypatch.setattr(sending_module, "LAG_FLOOR_S", 0.001)
    twin, data = make_twin(), some_bytes(300_000)
    gate = twin.devices[3].gate = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, gate.set)
    extent = await twin.write(data)
    assert extent.present == 0b111111
    twin.devices[3].gate = asyncio.Event()
    extent = await twin.write(data, seconds=0.4)
    assert extent.present.bit_count() == 5, "but not for ever"


async def test_a_laggard_that_is_called_down_is_not_waited_for(make_twin, some_bytes, monkeypatch):
    monkeypatch.setattr(sending_module, "LAG_FLOOR_S", 0.001)
    monkeypatch.setattr(sending_module, "DOWN_CHECK_S", 0.01)
    twin, data = make_twin(), some_bytes(300_000)
    twin.devices[3].gate = asyncio.Event()

    def called_down() -> None:
        devices = {**twin.map.devices, 3: replace(twin.map.devices[3], state="down")}
        twin.next_map = replace(twin.map, epoch=2, devices=devices)

    asyncio.get_running_loop().call_later(0.05, called_down)
    monkeypatch.setattr(sending_module, "SHARD_LIMIT_S", 1e9)
    extent = await twin.write(data, seconds=None)  # nothing else would end it
    assert extent.present.bit_count() == 5
    assert twin.refreshes > 1
    asked = twin.devices[3].served["shard.put"]
    await twin.write(data)
    assert twin.devices[3].served["shard.put"] == asked


async def test_an_answer_that_comes_while_the_map_is_asked_for_counts(make_twin, some_bytes, monkeypatch):
    monkeypatch.setattr(sending_module, "LAG_FLOOR_S", 0.001)
    twin, data = make_twin(), some_bytes(300_000)
    gates = {number: asyncio.Event() for number in (3, 4)}
    for number, gate in gates.items():
        twin.devices[number].gate = gate

    async def refresh(newer_than, deadline):
        gates[3].set()
        for _ in range(20):  # until its answer is there
            await asyncio.sleep(0)
        twin.set_state(4, "down")
        return twin.map

    twin.refresh = refresh
    extent = await twin.write(data, seconds=None)
    assert {ack.device for ack in extent.acks} == {1, 2, 3, 5, 6}
    assert twin.metrics.get("writes.replaced") == 0


async def test_a_device_that_fails_without_a_name_is_avoided(make_twin, some_bytes):
    twin = make_twin(devices=8, pgs=20)

    def fail() -> None:
        raise ReedbedError("the daemon failed at this call")

    twin.devices[3].on_put = fail
    for _ in range(30):
        extent = await twin.write(some_bytes(300_000))
        assert 3 not in {ack.device for ack in extent.acks}


async def test_the_deadline(make_twin, some_bytes):
    twin = make_twin()
    for device in twin.devices.values():
        device.gate = asyncio.Event()
    with pytest.raises((DeadlineExceeded, Unavailable)):
        await twin.write(some_bytes(300_000), seconds=0.2)
    with pytest.raises(DeadlineExceeded):
        await twin.write(some_bytes(300_000), seconds=0)


async def test_a_lost_answer_is_asked_for_again(make_twin, some_bytes):
    twin = make_twin(devices=8, pgs=20)
    for device in twin.devices.values():
        device.lose = 1
    extent = await twin.write(some_bytes(300_000))
    assert extent.present == 0b111111
    assert twin.metrics.get("writes.resent") == 6
    assert twin.metrics.get("writes.replaced") == 0


async def test_bytes_altered_on_the_way_are_sent_again_once(make_twin, some_bytes):
    twin, data = make_twin(), some_bytes(300_000)
    twin.devices[2].spoil = 1
    extent = await twin.write(data)
    assert extent.present == 0b111111
    assert await twin.read(extent) == data
    twin.devices[2].spoil = 2
    with pytest.raises(Corrupt):
        await twin.write(data)


async def test_a_buffer_that_changes_while_it_is_sent(make_twin, some_bytes):
    for size in (1000, 300_000):
        twin, buffer = make_twin(), bytearray(some_bytes(size))

        def change(buffer=buffer):
            buffer[-1] ^= 1

        twin.devices[twin.map.pgs[1].positions[0].device].on_put = change
        with pytest.raises(InvalidArgument, match=r"the buffer changed while it was being written \(data shard [03]\)"):
            await twin.write(buffer)


@pytest.mark.parametrize("column", [0, 3])
async def test_a_buffer_that_changes_while_it_is_encoded(some_bytes, monkeypatch, column):
    """In a column, or, before it comes to that, in a block that reaches from the column before into it."""
    size = 4 * encoded_module.COLUMN
    buffer = bytearray(some_bytes(size))
    borders = [1000, *block_borders(size - 1000)]

    class Changing:
        def encoder(self, data, parity):
            encode = codec_for(RS42).encoder(data, parity)

            def changing(start, end):
                if start == column * encoded_module.COLUMN:
                    buffer[start] ^= 1
                encode(start, end)

            return changing

    monkeypatch.setattr(encoded_module, "codec_for", lambda _: Changing())
    with pytest.raises(InvalidArgument, match="the buffer changed"):
        await Encoded.make(RS42, [[buffer], [], [], []], [borders, [], [], []], Id(bytes(16)))


@given(
    st.lists(st.lists(st.integers(1, 65_536), max_size=9), min_size=4, max_size=4).filter(any),
    st.booleans(),
    st.integers(0, 1 << 30),
)
@settings(max_examples=30, deadline=None)
def test_shards_in_columns_are_as_shards_in_one_go(borders, mutable, seed):
    data = [random.Random(seed + shard).randbytes(sum(blocks)) for shard, blocks in enumerate(borders)]
    id_ = Id(bytes(range(16)))

    async def run():
        encoded = await Encoded.make(RS42, [[part] for part in data], borders, id_, mutable)
        parity = [bytearray(max(map(len, data))) for _ in range(2)]
        codec_for(RS42).encode(data, parity)
        assert encoded.parts == [*data, *parity]
        for shard, table in enumerate(await encoded.tables(id_)):
            blocks = borders[shard] if shard < 4 else block_borders(len(parity[0]))
            assert table == build_table(id_, shard, [encoded.parts[shard]], blocks)
        assert encoded.content() == crc32c(b"".join(data))

    asyncio.run(run())


async def test_parity_buffers_serve_again(make_twin, some_bytes):
    """Once all shards are durable, and not where a device failed; what is written next is right all the same."""
    buffers.clear()  # other tests' buffers count for what is kept
    twin = make_twin()
    for round_ in range(3):
        data = some_bytes(5 * MIB + round_)
        lengths = [MIB + MIB // 4 + round_, *[MIB + MIB // 4] * 3]
        extent = await twin.write(data, lengths)
        assert buffers.kept().count(lengths[0]) == 2
        for shard in (0, 1):
            twin.set_state(twin.number(extent, shard), "down")
        assert await twin.read(extent) == data
        for shard in (0, 1):
            twin.set_state(twin.number(extent, shard), "up")
    buffers.clear()
    twin.holder(extent, 2).dead = True
    assert (await twin.write(data)).present.bit_count() == 5
    assert not buffers.kept()


async def test_a_lent_buffer_serves_again(make_twin, some_bytes):
    """As those of parity do: once all shards are durable, and not where a device failed."""
    buffers.clear()
    twin, data = make_twin(), some_bytes(MIB + 5)
    lengths = layout_for(len(data), twin.profile).lengths
    for _ in range(2):
        lent = buffers.take(2 * MIB)
        lent[: len(data)] = data
        view = memoryview(lent)[: len(data)]
        extent = await write_flat(twin, twin.profile, view, lengths, (0,), Deadline(5), mutable=False, lent=lent)
        assert buffers.kept() == [2 * MIB]
        assert buffers.take(2 * MIB) is lent
        lent[:] = bytes(2 * MIB)
        assert await twin.read(extent) == data
        buffers.give(lent)
    buffers.clear()
    lent[: len(data)] = data
    twin.holder(extent, 2).dead = True
    extent = await write_flat(twin, twin.profile, view, lengths, (0,), Deadline(5), mutable=False, lent=lent)
    assert extent.present.bit_count() == 5
    assert not buffers.kept()


async def test_a_buffer_that_changes_between_two_tries(some_bytes):
    buffer = bytearray(some_bytes(1000))
    encoded = await Encoded.make(RS42, [[buffer], [], [], []], [[1000], [], [], []], Id(bytes(16)))
    other = Id(b"\1" * 16)
    table = (await encoded.tables(other))[0]
    assert unpack_table(table) == ((1000, block_sum(other, 0, 0, buffer)),)
    buffer[5] ^= 1
    with pytest.raises(InvalidArgument, match="data shard 0"):
        await encoded.tables(other)
    with pytest.raises(InvalidArgument, match="data shard 0"):
        await encoded.check()


async def test_a_cancelled_write_leaves_nothing_running(make_twin, some_bytes):
    twin = make_twin()
    for device in twin.devices.values():
        device.gate = asyncio.Event()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(twin.write(some_bytes(300_000)), 0.05)
    assert twin.idle()


async def test_a_storm_of_writes_while_devices_fail_and_return(make_twin, some_bytes):
    twin, data = make_twin(devices=9, pgs=80), some_bytes(20_000)
    written = []

    async def one(i):
        twin.devices[1 + i % 3].dead = i % 7 < 3
        extent = await twin.write(data)
        assert (extent.present.bit_count() + extent.lengths.count(0)) >= 5
        written.append(extent)

    await asyncio.gather(*(one(i) for i in range(60)))
    for device in twin.devices.values():
        device.dead = False
    assert len({extent.id for extent in written}) == 60
    assert all(read == data for read in await asyncio.gather(*(twin.read(extent) for extent in written)))


async def test_devices_that_have_come_are_found_before_a_write_is_given_up(make_twin, some_bytes):
    twin, data = make_twin(pgs=1), some_bytes(300_000)
    new = twin.map
    first, second, *_ = [place.device for place in twin.map.pgs[1].positions]
    for number in (first, second):
        twin.set_state(number, "down")
    twin.next_map = replace(new, epoch=new.epoch + 1)
    extent = await twin.write(data)
    assert extent.present == 0b111111
    assert twin.refreshes == 1
    twin.next_map = None
    for number in (first, second):
        twin.set_state(number, "down")
    with pytest.raises(Unavailable, match="4 of 6"):
        await twin.write(data)
