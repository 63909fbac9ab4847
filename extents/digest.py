"""The digest of a set of shards of one PG on one device: equal sets have equal digests, in whatever order they come.

The digest is the sum modulo 2^128 of BLAKE2b-128 over (extent 16s, index u16, length u64, big-endian) of each shard.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

_SHARD: Final = struct.Struct(">16sHQ")
_MASK: Final = (1 << 128) - 1


@dataclass(slots=True)
class ShardsDigest:
    """`count` shards so far."""

    count: int = 0
    sum: int = 0

    def add(self, extent: bytes, index: int, length: int) -> None:
        one = hashlib.blake2b(_SHARD.pack(extent, index, length), digest_size=16).digest()
        self.count += 1
        self.sum = (self.sum + int.from_bytes(one, "big")) & _MASK

    def encode(self) -> bytes:
        """16 bytes."""
        return self.sum.to_bytes(16, "big")
