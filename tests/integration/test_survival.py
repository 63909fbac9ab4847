"""What was acknowledged survives: dead devices, kill -9 of everything, flipped bits. On real processes."""

from __future__ import annotations

import hashlib
import itertools
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from reedbed_cluster import LocalCluster, local_cluster

import reedbed

KIB, MIB = 1024, 1024 * 1024
SIZES = (0, 1, 100, 4 * KIB, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 300 * KIB, MIB, 5 * MIB + 7, 20 * MIB + 3)


def contents(seed: int) -> dict[str, bytes]:
    """Objects of many sizes, among them many small ones that share extents."""
    source = random.Random(seed)
    made = {f"size/{size}": source.randbytes(size) for size in SIZES}
    made.update({f"small/{number:03}": source.randbytes(1 + number * 37) for number in range(200)})
    return made


def put_all(store: reedbed.Store, bucket: str, objects: dict[str, bytes]) -> None:
    for key, result in store.put_many(bucket, objects).items():
        assert isinstance(result, reedbed.ObjectInfo), (key, result)


def check_all(store: reedbed.Store, bucket: str, objects: dict[str, bytes]) -> None:
    """Everything reads back, whole and in ranges, and is listed exactly once."""
    keys = sorted(objects)
    for key, blob in store.get_many(bucket, keys):
        assert blob == objects[key], key
    big = objects[f"size/{SIZES[-1]}"]
    for start, end in ((0, 1), (MIB - 1, MIB + 1), (4 * MIB - 10, 4 * MIB + 10), (16 * MIB - 1, 16 * MIB + 70_000)):
        assert store.get(bucket, f"size/{SIZES[-1]}", start=start, end=end) == big[start:end]
    assert [row.key for row in store.list(bucket)] == keys


@pytest.mark.timeout(300)
def test_any_two_of_six_devices_may_be_dead(cluster: LocalCluster) -> None:
    objects = contents(1)
    with reedbed.connect(cluster.endpoint, timeout=30) as store:
        store.create_bucket("data")
        put_all(store, "data", objects)
        check_all(store, "data", objects)
        for pair in itertools.combinations(cluster.storaged, 2):
            for daemon in pair:
                daemon.kill()
            check_all(store, "data", objects)
            cluster.start_storage(pair)
        assert store.metrics()["reads.decoded"] > 0


def test_four_of_six_dead_is_unavailable_and_heals(cluster: LocalCluster) -> None:
    objects = contents(2)
    with reedbed.connect(cluster.endpoint, timeout=10) as store:
        store.create_bucket("data")
        put_all(store, "data", objects)
        dead = cluster.storaged[:4]
        for daemon in dead:
            daemon.kill()
        with pytest.raises((reedbed.Unavailable, reedbed.DeadlineExceeded)):
            store.get("data", f"size/{20 * MIB + 3}")
        with pytest.raises((reedbed.Unavailable, reedbed.DeadlineExceeded)) as refused:
            store.put("data", "new", bytes(20 * MIB))
        assert refused.value.retryable
        assert not store.exists("data", "new")
        cluster.start_storage(dead)
        check_all(store, "data", objects)
        store.put("data", "new", b"now it works")
        assert store.get("data", "new") == b"now it works"


class Storm:
    """Threads that put objects until told to stop, and remember what was acknowledged and what was tried."""

    def __init__(self, endpoint: str, bucket: str, threads: int = 8) -> None:
        self._endpoint = endpoint
        self._bucket = bucket
        self._stop = threading.Event()
        self.acknowledged: dict[str, str] = {}
        self.tried: dict[str, str] = {}
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(threads)]
        self._enough = threading.Event()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait_acknowledged(self, seconds: float = 60.0) -> None:
        """Until a good many puts are acknowledged."""
        assert self._enough.wait(seconds)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        source = random.Random(number)
        with reedbed.connect(self._endpoint, timeout=3) as store:
            for count in itertools.count():
                if self._stop.is_set():
                    return
                key = f"{number}/{count:05}"
                blob = source.randbytes(source.choice((1, 700, 4096, 100_000, 3_000_000)))
                digest = hashlib.sha256(blob).hexdigest()
                with self._lock:
                    self.tried[key] = digest
                try:
                    store.put(self._bucket, key, blob)
                except reedbed.ReedbedError:
                    self._stop.wait(0.05)
                    continue
                with self._lock:
                    self.acknowledged[key] = digest
                    if len(self.acknowledged) > 100:
                        self._enough.set()


