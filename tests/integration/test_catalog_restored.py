"""A catalog older than what its devices have seen: a backup that is restored, a folder that is copied back."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path

import pytest
from reedbed_cluster import LocalCluster, local_cluster
from reedbed_cluster.commands import reedbed, until

import reedbed as sdk
from reedbed.catalog.asking import Asking
from reedbed.common.clock import SystemClock
from reedbed.common.errors import PreconditionFailed, StaleTerm, Unavailable
from reedbed.common.ids import Id, is_system
from reedbed.transport.grpc_client import GrpcConnector
from reedbed.transport.pool import LanePool
from tests.integration.test_catalog_survives import lose_catalog, serve_from, settled, state_of_all
from tests.integration.test_devices import number_of, start_more
from tests.integration.test_devices import settled as moves_ended
from tests.integration.test_repair import order, status_of, wait_status

KIB, MIB = 1024, 1024 * 1024
# all grace times are over almost at once: what may go goes
SHORT = ("--horizon-lag-s", "1", "--delete-grace-s", "0.5", "--short-grace", "--down-after-s", "2")

ALONE = "yesterday/alone"  # its extent, which no other object shares: what is overwritten is removed for good

Shards = set[tuple[Id, int, int]]


def shards_of(cluster: LocalCluster) -> Shards:
    """Every shard of users' extents, and on which device it is: as the devices list them."""

    async def ask() -> Shards:
        pool = LanePool(GrpcConnector(), clock=SystemClock())
        asking = Asking(pool, SystemClock())
        found: Shards = set()
        try:
            for daemon in cluster.storaged:
                address, after, more = daemon.ready["address"], None, True
                while more:
                    page, more = await asking.shards(address, daemon.ready["devices"][0]["id"], after, system=False)
                    found |= {(one.extent, one.index, one.device) for one in page if not is_system(one.extent)}
                    after = (page[-1].extent, page[-1].index) if page else None
        finally:
            await pool.close()
        return found

    return asyncio.run(ask())


def compared(cluster: LocalCluster) -> None:
    """Every device has compared all that it holds with the catalog, and what was ordered is done."""
    done = reedbed("scrub", "--wait", "--json", endpoint=cluster.endpoint)
    assert done.code == 0, done
    wait_status(cluster, lambda told: not told["queues"]["removals"])


def removed(cluster: LocalCluster) -> None:
    """What was overwritten or deleted has been removed, and nothing is on its way out."""
    wait_status(cluster, lambda told: not told["queues"]["dropped"] and not told["queues"]["removals"])


def put_day(store: sdk.Store, day: str) -> dict[str, bytes]:
    objects = {f"{day}/{number}": day.encode() * (1 + 30 * KIB * number) for number in range(8)}
    for key, result in store.put_many("data", objects).items():
        assert isinstance(result, sdk.ObjectInfo), (key, result)
    return objects


def put_yesterday(store: sdk.Store) -> dict[str, bytes]:
    """With one object that is overwritten today."""
    alone = b"yesterday" * 30 * KIB
    store.put("data", ALONE, alone)
    return {**put_day(store, "yesterday"), ALONE: alone}


@pytest.mark.timeout(400)
def test_a_backup_of_yesterday_over_today_deletes_nothing_of_today(tmp_path: Path) -> None:
    file = tmp_path / "backup"
    with local_cluster(tmp_path / "cluster", 6, catalog_options=SHORT) as six:
        with sdk.connect(six.endpoint, timeout=60) as store:
            store.create_bucket("data")
            yesterday = put_yesterday(store)
            made = reedbed("catalog", "backup", file, "--json", endpoint=six.endpoint)
            assert made.code == 0, made
            before = state_of_all(store)
            today = put_day(store, "today")
            store.put("data", ALONE, b"overwritten today")
        settled(six)
        removed(six)
        there = shards_of(six)
        still = reedbed("catalog", "restore", file, "--dir", six.folder / "restored")
        assert (still.code, "a catalogd answers" in still.err) == (Unavailable.exit_code, True), still
        lose_catalog(six)
        done = reedbed("catalog", "restore", file, "--dir", six.folder / "restored", "--json")
        assert done.code == 1, done  # what came after the backup is missing, and it says so
        assert done.json["missing"]["from"] == done.json["log"]["seq"] + 1
        serve_from(six, six.folder / "restored")
        with sdk.connect(six.endpoint, timeout=60) as store:
            assert {row.key for row in store.list("data")} == yesterday.keys()
            compared(six)
            # the map's epoch, horizon and all grace times have passed; new writes and deletes go on
            new = put_day(store, "new")
            store.delete("data", "new/7")
            del new["new/7"]
            settled(six)
            compared(six)
            assert there - shards_of(six) == set()
            for key, data in (yesterday | new).items():
                if key != ALONE:
                    assert store.get("data", key) == data
            held = reedbed("catalog", "held", "--json", endpoint=six.endpoint).jsons
            unknown = {row["extent"] for row in held if row["why"] == "unknown"}
            assert sum(row["bytes"] for row in held if row["extent"] in unknown) >= sum(map(len, today.values()))
            # what was deleted since then goes as ever; and the rest once somebody says so
            assert reedbed("catalog", "held", "delete", "--all", "--yes", endpoint=six.endpoint).code == 0
            wait_status(six, lambda _: len(shards_of(six)) < len(there))
            store.delete("data", ALONE)  # its bytes are gone
            known = {key: value for key, value in state_of_all(store).items() if key[1:2] == ("yesterday/0",)}
            assert known.items() <= before.items()

            def ended() -> bool:
                delete = reedbed("catalog", "held", "delete", "--all", "--yes", endpoint=six.endpoint)
                assert delete.code == 0, delete
                end = reedbed("catalog", "held", "end", endpoint=six.endpoint)
                assert end.code in (0, PreconditionFailed.exit_code), end
                return end.code == 0

            until(ended, 60)
            assert status_of(six)["hold"] == []
            kept = state_of_all(store)
        six.catalogd.kill()
        six.start_catalog()
        assert status_of(six)["hold"] == []
        with sdk.connect(six.endpoint, timeout=60) as store:
            compared(six)
            assert state_of_all(store) == kept


