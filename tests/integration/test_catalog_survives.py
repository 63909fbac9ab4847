"""The catalog's folder is lost, and rebuilt from its copy on the cluster; the lost one wakes up. On real processes."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reedbed_cluster import Daemon, LocalCluster, local_cluster
from reedbed_cluster.commands import Done, reedbed, until

import reedbed as sdk
from reedbed.common.errors import Corrupt, StaleTerm, Unavailable
from tests.integration.test_repair import order, state_of, status_of, wait_status

KIB, MIB = 1024, 1024 * 1024
OPTIONS = ("--horizon-lag-s", "3", "--down-after-s", "2")
NEVER = ("--copy-every-s", "3600")
# puts 40 MiB into extents, says so, and never commits
UNCOMMITTED = """
import sys, reedbed
with reedbed.connect(sys.argv[1]) as store, store.open("data", "never", "wb") as file:
    file.write(bytes(40 << 20))
    print("written", flush=True)
    sys.stdin.read()
"""

State = dict[str, Any]


def settled(cluster: LocalCluster) -> dict[str, Any]:
    """Status once the copy holds a snapshot and everything that came after it."""
    return wait_status(cluster, lambda told: told["copy"]["snapshot"] is not None and told["copy"]["settled"], 60)


def state_of_all(store: sdk.Store) -> State:
    """Everything that users can see: buckets, listings, versions, metadata and bytes."""
    state: State = {"buckets": sorted(store.list_buckets(), key=lambda bucket: bucket.name)}
    for bucket in state["buckets"]:
        found = list(store.list_versions(bucket.name)) if bucket.versioned else list(store.list(bucket.name))
        state[bucket.name] = found
        for row in found:
            if not row.delete_marker:
                stat = store.stat(bucket.name, row.key, row.version)
                state[bucket.name, row.key, row.version] = stat, store.get(bucket.name, row.key, version=row.version)
    return state


def fill(store: sdk.Store) -> None:
    """What is there before the snapshot."""
    source = random.Random(5)
    store.create_bucket("data")
    store.create_bucket("versions", versioned=True)
    store.create_bucket("gone")
    for size in (0, 1, 70 * KIB, MIB, 5 * MIB + 7):
        store.put("data", f"size/{size}", source.randbytes(size), metadata={"size": str(size)})
    for key, result in store.put_many("data", {f"small/{n:02}": source.randbytes(50 * n) for n in range(60)}).items():
        assert isinstance(result, sdk.ObjectInfo), (key, result)
    for count in range(3):
        store.put("versions", "often", b"%d" % count)
    store.put("gone", "last", b"last")


# What happens to the catalog after its snapshot


def deletes(_: LocalCluster, store: sdk.Store) -> None:
    store.delete_many("data", [f"small/{n:02}" for n in range(0, 60, 7)])
    store.delete("versions", "often")


def overwrites(_: LocalCluster, store: sdk.Store) -> None:
    store.put("data", "size/1", b"another", content_type="text/plain")
    store.put("data", f"size/{MIB}", bytes(3 * MIB), metadata={"now": "bigger"})
    store.put("versions", "often", b"after the marker")


def refused_puts(_: LocalCluster, store: sdk.Store) -> None:
    with pytest.raises(sdk.PreconditionFailed):
        store.put("data", "size/0", b"refused", if_none_match=True)
    with pytest.raises(sdk.PreconditionFailed):
        store.put("data", "size/0", b"refused", if_match='"00000000000000000000000000000001-r"')


def copies(_: LocalCluster, store: sdk.Store) -> None:
    store.copy("data", f"size/{5 * MIB + 7}", "data", "copies/big", metadata={"a": "copy"})
    store.copy("data", "small/01", "versions", "copy")


def bucket_removal(_: LocalCluster, store: sdk.Store) -> None:
    store.delete("gone", "last")
    store.delete_bucket("gone")
    store.create_bucket("new", profile="rs-2-1")
    store.put("new", "key", bytes(200 * KIB))


def position_moves(cluster: LocalCluster, _: sdk.Store) -> None:
    number = cluster.storaged[-1].ready["devices"][0]["id"]
    assert order(cluster, "drain", str(number))["code"] == 0
    wait_status(
        cluster, lambda told: not state_of(told, number)["shards"] and state_of(told, number)["incarnation"] > 1
    )


def compaction(cluster: LocalCluster, store: sdk.Store) -> None:
    """What is left of packed extents moves to another one."""
    objects = {f"packed/{n:03}": bytes([n % 251]) * 4 * KIB for n in range(400)}
    for key, result in store.put_many("data", objects).items():
        assert isinstance(result, sdk.ObjectInfo), (key, result)
    before = status_of(cluster)["queues"]["dropped"]
    store.delete_many("data", [key for key in objects if not key.endswith("5")])
    wait_status(cluster, lambda told: told["queues"]["dropped"] > before and not told["rewriting"]["tasks"], 60)
    assert all(store.get("data", key) == objects[key] for key in objects if key.endswith("5"))


def recoding(cluster: LocalCluster, store: sdk.Store) -> None:
    assert reedbed("recode", "versions", "--profile", "rs-3-2", endpoint=cluster.endpoint).code == 0
    wait_status(cluster, lambda told: not told["rewriting"]["orders"] and not told["rewriting"]["versions_left"], 60)


ACTIONS: list[Callable[[LocalCluster, sdk.Store], None]] = [
    deletes,
    overwrites,
    refused_puts,
    copies,
    bucket_removal,
    compaction,
    recoding,
    position_moves,
]


def put_killed_before_its_commit(cluster: LocalCluster) -> None:
    """Its extents are on devices; nothing names them."""
    before = all_shards(cluster)
    with subprocess.Popen(
        [sys.executable, "-c", UNCOMMITTED, cluster.endpoint], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        until(lambda: all_shards(cluster) >= before + 12, 60)
        process.kill()


def all_shards(cluster: LocalCluster) -> int:
    """As devices tell with their heartbeats."""
    return sum(device["shards"] for device in status_of(cluster)["devices"])


def rebuild(cluster: LocalCluster, folder: Path, *options: str) -> Done:
    """`reedbed catalog rebuild` into a new folder, told of one storaged."""
    alive = next(daemon for daemon in cluster.storaged if daemon.running)
    return reedbed("catalog", "rebuild", "--dir", folder, "--storage", alive.ready["address"], "--json", *options)


def serve_from(cluster: LocalCluster, folder: Path) -> None:
    """Another catalog takes the place of the cluster's, at the same address."""
    cluster.catalog_folder = folder
    cluster.start_catalog()


