"""How cost grows with the number of objects, of devices, of clients, and with the size of objects."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import reedbed
from reedbed.bench.clients import Clients
from reedbed.bench.growth import (
    CLIENTS,
    DEVICES,
    FORMAT,
    KIND,
    OBJECTS,
    SIZES,
    Point,
    ScaleReport,
    Section,
    Series,
    growth_of,
)
from reedbed.bench.local import disk_bytes
from reedbed.bench.machine import machine, medium
from reedbed.bench.orders import Hello
from reedbed.bench.table import GET, GET_MANY, LOG, PAGE, PUT, PUT_MORE, Row, size_text
from reedbed.bench.target import Target, calm_down, fresh_cluster, measure_row, settle
from reedbed.common.limits import KIB, MIB

SECTIONS: Final = (OBJECTS, DEVICES, CLIENTS, SIZES)

_TIMEOUT_S: Final = 60.0
_SMALL: Final = 100  # bytes of an object where many are there
_FILL: Final = 10_000  # objects between two looks at the clock
_FILLERS: Final = 2  # processes
_CLUSTER_BYTES: Final = 1536 * MIB  # of user data, before the next cluster begins
_ROW_BYTES: Final = 512 * MIB
_PUTS: Final = 1_000  # of one row at most, or a tenth of what is there
_TASKS, _TASKS_LARGE = 8, 2
_WORTH: Final = 1.5  # times the objects of the last place: so many more must be there to measure again


@dataclass(frozen=True)
class Sizes:
    """How far each scale goes."""

    objects: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    devices: tuple[int, ...] = (6, 12, 24)
    clients: tuple[int, ...] = (1, 4, 16)
    sizes: tuple[int, ...] = tuple(KIB * 4**power for power in range(10))
    turns: int = 3  # measurements of each cost among many objects: the cheapest says most about it


def objects_up_to(most: int) -> Sizes:
    """The usual scales, with places at powers of ten up to `most`, and there."""
    places = [10**power for power in range(4, 9) if 10**power < most]
    return Sizes(objects=(*places, most))


QUICK: Final = Sizes((200, 2_000), (6, 7), (1, 2), (KIB, 64 * KIB, MIB), turns=1)


@dataclass
class ScalePlan:
    """What is asked for: sections, the folders that they use, and times in seconds."""

    sections: Sequence[str]
    disk: Path
    ram: Path
    seconds: float
    fill_s: float
    sizes: Sizes = field(default_factory=Sizes)
    say: Callable[[str], None] = field(default=lambda text: None)


class Scale:
    """One run."""

    def __init__(self, plan: ScalePlan) -> None:
        self._plan = plan

    def run(self) -> ScaleReport:
        """Measures all sections; raises what the cluster raises."""
        began, start = datetime.now(UTC), time.monotonic()
        makers = {
            OBJECTS: self._objects,
            DEVICES: self._devices,
            CLIENTS: self._clients,
            SIZES: self._sizes,
        }
        sections = [makers[name]() for name in SECTIONS if name in self._plan.sections]
        return ScaleReport(
            format=FORMAT,
            kind=KIND,
            reedbed=reedbed.__version__,
            began=began.isoformat(timespec="seconds"),
            took_s=round(time.monotonic() - start, 1),
            machine=machine(),
            sections=sections,
            growth=[one for section in sections if section.name == OBJECTS for one in growth_of(section)],
        )

    def _objects(self) -> Section:
        """Against the number of objects in one bucket, as far as the time for filling goes."""
        works = (
            (PUT_MORE, "PUT x32", 32),
            (GET_MANY, "GET x32", 32),
            (PAGE, "LIST a page", 1),
            (LOG, "read the log", 1),
        )
        all_series = {kind: Series(name, "1/s", puts=kind == PUT_MORE) for kind, name, _ in works}
        title = f"With the number of objects, {_SMALL} bytes each"
        folder = self._plan.disk
        section = Section(OBJECTS, title, "objects in the catalog", medium(folder), list(all_series.values()))
        self._begin(section, folder)
        left = self._plan.fill_s
        with (
            fresh_cluster(folder) as target,
            _clients(target, "f", _FILLERS) as fillers,
            _clients(target, "o", 1) as one,
        ):
            filled = put = 0
            for goal in self._plan.sizes.objects:
                start, before = time.monotonic(), filled + put
                while filled + put < goal and time.monotonic() - start < left:
                    count = min(_FILL, goal - filled - put)
                    fillers.fill(filled, count, _SMALL)
                    filled += count
                left -= time.monotonic() - start
                there = filled + put
                rate = (there - before) / (time.monotonic() - start)
                self._plan.say(f"  {there:,} objects are there, filled at {rate:,.0f} a second")
                if there < goal:
                    section.note = f"The time for filling ended at {there:,} objects; {goal:,} were wanted."
                if there < before * _WORTH:
                    break
                settle(folder)
                calm = calm_down(target)
                self._plan.say(f"  the cluster is {'calm' if calm else 'still at work on what was put'}")
                most = max(_PUTS, there // 10)
                for kind, name, tasks in works * self._plan.sizes.turns:
                    row = Row(name, kind, _SMALL, tasks, OBJECTS, keys=filled)
                    done = self._measure(all_series[kind], there, one, row, target, most, filled + put)
                    put += done if kind == PUT_MORE else 0
                if there < goal:
                    break
        return section

    def _devices(self) -> Section:
        """Against the number of devices, a cluster for each."""
        rows = [*_pair(4 * KIB, 32), *_pair(MIB, 8)]
        section = self._section(DEVICES, "With the number of devices", "devices", rows)
        for count in self._plan.sizes.devices:
            with fresh_cluster(self._plan.ram, count) as target, _clients(target, "d", 1) as one:
                for series, row in zip(section.series, rows, strict=True):
                    self._measure(series, count, one, row, target)
        return section

    def _clients(self) -> Section:
        """Against the number of client processes with one task each, all on one cluster."""
        rows = _pair(4 * KIB, 1)
        section = self._section(CLIENTS, "With the number of client processes, one task each", "client processes", rows)
        for series in section.series:
            series.name = series.name.removesuffix(" x1")
        with fresh_cluster(self._plan.ram) as target:
            for count in self._plan.sizes.clients:
                with _clients(target, f"c{count}-", count) as some:
                    for series, row in zip(section.series, _pair(4 * KIB, count, count), strict=True):
                        self._measure(series, count, some, row, target)
        return section

    def _sizes(self) -> Section:
        """Against the size of objects."""
        section = Section(
            SIZES,
            f"With the size of objects: {_TASKS} tasks up to 1 MiB, {_TASKS_LARGE} beyond",
            "size of an object",
            medium(self._plan.ram),
            [Series(kind, "MB/s", puts=kind == PUT) for kind in (PUT, GET)],
        )
        self._begin(section, self._plan.ram)
        waiting = list(self._plan.sizes.sizes)
        while waiting:
            with fresh_cluster(self._plan.ram) as target, _clients(target, "s", 1) as one:
                stored = 0
                while waiting and stored < _CLUSTER_BYTES - _ROW_BYTES:
                    size = waiting.pop(0)
                    tasks = _TASKS if size <= MIB else _TASKS_LARGE
                    for series, row in zip(section.series, _pair(size, tasks), strict=True):
                        done = self._measure(series, size, one, row, target, most=max(tasks, _ROW_BYTES // size))
                        stored += done * size if series.puts else 0
        return section

    def _section(self, name: str, title: str, x: str, rows: Sequence[Row]) -> Section:
        series = [Series(row.name, row.unit, puts=row.puts) for row in rows]
        section = Section(name, title, x, medium(self._plan.ram), series)
        self._begin(section, self._plan.ram)
        return section

    def _begin(self, section: Section, folder: Path) -> None:
        self._plan.say(f"{section.title}: {section.file_system}")
        settle(folder)

    def _measure(
        self, series: Series, x: float, clients: Clients, row: Row, target: Target, most: int = 0, held: int = 0
    ) -> int:
        """One point, unless a cheaper one is there; returns how many operations it has. `held`: objects before."""
        measurement, _ = measure_row(clients, row, target, self._plan.seconds, most)
        point = Point(x, measurement)
        if row.kind == PUT_MORE and target.catalog_folder is not None:
            point.catalog_each = disk_bytes([target.catalog_folder]) / (held + measurement.operations)
        again = bool(series.points) and series.points[-1].x == x
        if again and point.cpu_ms < series.points[-1].cpu_ms:
            series.points[-1] = point
        elif not again:
            series.points.append(point)
        value = f"{series.value(point):,.1f} {series.unit}, {measurement.cpu_ms:.3f} ms CPU each"
        self._plan.say(f"  {x:,.0f}: {series.name}: {value}")
        return measurement.operations


def _pair(size: int, tasks: int, processes: int = 1) -> list[Row]:
    """PUT, and GET of what it put."""
    return [Row(f"{kind} {size_text(size)} x{tasks}", kind, size, tasks, "", processes) for kind in (PUT, GET)]


def _clients(target: Target, prefix: str, count: int) -> Clients:
    """Client processes that share a bucket."""
    return Clients(Hello(target.endpoint, _TIMEOUT_S, None, "scale", prefix), count)
