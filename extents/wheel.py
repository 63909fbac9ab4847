"""Coarse timers for many waits: one timer of the event loop for all, so that adding and dropping one costs little.

Moments are rounded up to whole ticks: an entry is due a little later than asked for, never sooner.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Entry(Protocol):
    """What waits. `slot` is the wheel's own, and 0 while the entry is not on it."""

    slot: int

    def due(self) -> None:
        """The time is up; the entry is off the wheel by then and may be added again."""
        ...


class Wheel:
    """The timers of one event loop, that of whoever adds the first entry."""

    def __init__(self, tick: float) -> None:
        """`tick` in seconds."""
        self._tick = tick
        self._slots: dict[int, dict[Entry, None]] = {}  # by number of the tick; entries in the order they came
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0  # the slot that the timer is for

    def add(self, entry: Entry, seconds: float) -> None:
        """Calls `entry.due()` after so many seconds, unless it is dropped before. It is not on the wheel yet."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        slot = int((loop.time() + seconds) / self._tick) + 1
        entry.slot = slot
        entries = self._slots.get(slot)
        if entries is None:
            self._slots[slot] = {entry: None}
            self._arm_by(loop, slot)
        else:
            entries[entry] = None

    def drop(self, entry: Entry) -> None:
        """Takes the entry off; nothing happens if it is not on the wheel."""
        slot = entry.slot
        if slot:
            entry.slot = 0
            entries = self._slots[slot]
            del entries[entry]
            if not entries:
                del self._slots[slot]

    def close(self) -> None:
        """Nothing on it is ever due any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for entries in self._slots.values():
            for entry in entries:
                entry.slot = 0
        self._slots.clear()

    def _arm_by(self, loop: asyncio.AbstractEventLoop, slot: int) -> None:
        """Turns at this slot at the latest."""
        if self._timer is not None:
            if self._armed <= slot:
                return
            self._timer.cancel()
        self._armed = slot
        self._timer = loop.call_at(slot * self._tick, self._turn)

    def _turn(self) -> None:
        self._timer = None
        loop = self._loop
        assert loop is not None
        passed = max(self._armed, int(loop.time() / self._tick))  # loops may call a little too soon
        for slot in sorted(slot for slot in self._slots if slot <= passed):
            # one by one: what is due may drop others
            entries = self._slots.get(slot)
            while entries:
                entry = next(iter(entries))
                del entries[entry]
                entry.slot = 0
                entry.due()
            if entries is not None and self._slots.get(slot) is entries:
                del self._slots[slot]
        if self._slots:
            self._arm_by(loop, min(self._slots))  # what was due may have added what is due much later
