"""Recoding and compaction on real processes: bytes move to other extents, unnoticed by whoever reads them."""

from __future__ import annotations

import json
import random
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from reedbed_cluster import REEDBED, LocalCluster, local_cluster

import reedbed
from tests.integration.test_repair import status_of, wait_status
from tests.integration.test_survival import MIB, check_all, contents, put_all

SMALL = 4096
SHORT = ("--horizon-lag-s", "5", "--delete-grace-s", "1", "--short-grace")


def command(cluster: LocalCluster, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [*REEDBED, *arguments, "--json", "--endpoint", cluster.endpoint],
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    told: dict[str, Any] = json.loads(done.stdout or done.stderr)
    return {**told, "code": done.returncode}


def held(cluster: LocalCluster) -> int:
    """Bytes of the disks that segments take."""
    return sum(
        path.stat().st_blocks * 512
        for place in range(1, len(cluster.storaged) + 1)
        for path in (cluster.device_folder(place) / "segments").iterdir()
    )


def settled(told: dict[str, Any]) -> bool:
    """Nothing is to be recoded, nothing sparse is left, and what was dropped is gone."""
    rewriting, queues = told["rewriting"], told["queues"]
    left = rewriting["orders"] or rewriting["versions_left"] or rewriting["tasks"]
    return not left and not queues["dropped"] and not queues["removals"] and not queues["degraded"]


@contextmanager
def reading(cluster: LocalCluster, objects: dict[str, bytes], keys: list[str]) -> Iterator[list[int]]:
    """Reads objects that stay as they are, again and again, and compares them. Gives the number of reads so far."""
    stop, count, wrong = threading.Event(), [0], []

    def read() -> None:
        rng = random.Random(5)
        with reedbed.connect(cluster.endpoint, timeout=60) as store:
            while not stop.is_set():
                key = rng.choice(keys)
                try:
                    if store.get("data", key) != objects[key]:
                        wrong.append(key)
                except reedbed.ReedbedError as error:
                    wrong.append(f"{key}: {error}")
                count[0] += 1

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()
    assert not wrong, wrong[:5]
    assert count[0] > 10


@pytest.mark.timeout(300)
def test_the_space_of_small_objects_that_were_deleted_and_overwritten_comes_back(tmp_path: Path) -> None:
    rng = random.Random(7)
    objects = {f"k/{number:05}": rng.randbytes(SMALL) for number in range(5000)}
    keys = list(objects)
    rng.shuffle(keys)
    deleted, overwritten, kept = keys[:2500], keys[2500:4000], keys[4000:]
    with (
        local_cluster(tmp_path / "cluster", catalog_options=SHORT) as cluster,
        reedbed.connect(cluster.endpoint, timeout=60) as store,
    ):
        store.create_bucket("data")
        put_all(store, "data", objects)
        with reading(cluster, objects, kept):
            put_all(store, "data", changed := {key: rng.randbytes(SMALL) for key in overwritten[40:]})
            for key in overwritten[:40]:  # each alone in its extent
                changed[key] = rng.randbytes(SMALL)
                store.put("data", key, changed[key])
            assert not [one for one in store.delete_many("data", deleted).values() if isinstance(one, Exception)]
            left = {key: changed.get(key, objects[key]) for key in (*overwritten, *kept)}
            code = len(left) * SMALL * 6 // 4
            assert held(cluster) > 1.3 * code
            wait_status(cluster, lambda told: settled(told) and held(cluster) <= 1.3 * code)
        for daemon in cluster.storaged[1:3]:
            daemon.kill()
        assert dict(store.get_many("data", sorted(left))) == left
        assert [row.key for row in store.list("data")] == sorted(left)


@pytest.mark.timeout(300)
def test_a_bucket_is_recoded_while_it_is_read(tmp_path: Path) -> None:
    objects = contents(21)
    with (
        local_cluster(tmp_path / "cluster", profile="rs-2-1", catalog_options=SHORT) as cluster,
        reedbed.connect(cluster.endpoint, timeout=60) as store,
    ):
        store.create_bucket("data")
        store.create_bucket("other")
        put_all(store, "data", objects)
        largest = max(objects, key=lambda key: len(objects[key]))
        store.copy("data", largest, "other", "a copy that stays")
        wait_status(cluster, lambda told: sum(device["shards"] for device in told["devices"]) > 0)
        size = sum(map(len, objects.values()))
        opened = store.open("data", largest, "rb")
        assert opened.read(10) == objects[largest][:10]

        plan = command(cluster, "recode", "data", "--profile", "rs-4-2", "--plan")
        assert plan["bytes"] == size
        assert plan["stored"] == pytest.approx(size * 3 / 2, abs=999)
        assert plan["then"] == pytest.approx(size * 3 / 2, abs=999)
        assert status_of(cluster)["pgs"].keys() == {"rs-2-1"}
        refused = command(cluster, "recode", "data", "--profile", "rs-10-2")
        assert refused["code"] == reedbed.InvalidArgument.exit_code
        assert "12 devices" in refused["error"]["what"]
        assert command(cluster, "recode", "none", "--profile", "rs-4-2")["code"] == reedbed.NotFound.exit_code

        with reading(cluster, objects, sorted(objects)):
            assert command(cluster, "recode", "data", "--profile", "rs-4-2")["code"] == 0
            wait_status(cluster, settled)
            # the old extents are gone, and the stream still names them
            assert opened.read() == objects[largest][10:]
        opened.close()
        for key in (largest, "small/007"):
            info = store.stat("data", key)
            assert (info.profile, info.actual_profiles) == ("rs-4-2", ("rs-4-2",))
        other = store.stat("other", "a copy that stays")
        assert (other.profile, other.actual_profiles) == ("rs-2-1", ("rs-2-1",))
        assert store.put("data", "new", b"as the bucket says").profile == "rs-4-2"
        store.delete("data", "new")

        command(cluster, "recode", "other", "--profile", "rs-4-2", "--key", "a copy that stays")
        wait_status(cluster, settled)
        wait_status(cluster, lambda _: held(cluster) <= 1.1 * 1.5 * (size + len(objects[largest])))
        for daemon in cluster.storaged[2:4]:
            daemon.kill()
        check_all(store, "data", objects)
        assert store.get("other", "a copy that stays") == objects[largest]


@pytest.mark.timeout(300)
def test_recoding_goes_on_after_kills_amid_it(tmp_path: Path) -> None:
    rng = random.Random(22)
    objects = {f"k/{number}": rng.randbytes(3 * MIB + number) for number in range(16)}
    objects |= {f"small/{number}": rng.randbytes(1000 + number) for number in range(300)}
    with (
        local_cluster(tmp_path / "cluster", catalog_options=SHORT) as cluster,
        reedbed.connect(cluster.endpoint, timeout=60) as store,
    ):
        store.create_bucket("data", profile="rs-2-1")
        put_all(store, "data", objects)
        command(cluster, "device", "rates", "--floor", str(MIB), "--ceiling", str(3 * MIB))
        command(cluster, "recode", "data", "--profile", "rs-1-2")
        wait_status(cluster, lambda told: told["rewriting"]["tasks"] > 0)
        cluster.catalogd.kill()
        for daemon in cluster.storaged[1:3]:
            daemon.kill()
        cluster.restart()
        assert status_of(cluster)["rewriting"]["versions_left"] > 0
        command(cluster, "device", "rates", "--ceiling", str(400 * MIB))
        wait_status(cluster, settled)
        assert {store.stat("data", key).actual_profiles for key in objects} == {("rs-1-2",)}
        for daemon in cluster.storaged[4:6]:
            daemon.kill()
        assert dict(store.get_many("data", sorted(objects))) == objects


@pytest.mark.timeout(300)
def test_a_full_cluster_stops_recoding_with_the_reason_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    rng = random.Random(23)
    objects = {f"k/{number}": rng.randbytes(3 * MIB) for number in range(10)}
    with (
        local_cluster(
            tmp_path / "cluster", 3, profile="rs-2-1", catalog_options=SHORT, storage_options=[f"--capacity={24 * MIB}"]
        ) as cluster,
        reedbed.connect(cluster.endpoint, timeout=60) as store,
    ):
        store.create_bucket("data")
        put_all(store, "data", objects)
        command(cluster, "recode", "data", "--profile", "rs-1-2")  # twice the bytes
        told = wait_status(cluster, lambda told: "no room" in told["rewriting"]["stopped"])
        assert told["rewriting"]["versions_left"] > 0
        assert told["queues"]["degraded"] == 0
        for key, blob in objects.items():
            assert store.get("data", key) == blob
        for number in range(3, 10):
            store.delete("data", f"k/{number}")
        wait_status(cluster, lambda told: settled(told) and not told["rewriting"]["stopped"])
        for number in range(3):
            assert store.stat("data", f"k/{number}").actual_profiles == ("rs-1-2",)
        for daemon in cluster.storaged[:2]:
            daemon.kill()
        for number in range(3):
            assert store.get("data", f"k/{number}") == objects[f"k/{number}"]
