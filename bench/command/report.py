"""The report of a run: what was measured, medians and spreads of it, and what became of each goal."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from hdrh.histogram import HdrHistogram

from reedbed.bench.limits import APPENDS, LOOPBACK, ROUND_TRIP, SYNC, Limit
from reedbed.bench.machine import Machine
from reedbed.bench.measured import Measurement, histogram_of, percentile_ms
from reedbed.bench.table import DELETE, LIST, PUT, STORED_FACTOR, Row
from reedbed.common.errors import InvalidArgument

FORMAT: Final = 1
KIND: Final = "objects"
RAM: Final = "ram"
DISK: Final = "disk"
OURS: Final = "reedbed"
NGINX: Final = "nginx"

_SYNCS_OF_PUT: Final = 3  # one after the other, on m+1 devices and in the catalog
_HALF: Final = 0.5


class Summary(msgspec.Struct):
    """Medians over the repetitions; the percentiles are of all operations of all of them together."""

    value: float  # in the row's unit
    spread: float  # (most - least) / median
    p50_ms: float
    p99_ms: float
    cpu_ms: dict[str, float]  # for one operation, by part
    rss: dict[str, int]
    disk_per_byte: float | None  # allocated on devices for each byte of user data
    others: float = 0.0  # part of all cores that other processes had


class Share(msgspec.Struct):
    """What part of a limit of this machine was reached."""

    limit: str
    share: float


class Goal(msgspec.Struct):
    """One goal of a row and what was reached: medians; `part` is that of the goals that each repetition set."""

    what: str
    wanted: float
    reached: float
    part: float
    met: bool


class RowReport(msgspec.Struct):
    """A row on one medium. A repetition that failed is None, and `error` says why."""

    name: str
    kind: str
    unit: str
    size: int
    concurrency: int
    processes: int
    reedbed: list[Measurement | None]
    nginx: list[Measurement | None]
    summary: Summary | None = None
    nginx_summary: Summary | None = None
    ratio: float | None = None  # to nginx: the median of the repetitions' ratios
    cpu_ratio: float | None = None  # nginx's CPU for each operation to ours, likewise
    limit: Share | None = None
    goals: list[Goal] = []
    error: str = ""


class MediumReport(msgspec.Struct):
    """All rows on one medium; `limits` by repetition."""

    file_system: str
    limits: list[dict[str, Limit]]
    rows: list[RowReport]


class Settings(msgspec.Struct):
    """How the run was asked for."""

    seconds: float
    repetitions: int
    quick: bool
    rows: list[str]
    endpoint: str


class Report(msgspec.Struct):
    """What `reedbed bench objects` writes."""

    format: int
    kind: str
    reedbed: str  # version
    began: str  # RFC 3339
    took_s: float
    machine: Machine
    nginx: str  # version, or why there is none
    settings: Settings
    media: dict[str, MediumReport]

    @property
    def failed(self) -> bool:
        """Whether a row could not be measured."""
        return any(row.error for medium in self.media.values() for row in medium.rows)


def read_report(path: Path) -> Report:
    """An earlier report. InvalidArgument for a file that is none, or of another format."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"cannot read the earlier report: {error.strerror}", where=str(path)) from None
    try:
        head = msgspec.json.decode(data, type=dict[str, object])
        if head.get("kind") != KIND or head.get("format") != FORMAT:
            raise InvalidArgument(f"no report of this benchmark in format {FORMAT}", where=str(path))
        return msgspec.json.decode(data, type=Report)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"no report of this benchmark: {error}", where=str(path)) from None


def value_of(unit: str, measurement: Measurement) -> float:
    """A measurement in the row's unit."""
    return measurement.rate if unit == "MB/s" else measurement.per_second


def spread(values: Sequence[float]) -> float:
    """How far values lie apart, as a part of their median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def summarise(unit: str, repetitions: Iterable[Measurement | None], times: HdrHistogram, cores: int) -> Summary | None:
    """Medians and spread; None where nothing was measured. `times` has the latencies of all repetitions."""
    measured = [one for one in repetitions if one is not None]
    if not measured:
        return None
    values = [value_of(unit, one) for one in measured]
    on_disk = [one.disk["devices"] / one.bytes for one in measured if one.disk and one.bytes]
    return Summary(
        value=statistics.median(values),
        spread=spread(values),
        p50_ms=percentile_ms(times, 50),
        p99_ms=percentile_ms(times, 99),
        cpu_ms={
            part: statistics.median(one.cpu[part] / one.operations * 1e3 for one in measured)
            for part in measured[0].cpu
        },
        rss={part: int(statistics.median(one.rss[part] for one in measured)) for part in measured[0].rss},
        disk_per_byte=statistics.median(on_disk) if on_disk else None,
        others=statistics.median(one.others / one.seconds for one in measured) / cores,
    )


def ratios(ours: Sequence[float | None], others: Sequence[float | None]) -> list[float]:
    """Of values of the same repetitions, where both are there."""
    return [a / b for a, b in zip(ours, others, strict=False) if a is not None and b]


def allowed_by_syncs(row: Row, limits: Mapping[str, Limit]) -> float:
    """Puts a second that the syncs of this disk would allow."""
    return row.concurrency * 1e3 / (_SYNCS_OF_PUT * limits[SYNC]["value"])


def limit_of(row: Row, medium: str, limits: Mapping[str, Limit]) -> tuple[str, float] | None:
    """The limit that this work runs against here, and what it would allow in the row's unit; None if none is known."""
    if row.kind in (LIST, DELETE):
        return None
    if row.bulk:
        if row.kind != PUT:
            return LOOPBACK, limits[LOOPBACK]["value"]
        name = APPENDS if medium == DISK else LOOPBACK
        return name, limits[name]["value"] / STORED_FACTOR
    if row.kind == PUT and medium == DISK:
        return SYNC, allowed_by_syncs(row, limits)
    if row.concurrency == 1:
        return ROUND_TRIP, 1e3 / (2 * limits[ROUND_TRIP]["value"])  # to a device and to the catalog
    return None


