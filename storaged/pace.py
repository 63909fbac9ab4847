"""How fast a scrubber reads. Pure: numbers in, seconds to wait out.

What is decided here
- A pass that nobody waits for is spread over its period: what is left, over the time that is left. A pass that was
  asked for goes as fast as it may. Neither is ever faster than the rate that was set.
- Politeness is measured from the step itself. A step that took longer than such steps take at their best met somebody
  else at the disk, and waits that much longer; so does one beside which foreground work was done. It never waits so
  long that the pass would outlast its period.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import KIB, MIB

PERIOD_S: Final = 14 * 24 * 3600.0
RATE_MAX: Final = 64 * MIB  # bytes a second
RATE_MIN: Final = 256 * KIB  # a device with little on it is done long before its period ends
SPREAD: Final = 0.9  # of the period, so that delays do not make a pass late
POLITE_MAX: Final = 8.0  # times a step's own length that it waits for others at most
FOREGROUND: Final = 2.0  # times a step's own length that it waits if foreground work was done meanwhile
_FADING: Final = 0.995  # of the best speed with each step: a disk may become slower for good


@dataclass(frozen=True, slots=True)
class Pace:
    """What was set: seconds within which all is read once (0: only when asked), and bytes a second at most."""

    period_s: float = PERIOD_S
    rate_max: float = RATE_MAX

    def __post_init__(self) -> None:
        if self.period_s < 0 or self.rate_max <= 0:
            raise InvalidArgument("the scrub period must not be below 0, and its rate be above 0")

    def rate(self, left: int, age_s: float, hurried: bool) -> float:
        """Bytes a second for a pass that began `age_s` ago and has `left` bytes to read."""
        if hurried:
            return self.rate_max
        time_left = max(1.0, SPREAD * self.period_s - age_s)
        return min(self.rate_max, max(RATE_MIN, left / time_left))

    def pause(self, read: int, took_s: float, rate: float, needed: float, polite: float) -> float:
        """Seconds to wait after a step that read so many bytes in so many seconds.

        `rate` is what may be read, `needed` what must be, bytes a second; `polite` of `Manners.after`.
        """
        bound = read / min(rate, self.rate_max) - took_s
        kind = min(took_s * polite, max(0.0, read / needed - took_s))
        return max(0.0, bound, kind)


class Manners:
    """How much a scrubber stands back, learnt from its own steps."""

    def __init__(self) -> None:
        self._best = 0.0  # bytes a second

    def after(self, read: int, took_s: float, foreground: bool) -> float:
        """How many times its own length a step of so many bytes and seconds should wait."""
        speed = read / took_s if took_s > 0 else 0.0
        self._best = max(speed, self._best * _FADING)
        late = self._best / speed - 1.0 if speed > 0 else 0.0
        return min(POLITE_MAX, late + (FOREGROUND if foreground else 0.0))