@pytest.mark.timeout(400)
def test_what_was_deleted_and_left_behind_by_moves_since_the_backup_is_whole_again(tmp_path: Path) -> None:
    """Positions moved after the deletes: what was deleted was not moved along, and all of it must be found again."""
    file = tmp_path / "backup"
    options = ("--horizon-lag-s", "1", "--down-after-s", "2")
    with local_cluster(tmp_path / "cluster", 6, catalog_options=options) as cluster:
        with sdk.connect(cluster.endpoint, timeout=60) as store:
            store.create_bucket("data")
            yesterday = put_day(store, "yesterday")
            kept = put_day(store, "kept")
            assert reedbed("catalog", "backup", file, "--json", endpoint=cluster.endpoint).code == 0
            store.delete_many("data", list(yesterday))
            new = start_more(cluster, 3)
            numbers = [str(number_of(daemon)) for daemon in new]
            assert order(cluster, "add", *numbers)["positions"] > 0
            wait_status(cluster, moves_ended)
            settled(cluster)
        there = shards_of(cluster)
        lose_catalog(cluster)
        done = reedbed("catalog", "restore", file, "--dir", cluster.folder / "restored", "--json")
        assert done.code == 1, done
        serve_from(cluster, cluster.folder / "restored")
        with sdk.connect(cluster.endpoint, timeout=60) as store:
            assert yesterday | kept == {row.key: store.get("data", row.key) for row in store.list("data")}
            compared(cluster)
            told = wait_status(cluster, moves_ended)
            assert told["keeping"]["survives"]["rs-4-2"] == 2
            # every extent still has all its shards, wherever they were when the catalog was lost
            assert {(extent, index) for extent, index, _ in there} == {one[:2] for one in shards_of(cluster)}
            for daemon in cluster.storaged[:2]:
                daemon.kill()
            assert yesterday | kept == {row.key: store.get("data", row.key) for row in store.list("data")}


@pytest.mark.timeout(400)
def test_a_folder_that_is_copied_back_is_noticed_and_deletes_nothing(tmp_path: Path) -> None:
    copy = tmp_path / "yesterday"
    with local_cluster(tmp_path / "cluster", 6, catalog_options=SHORT) as six:
        with sdk.connect(six.endpoint, timeout=60) as store:
            store.create_bucket("data")
            yesterday = put_yesterday(store)
            settled(six)
            six.catalogd.signal(signal.SIGSTOP)
            shutil.copytree(six.catalog_folder, copy)
            six.catalogd.signal(signal.SIGCONT)
            today = put_day(store, "today")
            store.put("data", ALONE, b"overwritten today")
        removed(six)
        last = settled(six)["log"]
        there = shards_of(six)

        # nobody is there to tell when it starts; the devices come later
        six.kill_all()
        shutil.rmtree(six.catalog_folder)
        shutil.copytree(copy, six.catalog_folder)
        six.start_catalog()
        six.start_storage(six.storaged)
        told = wait_status(six, lambda told: bool(told["begun_anew"]), 60)
        (begun,) = told["begun_anew"]
        assert begun["how"] == "older than its devices"
        assert begun["missing"]["term"] == last["term"]
        assert begun["missing"]["from"] <= begun["missing"]["to"] <= last["seq"]
        assert "it is an old copy" in six.catalogd.log()
        with sdk.connect(six.endpoint, timeout=60) as store:
            assert {row.key for row in store.list("data")} == yesterday.keys()
            put_day(store, "new")
            settled(six)
            compared(six)
            assert there - shards_of(six) == set()
            for key in yesterday.keys() - {ALONE}:
                assert store.get("data", key) == yesterday[key]
        held = reedbed("catalog", "held", "--json", endpoint=six.endpoint).jsons
        assert sum(row["bytes"] for row in held if row["why"] == "unknown") >= sum(map(len, today.values()))

        # once more: by now devices follow a catalog of a higher term, and this folder is none. It names the addresses
        # that devices had when it was copied: nobody is there any more, so they have to find it, where it was before;
        # or the system has given such a port to another device, and catalogd is told before it serves
        six.catalogd.kill()
        shutil.rmtree(six.catalog_folder)
        shutil.copytree(copy, six.catalog_folder)
        six.catalogd.start(wait=False)
        assert six.catalogd.wait_end() == StaleTerm.exit_code
        assert "has been replaced" in six.catalogd.log()