class Rows:
    """Collects what repetitions give, and makes the report of it."""

    def __init__(self, rows: Sequence[Row], cores: int) -> None:
        self._rows = list(rows)
        self._cores = cores
        self._measured: dict[tuple[str, str], list[Measurement | None]] = {}
        self._times: dict[tuple[str, str], HdrHistogram] = {}
        self._errors: dict[str, str] = {}
        self.limits: list[dict[str, Limit]] = []

    def begin(self) -> None:
        """The next repetition."""
        for row in self._rows:
            for who in (OURS, NGINX):
                self._measured.setdefault((who, row.name), []).append(None)

    def add(self, who: str, row: Row, measurement: Measurement, times: HdrHistogram) -> None:
        """One row of this repetition."""
        self._measured[who, row.name][-1] = measurement
        self._times.setdefault((who, row.name), histogram_of(())).add(times)

    def fail(self, row: Row, why: str) -> None:
        """A row that could not be measured in this repetition."""
        self._errors.setdefault(row.name, why)

    def has(self, name: str) -> bool:
        """Whether this row of ours was measured in this repetition."""
        return self._measured[OURS, name][-1] is not None

    def report(self, medium: str, file_system: str) -> MediumReport:
        """All rows, with what became of their goals."""
        reports = [self._row(row, medium) for row in self._rows]
        return MediumReport(file_system, self.limits, reports)

    def _values(self, who: str, row: Row) -> list[float | None]:
        found = self._measured.get((who, row.name), [])
        return [None if one is None else value_of(row.unit, one) for one in found]

    def _cpu(self, who: str, row: Row) -> list[float | None]:
        return [None if one is None else one.cpu_ms for one in self._measured.get((who, row.name), [])]

    def _summary(self, who: str, row: Row) -> Summary | None:
        times = self._times.get((who, row.name))
        return None if times is None else summarise(row.unit, self._measured[who, row.name], times, self._cores)

    def _row(self, row: Row, medium: str) -> RowReport:
        ours, nginx = self._values(OURS, row), self._values(NGINX, row)
        to_nginx = ratios(ours, nginx)
        by_cpu = ratios(self._cpu(NGINX, row), self._cpu(OURS, row))
        return RowReport(
            name=row.name,
            kind=row.kind,
            unit=row.unit,
            size=row.size,
            concurrency=row.concurrency,
            processes=row.processes,
            reedbed=self._measured.get((OURS, row.name), []),
            nginx=self._measured.get((NGINX, row.name), []) if (NGINX, row.name) in self._times else [],
            summary=self._summary(OURS, row),
            nginx_summary=self._summary(NGINX, row),
            ratio=statistics.median(to_nginx) if to_nginx else None,
            cpu_ratio=statistics.median(by_cpu) if by_cpu else None,
            limit=self._limit(row, medium, ours),
            goals=self._goals(row, medium, ours, to_nginx),
            error=self._errors.get(row.name, ""),
        )

    def _limit(self, row: Row, medium: str, ours: Sequence[float | None]) -> Share | None:
        found = [limit_of(row, medium, limits) for limits in self.limits]
        shares = ratios(ours, [None if one is None else one[1] for one in found])
        name = next((one[0] for one in found if one is not None), "")
        return Share(name, statistics.median(shares)) if shares else None

    def _goals(self, row: Row, medium: str, ours: Sequence[float | None], to_nginx: Sequence[float]) -> list[Goal]:
        goals = []
        values = [value for value in ours if value is not None]
        if medium == RAM and row.goal is not None and values:
            goals.append(_goal(row.unit, row.goal, values))
        if medium == RAM and row.goal_nginx is not None and to_nginx:
            goals.append(_goal("of nginx", row.goal_nginx, to_nginx))
        if row.goal_healthy is not None:
            healthy = next((self._values(OURS, other) for other in self._rows if other.name in row.after), [])
            if shares := ratios(ours, healthy):
                goals.append(_goal("of healthy", row.goal_healthy, shares))
        if medium == DISK and row.goal_syncs is not None:
            most = row.goal_syncs
            goals += self._moving(row, ours, lambda limits: min(most, _HALF * allowed_by_syncs(row, limits)))
        if medium == DISK and row.goal_appends is not None:
            part = row.goal_appends
            goals += self._moving(row, ours, lambda limits: part * limits[APPENDS]["value"] / STORED_FACTOR)
        return goals

    def _moving(
        self, row: Row, ours: Sequence[float | None], wanted: Callable[[Mapping[str, Limit]], float]
    ) -> list[Goal]:
        """A goal that each repetition sets anew, by the limits that it found."""
        wants = [wanted(limits) for limits in self.limits]
        parts = ratios(ours, wants)
        if not parts:
            return []
        reached = statistics.median(value for value in ours if value is not None)
        part = statistics.median(parts)
        return [Goal(row.unit, statistics.median(wants), reached, part, part >= 1.0)]


def _goal(what: str, wanted: float, values: Sequence[float]) -> Goal:
    reached = statistics.median(values)
    return Goal(what, wanted, reached, reached / wanted, reached >= wanted)
