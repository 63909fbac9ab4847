from __future__ import annotations

import pytest

from reedbed.bench.limits import APPENDS, LOOPBACK, ROUND_TRIP, SYNC, Limit
from reedbed.bench.machine import Machine
from reedbed.bench.measured import Measurement, histogram_of
from reedbed.bench.report import FORMAT, KIND, NGINX, OURS, Report, Rows, Settings
from reedbed.bench.table import DEGRADED, PUT, Row, table


def limits(sync_ms: float = 0.3, appends: float = 900.0) -> dict[str, Limit]:
    """Limits of a machine that nobody has."""
    return {
        SYNC: Limit(value=sync_ms, unit="ms"),
        APPENDS: Limit(value=appends, unit="MB/s"),
        LOOPBACK: Limit(value=3000.0, unit="MB/s"),
        ROUND_TRIP: Limit(value=0.02, unit="ms"),
    }


def measurement(row: Row, value: float, *, seconds: float = 2.0, parts: tuple[str, ...] = ()) -> Measurement:
    """One that comes out at this value, in the row's unit."""
    each = row.bytes_each
    operations = round(value * seconds * 1e6 / each) if row.bulk else round(value * seconds)
    parts = parts or ("client", "catalogd", "storaged")
    return Measurement(
        operations=operations,
        bytes=operations * each,
        seconds=operations * each / value / 1e6 if row.bulk else operations / value,
        p50_ms=1.0,
        p99_ms=2.0,
        cpu=dict.fromkeys(parts, operations / 1e3),
        rss=dict.fromkeys(parts, 1_000_000),
        others=0.8,
        disk={"devices": operations * each * 3 // 2, "catalog": 1} if row.kind == PUT else {},
    )


def collected(ours: dict[str, list[float]], nginx: dict[str, list[float]], found: list[dict[str, Limit]]) -> Rows:
    """Rows of which some were measured; nan is a repetition that failed."""
    rows = Rows(table(), cores=2)
    for number, each in enumerate(found):
        rows.begin()
        for who, values, parts in ((OURS, ours, ()), (NGINX, nginx, ("client", "nginx"))):
            for row in table():
                value = values.get(row.name, [])[number : number + 1]
                if value and value[0] == value[0]:
                    rows.add(who, row, measurement(row, value[0], parts=parts), histogram_of([[1000, 2000]]))
                elif value:
                    rows.fail(row, "Unavailable: nobody answers")
        rows.limits.append(each)
    return rows


@pytest.fixture
def report() -> Report:
    """A report of a few rows on both media."""
    healthy = next(row.after[0] for row in table() if row.kind == DEGRADED)
    dead = next(row.name for row in table() if row.kind == DEGRADED)
    ours = {
        "PUT 4 KiB x32": [8_000.0, 12_000.0, 11_000.0],
        "PUT 64 MiB x2": [500.0, 500.0, 500.0],
        healthy: [1000.0, 2000.0, 3000.0],
        dead: [900.0, 1200.0, 2700.0],
        "LIST 10,000 keys": [50.0, float("nan"), 60.0],
    }
    nginx = {"PUT 4 KiB x32": [10_000.0, 20_000.0, 10_000.0], healthy: [2000.0, 2500.0, 1000.0]}
    found = [limits(), limits(6.0), limits(0.3, 1200.0)]
    return Report(
        format=FORMAT,
        kind=KIND,
        reedbed="0.1.0",
        began="2026-01-02T03:04:05+00:00",
        took_s=600.0,
        machine=Machine("3.11.2", "/usr/bin/python3.11", "optimised", "Linux 6", "Some CPU", 2, 24 << 30),
        nginx="nginx/1.22.1",
        settings=Settings(3.0, 3, False, [], ""),
        media={
            "ram": collected(ours, nginx, found).report("ram", "tmpfs"),
            "disk": collected(ours, nginx, found).report("disk", "ext4"),
        },
    )
