"""How long ago the id clock showed a value, at least: the arithmetic that lets the horizon rise without a wall clock.

The id clock runs in stretches, one for each start of a catalog. Within a stretch it advances with the monotonic clock;
between two stretches it may jump ahead by any amount, while no time at all need have passed. So only time within
stretches counts as proven:

    stretch        [start, reached]    the clock durably showed `reached` after it had started at `start`
    age(v)         the total length of all stretches above v

A stretch that is left out, or moved down, only makes ages smaller, so the list may be shortened at its old end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

STRETCHES_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Stretch:
    """Milliseconds of the id clock."""

    start: int
    reached: int


def age_ms(stretches: Sequence[Stretch], value: int) -> int:
    """The proven time since the clock showed `value`; 0 for a value that lies ahead."""
    return sum(max(0, stretch.reached - max(stretch.start, value)) for stretch in stretches)


def aged(stretches: Sequence[Stretch], lag_ms: int) -> int | None:
    """The highest value that is proven to be at least `lag_ms` old; None if the stretches do not prove that much."""
    left = lag_ms
    for stretch in reversed(stretches):
        length = stretch.reached - stretch.start
        if length >= left:
            return stretch.reached - left
        left -= length
    return None


def shortened(stretches: Sequence[Stretch], most: int = STRETCHES_MAX) -> tuple[Stretch, ...]:
    """At most `most` stretches that prove nothing which `stretches` do not.

    The two oldest become one: the length of the second is added to the first, which claims that ids of the second's
    time are younger than they are.
    """
    kept = list(stretches)
    while len(kept) > most:
        first, second = kept[:2]
        kept[:2] = [Stretch(first.start, first.reached + second.reached - second.start)]
    return tuple(kept)
