"""Uploads and long lists of slices."""

from __future__ import annotations

from typing import Any

import pytest

from reedbed.catalog import buckets, extents, lookup, slices, sweep, uploads
from reedbed.catalog.extents import Offers
from reedbed.catalog.operations import slice_rows
from reedbed.common.errors import BelowHorizon, InvalidArgument, NotEmpty, NotFound
from reedbed.common.ids import Id
from reedbed.common.limits import UPLOAD_IDLE_S
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos import convert

World = Any


def begin(world: World, key: bytes = b"k", bucket: str = "data") -> Id:
    upload_id: Id = world.leases.take()
    world.change(lambda edit: uploads.begin(edit, upload_id, bucket, key))
    return upload_id


def register(world: World, upload_id: Id, first: int, parts: list[pb.Slice], *given: pb.Extent) -> None:
    rows = slice_rows(parts)
    offers = Offers(world.judge, [convert.extent_from_message(extent) for extent in given])
    world.change(lambda edit: uploads.register(edit, upload_id, first, rows, offers))


def pieces(extent: pb.Extent, count: int, length: int = 1) -> list[pb.Slice]:
    return [pb.Slice(extent=extent.id, offset=at * length, length=length) for at in range(count)]


def uploaded(world: World, count: int, step: int, more: int = 0) -> tuple[pb.Outcome, list[pb.Slice]]:
    """An object of `count` registered slices and `more` in the commit itself."""
    extent = world.extent(count + more, 0)
    parts = pieces(extent, count + more)
    upload_id = begin(world)
    for first in range(0, count, step):
        register(world, upload_id, first, parts[first : min(count, first + step)], extent)
    op = world.put_op(b"k", parts[count:], size=count + more, upload=upload_id)
    return world.one(op, extent), parts


def all_slices(world: World, version: bytes, limit: int = 1000) -> list[pb.Slice]:
    target = pb.Target(bucket="data", key=b"k", version=version)
    found: list[pb.Slice] = []
    while True:
        request = pb.SlicesRequest(target=target, first=len(found))
        reply = world.look(lambda reader, request=request: lookup.more_slices(reader, request, limit))
        found.extend(reply.slices)
        if not reply.more:
            return found


SHAPES = [(0, 1, 0), (0, 1, 3), (5, 2, 0), (64, 64, 0), (60, 7, 5), (600, 250, 3)]


@pytest.mark.parametrize(("count", "step", "more"), SHAPES)
def test_an_upload_becomes_an_object_with_its_slices_in_order(world: World, count: int, step: int, more: int) -> None:
    outcome, parts = uploaded(world, count, step, more)
    assert not outcome.error.code, outcome
    found = world.find(b"k")
    first = list(found.slices)
    assert first == parts[: len(first)]
    assert found.more == (len(first) < len(parts))
    assert all_slices(world, found.info.version, 100) == parts
    assert world.look(lambda reader: uploads.page(reader, buckets.get(reader, "data"), b"", 9)).uploads == []
    assert world.problems() == []
    world.one(world.delete_op(b"k"))
    assert world.problems() == []


def test_ten_thousand_slices_are_paged_shared_and_taken_apart_in_steps(world: World) -> None:
    outcome, parts = uploaded(world, 10_000, 4096)
    world.commit(*(world.copy_op(b"k", name) for name in (b"copy1", b"copy2")))
    assert world.problems() == []
    extent_id = Id(parts[0].extent)
    row = world.look(lambda reader: extents.get(reader, extent_id))
    assert (row.refs, row.live) == (10_000, 10_000)  # chunks are shared, not copied
    assert all_slices(world, outcome.info.version) == parts
    world.commit(*(world.delete_op(name) for name in (b"k", b"copy1")))
    assert len(world.find(b"copy2").slices) == 256
    world.one(world.delete_op(b"copy2"))
    steps = 0
    while world.look(lambda reader: slices.loose(reader, 9)):
        world.change(lambda edit: sweep.step(edit, sweep.Retention()))
        assert world.problems() == []
        steps += 1
    assert steps == 4
    assert world.look(lambda reader: extents.get(reader, extent_id)).dropped_ms is not None


def test_a_registration_may_be_repeated_but_not_changed(world: World) -> None:
    extent = world.extent(9, 0)
    parts = pieces(extent, 9)
    upload_id = begin(world)
    for _ in range(2):
        register(world, upload_id, 0, parts[:4], extent)
    register(world, upload_id, 4, parts[4:6], extent)
    register(world, upload_id, 2, parts[2:6], extent)
    for first, wrong in ((7, parts[7:]), (0, parts[1:3]), (4, parts[4:8])):
        with pytest.raises(InvalidArgument):
            register(world, upload_id, first, wrong, extent)
    listed = world.look(lambda reader: uploads.page(reader, buckets.get(reader, "data"), b"", 9)).uploads
    assert [(upload.id, upload.key, upload.slices, upload.bytes) for upload in listed] == [(upload_id, b"k", 6, 6)]
    assert world.problems() == []


