"""Buckets, the log's positions, and records that are not what they should be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reedbed.catalog import buckets, keys, log, records, sweep
from reedbed.catalog.records import SliceRow, VersionRow
from reedbed.common.errors import (
    AlreadyExists,
    Corrupt,
    InvalidArgument,
    LogLost,
    LogTrimmed,
    NewerFormat,
    NotEmpty,
    NotFound,
)

World = Any


def test_a_bucket_number_is_never_given_twice(world: World) -> None:
    found, _ = world.look(lambda reader: buckets.page(reader, "", 9))
    numbers = {bucket.number for bucket in found}
    for _ in range(3):
        world.change(lambda edit: buckets.delete(edit, "data"))
        with pytest.raises(NotFound):
            world.look(lambda reader: buckets.get(reader, "data"))
        number = world.bucket().number
        assert number not in numbers
        numbers.add(number)
    assert [entry.kind for entry in world.log()][-2:] == ["delete-bucket", "create-bucket"]
    assert world.problems() == []


def test_a_bucket_with_an_object_or_a_mere_marker_is_not_empty(world: World) -> None:
    world.put(b"k")
    with pytest.raises(NotEmpty, match="objects"):
        world.change(lambda edit: buckets.delete(edit, "data"))
    marker = world.one(world.delete_op(b"k", "kept")).info.version
    with pytest.raises(NotEmpty, match="versions"):
        world.change(lambda edit: buckets.delete(edit, "kept"))
    world.one(world.delete_op(b"k", "kept", marker))
    world.change(lambda edit: buckets.delete(edit, "kept"))
    assert world.problems() == []


def test_bad_buckets_get_named_errors(world: World) -> None:
    with pytest.raises(AlreadyExists):
        world.bucket("data")
    for name, profile in (("No", ""), ("a..b", ""), ("fine", "rs-99-1"), ("", "")):
        with pytest.raises(InvalidArgument):
            world.change(lambda edit, name=name, profile=profile: buckets.create(edit, name, False, profile))
    with pytest.raises(InvalidArgument):
        world.look(lambda reader: buckets.get(reader, "No"))
    assert len(world.log()) == 2


def test_buckets_are_listed_in_pages(world: World) -> None:
    for name in ("aaa", "zzz", "mmm"):
        world.bucket(name)
    first, more = world.look(lambda reader: buckets.page(reader, "", 3))
    assert ([bucket.name for bucket in first], more) == (["aaa", "data", "kept"], True)
    rest, more = world.look(lambda reader: buckets.page(reader, "kept", 3))
    assert ([bucket.name for bucket in rest], more) == (["mmm", "zzz"], False)


def test_a_failed_change_leaves_no_gap_in_the_log(world: World) -> None:
    done = world.commit(
        world.put_op(b"a", []), world.put_op(b"b", [], size=9), world.delete_op(b"none"), world.put_op(b"c", [])
    )
    assert [(outcome.log_term, outcome.log_seq) for outcome in done] == [(1, 3), (0, 0), (0, 0), (1, 4)]
    assert [(entry.kind, entry.key) for entry in world.log()[2:]] == [("put", b"a"), ("put", b"c")]


def test_a_savepoint_takes_back_log_numbers_and_counts(world: World) -> None:
    def lost(edit: Any) -> None:
        with edit.savepoint():
            edit.append(log.PUT, bytes(16), "data", b"lost")
            edit.count(objects=1)
            raise NotFound("after the entry was written")

    def change(edit: Any) -> None:
        with pytest.raises(NotFound):
            lost(edit)
        edit.append(log.PUT, bytes(16), "data", b"kept")

    world.change(change)
    assert [entry.key for entry in world.log()] == [b"", b"", b"kept"]
    assert world.problems() == []


def test_log_positions(world: World) -> None:
    for number in range(4):
        world.leases.term_now = 1 + number // 2
        world.put(b"k%d" % number)
        world.clock.advance(10)
    reply = world.look(lambda reader: log.read(reader, 1, 3, 2))
    assert [(entry.position.term, entry.position.seq) for entry in reply.entries] == [(1, 4), (2, 5)]
    assert (reply.end.term, reply.end.seq, reply.floor.seq) == (2, 6, 0)
    assert not world.look(lambda reader: log.read(reader, 2, 6, 2)).entries
    for term, seq in ((2, 7), (2, 4), (1, 6), (9, 0)):
        with pytest.raises(LogLost, match="restored"):
            world.look(lambda reader, term=term, seq=seq: log.read(reader, term, seq, 2))


def test_whoever_has_seen_what_a_restored_catalog_lacks_is_told_however_far_its_log_has_come(world: World) -> None:
    """Invariant 9: entries after the copy come again with other contents, and nobody may take them for those he saw."""
    for number in range(3):
        world.put(b"kept%d" % number)  # entries 3 to 5, of term 1
    common, lost = (1, 5), [(1, 6), (1, 7), (1, 9)]  # what the lost catalog gave after that, and somebody read
    world.leases.term_now = 1_000_000_001  # begun anew
    for number in range(6):
        with pytest.raises(LogLost):
            world.look(lambda reader: log.read(reader, *lost[0], 10))
        for position in lost:
            with pytest.raises(LogLost, match="lacks what you have seen") as told:
                world.look(lambda reader, position=position: log.read(reader, *position, 10))
            assert isinstance(told.value, LogTrimmed)  # what a follower does about it is the same
        reply = world.look(lambda reader: log.read(reader, *common, 10))
        assert [entry.position.seq for entry in reply.entries] == list(range(6, 6 + number))
        assert all(entry.position.term == 1_000_000_001 for entry in reply.entries)
        world.put(b"new%d" % number)


def test_the_floor_of_a_trimmed_log(world: World) -> None:
    for number in range(4):
        world.put(b"k%d" % number)
        world.clock.advance(10)
    # Six entries: two of them at time 0, then one each 10 s
    swept = world.change(lambda edit: sweep.step(edit, sweep.Retention(entries=1, seconds=25)))
    assert swept.log_entries == 4
    reply = world.look(lambda reader: log.read(reader, 1, 4, 9))
    assert [entry.key for entry in reply.entries] == [b"k2", b"k3"]
    assert (reply.floor.term, reply.floor.seq) == (1, 4)
    for seq in (0, 3):
        with pytest.raises(LogTrimmed):
            world.look(lambda reader, seq=seq: log.read(reader, 1 if seq else 0, seq, 9))
    with pytest.raises(LogLost):
        world.look(lambda reader: log.read(reader, 2, 4, 9))
    # `entries` are kept however old they are, also once all is trimmed that may be
    world.clock.advance(1000)
    assert world.change(lambda edit: sweep.step(edit, sweep.Retention(entries=1, seconds=0))).log_entries == 1
    assert world.change(lambda edit: sweep.step(edit, sweep.Retention(entries=0, seconds=0))).log_entries == 1
    assert world.put(b"new").log_seq == 7


@given(st.binary(max_size=40))
def test_garbage_in_a_record_is_corrupt(data: bytes) -> None:
    for codec in (records.VERSION, records.EXTENT, records.CHUNK, records.LOG, records.OUTCOME):
        with pytest.raises((Corrupt, NewerFormat)):
            codec.decode(data, b"key")


def test_a_newer_record_is_told_from_garbage() -> None:
    with pytest.raises(NewerFormat, match="version 2"):
        records.NUMBER.decode(b"\x02anything", b"key")
    good = records.NUMBER.encode(records.NumberRow(7))
    assert records.NUMBER.decode(good, b"key").value == 7
    for bad in (b"", b"\x00" + good[1:], good[:-1], good + b"x"):
        with pytest.raises(Corrupt):
            records.NUMBER.decode(bad, b"key")


def test_the_row_of_a_small_object_is_small() -> None:
    row = VersionRow(bytes(16), 10**6, 10**15, 4096, 1 << 31, "rs-4-2", slices=(SliceRow(bytes(16), 1 << 20, 4096),))
    assert len(records.VERSION.encode(row)) < 100


@given(st.binary(min_size=1, max_size=20), st.binary(min_size=1, max_size=20), st.integers(0, 2**64 - 1))
def test_version_keys_keep_the_order_and_come_apart_again(one: bytes, two: bytes, seq: int) -> None:
    row = keys.version(3, one, seq)
    assert keys.split_version(row) == (one, seq)
    if one < two:
        assert row < keys.version(3, two, 2**64 - 1)
    assert row.startswith(keys.versions(3) + keys.escape(one[: len(one) // 2]))
