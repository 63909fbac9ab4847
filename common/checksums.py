"""CRC32C, as Reedbed uses it: plain for whole contents and records, seeded for blocks of shards.

The sum of a block is the CRC32C of 22 bytes of place (extent id, shard index u16, block index u32, all big-endian)
followed by the block's bytes, so that right bytes in the wrong place do not pass. CRC32C is the Castagnoli polynomial
of RFC 3720 section 12.1.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import google_crc32c
from cffi import FFI

from reedbed.common.errors import InvalidArgument
from reedbed.common.ids import Id

Buffer: TypeAlias = bytes | bytearray | memoryview

_PLACE = struct.Struct(">16sHI")
_PREFIX = struct.Struct(">16sH")  # of a place: what all blocks of a shard share
_LARGE = 32 * 1024  # from here on a call that releases the GIL pays


def _library() -> tuple[Any, Any] | None:
    """The library within google-crc32c's wheel, and cffi's way into it."""
    ffi = FFI()
    ffi.cdef("uint32_t crc32c_extend(uint32_t crc, const uint8_t *data, size_t count);")
    for path in sorted(Path(google_crc32c.__file__).parent.parent.glob("google_crc32c.libs/libcrc32c*")):
        try:
            return ffi, ffi.dlopen(str(path))
        except OSError:
            continue
    return None


_Extend: TypeAlias = Callable[[Buffer, int], int]
_ExtendPieces: TypeAlias = Callable[[Buffer, Sequence[int], Sequence[int]], list[int]]


def _native(ffi: Any, library: Any) -> tuple[_Extend, _ExtendPieces]:
    """CRC32C of any buffer, and of its consecutive pieces, without a copy and without the GIL."""
    extend, from_buffer = library.crc32c_extend, ffi.from_buffer

    def pieces(data: Buffer, lengths: Sequence[int], seeds: Sequence[int]) -> list[int]:
        at = from_buffer("uint8_t[]", data) + 0  # a bare pointer, which looks at no bounds
        values = []
        for length, seed in zip(lengths, seeds, strict=True):
            values.append(extend(seed, at, length))
            at += length
        return values

    return lambda data, value: int(extend(value, from_buffer("uint8_t[]", data), len(data))), pieces


def _copying(data: Buffer, value: int) -> int:
    return int(google_crc32c.extend(value, bytes(data)))


def _copying_pieces(data: Buffer, lengths: Sequence[int], seeds: Sequence[int]) -> list[int]:
    view, at, values = memoryview(data), 0, []
    for length, seed in zip(lengths, seeds, strict=True):
        values.append(_copying(view[at : at + length], seed))
        at += length
    return values


def _chosen() -> tuple[_Extend, _ExtendPieces]:
    found = _library()
    return (_copying, _copying_pieces) if found is None else _native(*found)


_extend, _extend_pieces = _chosen()


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


def block_sums(extent: Id, shard: int, first: int, lengths: Sequence[int], data: Buffer) -> list[int]:
    """`block_sum` of consecutive blocks, from block `first` on, that lie one after the other at the start of `data`.

    No length may be below 0, and `data` must have as many bytes as they add up to.
    """
    assert sum(lengths) <= len(data), "blocks reach past their bytes"
    prefix, extend = google_crc32c.value(_PREFIX.pack(extent, shard)), google_crc32c.extend
    if len(lengths) == 1 and type(data) is bytes and len(data) == lengths[0] < _LARGE:
        return [extend(extend(prefix, first.to_bytes(4, "big")), data)]
    seeds = [extend(prefix, block.to_bytes(4, "big")) for block in range(first, first + len(lengths))]
    return _extend_pieces(data, lengths, seeds)


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
