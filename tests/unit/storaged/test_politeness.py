"""How keeping yields: shares of foreground, rates and pauses, on numbers alone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.storaged.politeness import EXTENT_COST, PATIENCE_MAX, Foreground, Politeness

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


def run_tasks(polite: Politeness, count: int, seconds: float, share: float = 0.1, urgent: bool = False) -> float:
    """The pause after the last of so many tasks that take so long each."""
    pause = 0.0
    for _ in range(count):
        pause = polite.pause_after(seconds, 16 * MB, 4 * MB, share, urgent)
    return pause


def test_without_foreground_there_is_no_pause() -> None:
    assert Politeness(10 * MB, 100 * MB).pause_after(0.1, 16 * MB, 4 * MB, 0.0, urgent=False) == 0.0


def test_patience_shrinks_while_tasks_take_no_longer_than_at_their_best_and_grows_when_they_do() -> None:
    polite = Politeness(1, 100 * MB)
    first = run_tasks(polite, 1, 0.1)
    assert first > 1.0, "it begins slowly: what foreground leaves is not known yet"
    quick = run_tasks(polite, 30, 0.1)
    assert quick <= 2 * 0.1
    slow = run_tasks(polite, 3, 0.5)
    assert slow > 1.5 * 0.5
    assert run_tasks(polite, 10, 0.5) > 5 * slow
    assert polite.patience == PATIENCE_MAX


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.floats(0.001, 2.0), min_size=1, max_size=60), floor=st.integers(MB, 50 * MB))
def test_never_below_the_floor_and_urgent_work_waits_less(lengths: list[float], floor: int) -> None:
    polite, urgent = Politeness(floor, 100 * MB), Politeness(floor, 100 * MB)
    for seconds in lengths:
        pause = polite.pause_after(seconds, 16 * MB, 4 * MB, 0.5, urgent=False)
        assert pause == 0.0 or (floor - 1) * (seconds + pause) <= 4 * MB + EXTENT_COST
        assert urgent.pause_after(seconds, 16 * MB, 4 * MB, 0.5, urgent=True) <= pause


def test_small_extents_pause_too() -> None:
    polite = Politeness(2 * MB, 100 * MB)
    assert polite.pause_after(0.005, 40_000, 10_000, 0.1, urgent=False) > 0.05
