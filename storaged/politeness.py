"""How much keeping may do beside foreground calls, measured from both. Pure: it is told the time.

What holds:
- Without foreground calls the rate is bounded by the ceiling alone.
- With them one task runs at a time, and after each follows a pause: the task's own length times a patience. Tasks that
  take longer than such tasks take at their best have met somebody else at disks, networks or processors, and patience
  grows; it shrinks while they do not. So keeping takes what foreground leaves, wherever that is scarce, and many
  processes on one machine or network yield to each other too.
- No pause takes the rate below the floor, where each extent counts for EXTENT_COST more than its bytes, and urgent work
  pauses a quarter as long.
"""

from __future__ import annotations

from typing import Final

from reedbed.common.limits import KIB

WINDOW_S: Final = 1.0  # of the foreground that is looked at
PATIENCE: Final = 32.0  # times a task's length, at first: it is not known yet what foreground leaves
PATIENCE_MIN: Final = 1.0
PATIENCE_MAX: Final = 64.0
LATE_MUCH: Final = 0.75  # of its best length that a task takes longer: then patience grows
LATE_LITTLE: Final = 0.35  # and below that it shrinks
GROWTH: Final = 1.4
SHRINKING: Final = 0.85
URGENT_PART: Final = 0.25
EXTENT_COST: Final = 256 * KIB  # bytes that take about as long as what each task takes beside its bytes
BURST_S: Final = 0.25  # of the ceiling that may be saved up
INSTANT_S: Final = 20e-6  # that a call counts for which is answered at once
_FADING: Final = 0.995  # of the best speed with each task: the machine may have become slower for good


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

    def passed(self, now: float) -> None:
        """A call was answered at once."""
        self._turn(now)
        if not self._under_way:
            self._busy += INSTANT_S

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
        self.patience = PATIENCE
        self._best = 0.0  # bytes a second, of tasks that ran alone
        self._free_at = 0.0

    def wait_for(self, size: int, now: float) -> float:
        """Seconds to wait before `size` bytes may be written, which are counted as written then."""
        self._free_at = max(self._free_at, now - BURST_S)
        wait = max(0.0, self._free_at - now)
        self._free_at += size / self.ceiling
        return wait

    def pause_after(self, seconds: float, read: int, written: int, share: float, urgent: bool) -> float:
        """Seconds to pause after a task that ran alone, took so long, and read and wrote so many bytes."""
        if not self.alone(share):
            return 0.0
        seconds = max(seconds, 1e-6)
        speed = (read + written + EXTENT_COST) / seconds
        self._best = max(speed, self._best * _FADING)
        late = self._best / speed - 1
        if late > LATE_MUCH:
            self.patience = min(PATIENCE_MAX, self.patience * GROWTH)
        elif late < LATE_LITTLE:
            self.patience = max(PATIENCE_MIN, self.patience * SHRINKING)
        wanted = seconds * self.patience * (URGENT_PART if urgent else 1.0)
        return max(0.0, min(wanted, (written + EXTENT_COST) / self.floor - seconds))

    @staticmethod
    def alone(share: float) -> bool:
        """Whether there is foreground, so that one task at a time is enough."""
        return share > 0.0
