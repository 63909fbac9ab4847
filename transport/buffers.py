"""Memory for payloads, used again: fresh memory of a megabyte costs as much as receiving into it.

Invariant: what is handed out is referred to by nobody else. A buffer is free again once no view of it is left, which
Python itself tells: a bytearray that has views cannot change its length.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from reedbed.common.limits import KIB

_STEP: Final = 64 * KIB  # capacities are multiples of it
_LOOKS: Final = 8  # at buffers that may be free, for each one that is wanted


class Buffers:
    """Buffers of one process or lane; keeps up to `total` bytes, those in use among them. Not for several threads."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._kept = 0
        self._all: deque[bytearray] = deque()  # the one that was handed out last is at the end

    def take(self, size: int) -> memoryview:
        """`size` writable bytes, with anything in them. They are free again when all views of them are gone."""
        for _ in range(min(_LOOKS, len(self._all))):
            buffer = self._all[0]
            self._all.rotate(-1)
            if size <= len(buffer) <= 2 * size + _STEP and _free(buffer):
                return memoryview(buffer)[:size]
        buffer = bytearray(-(-size // _STEP) * _STEP)
        self._keep(buffer)
        return memoryview(buffer)[:size]

    def _keep(self, buffer: bytearray) -> None:
        if len(buffer) > self._total:
            return
        while self._all and self._kept + len(buffer) > self._total:
            self._kept -= len(self._all.popleft())  # whoever uses it keeps it alive
        self._all.append(buffer)
        self._kept += len(buffer)


def _free(buffer: bytearray) -> bool:
    try:
        last = buffer.pop()
    except BufferError:
        return False
    buffer.append(last)
    return True
