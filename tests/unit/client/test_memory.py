"""Bytes that are filled in place."""

from __future__ import annotations

import pytest

from reedbed.client.memory import HUGE_FROM, bytes_to_fill


@pytest.mark.parametrize("size", [0, 1, 2, 4096, 100_003, HUGE_FROM + 12_345])
def test_what_is_written_into_the_view_is_in_the_bytes(size: int) -> None:
    data, view = bytes_to_fill(size)
    other, _ = bytes_to_fill(size)
    assert (type(data), len(data), len(view), view.format, view.readonly) == (bytes, size, size, "B", False)
    pattern = (bytes(range(1, 252)) * (size // 251 + 1))[:size]
    view[:] = pattern
    assert data == pattern
    assert hash(data) == hash(pattern)
    if size:
        assert other is not data
        del view
        assert data == pattern


def test_bytes_of_length_one_are_not_those_that_python_shares() -> None:
    data, view = bytes_to_fill(1)
    view[0] = 65
    again, other = bytes_to_fill(1)
    other[0] = 66
    assert (data, again, b"A", b"B") == (bytes([65]), bytes([66]), bytes([65]), bytes([66]))
