"""Bytes flipped and messages torn on the way, at random: nothing wrong is returned or stored. On real processes.

Each operation ends with right bytes or a named error by its deadline; an error that does not say `maybe_applied` has
changed nothing; and once the way is good again, the same client and the same daemons serve as before.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from reedbed_cluster import LocalCluster
from reedbed_faults.cluster import Way, cluster_behind_proxies
from reedbed_faults.proxy import FaultyProxy, ProxyThread, proxied

import reedbed
from reedbed.common.errors import WrongCluster, WrongProtocol

KIB, MIB = 1024, 1024 * 1024
TIMEOUT_S = 2.0
SLACK_S = 10.0  # a busy machine, not a call without a deadline
KEYS = [f"key/{number}" for number in range(8)]
SIZES = (0, 10, 5 * KIB, 70 * KIB, 600 * KIB, 2 * MIB)

# what may be said when messages are altered; none of these claims anything about the object itself
PASSING = (
    reedbed.Unavailable,
    reedbed.DeadlineExceeded,
    reedbed.Corrupt,
    reedbed.ResourceExhausted,
    WrongProtocol,
    WrongCluster,
    reedbed.PermissionDenied,
)

Content = tuple[bytes, str] | None  # bytes and a mark in the metadata; None: no object


class Model:
    """What each key may hold: one content, or several while the outcome of something is unknown."""

    def __init__(self, store: reedbed.Store, rng: random.Random) -> None:
        self.store = store
        self.rng = rng
        self.may: dict[str, set[Content]] = {key: {None} for key in KEYS}
        self.failed = 0
        self.done = 0

    def step(self) -> None:
        key = self.rng.choice(KEYS)
        self.rng.choice((self.put, self.put, self.get, self.get, self.get, self.delete, self.copy, self.list))(key)

    def change(self, key: str, new: Content, work: Callable[[], object]) -> None:
        try:
            self.timed(work)
        except PASSING as error:
            self.failed += 1
            if error.maybe_applied:
                self.may[key] = self.may[key] | {new}
        else:
            self.done += 1
            self.may[key] = {new}

    @staticmethod
    def timed(work: Callable[[], object]) -> None:
        began = time.monotonic()
        try:
            work()
        finally:
            assert time.monotonic() - began < TIMEOUT_S + SLACK_S

    def put(self, key: str) -> None:
        blob = self.rng.randbytes(self.rng.choice(SIZES))
        mark = self.rng.randbytes(20).hex()
        self.change(key, (blob, mark), lambda: self.store.put("data", key, blob, metadata={"mark": mark}))

    def delete(self, key: str) -> None:
        self.change(key, None, lambda: self.store.delete("data", key))

    def copy(self, key: str) -> None:
        source = self.rng.choice(KEYS)
        if len(self.may[source]) > 1 or self.may[source] == {None} or source == key:
            return
        (new,) = self.may[source]
        self.change(key, new, lambda: self.store.copy("data", source, "data", key))

    def get(self, key: str) -> None:
        def work() -> None:
            self.check(self.store, key)

        try:
            self.timed(work)
            self.done += 1
        except PASSING:
            self.failed += 1

    def list(self, key: str) -> None:
        try:
            rows = {row.key: row for row in self.store.list("data")}
        except PASSING:
            self.failed += 1
            return
        assert rows.keys() <= set(KEYS)
        for name, may in self.may.items():
            found = rows.get(name)
            assert (found is None and None in may) or (
                found is not None and any(c is not None and len(c[0]) == found.size for c in may)
            ), name

    def check(self, store: reedbed.Store, key: str) -> None:
        """What the key holds is among what it may hold."""
        found: Content = None
        try:
            version = store.stat("data", key)
            assert isinstance(version, reedbed.ObjectInfo)
            found = (store.get("data", key, version=version.version), version.metadata["mark"])
        except reedbed.NotFound:
            found = None
        assert found in self.may[key], f"{key} holds something else than what was put"

    def settle(self, store: reedbed.Store) -> None:
        """Everything is as it should be, seen by this client, over a good way."""
        for key in KEYS:
            self.check(store, key)


def run(model: Model, steps: int) -> None:
    for _ in range(steps):
        model.step()


def heal(proxies: Sequence[FaultyProxy | Way]) -> None:
    for proxy in proxies:
        proxy.flip_every = proxy.tear_every = 0


@pytest.fixture
def rng() -> random.Random:
    """A new seed each time, which a failure shows; REEDBED_SEED gives one."""
    seed = int(os.environ.get("REEDBED_SEED") or random.SystemRandom().randrange(1 << 32))
    sys.stdout.write(f"REEDBED_SEED={seed}\n")
    return random.Random(seed)


def test_between_client_and_devices(tmp_path: Path, rng: random.Random) -> None:
    with (
        cluster_behind_proxies(tmp_path / "cluster", range(1, 7), rng=rng) as (cluster, by_place),
        reedbed.connect(cluster.endpoint, timeout=TIMEOUT_S) as store,
    ):
        proxies = list(by_place.values())
        pids = [daemon.pid for daemon in cluster.daemons]
        store.create_bucket("data")
        model = Model(store, rng)
        for key in KEYS:
            model.put(key)
        for flip, tear, steps in ((MIB, 0, 25), (200 * KIB, 60, 25), (20 * KIB, 30, 15)):
            for proxy in proxies:
                proxy.flip_every, proxy.tear_every = flip, tear
            run(model, steps)
        assert all(proxy.altered for proxy in proxies)
        assert all(proxy.streamed for proxy in proxies)
        assert model.done
        heal(proxies)
        settled(model, cluster, pids)


def test_between_client_and_catalogd(tmp_path: Path, rng: random.Random) -> None:
    with (
        cluster_behind_proxies(tmp_path / "cluster", ()) as (cluster, _),
        proxied(cluster.endpoint, rng) as way,
        reedbed.connect(way.address, timeout=TIMEOUT_S) as store,
    ):
        pids = [daemon.pid for daemon in cluster.daemons]
        store.create_bucket("data")
        model = Model(store, rng)
        for key in KEYS:
            model.put(key)
        for flip, tear, steps in ((20 * KIB, 0, 20), (4 * KIB, 0, 20), (2 * KIB, 40, 20), (700, 10, 4)):
            way.proxy.flip_every, way.proxy.tear_every = flip, tear
            run(model, steps)
            first_contact(way, model)
        assert way.proxy.altered
        assert model.done
        heal([way.proxy])
        settled(model, cluster, pids)


def first_contact(way: ProxyThread, model: Model) -> None:
    """A client that meets its cluster over the bad way, and learns nothing wrong of it."""
    with reedbed.connect(way.address, timeout=TIMEOUT_S) as fresh:
        try:
            model.check(fresh, KEYS[0])
        except PASSING:
            return


def settled(model: Model, cluster: LocalCluster, pids: list[int]) -> None:
    """The daemons are those that were there before, and serve the old client and a new one."""
    assert [daemon.pid for daemon in cluster.daemons if daemon.running] == pids
    with reedbed.connect(cluster.endpoint, timeout=30) as fresh:
        model.settle(fresh)
        deadline = time.monotonic() + 20
        while True:  # the first calls may still meet a lane that breaks
            try:
                model.store.put("data", KEYS[0], b"fine", metadata={"mark": "again"})
                break
            except PASSING:
                assert time.monotonic() < deadline
        model.may[KEYS[0]] = {(b"fine", "again")}
        model.settle(model.store)
        model.settle(fresh)
    assert "a handler of" not in cluster.logs(), cluster.logs()  # which failed unexpectedly
