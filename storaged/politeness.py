"""How much keeping may do beside foreground calls, measured from both. Pure: it is told the time.

What holds:
- Without foreground calls the rate is bounded by the ceiling alone.
- With them one task runs at a time, and after each follows a pause that grows with the task's own duration, which tells
  how loaded disks, network and processors are, and with the share of time in which foreground calls were under way.
- No pause takes the rate below the floor, and urgent work pauses a quarter as long.
"""

from __future__ import annotations

from typing import Final

WINDOW_S: Final = 1.0  # of the foreground that is looked at
PAUSE_BASE: Final = 1.0  # times a task's duration, as soon as there is foreground
PAUSE_SHARE: Final = 12.0  # and more by the share of its time
URGENT_PART: Final = 0.25
BUSY: Final = 0.005  # a share below that is nobody
BURST_S: Final = 0.25  # of the ceiling that may be saved up


class Foreground:
    """Calls under way that are not of keeping, and the share of late in which there was one."""

    def __init__(self, now: float) -> None:
        self._under_way = 0
        self._since = now
        self._busy = 0.0
        self._window_from = now
        self._last = 0.0

    def begin(self, now: float) -> None:
        self._turn(now)
        if not self._under_way:
            self._since = now
        self._under_way += 1

    def end(self, now: float) -> None:
        self._turn(now)
        self._under_way -= 1
        if not self._under_way:
            self._busy += now - max(self._since, self._window_from)

    def share(self, now: float) -> float:
        """0 to 1: of the last one or two windows."""
        self._turn(now)
        busy = self._busy + ((now - max(self._since, self._window_from)) if self._under_way else 0.0)
        return max(self._last, min(1.0, busy / WINDOW_S))

    def _turn(self, now: float) -> None:
        """Begin a new window when the old one is over."""
        passed = now - self._window_from
        if passed < WINDOW_S:
            return
        end = self._window_from + WINDOW_S
        busy = self._busy + (max(0.0, end - max(self._since, self._window_from)) if self._under_way else 0.0)
        self._last = min(1.0, busy / WINDOW_S) if passed < 2 * WINDOW_S else float(bool(self._under_way))
        self._busy = 0.0
        self._window_from = end if passed < 2 * WINDOW_S else now


class Politeness:
    """The bounds, and when the next bytes may be written."""

    def __init__(self, floor: int, ceiling: int) -> None:
        """Bytes a second, both above 0."""
        self.floor = floor
        self.ceiling = ceiling
        self._free_at = 0.0

    def wait_for(self, size: int, now: float) -> float:
        """Seconds to wait before `size` bytes may be written, which are counted as written then."""
        self._free_at = max(self._free_at, now - BURST_S)
        wait = max(0.0, self._free_at - now)
        self._free_at += size / self.ceiling
        return wait

    def pause_after(self, seconds: float, size: int, share: float, urgent: bool) -> float:
        """Seconds to pause after a task that took so long and wrote so much, beside foreground of that share."""
        if share < BUSY:
            return 0.0
        wanted = seconds * (PAUSE_BASE + PAUSE_SHARE * share) * (URGENT_PART if urgent else 1.0)
        return max(0.0, min(wanted, size / self.floor - seconds))

    @staticmethod
    def alone(share: float) -> bool:
        """Whether one task at a time is enough."""
        return share >= BUSY
