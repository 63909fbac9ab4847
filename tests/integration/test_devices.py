"""Devices that die, come, are emptied and leave, on real processes: and nothing is unreadable at any time."""

from __future__ import annotations

import json
import random
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from reedbed_cluster import REEDBED, Daemon, LocalCluster, local_cluster

import reedbed
from tests.integration.test_repair import order, state_of, status_of, wait_status
from tests.integration.test_survival import MIB, check_all, contents, put_all

QUICK = ("--down-after-s", "1", "--out-after-s", "3")


def number_of(daemon: Daemon) -> int:
    return int(daemon.ready["devices"][0]["id"])


def start_more(cluster: LocalCluster, count: int, options: Sequence[str] = ()) -> list[Daemon]:
    """Storaged processes with new devices."""
    first = len(cluster.storaged) + 1
    more = [cluster.storage_daemon(place, options) for place in range(first, first + count)]
    cluster.start_storage(more)
    cluster.storaged += more
    return more


def settled(told: dict[str, Any]) -> bool:
    """Nothing lacks, nothing moves, nothing is ordered."""
    keeping = told["keeping"]
    quiet = not keeping["extents"] and not keeping["noting_pgs"] and not keeping["moving_positions"]
    return quiet and keeping["balancing"] is None and not keeping["stuck_positions"]


class Load:
    """Threads that write, read back and compare until told to stop; reads that fail or are wrong are kept."""

    def __init__(self, endpoint: str, objects: dict[str, bytes]) -> None:
        self._endpoint = endpoint
        self.objects = dict(objects)
        self.problems: list[str] = []
        self.reads = self.writes = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._read, self._read, self._write)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        source = random.Random()
        with reedbed.connect(self._endpoint, timeout=20) as store:
            while not self._stop.is_set():
                key = source.choice(list(self.objects))
                try:
                    if store.get("data", key) != self.objects[key]:
                        self.problems.append(f"{key}: wrong bytes")
                except reedbed.ReedbedError as error:
                    self.problems.append(f"{key}: {error}")
                self.reads += 1

    def _write(self) -> None:
        source = random.Random(5)
        with reedbed.connect(self._endpoint, timeout=20) as store:
            while not self._stop.is_set():
                blob = source.randbytes(source.choice((700, 30_000, 300_000)))
                key = f"load/{self.writes:05}"
                try:
                    store.put("data", key, blob)
                    self.objects[key] = blob
                except reedbed.ReedbedError as error:
                    self.problems.append(f"{key}: {error}")
                self.writes += 1
                self._stop.wait(0.02)


@pytest.mark.timeout(400)
def test_two_die_at_once_and_a_third_as_soon_as_status_says_that_it_is_safe(tmp_path: Path) -> None:
    objects = contents(21)
    with (
        local_cluster(tmp_path / "cluster", 10, catalog_options=QUICK) as ten,
        reedbed.connect(ten.endpoint, timeout=60) as store,
    ):
        store.create_bucket("data")
        put_all(store, "data", objects)
        for daemon in ten.storaged[:2]:
            daemon.kill()
        both = [number_of(daemon) for daemon in ten.storaged[:2]]
        told = wait_status(ten, lambda told: all(state_of(told, number)["state"] != "up" for number in both))
        assert told["keeping"]["survives"]["rs-4-2"] == 0
        assert "no further loss" in told["why"]
        wait_status(ten, lambda told: told["keeping"]["survives"]["rs-4-2"] > 0)
        ten.storaged[2].kill()
        check_all(store, "data", objects)
        wait_status(ten, lambda told: settled(told) and told["keeping"]["survives"]["rs-4-2"] == 2)
        check_all(store, "data", objects)


