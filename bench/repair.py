"""Repair of a dead device: how fast when nobody else wants anything, how true the time left, how polite under load.

    python bench/repair.py [--dir FOLDER] [--large 2GiB] [--small 20000] [--devices 8] [--seconds 10] [--json FILE]

Three clusters of real processes under rs-4-2, on a RAM-backed folder unless told otherwise:

- large objects alone: a device is killed, and the rate is that of the bytes which repair writes, from the moment at
  which it has something to do until every extent is whole. Aim: 150 MB/s.
- small objects alone, put by 32 tasks at a time, so that their extents are packed as those of a busy client are.
- both: first a repair without load, in which the shown time left is compared with what it took; then one under
  open-loop load. Requests start at fixed times, 30 % of what the cluster does at most with them, and their latency
  counts from the time at which they were due. Aim: a p99 of at most 2 times that without repair.

Everything that is read is compared with what was put.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from hdrh.histogram import HdrHistogram

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "lib"))

from reedbed_cluster import LocalCluster, local_cluster

import reedbed
from reedbed.bench.limits import loopback
from reedbed.bench.local import size_of
from reedbed.bench.machine import medium
from reedbed.client.store import AsyncStore
from reedbed.common.limits import GIB, KIB, MIB

BUCKET = "bench"
PROFILE = "rs-4-2"
LARGE = 64 * MIB  # of one large object
SMALL = (1 * KIB, 2 * KIB, 4 * KIB, 8 * KIB)
TASKS = 32  # that put small objects
PIECE = 256 * KIB  # of a large object that one request reads
MIX = (("get small", 5), ("get piece", 3), ("put small", 2))
LOAD = 0.3  # of what the cluster does at most
RATE_AIM = 150.0
P99_AIM = 2.0
DOWN_S, OUT_S = 1.0, 3.0
LOOK_S = 0.1
GIVE_UP_S = 600.0
RAM = Path("/dev/shm")


def say(text: str) -> None:
    print(f"· {text}", flush=True)


@dataclass
class Content:
    """What was put: all large objects are `block`, small object i is a piece of it."""

    block: bytes = field(default_factory=lambda: os.urandom(LARGE))
    large: int = 0
    small: int = 0

    def of_small(self, number: int) -> bytes:
        size = SMALL[number % len(SMALL)]
        start = number * 97 % (LARGE - size)
        return self.block[start : start + size]

    async def put(self, store: AsyncStore, large: int, small: int) -> None:
        """Puts so many of both."""
        start = time.perf_counter()
        for number in range(large):
            await store.put(BUCKET, f"large/{number}", self.block)
        self.large = large
        waiting = iter(range(small))

        async def task() -> None:
            for number in waiting:
                await store.put(BUCKET, f"small/{number}", self.of_small(number))

        await asyncio.gather(*(task() for _ in range(TASKS)))
        self.small = small
        counts = (await store.status())["counts"]
        say(
            f"put {large} large and {small:,} small objects, {counts['bytes'] / 1e6:,.0f} MB in "
            f"{counts['live_extents']:,} extents, in {time.perf_counter() - start:.1f} s"
        )

    async def check(self, store: AsyncStore, count: int = 200) -> None:
        """Reads all large objects and some small ones."""
        source = random.Random(1)
        for number in range(self.large):
            if await store.get(BUCKET, f"large/{number}") != self.block:
                raise SystemExit(f"large/{number} came back wrong")
        for number in (source.randrange(self.small) for _ in range(count if self.small else 0)):
            if await store.get(BUCKET, f"small/{number}") != self.of_small(number):
                raise SystemExit(f"small/{number} came back wrong")


@dataclass
class Repair:
    """What status told while a repair went on: seconds, bytes and extents done and left, the time left as shown."""

    times: list[float] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    extents: list[int] = field(default_factory=list)
    left_s: list[float | None] = field(default_factory=list)

    def add(self, now: float, keeping: dict[str, Any]) -> None:
        self.times.append(now)
        self.done.append(keeping["bytes_done"])
        self.extents.append(keeping["extents_done"])
        self.left_s.append(keeping["seconds_left"])

    @property
    def seconds(self) -> float:
        return self.times[-1] - self.times[0]

    def error_at(self, share: float) -> float | None:
        """How far the time left, as shown when this share was done, was from what it took, as a part of that."""
        for now, done, shown in zip(self.times, self.done, self.left_s, strict=True):
            if done >= share * max(self.done) and shown is not None and self.times[-1] > now:
                return (shown - (self.times[-1] - now)) / (self.times[-1] - now)
        return None


async def settled(store: AsyncStore) -> dict[str, Any]:
    """Waits until every extent is whole and nothing moves."""
    end = time.perf_counter() + GIVE_UP_S
    while True:
        told = await store.status()
        if not told["keeping"]["extents"] and not told["keeping"]["noting_pgs"] and not told["queues"]["degraded"]:
            return told
        if time.perf_counter() > end:
            raise SystemExit(f"it does not get whole: {told['keeping']}")
        await asyncio.sleep(LOOK_S)


async def repaired(store: AsyncStore, number: int, repair: Repair) -> None:
    """Follows the repair of a device that was killed, from its first work to its end."""
    end = time.perf_counter() + GIVE_UP_S
    while True:
        told = await store.status()
        now, keeping = time.perf_counter(), told["keeping"]
        state = next(device["state"] for device in told["devices"] if device["id"] == number)
        working = keeping["extents"] or keeping["noting_pgs"]
        if state == "out" and working:
            repair.add(now, keeping)
        elif state == "out" and repair.times:
            repair.times.append(now)
            repair.done.append(repair.done[-1])
            repair.extents.append(repair.extents[-1])
            repair.left_s.append(None)
            return
        if now > end:
            raise SystemExit(f"the repair does not end: {keeping}")
        await asyncio.sleep(LOOK_S)


@contextmanager
def fresh(folder: Path, devices: int, out_s: float = OUT_S) -> Iterator[LocalCluster]:
    options = ("--down-after-s", str(DOWN_S), "--out-after-s", str(out_s))
    with local_cluster(folder, devices, profile=PROFILE, catalog_options=options) as cluster:
        yield cluster


def kill(cluster: LocalCluster, place: int) -> int:
    """Kills a storaged; its device's number."""
    daemon = cluster.storaged[place]
    daemon.kill()
    number = int(daemon.ready["devices"][0]["id"])
    say(f"killed the storaged of device {number}")
    return number


