"""Clusters that earlier versions left are served again, whole: what each of them stored is read right."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from reedbed_cluster import local_cluster

import reedbed

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.cluster
@pytest.mark.parametrize("version", sorted(path.name for path in DATA.iterdir()))
def test_a_cluster_of_an_earlier_version_is_served(version: str, tmp_path: Path) -> None:
    shutil.copytree(DATA / version / "cluster", tmp_path / "cluster")
    told = json.loads((DATA / version / "expected.json").read_text())
    with local_cluster(tmp_path / "cluster") as cluster, reedbed.connect(cluster.endpoint) as store:
        listed = {f"{bucket}/{entry.key}" for bucket in ("plain", "versions") for entry in store.list(bucket)}
        assert listed == told["objects"].keys()
        for name, known in told["objects"].items():
            bucket, _, key = name.partition("/")
            info = store.stat(bucket, key)
            assert (info.size, info.version, info.checksum) == (known["size"], known["version"], known["checksum"])
            assert dict(info.metadata) == known["metadata"]
            assert hashlib.sha256(store.get(bucket, key)).hexdigest() == known["sha256"]
        assert len(list(store.list_versions("versions"))) == told["versions"]
        store.put("plain", "new", b"written by a later version")
        assert store.get("plain", "new") == b"written by a later version"