@pytest.mark.timeout(400)
def test_repair_that_lacks_devices_says_so_and_ends_once_some_are_there(tmp_path: Path) -> None:
    objects = {key: blob for key, blob in contents(22).items() if len(blob) < 6 * MIB}
    with (
        local_cluster(tmp_path / "cluster", 12, profile="rs-10-2", catalog_options=QUICK) as twelve,
        reedbed.connect(twelve.endpoint, timeout=60) as store,
    ):
        store.create_bucket("data")
        put_all(store, "data", objects)
        for daemon in twelve.storaged[:2]:
            daemon.kill()
        told = wait_status(twelve, lambda told: told["keeping"]["stuck_positions"] > 0)
        assert told["keeping"]["survives"]["rs-10-2"] == 0
        assert "no further loss is survived by extents of rs-10-2" in told["why"]
        assert "repair lacks devices" in told["why"]
        for key, blob in objects.items():
            assert store.get("data", key) == blob
        with pytest.raises(reedbed.Unavailable, match=r"10 of 12 are, and rs-10-2 needs 11 positions"):
            store.put("data", "large", bytes(20 * MIB))
        store.put("data", "small", b"one data shard and two of parity")
        start_more(twelve, 2)
        wait_status(twelve, lambda told: settled(told) and told["keeping"]["survives"]["rs-10-2"] == 2)
        store.put("data", "large", bytes(20 * MIB))
        for daemon in twelve.storaged[2:4]:
            daemon.kill()
        for key, blob in objects.items():
            assert store.get("data", key) == blob


@pytest.mark.timeout(400)
def test_two_are_added_and_two_drained_under_load_and_nothing_is_unreadable(tmp_path: Path) -> None:
    options = ("--horizon-lag-s", "5")
    source = random.Random(23)
    objects = {f"big/{number}": source.randbytes(source.randrange(MIB, 6 * MIB)) for number in range(30)}
    objects |= {f"small/{number}": source.randbytes(1 + number * 50) for number in range(200)}
    with (
        local_cluster(tmp_path / "cluster", 10, catalog_options=options) as cluster,
        reedbed.connect(cluster.endpoint, timeout=60) as store,
    ):
        store.create_bucket("data")
        put_all(store, "data", objects)
        with Load(cluster.endpoint, objects) as load:
            new = [number_of(daemon) for daemon in start_more(cluster, 2)]
            told = wait_status(cluster, lambda told: set(told["keeping"]["idle"]) == set(new))
            before = told["keeping"]["bytes_total"]
            planned = order(cluster, "add", *map(str, new), "--plan")
            assert planned["positions"] == order(cluster, "add", *map(str, new))["positions"] > 0
            worst = _follow(cluster, lambda told: settled(told) and not told["keeping"]["idle"])
            after = status_of(cluster)
            moved = after["keeping"]["bytes_total"] - before
            held = {one["id"]: one["used"] for one in after["devices"]}
            required = 2 * sum(held.values()) / 12
            assert worst == 2, "extents were less safe while positions moved"
            assert moved <= 1.2 * required, (moved, required)
            assert all(0.7 * required / 2 < held[number] < 1.4 * required / 2 for number in new), held
            assert order(cluster, "add", *map(str, new), "--plan")["positions"] == 0
            assert after["pgs"]["rs-4-2"] == 200

            gone = [number_of(daemon) for daemon in cluster.storaged[:2]]
            before = after["keeping"]["bytes_total"]
            required = sum(held[number] for number in gone)
            assert order(cluster, "drain", *map(str, gone))["code"] == 0
            worst = _follow(
                cluster,
                lambda told: (
                    settled(told)
                    and all(state_of(told, number)["incarnation"] == 2 for number in gone)
                    and not any(state_of(told, number)["shards"] for number in gone)
                ),
            )
            moved = status_of(cluster)["keeping"]["bytes_total"] - before
            assert worst == 2, "extents were less safe while devices were drained"
            assert moved <= 1.2 * required, (moved, required)
        assert load.problems == []
        assert load.reads > 50
        assert load.writes > 20
        for number in gone:
            assert order(cluster, "remove", str(number))["code"] == 0
        for daemon in cluster.storaged[2:4]:
            daemon.kill()
        for key, blob in load.objects.items():
            assert store.get("data", key) == blob