def lose_catalog(cluster: LocalCluster) -> None:
    cluster.catalogd.kill()
    shutil.rmtree(cluster.catalog_folder)


@pytest.fixture
def eight(tmp_path: Path) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path / "cluster", 8, catalog_options=OPTIONS) as started:
        yield started


@pytest.mark.timeout(400)
def test_a_rebuilt_catalog_is_exactly_what_was_acknowledged(eight: LocalCluster) -> None:
    with sdk.connect(eight.endpoint, timeout=60) as store:
        fill(store)
        settled(eight)
        for action in ACTIONS:
            action(eight, store)
        wanted = state_of_all(store)
        settled(eight)
    put_killed_before_its_commit(eight)
    lose_catalog(eight)
    eight.storaged[0].kill()
    shutil.rmtree(eight.device_folder(1))

    folder = eight.folder / "rebuilt"
    plan = reedbed("catalog", "rebuild", "--plan", "--storage", eight.storaged[1].ready["address"], "--json")
    assert (plan.code, plan.json["complete"], folder.exists()) == (0, True, False)
    done = rebuild(eight, folder)
    assert (done.code, done.json["missing"], done.json["unreadable"]) == (0, None, []), done
    serve_from(eight, folder)
    with sdk.connect(eight.endpoint, timeout=60) as store:
        assert state_of_all(store) == wanted
        store.put("data", "after", bytes(MIB))
        assert store.get("data", "after") == bytes(MIB)
    told = settled(eight)
    assert [(one["how"], one["missing"]) for one in told["begun_anew"]] == [("rebuilt from the cluster", None)]
    # what the killed put had written is unknown: it is kept, and told
    held = reedbed("catalog", "held", "--json", endpoint=eight.endpoint)
    assert sum(row["bytes"] for row in held.jsons if row["why"] == "unknown") >= 8 * MIB
    assert reedbed("catalog", "held", "delete", "--all", "--yes", "--json", endpoint=eight.endpoint).code == 0
    until(lambda: not reedbed("catalog", "held", endpoint=eight.endpoint).lines[1:-1])
    with sdk.connect(eight.endpoint, timeout=60) as store:
        assert {key: value for key, value in state_of_all(store).items() if "after" not in key}.keys() >= wanted.keys()


