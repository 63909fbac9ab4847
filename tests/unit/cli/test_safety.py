from __future__ import annotations

from typing import Any

import pytest

from reedbed.cli.health import health, lines
from reedbed.cli.safety import duration_text, facts, missing_at, reason


def keeping(**more: Any) -> dict[str, Any]:
    return {
        "extents": 0,
        "shards": 0,
        "bytes_left": 0,
        "bytes_done": 0,
        "rate": 0,
        "seconds_left": 0.0,
        "survives": {"rs-4-2": 2},
        "at_risk_s": 0.0,
        "noting_pgs": 0,
        "stuck_positions": 0,
        "moving_positions": 0,
        "devices": {},
        "pgs": [],
        "balancing": None,
        "idle": [],
        "full": [],
        **more,
    }


def test_a_quiet_cluster_says_what_it_survives() -> None:
    told = dict(facts(keeping(survives={"rs-4-2": 2, "rs-10-1": 1})))
    assert told == {"safety": "rs-4-2 survives 2 more losses, rs-10-1 survives 1 more loss", "repair": "nothing to do"}
    assert reason(keeping()) == ""
    assert dict(facts(keeping(survives={})))["safety"] == "nothing is stored yet"


def test_repair_tells_bytes_rate_time_and_risk() -> None:
    busy = keeping(
        extents=1200,
        shards=1300,
        bytes_left=3 << 30,
        bytes_done=1 << 30,
        rate=100 << 20,
        seconds_left=30.7,
        survives={"rs-4-2": 0},
        at_risk_s=75.0,
        stuck_positions=3,
        moving_positions=40,
        devices={"7": {"shards": 1300, "bytes": 3 << 30, "done": 1 << 30, "rate": 100 << 20, "seconds_left": 30.7}},
    )
    told = dict(facts(busy))
    assert told["repair"] == (
        "1,300 shards of 1,200 extents to write, 3.0 GiB left, 1.0 GiB done (25%), at 100.0 MiB/s, 31 s left"
    )
    assert told["safety"] == "rs-4-2 survives 0 more losses; extents have lacked shards for 1 min 15 s"
    assert "3 positions" in told["no place"]
    assert "40 positions" in told["moving"]
    assert "no further loss" in reason(busy)
    assert (missing_at(busy, 7), missing_at(busy, 8)) == (1300, 0)
    assert "not known" in dict(facts({**busy, "rate": 0, "seconds_left": None}))["repair"]


@pytest.mark.parametrize(("count", "level"), [(2, "healthy"), (0, "degraded"), (-1, "failing")])
def test_health_follows_what_is_survived(count: int, level: str) -> None:
    device = {"state": "up", "address": "a:1", "host": "", "rack": "", "zone": "", "capacity": 1, "used": 0}
    status = {
        "cluster": "c",
        "term": 1,
        "epoch": 1,
        "level": "device",
        "default_profile": "rs-4-2",
        "horizon": "0",
        "log": {"term": 1, "seq": 1, "floor": 1},
        "counts": {"buckets": 1, "objects": 1, "versions": 1, "bytes": 1, "live_extents": 1, "uploads": 0},
        "devices": [{**device, "id": number, "shards": 1, "damaged": 0} for number in range(6)],
        "pgs": {"rs-4-2": 1},
        "queues": {"removals": 0, "degraded": 0, "dropped": 0},
        "keeping": keeping(survives={"rs-4-2": count}),
    }
    assert health(status).level == level
    assert any(line.startswith("safety:") for line in lines(status))


def test_durations_have_at_most_two_units() -> None:
    told = [duration_text(seconds) for seconds in (0, 59.4, 60, 185, 7800, 90000, 172800)]
    assert told == ["0 s", "59 s", "1 min", "3 min 5 s", "2 h 10 min", "1 d 1 h", "2 d"]
