"""Protobuf's wire format, put together by hand, reads as what the generated classes write."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reedbed.protos import storage_pb2
from reedbed.protos.wire import field, varint


@given(st.integers(0, (1 << 64) - 1))
def test_numbers(value: int) -> None:
    assert storage_pb2.ShardRange.FromString(b"\x20" + varint(value)).offset == value
    if value:
        assert storage_pb2.ShardRange(offset=value).SerializeToString() == b"\x20" + varint(value)


@given(st.binary(max_size=300))
def test_bytes(value: bytes) -> None:
    assert storage_pb2.ShardRange.FromString(field(2, value)).extent == value
