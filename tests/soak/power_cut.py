"""Power cuts on a real file system, under load: `make soak` (needs root). What was acknowledged must be there.

The load runs in processes of its own and reports over pipes, so that what was acknowledged is known outside the disk
that dies. Each test has a control run in which nothing is synced and which must lose data: else it proves nothing.

REEDBED_SOAK_ROUNDS: cuts of one run, 5 unless set. REEDBED_SOAK_SEED repeats a run's choices.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from reedbed_cluster import LocalCluster

sys.path.insert(0, str(Path(__file__).parent))
import load
from cutdisk import CutDisk

import reedbed
from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.common.errors import NotFound, ReedbedError
from reedbed.common.ids import Id
from reedbed.storaged.store import ShardStore

HERE: Final = Path(__file__).parent
UNSYNCED: Final = HERE / "unsynced"
ROUNDS: Final = int(os.environ.get("REEDBED_SOAK_ROUNDS", "5"))
SEED: Final = int(os.environ.get("REEDBED_SOAK_SEED", str(random.SystemRandom().randrange(10**6))))
STEP: Final = 1_000_000  # numbers of one round
CLIENTS: Final = 6
BUCKET: Final = "soak"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[CutDisk]:
    sys.stderr.write(f"REEDBED_SOAK_SEED={SEED}\n")
    made = CutDisk(tmp_path)
    try:
        yield made
    finally:
        made.close()


@dataclass
class Told:
    """What a load said. Whatever is in `begun` and not in the others may have happened."""

    begun: set[int] = field(default_factory=set)
    stored: set[int] = field(default_factory=set)
    leaving: set[int] = field(default_factory=set)
    removed: set[int] = field(default_factory=set)

    def hear(self, line: str) -> None:
        sets = {"+": self.begun, "=": self.stored, "-": self.leaving, "x": self.removed}
        word, _, number = line.partition(" ")
        if word in sets and number.endswith("\n"):
            sets[word].add(int(number))


def environment(synced: bool) -> dict[str, str]:
    path = [*([] if synced else [str(UNSYNCED)]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def load_until_cut(disk: CutDisk, kind: str, round_: int, told: Told, *, synced: bool) -> None:
    """One process works on the disk until its power is cut, then the machine starts again."""
    child = subprocess.Popen(
        [sys.executable, str(HERE / "load.py"), kind, str(disk.mount / kind), str(round_ * STEP), str(SEED + round_)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(synced),
        text=True,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        line = child.stdout.readline()
        assert line == "ready\n", f"the load did not start: {child.stderr.read()}"
        listener = threading.Thread(target=lambda: [told.hear(line) for line in child.stdout or ()])
        listener.start()
        time.sleep(random.Random(SEED + round_).uniform(0.5, 2.0))  # of load, which is what is measured
        disk.cut()
    finally:
        child.kill()
        child.communicate() if child.stdout.closed else child.wait()
    listener.join()
    child.stdout.close()
    child.stderr.close()
    disk.mount_again()


def device_losses(folder: Path, told: Told) -> list[str]:
    """What a device lost, gave wrongly or brought back."""
    losses = []
    with ShardStore.open(folder, load.CLUSTER, options=load.OPTIONS) as store:
        there = set()
        after = None
        while page := store.list(after, 1000):
            there |= {int.from_bytes(info.extent, "big") for info in page}
            after = page[-1].extent, page[-1].index
        for number in sorted(told.stored - told.leaving):
            wanted = load.content(number)
            try:
                right = number in there and store.read(load.extent(number), 0, 0, len(wanted)).data == wanted
            except ReedbedError as error:
                losses.append(f"shard {number}: {error}")
            else:
                if not right:
                    losses.append(f"shard {number} is lost")
        losses += [f"shard {number} was never put" for number in sorted(there - told.begun)]
        losses += [f"shard {number} came back" for number in sorted(there & told.removed)]
    return losses


def catalog_losses(folder: Path, told: Told) -> list[str]:
    """What an engine lost or made up."""
    losses = []
    engine = LmdbEngine(folder, cluster=Id(load.CLUSTER))
    try:
        for number in sorted(told.stored):
            with engine.read() as reader:
                if reader.get(b"key%d" % number) != load.content(number)[:1000]:
                    losses.append(f"key {number} is lost")
        with engine.read() as reader:
            found = {int(key[3:]) for key, _ in reader.scan(b"key", b"kez")}
        losses += [f"key {number} was never put" for number in sorted(found - told.begun)]
        if len(found) > engine.redo_position():
            losses.append("the redo stream is shorter than what was committed")
    finally:
        engine.close()
    return losses


LOSSES: Final[dict[str, Callable[[Path, Told], list[str]]]] = {"device": device_losses, "catalog": catalog_losses}


@pytest.mark.parametrize("kind", ["device", "catalog"])
def test_what_was_acknowledged_survives_power_cuts(disk: CutDisk, kind: str) -> None:
    told = Told()
    for round_ in range(ROUNDS):
        load_until_cut(disk, kind, round_, told, synced=True)
        losses = LOSSES[kind](disk.mount / kind, told)
        sys.stderr.write(f"{kind}, cut {round_ + 1}: {len(told.stored)} acknowledged, {len(losses)} lost\n")
        assert not losses, losses[:20]
    assert len(told.stored) > 20 * ROUNDS, "there was hardly any load"


@pytest.mark.parametrize("kind", ["device", "catalog"])
def test_without_syncs_the_same_cut_loses_data(disk: CutDisk, kind: str) -> None:
    told = Told()
    load_until_cut(disk, kind, 0, told, synced=False)
    assert len(told.stored) > 20, "there was hardly any load"
    try:
        losses = LOSSES[kind](disk.mount / kind, told)
    except ReedbedError as error:
        losses = [str(error)]
    sys.stderr.write(f"{kind}, nothing synced: {len(told.stored)} acknowledged, lost: {len(losses)}, {losses[:1]}\n")
    assert losses, "a run that never syncs lost nothing: the power cut is none, and the test above proves nothing"


class Objects:
    """Clients that put, overwrite and delete objects until their cluster is gone; what they were told."""

    def __init__(self, endpoint: str, round_: int) -> None:
        self._endpoint = endpoint
        self._round = round_
        self.state: dict[str, set[bytes | None]] = {}  # contents that a key may have
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(client,)) for client in range(CLIENTS)]
        self.acknowledged = 0

    def __enter__(self) -> Objects:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, client: int) -> None:
        rng = random.Random(f"{SEED} {self._round} {client}")
        mine: list[str] = []
        with reedbed.connect(self._endpoint, timeout=5) as store:
            while not self._stop.is_set():
                old = bool(mine) and rng.random() < 0.3
                key = rng.choice(mine) if old else f"{self._round}/{client}/{len(mine)}"
                data = None if old and rng.random() < 0.5 else rng.randbytes(rng.choice([0, 100, 40_000, 600_000]))
                if not old:
                    mine.append(key)
                before = self.state.get(key, {None})
                self.state[key] = before | {data}
                try:
                    if data is None:
                        store.delete(BUCKET, key)
                    else:
                        store.put(BUCKET, key, data)
                except ReedbedError:
                    return  # its outcome stays open
                self.state[key] = {data}
                self.acknowledged += 1


def object_losses(endpoint: str, state: dict[str, set[bytes | None]]) -> list[str]:
    losses = []
    with reedbed.connect(endpoint, timeout=30) as store:
        listed = {entry.key for entry in store.list(BUCKET)}
        for key, allowed in state.items():
            try:
                found: bytes | None = store.get(BUCKET, key)
            except NotFound:
                found = None
            if found not in allowed:
                losses.append(f"{key} is {'absent' if found is None else 'another'}")
            if (key in listed) != (found is not None):
                losses.append(f"{key} is listed otherwise than read")
        losses += [f"{key} was never put" for key in sorted(listed - state.keys())]
    return losses


def cut_under_clients(disk: CutDisk, cluster: LocalCluster, round_: int) -> Objects:
    """Clients work until the power of catalogd and all storaged processes is cut at once."""
    with Objects(cluster.endpoint, round_) as objects:
        time.sleep(random.Random(SEED + round_).uniform(1.0, 3.0))  # of load
        disk.cut()
        cluster.kill_all()
    disk.mount_again()
    return objects


@pytest.mark.parametrize("synced", [True, False])
def test_a_whole_cluster_survives_power_cuts(
    disk: CutDisk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, synced: bool
) -> None:
    monkeypatch.setenv("PYTHONPATH", environment(synced)["PYTHONPATH"])
    cluster = LocalCluster(disk.mount / "cluster")
    acknowledged = 0
    try:
        cluster.start()
        with reedbed.connect(cluster.endpoint) as store:
            store.create_bucket(BUCKET)
        state: dict[str, set[bytes | None]] = {}
        for round_ in range(ROUNDS if synced else 1):
            objects = cut_under_clients(disk, cluster, round_)
            state |= objects.state
            acknowledged += objects.acknowledged
            try:
                cluster.restart()
                losses = object_losses(cluster.endpoint, state)
            except (AssertionError, ReedbedError, OSError) as error:
                if synced:
                    raise
                losses = [str(error)[-300:]]
            sys.stderr.write(
                f"cluster, {'cut' if synced else 'nothing synced'} {round_ + 1}: {acknowledged} acknowledged, "
                f"{len(losses)} lost {losses[:1]}\n"
            )
            assert bool(losses) != synced, losses[:20] or "nothing was lost without syncs: the test proves nothing"
        assert acknowledged > 20
    finally:
        cluster.kill_all()
