"""How far repair is, and how long it will take: by what was done of late, on numbers alone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog.rates import SPAN_S, Progress

MB = 1_000_000


def test_the_time_left_is_that_of_the_bytes_and_of_the_extents() -> None:
    progress = Progress()
    assert progress.seconds_left(0, 0, 5.0) == 0.0
    assert progress.seconds_left(10, 1, 5.0) is None
    for tick in range(1, 200):
        progress.add(1, {7: 4 * MB}, 10 + tick * 0.05)
    now = 10 + 199 * 0.05
    assert 75 * MB < progress.rate(now) < 85 * MB
    left = progress.seconds_left(100 * 4 * MB, 100, now)
    assert left is not None
    assert 4.7 < left < 5.3
    many_small = progress.seconds_left(1000, 1000, now)
    assert many_small is not None
    assert many_small > 2.0, "extents take time, however small they are"


def test_what_came_first_took_as_long_as_it_takes_to_begin_and_tells_no_rate() -> None:
    progress = Progress()
    for _ in range(20):
        progress.add(1, {7: 4 * MB}, 3.0)
    assert progress.rate(3.0) == 0
    for tick in range(1, 21):
        progress.add(1, {7: 4 * MB}, 3.0 + tick * 0.1)
    assert 30 * MB < progress.rate(5.0) < 50 * MB


def test_it_is_told_by_device_and_by_pg() -> None:
    progress = Progress()
    for tick in range(100):
        progress.add(tick % 2, {7: MB, 8: 2 * MB}, tick * 0.1)
    assert progress.by_device == {7: 100 * MB, 8: 200 * MB}
    assert progress.by_pg == {0: 150 * MB, 1: 150 * MB}
    assert progress.extents == 100
    assert 1.8 < progress.device_rate(8, 9.9) / progress.device_rate(7, 9.9) < 2.2
    assert abs(progress.pg_rate(0, 9.9) + progress.pg_rate(1, 9.9) - progress.rate(9.9)) < 1
    progress.idle()
    assert progress.bytes == progress.extents == 0
    assert progress.total_bytes == 300 * MB


@settings(max_examples=100, deadline=None)
@given(pauses=st.lists(st.floats(0.0, 30.0), max_size=60))
def test_the_rate_forgets_what_is_long_ago(pauses: list[float]) -> None:
    progress, now = Progress(), 1.0
    for pause in pauses:
        now += pause
        progress.add(1, {1: MB}, now)
        assert progress.rate(now) >= 0
    assert progress.rate(now + SPAN_S + 1) == 0
    assert progress.bytes == len(pauses) * MB
