"""One device that answers 50 times slower than usual: spare reads win, then it is avoided by plan. On real processes.

Only counters and bytes are asserted, no times.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from reedbed_cluster import LocalCluster
from reedbed_cluster.commands import until
from reedbed_faults.cluster import Way, cluster_behind_proxies

import reedbed
from reedbed.extents.latency import PROBE_EVERY, SPARE_BURST_CALLS, SPARE_SHARE

KIB, MIB = 1024, 1024 * 1024
SLOWER = 50
SLOW = 3  # the place of the device
OBJECTS = 30
SIZES = (64 * KIB, 256 * KIB, MIB)


@pytest.fixture
def slow_way(tmp_path: Path) -> Iterator[tuple[LocalCluster, Way]]:
    with cluster_behind_proxies(tmp_path / "cluster", [SLOW]) as (cluster, proxies):
        yield cluster, proxies[SLOW]


def contents(seed: int) -> dict[str, bytes]:
    source = random.Random(seed)
    return {f"k{number:02}": source.randbytes(SIZES[number % len(SIZES)]) for number in range(OBJECTS)}


def read_all(store: reedbed.Store, objects: dict[str, bytes], rounds: int = 1) -> list[float]:
    """Reads every object so many times; how long each took."""
    times = []
    for _ in range(rounds):
        for key, blob in objects.items():
            began = time.monotonic()
            assert store.get("data", key) == blob, key
            times.append(time.monotonic() - began)
    return times


class Counted:
    """Counters since it was made."""

    def __init__(self, store: reedbed.Store) -> None:
        self._store = store
        self._before = store.metrics()

    def __getitem__(self, name: str) -> int:
        return self._store.metrics().get(name, 0) - self._before.get(name, 0)


def slow_down(proxy: Way, times: list[float]) -> None:
    """The device's answers take 50 times as long as a usual read of this run, one half on each way."""
    proxy.delay = max(0.05, SLOWER * statistics.median(times)) / 2


def check_spare_budget(count: Counted) -> None:
    reads = count["reads.direct"] + count["reads.spare_won"] + count["reads.avoided"]
    # each spare read is k calls; one that probes a device known to be slow needs no budget
    budget = SPARE_BURST_CALLS + SPARE_SHARE * reads
    probes = reads / PROBE_EVERY + 10
    assert count["reads.spare_asked"] <= budget + probes


def test_spare_reads_win_and_then_the_device_is_avoided(slow_way: tuple[LocalCluster, Way]) -> None:
    cluster, proxy = slow_way
    objects = contents(1)
    with reedbed.connect(cluster.endpoint, timeout=30) as store:
        store.create_bucket("data")
        for key, blob in objects.items():
            store.put("data", key, blob)
        usual = read_all(store, objects, 3)
        assert store.metrics().get("reads.decoded", 0) <= store.metrics()["reads.direct"] // 10

        slow_down(proxy, usual)
        first = Counted(store)
        read_all(store, objects, 2)
        assert first["reads.spare_asked"] > 0
        assert first["reads.spare_won"] > 0
        assert first["reads.avoided"] > 0
        check_spare_budget(first)

        then = Counted(store)
        read_all(store, objects, 3)
        assert then["reads.avoided"] > then["reads.spare_asked"]
        assert then["reads.spare_asked"] - first["reads.spare_asked"] < then["reads.avoided"]
        assert then["reads.decoded"] >= then["reads.avoided"]
        check_spare_budget(then)

        # ranges, and writes, which wait for the device or go around it, and are whole either way
        for key, blob in objects.items():
            assert store.get("data", key, start=1000, end=40_000) == blob[1000:40_000]
        for key, blob in list(contents(2).items())[:9]:
            store.put("data", "new/" + key, blob)
            assert store.get("data", "new/" + key) == blob
    assert cluster.storaged[SLOW - 1].running


def test_a_new_client_meets_a_slow_device(slow_way: tuple[LocalCluster, Way]) -> None:
    """It has learnt nothing of the others yet, reads many at a time, and ends up around the slow one."""
    cluster, proxy = slow_way
    objects = contents(3)
    with reedbed.connect(cluster.endpoint, timeout=30) as store:
        store.create_bucket("data")
        for key, blob in objects.items():
            store.put("data", key, blob)
        usual = read_all(store, objects)
    slow_down(proxy, usual)
    with reedbed.connect(cluster.endpoint, timeout=30) as store:
        for _ in range(5):
            for key, blob in store.get_many("data", sorted(objects)):
                assert blob == objects[key]
        count = store.metrics()
        assert count["reads.spare_asked"] > 0
        assert count["reads.avoided"] > 0


@pytest.mark.timeout(240)
def test_a_device_that_recovers_is_used_again(slow_way: tuple[LocalCluster, Way]) -> None:
    cluster, proxy = slow_way
    objects = contents(4)
    with reedbed.connect(cluster.endpoint, timeout=30) as store:
        store.create_bucket("data")
        for key, blob in objects.items():
            store.put("data", key, blob)

        def given() -> int:
            """Bytes that the device itself gives in one round of reads: the others' speed has no part in it."""
            before = proxy.answered
            read_all(store, objects)
            return proxy.answered - before

        usual = read_all(store, objects, 3)
        full = given()
        slow_down(proxy, usual)
        until(lambda: given() < full / 4, 90)
        proxy.delay = 0.0
        until(lambda: given() > full / 2, 90)  # probes find out
