"""CRC32C of parts and of what is put together from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reedbed.common import checksums
from reedbed.common.checksums import Sums, block_sum, crc32c, joined_block, joined_sum, place_sum, place_sums
from reedbed.common.ids import Id
from reedbed.common.limits import BLOCK

EXTENT = Id(bytes(range(16)))


def test_a_known_sum() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's polynomial


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_sum_of_two_runs_is_got_from_theirs(one: bytes, other: bytes) -> None:
    assert joined_sum(crc32c(one), crc32c(other), len(other)) == crc32c(one + other)


@given(st.integers(0, 1 << 40), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))
def test_long_runs_are_joined_as_short_ones_are(length: int, one: int, other: int) -> None:
    """Zeros appended in two steps or in one."""
    first, rest = length // 3, length - length // 3
    assert joined_sum(joined_sum(one, 0, first), other, rest) == joined_sum(one, joined_sum(0, other, rest), length)


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))
def test_a_block_is_joined_as_any_run(one: int, other: int) -> None:
    assert joined_block(one, other) == joined_sum(one, other, BLOCK)


def test_a_block_that_is_joined() -> None:
    block = bytes(range(256)) * (BLOCK // 256)
    assert joined_block(crc32c(b"before"), crc32c(block)) == crc32c(b"before" + block)
    seeded = block_sum(EXTENT, 3, 7, block)
    assert joined_block(place_sum(EXTENT, 3, 7), crc32c(block)) == seeded


@given(st.integers(0, 39), st.integers(0, 3000), st.integers(0, 20))
def test_seeds_of_a_run_of_blocks(shard: int, first: int, count: int) -> None:
    assert place_sums(EXTENT, shard, first, count) == [
        place_sum(EXTENT, shard, block) for block in range(first, first + count)
    ]


@pytest.mark.parametrize("native", [True, False])
@given(data=st.data(), content=st.binary(min_size=1, max_size=300))
def test_parts_of_a_buffer(native: bool, data: st.DataObject, content: bytes) -> None:
    at_address = checksums._at_address
    try:
        if not native:
            checksums._at_address = None
        for buffer in (content, bytearray(content), memoryview(content)):
            sums = Sums(buffer)
            start = data.draw(st.integers(0, len(content)))
            length = data.draw(st.integers(0, len(content) - start))
            value = data.draw(st.integers(0, (1 << 32) - 1))
            assert sums.of(start, length, value) == crc32c(content[start : start + length], value)
            for wrong in ((-1, 1), (0, len(content) + 1), (len(content), 1), (1, -1)):
                with pytest.raises(ValueError, match="outside"):
                    sums.of(*wrong)
    finally:
        checksums._at_address = at_address
