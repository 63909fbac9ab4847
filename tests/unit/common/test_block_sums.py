"""Sums of blocks: many at once are those of each, by either way to the library, and against the definition."""

from __future__ import annotations

import struct
from itertools import accumulate, pairwise

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.common import checksums
from reedbed.common.checksums import Buffer, block_sum, block_sums
from reedbed.common.ids import Id

IDS = st.binary(min_size=16, max_size=16).map(Id)


def defined(extent: Id, shard: int, block: int, data: bytes) -> int:
    return int(google_crc32c.value(struct.pack(">16sHI", extent, shard, block) + data))


@pytest.fixture(params=["native", "copying"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "copying":
        monkeypatch.setattr(checksums, "_extend", checksums._copying)
        monkeypatch.setattr(checksums, "_at_address", None)
    else:
        assert checksums._extend is not checksums._copying, "the library is in the wheel"
    return str(request.param)


@settings(max_examples=200)
@given(
    extent=IDS,
    shard=st.integers(0, 65535),
    first=st.integers(0, (1 << 32) - 8),
    data=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    kind=st.sampled_from([bytes, bytearray, memoryview]),
    rest=st.binary(max_size=3),
)
def test_many_blocks_at_once(
    extent: Id, shard: int, first: int, data: bytes, cuts: list[int], kind: type, rest: bytes
) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    buffer: Buffer = kind(data + rest)
    blocks = [data[low:high] for low, high in pairwise(edges)]
    expected = [defined(extent, shard, first + at, block) for at, block in enumerate(blocks)]
    lengths = [len(block) for block in blocks]
    assert block_sums(extent, shard, first, lengths, buffer) == expected
    assert [block_sum(extent, shard, first + at, block) for at, block in enumerate(blocks)] == expected


def test_blocks_of_every_size_that_matters(way: str) -> None:
    extent = Id(bytes(range(16)))
    lengths = [1, 32 * 1024 - 1, 32 * 1024, 65_536]
    data = bytes(sum(lengths))
    starts = [0, *accumulate(lengths)]
    assert block_sums(extent, 3, 5, lengths, data) == [
        defined(extent, 3, 5 + at, data[low:high]) for at, (low, high) in enumerate(pairwise(starts))
    ]
    for length in lengths:
        assert block_sums(extent, 3, 0, [length], bytes(length)) == [defined(extent, 3, 0, bytes(length))]
    assert block_sums(extent, 3, 0, [], b"") == []


def test_blocks_that_reach_past_their_bytes_are_a_bug() -> None:
    with pytest.raises(ValueError, match="outside"):
        block_sums(Id(bytes(16)), 0, 0, [2, 2], b"abc")