async def idle(cluster: LocalCluster, content: Content, large: int, small: int) -> tuple[Repair, int, int]:
    """A repair without load; with it the bytes and extents that it wrote, as devices tell."""
    async with reedbed.aio.connect(cluster.endpoint, timeout=60) as store:
        await store.create_bucket(BUCKET)
        await content.put(store, large, small)
        repair = Repair()
        await repaired(store, kill(cluster, 0), repair)
        told = await settled(store)
        survives = told["keeping"]["survives"][PROFILE]
        if survives != 2:
            raise SystemExit(f"repair ended, and only {survives} more losses are survived")
        await content.check(store)
        return repair, max(repair.done), max(repair.extents)


class Load:
    """Requests by the mix, and their latencies in microseconds."""

    def __init__(self, store: AsyncStore, content: Content) -> None:
        self._store = store
        self._content = content
        self._random = random.Random(7)
        self._kinds = [kind for kind, weight in MIX for _ in range(weight)]
        self._written = 0
        self.errors = 0

    async def one(self) -> None:
        """One request. What comes back wrong ends the program."""
        kind, source = self._random.choice(self._kinds), self._random
        content = self._content
        if kind == "get small":
            number = source.randrange(content.small)
            data, wanted = await self._store.get(BUCKET, f"small/{number}"), content.of_small(number)
        elif kind == "get piece":
            number, start = source.randrange(content.large), source.randrange((LARGE - PIECE) // KIB) * KIB
            wanted = content.block[start : start + PIECE]
            data = await self._store.get(BUCKET, f"large/{number}", start=start, end=start + PIECE)
        else:
            self._written += 1
            data = wanted = b""
            await self._store.put(BUCKET, f"new/{self._written}", content.of_small(self._written))
        if data != wanted:
            raise SystemExit(f"{kind}: wrong bytes")

    async def most(self, seconds: float) -> float:
        """Requests a second when as many tasks ask as put small objects."""
        end = time.perf_counter() + seconds
        done = 0

        async def task() -> None:
            nonlocal done
            while time.perf_counter() < end:
                await self.one()
                done += 1

        await asyncio.gather(*(task() for _ in range(TASKS)))
        return done / seconds

    async def scheduled(self, rate: float, until: Callable[[], bool]) -> HdrHistogram:
        """Requests at fixed times until told to end; latencies from the times at which they were due."""
        histogram = HdrHistogram(1, 600_000_000, 3)
        tasks: set[asyncio.Task[None]] = set()
        start = time.perf_counter()

        async def request(due: float) -> None:
            try:
                await self.one()
            except reedbed.ReedbedError as error:
                self.errors += 1
                say(f"a request failed: {error}")
            histogram.record_value(max(1, int((time.perf_counter() - due) * 1e6)))

        count = 0
        while not until():
            count += 1
            due = start + count / rate
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(request(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks)
        return histogram


def row(name: str, times: HdrHistogram) -> dict[str, float]:
    """Prints a line of latencies; milliseconds."""
    at = {f"p{at:g}": times.get_value_at_percentile(at) / 1e3 for at in (50, 99, 99.9)}
    shown = "".join(f"{value:>10.2f}" for value in at.values())
    print(f"{name:<34}{times.get_total_count():>9,}{shown}{times.get_max_value() / 1e3:>10.2f}", flush=True)
    return {"requests": float(times.get_total_count()), **at}


def percent(error: float | None) -> str:
    return "not shown" if error is None else f"{100 * error:+.0f} %"


async def under_load(cluster: LocalCluster, content: Content, seconds: float) -> dict[str, Any]:
    """Latencies while all is well, while a device is down and nothing is repaired yet, and while it is."""
    async with reedbed.aio.connect(cluster.endpoint, timeout=60) as store:
        load = Load(store, content)
        most = await load.most(3.0)
        rate = LOAD * most
        say(f"the cluster does {most:,.0f} requests/s at most; {rate:,.0f}/s are scheduled")
        end = time.perf_counter() + seconds
        found = {"healthy": await load.scheduled(rate, lambda: time.perf_counter() >= end)}
        number = kill(cluster, 1)
        repair = Repair()
        following = asyncio.create_task(repaired(store, number, repair))
        found["down"] = await load.scheduled(rate, lambda: bool(repair.times))
        found["repair"] = await load.scheduled(rate, following.done)
        await following
        print(f"\n{'latency, ms':<34}{'requests':>9}{'p50':>10}{'p99':>10}{'p99.9':>10}{'most':>10}")
        report: dict[str, Any] = {
            "healthy": row("healthy", found["healthy"]),
            "down": row("a device down, not repaired yet", found["down"]),
            "repair": row("repair", found["repair"]),
        }
        done = max(repair.done)
        report["rate"] = done / repair.seconds / 1e6
        report["ratio"] = report["repair"]["p99"] / report["healthy"]["p99"]
        report["ratio_down"] = report["repair"]["p99"] / report["down"]["p99"]
        print(
            f"p99 with repair: {report['ratio']:.2f} times that without (aim: at most {P99_AIM:g}), "
            f"{report['ratio_down']:.2f} times that with the device down; meanwhile {done / 1e6:,.0f} MB were "
            f"rebuilt in {repair.seconds:.1f} s, {report['rate']:.0f} MB/s; {load.errors} requests failed"
        )
        report["error_tenth"], report["error_half"] = repair.error_at(0.1), repair.error_at(0.5)
        print(
            f"the shown time left was off by {percent(report['error_tenth'])} at a tenth and "
            f"{percent(report['error_half'])} at a half"
        )
        await settled(store)
        await content.check(store)
        return report


def main() -> None:
    parser = argparse.ArgumentParser(description="Repair of a dead device: rate, time left, politeness.")
    parser.add_argument("--dir", type=Path, help=f"folder of the clusters [default: {RAM}, else a temporary one]")
    parser.add_argument("--large", type=size_of, default=2 * GIB, help="bytes of large objects [default: 2GiB]")
    parser.add_argument("--small", type=int, default=20_000, help="small objects")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="of load before a device is killed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    where = arguments.dir or (RAM if RAM.is_dir() else None)
    large = max(1, arguments.large // LARGE)
    report: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="reedbed-bench-", dir=where) as name,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        folder = Path(name)
        copy_rate = loopback(1.0)
        print(f"folder: {medium(folder)}; {os.cpu_count()} cores; loopback TCP {copy_rate:,.0f} MB/s")
        report["loopback"] = copy_rate

        with fresh(folder / "large", arguments.devices) as cluster:
            repair, size, _ = runner.run(idle(cluster, Content(), large, 0))
        rate = size / repair.seconds / 1e6
        report["large"] = {"bytes": size, "seconds": repair.seconds, "rate": rate}
        print(
            f"large extents, idle: {size / 1e6:,.0f} MB rebuilt in {repair.seconds:.1f} s, {rate:.0f} MB/s "
            f"(aim: {RATE_AIM:g}), {rate / copy_rate:.3f} of the loopback copy\n"
        )
        with fresh(folder / "small", arguments.devices) as cluster:
            repair, size, extents = runner.run(idle(cluster, Content(), 0, arguments.small))
        report["small"] = {"extents": extents, "seconds": repair.seconds, "rate": extents / repair.seconds}
        print(
            f"packed extents, idle: {extents:,} with {size / 1e6:,.1f} MB of shards in {repair.seconds:.1f} s, "
            f"{extents / repair.seconds:,.0f} a second\n"
        )
        content = Content()
        out_s = max(OUT_S, arguments.seconds / 2)
        with fresh(folder / "both", arguments.devices, out_s) as cluster:
            repair, size, extents = runner.run(idle(cluster, content, large, arguments.small))
            tenth, half = repair.error_at(0.1), repair.error_at(0.5)
            report["both"] = {"seconds": repair.seconds, "bytes": size, "error_tenth": tenth, "error_half": half}
            print(
                f"both, idle: {size / 1e6:,.0f} MB of {extents:,} extents in {repair.seconds:.1f} s; the shown time "
                f"left was off by {percent(tenth)} at a tenth and {percent(half)} at a half\n"
            )
            report["load"] = runner.run(under_load(cluster, content, arguments.seconds))
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
