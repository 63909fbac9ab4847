"""The sum at the end of every message: what was altered on the way is noticed, whoever carried it.

The last 5 bytes of a Batch, HelloRequest and HelloReply are their field `sum`:

    0x7D, CRC32C of what is before, 4 bytes little-endian

The contents of large payloads within a batch are left out, since they carry sums of their own from end to end (see
frames.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from reedbed.common.checksums import Buffer, crc32c
from reedbed.common.errors import Corrupt

SUM_BYTES: Final = 5

_TAG: Final = b"\x7d"  # field 15, fixed32


def sealed(data: bytes) -> bytes:
    """A message of no more than a few hundred bytes, with its sum."""
    return data + seal(crc32c(data))


def seal(sum_: int) -> bytes:
    """The end of a message whose other bytes have this sum."""
    return _TAG + sum_.to_bytes(4, "little")


def check_seal(data: Buffer, holes: Sequence[tuple[int, int]] = ()) -> None:
    """Corrupt unless the message ends with the sum of its other bytes, but those of the (start, end) ranges `holes`."""
    end = len(data) - SUM_BYTES
    if not has_seal(data):
        raise _altered(f"{len(data)} bytes without a sum at their end")
    if holes:
        view = memoryview(data)
        sum_ = at = 0
        for start, stop in holes:
            sum_ = crc32c(view[at:start], sum_)
            at = stop
        sum_ = crc32c(view[at:end], sum_)
    else:
        sum_ = crc32c(data[:end] if len(data) < SUM_BYTES + 1024 else memoryview(data)[:end])
    if sum_.to_bytes(4, "little") != data[end + 1 :]:
        raise _altered(f"{len(data)} bytes that do not match their sum")


def has_seal(data: Buffer) -> bool:
    """Whether there is a sum at the end, right or wrong."""
    return len(data) >= SUM_BYTES and data[len(data) - SUM_BYTES] == _TAG[0]


def _altered(what: str) -> Corrupt:
    return Corrupt(f"a message was altered on the way: {what}", retryable=True)
