"""Who is up, down and out, from heartbeats and the monotonic clock alone. Pure: it is told the time.

Rules:
- A device is down after `down_after_s` without a heartbeat, and out after it was down for `out_after_s`.
- After a start, and after a stall of our own (a tick that came late), we listen for the full down time before anyone is
  called down or out; a stall does not count towards out.
- When more than a third of the devices in service are down at the same time, those that are down are held: none of them
  is declared out before it was heard again, however long that takes. Somebody cut a cable.
- Failed and out devices are out of service; a heartbeat brings an out one back, only a new incarnation a failed one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import DOWN_AFTER_S, HEARTBEAT_S, OUT_AFTER_S
from reedbed.protos.types import Device, DeviceState

PROCESSES_AT_FULL_PACE: Final = 100
BEATS_PER_DOWN: Final = 4  # heartbeats that must be missing before a device is called down
BEATS_PER_MOVE: Final = 3  # and before it may register under another address


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, as configured for a small cluster."""

    down_after_s: float = DOWN_AFTER_S
    out_after_s: float = OUT_AFTER_S

    def __post_init__(self) -> None:
        if not 0 < 2 * self.down_after_s < self.out_after_s:
            raise InvalidArgument(
                f"down after {self.down_after_s:g} s and out after {self.out_after_s:g} s do not fit",
                hint="Both are above 0, and out takes more than twice as long as down",
            )

    def interval_s(self, processes: int) -> float:
        """Between two heartbeats of one process: constant at first, then as long as the cluster is large."""
        base = min(HEARTBEAT_S, self.down_after_s / BEATS_PER_DOWN)
        return base * max(1.0, processes / PROCESSES_AT_FULL_PACE)

    def down_s(self, processes: int) -> float:
        """The down time, never too short for the interval."""
        return max(self.down_after_s, BEATS_PER_DOWN * self.interval_s(processes))

    def out_s(self, processes: int) -> float:
        """The time from down to out."""
        return max(self.out_after_s, 2 * self.down_s(processes))

    def write_lease_s(self, processes: int) -> float:
        """Half the time to out: a storaged without an answer for that long refuses writes."""
        return self.out_s(processes) / 2

    def tick_s(self) -> float:
        """Between two ticks."""
        return min(1.0, self.down_after_s / 10)

    def stall_s(self) -> float:
        """A gap between two ticks from which on we may have missed heartbeats."""
        return self.down_after_s / 2


class Liveness:
    """What has been heard of each device since the start."""

    def __init__(self, times: Times, now: float, processes: int) -> None:
        self._times = times
        self._listening_until = now + times.down_s(processes)
        self._last_tick = now
        self._start = now
        self._heard: dict[int, float] = {}
        self._down_since: dict[int, float] = {}
        self._held: set[int] = set()

    @property
    def held(self) -> frozenset[int]:
        """Devices that wait for an operator, or to be heard again, before they may be declared out."""
        return frozenset(self._held)

    def listening(self, now: float) -> bool:
        """Whether we have not listened long enough to call anyone down."""
        return now < self._listening_until

    def heard(self, number: int, now: float) -> None:
        """A heartbeat or registration of the device was accepted."""
        self._heard[number] = now
        self._down_since.pop(number, None)
        self._held.discard(number)

    def alive(self, number: int, now: float, processes: int) -> bool:
        """Whether heartbeats of the device still come, so that nobody else may register as this device."""
        return number in self._heard and self.silent_s(number, now) < BEATS_PER_MOVE * self._times.interval_s(processes)

    def silent_s(self, number: int, now: float) -> float:
        """Seconds since the device was heard; since our start if it was not."""
        return now - self._heard.get(number, self._start)

    def tick(self, now: float, devices: Iterable[Device], processes: int) -> dict[int, DeviceState]:
        """The devices whose state is another from now on."""
        gap = now - self._last_tick
        self._last_tick = now
        if gap > self._times.stall_s():
            self._listening_until = now + self._times.down_s(processes)
            self._down_since = {number: since + gap for number, since in self._down_since.items()}
        in_service = [device for device in devices if device.state in ("up", "down")]
        if self.listening(now):
            return {}
        changes: dict[int, DeviceState] = {}
        down: set[int] = set()
        for device in in_service:
            if self.silent_s(device.number, now) < self._times.down_s(processes):
                continue
            if device.state == "up":
                changes[device.number] = "down"
            down.add(device.number)
            self._down_since.setdefault(device.number, now)
        if 3 * len(down) > len(in_service):
            self._held |= down
        for number in down - self._held:
            if now - self._down_since[number] >= self._times.out_s(processes):
                changes[number] = "out"
        for number in set(self._down_since) - down:
            del self._down_since[number]
        self._held &= down
        return changes
