"""Bounds on memory and on bytes on disk, with real processes and files of real size."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from reedbed_cluster import REEDBED, LocalCluster

import reedbed

KIB, MIB, GIB = 1024, 1024**2, 1024**3
MEMORY_MAX = 400 * MIB


class Watch:
    """The largest resident memory that processes have had, by sampling."""

    def __init__(self, pids: list[int]) -> None:
        self.peak: dict[int, int] = dict.fromkeys(pids, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(0.02):
            for pid in list(self.peak):
                try:
                    self.peak[pid] = max(self.peak[pid], psutil.Process(pid).memory_info().rss)
                except psutil.NoSuchProcess:
                    continue


def run_watched(command: list[str], cluster: LocalCluster) -> None:
    """Runs a command; its own memory and that of every daemon has to stay below the bound."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    with Watch([process.pid, *(daemon.pid for daemon in cluster.daemons)]) as watch:
        assert process.wait() == 0
    worst = max(watch.peak.values())
    assert worst < MEMORY_MAX, {pid: peak // MIB for pid, peak in watch.peak.items()}


def disk_bytes(folder: Path) -> int:
    """What lies on disk below a folder, without the reserve that a device keeps."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "reserve")
    return sum(path.stat().st_blocks * 512 for path in files)


def devices_bytes(cluster: LocalCluster) -> int:
    return sum(disk_bytes(cluster.device_folder(place)) for place in range(1, 7))


@pytest.mark.timeout(400)
def test_two_gibibytes_in_and_out_in_little_memory(cluster: LocalCluster, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    digest = hashlib.sha256()
    piece = os.urandom(8 * MIB)
    with source.open("wb") as file:
        for number in range(256):
            block = number.to_bytes(8, "big") + piece[8:]
            file.write(block)
            digest.update(block)
    endpoint = ["--endpoint", cluster.endpoint]
    subprocess.run([*REEDBED, "mb", "reedbed://big", *endpoint], check=True)
    before = devices_bytes(cluster)
    run_watched([*REEDBED, "cp", "--quiet", str(source), "reedbed://big/file", *endpoint], cluster)
    source.unlink()
    assert devices_bytes(cluster) - before <= 2 * 1.51 * GIB
    run_watched([*REEDBED, "cp", "--quiet", "reedbed://big/file", str(back), *endpoint], cluster)
    with back.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == digest.digest()


STREAMS = """
import sys
import reedbed

with reedbed.connect(sys.argv[1], timeout=30) as store:
    store.create_bucket("many")
    blob = bytes(8 << 20)
    for first in range(0, 96, 8):
        store.put_many("many", {f"{number:03}": blob for number in range(first, first + 8)})
    count = 0
    for key, got in store.get_many("many", [f"{number:03}" for number in range(96)]):
        assert got == blob
        count += 1
    assert count == 96
    with store.open("many", "stream", "wb") as file:
        for _ in range(512):
            file.write(bytes(1 << 20))
    with store.open("many", "stream", "rb") as file:
        total = 0
        while piece := file.read(1 << 20):
            total += len(piece)
    assert total == 512 << 20
"""


@pytest.mark.timeout(300)
def test_get_many_and_streams_in_little_memory(cluster: LocalCluster) -> None:
    run_watched([sys.executable, "-c", STREAMS, cluster.endpoint], cluster)


def test_small_objects_cost_little_on_disk(cluster: LocalCluster) -> None:
    count, size = 10_000, 4 * KIB
    source = random.Random(7)
    with reedbed.connect(cluster.endpoint, timeout=60) as store:
        store.create_bucket("small")
        store.put("small", "first", b"x")  # placement groups are made now
        cluster.catalogd.stop()
        cluster.start_catalog()
        devices, catalog = devices_bytes(cluster), disk_bytes(cluster.folder / "catalog")
        results = store.put_many("small", {f"{number:05}": source.randbytes(size) for number in range(count)})
        assert all(isinstance(result, reedbed.ObjectInfo) for result in results.values())
    for daemon in cluster.storaged:
        daemon.stop()  # so that the indexes are written
    assert devices_bytes(cluster) - devices <= 1.6 * count * size
    cluster.catalogd.stop()
    assert disk_bytes(cluster.folder / "catalog") - catalog <= count * KIB
