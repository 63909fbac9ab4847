"""CRC32C, as Reedbed uses it: plain for whole contents and records, seeded for blocks of shards.

The sum of a block is the CRC32C of 22 bytes of place (extent id, shard index u16, block index u32, all big-endian)
followed by the block's bytes, so that right bytes in the wrong place do not pass. CRC32C is the Castagnoli polynomial
of RFC 3720 section 12.1.
"""

from __future__ import annotations

import base64
import ctypes
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import google_crc32c
from cffi import FFI

from reedbed.common.errors import InvalidArgument
from reedbed.common.ids import Id
from reedbed.common.limits import BLOCK

Buffer: TypeAlias = bytes | bytearray | memoryview

_Tables: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]

_PLACE = struct.Struct(">16sHI")
_LARGE = 32 * 1024  # from here on a call that releases the GIL pays
_POLYNOMIAL: Final = 0x82F63B78  # of CRC32C, lowest power in the highest bit

_ffi = FFI()
_BYTES: Final = _ffi.typeof("uint8_t[]")


def _native() -> tuple[Callable[[Buffer, int], int], Callable[[int, int, int], int]] | None:
    """CRC32C without a copy, from the library within google-crc32c's wheel: of any buffer, without the GIL; and of
    (value, address, length), with it: what takes microseconds is not worth giving it up."""
    _ffi.cdef("uint32_t crc32c_extend(uint32_t crc, const uint8_t *data, size_t count);")
    for path in sorted(Path(google_crc32c.__file__).parent.parent.glob("google_crc32c.libs/libcrc32c*")):
        try:
            library: Any = _ffi.dlopen(str(path))
            holding = ctypes.PyDLL(str(path)).crc32c_extend
        except (OSError, AttributeError):
            continue
        holding.argtypes = [ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t]
        holding.restype = ctypes.c_uint32
        return _extending(library.crc32c_extend), holding
    return None


def _extending(extend: Any) -> Callable[[Buffer, int], int]:
    from_buffer = _ffi.from_buffer
    return lambda data, value: int(extend(value, from_buffer(_BYTES, data), len(data)))


def _copying(data: Buffer, value: int) -> int:
    return int(google_crc32c.extend(value, bytes(data)))


_found: Final = _native()
_extend: Callable[[Buffer, int], int] = _found[0] if _found else _copying
_at_address: Callable[[int, int, int], int] | None = _found[1] if _found else None


def crc32c(data: Buffer, value: int = 0) -> int:
    """CRC32C of `data` (of bytes as items), continuing from `value`."""
    if type(data) is bytes and len(data) < _LARGE:
        return int(google_crc32c.extend(value, data))
    return _extend(data, value)


# CRC32C of few bytes, for which every call on the way counts; it holds the GIL
short_crc32c: Callable[[bytes], int] = google_crc32c.value


class Sums:
    """Sums of many parts of one buffer (of bytes as items), without a view for each. The buffer is kept meanwhile.

    It holds the GIL for each part, so that a run of them is not interrupted by every other thread.
    """

    __slots__ = ("_address", "_view", "size")

    def __init__(self, data: Buffer) -> None:
        self._view = memoryview(data)
        self.size = len(self._view)
        pointer: Any = _ffi.from_buffer(_BYTES, self._view)
        self._address = int(_ffi.cast("uintptr_t", pointer))

    def of(self, start: int, length: int, value: int = 0) -> int:
        """CRC32C of `length` bytes from `start`, continuing from `value`."""
        if start < 0 or length < 0 or start + length > self.size:
            raise ValueError(f"{length} bytes from {start} are outside a buffer of {self.size}")
        if _at_address is None:
            return crc32c(self._view[start : start + length], value)
        return _at_address(value, self._address + start, length)


def joined_sum(first: int, second: int, length: int) -> int:
    """CRC32C of two runs of bytes one after the other, from the CRC32C of each and the length of the second.

    As zlib's crc32_combine: to append bytes is to multiply by a power of x, modulo the polynomial.
    """
    step = 0
    while length:
        if length & 1:
            a, b, c, d = _appending(step)
            first = a[first & 255] ^ b[first >> 8 & 255] ^ c[first >> 16 & 255] ^ d[first >> 24]
        length >>= 1
        step += 1
    return first ^ second


def joined_block(first: int, second: int) -> int:
    """`joined_sum` for a second run of a whole block of 64 KiB."""
    a, b, c, d = _BLOCK_TABLES
    return a[first & 255] ^ b[first >> 8 & 255] ^ c[first >> 16 & 255] ^ d[first >> 24] ^ second


def _times(one: int, other: int) -> int:
    """The product modulo the polynomial."""
    product = 0
    bit = 1 << 31
    while bit:
        if one & bit:
            product ^= other
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
        bit >>= 1
    return product


@cache
def _power(step: int) -> int:
    """x to the power of 8 * 2**step."""
    if step == 0:
        return 1 << 23
    root = _power(step - 1)
    return _times(root, root)


@cache
def _appending(step: int) -> _Tables:
    """What appends 2**step bytes: a table for each byte of a sum, since the products of its bits add up."""
    tables = []
    for shift in (0, 8, 16, 24):
        table = [0]
        for bit in range(8):
            product = _times(_power(step), 1 << bit + shift)
            table += [product ^ before for before in table]
        tables.append(tuple(table))
    return tables[0], tables[1], tables[2], tables[3]


_NUMBERS: Final = tuple(number.to_bytes(4, "big") for number in range(1024))
_BLOCK_TABLES: Final = _appending(BLOCK.bit_length() - 1)

assert BLOCK.bit_count() == 1


def place_sum(extent: Id, shard: int, block: int) -> int:
    """The seed of a block's sum: the sum of its place."""
    return int(google_crc32c.value(_PLACE.pack(extent, shard, block)))


def place_sums(extent: Id, shard: int, first: int, count: int) -> list[int]:
    """The seeds of `count` blocks from block `first` on."""
    shared = google_crc32c.value(_PLACE.pack(extent, shard, 0)[:-4])
    extend = google_crc32c.extend
    if first + count <= len(_NUMBERS):
        return [extend(shared, number) for number in _NUMBERS[first : first + count]]
    return [extend(shared, number.to_bytes(4, "big")) for number in range(first, first + count)]


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
    seeds = place_sums(extent, shard, first, len(lengths))
    if len(lengths) == 1 and type(data) is bytes and len(data) == lengths[0] < _LARGE:
        return [google_crc32c.extend(seeds[0], data)]
    sums, at, found = Sums(data), 0, []
    for length, seed in zip(lengths, seeds, strict=True):
        found.append(sums.of(at, length, seed))
        at += length
    return found


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
