from __future__ import annotations

from typing import Any

import pytest

from reedbed.cli import health as healths
from reedbed.cli.device import shares_text
from reedbed.cli.health import health
from reedbed.cli.repairs import lines
from reedbed.cli.safety import duration_text, facts, lacking, losses_text, missing_at, reason


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


def test_devices_that_lack_room_or_a_share_are_told_with_what_to_do() -> None:
    balancing = {"targets": [7, 8], "all": False, "positions_left": 40, "bytes_left": 1 << 30}
    told = dict(facts(keeping(idle=[9, 11], full=[3], balancing=balancing)))
    assert told["idle"].endswith("reedbed device add 9 11")
    assert "devices 3" in told["full"]
    assert told["balancing"] == "devices 7, 8 get their share, 40 positions with about 1.0 GiB are still to begin"
    assert dict(facts(keeping(balancing={**balancing, "all": True})))["balancing"].startswith("all devices")
    assert lacking(keeping()) == ""
    assert "repair lacks devices: 3 positions" in lacking(keeping(stuck_positions=3))


def test_repair_is_told_for_each_device_and_for_the_pgs_in_the_greatest_danger() -> None:
    pg = {"extents": 2, "shards": 3, "bytes": 4 << 20, "done": 0, "rate": 0, "seconds_left": None, "at_risk_s": 300.0}
    busy = keeping(
        devices={
            "10": {"shards": 5, "bytes": 20 << 20, "done": 1 << 20, "rate": 2 << 20, "seconds_left": 10.0},
            "2": {"shards": 0, "bytes": 0, "done": 8, "rate": 0, "seconds_left": 0.0},
        },
        pgs=[{**pg, "pg": number, "survives": None if number == 6 else number % 2} for number in range(3, 12)],
    )
    text = list(lines(busy))
    assert [line.split()[0] for line in text[:3]] == ["DEVICE", "2", "10"]
    assert text[2].split() == ["10", "5", "20.0", "MiB", "1.0", "MiB", "2.0", "MiB/s", "10", "s"]
    assert text[3] == ""
    assert text[5].split() == ["3", "2", "3", "4.0", "MiB", "0", "B", "not", "known", "1", "5", "min"]
    assert text[-1].startswith("and 4 others")
    assert list(lines(keeping())) == []


def test_losses_are_told_with_names() -> None:
    lost = {"extents": 12, "bytes": 3 << 20, "objects": 7, "names": ["reedbed://data/a", "reedbed://data/b"]}
    assert losses_text(lost) == (
        "12 extents with 3.0 MiB of 7 objects could not be read any more, among them reedbed://data/a, reedbed://data/b"
    )
    assert losses_text({**lost, "names": []}).endswith("any more")


NOTHING: dict[str, Any] = {"positions": 0, "bytes": 0, "new_pgs": {}, "by_device": []}


@pytest.mark.parametrize(
    ("more", "plan", "text"),
    [
        (
            {
                "positions": 167,
                "bytes": 3 << 30,
                "new_pgs": {"rs-4-2": 33},
                "by_device": [{"device": 7, "positions": 9}],
            },
            False,
            "167 positions with about 3.0 GiB move, to device 7: 9; new placement groups: 33 of rs-4-2",
        ),
        ({"positions": 2, "bytes": 8}, True, "2 positions with about 8 B would move"),
        ({}, True, "nothing to do, every device has its share"),
    ],
)
def test_what_a_share_takes_is_told(more: dict[str, Any], plan: bool, text: str) -> None:
    assert shares_text({**NOTHING, **more}, plan) == text


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
    assert any(line.startswith("safety:") for line in healths.lines(status))


def test_durations_have_at_most_two_units() -> None:
    told = [duration_text(seconds) for seconds in (0, 59.4, 60, 185, 7800, 90000, 172800)]
    assert told == ["0 s", "59 s", "1 min", "3 min 5 s", "2 h 10 min", "1 d 1 h", "2 d"]
