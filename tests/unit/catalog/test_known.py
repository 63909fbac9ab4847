"""Lookups by whoever knows an earlier answer: told that nothing changed, exactly while that is so."""

from __future__ import annotations

from typing import Any

import msgspec

from reedbed.catalog import buckets, extents, keys, lookup, records, versions
from reedbed.catalog.edit import Edit
from reedbed.common.ids import Id
from reedbed.protos import catalog_pb2 as pb

World = Any


def ask(world: World, known: bytes, key: bytes = b"k", bucket: str = "data", **more: Any) -> pb.Found:
    slices = more.pop("slices", True)
    target = pb.Target(bucket=bucket, key=key, known=known, **more)
    request = pb.LookupRequest(targets=[target], slices=slices)
    found: pb.Found = world.look(lambda reader: lookup.lookup(reader, request)).found[0]
    return found


def changed(found: pb.Found) -> bool:
    """Whether the answer is a whole one; else it must be nothing but that nothing changed."""
    if found.unchanged:
        assert found == pb.Found(unchanged=True)
    else:
        assert found.HasField("info")
        assert found.token
    return not found.unchanged


def test_who_knows_an_answer_is_told_that_it_is_unchanged_and_nothing_else(world: World) -> None:
    world.put(b"k")
    token = world.find(b"k").token
    assert not changed(ask(world, token))
    assert changed(ask(world, b""))
    assert changed(ask(world, token[:-1] + bytes([token[-1] ^ 1])))
    assert changed(ask(world, token[:16]))
    world.put(b"other")
    assert changed(ask(world, token, b"other"))
    assert not changed(ask(world, token))


def test_what_an_overwrite_or_a_delete_changes_is_told(world: World) -> None:
    world.put(b"k")
    token = world.find(b"k").token
    world.put(b"k", 10)
    assert changed(ask(world, token))
    world.one(world.delete_op(b"k"))
    assert ask(world, token).error.code == "NotFound"


def test_slices_that_were_swapped_are_told_though_the_version_is_the_same(world: World) -> None:
    world.put(b"k")
    world.put(b"from")
    token = world.find(b"k").token
    other = world.find(b"from").slices[0]

    def swap(edit: Edit) -> None:
        bucket = buckets.get(edit.writer, "data")
        row = versions.require(edit.writer, bucket, b"k", None)
        swapped = records.SliceRow(other.extent, other.offset, other.length)
        new = msgspec.structs.replace(row, slices=(swapped,))
        edit.writer.put(keys.objects(bucket.number) + b"k", records.VERSION.encode(new))

    world.change(swap)
    assert changed(ask(world, token))
    assert ask(world, token).info.version == token[:16]


def test_shards_that_are_rebuilt_are_told(world: World) -> None:
    lost = world.extent(10, 10)
    world.one(world.put_op(b"k", [pb.Slice(extent=lost.id, offset=0, length=20)]), lost)
    assert world.change(lambda edit: extents.set_present(edit, Id(lost.id), 0b110))
    token = world.find(b"k").token
    assert not changed(ask(world, token))
    assert world.change(lambda edit: extents.set_present(edit, Id(lost.id), 0b111))
    found = ask(world, token)
    assert changed(found)
    assert found.extents[0].present == 0b111


def test_a_version_that_is_no_longer_the_visible_one_is_told(world: World) -> None:
    world.put(b"k", bucket="kept")
    token = world.find(b"k", "kept").token
    version = token[:16]
    assert not changed(ask(world, token, bucket="kept", version=version))
    world.put(b"k", bucket="kept")
    assert changed(ask(world, token, bucket="kept", version=version))


def test_no_token_where_it_does_not_say_all(world: World) -> None:
    extent = world.extent(300, 0)
    pieces = [pb.Slice(extent=extent.id, offset=at, length=1) for at in range(300)]
    world.one(world.put_op(b"k", pieces), extent)
    found = world.find(b"k")
    assert found.more
    assert not found.token
    assert not ask(world, found.token).unchanged
    world.put(b"k")
    token = world.find(b"k").token
    told = ask(world, token, slices=False)
    assert told.HasField("info")
    assert not told.token
