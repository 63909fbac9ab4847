"""Rebuilding: whatever shards are lost come back bit for bit, from whoever has them, and nothing wrong is ever put."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.common.clock import Deadline
from reedbed.ec.cut import block_borders
from reedbed.ec.profiles import Profile
from reedbed.extents.blocks import build_table
from reedbed.extents.rebuild import Rebuilt, bytes_to_write, memory_of, rebuild_extent
from reedbed.protos.types import Extent, Position


async def rebuild(twin: Any, extent: Extent, positions: list[int], seconds: float = 10.0) -> Rebuilt:
    return await rebuild_extent(twin, extent, positions, Deadline(seconds))


def shards_of(twin: Any, extent: Extent) -> dict[int, Any]:
    """Every shard of the extent by its position, with the device that holds it."""
    found = {}
    for number, device in twin.devices.items():
        for (extent_id, index), shard in device.shards.items():
            if extent_id == extent.id:
                found[index] = (number, shard)
    return found


def give(twin: Any, pg_id: int, position: int, number: int, keep_source: bool = True) -> int:
    """Give a position to another device; returns the old one."""
    pg = twin.map.pgs[pg_id]
    old = pg.positions[position].device
    places = list(pg.positions)
    places[position] = Position(number, old if keep_source else 0)
    changed = replace(pg, generation=pg.generation + 1, positions=tuple(places))
    twin.map = replace(twin.map, epoch=twin.map.epoch + 1, pgs={**twin.map.pgs, pg_id: changed})
    return int(old)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=st.integers(1, 700_000), seed=st.integers(0, 1 << 20))
async def test_any_lost_shards_come_back_bit_for_bit(twin_class: Any, data: Any, size: int, seed: int) -> None:
    k, m = data.draw(st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]))
    twin = twin_class(Profile(k, m), k + m + 2, 1, seed)
    blob = random.Random(seed).randbytes(size)
    cuts = sorted(data.draw(st.lists(st.integers(0, size), min_size=k - 1, max_size=k - 1)))
    lengths = [end - start for start, end in zip([0, *cuts], [*cuts, size], strict=True)]
    extent = await twin.write(blob, lengths)
    before = shards_of(twin, extent)
    lost = data.draw(st.lists(st.sampled_from(sorted(before)), min_size=1, max_size=m, unique=True))
    spare = iter(set(twin.devices) - {place.device for place in twin.map.pgs[1].positions})
    for position in lost:
        del twin.devices[before[position][0]].shards[extent.id, position]
        if position == lost[0]:
            give(twin, 1, position, next(spare), keep_source=data.draw(st.booleans()))
    known = replace(extent, present=extent.present & ~sum(1 << position for position in lost))
    result = await rebuild(twin, known, lost)
    assert result.error == ""
    assert sorted(ack.position for ack in result.acks) == sorted(lost)
    after = shards_of(twin, extent)
    assert {position: shard for position, (_, shard) in after.items()} == {
        position: shard for position, (_, shard) in before.items()
    }
    for position in lost:
        assert after[position][0] == twin.map.pgs[1].positions[position].device
    assert await twin.read(extent) == blob
    again = await rebuild(twin, known, lost)
    assert again.error == ""
    assert twin.idle()


async def test_a_moving_position_is_copied_from_its_source_alone(
    make_twin: Callable[..., Any], some_bytes: Callable[[int], bytes]
) -> None:
    twin = make_twin(Profile(4, 2), 8)
    extent = await twin.write(some_bytes(1 << 20))
    spare = sorted(set(twin.devices) - {place.device for place in twin.map.pgs[1].positions})
    for position, number in ((1, spare[0]), (4, spare[1])):
        old = give(twin, 1, position, number)
        read = sum(device.bytes_read for device in twin.devices.values())
        result = await rebuild(twin, extent, [position])
        assert result.error == ""
        assert twin.devices[number].shards[extent.id, position] == twin.devices[old].shards[extent.id, position]
        assert sum(device.bytes_read for device in twin.devices.values()) - read in (0, 1 << 18)


async def test_shards_that_are_there_are_found_whatever_is_known_of_them(
    make_twin: Callable[..., Any], some_bytes: Callable[[int], bytes]
) -> None:
    """As after a restore: more than m positions move, and nobody knows that their devices have everything already."""
    twin = make_twin(Profile(4, 2), 10)
    spare = sorted(set(twin.devices) - {place.device for place in twin.map.pgs[1].positions})
    for position, number in zip((0, 1, 4), spare, strict=False):
        give(twin, 1, position, number)
    extent = await twin.write(some_bytes(1 << 20))
    result = await rebuild(twin, extent, [0, 1, 4])  # believed at the sources
    assert result.error == ""
    assert sorted(ack.position for ack in result.acks) == [0, 1, 4]
    assert result.read == 3 << 18  # none of it is computed
    missing = replace(extent, present=extent.present & ~0b010011)  # and once the sources have told that they are not
    result = await rebuild(twin, missing, [0, 1, 4])
    assert result.error == ""
    assert sorted(ack.position for ack in result.acks) == [0, 1, 4]
    # one is lost indeed, one is known to be there, of one nobody knows, and it is not to be put now
    holders = shards_of(twin, extent)
    for position in (1, 5):
        del twin.devices[holders[position][0]].shards[extent.id, position]
    result = await rebuild(twin, replace(extent, present=0b001100), [0, 1])
    assert result.error == ""
    assert sorted(ack.position for ack in result.acks) == [0, 1]
    assert twin.devices[holders[1][0]].shards[extent.id, 1] == holders[1][1]


async def test_a_source_that_dies_is_done_without(
    make_twin: Callable[..., Any], some_bytes: Callable[[int], bytes]
) -> None:
    twin = make_twin(Profile(4, 2), 8)
    extent = await twin.write(some_bytes(1 << 20))
    spare = min(set(twin.devices) - {place.device for place in twin.map.pgs[1].positions})
    twin.devices[give(twin, 1, 2, spare)].dead = True
    twin.devices[twin.map.pgs[1].positions[0].device].dead = True
    result = await rebuild(twin, extent, [2])
    assert result.error == ""
    assert (extent.id, 2) in twin.devices[spare].shards


async def test_damaged_sources_are_done_without_and_nothing_wrong_is_put(
    make_twin: Callable[..., Any], some_bytes: Callable[[int], bytes]
) -> None:
    twin = make_twin(Profile(4, 2), 6)
    extent = await twin.write(some_bytes(1 << 20))
    before = shards_of(twin, extent)
    del twin.devices[before[0][0]].shards[extent.id, 0]

    def flip(_: Any, payload: bytearray) -> None:
        if payload:
            payload[0] ^= 1

    known = replace(extent, present=extent.present & ~1)
    twin.devices[before[3][0]].alter = flip
    result = await rebuild(twin, known, [0])
    assert result.error == ""
    assert twin.devices[before[0][0]].shards[extent.id, 0] == before[0][1]
    del twin.devices[before[0][0]].shards[extent.id, 0]
    twin.devices[before[5][0]].alter = flip
    result = await rebuild(twin, known, [0])
    assert "3 are left and rs-4-2 needs 4" in result.error
    assert not result.acks
    assert (extent.id, 0) not in twin.devices[before[0][0]].shards


async def test_a_target_that_refuses_is_told_and_the_others_get_theirs(
    make_twin: Callable[..., Any], some_bytes: Callable[[int], bytes]
) -> None:
    twin = make_twin(Profile(4, 2), 6)
    extent = await twin.write(some_bytes(300_000))
    before = shards_of(twin, extent)
    for position in (1, 5):
        del twin.devices[before[position][0]].shards[extent.id, position]
    twin.devices[before[5][0]].full = True
    known = replace(extent, present=extent.present & ~0b100010)
    result = await rebuild(twin, known, [1, 5])
    assert "no room" in result.error
    assert [ack.position for ack in result.acks] == [1]


def test_what_a_task_writes_and_holds() -> None:
    lengths = (1 << 18,) * 4
    assert bytes_to_write(lengths, [0, 4]) == 2 << 18
    assert bytes_to_write((100, 0, 0, 0), [1, 0, 5]) == 200
    assert memory_of(lengths, 2) == 6 << 18


@pytest.mark.parametrize("at", [0, 40_000])
async def test_computed_data_that_does_not_match_its_table_is_not_put(
    make_twin: Callable[..., Any], some_bytes: Callable[[int], bytes], at: int
) -> None:
    """A parity shard that is wrong and fits its own table: what follows from it is told by the table of the data."""
    twin = make_twin(Profile(4, 2), 6)
    extent = await twin.write(some_bytes(200_000))
    number, parity = shards_of(twin, extent)[5]
    wrong = bytearray(parity.data)
    wrong[at] ^= 1
    twin.devices[number].shards[extent.id, 5] = replace(
        parity, data=bytes(wrong), table=build_table(extent.id, 5, (bytes(wrong),), block_borders(len(wrong)))
    )
    for position in (0, 4):
        twin.devices[shards_of(twin, extent)[position][0]].shards.pop((extent.id, position))
    result = await rebuild(twin, replace(extent, present=extent.present & ~0b010001), [0, 4])
    assert "does not match its table" in result.error
    assert not result.acks


async def test_a_small_extent_has_nothing_to_put_at_empty_positions(
    make_twin: Callable[..., Any], some_bytes: Callable[[int], bytes]
) -> None:
    twin = make_twin(Profile(4, 2), 6)
    extent = await twin.write(some_bytes(100))
    result = await rebuild(twin, extent, [1, 2, 3])
    assert result == Rebuilt()


@pytest.mark.parametrize("position", [0, 5])
async def test_too_few_shards_end_with_what_is_missing(
    make_twin: Callable[..., Any], some_bytes: Callable[[int], bytes], position: int
) -> None:
    twin = make_twin(Profile(4, 2), 6)
    extent = await twin.write(some_bytes(1 << 20))
    holders = shards_of(twin, extent)
    for other in (1, 2, 3):
        twin.devices[holders[other][0]].dead = True
    del twin.devices[holders[position][0]].shards[extent.id, position]
    known = replace(extent, present=extent.present & ~(1 << position))
    result = await rebuild(twin, known, [position])
    assert "too few devices answer" in result.error
    assert not result.acks


async def test_a_device_without_room_is_named(
    make_twin: Callable[..., Any], some_bytes: Callable[[int], bytes]
) -> None:
    twin = make_twin(Profile(4, 2), 8)
    extent = await twin.write(some_bytes(300_000))
    holders = shards_of(twin, extent)
    for position in (1, 5):
        del twin.devices[holders[position][0]].shards[extent.id, position]
    twin.devices[holders[1][0]].full = True
    done = await rebuild(twin, extent, [1, 5])
    assert done.full == [holders[1][0]]
    assert [ack.position for ack in done.acks] == [5]
    assert "no room" in done.error


async def test_in_favour_of_others_one_shard_is_read_at_a_time(
    make_twin: Callable[..., Any], some_bytes: Callable[[int], bytes]
) -> None:
    twin = make_twin(Profile(4, 2), 8)
    extent = await twin.write(some_bytes(600_000))
    holder, _ = shards_of(twin, extent)[0]
    most = {}
    for at_once in (True, False):
        twin.devices[holder].shards.pop((extent.id, 0))
        under_way = peak = 0
        call = twin.call

        async def counted(*arguments: Any, call: Any = call, **more: Any) -> Any:
            nonlocal under_way, peak
            under_way += 1
            peak = max(peak, under_way)
            try:
                return await call(*arguments, **more)
            finally:
                under_way -= 1

        twin.call = counted
        done = await rebuild_extent(twin, extent, [0], Deadline(10), at_once=at_once)
        twin.call = call
        assert done.error == ""
        assert done.read > 3 * done.written
        most[at_once] = peak
    assert most == {True: 4, False: 1}
