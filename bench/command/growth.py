"""How cost grows: the report of `reedbed bench scale`, and what of it grows faster than it may."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from reedbed.bench.machine import Machine
from reedbed.bench.markdown import number, table
from reedbed.bench.measured import Measurement
from reedbed.bench.svg import Line, Panel, page, size

FORMAT: Final = 1
KIND: Final = "scale"
OBJECTS: Final = "objects"
DEVICES: Final = "devices"
CLIENTS: Final = "clients"
SIZES: Final = "sizes"

NOISE: Final = 1.3  # by so much two measurements of the same thing may differ


class Point(msgspec.Struct):
    """One measurement at one place of the scale. `catalog_each`: bytes of the catalog's files for each object."""

    x: float
    measurement: Measurement
    catalog_each: float = 0.0

    @property
    def cpu_ms(self) -> float:
        return self.measurement.cpu_ms

    @property
    def catalog_written(self) -> float:
        """Bytes that catalogd wrote for each operation."""
        return self.measurement.written.get("catalogd", 0) / self.measurement.operations

    @property
    def storage_written(self) -> float:
        return self.measurement.written.get("storaged", 0) / self.measurement.operations


class Series(msgspec.Struct):
    """The same work at several places."""

    name: str
    unit: str
    puts: bool
    points: list[Point] = []

    def value(self, point: Point) -> float:
        return point.measurement.rate if self.unit == "MB/s" else point.measurement.per_second


class Section(msgspec.Struct):
    """Everything that was measured against one quantity."""

    name: str
    title: str
    x: str  # what the quantity is
    file_system: str
    series: list[Series] = []
    note: str = ""


class Growth(msgspec.Struct):
    """How much more one operation costs at `high` than at `low`, beside what a logarithm would allow."""

    series: str
    what: str
    low: float
    high: float
    factor: float
    allowed: float
    fast: bool


class ScaleReport(msgspec.Struct):
    """What `reedbed bench scale` writes."""

    format: int
    kind: str
    reedbed: str
    began: str
    took_s: float
    machine: Machine
    sections: list[Section]
    growth: list[Growth] = []


def growth_of(section: Section) -> list[Growth]:
    """For each work and each step of the number of objects, how its cost grew."""
    found = []
    for series in section.series:
        costs: list[tuple[str, Callable[[Point], float]]] = [("CPU", lambda point: point.cpu_ms)]
        if series.puts:
            costs.append(("bytes that catalogd wrote", lambda point: point.catalog_written))
            costs.append(("bytes of the catalog for each object", lambda point: point.catalog_each))
        for what, cost in costs:
            for low, high in itertools.pairwise(series.points):
                if cost(low) > 0 and low.x > 1:
                    factor, allowed = cost(high) / cost(low), math.log(high.x) / math.log(low.x)
                    found.append(Growth(series.name, what, low.x, high.x, factor, allowed, factor > allowed * NOISE))
    return found


def _x(section: Section, value: float) -> str:
    return size(value) if section.name == SIZES else f"{value:,.0f}"


def section_lines(section: Section) -> list[str]:
    """One section as Markdown."""
    headers = [section.x, "work", "rate", "p50 / p99 ms", "CPU ms each", "RSS MB: client + catalogd + storaged"]
    with_catalog = section.name == OBJECTS
    if with_catalog:
        headers += ["written for each: catalogd + storaged", "catalog bytes an object"]
    rows = []
    for x in sorted({point.x for series in section.series for point in series.points}):
        for series in section.series:
            for point in (point for point in series.points if point.x == x):
                one = point.measurement
                row = [
                    _x(section, x),
                    series.name,
                    f"{number(series.value(point))} {series.unit}",
                    f"{number(one.p50_ms)} / {number(one.p99_ms)}",
                    number(point.cpu_ms),
                    " + ".join(number(one.rss[part] / 1e6) for part in ("client", "catalogd", "storaged")),
                ]
                if with_catalog:
                    row.append(
                        f"{number(point.catalog_written)} + {number(point.storage_written)}" if series.puts else ""
                    )
                    row.append(number(point.catalog_each) if series.puts else "")
                rows.append(row)
    lines = [f"## {section.title}", "", f"On {section.file_system}.", ""]
    if section.note:
        lines += [section.note, ""]
    return [*lines, *table(headers, rows), ""]


