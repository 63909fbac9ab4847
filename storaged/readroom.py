"""How many bytes of reads a process holds at a time, from before they are read until their answer has left.

Invariants: `held` never exceeds `total` but for one read that is larger and alone, and for small reads, which do not
wait behind bulk and may take a reserve beyond it. Large reads get their room in the order in which they asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from reedbed.common.limits import KIB

SMALL: Final = 64 * KIB
_RESERVE_PART: Final = 4  # small reads may take one part more of the room in so many


class ReadRoom:
    """Only for one event loop."""

    def __init__(self, total: int) -> None:
        """`total` in bytes."""
        self.total = total
        self.held = 0
        self._line: deque[tuple[asyncio.Future[None], int]] = deque()

    async def take(self, count: int) -> None:
        """Returns once there is room for so many bytes; give them back."""
        if self.try_take(count):
            return
        place = (asyncio.get_running_loop().create_future(), count)
        self._line.append(place)
        try:
            await place[0]
        except asyncio.CancelledError:
            if place in self._line:
                self._line.remove(place)
                self._admit()
            elif not place[0].cancelled():
                self.give(count)
            raise

    def try_take(self, count: int) -> bool:
        """Takes room for so many bytes if it would not have to wait for it; whether it did."""
        if count <= SMALL:
            free = self.held + count <= self.total + self.total // _RESERVE_PART
        else:
            free = not self._line and self._fits(count)
        if free:
            self.held += count
        return free

    def give(self, count: int) -> None:
        self.held -= count
        self._admit()

    def _fits(self, count: int) -> bool:
        return self.held + count <= self.total or not self.held

    def _admit(self) -> None:
        while self._line and self._fits(self._line[0][1]):
            future, count = self._line.popleft()
            if not future.cancelled():  # whoever was may not have had its turn yet
                self.held += count
                future.set_result(None)
