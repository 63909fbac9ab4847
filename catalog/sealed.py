"""The seal around every stored value: which format it has, and that it is what was stored under this very key.

    byte 0       version of the value's format, 1 now
    bytes 1..4   CRC32C, big-endian, of the key, byte 0 and the rest
    bytes 5..    the value

Later formats keep the first five bytes as they are, so that damage is told from a newer format.
"""

from __future__ import annotations

from typing import Final

from reedbed.common.checksums import crc32c, short_crc32c
from reedbed.common.errors import Corrupt, NewerFormat

VALUE_VERSION: Final = 1
SEAL_BYTES: Final = 5
_SHORT: Final = 4096
_VERSION_BYTE: Final = bytes([VALUE_VERSION])


def show_key(key: bytes) -> str:
    """`key` as printable text for messages, cut when long."""
    text = "".join(chr(byte) if 32 < byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in key[:128])
    return text if len(key) <= 128 else f"{text}... ({len(key)} bytes)"


def seal(key: bytes, value: bytes) -> bytes:
    """`value` as it is stored under `key`."""
    return b"".join((_VERSION_BYTE, _sum(key, _VERSION_BYTE, value), value))


def unseal(key: bytes, stored: bytes) -> bytes:
    """The value that `seal` wrapped; Corrupt if bytes or key are others, NewerFormat if a newer Reedbed wrote it."""
    value = stored[SEAL_BYTES:]
    version = stored[:1]
    if stored[1:SEAL_BYTES] != _sum(key, version, value):
        raise Corrupt(
            "a stored value of the catalog does not match its checksum",
            where=f"key {show_key(key)}",
            hint="The disk altered it; restore the catalog from its copy",
        )
    if version != _VERSION_BYTE:
        raise NewerFormat(
            f"a stored value has format {version[0]}, this Reedbed knows {VALUE_VERSION}",
            where=f"key {show_key(key)}",
            hint="Start the Reedbed that wrote it, or a newer one",
        )
    return value


def _sum(key: bytes, version: bytes, value: bytes) -> bytes:
    whole = b"".join((key, version, value))
    return (short_crc32c(whole) if len(whole) < _SHORT else crc32c(whole)).to_bytes(4, "big")
