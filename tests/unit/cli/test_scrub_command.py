"""Which devices `reedbed scrub` asks, and what it and `reedbed status` show of them."""

from __future__ import annotations

from typing import Any

import pytest

from reedbed.cli import scrubs
from reedbed.cli.scrub import chosen, lines, row_of
from reedbed.common.errors import NotFound, Unavailable

STATUS = {
    "devices": [
        {"id": 3, "state": "failed", "address": "c"},
        {"id": 1, "state": "up", "address": "a"},
        {"id": 2, "state": "down", "address": "b"},
    ]
}


def told(passes: int, compared: int, **more: Any) -> dict[str, Any]:
    scrub = {"passes": passes, "phase": "segments", "read": 10, "left": 5, "rate": 2.4, "found": 1, "error": ""}
    return {
        "scrub": {**scrub, "last_read": 15, "last_found": 4, **more},
        "compared": {"passes": compared, "missing": 6, "garbage": 7, "unknown": 8, "error": ""},
    }


def test_those_that_serve_are_asked_or_those_that_are_named() -> None:
    assert [device["id"] for device in chosen(STATUS, [])] == [1, 3]
    assert [device["id"] for device in chosen(STATUS, [3, 3])] == [3]
    with pytest.raises(NotFound, match="no device 9"):
        chosen(STATUS, [1, 9])
    with pytest.raises(Unavailable, match="is down"):
        chosen(STATUS, [2])


def test_a_pass_is_done_once_it_is_read_and_compared() -> None:
    under_way = row_of(1, 4, told(3, 3))
    assert (under_way["done"], under_way["phase"], under_way["read"], under_way["damaged"]) == (
        False,
        "segments",
        10,
        1,
    )
    read = row_of(1, 4, told(4, 3))
    assert (read["done"], read["phase"], read["read"], read["left"], read["damaged"]) == (False, "comparing", 15, 0, 4)
    done = row_of(1, 4, told(4, 4))
    assert (done["done"], done["phase"], done["missing"], done["garbage"]) == (True, "done", 6, 7)


def test_an_error_is_in_the_row() -> None:
    row = row_of(1, 4, told(3, 3, error="the disk hums"))
    assert row["error"] == "the disk hums"
    header, text = lines([row])
    assert header.split()[:2] == ["DEVICE", "PHASE"]
    assert text.endswith("the disk hums")


def test_status_tells_how_far_scrubbers_are() -> None:
    scrub = {
        "phase": "segments",
        "passes": 3,
        "done": 3 << 30,
        "left": 1 << 30,
        "rate": 1 << 20,
        "found": 2,
        "last_found": 7,
        "last_end_us": 1_700_000_000_000_000,
        "compared": 3,
        "missing": 5,
        "error": "",
    }
    resting = {**scrub, "phase": "resting", "left": 0, "rate": 0, "error": "no disk", "last_end_us": 0}
    header, one, two = scrubs.lines([{"id": 2, "scrub": resting}, {"id": 1, "scrub": scrub}, {"id": 3, "scrub": {}}])
    assert header.split()[:2] == ["DEVICE", "SCRUB"]
    assert one.split()[:11] == ["1", "segments", "75%", "1.0", "GiB,", "17", "min", "1.0", "MiB/s", "2", "5"]
    assert two.split()[:8] == ["2", "resting", "-", "-", "-", "7", "5", "never"]
    assert two.endswith("no disk")
    assert list(scrubs.lines([{"id": 3}])) == []
    assert [scrubs.span(seconds) for seconds in (0, 119, 120, 7200, 172800)] == ["0 s", "119 s", "2 min", "2 h", "2 d"]