def growth_lines(growth: list[Growth]) -> list[str]:
    """What grows faster than a logarithm of the number of objects, and how much the rest grows."""
    if not growth:
        return []
    rows = [
        [
            one.series,
            one.what,
            f"{one.low:,.0f} to {one.high:,.0f}",
            f"{one.factor:.2f}",
            f"{one.allowed:.2f}",
            "too fast" if one.fast else "no",
        ]
        for one in growth
    ]
    fast = sum(one.fast for one in growth)
    words = "Nothing grows" if not fast else f"{fast} of {len(growth)} costs grow"
    lines = [
        "## Growth with the number of objects",
        "",
        f"{words} faster than logarithmically, where measurements may differ by {NOISE:g} times.",
        "",
    ]
    return [*lines, *table(("work", "cost of one", "objects", "times", "a logarithm's", "faster"), rows), ""]


def scale_lines(report: ScaleReport) -> list[str]:
    """The whole report as Markdown."""
    machine = report.machine
    lines = [
        f"# Reedbed {report.reedbed}: how cost grows",
        "",
        f"- began {report.began}, took {report.took_s:.0f} s",
        f"- Python {machine.python} at {machine.interpreter}: {machine.optimised}",
        f"- {machine.kernel}, {machine.processor}, {machine.cores} cores",
        "",
    ]
    for section in report.sections:
        lines += section_lines(section)
    return lines + growth_lines(report.growth)


def pictures(report: ScaleReport) -> Iterator[tuple[str, str]]:
    """File names and SVG texts."""
    for section in report.sections:
        yield f"scale-{section.name}.svg", page(section.title, list(_panels(section)))


def _panels(section: Section) -> Iterator[Panel]:
    binary = section.name == SIZES

    def lines(cost: Callable[[Series, Point], float]) -> list[Line]:
        found = []
        for series in section.series:
            points = [(point.x, cost(series, point)) for point in series.points]
            points = [(x, y) for x, y in points if y > 0]
            if points:
                found.append(Line(series.name, points))
        return found

    for unit in dict.fromkeys(series.unit for series in section.series):
        drawn = lines(_value_in(unit))
        words = "Operations a second" if unit == "1/s" else "MB a second"
        yield Panel(words, section.x, drawn, binary)
    yield Panel("CPU for each operation, ms", section.x, lines(lambda series, point: point.cpu_ms), binary)
    if section.name == OBJECTS:
        of_catalog = [
            Line("catalog an object", _most(section, lambda point: point.catalog_each)),
            Line("catalogd writes", _most(section, lambda point: point.catalog_written)),
            Line("storaged write", _most(section, lambda point: point.storage_written)),
        ]
        yield Panel("Bytes for each object put", section.x, of_catalog, binary)
    memory = [Line(part, _most(section, _memory(part))) for part in ("client", "catalogd", "storaged")]
    yield Panel("Memory, MB", section.x, memory, binary)


def _value_in(unit: str) -> Callable[[Series, Point], float]:
    return lambda series, point: series.value(point) if series.unit == unit else 0.0


def _memory(part: str) -> Callable[[Point], float]:
    return lambda point: point.measurement.rss.get(part, 0) / 1e6


def _most(section: Section, cost: Callable[[Point], float]) -> list[tuple[float, float]]:
    """The greatest cost at each place, of all works, where it is above zero."""
    found: dict[float, float] = {}
    for series in section.series:
        for point in series.points:
            found[point.x] = max(found.get(point.x, 0.0), cost(point))
    return [(x, y) for x, y in sorted(found.items()) if y > 0]
