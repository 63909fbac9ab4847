"""Orders to recode: which versions they concern, which one holds, and lists of slices that want two profiles."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reedbed.catalog import buckets, recode_jobs, recoding, slices, versions
from reedbed.catalog import edit as edits
from reedbed.catalog.recode_jobs import Scope
from reedbed.common.errors import InvalidArgument, NotFound, ResourceExhausted
from reedbed.common.ids import Id
from reedbed.protos import catalog_pb2 as pb

World = Any

ALL = Scope()


def order(world: World, profile: str, scope: Scope = ALL, bucket: str = "data") -> None:
    world.change(lambda edit: recode_jobs.order(edit, bucket, scope, profile))


def walk(world: World, limit: int = 100) -> int:
    """All orders, to their end; how many steps it took."""
    steps = 0
    while world.change(lambda edit: recode_jobs.walk(edit, limit)):
        assert world.problems() == []
        steps += 1
    return steps


def wanted(world: World, key: bytes, bucket: str = "data", version: bytes = b"") -> str:
    found: str = world.find(key, bucket, version, slices=False).info.profile
    return found


def queued(world: World) -> set[bytes]:
    return {namer.version for namer in world.look(lambda reader: list(recoding.queue(reader)))}


def profile_of(world: World, bucket: str = "data") -> str:
    found: str = world.look(lambda reader: buckets.get(reader, bucket)).profile
    return found


def long_put(world: World, key: bytes, count: int = 300, bucket: str = "data") -> bytes:
    """An object with a list of slices; its version."""
    extent = world.extent(count, 0)
    outcome = world.one(
        world.put_op(key, [pb.Slice(extent=extent.id, offset=at, length=1) for at in range(count)], bucket), extent
    )
    version: bytes = outcome.info.version
    return version


def list_of(world: World, key: bytes, version: bytes, bucket: str = "data") -> Id:
    row = world.look(lambda reader: versions.by_id(reader, buckets.get(reader, bucket), key, Id(version)))
    return Id(row.slice_list)


def prepare(world: World) -> int:
    """Lists for all that are queued; how many steps it took."""
    steps = 0
    for namer in world.look(lambda reader: list(recoding.queue(reader))):
        more, fresh = True, world.leases.take()
        while more:
            more = world.change(lambda edit, namer=namer, fresh=fresh: recoding.prepare(edit, namer, fresh))
            assert world.problems() == []
            steps += 1
    return steps


def test_a_bucket_changes_at_once_and_what_is_in_it_is_queued_step_by_step(world: World) -> None:
    there = {world.put(b"k/%d" % number).info.version for number in range(10)}
    order(world, "rs-3-1")
    assert profile_of(world) == "rs-3-1"
    assert not queued(world)
    new = world.put(b"new").info
    assert (new.profile, queued(world)) == ("rs-3-1", {new.version}), "written by a client that does not know yet"
    assert walk(world, limit=3) == 4
    assert queued(world) == there | {new.version}
    assert {wanted(world, b"k/%d" % number) for number in range(10)} == {"rs-3-1"}
    counts = world.look(edits.counters)
    assert (counts.recode_versions, counts.recode_bytes) == (11, 110)
    order(world, "rs-2-1")
    walk(world)
    assert queued(world) == set(), "as it was before: nothing has to be moved"


def test_a_prefix_or_a_key_leaves_the_bucket_as_it_is(world: World) -> None:
    for key in (b"a", b"a/1", b"a/1/x", b"a0", b"b"):
        world.put(key)
    order(world, "rs-3-1", Scope(b"a/"))
    order(world, "rs-4-2", Scope(b"a", exact=True))
    walk(world, limit=1)
    assert profile_of(world) == "rs-2-1"
    assert [wanted(world, key) for key in (b"a", b"a/1", b"a/1/x", b"a0", b"b")] == [
        "rs-4-2",
        "rs-3-1",
        "rs-3-1",
        "rs-2-1",
        "rs-2-1",
    ]
    with pytest.raises(NotFound):
        order(world, "rs-3-1", Scope(b"none", exact=True))
    with pytest.raises(NotFound):
        order(world, "rs-3-1", bucket="none")


def test_all_versions_of_a_versioned_bucket_are_meant_and_markers_pass(world: World) -> None:
    first = world.put(b"a\x00b", bucket="kept").info.version
    second = world.put(b"a\x00b", bucket="kept").info.version
    world.one(world.delete_op(b"a\x00b", "kept"))
    other = world.put(b"a", bucket="kept").info.version
    order(world, "rs-3-1", Scope(b"a\x00b", exact=True), "kept")
    walk(world, limit=1)
    assert queued(world) == {first, second}
    order(world, "rs-3-1", Scope(b"a"), "kept")
    walk(world, limit=1)
    assert queued(world) == {first, second, other}


def test_the_last_order_wins_whatever_the_others_have_done(world: World) -> None:
    for number in range(6):
        world.put(b"k/%d" % number)
    order(world, "rs-3-1", Scope(b"k/"))
    world.change(lambda edit: recode_jobs.walk(edit, 2))
    order(world, "rs-4-2", Scope(b"k/1"))
    order(world, "rs-5-2", Scope(b"k/5", exact=True))
    order(world, "rs-6-2", Scope(b"k/5", exact=True))
    assert [job.profile for _, job in world.look(lambda reader: list(recode_jobs.jobs(reader)))] == [
        "rs-3-1",
        "rs-4-2",
        "rs-6-2",
    ]
    walk(world)
    found = [wanted(world, b"k/%d" % number) for number in range(6)]
    assert found == ["rs-3-1", "rs-4-2", "rs-3-1", "rs-3-1", "rs-3-1", "rs-6-2"]
    order(world, "rs-3-1", Scope(b"k/"))
    order(world, "rs-2-1")
    assert len(world.look(lambda reader: list(recode_jobs.jobs(reader)))) == 1, "the earlier ones concern nothing else"
    walk(world)
    assert not queued(world)


def test_an_order_does_not_concern_what_comes_after_it(world: World) -> None:
    world.put(b"old")
    order(world, "rs-3-1")
    chosen = world.put(b"chosen", profile="rs-2-1")
    assert chosen.info.profile == "rs-2-1"
    copy = world.one(world.copy_op(b"old", b"copy"))
    assert copy.info.profile == "rs-3-1", "its source is to be recoded, though that was not seen to yet"
    walk(world)
    assert wanted(world, b"chosen") == "rs-2-1"
    assert wanted(world, b"copy") == wanted(world, b"old") == "rs-3-1"


def test_a_bucket_that_is_removed_ends_its_orders(world: World) -> None:
    version = world.put(b"a").info.version
    order(world, "rs-3-1")
    world.change(lambda edit: recode_jobs.walk(edit, 100))
    order(world, "rs-4-2", Scope(b"a"))
    world.one(world.delete_op(b"a"))
    world.change(lambda edit: buckets.delete(edit, "data"))
    world.bucket("data")
    assert walk(world) == 1
    assert queued(world) == {version}
    namer = world.look(lambda reader: next(recoding.queue(reader)))
    assert world.change(lambda edit: recoding.settle(edit, namer))
    assert world.problems() == []
    assert not queued(world)


def test_orders_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recode_jobs, "JOBS_MAX", 3)
    for name in (b"a", b"b", b"c"):
        order(world, "rs-3-1", Scope(name))
    with pytest.raises(ResourceExhausted):
        order(world, "rs-3-1", Scope(b"d"))
    order(world, "rs-4-2", Scope(b"a"))
    order(world, "rs-4-2")


def test_a_plan_counts_what_has_another_profile(world: World) -> None:
    for number in range(5):
        world.put(b"k/%d" % number, size=90)
    long_put(world, b"long", 300)
    found = world.look(lambda reader: recode_jobs.plan(reader, "data", Scope(b"k/"), "rs-3-1", b"", 100))
    assert (found.versions, found.concerned, found.size, found.stored, found.then, found.after) == (
        5,
        5,
        450,
        675,
        600,
        b"",
    )
    assert world.look(lambda reader: recode_jobs.plan(reader, "data", ALL, "rs-2-1", b"", 100)).concerned == 0
    total, after, pages = 0, b"", 0
    while True:
        part = world.look(lambda reader, after=after: recode_jobs.plan(reader, "data", ALL, "rs-3-1", after, 2))  # type: ignore[misc]
        total, after, pages = total + part.size, part.after, pages + 1
        if not after:
            break
    assert (total, pages) == (750, 6)
    for wild in (b"b", b"o", b"o\x00\x00\x00\x02a", b"v", b"\xff"):
        with pytest.raises(InvalidArgument):
            world.look(lambda reader, wild=wild: recode_jobs.plan(reader, "data", ALL, "rs-3-1", wild, 2))  # type: ignore[misc]


def test_a_list_of_one_version_just_wants_another_profile(world: World) -> None:
    version = long_put(world, b"long")
    before = list_of(world, b"long", version)
    order(world, "rs-3-1")
    walk(world)
    prepare(world)
    assert list_of(world, b"long", version) == before
    assert world.look(lambda reader: slices.head(reader, before)).wanted == "rs-3-1"


def test_versions_that_share_a_list_share_the_new_one_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recoding, "TWIN_SLICES", 100)
    world.bucket("other", profile="rs-3-1")
    first = long_put(world, b"long")
    before = list_of(world, b"long", first)
    copies = {key: world.one(world.copy_op(b"long", key, bucket="other")).info.version for key in (b"1", b"2", b"3")}
    assert queued(world) == set(copies.values()), "a copy into a bucket with another profile shares first"
    assert prepare(world) == 3 + 1 + 1
    lists = {list_of(world, key, version, "other") for key, version in copies.items()}
    assert len(lists) == 1
    assert lists != {before}
    assert list_of(world, b"long", first) == before
    assert world.look(lambda reader: slices.head(reader, lists.pop())).refs == 3
    for key in copies:
        world.one(world.delete_op(key, "other"))
    for namer in world.look(lambda reader: list(recoding.queue(reader))):
        world.change(lambda edit, namer=namer: recoding.settle(edit, namer))  # type: ignore[misc]
    assert world.problems() == []
    again = world.one(world.copy_op(b"long", b"4", bucket="other")).info.version
    prepare(world)
    assert list_of(world, b"4", again, "other") != before, "the list that was shared is gone: a new one is made"


def test_a_version_that_goes_while_its_list_is_made_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recoding, "TWIN_SLICES", 100)
    world.bucket("other", profile="rs-3-1")
    long_put(world, b"long")
    world.one(world.copy_op(b"long", b"copy", bucket="other"))
    namer = world.look(lambda reader: next(recoding.queue(reader)))
    assert world.change(lambda edit: recoding.prepare(edit, namer, world.leases.take()))
    assert world.problems() == []
    world.one(world.delete_op(b"copy", "other"))
    world.one(world.delete_op(b"long"))
    assert not world.change(lambda edit: recoding.prepare(edit, namer, world.leases.take()))
    assert world.change(lambda edit: recoding.settle(edit, namer))
    assert world.problems() == []
    counts = world.look(lambda reader: list(reader.scan(b"s", b"t")))
    assert counts == []


@given(st.binary(max_size=3), st.binary(max_size=3), st.booleans(), st.booleans(), st.binary(max_size=4))
def test_what_a_scope_covers_it_has(one: bytes, other: bytes, exact: bool, other_exact: bool, key: bytes) -> None:
    wide, narrow = Scope(one, exact and bool(one)), Scope(other, other_exact and bool(other))
    if wide.covers(narrow) and narrow.has(key):
        assert wide.has(key)
