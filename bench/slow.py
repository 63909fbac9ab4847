"""GET latency on a healthy cluster and with one device that answers 50 times slower than usual, in the same run.

    python bench/slow.py [--dir FOLDER] [--seconds 10] [--concurrency 1] [--json FILE]

Objects of 64 KiB to 1 MiB are read in turns of half a second: by one client while all is well, and by another while a
device is slow, each with what it has learnt so far. The way to that device leads through a proxy in both cases, which
holds answers back in the second. Aim: the p99 with a slow device is at most 3 times the healthy one. The times from the
first read on count, so the time until a client has learnt is within.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from statistics import median

import uvloop
from hdrh.histogram import HdrHistogram

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "lib"))

from reedbed_cluster import LocalCluster
from reedbed_faults.cluster import listening
from reedbed_faults.proxy import FaultyProxy

import reedbed
from reedbed.bench.machine import medium
from reedbed.client.store import AsyncStore
from reedbed.common.limits import KIB, MIB

BUCKET = "bench"
OBJECTS = 200
SIZES = (64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB, MIB)
SLOWER = 50
DELAY_MIN_S = 0.05
TURN_S = 0.5
DEVICES = 6
AIM = 3.0
COUNTERS = ("reads.direct", "reads.decoded", "reads.spare_asked", "reads.spare_won", "reads.avoided")

Number = Synchronized  # a double or an int that both processes see


def run_proxy(port: Number[int], target: Number[int], delay: Number[float]) -> None:
    """A process of its own, so that the proxy takes no time from the client: passes on to `target` after `delay`."""

    async def main() -> None:
        async with FaultyProxy(("127.0.0.1", 0)) as proxy:
            port.value = proxy.port
            while True:
                proxy.target = ("127.0.0.1", target.value)
                proxy.delay = delay.value / 2  # on each of both ways
                await asyncio.sleep(0.005)

    asyncio.run(main())


@contextmanager
def slowed_cluster(folder: Path) -> Iterator[tuple[LocalCluster, Number[float]]]:
    """A cluster whose first device can be slowed down: the seconds by which each of its answers comes later."""
    context = multiprocessing.get_context("spawn")
    port, target = context.Value(ctypes.c_int, 0), context.Value(ctypes.c_int, 0)
    delay = context.Value(ctypes.c_double, 0.0)
    process = context.Process(target=run_proxy, args=(port, target, delay), daemon=True)
    process.start()
    cluster = LocalCluster(folder, DEVICES)
    try:
        while not port.value:
            if not process.is_alive():
                raise SystemExit("the proxy did not start")
            time.sleep(0.01)
        cluster.start_catalog()
        cluster.storaged = [
            cluster.storage_daemon(place, ["--advertise", f"127.0.0.1:{port.value}"] if place == 1 else [])
            for place in range(1, DEVICES + 1)
        ]
        cluster.start_storage(cluster.storaged)
        target.value = listening(cluster.storaged[0])[1]
        yield cluster, delay
    finally:
        cluster.stop()
        process.terminate()
        process.join()


class Reader:
    """One client, and the latencies of its reads in microseconds."""

    def __init__(self, store: AsyncStore, blobs: list[bytes], concurrency: int) -> None:
        self.store = store
        self.times = HdrHistogram(1, 600_000_000, 3)
        self._blobs = blobs
        self._concurrency = concurrency
        self._random = random.Random(1)

    async def read(self) -> float:
        """One object at random; seconds."""
        number = self._random.randrange(OBJECTS)
        start = time.perf_counter()
        data = await self.store.get(BUCKET, str(number))
        spent = time.perf_counter() - start
        if data != self._blobs[number]:
            raise SystemExit(f"object {number} came back wrong")
        return spent

    async def turn(self, seconds: float, count: bool = True) -> list[float]:
        """Reads for so long; with `count`, into the histogram."""
        end = time.perf_counter() + seconds
        found: list[float] = []

        async def task() -> None:
            while time.perf_counter() < end:
                found.append(await self.read())
                if count:
                    self.times.record_value(max(1, int(found[-1] * 1e6)))

        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(task())
        return found

    def at(self, percentile: float) -> float:
        """Milliseconds."""
        return float(self.times.get_value_at_percentile(percentile)) / 1e3

    def report(self, name: str) -> dict[str, float]:
        """Prints its line."""
        counts = self.store.metrics()
        shown = "  ".join(f"{counter.removeprefix('reads.')} {counts.get(counter, 0):,}" for counter in COUNTERS)
        print(f"{name:<18}{self.times.get_total_count():>8,}{self.at(50):>10.2f}{self.at(99):>10.2f}   {shown}")
        found = {"reads": self.times.get_total_count(), "p50_ms": self.at(50), "p99_ms": self.at(99)}
        return found | {counter: counts.get(counter, 0) for counter in COUNTERS}


async def bench(endpoint: str, delay: Number[float], seconds: float, concurrency: int) -> dict[str, object]:
    """Puts, learns what is usual, and then turns of both kinds."""
    async with reedbed.aio.connect(endpoint, timeout=60) as one, reedbed.aio.connect(endpoint, timeout=60) as other:
        blobs = [os.urandom(SIZES[number % len(SIZES)]) for number in range(OBJECTS)]
        await one.create_bucket(BUCKET)
        for number, blob in enumerate(blobs):
            await one.put(BUCKET, str(number), blob)
        healthy, slow = Reader(one, blobs, concurrency), Reader(other, blobs, concurrency)
        usual = median(await healthy.turn(TURN_S, count=False))
        await slow.turn(TURN_S, count=False)
        late = max(DELAY_MIN_S, SLOWER * usual)
        print(f"a usual read takes {usual * 1e3:.2f} ms; the slow device answers {late * 1e3:.0f} ms later")
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            delay.value = 0.0
            await asyncio.sleep(0.02)  # until the proxy knows
            await healthy.turn(TURN_S)
            delay.value = late
            await asyncio.sleep(0.02)
            await slow.turn(TURN_S)
        print(f"\n{'':<18}{'reads':>8}{'p50 ms':>10}{'p99 ms':>10}")
        report: dict[str, object] = {"healthy": healthy.report("healthy"), "slow": slow.report("one slow device")}
        ratio = slow.at(99) / healthy.at(99)
        print(f"p99 with a slow device: {ratio:.2f} times the healthy one (aim: at most {AIM:g})")
        return report | {"ratio": ratio, "late_ms": late * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description="GET latency with and without a device that is 50 times slower.")
    parser.add_argument("--dir", type=Path, help="folder of the cluster [default: a temporary one]")
    parser.add_argument("--seconds", type=float, default=10.0, help="of both kinds together")
    parser.add_argument("--concurrency", type=int, default=1, help="reads at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reedbed-bench-", dir=arguments.dir) as name:
        folder = Path(name)
        print(f"folder: {medium(folder)}; {os.cpu_count()} cores")
        with (
            slowed_cluster(folder / "cluster") as (cluster, delay),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            report = runner.run(bench(cluster.endpoint, delay, arguments.seconds, arguments.concurrency))
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
