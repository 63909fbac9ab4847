"""Plain line charts as SVG: a few panels beside each other, logarithmic axes, each line named at its end."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH, _HEIGHT = 460, 300  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 118, 44, 46
_COLUMNS = 2
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#886600", "#555555")
_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#333}.title{font-weight:600;font-size:13px}"
    ".page{font-weight:600;font-size:16px}.grid{stroke:#e3e3e3}.axis{stroke:#999}"
    ".line{fill:none;stroke-width:2;stroke-linejoin:round}.mark{stroke:#fff;stroke-width:1.5}.name{font-size:11px}"
)
_LINE_HEIGHT: Final = 13


@dataclass(frozen=True)
class Line:
    """One line: a name and points (x, y), all above zero."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One chart. Both axes are logarithmic; `binary` counts x in powers of two, as sizes are."""

    title: str
    x: str
    lines: Sequence[Line]
    binary: bool = False


def short(value: float) -> str:
    """A number of an axis: 20, 3 k, 1.5 M."""
    for factor, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{name}"
    return f"{value:.3g}"


def size(value: float) -> str:
    """Bytes of an axis: 4 KiB."""
    for factor, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if value >= factor:
            return f"{value / factor:g} {name}"
    return f"{value:g} B"


def page(title: str, panels: Sequence[Panel]) -> str:
    """A whole picture."""
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = columns * _WIDTH, rows * _HEIGHT + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text class="page" x="16" y="24">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        x, y = number % columns * _WIDTH, number // columns * _HEIGHT + 34
        parts += [f'<g transform="translate({x} {y})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two bounds: powers of ten, and where these are few, 2 and 5 times them."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        found = [step * 10.0**decade for decade in decades for step in steps]
        found = [tick for tick in found if low <= tick * 1.0001 and tick <= high * 1.0001]
        if len(found) >= 3:
            return found
    return found or [low, high]


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """With some room, and never so near to each other that noise looks like growth."""
    low, high = min(values) / 1.15, max(values) * 1.15
    if high / low < 4:
        middle = math.sqrt(low * high)
        low, high = middle / 2, middle * 2
    return low, high


def _apart(places: Sequence[float], low: float, high: float) -> list[float]:
    """Places of labels, moved so that none lies on another."""
    order = sorted(range(len(places)), key=lambda number: places[number])
    moved = list(places)
    for before, number in itertools.pairwise(order):
        moved[number] = max(moved[number], moved[before] + _LINE_HEIGHT)
    if order and moved[order[-1]] > high:
        moved[order[-1]] = high
        for number, after in zip(reversed(order[:-1]), reversed(order), strict=False):
            moved[number] = min(moved[number], moved[after] - _LINE_HEIGHT)
    return [max(low, place) for place in moved]


def _panel(panel: Panel) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [f'<text class="title" x="16" y="20">{escape(panel.title)}</text>']
    xs = [x for line in panel.lines for x, _ in line.points]
    ys = [y for line in panel.lines for _, y in line.points]
    if not xs:
        return [*parts, f'<text x="{_LEFT}" y="{_TOP + 20}">nothing was measured</text>']
    low_x, high_x = min(xs), max(xs)
    low_y, high_y = _bounds(ys)

    def at_x(value: float) -> float:
        if low_x == high_x:
            return (_LEFT + right) / 2
        return _LEFT + math.log(value / low_x) / math.log(high_x / low_x) * (right - _LEFT)

    def at_y(value: float) -> float:
        return bottom - math.log(value / low_y) / math.log(high_y / low_y) * (bottom - _TOP)

    for tick in ticks(low_y, high_y):
        y = at_y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    marks = sorted(set(xs))
    step = math.ceil(len(marks) / 5)
    for tick in marks[::-step]:
        words = size(tick) if panel.binary else short(tick)
        parts.append(f'<text x="{at_x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{words}</text>')
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{bottom + 36}" text-anchor="middle">{escape(panel.x)}</text>')
    labels = _apart([at_y(line.points[-1][1]) for line in panel.lines if line.points], _TOP, bottom)
    drawn = [line for line in panel.lines if line.points]
    for number, (line, label) in enumerate(zip(drawn, labels, strict=True)):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [(at_x(x), at_y(y)) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line" stroke="{colour}" points="{path}"/>')
        parts += [f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in places]
        name = escape(line.name)
        parts.append(f'<text class="name" x="{right + 10}" y="{label + 4:.1f}" style="fill:{colour}">{name}</text>')
    return parts