def test_an_upload_pins_its_extents_past_the_horizon_until_it_ends(world: World) -> None:
    extent = world.extent(10, 0)
    upload_id = begin(world)
    register(world, upload_id, 0, pieces(extent, 1, 10), extent)
    world.leases.raise_horizon()
    with pytest.raises(NotEmpty, match="uploads"):
        world.change(lambda edit: buckets.delete(edit, "data"))
    assert world.look(lambda reader: extents.get(reader, Id(extent.id))).dropped_ms is None
    world.change(lambda edit: uploads.abort(edit, upload_id))
    assert world.look(lambda reader: extents.get(reader, Id(extent.id))).dropped_ms is not None
    with pytest.raises(NotFound):
        world.change(lambda edit: uploads.abort(edit, upload_id))
    with pytest.raises(NotFound):
        register(world, upload_id, 0, [])
    assert world.problems() == []


def test_begin_may_be_repeated_but_never_begins_an_ended_upload_anew(world: World) -> None:
    upload_id = begin(world)
    world.change(lambda edit: uploads.begin(edit, upload_id, "data", b"k"))
    with pytest.raises(InvalidArgument):
        world.change(lambda edit: uploads.begin(edit, upload_id, "data", b"other"))
    world.change(lambda edit: uploads.abort(edit, upload_id))
    world.change(lambda edit: uploads.begin(edit, upload_id, "data", b"k"))
    with pytest.raises(NotFound):
        world.look(lambda reader: uploads.get(reader, upload_id))
    world.leases.raise_horizon()
    with pytest.raises(BelowHorizon):
        world.change(lambda edit: uploads.begin(edit, upload_id, "data", b"k"))
    assert world.problems() == []


def test_a_commit_that_fails_leaves_the_upload(world: World) -> None:
    extent = world.extent(10, 0)
    upload_id = begin(world)
    register(world, upload_id, 0, pieces(extent, 1, 10), extent)
    refused = [
        world.one(world.put_op(b"k", [], size=9, upload=upload_id)),
        world.one(world.put_op(b"k", [], size=10, upload=upload_id, condition={"if_match": '"x"'})),
        world.one(world.put_op(b"other", [], size=10, upload=upload_id)),
        world.one(world.put_op(b"k", [], "kept", size=10, upload=upload_id)),
    ]
    codes = [outcome.error.code for outcome in refused]
    assert codes == ["InvalidArgument", "PreconditionFailed", "InvalidArgument", "InvalidArgument"]
    last = world.put_op(b"k", [], size=10, upload=upload_id)
    done = world.one(last)
    assert not done.error.code
    assert world.one(last) == done
    assert world.one(world.put_op(b"k", [], size=10, upload=upload_id)).error.code == "NotFound"
    assert world.problems() == []


def test_idle_uploads_end_by_the_id_clock_in_bounded_steps(world: World) -> None:
    extent = world.extent(10, 0)
    old = [begin(world) for _ in range(4)]
    world.leases.time_ms += int(UPLOAD_IDLE_S * 1000) - 1
    register(world, old[2], 0, pieces(extent, 1, 10), extent)
    world.leases.time_ms += 1
    young = begin(world)
    after: Id | None = None
    for expected in (old[1], old[3], None):
        swept = world.change(lambda edit, after=after: sweep.step(edit, sweep.Retention(), after, 2))
        after = swept.uploads_after
        assert after == expected
    listed = world.look(lambda reader: uploads.page(reader, buckets.get(reader, "data"), b"", 9)).uploads
    assert [upload.id for upload in listed] == [old[2], young]
    assert world.problems() == []


def test_no_upload_ends_by_a_leap_of_the_id_clock(world: World) -> None:
    """As at a start of the catalog after an outage, or after the wall clock was set ahead."""
    upload_id = begin(world)
    world.leases.time_ms += 2 * int(UPLOAD_IDLE_S * 1000)
    world.leases.leapt_ms = 2 * int(UPLOAD_IDLE_S * 1000)
    world.change(lambda edit: sweep.step(edit, sweep.Retention()))
    bucket = world.look(lambda reader: buckets.get(reader, "data"))
    listed = world.look(lambda reader: uploads.page(reader, bucket, b"", 9)).uploads
    assert [upload.id for upload in listed] == [upload_id]


def test_uploads_are_listed_in_pages(world: World) -> None:
    made = [begin(world, b"k%d" % number) for number in range(5)]
    begin(world, bucket="kept")
    bucket = world.look(lambda reader: buckets.get(reader, "data"))
    first = world.look(lambda reader: uploads.page(reader, bucket, b"", 3))
    assert ([upload.id for upload in first.uploads], first.more) == (made[:3], True)
    rest = world.look(lambda reader: uploads.page(reader, bucket, made[2], 3))
    assert ([upload.id for upload in rest.uploads], rest.more) == (made[3:], False)
