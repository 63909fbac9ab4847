"""Redo records as rows: they come back exactly, and a lost or altered row is found."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog import redo
from reedbed.catalog.engine import RedoRecord
from reedbed.catalog.sealed import seal
from reedbed.common.errors import Corrupt

changes = st.dictionaries(
    st.binary(min_size=1, max_size=20),
    st.one_of(st.none(), st.binary(max_size=40), st.integers(1, 20_000).map(os.urandom)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(history=st.lists(changes, max_size=4), after=st.integers(0, 1 << 40))
def test_records_come_back(history: list[dict[bytes, bytes | None]], after: int) -> None:
    rows = [row for number, one in enumerate(history, after + 1) for row in redo.encode(number, one)]
    assert [key for key, _ in rows] == sorted({key for key, _ in rows})
    expected = [RedoRecord(number, list(one.items())) for number, one in enumerate(history, after + 1)]
    assert list(redo.decode(rows, after)) == expected


def test_rows_fit_twice_into_a_page_and_repetition_costs_little() -> None:
    rows = list(redo.encode(1, {b"k": os.urandom(50_000)}))
    assert all(len(key) + len(stored) + 8 <= 2038 for key, stored in rows)
    assert len(list(redo.encode(1, {b"some/path/%d" % n: bytes(100) for n in range(200)}))) == 1


def test_every_lost_or_swapped_row_is_found() -> None:
    rows = [*redo.encode(1, {b"a": os.urandom(9000)}), *redo.encode(2, {b"b": b"1"}), *redo.encode(3, {b"c": b"1"})]
    for index in range(len(rows) - 1):
        with pytest.raises(Corrupt):
            list(redo.decode(rows[:index] + rows[index + 1 :], 0))
    with pytest.raises(Corrupt):
        list(redo.decode(rows[:2], 0))
    (first, one), (second, two) = rows[0], rows[1]
    with pytest.raises(Corrupt):
        list(redo.decode([(first, two), (second, one), *rows[2:]], 0))


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\0\x91\xc4\x01k", b"\0\x92\xc0\xc0", b"\1garbage", b"\2", b"\0\x81\x01\x02"]
)
def test_records_that_are_none_are_named(data: bytes) -> None:
    key = redo.row_key(1)
    with pytest.raises(Corrupt, match="redo record 1 is damaged"):
        list(redo.decode([(key, seal(key, b"\1" + data))], 0))
