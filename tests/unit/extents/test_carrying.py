"""Tasks as messages, from the catalog to a worker and back: what makes sense is done, and the rest refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reedbed.catalog.records import SliceRow
from reedbed.catalog.rewrite_messages import rewrite_to, rewritten_from
from reedbed.catalog.rewriting import Rewrite
from reedbed.common.checksums import crc32c
from reedbed.common.clock import Deadline
from reedbed.common.errors import InvalidArgument
from reedbed.ec.profiles import Profile
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos.convert import extent_to_message
from reedbed.storaged.carrying import carry_out, failed, is_rewrite, memory_of


async def at_once(_: int) -> None:
    """A pace without pauses."""


async def carried(twin: Any, task: pb.Task) -> pb.TaskResult:
    sent = pb.Task.FromString(task.SerializeToString())
    done = await carry_out(twin, sent, lambda: Deadline(10.0), at_once, at_once=True)
    return pb.TaskResult.FromString(done.result.SerializeToString())


async def test_a_rewrite_goes_there_and_comes_back(make_twin: Callable[..., Any], some_bytes: Any) -> None:
    twin = make_twin(Profile(2, 1), devices=4)
    blobs = [some_bytes(3000), some_bytes(2000), some_bytes(1000)]
    old = [await twin.write(blob) for blob in blobs]
    for device in twin.devices.values():
        device.shards = {key: shard for key, shard in device.shards.items() if key[0] != old[1].id}
    pieces = (SliceRow(old[0].id, 100, 500), SliceRow(old[2].id, 0, 1000), SliceRow(old[1].id, 0, 10))
    task = pb.Task(epoch=1, rewrite=rewrite_to(Rewrite(77, "rs-2-1", tuple(old), pieces)))
    assert is_rewrite(task)
    assert memory_of(task) >= 2 * 1510
    told = rewritten_from(await carried(twin, task))
    assert (told.number, told.profile, told.code, told.unread) == (77, "rs-2-1", "", (old[1].id,))
    assert "good shards are left" in told.error
    assert told.extent is not None
    assert len(told.extent.acks) >= 2
    assert [moved.piece for moved in told.moved] == list(pieces[:2])
    for moved, data in zip(told.moved, (blobs[0][100:600], blobs[2]), strict=True):
        assert moved.sum == crc32c(data)
        assert await twin.read(told.extent, moved.offset, len(data)) == data


async def test_a_rewrite_that_fails_says_why(make_twin: Callable[..., Any], some_bytes: Any) -> None:
    twin = make_twin(Profile(2, 1), devices=3)
    old = await twin.write(some_bytes(100))
    for device in twin.devices.values():
        device.full = True
    rewrite = rewrite_to(Rewrite(78, "rs-2-1", (old,), (SliceRow(old.id, 0, 100),)))
    told = rewritten_from(await carried(twin, pb.Task(epoch=1, rewrite=rewrite)))
    assert (told.code, told.extent, told.moved) == ("Unavailable", None, ())
    assert "no room is left" in told.error


async def test_an_extent_is_made_as_planned(make_twin: Callable[..., Any], some_bytes: Any) -> None:
    twin = make_twin(Profile(2, 1), devices=3)
    extent = await twin.write(some_bytes(1000))
    twin.holder(extent, 2).shards.clear()
    task = pb.Task(epoch=1, extent=extent_to_message(extent), positions=[2])
    assert not is_rewrite(task)
    result = await carried(twin, task)
    assert (result.extent, [ack.position for ack in result.acks], result.error) == (extent.id, [2], "")
    assert not result.HasField("rewritten")


async def test_tasks_that_make_no_sense_are_reported_and_harm_nobody(
    make_twin: Callable[..., Any], some_bytes: Any
) -> None:
    twin = make_twin(Profile(2, 1), devices=3)
    old = extent_to_message(await twin.write(some_bytes(100)))
    senseless = [
        pb.Rewrite(number=1, profile="rs-2-1", extents=[old], pieces=[pb.Piece(extent=1, length=1)]),
        pb.Rewrite(number=1, profile="rs-2-1", extents=[old], pieces=[pb.Piece(offset=100, length=1)]),
        pb.Rewrite(number=1, profile="rs-2-1", extents=[old], pieces=[pb.Piece(length=0)]),
        pb.Rewrite(number=1, profile="nonsense", extents=[old], pieces=[pb.Piece(length=1)]),
        pb.Rewrite(number=1, profile="rs-2-1", extents=[pb.Extent()], pieces=[pb.Piece(length=1)]),
    ]
    for rewrite in senseless:
        task = pb.Task(epoch=1, rewrite=rewrite)
        assert memory_of(task) == 0
        result = await carried(twin, task)
        assert result.rewritten.code == "InvalidArgument"
        assert result.rewritten.number == 1
    assert (await carried(twin, pb.Task(epoch=1))).error
    assert failed(pb.Task(extent=old), "X", "why").extent == old.id


def test_reports_that_make_no_sense_are_refused() -> None:
    for rewritten in (
        pb.Rewritten(profile="nonsense"),
        pb.Rewritten(profile="rs-2-1", pieces=[pb.Piece()]),
        pb.Rewritten(profile="rs-2-1", extents=[b"short"]),
        pb.Rewritten(profile="rs-2-1", unread=[b"short"]),
        pb.Rewritten(profile="rs-2-1", extent=pb.Extent(k=99)),
        pb.Rewritten(profile="rs-2-1", extents=[bytes(16)], pieces=[pb.Piece()] * 5000),
    ):
        with pytest.raises(InvalidArgument):
            rewritten_from(pb.TaskResult(rewritten=rewritten))
