"""Repair by itself: what dead devices held comes back on others, and who comes back is used, or cleaned."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reedbed_cluster import REEDBED, LocalCluster, local_cluster

import reedbed
from reedbed.cli.health import health
from tests.integration.test_survival import MIB, check_all, contents, put_all

LOOK_S = 0.1
OPTIONS = ("--down-after-s", "1", "--out-after-s", "3")


@pytest.fixture
def eight(tmp_path: Path) -> Iterator[LocalCluster]:
    """Eight devices under rs-4-2, called out after a few seconds."""
    with local_cluster(tmp_path / "cluster", 8, catalog_options=OPTIONS) as started:
        yield started


def status_of(cluster: LocalCluster) -> dict[str, Any]:
    """What `reedbed status --json` tells."""
    with reedbed.connect(cluster.endpoint, timeout=30) as store:
        told = store.status()
    return {"why": health(told).why, **told}


def wait_status(
    cluster: LocalCluster, good: Callable[[dict[str, Any]], bool], seconds: float = 150.0
) -> dict[str, Any]:
    """The first status that is good; AssertionError with the last one otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        told = status_of(cluster)
        if good(told):
            return told
        time.sleep(LOOK_S)
        assert time.monotonic() < deadline, json.dumps(told["keeping"]) + "\n" + cluster.logs()[-6000:]


def whole(told: dict[str, Any]) -> bool:
    """Every extent has every shard at the place where it belongs, and nothing is on the move."""
    keeping = told["keeping"]
    quiet = not keeping["extents"] and not keeping["noting_pgs"] and not keeping["moving_positions"]
    return quiet and not told["queues"]["degraded"] and keeping["survives"] == {"rs-4-2": 2}


def state_of(told: dict[str, Any], number: int) -> dict[str, Any]:
    found: dict[str, Any] = next(device for device in told["devices"] if device["id"] == number)
    return found


@pytest.mark.timeout(400)
def test_a_dead_device_is_repaired_and_cleaned_when_it_comes_back(eight: LocalCluster) -> None:
    objects = contents(11)
    with reedbed.connect(eight.endpoint, timeout=60) as store:
        store.create_bucket("data")
        put_all(store, "data", objects)
        store.delete("data", "size/100")
        objects.pop("size/100")
        dead = eight.storaged[0]
        number = dead.ready["devices"][0]["id"]
        held = wait_status(eight, lambda told: state_of(told, number)["shards"] > 0)
        dead.kill()
        wait_status(eight, lambda told: state_of(told, number)["state"] == "out")
        repaired = wait_status(eight, whole)
        assert state_of(repaired, number)["incarnation"] == state_of(held, number)["incarnation"] + 1
        for daemon in eight.storaged[1:3]:
            daemon.kill()
        check_all(store, "data", objects)
        eight.start_storage(eight.storaged[1:3])
        dead.start()
        back = wait_status(eight, lambda told: state_of(told, number)["state"] == "up" and whole(told))
        assert state_of(back, number)["shards"] == 0
        check_all(store, "data", objects)
        for daemon in eight.storaged[4:6]:
            daemon.kill()
        check_all(store, "data", objects)


@pytest.mark.timeout(400)
def test_a_device_that_comes_back_in_time_is_used_and_gets_what_it_missed(tmp_path: Path) -> None:
    objects = contents(12)
    options = ("--down-after-s", "1", "--out-after-s", "300")
    with (
        local_cluster(tmp_path / "cluster", 6, catalog_options=options) as six,
        reedbed.connect(six.endpoint, timeout=60) as store,
    ):
        store.create_bucket("data")
        put_all(store, "data", objects)
        late = six.storaged[3]
        number = late.ready["devices"][0]["id"]
        late.kill()
        six.wait_states({number: "down"})
        missed = {f"missed/{count}": bytes([count]) * (200_000 * count) for count in range(1, 30)}
        put_all(store, "data", missed)
        assert wait_status(six, lambda told: told["keeping"]["extents"] > 0)["keeping"]["survives"]["rs-4-2"] == 1
        late.start()
        done = wait_status(six, whole)
        assert state_of(done, number)["incarnation"] == 1
        assert state_of(done, number)["shards"] > 0
        for daemon in (six.storaged[0], six.storaged[1]):
            daemon.kill()
        check_all(store, "data", {**objects, **missed})


@pytest.mark.timeout(400)
def test_repair_goes_on_where_it_was_after_catalogd_and_workers_were_killed(eight: LocalCluster) -> None:
    blob = bytes(range(256)) * (MIB // 256)
    with reedbed.connect(eight.endpoint, timeout=60) as store:
        store.create_bucket("data")
        put_all(store, "data", {f"big/{number}": blob * 20 for number in range(12)})
        dead = eight.storaged[7]
        number = dead.ready["devices"][0]["id"]
        dead.kill()
        wait_status(eight, lambda told: state_of(told, number)["state"] == "out")
        eight.catalogd.kill()
        eight.storaged[2].kill()
        eight.start_catalog()
        eight.start_storage([eight.storaged[2]])
        wait_status(eight, whole)
        for daemon in eight.storaged[3:5]:
            daemon.kill()
        for count in range(12):
            assert store.get("data", f"big/{count}") == blob * 20


def order(cluster: LocalCluster, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [*REEDBED, "device", *arguments, "--json", "--endpoint", cluster.endpoint], stdout=subprocess.PIPE, check=False
    )
    told: dict[str, Any] = json.loads(done.stdout or b"{}")
    return {**told, "code": done.returncode}


@pytest.mark.timeout(400)
def test_a_device_is_drained_under_writes_and_ends_with_no_shard(tmp_path: Path) -> None:
    objects = contents(13)
    with (
        local_cluster(tmp_path / "cluster", 8, catalog_options=("--horizon-lag-s", "5")) as eight,
        reedbed.connect(eight.endpoint, timeout=60) as store,
    ):
        store.create_bucket("data")
        put_all(store, "data", objects)
        number = eight.storaged[1].ready["devices"][0]["id"]
        wait_status(eight, lambda told: state_of(told, number)["shards"] > 0)
        assert order(eight, "drain", str(number), "--plan")["possible"]
        assert status_of(eight)["keeping"]["leaving"] == []
        assert order(eight, "drain", str(number))["code"] == 0
        more = {f"more/{count}": bytes([count]) * (100_000 * count) for count in range(1, 40)}
        put_all(store, "data", more)
        worst = 2

        def empty(told: dict[str, Any]) -> bool:
            nonlocal worst
            worst = min(worst, told["keeping"]["survives"]["rs-4-2"])
            device = state_of(told, number)
            return whole(told) and device["incarnation"] == 2 and not device["shards"] and device["state"] == "up"

        wait_status(eight, empty)
        eight.storaged[1].stop()
        for daemon in eight.storaged[2:4]:
            daemon.kill()
        check_all(store, "data", {**objects, **more})
        assert order(eight, "drain", "99")["code"] == reedbed.NotFound.exit_code
        assert order(eight, "rates", "--floor", str(MIB))["floor"] == MIB
