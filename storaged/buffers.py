"""Memory for large reads that is used again: fresh memory costs a page fault for every 4 KiB.

Invariants: what was taken belongs to one read until it is given back, or is forgotten; at most `total` bytes are kept.
"""

from __future__ import annotations

from typing import Final

from reedbed.common.limits import BLOCK, KIB, MIB

LARGE: Final = 512 * KIB  # reads from here on
_STEP: Final = MIB  # sizes are multiples of it, so that reads of nearly one size share


class Buffers:
    """Only for one event loop."""

    def __init__(self, total: int) -> None:
        """`total` in bytes."""
        self._total = total
        self._free: list[memoryview] = []
        self.kept = 0  # bytes

    def take(self, length: int) -> memoryview:
        """Memory for a range of so many bytes, and for what of its first and last block lies around it."""
        size = -(-(length + 2 * BLOCK) // _STEP) * _STEP
        for at in range(len(self._free) - 1, -1, -1):
            if size <= len(self._free[at]) <= 2 * size:
                self.kept -= len(self._free[at])
                return self._free.pop(at)
        return memoryview(bytearray(size))

    def give(self, buffer: memoryview) -> None:
        """Nobody looks at it any more."""
        if self.kept + len(buffer) <= self._total:
            self._free.append(buffer)
            self.kept += len(buffer)