def _follow(cluster: LocalCluster, good: Any) -> int:
    """How many losses were survived at the worst moment until the status is good."""
    worst = 9

    def look(told: dict[str, Any]) -> bool:
        nonlocal worst
        worst = min(worst, told["keeping"]["survives"]["rs-4-2"])
        return bool(good(told))

    wait_status(cluster, look)
    return worst


@pytest.mark.timeout(400)
def test_a_device_is_removed_only_where_nothing_is_lost_and_never_trusted_again(tmp_path: Path) -> None:
    options = ("--down-after-s", "1", "--horizon-lag-s", "5")
    with (
        local_cluster(tmp_path / "cluster", 4, profile="rs-2-1", catalog_options=options) as four,
        reedbed.connect(four.endpoint, timeout=60) as store,
    ):
        store.create_bucket("data")
        objects = {f"{number}": random.Random(number).randbytes(200_000) for number in range(20)}
        for key, blob in objects.items():  # one after the other, so that each has an extent of its own
            store.put("data", key, blob)
        one, other = four.storaged[0], four.storaged[1]
        one.kill()
        four.wait_states({number_of(one): "down"})
        done = subprocess.run(
            [*REEDBED, "device", "remove", str(number_of(other)), "--json", "--endpoint", four.endpoint],
            capture_output=True,
            check=False,
        )
        assert done.returncode == reedbed.PreconditionFailed.exit_code
        error = json.loads(done.stderr.splitlines()[-1])["error"]
        assert "could not be read any more" in error["what"]
        assert "reedbed://data/" in error["what"]
        assert "reedbed device drain" in error["hint"]
        refused = order(four, "remove", str(number_of(other)), "--plan")
        assert not refused["possible"]
        assert refused["lost"]["extents"] > 0
        assert refused["lost"]["objects"] > 0
        # the dead one holds nothing that others could not make again
        assert order(four, "remove", str(number_of(one)))["code"] == 0
        told = wait_status(four, lambda told: settled(told) and told["keeping"]["survives"]["rs-2-1"] == 1)
        assert [device["id"] for device in told["devices"]] == [2, 3, 4] or len(told["devices"]) == 3
        one.start(wait=False)
        assert one.wait_end() == reedbed.PreconditionFailed.exit_code
        assert "was removed from the cluster" in one.log()
        # one that runs, and whose shards others can make, ends when it is removed
        more = start_more(four, 1)[0]
        assert number_of(more) == 5
        assert order(four, "remove", str(number_of(other)))["code"] == 0
        assert other.wait_end() == reedbed.PreconditionFailed.exit_code
        wait_status(four, lambda told: settled(told) and told["keeping"]["survives"]["rs-2-1"] == 1)
        for key, blob in objects.items():
            assert store.get("data", key) == blob


@pytest.mark.timeout(400)
def test_a_device_that_fills_while_positions_move_to_it_stops_nothing(tmp_path: Path) -> None:
    options = ("--horizon-lag-s", "5")
    blobs = {f"{number}": random.Random(number).randbytes(2 * MIB) for number in range(40)}
    with (
        local_cluster(tmp_path / "cluster", 4, profile="rs-2-1", catalog_options=options) as four,
        reedbed.connect(four.endpoint, timeout=60) as store,
    ):
        store.create_bucket("data")
        put_all(store, "data", blobs)
        small = start_more(four, 1, ["--capacity", str(16 * MIB)])[0]
        # what it says of its size is not believed by the test: the order asks for a drain of another device
        assert order(four, "drain", str(number_of(four.storaged[0])))["code"] == 0
        with Load(four.endpoint, blobs) as load:
            told = wait_status(
                four,
                lambda told: settled(told) and state_of(told, number_of(four.storaged[0]))["incarnation"] == 2,
            )
        assert load.problems == []
        assert state_of(told, number_of(small))["used"] <= 16 * MIB
        assert told["keeping"]["survives"]["rs-2-1"] == 1
        for daemon in four.storaged[1:2]:
            daemon.kill()
        for key, blob in load.objects.items():
            assert store.get("data", key) == blob
