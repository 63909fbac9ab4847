"""Block tables: to bytes and back, over parts, and every altered byte is found."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.common.checksums import block_sum, crc32c
from reedbed.common.errors import Corrupt
from reedbed.common.ids import Id
from reedbed.extents.blocks import BlockRows, RowsCheck, build_table, content_sum, pack_table, unpack_table, verify_rows

EXTENT = Id(bytes(range(16)))
borders_of = st.lists(st.integers(1, 50), min_size=1, max_size=8)


@given(st.lists(st.tuples(st.integers(1, 65_536), st.integers(0, 2**32 - 1)), max_size=20))
def test_tables_come_back(rows):
    assert unpack_table(pack_table(rows)) == tuple(rows)


def test_a_table_to_the_byte():
    assert pack_table([(65_536, 0x01020304)]) == bytes([0, 0, 1, 0, 4, 3, 2, 1])


@pytest.mark.parametrize("table", [b"1234567", pack_table([(0, 1)]), pack_table([(65_537, 1)]), b"\xff" * 8])
def test_bad_tables(table):
    with pytest.raises(Corrupt):
        unpack_table(table)


@given(borders_of, st.data())
@settings(max_examples=100)
def test_parts_do_not_matter(borders, data):
    content = data.draw(st.binary(min_size=sum(borders), max_size=sum(borders)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=5)))
    parts = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    table = build_table(EXTENT, 3, parts, borders)
    assert table == build_table(EXTENT, 3, [content], borders)
    expected, at = [], 0
    for block, length in enumerate(borders):
        expected.append((length, block_sum(EXTENT, 3, block, content[at : at + length])))
        at += length
    assert unpack_table(table) == tuple(expected)


@given(borders_of, st.data())
@settings(max_examples=100)
def test_the_first_bad_block_is_found(borders, data):
    content = bytearray(data.draw(st.binary(min_size=sum(borders), max_size=sum(borders))))
    rows = BlockRows(3, 0, 0, unpack_table(build_table(EXTENT, 3, [bytes(content)], borders)))
    assert rows.end == len(content)
    assert verify_rows(EXTENT, rows, content) is None
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    block = next(i for i in range(len(borders)) if place < sum(borders[: i + 1]))
    assert verify_rows(EXTENT, rows, content) == block


def test_right_bytes_in_the_wrong_place_do_not_pass():
    rows = unpack_table(build_table(EXTENT, 3, [b"abcabc"], [3, 3]))
    assert verify_rows(EXTENT, BlockRows(3, 0, 0, rows), b"abcabc") is None
    assert verify_rows(EXTENT, BlockRows(2, 0, 0, rows), b"abcabc") == 0
    assert verify_rows(EXTENT, BlockRows(3, 1, 0, rows), b"abcabc") == 1
    assert verify_rows(EXTENT, BlockRows(3, 0, 0, rows), b"abcabcd") == 2
    assert verify_rows(EXTENT, BlockRows(3, 0, 0, rows), b"abcab") == 1


@given(st.lists(st.sampled_from([1, 77, 65_535, 65_536]), min_size=1, max_size=5), st.integers(0, 1 << 31))
@settings(max_examples=40)
def test_the_contents_sum_is_that_of_its_bytes(borders, value):
    content = bytes(i * 7 & 255 for i in range(251)) * (sum(borders) // 251 + 1)
    content = content[: sum(borders)]
    rows = BlockRows(2, 5, 0, tuple((n, 0) for n in borders))
    at, made = 0, []
    for block, length in enumerate(borders, 5):
        made.append((length, block_sum(EXTENT, 2, block, content[at : at + length])))
        at += length
    rows = BlockRows(2, 5, 0, tuple(made))
    assert content_sum(EXTENT, rows, content, value) == crc32c(content, value)


def test_rows_that_reach_past_the_bytes():
    rows = BlockRows(0, 0, 0, unpack_table(build_table(EXTENT, 0, [bytes(100)], [60, 40])))
    assert verify_rows(EXTENT, rows, bytes(99)) == 1
    assert verify_rows(EXTENT, rows, bytes(101)) == 2


@given(borders_of, st.data())
@settings(max_examples=100)
def test_step_by_step_the_first_bad_block_is_found_too(borders, data):
    content = bytearray(data.draw(st.binary(min_size=sum(borders), max_size=sum(borders))))
    rows = BlockRows(3, 0, 100, unpack_table(build_table(EXTENT, 3, [bytes(content)], borders)))
    before = data.draw(st.integers(0, 100))
    bad = data.draw(st.one_of(st.none(), st.integers(0, len(content) - 1)))
    if bad is not None:
        content[bad] ^= 1
    check = RowsCheck(EXTENT, rows, bytes(before) + content, 100 - before)
    good, seen = True, 0
    for end in sorted({*data.draw(st.lists(st.integers(90, 100 + len(content)))), 100 + len(content)}):
        good = good and check.upto(end)
        whole = max([sum(borders[:n]) for n in range(len(borders) + 1) if 100 + sum(borders[:n]) <= end], default=0)
        seen = max(seen, whole)
        assert good == (bad is None or bad >= seen)
    assert (good and check.done()) == (bad is None)


def test_rows_without_their_bytes_are_not_done():
    rows = BlockRows(0, 0, 0, unpack_table(build_table(EXTENT, 0, [bytes(100)], [60, 40])))
    assert not RowsCheck(EXTENT, rows, bytes(99), 0).upto(100)
    assert not RowsCheck(EXTENT, rows, bytes(100), 1).upto(100)
    check = RowsCheck(EXTENT, rows, bytes(100), 0)
    assert check.upto(99)
    assert not check.done()
