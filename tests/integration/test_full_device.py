"""Devices without room, on real processes: puts are refused by name, reads and deletes go on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from reedbed_cluster import LocalCluster, local_cluster

import reedbed

MIB = 1 << 20
CAPACITY = 24 * MIB
PIECE = 3 * MIB


def fill(store: reedbed.Store, limit: int = 60) -> tuple[dict[str, bytes], reedbed.ReedbedError]:
    """Puts until one is refused; what was stored, and the refusal."""
    stored: dict[str, bytes] = {}
    for number in range(limit):
        blob = os.urandom(PIECE)
        try:
            store.put("data", f"k{number}", blob)
        except reedbed.ReedbedError as error:
            return stored, error
        stored[f"k{number}"] = blob
    raise AssertionError("the cluster never became full")


def test_a_full_cluster_refuses_by_name_and_can_be_emptied(tmp_path: Path) -> None:
    options = [f"--capacity={CAPACITY}"]
    with (
        local_cluster(tmp_path / "cluster", 3, profile="rs-2-1", storage_options=options) as cluster,
        reedbed.connect(cluster.endpoint, timeout=20) as store,
    ):
        store.create_bucket("data")
        stored, refusal = fill(store)
        assert len(stored) > 5
        assert "no room" in str(refusal), refusal
        assert "Add devices, or delete objects" in str(refusal)
        refused = f"k{len(stored)}"
        assert not store.exists("data", refused)
        assert sorted(entry.key for entry in store.list("data")) == sorted(stored)
        for key, blob in stored.items():
            assert store.get("data", key) == blob
        results = store.delete_many("data", list(stored))
        assert not [result for result in results.values() if isinstance(result, Exception)]
        assert list(store.list("data")) == []
        with pytest.raises(reedbed.NotFound):
            store.get("data", "k0")
        assert all(daemon.running for daemon in cluster.storaged)


def test_writes_go_round_a_full_device(tmp_path: Path) -> None:
    def start_small(cluster: LocalCluster) -> None:
        cluster.storaged[0].stop()
        cluster.storaged[0] = cluster.storage_daemon(1, [f"--capacity={8 * MIB}"])
        cluster.storaged[0].start()

    with (
        local_cluster(tmp_path / "cluster", 4, profile="rs-2-1") as cluster,
        reedbed.connect(cluster.endpoint, timeout=20) as store,
    ):
        start_small(cluster)
        store.create_bucket("data")
        blobs = {f"k{number}": os.urandom(PIECE) for number in range(16)}
        for key, blob in blobs.items():
            store.put("data", key, blob)
        for key, blob in blobs.items():
            assert store.get("data", key) == blob
        used = sum(path.stat().st_size for path in (cluster.device_folder(1) / "segments").iterdir())
        assert used <= 8 * MIB