@pytest.mark.timeout(400)
def test_what_a_rebuild_could_not_know_is_named_and_nothing_is_guessed(tmp_path: Path) -> None:
    with local_cluster(tmp_path / "cluster", 6, catalog_options=(*OPTIONS, *NEVER)) as six:
        with sdk.connect(six.endpoint, timeout=60) as store:
            store.create_bucket("data")
            store.put("data", "kept", b"in the snapshot")
            wait_status(six, lambda told: told["copy"]["snapshot"] is not None, 60)
            before = state_of_all(store)
            store.put("data", "lost", b"after it")
            store.delete("data", "kept")
            store.create_bucket("lost")
        last = status_of(six)["log"]
        lose_catalog(six)
        done = rebuild(six, six.folder / "rebuilt")
        assert done.code == 1
        missing = done.json["missing"]
        assert missing["from"] == done.json["log"]["seq"] + 1 <= last["seq"]
        assert (missing["term"], missing["open"]) == (last["term"], True)
        assert "missing" in done.err or done.json["missing"], done
        serve_from(six, six.folder / "rebuilt")
        with sdk.connect(six.endpoint, timeout=60) as store:
            assert state_of_all(store) == before
        shown = reedbed("status", endpoint=six.endpoint)
        assert f"lacks log entries from {missing['from']} on" in shown.out.decode()
        assert [one["missing"] for one in status_of(six)["begun_anew"]] == [missing]
        assert reedbed("catalog", "acknowledge", "--json", endpoint=six.endpoint).json == {"acknowledged": 1}
        assert status_of(six)["begun_anew"] == []


@pytest.mark.timeout(400)
def test_a_cold_cluster_whose_catalog_is_damaged_is_rebuilt_from_storage_alone(cluster: LocalCluster) -> None:
    with sdk.connect(cluster.endpoint, timeout=60) as store:
        fill(store)
        wanted = state_of_all(store)
    settled(cluster)
    cluster.kill_all()
    data = cluster.catalog_folder / "data.mdb"
    whole_file = data.read_bytes()
    for damage in (lambda: data.unlink(), lambda: data.write_bytes(whole_file[: len(whole_file) // 3])):
        damage()
        refused = reedbed("catalogd", "--dir", cluster.catalog_folder, "--port", "0")
        assert refused.code == Corrupt.exit_code, refused
        assert "reedbed catalog rebuild" in refused.err

    cluster.catalogd.ready or pytest.fail("it ran")
    for daemon in cluster.storaged:
        daemon.start(wait=False)
    marks = [len(daemon.log()) for daemon in cluster.storaged]
    until(lambda: "what is there is read at" in cluster.storaged[0].log())
    address = cluster.storaged[0].log().rpartition("what is there is read at ")[2].split(",")[0]
    rest = [f"--storage={_early_address(daemon)}" for daemon in cluster.storaged[1:]]
    assert marks
    done = reedbed("catalog", "rebuild", "--dir", cluster.folder / "rebuilt", "--storage", address, *rest, "--json")
    assert (done.code, done.json["missing"]) == (0, None), done
    serve_from(cluster, cluster.folder / "rebuilt")
    for daemon in cluster.storaged:
        daemon.wait_ready()
    with sdk.connect(cluster.endpoint, timeout=60) as store:
        assert state_of_all(store) == wanted


def _early_address(daemon: Daemon) -> str:
    until(lambda: "what is there is read at" in daemon.log())
    return daemon.log().rpartition("what is there is read at ")[2].split(",")[0]


@pytest.mark.timeout(400)
def test_a_replaced_catalogd_that_wakes_up_stops_with_a_named_error(tmp_path: Path) -> None:
    with local_cluster(tmp_path / "cluster", 6, catalog_options=OPTIONS) as six, contextlib.ExitStack() as stack:
        old = six.catalogd
        stack.callback(old.stop)
        with sdk.connect(six.endpoint, timeout=8) as store:
            store.create_bucket("data")
            store.put("data", "key", b"value")
            settled(six)
            refused = rebuild(six, six.folder / "rebuilt")
            assert refused.code == Unavailable.exit_code, refused
            assert "a catalogd answers" in refused.err
            assert not (six.folder / "rebuilt").exists()

            old.signal(signal.SIGSTOP)
            done = rebuild(six, six.folder / "rebuilt")
            assert (done.code, done.json["missing"]) == (0, None), done
            six.catalog_folder, first_folder = six.folder / "rebuilt", six.catalog_folder
            arguments = ["catalogd", "--dir", str(six.catalog_folder), "--port", "0"]
            new = Daemon("catalogd-2", arguments, six.folder / "catalogd-2.log")
            stack.callback(new.stop)
            new.start()
            old.signal(signal.SIGCONT)
            # who still asks the old one is told no state of the past, and no commit of it counts
            with pytest.raises((StaleTerm, Unavailable, sdk.DeadlineExceeded)):
                store.put("data", "key", b"of the past")
        until(lambda: not old.running)
        assert old.stop() == StaleTerm.exit_code
        assert "has been replaced" in old.log()
        again = reedbed("catalogd", "--dir", first_folder, "--port", "0")
        assert again.code == StaleTerm.exit_code, again
        assert "has been replaced" in again.err
