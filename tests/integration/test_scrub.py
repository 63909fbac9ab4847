"""Rotten bits, lost segments and a lost index, on real processes: found, and repaired from the other shards."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reedbed_cluster import REEDBED, LocalCluster, local_cluster

import reedbed
from reedbed.common.errors import DamagedShard, UnknownShard
from reedbed.common.ids import Id, is_system
from reedbed.storaged.store import ShardStore
from tests.integration.test_survival import check_all, contents, put_all

FLIPS = 100
# what is deleted leaves removal records soon
SHORT = ("--short-grace", "--delete-grace-s", "1", "--horizon-lag-s", "10")


def told_by(cluster: LocalCluster, *command: str) -> dict[str, Any]:
    done = subprocess.run(
        [*REEDBED, *command, "--json", "--endpoint", cluster.endpoint], stdout=subprocess.PIPE, check=False
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def wait_status(cluster: LocalCluster, good: Callable[[dict[str, Any]], bool], seconds: float = 90.0) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        told = told_by(cluster, "status")
        if good(told):
            return told
        assert time.monotonic() < deadline, json.dumps(told, indent=1) + cluster.logs()[-6000:]


def whole(told: dict[str, Any]) -> bool:
    lacking = told["queues"]["degraded"] or told["keeping"]["extents"]
    return not lacking and not any(device["damaged"] for device in told["devices"])


def removed(told: dict[str, Any]) -> bool:
    """What was deleted is gone from all devices."""
    return not told["queues"]["dropped"] and not told["queues"]["removals"]


def flip_bytes(folder: Path, seed: int, count: int) -> list[tuple[str, int]]:
    """Alters random bytes of the device's segments and index, each byte as likely as any other with data."""
    source = random.Random(seed)
    files = sorted(path for part in ("segments", "index") for path in (folder / part).iterdir() if path.stat().st_size)
    files = [path for path in files if path.name != "lock.mdb"]
    flipped = []
    for _ in range(count):
        # half of them anywhere, half of them in the small files, which big ones would hide
        path = source.choice(files) if source.random() < 0.5 else max(files, key=lambda path: path.stat().st_size)
        at = source.randrange(path.stat().st_size)
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ source.randrange(1, 256)]))
        flipped.append((path.name, at))
    return flipped


def held(folder: Path, cluster: bytes) -> dict[tuple[Id, int], int]:
    """The shards of a device that is not served, with their lengths; each is read whole, so that all are verified.

    Without those of the catalog's copy, which come and go.
    """
    found = {}
    with ShardStore.open(folder, cluster) as store:
        after = None
        while rows := store.list(after):
            for row in rows:
                if is_system(row.extent):
                    continue
                try:
                    store.read(row.extent, row.index, 0, row.length)
                except (DamagedShard, UnknownShard):
                    continue
                found[row.extent, row.index] = row.length
            after = (rows[-1].extent, rows[-1].index)
    return found


@pytest.mark.timeout(400)
def test_flipped_bytes_a_lost_segment_and_a_lost_index_are_found_and_repaired(tmp_path: Path) -> None:
    seed = int(os.environ.get("REEDBED_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    sys.stdout.write(f"REEDBED_TEST_SEED={seed}\n")
    objects = contents(21)
    with (
        local_cluster(tmp_path / "cluster", catalog_options=SHORT) as cluster,
        reedbed.connect(cluster.endpoint, timeout=60) as store,
    ):
        name = bytes.fromhex(told_by(cluster, "status")["cluster"])
        store.create_bucket("data")
        put_all(store, "data", objects)
        put_all(store, "data", {f"gone/{number}": bytes(100_000) for number in range(20)})
        store.delete_many("data", [f"gone/{number}" for number in range(20)])
        wait_status(cluster, removed)
        check_all(store, "data", objects)
        rotten, robbed = cluster.storaged[0], cluster.storaged[3]
        for daemon in (rotten, robbed):
            daemon.signal(signal.SIGKILL)
            daemon.kill()
        folders = [cluster.device_folder(1), cluster.device_folder(4)]
        before = [held_copy(folder, name, tmp_path / f"copy-{number}") for number, folder in enumerate(folders)]
        flipped = flip_bytes(folders[0], seed, FLIPS)
        segments = sorted((folders[1] / "segments").iterdir())
        segments[0].unlink()
        shutil.rmtree(folders[1] / "index")
        for number, folder in enumerate(folders):
            hurt = held_copy(folder, name, tmp_path / f"hurt-{number}")
            assert hurt.items() < before[number].items() | hurt.items(), (seed, flipped)
        check_all(store, "data", objects)
        cluster.start_storage([rotten, robbed])
        check_all(store, "data", objects)
        report = told_by(cluster, "scrub", "--wait")
        assert [row["done"] for row in report["devices"]] == [True] * 6, report
        assert not any(row["error"] for row in report["devices"]), report
        check_all(store, "data", objects)
        wait_status(cluster, lambda told: whole(told) and removed(told))
        check_all(store, "data", objects)
        again = told_by(cluster, "scrub", "--wait")
        assert not any(row["missing"] for row in again["devices"]), again
        for daemon in (rotten, robbed):
            daemon.stop()
        for folder, shards in zip(folders, before, strict=True):
            assert held(folder, name) == shards, (seed, flipped)
        for daemon in cluster.storaged[1:3]:
            daemon.kill()
        cluster.start_storage([rotten, robbed])
        # what was rebuilt is what is read now
        check_all(store, "data", objects)


def held_copy(folder: Path, cluster: bytes, copy: Path) -> dict[tuple[Id, int], int]:
    """`held` of a copy, so that the device's own files stay as the kill left them."""
    shutil.copytree(folder, copy)
    return held(copy, cluster)


@pytest.mark.timeout(200)
def test_scrub_of_a_whole_cluster_finds_nothing(cluster: LocalCluster) -> None:
    with reedbed.connect(cluster.endpoint, timeout=30) as store:
        store.create_bucket("data")
        put_all(store, "data", contents(22))
        report = told_by(cluster, "scrub", "--wait")
        assert [row["device"] for row in report["devices"]] == [1, 2, 3, 4, 5, 6]
        for row in report["devices"]:
            assert row["done"]
            assert row["read"] > 0
            assert not row["damaged"] + row["missing"] + row["garbage"], row
        one = told_by(cluster, "scrub", "--device", "3", "--wait")
        assert [(row["device"], row["pass"]) for row in one["devices"]] == [(3, report["devices"][2]["pass"] + 1)]
        refused = subprocess.run(
            [*REEDBED, "scrub", "--device", "99", "--endpoint", cluster.endpoint], stderr=subprocess.PIPE, check=False
        )
        assert refused.returncode == 4
    told = wait_status(cluster, lambda told: all(device["scrub"]["passes"] for device in told["devices"]))
    assert told["health"] == "healthy"
