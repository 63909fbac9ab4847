"""How keeping yields: shares of foreground, rates and pauses, on numbers alone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.storaged.politeness import Foreground, Politeness

MB = 1_000_000


@settings(max_examples=100, deadline=None)
@given(calls=st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 3.0)), max_size=20))
def test_a_share_is_from_nought_to_one_and_falls_to_nought_when_nobody_calls(calls: list[tuple[float, float]]) -> None:
    now = 100.0
    watched = Foreground(now)
    for pause, length in calls:
        now += pause
        watched.begin(now)
        assert 0.0 <= watched.share(now) <= 1.0
        now += length
        assert 0.0 <= watched.share(now) <= 1.0
        watched.end(now)
    assert watched.share(now + 5) == 0.0


def test_the_share_is_that_of_the_time_with_calls_under_way() -> None:
    watched = Foreground(0.0)
    for tick in range(30):
        watched.begin(tick * 0.1)
        watched.begin(tick * 0.1 + 0.01)
        watched.end(tick * 0.1 + 0.02)
        watched.end(tick * 0.1 + 0.03)
    assert 0.25 <= watched.share(3.0) <= 0.35
    watched.begin(3.0)
    assert watched.share(4.0) >= 0.95
    assert watched.share(9.0) == 1.0


def test_the_ceiling_bounds_what_is_written() -> None:
    polite = Politeness(MB, 100 * MB)
    now = 0.0
    for _ in range(1000):
        now += polite.wait_for(MB, now)
    assert 9.5 <= now <= 10.0


def test_without_foreground_there_is_no_pause_and_with_it_never_below_the_floor() -> None:
    polite = Politeness(10 * MB, 100 * MB)
    assert polite.pause_after(0.1, 4 * MB, 0.0, urgent=False) == 0.0
    short = polite.pause_after(0.01, 4 * MB, 0.1, urgent=False)
    assert 0.01 < short < 0.1
    assert polite.pause_after(0.01, 4 * MB, 0.5, urgent=False) > short
    assert polite.pause_after(0.01, 4 * MB, 0.5, urgent=True) < polite.pause_after(0.01, 4 * MB, 0.5, urgent=False)
    slow = polite.pause_after(0.3, 4 * MB, 1.0, urgent=False)
    assert 4 * MB / (0.3 + slow) >= 10 * MB - 1
    assert polite.pause_after(1.0, 4 * MB, 1.0, urgent=False) == 0.0
