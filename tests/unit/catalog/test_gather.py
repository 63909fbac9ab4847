"""What is gathered to be rewritten: sparse extents and lone objects where it is worth it, and nothing for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog import edit as edits
from reedbed.catalog import extents, gather, recode_jobs, sparse, uploads
from reedbed.catalog.extents import Offers
from reedbed.catalog.gather import GAIN, SMALL, Group, Lots, RecodeLap, SparseLap, new_bytes
from reedbed.catalog.records import ExtentRow, SliceRow
from reedbed.common.ids import SNAPSHOT, STREAM, Id, is_system
from reedbed.common.limits import KIB, MIB
from reedbed.ec.cut import extent_bytes
from reedbed.ec.profiles import Profile, parse_profile
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos import convert

World = Any

HALF = 8  # sixteenths


def packed(world: World, name: bytes, count: int, size: int, bucket: str = "data") -> pb.Extent:
    """Objects of one size that fill an extent of rs-2-1 together."""
    half = (count + 1) // 2 * size
    extent: pb.Extent = world.extent(half, count * size - half)
    ops = [
        world.put_op(b"%s/%d" % (name, at), [pb.Slice(extent=extent.id, offset=at * size, length=size)], bucket)
        for at in range(count)
    ]
    assert not any(outcome.error.code for outcome in world.commit(*ops, extents=[extent]))
    return extent


def delete(world: World, name: bytes, numbers: range, bucket: str = "data") -> None:
    world.commit(*(world.delete_op(b"%s/%d" % (name, at), bucket) for at in numbers))


def look(world: World, most: int = HALF, skip: Callable[[SliceRow], bool] = lambda _: False) -> list[Group]:
    """All groups of one lap over the sparse extents."""
    lap, groups = SparseLap(skip), []
    while True:
        found = world.look(lambda reader: lap.look(reader, most, world.leases.horizon()))
        groups += found.groups
        if found.ended:
            return groups


def recoded(world: World) -> list[Group]:
    """All groups of one lap over what is to be recoded."""
    lap, groups = RecodeLap(lambda _: False), []
    while True:
        found = world.look(lap.look)
        groups += found.groups
        if found.ended:
            return groups


def places(groups: list[Group]) -> set[tuple[bytes, int]]:
    return {(piece.extent, piece.offset) for group in groups for piece in group.pieces}


def test_what_is_live_in_sparse_extents_is_gathered_and_young_ones_wait(world: World) -> None:
    one, two = packed(world, b"one", 10, KIB), packed(world, b"two", 10, KIB)
    full = packed(world, b"full", 10, KIB)
    delete(world, b"one", range(2, 10))
    delete(world, b"two", range(0, 6))
    delete(world, b"full", range(0, 2))
    assert look(world) == [], "commits may still come"
    world.leases.raise_horizon()
    (group,) = look(world)
    assert group.compacts
    assert group.profile == "rs-2-1"
    assert places([group]) == {(one.id, 0), (one.id, KIB)} | {(two.id, at * KIB) for at in range(6, 10)}
    assert (full.id, 2 * KIB) not in places([group])
    assert places(look(world, most=4)) == {(one.id, 0), (one.id, KIB)}
    assert look(world, most=0) == []
    assert places(look(world, skip=lambda piece: piece.extent == one.id)) == {(two.id, at * KIB) for at in range(6, 10)}


def test_lone_small_objects_wait_for_company_of_their_own_bucket(world: World) -> None:
    world.bucket("narrow", profile="rs-4-2")
    world.bucket("other", profile="rs-4-2")

    def lone(bucket: str, key: bytes, size: int = 4 * KIB) -> None:
        extent = pb.Extent(
            id=world.leases.take(),
            k=4,
            m=2,
            pg=1,
            generation=1,
            lengths=(size, 0, 0, 0),
            acks=[pb.Ack(position=place, device=place + 1, incarnation=1) for place in (0, 4, 5)],
        )
        slice_ = pb.Slice(extent=extent.id, offset=0, length=size)
        assert not world.one(world.put_op(key, [slice_], bucket), extent).error.code

    for number in range(16):
        lone("narrow", b"%d" % number)
        lone("other", b"%d" % number)
    world.leases.raise_horizon()
    assert look(world) == [], "64 KiB fit one data shard, and would cost as much as before"
    for number in range(16, 64):
        lone("narrow", b"%d" % number)
    world.leases.raise_horizon()
    (group,) = look(world)
    assert len(group.pieces) == 64
    assert new_bytes(group.pieces, Profile(4, 2)) == 64 * 4 * KIB * 6 // 4
    counts = world.look(edits.sparse_counts)
    assert (sum(counts.extents), sum(counts.bytes)) == (80, 80 * (12 - 6) * KIB)


def test_whatever_is_seen_at_once_the_same_is_gathered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (b"a", b"b", b"c"):
        packed(world, name, 30, 100)
        delete(world, name, range(20))
        world.one(world.copy_op(name + b"/25", name + b"/copy"))
    long = world.extent(400, 0)
    world.one(
        world.put_op(b"long", [pb.Slice(extent=long.id, offset=at, length=1) for at in range(0, 400, 5)] * 5), long
    )
    world.leases.raise_horizon()
    whole = look(world)
    world.change(lambda edit: recode_jobs.order(edit, "data", recode_jobs.Scope(), "rs-3-1"))
    while world.change(lambda edit: recode_jobs.walk(edit, 7)):
        pass
    every = recoded(world)
    for rows in (1, 2, 7, 50):
        monkeypatch.setattr(gather, "ROWS", rows)
        assert places(recoded(world)) == places(every)
    world.change(lambda edit: recode_jobs.order(edit, "data", recode_jobs.Scope(), "rs-2-1"))
    while world.change(lambda edit: recode_jobs.walk(edit, 7)):
        pass
    for rows in (1, 2, 7, 50):
        monkeypatch.setattr(gather, "ROWS", rows)
        assert places(look(world)) == places(whole)
        assert sum(len(group.pieces) for group in look(world)) == sum(len(group.pieces) for group in whole)


def test_a_piece_that_many_hold_is_gathered_once(world: World) -> None:
    world.put(b"a", bucket="data")
    for number in range(5):
        world.one(world.copy_op(b"a", b"copy/%d" % number))
    world.change(lambda edit: recode_jobs.order(edit, "data", recode_jobs.Scope(), "rs-3-1"))
    world.change(lambda edit: recode_jobs.walk(edit, 100))
    (group,) = recoded(world)
    assert len(group.pieces) == 1


def test_what_only_an_upload_holds_is_left_alone(world: World) -> None:
    extent = world.extent(1000, 0)
    upload = world.leases.take()
    world.change(lambda edit: uploads.begin(edit, upload, "data", b"up"))
    offers = Offers(world.judge, [convert.extent_from_message(extent)])
    world.change(lambda edit: uploads.register(edit, upload, 0, [SliceRow(extent.id, 0, 10)], offers))
    world.leases.raise_horizon()
    assert look(world) == []
    assert not world.one(world.put_op(b"up", [], size=10, upload=upload)).error.code
    assert places(look(world)) == {(extent.id, 0)}


def test_an_extent_that_goes_amid_a_look_does_not_hold_up_the_lap(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "ROWS", 2)
    first, second = packed(world, b"a", 20, 100), packed(world, b"b", 20, 100)
    delete(world, b"a", range(14))
    delete(world, b"b", range(13))
    world.leases.raise_horizon()
    lap = SparseLap(lambda _: False)
    assert not world.look(lambda reader: lap.look(reader, HALF, world.leases.horizon())).ended
    delete(world, b"a", range(14, 20))
    groups = []
    for _ in range(30):
        found = world.look(lambda reader: lap.look(reader, HALF, world.leases.horizon()))
        groups += found.groups
        if found.ended:
            break
    assert found.ended
    assert {(second.id, at * 100) for at in range(13, 20)} <= places(groups)
    assert first.id != second.id


sizes = st.one_of(st.integers(1, 4 * KIB), st.integers(1, SMALL), st.integers(SMALL, 20 * MIB))


pieces = st.tuples(st.integers(1, 3), st.sampled_from(["rs-2-1", "rs-10-2"]), sizes)


@given(st.lists(pieces, max_size=60), st.booleans())
def test_groups_fit_an_extent_and_hold_what_belongs_together(added: list[tuple[int, str, int]], compacts: bool) -> None:
    lots, bucket_of = Lots(compacts), {}
    groups: list[Group] = []
    for number, (bucket, profile, size) in enumerate(added):
        piece = SliceRow(number.to_bytes(16, "big"), 0, size)
        bucket_of[piece.extent] = bucket
        full = list(lots.add(bucket, profile, piece, 10 * size))
        if not full:  # it is known as long as it waits
            assert not list(lots.add(bucket, profile, piece, 10 * size))
        groups += full
    groups += lots.rest()
    found = [piece for group in groups for piece in group.pieces]
    assert len(set(found)) == len(found)
    for group in groups:
        assert group.size <= extent_bytes(parse_profile(group.profile)) or len(group.pieces) == 1
        assert len({bucket_of[piece.extent] for piece in group.pieces}) == 1
        assert len({piece.length <= SMALL for piece in group.pieces}) == 1
        assert {added[int.from_bytes(piece.extent, "big")][1] for piece in group.pieces} == {group.profile}
    assert {added[int.from_bytes(piece.extent, "big")] for piece in found} == set(added)


@given(st.lists(st.tuples(st.integers(1, 64 * KIB), st.integers(1, 200 * KIB)), min_size=1, max_size=40))
def test_nothing_is_compacted_that_frees_little(added: list[tuple[int, int]]) -> None:
    lots = Lots(compacts=True)
    groups: list[Group] = []
    for number, (size, held) in enumerate(added):
        groups += lots.add(1, "rs-4-2", SliceRow(number.to_bytes(16, "big"), 0, size), held)
    groups += lots.rest()
    for group in groups:
        held = sum(added[int.from_bytes(piece.extent, "big")][1] for piece in group.pieces)
        assert new_bytes(group.pieces, Profile(4, 2)) <= GAIN * held


@settings(max_examples=300)
@given(st.integers(1, 12), st.integers(1, 4), st.data())
def test_the_fill_of_an_extent(k: int, m: int, data: st.DataObject) -> None:
    lengths = tuple(data.draw(st.lists(st.integers(0, 9), min_size=k, max_size=k)))
    size = sum(lengths)
    if not size:
        return
    live = data.draw(st.integers(1, size))
    row = ExtentRow(k, m, 1, 1, lengths, 0, 1, live)
    stored = size + m * max(lengths)
    share = live * (k + m) / (k * stored)
    assert sparse.stored(row) == stored
    assert share <= 1.0
    assert (sparse.fill(row) - 1) / 16 < share + 1e-9
    assert share <= sparse.fill(row) / 16 + 1e-9
    assert 1 <= sparse.fill(row) <= 16
    assert sparse.wasted(row) == stored - live * (k + m) // k
    assert (sparse.place(Id(bytes(16)), row) is None) == (sparse.fill(row) > sparse.MOST)
    for owner in (STREAM, SNAPSHOT):
        own = Id(bytes(6) + bytes([owner << 6]) + bytes(9))
        assert is_system(own)
        assert sparse.place(own, row) is None, "devices remember the copy by the ids of its extents"


def test_the_queue_is_that_of_the_emptiest(world: World) -> None:
    made = [packed(world, b"%d" % number, 16, 100) for number in range(4)]
    for number, gone in enumerate((10, 15, 1, 12)):
        delete(world, b"%d" % number, range(gone))
    world.leases.raise_horizon()
    below = world.leases.horizon()
    queue = world.look(lambda reader: list(sparse.queue(reader, 16, below)))
    assert queue == [(1, made[1].id), (4, made[3].id), (6, made[0].id)]
    assert world.look(lambda reader: list(sparse.queue(reader, 16, below, queue[0]))) == queue[1:]
    assert world.look(lambda reader: list(sparse.queue(reader, 5, below))) == queue[:2]
    assert world.look(lambda reader: list(sparse.queue(reader, 16, Id(made[1].id)))) == [queue[2]]
    row = world.look(lambda reader: extents.get(reader, Id(made[1].id)))
    assert row.live == 100
