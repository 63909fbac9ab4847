"""Rewriting: pieces of some extents become one of another profile, verified on the way there and back, or nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog.copywork import CopyWork
from reedbed.common.checksums import crc32c
from reedbed.common.clock import Deadline, SystemClock
from reedbed.common.errors import Corrupt, DataLoss, Unavailable
from reedbed.common.limits import KIB, MIB
from reedbed.ec.profiles import Profile
from reedbed.extents import rewrite as rewriting
from reedbed.extents.rewrite import GAP, RUN_MAX, Piece, Rewritten, memory_of, rewrite
from reedbed.protos import storage_pb2
from reedbed.protos.methods import PUT_SHARD, READ_SHARDS
from reedbed.protos.types import Extent, PlacementGroup, Position


async def at_once(_: int) -> None:
    """A pace without pauses."""


def deadline() -> Deadline:
    return Deadline(10.0)


async def into(twin: Any, profile: Profile, pieces: Sequence[Piece]) -> Rewritten:
    return await rewrite(twin, profile, pieces, deadline, at_once)


def hold(twin: Any, profile: Profile, groups: int = 1) -> None:
    """Placement groups of the profile, on devices from the first on."""
    pgs = {
        100 + number: PlacementGroup(
            100 + number,
            profile.k,
            profile.m,
            1,
            tuple(Position(1 + (number + place) % len(twin.devices)) for place in range(profile.n)),
        )
        for number in range(groups)
    }
    twin.map = replace(twin.map, epoch=twin.map.epoch + 1, pgs={**twin.map.pgs, **pgs})


async def check(twin: Any, result: Rewritten, expected: dict[int, bytes]) -> None:
    """Every piece reads as it did before, where it is said to be; also from parity alone."""
    assert result.extent is not None
    assert set(result.places) == set(expected)
    for index, data in expected.items():
        place, value = result.places[index]
        assert value == crc32c(data)
        assert await twin.read(result.extent, place, len(data)) == data


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1 << 20))
async def test_any_pieces_of_any_extents_are_the_same_in_the_new_one(twin_class: Any, data: Any, seed: int) -> None:
    rng = random.Random(seed)
    old = Profile(*data.draw(st.sampled_from([(1, 1), (2, 1), (4, 2)])))
    new = Profile(*data.draw(st.sampled_from([(1, 1), (2, 2), (5, 2)])))
    twin = twin_class(old, 8, 1, seed)
    hold(twin, new)
    pieces, expected = [], {}
    for _ in range(data.draw(st.integers(1, 4))):
        blob = rng.randbytes(data.draw(st.sampled_from([1, 100, 70_000, 300_000])))
        extent = await twin.write(blob)
        for _ in range(data.draw(st.integers(1, 5))):
            start = rng.randrange(len(blob))
            length = rng.randint(1, min(len(blob) - start, 100_000))
            expected[len(pieces)] = blob[start : start + length]
            pieces.append(Piece(extent, start, length))
    for number in rng.sample(sorted(twin.devices), old.m):  # as many as may be lost
        twin.devices[number].shards = {
            key: shard for key, shard in twin.devices[number].shards.items() if rng.random() < 0.5
        }
    result = await into(twin, new, pieces)
    assert result.error is None
    await check(twin, result, expected)
    assert (result.extent.k, result.extent.m) == (new.k, new.m)  # type: ignore[union-attr]
    for number in rng.sample(sorted(twin.devices), new.m):
        twin.devices[number].shards.clear()
    await check(twin, result, expected)


async def test_a_piece_that_cannot_be_read_is_left_out(make_twin: Callable[..., Any], some_bytes: Any) -> None:
    twin = make_twin(Profile(2, 1), devices=5)
    blobs = [some_bytes(100 + number) for number in range(3)]
    old = [await twin.write(blob) for blob in blobs]
    for device in twin.devices.values():
        for shard in list(device.shards):
            if shard[0] == old[1].id:
                del device.shards[shard]
    result = await into(twin, Profile(2, 1), [Piece(extent, 0, extent.size) for extent in old])
    assert result.unread == {old[1].id}
    assert isinstance(result.error, DataLoss)
    await check(twin, result, {0: blobs[0], 2: blobs[2]})
    nothing = await into(twin, Profile(2, 1), [Piece(old[1], 0, 10)])
    assert (nothing.extent, nothing.places, nothing.unread) == (None, {}, {old[1].id})


async def test_what_comes_back_altered_does_not_count(make_twin: Callable[..., Any], some_bytes: Any) -> None:
    twin = make_twin(Profile(2, 1))
    old = await twin.write(some_bytes(1000))
    before = sum(len(device.shards) for device in twin.devices.values())

    def spoil() -> None:
        """Every shard that is put turns into another one, which knows its sums, as a device with a bug would do it."""
        for device in twin.devices.values():
            device.alter = swap_bytes

    def swap_bytes(reply: Any, answer: bytearray) -> None:
        if not answer:
            return
        answer[0] ^= 1

    for device in twin.devices.values():
        device.on_put = spoil
    result = await into(twin, Profile(2, 1), [Piece(old, 0, 1000)])
    assert isinstance(result.error, Corrupt)
    assert result.extent is not None, "it was written, and is to be dropped"
    assert result.places == {}
    assert sum(len(device.shards) for device in twin.devices.values()) > before


async def test_bytes_that_are_others_with_right_sums_are_found_too(
    make_twin: Callable[..., Any], some_bytes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no block sum can see: the buffer changed between reading and writing."""
    twin = make_twin(Profile(2, 1))
    old = await twin.write(some_bytes(1000))
    write = rewriting.write_flat

    async def other(access: Any, profile: Any, buffer: memoryview, *rest: Any, **more: Any) -> Extent:
        changed = memoryview(bytearray(buffer))
        changed[500] ^= 1
        return await write(access, profile, changed, *rest, **more)

    monkeypatch.setattr(rewriting, "write_flat", other)
    result = await into(twin, Profile(2, 1), [Piece(old, 0, 400), Piece(old, 400, 600)])
    assert isinstance(result.error, Corrupt)
    assert result.places == {}


