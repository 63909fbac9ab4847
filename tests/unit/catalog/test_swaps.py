"""Slices that take the place of others: only where all that is claimed of them is so, and without a trace otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from reedbed.catalog import buckets, extents, namers, recode_jobs, recoding, slices, swaps, uploads, versions
from reedbed.catalog.extents import Offers
from reedbed.catalog.namers import OfChunk, OfVersion
from reedbed.catalog.records import SliceRow
from reedbed.catalog.swaps import PIN_IDLE_S, Moved, Swap
from reedbed.common.checksums import crc32c
from reedbed.common.errors import BelowHorizon, InvalidArgument, Unavailable
from reedbed.common.ids import Id
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos import convert
from reedbed.protos.types import Ack, Extent

World = Any

DATA = b"ten bytes!"


def put(world: World, key: bytes, extent: pb.Extent, offset: int = 0, bucket: str = "data") -> pb.Outcome:
    """An object that is one slice of DATA."""
    slice_ = pb.Slice(extent=extent.id, offset=offset, length=len(DATA))
    outcome: pb.Outcome = world.one(world.put_op(key, [slice_], bucket, checksum=crc32c(DATA)), extent)
    assert not outcome.error.code, outcome
    return outcome


def moved_to(world: World, *pieces: SliceRow, lost: int = 0, sum_: int = crc32c(DATA), profile: str = "rs-2-1") -> Swap:
    """A rewrite that put these pieces one after the other into a new extent."""
    size = sum(piece.length for piece in pieces)
    acks = tuple(Ack(place, place + 1, 1) for place in (0, 2) if not lost >> place & 1)
    extent = Extent(world.leases.take(), 2, 1, 1, 1, (size, 0), 0, acks)
    at = 0
    moved = []
    for piece in pieces:
        moved.append(Moved(piece, at, sum_))
        at += piece.length
    return Swap(extent, profile, moved)


def run(world: World, swap: Swap, limit: int = 100) -> None:
    assert world.change(lambda edit: swaps.begin(edit, swap))
    while world.change(lambda edit: swaps.step(edit, swap, limit)):
        assert world.problems() == []
    world.change(lambda edit: swaps.end(edit, swap.extent.id))
    assert world.problems() == []


def slice_of(extent: pb.Extent, offset: int = 0, length: int = len(DATA)) -> SliceRow:
    return SliceRow(extent.id, offset, length)


def where(world: World, key: bytes, bucket: str = "data") -> list[tuple[bytes, int, int]]:
    return [(one.extent, one.offset, one.length) for one in world.find(key, bucket).slices]


def row_of(world: World, extent: bytes) -> Any:
    return world.look(lambda reader: extents.get(reader, Id(extent)))


def test_a_version_gets_its_new_slice_and_the_old_extent_is_dropped(world: World) -> None:
    old = world.extent(20, 0)
    first, second = put(world, b"a", old), put(world, b"b", old, 10)
    log = len(world.log())
    swap = moved_to(world, slice_of(old, 10), slice_of(old))
    run(world, swap)
    assert (where(world, b"a"), where(world, b"b")) == (
        [(swap.extent.id, 10, 10)],
        [(swap.extent.id, 0, 10)],
    )
    assert row_of(world, old.id).dropped_ms is not None
    assert (row_of(world, swap.extent.id).refs, row_of(world, swap.extent.id).live) == (2, 20)
    assert swap.done == 20
    assert len(world.log()) == log, "the log names versions, never slices"
    for key, outcome in ((b"a", first), (b"b", second)):
        assert world.find(key).info.version == outcome.info.version
        assert world.find(key).info.modified_us == outcome.info.modified_us


def test_what_changed_meanwhile_is_left_out_and_the_rest_goes_on(world: World) -> None:
    old, other = world.extent(40, 0), world.extent(10, 0)
    for at, key in enumerate((b"kept", b"overwritten", b"deleted", b"copied")):
        put(world, key, old, 10 * at)
    swap = moved_to(world, *(slice_of(old, 10 * at) for at in range(4)))
    put(world, b"overwritten", other)
    world.one(world.delete_op(b"deleted"))
    world.one(world.copy_op(b"copied", b"copy"))
    world.one(world.delete_op(b"copied"))
    run(world, swap)
    assert where(world, b"kept") == [(swap.extent.id, 0, 10)]
    assert where(world, b"overwritten") == [(other.id, 0, 10)]
    assert world.find(b"deleted").error.code == "NotFound"
    assert where(world, b"copy") == [(swap.extent.id, 30, 10)]
    assert row_of(world, swap.extent.id).live == 20


def test_a_new_extent_that_nobody_takes_is_dropped(world: World) -> None:
    old = world.extent(10, 0)
    put(world, b"a", old)
    swap = moved_to(world, slice_of(old))
    world.one(world.delete_op(b"a"))
    run(world, swap)
    assert row_of(world, swap.extent.id).dropped_ms is not None


def test_bytes_that_are_not_the_versions_are_refused(world: World) -> None:
    old = world.extent(10, 0)
    put(world, b"a", old)
    swap = moved_to(world, slice_of(old), sum_=crc32c(b"other byte"))
    run(world, swap)
    assert swap.wrong == 1
    assert where(world, b"a") == [(old.id, 0, 10)]
    assert row_of(world, swap.extent.id).dropped_ms is not None


def test_a_new_extent_that_is_not_whole_takes_nobodys_place(world: World) -> None:
    old = world.extent(10, 0)
    put(world, b"a", old)
    swap = moved_to(world, slice_of(old), lost=0)
    world.judge.lost = 0b100  # a device failed since it acknowledged
    with pytest.raises(Unavailable):  # fewer than k+1: not even taken in
        world.change(lambda edit: swaps.begin(edit, moved_to(world, slice_of(old), lost=0b101)))
    code = Extent(world.leases.take(), 2, 2, 1, 1, (10, 0), 0, tuple(Ack(place, place + 1, 1) for place in (0, 2, 3)))
    swap = Swap(code, "rs-2-2", swap.moved)
    assert not world.change(lambda edit: swaps.begin(edit, swap))
    assert row_of(world, code.id).dropped_ms is not None
    assert world.look(swaps.pins) == 0
    assert world.problems() == []
    with pytest.raises(Unavailable):
        world.change(lambda edit: swaps.step(edit, swap))
    assert where(world, b"a") == [(old.id, 0, 10)]


def test_a_pin_lasts_past_the_horizon_and_a_late_report_does_not(world: World) -> None:
    old = world.extent(20, 0)
    put(world, b"a", old)
    put(world, b"b", old, 10)
    pinned, late = moved_to(world, slice_of(old)), moved_to(world, slice_of(old, 10))
    assert world.change(lambda edit: swaps.begin(edit, pinned))
    world.leases.raise_horizon()
    run(world, pinned)
    assert where(world, b"a") == [(pinned.extent.id, 0, 10)]
    with pytest.raises(BelowHorizon):
        world.change(lambda edit: swaps.begin(edit, late))
    assert where(world, b"b") == [(old.id, 10, 10)]
    assert world.problems() == []


def test_a_pin_without_progress_is_ended(world: World) -> None:
    old = world.extent(10, 0)
    put(world, b"a", old)
    swap = moved_to(world, slice_of(old))
    assert world.change(lambda edit: swaps.begin(edit, swap))
    world.leases.time_ms += round(PIN_IDLE_S * 1000) - 1
    assert world.change(lambda edit: swaps.end_idle(edit, 10)) == 0
    world.leases.time_ms += 1
    assert world.change(lambda edit: swaps.end_idle(edit, 10)) == 1
    assert row_of(world, swap.extent.id).dropped_ms is not None
    with pytest.raises(Unavailable, match="ended"):
        world.change(lambda edit: swaps.step(edit, swap))
    assert world.problems() == []
    run(world, swap)  # reported once more, and not below the horizon
    assert where(world, b"a") == [(swap.extent.id, 0, 10)]


def test_a_swap_that_is_done_twice_or_cut_short_changes_nothing_more(world: World) -> None:
    old = world.extent(30, 0)
    for at, key in enumerate((b"a", b"b", b"c")):
        put(world, key, old, 10 * at)
    swap = moved_to(world, *(slice_of(old, 10 * at) for at in range(3)))
    assert world.change(lambda edit: swaps.begin(edit, swap))
    assert world.change(lambda edit: swaps.step(edit, swap, 1))
    world.engine = world.engine.crash()
    again = Swap(swap.extent, swap.profile, swap.moved)
    run(world, again)
    assert again.done == 20
    rows = world.look(lambda reader: list(reader.scan(b"")))
    run(world, Swap(swap.extent, swap.profile, swap.moved))
    assert world.look(lambda reader: list(reader.scan(b""))) == rows


def test_many_who_hold_a_piece_get_it_in_bounded_steps(world: World) -> None:
    old = world.extent(10, 0)
    put(world, b"a", old)
    for number in range(30):
        world.one(world.copy_op(b"a", b"copy/%d" % number))
    swap = moved_to(world, slice_of(old))
    assert world.change(lambda edit: swaps.begin(edit, swap))
    steps = 1
    while world.change(lambda edit: swaps.step(edit, swap, 4)):
        steps += 1
    world.change(lambda edit: swaps.end(edit, swap.extent.id))
    assert steps == 8
    assert row_of(world, swap.extent.id).refs == 31
    assert row_of(world, old.id).refs == 0
    assert world.problems() == []


def test_only_those_who_want_the_profile_get_the_piece(world: World) -> None:
    world.bucket("other", profile="rs-3-1")
    old = world.extent(10, 0)
    put(world, b"a", old)
    world.one(world.copy_op(b"a", b"copy", bucket="other"))
    extent = Extent(world.leases.take(), 3, 1, 1, 1, (10, 0, 0), 0, tuple(Ack(place, place + 1, 1) for place in (0, 3)))
    run(world, Swap(extent, "rs-3-1", [Moved(slice_of(old), 0, crc32c(DATA))]))
    assert where(world, b"copy", "other") == [(extent.id, 0, 10)]
    assert where(world, b"a") == [(old.id, 0, 10)]
    assert world.look(lambda reader: list(recoding.queue(reader))) == []


def test_a_slice_that_a_version_holds_twice_moves_twice(world: World) -> None:
    old = world.extent(10, 0)
    held = [pb.Slice(extent=old.id, offset=0, length=10)] * 2 + [pb.Slice(extent=old.id, offset=0, length=4)]
    world.one(world.put_op(b"a", held), old)
    run(world, swap := moved_to(world, slice_of(old)))
    assert where(world, b"a") == [(swap.extent.id, 0, 10)] * 2 + [(old.id, 0, 4)]
    assert row_of(world, swap.extent.id).refs == 2


def test_chunks_of_lists_get_their_slices_and_keep_their_numbers(world: World) -> None:
    old = world.extent(3000, 0)
    held = [pb.Slice(extent=old.id, offset=10 * at, length=10) for at in range(300)]
    world.one(world.put_op(b"long", held), old)
    world.one(world.copy_op(b"long", b"copy"))
    swap = moved_to(world, slice_of(old, 2990), slice_of(old, 50))
    run(world, swap)
    version = world.find(b"copy").info.version
    row = world.look(lambda reader: versions.by_id(reader, _bucket(reader), b"copy", Id(version)))
    found = world.look(lambda reader: slices.page(reader, row, 0, 1000)[0])
    assert [(one.extent, one.offset) for one in found] == [
        {5: (swap.extent.id, 10), 299: (swap.extent.id, 0)}.get(at, (old.id, 10 * at)) for at in range(300)
    ]


def _bucket(reader: Any) -> Any:
    return buckets.get(reader, "data")


def test_slices_of_an_upload_stay_as_they_were_registered(world: World) -> None:
    old = world.extent(10, 0)
    upload = world.leases.take()
    world.change(lambda edit: uploads.begin(edit, upload, "data", b"up"))
    offers = Offers(world.judge, [convert.extent_from_message(old)])
    world.change(lambda edit: uploads.register(edit, upload, 0, [slice_of(old)], offers))
    put(world, b"a", old)
    run(world, swap := moved_to(world, slice_of(old)))
    assert where(world, b"a") == [(swap.extent.id, 0, 10)]
    world.change(lambda edit: uploads.register(edit, upload, 0, [slice_of(old)], offers))
    outcome = world.one(world.put_op(b"up", [], size=10, upload=upload))
    assert not outcome.error.code
    assert where(world, b"up") == [(old.id, 0, 10)]
    assert world.problems() == []


def test_versions_of_a_versioned_bucket_are_found_each(world: World) -> None:
    old = world.extent(20, 0)
    first = put(world, b"a", old, bucket="kept").info.version
    put(world, b"a", old, 10, bucket="kept")
    world.one(world.delete_op(b"a", "kept"))
    run(world, swap := moved_to(world, slice_of(old), slice_of(old, 10)))
    assert [one.extent for one in world.find(b"a", "kept", first).slices] == [swap.extent.id]
    assert row_of(world, old.id).refs == 0


def test_pieces_outside_of_the_new_extent_are_refused(world: World) -> None:
    old = world.extent(10, 0)
    swap = moved_to(world, slice_of(old))
    for offset, length in ((1, 10), (0, 11), (0, 0)):
        with pytest.raises(InvalidArgument):
            Swap(swap.extent, "rs-2-1", [Moved(slice_of(old, length=length), offset, 0)])


def test_the_index_tells_who_names_an_extent(world: World) -> None:
    old = world.extent(3000, 0)
    outcome = put(world, b"a", old, 30)
    held = [pb.Slice(extent=old.id, offset=10 * at, length=10) for at in range(300)]
    long = world.one(world.put_op(b"long", held), old)
    named = world.look(lambda reader: [(offset, namer) for _, offset, namer in namers.of_extent(reader, old.id)])
    assert len(named) == 301
    number = _number(world)
    assert (30, OfVersion(Id(outcome.info.version), number, False, b"a")) in named
    assert (2990, OfChunk(Id(long.info.version), 1)) in named
    at_30 = world.look(lambda reader: list(namers.of_slice(reader, slice_of(old, 30))))
    assert at_30 == [OfVersion(Id(outcome.info.version), number, False, b"a"), OfChunk(Id(long.info.version), 0)]
    after = world.look(lambda reader: list(namers.of_slice(reader, slice_of(old, 30), at_30[0].suffix)))
    assert after == at_30[1:]
    world.one(world.delete_op(b"long"))
    world.one(world.delete_op(b"a"))
    assert world.look(lambda reader: list(namers.of_extent(reader, old.id))) == []


def _number(world: World) -> int:
    found: int = world.look(_bucket).number
    return found


def test_a_recoded_version_leaves_the_queue_with_its_last_slice(world: World) -> None:
    world.change(lambda edit: recode_jobs.order(edit, "data", recode_jobs.Scope(), "rs-3-1"))
    old = world.extent(20, 0)
    held = [pb.Slice(extent=old.id, offset=at, length=10) for at in (0, 10)]
    world.one(world.put_op(b"a", held), old)  # of a client that does not know yet
    for at, left in ((0, 1), (10, 0)):
        extent = Extent(
            world.leases.take(), 3, 1, 1, 1, (10, 0, 0), 0, tuple(Ack(place, place + 1, 1) for place in (0, 3))
        )
        run(world, Swap(extent, "rs-3-1", [Moved(slice_of(old, at), 0, 0)]))
        assert len(world.look(lambda reader: list(recoding.queue(reader)))) == left