@pytest.mark.timeout(300)
def test_kill_of_everything_during_a_storm_of_puts(cluster: LocalCluster) -> None:
    with reedbed.connect(cluster.endpoint, timeout=30) as store:
        store.create_bucket("storm")
    storm = Storm(cluster.endpoint, "storm")
    storm.start()
    try:
        storm.wait_acknowledged()
        cluster.kill_all()
    finally:
        storm.stop()
    cluster.restart()
    with reedbed.connect(cluster.endpoint, timeout=30) as store:
        listed = [row.key for row in store.list("storm")]
        assert listed == sorted(set(listed))
        assert storm.acknowledged.keys() <= set(listed)
        assert set(listed) <= storm.tried.keys()
        for key, blob in store.get_many("storm", listed):
            assert blob is not None
            # what was not acknowledged may be there, but then it is whole
            assert hashlib.sha256(blob).hexdigest() == storm.tried[key]


def flip_bit(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def test_a_flipped_bit_is_read_around_and_reported(cluster: LocalCluster) -> None:
    blob = random.Random(3).randbytes(8 * MIB)
    with reedbed.connect(cluster.endpoint, timeout=30) as store:
        store.create_bucket("data")
        store.put("data", "blob", blob)
        found = None
        piece = blob[2 * MIB : 2 * MIB + 64]
        for place in range(1, 7):
            for segment in sorted((cluster.device_folder(place) / "segments").iterdir()):
                at = segment.read_bytes().find(piece)
                if at >= 0:
                    found = place, segment, at
        assert found is not None
        place, segment, at = found
        flip_bit(segment, at + 5)
        assert store.get("data", "blob") == blob
        assert store.metrics()["reads.damaged"] >= 1
        number = cluster.storaged[place - 1].ready["devices"][0]["id"]
        _wait_damage(store, number)


def _wait_damage(store: reedbed.Store, number: int) -> None:
    """Until a heartbeat of this device has carried some damage; it is repaired a moment later, so look often."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        told = store.status()
        damaged = {device["id"] for device in told["devices"] if device["damaged"]}
        assert damaged <= {number}
        if damaged or told["keeping"]["extents_done"]:
            return
    raise AssertionError("no device reported its damage")


def test_a_stopped_device_holds_nobody_up(cluster: LocalCluster) -> None:
    objects = contents(4)
    with reedbed.connect(cluster.endpoint, timeout=30) as store:
        store.create_bucket("data")
        put_all(store, "data", objects)
        cluster.storaged[2].signal(signal.SIGSTOP)
        try:
            check_all(store, "data", objects)
            put_all(store, "data", {f"new/{number}": b"x" * number for number in range(100)})
        finally:
            cluster.storaged[2].signal(signal.SIGCONT)


def test_other_profiles(tmp_path: Path) -> None:
    with (
        local_cluster(tmp_path / "cluster", 4, profile="rs-2-1") as small,
        reedbed.connect(small.endpoint, timeout=30) as store,
    ):
        store.create_bucket("data", profile="rs-3-1")
        objects = {key: blob for key, blob in contents(5).items() if len(blob) < 6 * MIB}
        put_all(store, "data", objects)
        assert store.stat("data", "small/001").profile == "rs-3-1"
        small.storaged[1].kill()
        for key, blob in store.get_many("data", sorted(objects)):
            assert blob == objects[key]
        with pytest.raises(reedbed.InvalidArgument, match="6"):
            store.create_bucket("wide", profile="rs-4-2")
