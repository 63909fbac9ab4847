"""Long keys against a plain sorted model, over rows that refuse keys LMDB would refuse."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog.longkeys import HEAD_BYTES, NODE_TABLE, LongKeys
from reedbed.common.errors import Corrupt


class DictRows:
    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        assert len(key) <= 511
        return self.rows.get(key)

    def put(self, key: bytes, stored: bytes) -> None:
        assert 0 < len(key) <= 511
        self.rows[key] = stored

    def delete(self, key: bytes) -> bool:
        return self.rows.pop(key, None) is not None

    def scan(self, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        keys = sorted(self.rows)
        found = keys[bisect_left(keys, start) : bisect_left(keys, end)]
        yield from [(key, self.rows[key]) for key in (reversed(found) if reverse else found)]


# Few letters and lengths around the borders of heads, so that prefixes are shared and borders are hit
LETTERS = [b"\0", b"\1", b"a", b"\xff"]
LENGTHS = [0, 1, 2, *(n * HEAD_BYTES + d for n in (1, 2, 3) for d in (-1, 0, 1, 2)), 1500 - 2]
keys = st.builds(
    lambda letter, length, tail: (letter * length + tail) or b"k",
    st.sampled_from(LETTERS),
    st.sampled_from(LENGTHS),
    st.lists(st.sampled_from(LETTERS), max_size=3).map(b"".join),
)
bounds = st.one_of(keys, st.just(b""))


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.tuples(st.booleans(), keys), max_size=30),
    ranges=st.lists(st.tuples(bounds, st.one_of(st.none(), bounds)), min_size=1, max_size=8),
)
def test_behaves_like_one_sorted_dict(
    steps: list[tuple[bool, bytes]], ranges: list[tuple[bytes, bytes | None]]
) -> None:
    rows = DictRows()
    long = LongKeys(rows)
    model: dict[bytes, bytes] = {}
    for number, (removes, key) in enumerate(steps):
        if removes:
            assert long.delete(key) == (model.pop(key, None) is not None)
        else:
            model[key] = b"%d" % number
            long.put(key, model[key])
        assert long.get(key) == model.get(key)
    # Every written key is also a bound, so that borders lie exactly on keys
    ranges = ranges + [(key, None) for key in model] + [(b"", key) for key in model]
    for start, end in ranges:
        expected = [(k, v) for k, v in sorted(model.items()) if k >= start and (end is None or k < end)]
        assert list(long.scan(start, end, False)) == expected
        assert list(long.scan(start, end, True)) == expected[::-1]
    for key in model:
        assert long.get(key) == model[key]
        assert long.delete(key)
    assert rows.rows == {}, "nodes are left without keys"


def test_short_keys_cost_one_row_and_no_node() -> None:
    rows = DictRows()
    LongKeys(rows).put(b"k" * HEAD_BYTES, b"v")
    assert len(rows.rows) == 1


def test_a_marker_that_leads_elsewhere_is_found() -> None:
    rows = DictRows()
    long = LongKeys(rows)
    long.put(b"a" * 600, b"1")
    long.put(b"b" * 600, b"2")
    one, two = (row for row in rows.rows if not row.startswith(NODE_TABLE))
    rows.rows[one], rows.rows[two] = rows.rows[two], rows.rows[one]
    with pytest.raises(Corrupt):
        long.get(b"a" * 600)
    with pytest.raises(Corrupt):
        list(long.scan(b"", None, False))
