"""What `reedbed catalog` and `reedbed status` say of a catalog's copy, and of one that was begun anew."""

from __future__ import annotations

from typing import Any

import pytest

from reedbed.cli import begun
from reedbed.cli.main import run

MISSING = {"term": 3, "from": 8, "to": 11, "open": False}


def done(**more: Any) -> dict[str, Any]:
    return {
        "cluster": "0f" * 16,
        "redo": 1234,
        "log": {"term": 3, "seq": 7},
        "rows": 5000,
        "records": 12,
        "snapshot_us": 0,
        "last_us": 0,
        "devices_away": [],
        "complete": True,
        "unreadable": [],
        "skipped": [],
        "missing": None,
        "term": 2_000_000_000,
        "held": {"from": "0" * 32, "to": "f" * 32},
        "forgotten": [],
        "age_s": None,
        "grace_s": None,
        "past_grace": False,
        **more,
    }


def copy(**more: Any) -> dict[str, Any]:
    return {
        "settled": True,
        "unconfirmed": False,
        "age_s": 0.0,
        "behind_records": 0,
        "problem": "",
        "snapshot": {"bytes": 2048, "age_s": 90.0, "redo": 3},
        "taking_bytes": None,
        **more,
    }


def test_a_rebuild_tells_from_what_and_how_to_serve_it() -> None:
    lines = list(begun.done_lines("rebuilt", done(), "/new"))
    assert "as of redo record 1,234, log entry 7 of term 3" in lines[0]
    assert lines[1].startswith("from: 5,000 rows of ")
    assert lines[-1] == "serve: in a term above 2000000000, with: reedbed catalogd --dir /new"
    assert list(begun.fault_lines(done())) == []


def test_a_plan_tells_of_no_rows_that_it_did_not_read() -> None:
    lines = list(begun.done_lines("would rebuild", done(log=None, rows=0, term=None, held=None), ""))
    assert lines[1].startswith("from: a snapshot of ")
    assert len(lines) == 2


def test_what_is_missing_is_named_as_far_as_it_is_known() -> None:
    assert begun.missing_text(MISSING) == "log entries 8 to 11 of term 3"
    assert begun.missing_text({**MISSING, "open": True}).startswith("log entries from 8 on")
    assert begun.missing_text({**MISSING, "to": None, "open": True}).endswith("if there were any (term 3)")
    told = list(begun.fault_lines(done(missing=MISSING, complete=False, unreadable=["redo records 5 to 9"])))
    assert [line.partition(":")[0] for line in told] == [
        "missing",
        "devices are away that may know of more",
        "unreadable",
    ]


def test_status_tells_how_far_behind_the_copy_is() -> None:
    assert begun.copy_text(copy()).startswith("holds everything; snapshot of 2.0 KiB")
    assert "3 redo records wait" in begun.copy_text(copy(settled=False, behind_records=3))
    assert begun.copy_text(copy(problem="no room")).endswith("It cannot go on: no room")
    assert begun.copy_text(copy(snapshot=None)) == "none yet: a snapshot is due"


def test_what_is_missing_degrades_the_cluster_and_a_full_disk_too() -> None:
    told = {"begun_anew": [{"missing": MISSING}, {"missing": None}], "disk": {"used": 1, "room": -1}}
    assert list(begun.reasons(told)) == [
        "the catalog lacks log entries 8 to 11 of term 3",
        "the catalog's disk is full",
    ]


@pytest.mark.parametrize("option", [("--endpoint", "127.0.0.1:1"), ("--json",), ("--timeout", "3")])
def test_no_option_of_held_delete_is_passed_over(option: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["catalog", "held", *option, "delete", "--all", "--yes"]) == 2
    assert f"{option[0]} of `delete` comes after its name" in capsys.readouterr().err
