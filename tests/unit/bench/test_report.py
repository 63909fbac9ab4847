"""The report: medians, ratios within repetitions, goals, and what is written and read back."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from reedbed.bench.against import against_lines, verdict
from reedbed.bench.markdown import number, report_lines, table
from reedbed.bench.report import Report, RowReport, read_report, spread
from reedbed.common.errors import InvalidArgument


def row(report: Report, medium: str, name: str) -> RowReport:
    return next(one for one in report.media[medium].rows if one.name.startswith(name))


def test_medians_spread_and_cost(report: Report) -> None:
    summary = row(report, "ram", "PUT 4 KiB x32").summary
    assert summary is not None
    assert summary.value == pytest.approx(11_000)
    assert summary.spread == pytest.approx(4_000 / 11_000)
    assert summary.cpu_ms == pytest.approx({"client": 1.0, "catalogd": 1.0, "storaged": 1.0})
    assert summary.rss == {"client": 1_000_000, "catalogd": 1_000_000, "storaged": 1_000_000}
    assert summary.disk_per_byte == pytest.approx(1.5)
    assert summary.others == pytest.approx(0.8 / 2 / 2, rel=0.01)
    assert summary.p50_ms == pytest.approx(1.0, rel=1e-3)
    assert summary.p99_ms == pytest.approx(2.0, rel=1e-3)


def test_the_ratio_is_the_median_of_ratios_within_repetitions(report: Report) -> None:
    # 0.8, 0.6, 1.1; medians would give 1.1
    assert row(report, "ram", "PUT 4 KiB x32").ratio == pytest.approx(0.8)
    assert row(report, "ram", "GET 64 MiB x2").ratio == pytest.approx(0.8)
    assert row(report, "ram", "LIST").ratio is None
    assert row(report, "ram", "PUT 4 KiB x32").cpu_ratio == pytest.approx(2 / 3)  # of two parts to three
    assert row(report, "ram", "LIST").cpu_ratio is None


def test_goals_in_memory(report: Report) -> None:
    absolute, to_nginx = row(report, "ram", "PUT 4 KiB x32").goals
    assert (absolute.what, absolute.wanted, absolute.met) == ("1/s", 10_000, True)
    assert absolute.reached == pytest.approx(11_000)
    assert (to_nginx.what, to_nginx.wanted, to_nginx.met) == ("of nginx", 0.7, True)
    healthy, ratio = row(report, "ram", "GET 64 MiB x2").goals
    assert (healthy.met, ratio.met) == (True, False)  # 2,000 of 2,000, and 0.8 of 0.85
    (put,) = row(report, "ram", "PUT 64 MiB x2").goals  # nginx was not measured
    assert (put.wanted, put.met) == (1000, False)


@pytest.mark.parametrize("medium", ["ram", "disk"])
def test_two_dead_are_compared_with_the_healthy_of_the_same_repetition(report: Report, medium: str) -> None:
    (goal,) = row(report, medium, "GET 64 MiB x2, 2 of 6").goals
    assert (goal.what, goal.wanted, goal.met) == ("of healthy", 0.7, True)
    assert goal.reached == pytest.approx(0.9)  # 0.9, 0.6, 0.9


def test_goals_on_disk_move_with_what_the_disk_does(report: Report) -> None:
    (syncs,) = row(report, "disk", "PUT 4 KiB x32").goals
    # 6,000 where a sync takes 0.3 ms, half of 32 / 18 ms where it takes 6
    assert syncs.wanted == pytest.approx(6_000)
    assert syncs.part == pytest.approx(11_000 / 6_000)
    assert syncs.met
    (appends,) = row(report, "disk", "PUT 64 MiB x2").goals
    assert appends.wanted == pytest.approx(0.7 * 900 / 1.5)
    assert appends.part == pytest.approx(500 / 420)
    assert row(report, "disk", "GET 64 MiB x2").goals == []


def test_a_row_that_failed_says_why(report: Report) -> None:
    failed = row(report, "ram", "LIST")
    assert failed.error == "Unavailable: nobody answers"
    assert [one is None for one in failed.reedbed] == [False, True, False]
    assert failed.summary is not None
    assert report.failed


def test_what_is_written_is_read(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "objects.json"
    path.write_bytes(msgspec.json.encode(report))
    assert read_report(path) == report


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "[]", "{}", '{"kind": "objects", "format": 2}', '{"kind": "objects", "format": 1}', "\0\xff"],
)
def test_what_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "objects.json"
    path.write_text(text, "latin-1")
    with pytest.raises(InvalidArgument, match="no report of this benchmark"):
        read_report(path)


def test_a_report_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot read the earlier report"):
        read_report(tmp_path / "none.json")
    with pytest.raises(InvalidArgument, match="cannot read the earlier report"):
        read_report(tmp_path)


def test_the_tables_are_markdown(report: Report) -> None:
    lines = report_lines(report)
    tables = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 3  # rates, costs, limits
    text = "\n".join(lines)
    assert "| PUT 4 KiB x32 " in text
    assert "10,000 1/s: met" in text
    assert "failed: Unavailable: nobody answers" in text
    assert "- GET 64 MiB x2, in memory: 0.80 of 0.85 of nginx, 94 %" in text
    assert "a busy machine: others had 20 %" in text


def test_a_table_is_as_wide_as_its_cells() -> None:
    assert table(("a", "b"), [("word", "1")]) == ["| a    |   b |", "| ---- | --: |", "| word |   1 |"]


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,346"), (99.94, "99.9"), (9.999, "10.00"), (0.01234, "0.012")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_spread_of_nothing_that_moves() -> None:
    assert spread([0.0, 0.0]) == 0.0
    assert spread([2.0]) == 0.0


def changed(report: Report, factor: float) -> Report:
    """The same report with all of our values times a factor."""
    fields = json.loads(msgspec.json.encode(report))
    for medium in fields["media"].values():
        for one in medium["rows"]:
            if one["summary"]:
                one["summary"]["value"] *= factor
    return msgspec.json.decode(json.dumps(fields), type=Report)


@pytest.mark.parametrize(("factor", "word"), [(2.0, "faster"), (0.4, "slower"), (1.1, "within the spread")])
def test_a_change_counts_when_it_is_beyond_the_spread(report: Report, factor: float, word: str) -> None:
    before, now = row(report, "ram", "PUT 4 KiB x32"), row(changed(report, factor), "ram", "PUT 4 KiB x32")
    assert verdict(before, now) == word
    now.reedbed = now.reedbed[:1]
    assert verdict(before, now) == ""


def test_against_an_earlier_report(report: Report) -> None:
    now = changed(report, 2.0)
    now.machine.kernel = "Linux 7"
    del now.media["disk"]
    text = "\n".join(against_lines(report, now))
    assert "another kernel: Linux 6, now Linux 7" in text
    assert "| ram: PUT 4 KiB x32 " in text
    assert "+100 %" in text
    assert "disk:" not in text
    report.media = {}
    assert "No row was measured in both." in against_lines(report, now)
