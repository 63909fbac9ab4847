"""CRC32C, as Reedbed uses it: plain for whole contents and records, seeded for blocks of shards.

The sum of a block is the CRC32C of 22 bytes of place (extent id, shard index u16, block index u32, all big-endian)
followed by the block's bytes, so that right bytes in the wrong place do not pass. CRC32C is the Castagnoli polynomial
of RFC 3720 section 12.1.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import google_crc32c
from cffi import FFI

from reedbed.common.errors import InvalidArgument
from reedbed.common.ids import Id

Buffer: TypeAlias = bytes | bytearray | memoryview

_PLACE = struct.Struct(">16sHI")
_LARGE = 32 * 1024  # from here on a call that releases the GIL pays


def _native() -> Callable[[Buffer, int], int] | None:
    """CRC32C of any buffer without a copy and without the GIL, from the library within google-crc32c's wheel."""
    ffi = FFI()
    ffi.cdef("uint32_t crc32c_extend(uint32_t crc, const uint8_t *data, size_t count);")
    for path in sorted(Path(google_crc32c.__file__).parent.parent.glob("google_crc32c.libs/libcrc32c*")):
        try:
            library: Any = ffi.dlopen(str(path))
        except OSError:
            continue
        extend, from_buffer = library.crc32c_extend, ffi.from_buffer
        return lambda data, value: int(extend(value, from_buffer("uint8_t[]", data), len(data)))
    return None


def _copying(data: Buffer, value: int) -> int:
    return int(google_crc32c.extend(value, bytes(data)))


_extend: Callable[[Buffer, int], int] = _native() or _copying


def crc32c(data: Buffer, value: int = 0) -> int:
    """CRC32C of `data` (of bytes as items), continuing from `value`."""
    if type(data) is bytes and len(data) < _LARGE:
        return int(google_crc32c.extend(value, data))
    return _extend(data, value)


# CRC32C of few bytes, for which every call on the way counts; it holds the GIL
short_crc32c: Callable[[bytes], int] = google_crc32c.value


def place_sum(extent: Id, shard: int, block: int) -> int:
    """The seed of a block's sum: the sum of its place."""
    return int(google_crc32c.value(_PLACE.pack(extent, shard, block)))


def block_sum(extent: Id, shard: int, block: int, data: Buffer) -> int:
    """The seeded sum of one block (see the module's text)."""
    return crc32c(data, place_sum(extent, shard, block))


def block_sum_parts(extent: Id, shard: int, block: int, parts: Iterable[Buffer]) -> int:
    """`block_sum` of bytes that lie in several buffers."""
    value = place_sum(extent, shard, block)
    for part in parts:
        value = crc32c(part, value)
    return value


def format_checksum(value: int) -> str:
    """`crc32c:` and base64 of the four bytes, big-endian, as in Google Cloud Storage's x-goog-hash."""
    return "crc32c:" + base64.b64encode(value.to_bytes(4, "big")).decode("ascii")


def parse_checksum(text: str) -> int:
    """The value that `format_checksum` wrote; InvalidArgument for anything else."""
    scheme, _, body = text.partition(":")
    try:
        raw = base64.b64decode(body, validate=True) if scheme == "crc32c" else b""
    except ValueError:
        raw = b""
    if len(raw) != 4:
        raise InvalidArgument(
            f"not a checksum: {text[:64]!r}", hint="It reads crc32c: and base64 of four bytes, such as crc32c:AAAAAA=="
        )
    return int.from_bytes(raw, "big")
