"""What an operator or a bad disk may do to a device's files, on real processes: told, read around and repaired."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from reedbed_cluster import local_cluster

import reedbed
from tests.integration.test_scrub import told_by, wait_status, whole
from tests.integration.test_survival import check_all, contents, put_all

Hurt = Callable[[random.Random, Path, Path, Path], None]


def segments(device: Path) -> list[Path]:
    return sorted((device / "segments").iterdir())


def swap(rng: random.Random, first: Path, second: Path, foreign: Path) -> None:
    """Each device gets the other's segments."""
    for folder in (first, second):
        (folder / "segments").rename(folder / "away")
    (first / "away").rename(second / "segments")
    (second / "away").rename(first / "segments")


def swap_one(rng: random.Random, first: Path, second: Path, foreign: Path) -> None:
    """One segment of each is at the other's place; the indexes are left as they were."""
    ours, theirs = rng.choice(segments(first)), rng.choice(segments(second))
    spare = first / "spare"
    ours.rename(spare)
    theirs.rename(ours)
    spare.rename(theirs)


def foreign_segments(rng: random.Random, first: Path, second: Path, foreign: Path) -> None:
    """Files of another cluster: over a segment of our own, and behind the newest."""
    theirs = segments(foreign)
    shutil.copy(theirs[0], rng.choice(segments(first)))
    newest = segments(second)[-1]
    number = int(newest.stem, 16) + 1
    shutil.copy(theirs[-1], newest.with_name(f"{number:0{len(newest.stem)}x}{newest.suffix}"))


def cut(rng: random.Random, first: Path, second: Path, foreign: Path) -> None:
    """Every segment of one ends anywhere; one of the other is empty."""
    for path in segments(first):
        os.truncate(path, rng.randrange(path.stat().st_size + 1))
    os.truncate(segments(second)[0], 0)


def garbage(rng: random.Random, first: Path, second: Path, foreign: Path) -> None:
    """Runs of random bytes over payload, headers and removal records alike; and the whole end of a segment."""
    for folder in (first, second):
        for path in segments(folder):
            size = path.stat().st_size
            with path.open("r+b") as file:
                for _ in range(20):
                    file.seek(rng.randrange(size))
                    file.write(rng.randbytes(rng.randrange(1, 5000)))
                file.seek(size // 2)
                if folder == second:
                    file.write(rng.randbytes(size - size // 2))


def lose_index(rng: random.Random, first: Path, second: Path, foreign: Path) -> None:
    """One index is gone, the other cut anywhere."""
    shutil.rmtree(first / "index")
    data = second / "index" / "data.mdb"
    os.truncate(data, rng.randrange(data.stat().st_size))


def exchange(rng: random.Random, first: Path, second: Path, foreign: Path) -> None:
    """Each index belongs to the other's segments."""
    spare = first / "spare"
    (first / "index").rename(spare)
    (second / "index").rename(first / "index")
    spare.rename(second / "index")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device of another cluster, which has stopped."""
    folder = tmp_path_factory.mktemp("foreign")
    with local_cluster(folder, 2, profile="rs-1-1") as other:
        with reedbed.connect(other.endpoint, timeout=20) as store:
            store.create_bucket("data")
            put_all(store, "data", {f"k{number}": bytes([number]) * 100_000 for number in range(30)})
        return other.device_folder(1)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "hurt",
    [swap, swap_one, foreign_segments, cut, garbage, lose_index, exchange],
    ids=lambda hurt: hurt.__name__,
)
def test_two_devices_with_wrong_files(tmp_path: Path, foreign: Path, hurt: Hurt) -> None:
    """Whatever became of the files of as many devices as the profile may lose."""
    seed = int(os.environ.get("REEDBED_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    sys.stdout.write(f"REEDBED_TEST_SEED={seed}\n")
    objects = contents(31)
    with (
        local_cluster(tmp_path / "cluster") as cluster,
        reedbed.connect(cluster.endpoint, timeout=60) as store,
    ):
        store.create_bucket("data")
        put_all(store, "data", objects)
        # nothing is deleted: shards of a dropped extent stay damaged until they go, and are found by each scrub
        daemons = [cluster.storaged[1], cluster.storaged[4]]
        for daemon in daemons:
            daemon.signal(signal.SIGKILL)
            daemon.kill()
        hurt(random.Random(seed), cluster.device_folder(2), cluster.device_folder(5), foreign)
        cluster.start_storage(daemons)
        check_all(store, "data", objects)
        report = told_by(cluster, "scrub", "--wait")
        assert [row["done"] for row in report["devices"]] == [True] * 6, report
        check_all(store, "data", objects)
        wait_status(cluster, whole)
        again = told_by(cluster, "scrub", "--wait")
        assert not any(row["missing"] + row["damaged"] for row in again["devices"]), json.dumps(again, indent=1)
        # what was repaired holds by itself
        for daemon in (cluster.storaged[0], cluster.storaged[2]):
            daemon.kill()
        check_all(store, "data", objects)
        put_all(store, "data", {"another": b"1"})
        said = cluster.logs()
        assert "Traceback" not in said, said[-5000:]


@pytest.mark.timeout(200)
def test_a_catalogd_that_stood_still_blames_nobody(tmp_path: Path) -> None:
    """As long as a minute would be with the usual times: beyond down, and longer than out."""
    options = ("--down-after-s", "0.5", "--out-after-s", "1.5")
    with (
        local_cluster(tmp_path / "cluster", catalog_options=options) as cluster,
        reedbed.connect(cluster.endpoint, timeout=60) as store,
    ):
        store.create_bucket("data")
        store.put("data", "k", b"before")
        before = told_by(cluster, "status")
        cluster.catalogd.signal(signal.SIGSTOP)
        time.sleep(6)
        cluster.catalogd.signal(signal.SIGCONT)
        assert store.get("data", "k") == b"before"
        store.put("data", "k", b"after")
        for _ in range(20):
            now = told_by(cluster, "status")
            assert {device["state"] for device in now["devices"]} == {"up"}, now
            assert now["epoch"] == before["epoch"], now
            time.sleep(0.1)