async def test_an_extent_is_written_whole_or_not_at_all(make_twin: Callable[..., Any], some_bytes: Any) -> None:
    twin = make_twin(Profile(2, 2), devices=4)
    old = await twin.write(some_bytes(1000))
    twin.set_state(twin.number(old, 3), "down")
    result = await into(twin, Profile(2, 2), [Piece(old, 0, 1000)])
    assert isinstance(result.error, Unavailable)
    assert "all of its devices up" in str(result.error)
    assert result.extent is None
    twin.set_state(twin.number(old, 3), "up")
    twin.holder(old, 3).full = True
    result = await into(twin, Profile(2, 2), [Piece(old, 0, 1000)])
    assert isinstance(result.error, Unavailable)
    assert "no room is left" in str(result.error)
    assert result.extent is None
    twin.holder(old, 3).full = False
    result = await into(twin, Profile(2, 2), [Piece(old, 0, 1000)])
    await check(twin, result, {0: some_bytes(1000)})


async def test_pieces_close_to_each_other_are_read_together(make_twin: Callable[..., Any], some_bytes: Any) -> None:
    twin = make_twin(Profile(1, 1))
    blob = some_bytes(3 * MIB)
    old = await twin.write(blob)
    near = [Piece(old, at * 20 * KIB, 4 * KIB) for at in range(50)]
    far = [Piece(old, 2 * MIB, KIB), Piece(old, 2 * MIB + GAP + 2 * KIB, KIB)]
    before = twin.calls(READ_SHARDS)
    result = await into(twin, Profile(1, 1), near + far)
    await_back = 1
    assert twin.calls(READ_SHARDS) - before == 3 + await_back
    await check(
        twin, result, {index: blob[one.offset : one.offset + one.length] for index, one in enumerate(near + far)}
    )
    assert memory_of(near + far, Profile(1, 1)) < 2 * RUN_MAX


async def test_the_catalogs_copy_is_no_foreground_that_repair_would_yield_to(
    make_twin: Callable[..., Any], some_bytes: Any
) -> None:
    """Repair changes rows of the catalog, which are copied: it would wait for itself."""
    twin = make_twin(Profile(2, 1))
    asked: list[bool] = []
    call = twin.call

    async def watched(device: Any, method: str, header: bytes, *rest: Any, **more: Any) -> Any:
        asked.append(storage_pb2.PutShardRequest.FromString(header).background)
        return await call(device, method, header, *rest, **more)

    twin.call = watched
    work = object.__new__(CopyWork)
    work.clock = SystemClock()
    await work.write(twin, Profile(2, 1), some_bytes(1000))
    assert len(asked) == 2  # so small a piece has one data shard
    assert all(asked)


async def test_all_calls_are_of_keeping_and_the_pace_is_kept(make_twin: Callable[..., Any], some_bytes: Any) -> None:
    twin = make_twin(Profile(2, 1))
    old = await twin.write(some_bytes(1000))
    asked: list[bool] = []
    call = twin.call

    async def watched(device: Any, method: str, header: bytes, *rest: Any, **more: Any) -> Any:
        kind = storage_pb2.PutShardRequest if method == PUT_SHARD else storage_pb2.ReadShardsRequest
        asked.append(kind.FromString(header).background)
        return await call(device, method, header, *rest, **more)

    twin.call = watched
    paced: list[int] = []

    async def pace(size: int) -> None:
        paced.append(size)

    result = await rewrite(twin, Profile(2, 1), [Piece(old, 0, 1000)], deadline, pace)
    assert len(asked) >= 4
    assert all(asked)
    assert paced == [result.written]
    assert result.written == 2000
