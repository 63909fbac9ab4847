"""What `reedbed recode` and `reedbed status` say of recoding and compaction."""

from __future__ import annotations

from typing import Any

from reedbed.cli.recode import added, line
from reedbed.cli.rewrites import facts

TOLD = {"bucket": "data", "prefix": "", "key": "", "profile": "rs-10-2"}


def part(versions: int, after: str) -> dict[str, Any]:
    sums = {
        "versions": versions,
        "concerned": versions - 1,
        "bytes": versions << 20,
        "stored": 3 << 20,
        "then": 2 << 20,
    }
    return {**TOLD, **sums, "after": after}


def test_an_order_tells_where_and_that_it_takes_time() -> None:
    assert line(TOLD, False).startswith("recode: data: to rs-10-2, in the background")
    assert line({**TOLD, "prefix": "logs/"}, False).startswith("recode: data/logs/*: ")
    assert line({**TOLD, "key": "logs/"}, False).startswith("recode: data/logs/: ")


def test_the_parts_of_a_plan_are_added() -> None:
    whole = added(added(part(1000, "6f"), part(1000, "70")), part(5, ""))
    assert (whole["versions"], whole["concerned"], whole["after"]) == (2005, 2002, "")
    assert line(whole, True) == (
        "would recode: data: 2,002 of 2,005 objects and versions to rs-10-2: 2.0 GiB, which take 9.0 MiB on devices "
        "now and 6.0 MiB then"
    )


def rewriting(**more: Any) -> dict[str, Any]:
    return {
        "orders": [],
        "versions_left": 0,
        "bytes_left": 0,
        "sparse_extents": 0,
        "sparse_bytes": 0,
        "compact_below": 50,
        "short": False,
        "tasks": 0,
        "bytes_done": 0,
        "extents_done": 0,
        "rate": 0,
        "seconds_left": 0.0,
        "too_large": 0,
        "stopped": "",
        **more,
    }


def test_status_says_nothing_of_what_is_not_going_on() -> None:
    assert dict(facts(rewriting())) == {}


def test_status_says_how_it_goes_and_what_is_in_its_way() -> None:
    order = {"bucket": "data", "prefix": "a/", "exact": False, "profile": "rs-10-2", "versions_seen": 1500}
    told = dict(
        facts(
            rewriting(
                orders=[order],
                versions_left=2000,
                bytes_left=1 << 30,
                bytes_done=1 << 20,
                rate=10 << 20,
                seconds_left=102.4,
                sparse_extents=7,
                sparse_bytes=5 << 20,
                short=True,
                too_large=3,
                stopped="no room is left",
            )
        )
    )
    assert told == {
        "ordered": "data/a/* to rs-10-2, 1,500 objects and versions looked at",
        "recode": "2,000 objects and versions, 1.0 GiB left, 1.0 MiB rewritten, at 10.0 MiB/s, 1 min 42 s left",
        "compaction": "7 extents below 50%, 5.0 MiB to come back, at 10.0 MiB/s",
        "short": "space is short on a device: compaction goes first",
        "left alone": "3 pieces are too large for the profile that is wanted",
        "stopped": "nothing is rewritten for now: no room is left",
    }
    whole = {**order, "prefix": "", "exact": False}
    assert dict(facts(rewriting(orders=[whole])))["ordered"].startswith("data to rs-10-2")
