"""A report as people read it: Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from reedbed.bench.report import NGINX, MediumReport, Report, RowReport, Summary, spread
from reedbed.common.limits import GIB

_TITLES = {"ram": "In memory", "disk": "On disk", "cluster": "An existing cluster"}
_BUSY = 0.1  # of all cores
_PARTS = ("client", "catalogd", "storaged")


def number(value: float) -> str:
    """Three digits or more, as short as that allows."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def percent(value: float) -> str:
    return f"{value * 100:.0f} %"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """One Markdown table; all columns but the first are of numbers, and flush right."""
    cells = [list(headers), *(list(row) for row in rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        padded = [
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * width if not column else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return [line(cells[0]), line(rule), *map(line, cells[1:])]


def _unit(row: RowReport, value: float) -> str:
    return f"{number(value)} {row.unit}"


def _rates(row: RowReport) -> list[str]:
    ours, nginx = row.summary, row.nginx_summary
    goals = "; ".join(
        f"{number(goal.wanted)} {goal.what}: {'met' if goal.met else 'short, ' + number(goal.reached)}"
        for goal in row.goals
    )
    return [
        row.name,
        _unit(row, ours.value) if ours else "failed",
        percent(ours.spread) if ours else "",
        _unit(row, nginx.value) if nginx else "",
        percent(nginx.spread) if nginx else "",
        f"{row.ratio:.3f}" if row.ratio is not None else "",
        f"{row.cpu_ratio:.3f}" if row.cpu_ratio is not None else "",
        f"{row.limit.share:.3f} of {row.limit.limit}" if row.limit else "",
        goals,
    ]


def _parts(ours: Summary | None, values: dict[str, float] | None, names: Sequence[str] = _PARTS) -> str:
    if ours is None or values is None:
        return ""
    return " + ".join(number(values[name]) if name in values else "?" for name in names)


def _cost(row: RowReport) -> list[str]:
    ours, nginx = row.summary, row.nginx_summary
    measured = [one for one in row.reedbed if one is not None]
    seconds = (
        {part: statistics.median(one.cpu[part] for one in measured) for part in measured[0].cpu} if measured else {}
    )
    return [
        row.name,
        f"{sum(one.operations for one in measured):,}",
        f"{sum(one.bytes for one in measured) / 1e6:,.0f}",
        f"{number(ours.p50_ms)} / {number(ours.p99_ms)}" if ours else "",
        f"{number(nginx.p50_ms)} / {number(nginx.p99_ms)}" if nginx else "",
        _parts(ours, seconds),
        number(sum(ours.cpu_ms.values())) if ours else "",
        number(sum(nginx.cpu_ms.values())) if nginx else "",
        percent(ours.others) if ours else "",
        _parts(ours, {part: value / 1e6 for part, value in ours.rss.items()} if ours else None),
        f"{ours.disk_per_byte:.2f}" if ours and ours.disk_per_byte is not None else "",
    ]


def _limits(medium: MediumReport) -> list[str]:
    names = list(medium.limits[0]) if medium.limits else []
    rows = []
    for name in names:
        values = [limits[name]["value"] for limits in medium.limits]
        middle = f"{number(statistics.median(values))} {medium.limits[0][name]['unit']}"
        rows.append([name, middle, percent(spread(values))])
    return table(("limit", "median", "spread"), rows) if rows else []


def medium_lines(name: str, medium: MediumReport) -> list[str]:
    """All that was measured on one medium."""
    title = _TITLES.get(name, name)
    lines = [f"## {title}: {medium.file_system}", ""]
    headers = ("work", "Reedbed", "spread", "nginx", "spread", "ratio", "by CPU", "of this machine's limit", "goals")
    lines += [*table(headers, map(_rates, medium.rows)), ""]
    headers2 = (
        "work",
        "operations",
        "MB",
        "p50 / p99 ms",
        "nginx's",
        "CPU s: client + catalogd + storaged",
        "CPU ms each",
        "nginx's",
        "others' CPU",
        "RSS MB: client + catalogd + storaged",
        "disk bytes a byte",
    )
    lines += [*table(headers2, map(_cost, medium.rows)), ""]
    if medium.limits:
        lines += [*_limits(medium), ""]
    lines += [f"- {row.name} failed: {row.error}" for row in medium.rows if row.error]
    if any(row.error for row in medium.rows):
        lines.append("")
    return lines


def head_lines(report: Report) -> list[str]:
    """What was measured, and on what."""
    machine, settings = report.machine, report.settings
    what = f"{settings.repetitions} repetitions of {settings.seconds:g} s a row"
    return [
        f"# Reedbed {report.reedbed}: objects",
        "",
        f"- began {report.began}, took {report.took_s:.0f} s; {what}"
        + (", quick: these figures say little" if settings.quick else ""),
        f"- Python {machine.python} at {machine.interpreter}: {machine.optimised}",
        f"- {machine.kernel}, {machine.processor}, {machine.cores} cores, {machine.memory / GIB:.0f} GiB",
        f"- {NGINX}: {report.nginx}",
        *_busy_words(report),
        "",
    ]


def _busy_words(report: Report) -> list[str]:
    """That others were at work, if that is so: rates say little then, CPU for each operation more."""
    shares = [row.summary.others for part in report.media.values() for row in part.rows if row.summary]
    if not shares or statistics.median(shares) < _BUSY:
        return []
    return [
        f"- a busy machine: others had {percent(statistics.median(shares))} of its cores, in the median of the rows"
    ]


def goal_lines(report: Report) -> list[str]:
    """Which goals are met, and which are not."""
    found = [(medium, row, goal) for medium, part in report.media.items() for row in part.rows for goal in row.goals]
    if not found:
        return []
    short = [one for one in found if not one[2].met]
    lines = [f"{len(found) - len(short)} of {len(found)} goals are met{'; short are:' if short else '.'}", ""]
    for medium, row, goal in short:
        lines.append(
            f"- {row.name}, {_TITLES.get(medium, medium).lower()}: {number(goal.reached)} of {number(goal.wanted)} "
            f"{goal.what}, {percent(goal.part)}"
        )
    return [*lines, ""] if short else lines


def report_lines(report: Report) -> list[str]:
    """The whole report."""
    lines = head_lines(report)
    for name, medium in report.media.items():
        lines += medium_lines(name, medium)
    return lines + goal_lines(report)
