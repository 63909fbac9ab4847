"""A report beside an earlier one."""

from __future__ import annotations

from typing import Final

from reedbed.bench.markdown import number, table
from reedbed.bench.report import Report, RowReport

_ENOUGH: Final = 2  # repetitions, to know how far they lie apart


def verdict(before: RowReport, now: RowReport) -> str:
    """Whether a row changed by more than what the repetitions of either run lie apart; no word on single ones."""
    first, second = before.summary, now.summary
    if first is None or second is None or min(_measured(before), _measured(now)) < _ENOUGH or not first.value:
        return ""
    change = second.value / first.value - 1
    if abs(change) <= max(first.spread, second.spread):
        return "within the spread"
    return "faster" if change > 0 else "slower"


def _measured(row: RowReport) -> int:
    return sum(one is not None for one in row.reedbed)


def _change(before: float, now: float) -> str:
    return f"{(now / before - 1) * 100:+.0f} %" if before else ""


def _row(medium: str, before: RowReport, now: RowReport) -> list[str]:
    assert before.summary is not None
    assert now.summary is not None
    first, second = before.summary, now.summary
    cpu = [sum(summary.cpu_ms.values()) for summary in (first, second)]
    both = before.ratio is not None and now.ratio is not None
    return [
        f"{medium}: {now.name}",
        f"{number(first.value)} {before.unit}",
        f"{number(second.value)} {now.unit}",
        _change(first.value, second.value),
        f"{number(cpu[0])} → {number(cpu[1])}",
        _change(cpu[0], cpu[1]),
        f"{before.ratio:.3f} → {now.ratio:.3f}" if both else "",
        _change(before.ratio or 0, now.ratio or 0) if both else "",
        verdict(before, now),
    ]


def against_lines(before: Report, now: Report) -> list[str]:
    """Rows that both reports measured, and what of the machine differs."""
    lines = [f"## Against Reedbed {before.reedbed} of {before.began}", ""]
    for what in ("interpreter", "python", "kernel", "processor", "cores"):
        was, is_ = getattr(before.machine, what), getattr(now.machine, what)
        if was != is_:
            lines.append(f"- another {what}: {was}, now {is_}")
    if lines[-1]:
        lines.append("")
    rows = []
    for medium, part in now.media.items():
        earlier = before.media.get(medium)
        known = {row.name: row for row in earlier.rows if row.summary} if earlier else {}
        rows += [_row(medium, known[row.name], row) for row in part.rows if row.summary and row.name in known]
    if not rows:
        return [*lines, "No row was measured in both.", ""]
    headers = ("work", "before", "now", "change", "CPU ms each", "change", "ratio to nginx", "change", "verdict")
    return [*lines, *table(headers, rows), ""]
