"""Packed pages of a listing tell what plain ones tell, however late they are asked."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reedbed.catalog import buckets, listing
from reedbed.catalog.records import VersionRow
from reedbed.client.catalog import page_of
from reedbed.common.checksums import format_checksum
from reedbed.common.errors import Corrupt
from reedbed.common.ids import format_id
from reedbed.common.limits import KEY_MAX
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos import listed
from reedbed.protos.convert import info_from_message
from reedbed.protos.listed import ListedRow
from reedbed.protos.types import CommonPrefix, ObjectInfo, from_us

World = Any

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
rows = st.builds(
    ListedRow,
    version=st.binary(min_size=16, max_size=16),
    seq=st.integers(0, 2**63),
    modified_us=st.integers(0, 2**51),
    size=st.integers(0, 2**50),
    checksum=st.integers(0, 2**32 - 1),
    profile=st.sampled_from(["rs-4-2", "rs-10-4"]),
    content_type=texts,
    metadata=st.dictionaries(texts, texts, max_size=3),
)


def told_at_once(key: str, row: ListedRow) -> ObjectInfo:
    return ObjectInfo(
        "data",
        key,
        row.size,
        format_id(row.version),
        format_checksum(row.checksum),
        row.content_type or None,
        row.metadata,
        from_us(row.modified_us),
        row.profile,
    )


@given(page=st.lists(st.tuples(texts, st.none() | rows), max_size=5), more=st.lists(st.integers(0, 9), max_size=2))
def test_what_is_told_later_is_what_would_be_told_at_once(
    page: list[tuple[str, ListedRow | None]], more: list[int]
) -> None:
    raws = [None if row is None else msgspec.msgpack.encode([*msgspec.structs.astuple(row), *more]) for _, row in page]
    packed = listed.pack([key.encode() for key, _ in page], raws)
    want = [CommonPrefix("data", key) if row is None else told_at_once(key, row) for key, row in page]
    assert listed.unpack("data", packed) == want
    assert want == listed.unpack("data", packed)
    for made, entry in zip(listed.unpack("data", packed), want, strict=True):
        assert type(made) is type(entry)
        assert pickle.loads(pickle.dumps(made)) == entry  # noqa: S301
        assert copy.deepcopy(made) == entry
    for made, entry in zip(listed.unpack("data", packed), want, strict=True):
        assert repr(made) == repr(entry)
        assert getattr(made, "etag", "") == getattr(entry, "etag", "")
        assert not hasattr(made, "another")
        with pytest.raises(AttributeError):
            made.bucket = "x"  # type: ignore[misc]


@given(row=rows, key=texts, latest=st.booleans(), marker=st.booleans(), profiles=st.lists(texts, max_size=2))
def test_what_a_message_tells_later_is_what_it_tells_at_once(
    row: ListedRow, key: str, latest: bool, marker: bool, profiles: list[str]
) -> None:
    message = pb.ObjectInfo(
        bucket="data",
        key=key.encode(),
        version=row.version,
        size=row.size,
        checksum=row.checksum,
        content_type=row.content_type,
        metadata=row.metadata,
        modified_us=row.modified_us,
        profile=row.profile,
        latest=latest,
        delete_marker=marker,
        actual_profiles=profiles,
    )
    want = dataclasses.replace(
        told_at_once(key, row), latest=latest, delete_marker=marker, actual_profiles=tuple(profiles)
    )
    assert info_from_message(message) == want
    assert pickle.loads(pickle.dumps(info_from_message(message))) == want  # noqa: S301
    assert {field.name for field in dataclasses.fields(want)} == set(ObjectInfo.__slots__)


def test_what_is_no_page_is_refused_and_so_is_a_row_that_is_none_when_it_is_looked_at() -> None:
    for page in (b"", b"\xc1", msgspec.msgpack.encode(([b"a"], [])), msgspec.msgpack.encode(([b"a"], [1]))):
        with pytest.raises(Corrupt):
            listed.unpack("data", page)
    good = msgspec.msgpack.encode(ListedRow(bytes(16), 1, 2, 3, 4, "rs-4-2"))
    for raw in (
        b"",
        good[:-1],
        good.replace(bytes(16), bytes(15)),
        msgspec.msgpack.encode([bytes(15), 1, 2, 3, 4, ""]),
    ):
        (entry,) = listed.unpack("data", listed.pack([b"a"], [raw]))
        with pytest.raises(Corrupt):
            _ = entry.size  # type: ignore[union-attr]


def test_a_stored_version_begins_as_a_listed_row_does() -> None:
    fields = ListedRow.__struct_fields__
    assert VersionRow.__struct_fields__[: len(fields)] == fields


def pages(world: World, bucket: str, packed: bool, limit: int, **asked: bytes) -> list[list[ObjectInfo | CommonPrefix]]:
    found = []
    token = b""
    while True:
        reply = world.look(
            lambda reader, token=token: listing.page(
                reader, buckets.get(reader, bucket), limit=limit, token=token, packed=packed, **asked
            )
        )
        assert bool(reply.packed) == packed
        assert not (reply.rows and packed)
        rows, token = page_of(bucket, pb.ListReply.FromString(reply.SerializeToString()))
        found.append(rows)
        if not token:
            return found


@pytest.mark.parametrize("bucket", ["data", "kept"])
def test_a_packed_listing_has_the_pages_of_a_plain_one(world: World, bucket: str) -> None:
    for number in range(7):
        world.put(b"a/%d" % number, 10 + number, bucket, metadata={"n": str(number)}, content_type="text/plain")
    world.put(b"b", 10, bucket, metadata={"long": "x" * 3000})
    extent = world.extent(100, 0)
    slices = [pb.Slice(extent=extent.id, offset=at, length=1) for at in range(64)]
    assert not world.one(world.put_op(b"many", slices, bucket), extent).error.code
    world.put(b"many/more", 1, bucket)
    world.put(b"gone", 1, bucket)
    world.one(world.delete_op(b"gone", bucket))
    for asked in ({}, {"delimiter": b"/"}, {"prefix": b"a/"}, {"start_after": b"a/3"}, {"prefix": b"none"}):
        for limit in (1, 3, 1000):
            plain = pages(world, bucket, False, limit, **asked)
            assert pages(world, bucket, True, limit, **asked) == plain
    assert [entry.key for page in pages(world, bucket, True, 3) for entry in page] == [
        *(f"a/{number}" for number in range(7)),
        "b",
        "many",
        "many/more",
    ]


def test_a_packed_page_tells_no_slices_of_an_object_that_has_many(world: World) -> None:
    extent = world.extent(100, 0)
    slices = [pb.Slice(extent=extent.id, offset=at, length=1) for at in range(64)]
    world.one(world.put_op(b"k", slices), extent)
    reply = world.look(lambda reader: listing.page(reader, buckets.get(reader, "data"), limit=9, packed=True))
    assert len(reply.packed) < 200


def test_a_packed_page_fits_an_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        world.put(b"%04d" % number + b"k" * (KEY_MAX - 4), 1, metadata={"m": "x" * 8000})
    monkeypatch.setattr(listing, "_PAGE_BYTES", 40_000)
    assert [len(page) for page in pages(world, "data", True, 1000)] == [5, 5, 2]
