"""Protobuf's wire format, put together by hand: for messages that hot paths write by the thousand.

What is written so reads as if the generated classes had written it; protos/*.proto stay the definition.
"""

from __future__ import annotations

from typing import Final


def varint(value: int) -> bytes:
    """An unsigned number."""
    if value < 0x80:
        return _SHORT[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, value: bytes) -> bytes:
    """A field of bytes, text or a message; `number` is 1 to 15."""
    return b"%c%b%b" % (number << 3 | 2, varint(len(value)), value)


_SHORT: Final = tuple(bytes((value,)) for value in range(0x80))
