"""Pieces of the catalog's copy: what they hold comes back, and nothing else passes for one."""

from __future__ import annotations

import dataclasses
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reedbed.catalog import pieces
from reedbed.catalog.engine import RedoRecord
from reedbed.catalog.pieces import BODY_MAX, END, HEAD_BYTES, REDO, ROWS, Contents, Head, Packed
from reedbed.common.checksums import crc32c
from reedbed.common.errors import Corrupt, NewerFormat
from reedbed.common.limits import SHARD_DEFAULT

HEAD = Head(REDO, b"c" * 16, b"s" * 16, term=7, number=3, part=0, parts=1, first=10, last=12, time_us=5)
RUN = [RedoRecord(10, [(b"a", b"1"), (b"b", None)]), RedoRecord(11, []), RedoRecord(12, [(b"c", b"")])]

changes = st.lists(st.tuples(st.binary(min_size=1, max_size=5), st.none() | st.binary(max_size=5)), max_size=4)


def made(head: Head = HEAD, run: list[RedoRecord] = RUN) -> bytes:
    packed = pieces.pack_run(run)
    return pieces.piece(head, packed.body, packed.raw)[1]


@given(st.lists(changes, max_size=5), st.integers(0, 1 << 40))
def test_runs_come_back(found: list[list[tuple[bytes, bytes | None]]], first: int) -> None:
    run = [RedoRecord(first + at, list(one)) for at, one in enumerate(found)]
    packed = pieces.pack_run(run)
    assert list(pieces.unpack_run(packed.body, packed.raw, "x")) == run


@given(st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=5)), max_size=5))
def test_rows_come_back(rows: list[tuple[bytes, bytes]]) -> None:
    packed = pieces.pack_rows(rows)
    assert pieces.unpack_rows(packed.body, packed.raw, "x") == rows


def test_a_piece_tells_what_it_is_and_fits_an_extent_of_any_profile() -> None:
    raw = made()
    head = pieces.decode_head(raw, "x")
    assert (head.kind, head.number, head.first, head.last, head.term) == (REDO, 3, 10, 12, 7)
    pieces.check_body(head, raw[HEAD_BYTES:], "x")
    assert list(pieces.unpack_run(raw[HEAD_BYTES:], head.raw, "x")) == RUN
    assert BODY_MAX + HEAD_BYTES <= SHARD_DEFAULT  # one data shard
    assert pieces.cut(b"x" * (2 * BODY_MAX + 1)) == [b"x" * BODY_MAX, b"x" * BODY_MAX, b"x"]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Head)])
def test_a_link_vouches_for_every_field_of_a_head(field: str) -> None:
    value = getattr(HEAD, field)
    other = bytes(len(value) - 1) + b"\1" if isinstance(value, bytes) else value + 1
    assert dataclasses.replace(HEAD, **{field: other}).link != HEAD.link


def test_no_altered_byte_passes() -> None:
    raw = made()
    for at in range(len(raw)):
        altered = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(Corrupt):
            pieces.check_body(pieces.decode_head(altered, "x"), altered[HEAD_BYTES:], "x")
    for length in range(len(raw)):
        with pytest.raises(Corrupt):
            pieces.check_body(pieces.decode_head(raw[:length], "x"), raw[HEAD_BYTES:length], "x")


def resummed(raw: bytes, at: int, value: bytes) -> bytes:
    body = raw[:at] + value + raw[at + len(value) : HEAD_BYTES - 4]
    return body + crc32c(body).to_bytes(4, "big") + raw[HEAD_BYTES:]


def test_what_no_head_can_say_is_refused_and_a_newer_one_by_name() -> None:
    raw = made()
    with pytest.raises(NewerFormat):
        pieces.decode_head(resummed(raw, 4, b"\2"), "x")
    for at, value in ((5, b"\0"), (5, b"\4"), (120, b"\xff" * 8), (128, b"\xff" * 8)):
        with pytest.raises(Corrupt):
            pieces.decode_head(resummed(raw, at, value), "x")


def test_a_body_is_unpacked_no_further_than_it_says() -> None:
    bomb = zlib.compress(bytes(50_000_000))
    for raw in (0, 1, 49_999_999, 50_000_001):
        with pytest.raises(Corrupt):
            pieces.unpack_rows(bomb, raw, "x")
    packed = pieces.pack_rows([(b"a", b"b")])
    for body, size in ((packed.body[:-1], packed.raw), (b"garbage", 7), (packed.body, packed.raw - 1)):
        with pytest.raises(Corrupt):
            pieces.unpack_rows(body, size, "x")


def packed(value: object) -> Packed:
    data = msgspec.msgpack.encode(value)
    return Packed(zlib.compress(data), len(data))


@pytest.mark.parametrize("value", [[[b"no number"]], [[1, b"a"]], [[1, 2, b"v"]], [[]], {}, 5, [[None, b"a", b"b"]]])
def test_what_is_no_run_is_refused(value: object) -> None:
    body, raw = packed(value)
    with pytest.raises(Corrupt):
        list(pieces.unpack_run(body, raw, "x"))


def test_what_is_no_page_or_end_is_refused() -> None:
    for value in ([b"a"], [1, 2], {}):
        with pytest.raises(Corrupt):
            pieces.unpack_rows(*packed(value), "x")
    contents = Contents((b"e" * 16,), b"l" * 32, 4, 5)
    assert pieces.unpack_contents(*pieces.pack_contents(contents), "x") == contents
    for value in ({"pieces": [b"short"], "link": b"", "rows": 1, "size": 1}, [], {"pieces": []}):
        with pytest.raises(Corrupt):
            pieces.unpack_contents(*packed(value), "x")
    assert len({REDO, ROWS, END}) == 3
