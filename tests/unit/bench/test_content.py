"""Contents: told apart byte by byte, whatever kind of buffer they come back in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reedbed.bench.content import Content, shuffled


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_one_wrong_byte_is_seen(kind: type) -> None:
    content = Content(4096)
    good = bytearray(content.body(3))
    bad = bytearray(good)
    bad[4095] ^= 1
    assert content.matches(3, kind(good))
    assert not content.matches(3, kind(bad))
    assert not content.matches(3, kind(good[:-1]))
    assert not content.matches(4, kind(good))
    assert content.matches(3 + content.count, kind(good))


@given(st.one_of(st.integers(1, 500), st.sampled_from([1_000_003, 2_000_006])), st.data())
def test_reads_go_to_every_object(count: int, data: st.DataObject) -> None:
    if count <= 500:
        assert sorted(shuffled(number, count) for number in range(count)) == list(range(count))
    else:
        first, second = data.draw(st.lists(st.integers(0, count - 1), min_size=2, max_size=2, unique=True))
        assert shuffled(first, count) != shuffled(second, count)
