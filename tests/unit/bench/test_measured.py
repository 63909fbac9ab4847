"""Windows of several clients become one measurement; what processes use is read from the kernel."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from array import array

from hypothesis import given
from hypothesis import strategies as st

from reedbed.bench.measured import (
    Window,
    busy_seconds,
    children_of,
    combine,
    cpu_seconds,
    histogram_of,
    percentile_ms,
    resident,
)
from reedbed.common.limits import MIB


def test_windows_are_one_measurement() -> None:
    windows = [
        Window(2, 10.0, 12.0, 0.5, 100, array("I", [1_000, 3_000])),
        Window(1, 10.5, 14.0, 0.25, 50, array("I", [2_000])),
    ]
    measurement, times = combine(windows, 1_000_000, {"storaged": 1.5}, {"storaged": 7})
    assert (measurement.operations, measurement.bytes, measurement.seconds) == (3, 3_000_000, 4.0)
    assert (measurement.per_second, measurement.rate) == (0.75, 0.75)
    assert measurement.cpu == {"client": 0.75, "storaged": 1.5}
    assert measurement.rss == {"client": 150, "storaged": 7}
    assert measurement.cpu_ms == 750.0
    assert round(measurement.p50_ms, 2) == 2.0
    assert times.get_total_count() == 3


@given(st.lists(st.integers(0, 100_000_000), min_size=1, max_size=200), st.sampled_from([50.0, 99.0]))
def test_percentiles_are_right_to_three_digits(values: list[int], percent: float) -> None:
    rank = max(1, math.ceil(percent / 100 * len(values)))
    exact = max(1, sorted(values)[rank - 1])
    found = percentile_ms(histogram_of([values]), percent) * 1e3
    assert abs(found - exact) <= exact / 1000 + 1


def test_a_process_is_seen_at_work() -> None:
    before, busy = cpu_seconds([os.getpid()]), busy_seconds()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert cpu_seconds([os.getpid()]) - before >= 0.03
    assert busy_seconds() - busy >= 0.03
    assert MIB < resident([os.getpid()]) < 10_000 * MIB


def test_children_are_seen_and_the_dead_count_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in children_of(os.getpid())
        both = resident([os.getpid(), child.pid])
        child.communicate(b"\n")
    assert both > 0
    assert (cpu_seconds([child.pid]), resident([child.pid]), children_of(child.pid)) == (0.0, 0, [])
