"""A hypothesis state machine drives the SDK against a dict, with restarts of daemons in between. On real processes."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from reedbed_cluster import LocalCluster

import reedbed

KEYS = ["a", "a/b", "a/b/c", "a\x00b", "ab", "\n", "../up", "/lead", "trail/", "ключ", "\U0001f33e", "k" * 1024]
SIZES = st.one_of(st.integers(0, 200), st.sampled_from([65_535, 65_536, 65_537, 300_000, 5_000_001, 17_000_000]))
SEEDS = st.integers(0, 1 << 30)


def blob_of(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


class Shared:
    """One cluster for all runs of the machine: each run takes a bucket of its own."""

    cluster: LocalCluster | None = None
    runs = 0


class StoreMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        assert Shared.cluster is not None
        Shared.runs += 1
        self.bucket = f"run-{Shared.runs:04}"
        self.store = reedbed.connect(Shared.cluster.endpoint, timeout=30)
        self.store.create_bucket(self.bucket)
        self.model: dict[str, bytes] = {}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()

    @rule(key=st.sampled_from(KEYS), seed=SEEDS, size=SIZES)
    def put(self, key: str, seed: int, size: int) -> None:
        blob = blob_of(seed, size)
        info = self.store.put(self.bucket, key, blob, metadata={"seed": str(seed)})
        assert (info.key, info.size) == (key, size)
        self.model[key] = blob

    @rule(keys=st.lists(st.sampled_from(KEYS), unique=True, max_size=8), seed=SEEDS, size=st.integers(0, 100_000))
    def put_many(self, keys: list[str], seed: int, size: int) -> None:
        blobs = {key: blob_of(seed + place, size // (place + 1)) for place, key in enumerate(keys)}
        results = self.store.put_many(self.bucket, blobs)
        assert set(results) == set(keys)
        assert all(isinstance(result, reedbed.ObjectInfo) for result in results.values())
        self.model.update(blobs)

    @rule(key=st.sampled_from(KEYS), seed=SEEDS, size=SIZES)
    def put_if_absent(self, key: str, seed: int, size: int) -> None:
        blob = blob_of(seed, size)
        if key in self.model:
            with pytest.raises(reedbed.PreconditionFailed):
                self.store.put(self.bucket, key, blob, if_none_match=True)
        else:
            self.store.put(self.bucket, key, blob, if_none_match=True)
            self.model[key] = blob

    @rule(key=st.sampled_from(KEYS), seed=SEEDS, fresh=st.booleans())
    def put_if_match(self, key: str, seed: int, fresh: bool) -> None:
        blob = blob_of(seed, 1000)
        etag = self.store.stat(self.bucket, key).etag if key in self.model else '"nothing"'
        if key in self.model and fresh:
            self.store.put(self.bucket, key, blob, if_match=etag)
            self.model[key] = blob
        else:
            wrong = '"00000000000000000000000000000000-r"'
            with pytest.raises(reedbed.PreconditionFailed):
                self.store.put(self.bucket, key, blob, if_match=wrong)

    @rule(source=st.sampled_from(KEYS), onto=st.sampled_from(KEYS))
    def copy(self, source: str, onto: str) -> None:
        if source == onto:
            return
        if source in self.model:
            self.store.copy(self.bucket, source, self.bucket, onto)
            self.model[onto] = self.model[source]
        else:
            with pytest.raises(reedbed.NotFound):
                self.store.copy(self.bucket, source, self.bucket, onto)

    @rule(key=st.sampled_from(KEYS))
    def delete(self, key: str) -> None:
        self.store.delete(self.bucket, key)
        self.model.pop(key, None)

    @rule(key=st.sampled_from(KEYS), data=st.data())
    def get_range(self, key: str, data: Any) -> None:
        if key not in self.model:
            with pytest.raises(reedbed.NotFound):
                self.store.get(self.bucket, key)
            return
        blob = self.model[key]
        start = data.draw(st.integers(0, len(blob)))
        end = data.draw(st.one_of(st.none(), st.integers(start, len(blob) + 10)))
        assert self.store.get(self.bucket, key, start=start, end=end) == blob[start:end]
        buffer = bytearray(data.draw(st.integers(0, 1000)))
        count = self.store.get_into(self.bucket, key, buffer, start=start)
        assert count == min(len(buffer), len(blob) - start)
        assert bytes(buffer[:count]) == blob[start : start + count]

    @rule(prefix=st.sampled_from(["", "a", "a/", "k", "\n", "none"]), delimiter=st.sampled_from([None, "/", "b"]))
    def list_some(self, prefix: str, delimiter: str | None) -> None:
        wanted: list[str] = []
        for key in sorted(self.model, key=str.encode):
            if not key.startswith(prefix):
                continue
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key if at < 0 else key[: at + 1]
            if not wanted or wanted[-1] != name:
                wanted.append(name)
        found = [
            row.prefix if isinstance(row, reedbed.CommonPrefix) else row.key
            for row in self.store.list(self.bucket, prefix=prefix, delimiter=delimiter)
        ]
        assert found == wanted

    @precondition(lambda self: Shared.cluster is not None)
    @rule(place=st.integers(0, 5), hard=st.booleans())
    def restart_storaged(self, place: int, hard: bool) -> None:
        assert Shared.cluster is not None
        daemon = Shared.cluster.storaged[place]
        if hard:
            daemon.kill()
        else:
            daemon.stop()
        daemon.start()

    @rule(hard=st.booleans())
    def restart_catalogd(self, hard: bool) -> None:
        assert Shared.cluster is not None
        if hard:
            Shared.cluster.catalogd.kill()
        else:
            Shared.cluster.catalogd.stop()
        Shared.cluster.start_catalog()

    @invariant()
    def listing_is_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        rows = {row.key: row.size for row in self.store.list(self.bucket) if isinstance(row, reedbed.ObjectInfo)}
        assert rows == {key: len(blob) for key, blob in self.model.items()}


@pytest.mark.timeout(300)
def test_the_store_is_a_dict_that_survives_restarts() -> None:
    with tempfile.TemporaryDirectory(prefix="reedbed-model-") as folder:
        cluster = LocalCluster(Path(folder))
        Shared.cluster = cluster
        try:
            cluster.start()
            run = StoreMachine.TestCase
            run.settings = settings(
                max_examples=8,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            )
            run().runTest()
        finally:
            cluster.stop()
            Shared.cluster = None
