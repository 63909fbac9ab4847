"""Time, injected: nothing else in Reedbed reads a clock by itself where a decision depends on it."""

from __future__ import annotations

import time
from typing import Final, Protocol

from reedbed.common.errors import DeadlineExceeded


class Clock(Protocol):
    """`monotonic` in seconds for all decisions; `wall` in seconds since 1970 only for people to read."""

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...


class SystemClock:
    """The machine's clocks."""

    # themselves, since they are read several times for each small operation
    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


_SYSTEM: Final = SystemClock()


class ManualClock:
    """A clock for tests that moves only when told to."""

    def __init__(self, monotonic: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self.monotonic_now = monotonic
        self.wall_now = wall

    def monotonic(self) -> float:
        return self.monotonic_now

    def wall(self) -> float:
        return self.wall_now

    def advance(self, seconds: float) -> None:
        self.monotonic_now += seconds
        self.wall_now += seconds


class Deadline:
    """A point in monotonic time that is handed down a call; None seconds means none."""

    __slots__ = ("_at", "_clock", "_seconds")

    def __init__(self, seconds: float | None, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or _SYSTEM
        self._seconds = seconds
        self._at = None if seconds is None else self._clock.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds left, never below 0; None without a deadline."""
        if self._at is None:
            return None
        left = self._at - self._clock.monotonic()
        return left if left > 0.0 else 0.0

    def within(self, seconds: float) -> Deadline:
        """A deadline at most `seconds` away and not later than this one."""
        left = self.left()
        return Deadline(seconds if left is None else min(seconds, left), self._clock)

    def check(self, what: str) -> None:
        """DeadlineExceeded if the time is up."""
        if self.left() == 0.0:
            raise DeadlineExceeded(f"{what} took longer than {self._seconds:g} s")
