"""Listings against a plain model: prefixes, delimiters, start_after, pages, and others writing meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog import buckets, listing
from reedbed.catalog.memory import MemoryEngine
from reedbed.common.errors import InvalidArgument
from reedbed.protos import catalog_pb2 as pb

World = Any

LONG = b"long/" * 200
PARTS = st.sampled_from([b"a", b"b", b"/", b"//", b"\x00", b"\x01", "\uffff".encode(), "\U0010ffff".encode(), b"ab"])
SHORT = st.lists(PARTS, min_size=1, max_size=5).map(b"".join)
KEYS = st.one_of(SHORT, SHORT.map(lambda tail: LONG + tail))
PREFIXES = st.one_of(st.just(b""), SHORT, KEYS, st.sampled_from([LONG[:600], b"\xef", b"\xf4\x8f"]))
DELIMITERS = st.sampled_from([b"", b"/", b"\x00", b"ab", b"//", b"\xbf"])


def fill(world: World, names: list[bytes], bucket: str = "data") -> None:
    done = world.commit(*(world.put_op(name, [], bucket) for name in names))
    assert not any(outcome.error.code for outcome in done)


def model(names: set[bytes], prefix: bytes, delimiter: bytes, start_after: bytes) -> list[bytes]:
    rows = []
    for name in sorted(names):
        if not name.startswith(prefix):
            continue
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        row = name if cut < 0 else name[: cut + len(delimiter)]
        told = row if cut < 0 else row + b" (prefix)"
        if row > start_after and told not in rows:
            rows.append(told)
    return rows


def shown(rows: list[pb.ListRow]) -> list[bytes]:
    return [row.prefix + b" (prefix)" if row.prefix else row.info.key for row in rows]


@settings(max_examples=120, deadline=None)
@given(st.sets(KEYS, max_size=25), PREFIXES, DELIMITERS, st.one_of(st.just(b""), KEYS), st.integers(1, 7))
def test_pages_give_what_the_model_gives(
    make_world: type[World], names: set[bytes], prefix: bytes, delimiter: bytes, start_after: bytes, limit: int
) -> None:
    world = make_world(MemoryEngine())
    world.bucket("before")
    world.bucket()
    world.bucket("after")
    fill(world, sorted(names))
    for other in ("before", "after"):
        fill(world, [b"a", b"\xf4\x8f\xbf\xbf"], other)
    rows = world.list(limit=limit, prefix=prefix, delimiter=delimiter, start_after=start_after)
    assert shown(rows) == model(names, prefix, delimiter, start_after)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KEYS, st.booleans()), max_size=25), PREFIXES, st.integers(1, 5))
def test_versions_are_listed_by_key_and_newest_first(
    make_world: type[World], steps: list[tuple[bytes, bool]], prefix: bytes, limit: int
) -> None:
    world = make_world(MemoryEngine())
    world.bucket(versioned=True)
    history: dict[bytes, list[tuple[bytes, bool]]] = {}
    for name, is_put in steps:
        outcome = world.one(world.put_op(name, []) if is_put else world.delete_op(name))
        history.setdefault(name, []).insert(0, (outcome.info.version, not is_put))
    expected = [
        (name, version, marker, index == 0)
        for name in sorted(history)
        if name.startswith(prefix)
        for index, (version, marker) in enumerate(history[name])
    ]
    rows = [row.info for row in world.list_versions(limit=limit, prefix=prefix)]
    assert [(info.key, info.version, info.delete_marker, info.latest) for info in rows] == expected
    visible = [name for name in sorted(history) if not history[name][0][1]]
    assert shown(world.list(limit=limit)) == visible
    assert world.problems() == []


class Counting:
    """A reader that counts the rows it gives."""

    def __init__(self, reader: Any) -> None:
        self.reader, self.rows = reader, 0

    def get(self, key: bytes) -> Any:
        return self.reader.get(key)

    def scan(self, *args: Any, **more: Any) -> Any:
        for row in self.reader.scan(*args, **more):
            self.rows += 1
            yield row


def test_common_prefixes_are_skipped_not_scanned(world: World) -> None:
    fill(world, [b"%c/%03d" % (letter, number) for letter in b"abc" for number in range(300)])

    def page(reader: Any) -> tuple[pb.ListReply, int]:
        counting = Counting(reader)
        bucket = buckets.get(counting, "data")
        return listing.page(counting, bucket, limit=10, delimiter=b"/"), counting.rows

    reply, rows = world.look(page)
    assert shown(reply.rows) == [b"a/ (prefix)", b"b/ (prefix)", b"c/ (prefix)"]
    assert rows <= 4


@pytest.mark.parametrize("versions", [False, True])
def test_pages_stay_right_while_others_write(world: World, versions: bool) -> None:
    bucket = "kept" if versions else "data"
    fill(world, [b"k%d" % number for number in range(0, 10, 2)], bucket)
    seen: list[bytes] = []
    token = b""
    while True:

        def page(reader: Any, token: bytes = token) -> pb.ListReply:
            there = buckets.get(reader, bucket)
            if versions:
                return listing.page_of_versions(reader, there, limit=1, token=token)
            return listing.page(reader, there, limit=1, token=token)

        reply = world.look(page)
        seen.extend(row.info.key for row in reply.rows)
        token = reply.token
        if not token:
            break
        # What was listed changes or goes, something new comes after it: nothing else is missed or doubled
        world.put(seen[-1], 3, bucket)
        version = world.find(seen[-1], bucket).info.version
        world.one(world.delete_op(seen[-1], bucket, version))
        if b"+" not in seen[-1]:
            world.put(seen[-1] + b"+", 3, bucket)
    # The list had ended with k8 before k8+ came
    assert seen == [b"k%d%s" % (number, more) for number in range(0, 10, 2) for more in (b"", b"+")][:-1]
    assert world.problems() == []


def test_a_page_ends_early_where_rows_are_long(world: World) -> None:
    names = [b"k%04d" % number for number in range(400)]
    for part in (names[:200], names[200:]):
        world.commit(*(world.put_op(name, [], metadata={"m": "x" * 8000}) for name in part))
    first = world.look(lambda reader: listing.page(reader, buckets.get(reader, "data"), limit=1000))
    assert first.ByteSize() < 3 << 20
    assert first.token
    assert shown(world.list()) == names


@pytest.mark.parametrize("token", [b"x", b"\x01\x00", b"\x02\x00abcd", b"\x01\x02abcdk", b"\x01\x00" + bytes(2000)])
def test_garbage_for_a_token_is_refused(world: World, token: bytes) -> None:
    for name in ("data", "kept"):
        bucket = world.look(lambda reader, name=name: buckets.get(reader, name))
        for page in (listing.page, listing.page_of_versions):
            with pytest.raises(InvalidArgument, match="token"):
                world.look(lambda reader, page=page, to=bucket: page(reader, to, limit=1, token=token))


def test_a_token_of_another_listing_is_refused(world: World) -> None:
    fill(world, [b"a/1", b"a/2"])
    bucket = world.look(lambda reader: buckets.get(reader, "data"))
    token = world.look(lambda reader: listing.page(reader, bucket, limit=1, prefix=b"a")).token
    for asked in ({"prefix": b""}, {"prefix": b"a", "delimiter": b"/"}):
        with pytest.raises(InvalidArgument, match="token"):
            world.look(lambda reader, asked=asked: listing.page(reader, bucket, limit=1, token=token, **asked))
    with pytest.raises(InvalidArgument, match="longer"):
        world.look(lambda reader: listing.page(reader, bucket, limit=1, prefix=b"a" * 1025))


def test_start_after_is_exclusive_and_about_rows(world: World) -> None:
    fill(world, [b"a", b"a\x00", b"b/1", b"b/2", b"c"])
    assert shown(world.list(start_after=b"a")) == [b"a\x00", b"b/1", b"b/2", b"c"]
    assert shown(world.list(start_after=b"b/1", delimiter=b"/")) == [b"c"]
    assert shown(world.list(start_after=b"b/", delimiter=b"/")) == [b"c"]
    assert shown(world.list(start_after=b"b", delimiter=b"/")) == [b"b/ (prefix)", b"c"]
    assert shown(world.list(start_after=b"a", prefix=b"b")) == [b"b/1", b"b/2"]
