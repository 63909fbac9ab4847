"""PUT and GET of objects of several sizes against a fresh local cluster, with this machine's limits in the same run.

    python bench/objects.py [--dir FOLDER] [--seconds 3] [--json FILE] [--endpoint HOST:PORT]

For each row: operations per second, MB/s of user data, p50 and p99, CPU seconds of the client and of the daemons, and
the ratio to what the limit for that work allows. Contents are compared on the way back. Concurrency is that of one
process with as many tasks. With --endpoint an existing cluster is measured instead of a fresh one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import uvloop
from demo import cluster
from hdrh.histogram import HdrHistogram
from limits import Limit, measure, medium, print_limits

import reedbed
from reedbed.client.store import AsyncStore
from reedbed.common.limits import KIB, MIB

BUCKET = "bench"
SIZES = ((4 * KIB, 1), (4 * KIB, 32), (MIB, 8), (64 * MIB, 2))
KEYS_MAX = 20_000
BYTES_MAX = 2_000 * MIB  # written by one row at most
STORED_FACTOR = 1.5  # of rs-4-2


@dataclass
class Row:
    """One measured line; times in milliseconds, rates in MB/s of 10^6 bytes."""

    work: str
    size: int
    concurrency: int
    operations: int
    per_second: float
    rate: float
    p50: float
    p99: float
    client_cpu: float
    daemon_cpu: float
    limit: str
    of_limit: float


def size_name(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def daemon_cpu(pids: list[int]) -> float:
    """CPU seconds that these processes have used so far."""
    total = 0.0
    for pid in pids:
        times = psutil.Process(pid).cpu_times()
        total += times.user + times.system
    return total


def own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def drive(
    operation: Callable[[int], Awaitable[None]], concurrency: int, seconds: float, most: int
) -> tuple[int, float, HdrHistogram]:
    """Runs an operation in as many tasks until the time is up or the count reached: count, seconds, latencies in us."""
    histogram = HdrHistogram(1, 600_000_000, 3)
    end = time.perf_counter() + seconds
    next_number = 0

    async def task() -> None:
        nonlocal next_number
        while next_number < most and time.perf_counter() < end:
            number = next_number
            next_number += 1
            start = time.perf_counter()
            await operation(number)
            histogram.record_value(max(1, int((time.perf_counter() - start) * 1e6)))

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(task())
    return next_number, time.perf_counter() - start, histogram


def limit_for(work: str, size: int, concurrency: int, limits: dict[str, Limit]) -> tuple[str, float]:
    """The name of the limit that this work runs against, and operations per second that it would allow."""
    if work == "PUT" and size <= 64 * KIB:
        # each put waits for one sync on each of m+1 devices; concurrent ones share them
        return "fdatasync", concurrency * 1e3 / (3 * limits["fdatasync 4 KiB, 1 writer"]["value"])
    if work == "PUT":
        return "append, 6 writers", limits["append 1 MiB, 6 writers"]["value"] * 1e6 / (STORED_FACTOR * size)
    return "loopback TCP", limits["loopback TCP"]["value"] * 1e6 / size


async def measure_size(
    store: AsyncStore, size: int, concurrency: int, seconds: float, pids: list[int], limits: dict[str, Limit]
) -> list[Row]:
    """PUT, then GET of what was put."""
    data = os.urandom(size)
    most = max(concurrency, min(KEYS_MAX, BYTES_MAX // size))
    prefix = f"{size}-{concurrency}"

    async def put(number: int) -> None:
        await store.put(BUCKET, f"{prefix}/{number}", data)

    rows = []
    count = 0
    for work in ("PUT", "GET"):
        if work == "GET":
            stored = count

            async def get(number: int, stored: int = stored) -> None:
                if await store.get(BUCKET, f"{prefix}/{number % stored}") != data:
                    raise SystemExit(f"{prefix}/{number % stored} came back wrong")

            operation = get
        else:
            operation = put
        cpu, daemons = own_cpu(), daemon_cpu(pids)
        count, spent, times = await drive(operation, concurrency, seconds, most if work == "PUT" else KEYS_MAX)
        name, allowed = limit_for(work, size, concurrency, limits)
        rows.append(
            Row(
                work=work,
                size=size,
                concurrency=concurrency,
                operations=count,
                per_second=count / spent,
                rate=count * size / spent / 1e6,
                p50=times.get_value_at_percentile(50) / 1e3,
                p99=times.get_value_at_percentile(99) / 1e3,
                client_cpu=own_cpu() - cpu,
                daemon_cpu=daemon_cpu(pids) - daemons,
                limit=name,
                of_limit=count / spent / allowed,
            )
        )
        print_row(rows[-1])
    return rows


def print_header() -> None:
    print(
        f"{'work':<22}{'ops/s':>10}{'MB/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'client CPU s':>14}{'daemon CPU s':>14}"
        f"{'ms CPU/op':>11}  of limit"
    )


def print_row(row: Row) -> None:
    each = (row.client_cpu + row.daemon_cpu) / max(row.operations, 1) * 1e3
    print(
        f"{row.work} {size_name(row.size)} x{row.concurrency:<12}"[:22].ljust(22)
        + f"{row.per_second:>10,.1f}{row.rate:>10,.1f}{row.p50:>9.2f}{row.p99:>9.2f}{row.client_cpu:>14.2f}"
        f"{row.daemon_cpu:>14.2f}{each:>11.2f}  {row.of_limit:.3f} of {row.limit}",
        flush=True,
    )


async def bench(endpoint: str, pids: list[int], seconds: float, limits: dict[str, Limit]) -> list[Row]:
    """All rows against one cluster."""
    rows: list[Row] = []
    async with reedbed.aio.connect(endpoint, timeout=60) as store:
        await store.create_bucket(BUCKET)
        print_header()
        for size, concurrency in SIZES:
            rows += await measure_size(store, size, concurrency, seconds, pids, limits)
    return rows


def pids_of(state: dict[str, Any]) -> list[int]:
    return [state["catalogd"]["pid"], *(device["pid"] for device in state["devices"])]


def main() -> None:
    parser = argparse.ArgumentParser(description="PUT and GET against a local cluster, and this machine's limits.")
    parser.add_argument("--dir", type=Path, help="folder of the cluster [default: a temporary one]")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row")
    parser.add_argument("--endpoint", help="measure this cluster instead of a fresh one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reedbed-bench-", dir=arguments.dir)))
        print(f"folder: {medium(folder)}; {os.cpu_count()} cores")
        limits = measure(folder)
        print_limits(limits)
        print()
        endpoint, pids = arguments.endpoint, []
        if endpoint is None:
            state = stack.enter_context(cluster(folder / "cluster"))
            endpoint, pids = state["endpoint"], pids_of(state)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rows = runner.run(bench(endpoint, pids, arguments.seconds, limits))
        if arguments.json:
            report = {"medium": medium(folder), "limits": limits, "rows": [asdict(row) for row in rows]}
            arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
