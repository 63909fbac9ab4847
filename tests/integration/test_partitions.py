"""Who cannot reach whom: a client without its catalogd, a storaged without it. On real processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from reedbed_cluster import LocalCluster, local_cluster
from reedbed_cluster.commands import until
from reedbed_faults.proxy import ProxyThread, proxied

import reedbed
from reedbed.common.clock import Deadline
from reedbed.common.errors import DeviceFailed
from reedbed.protos import storage_pb2
from reedbed.protos.methods import PUT_SHARD
from reedbed.transport.grpc_client import GrpcConnector

KIB, MIB = 1024, 1024 * 1024
TIMEOUT_S = 1.5
SLACK_S = 10.0  # a busy machine, not a call without a deadline


def operations(store: reedbed.Store) -> dict[str, Callable[[], object]]:
    """One of each kind."""
    return {
        "put": lambda: store.put("data", "new", b"x"),
        "put_many": lambda: store.put_many("data", {"a": b"1", "b": b"2"}),
        "put large": lambda: store.put("data", "large", bytes(3 * MIB)),
        "get": lambda: store.get("data", "k"),
        "get_into": lambda: store.get_into("data", "k", bytearray(10)),
        "stat": lambda: store.stat("data", "k"),
        "exists": lambda: store.exists("data", "k"),
        "delete": lambda: store.delete("data", "k"),
        "copy": lambda: store.copy("data", "k", "data", "k2"),
        "list": lambda: list(store.list("data")),
        "list_buckets": lambda: list(store.list_buckets()),
        "create_bucket": lambda: store.create_bucket("more"),
        "delete_bucket": lambda: store.delete_bucket("empty"),
        "get_many": lambda: list(store.get_many("data", ["k"])),
        "open": lambda: store.open("data", "k", "rb"),
    }


@pytest.mark.parametrize("how", ["blackhole", "refuse"])
def test_a_client_without_its_catalogd(cluster: LocalCluster, how: str) -> None:
    blob = bytes(range(256)) * 1000
    with (
        proxied(cluster.endpoint) as way,
        reedbed.connect(way.address, timeout=TIMEOUT_S) as store,
        reedbed.connect(way.address, timeout=20) as patient,
        ThreadPoolExecutor(20) as threads,
    ):
        patient.create_bucket("data")
        patient.create_bucket("empty")
        patient.put("data", "k", blob)
        assert store.get("data", "k") == blob
        setattr(way.proxy, how, True)
        if how == "refuse":
            way.cut()

        def fails(work: Callable[[], object]) -> tuple[BaseException | None, float]:
            began = time.monotonic()
            try:
                work()
            except Exception as error:  # noqa: BLE001  judged below
                return error, time.monotonic() - began
            return None, time.monotonic() - began

        found = {name: threads.submit(fails, work) for name, work in operations(store).items()}
        for name, future in found.items():
            error, spent = future.result(60)
            assert isinstance(error, reedbed.Unavailable | reedbed.DeadlineExceeded), (name, error)
            assert spent < TIMEOUT_S + SLACK_S, name
            if name in ("get", "get_into", "stat", "exists", "list", "list_buckets", "get_many", "open"):
                assert not error.maybe_applied, (name, error)

        setattr(way.proxy, how, False)
        assert patient.put("data", "after", b"all is well").size == 11
        assert patient.get("data", "after") == b"all is well"
        if patient.exists("data", "new"):  # of unknown outcome, then whole
            assert patient.get("data", "new") == b"x"
        if patient.exists("data", "large"):
            assert patient.get("data", "large") == bytes(3 * MIB)


def refused_write(address: str, device: int) -> BaseException | None:
    """Puts a shard straight to a storaged; its error."""

    async def put() -> BaseException | None:
        lane = await GrpcConnector().open(address, cluster=b"", deadline=Deadline(10))
        request = storage_pb2.PutShardRequest(device=device, extent=bytes(16), index=0, k=4, m=2, pg=1, generation=1)
        try:
            await lane.call(PUT_SHARD, request.SerializeToString(), (b"x",), deadline=Deadline(10))
        except reedbed.ReedbedError as error:
            return error
        finally:
            await lane.close()
        return None

    return asyncio.run(put())


def test_a_storaged_without_its_catalogd_takes_no_writes_and_serves_reads(tmp_path: Path) -> None:
    blob = bytes(range(256)) * 8000
    times = ["--down-after-s", "1", "--out-after-s", "4"]
    with (
        ProxyThread() as way,
        local_cluster(tmp_path / "cluster", 5, catalog_options=times) as cluster,
        reedbed.connect(cluster.endpoint, timeout=20) as store,
    ):
        host, _, port = cluster.endpoint.rpartition(":")
        way.proxy.target = (host, int(port))
        arguments = ["storaged", "--dir", str(cluster.device_folder(6)), "--catalog", way.address]
        last = type(cluster.catalogd)("storaged-6", arguments, cluster.folder / "storaged-6.log")
        cluster.storaged.append(last)
        last.start()
        address, number = last.ready["address"], last.ready["devices"][0]["id"]
        store.create_bucket("data")
        store.put("data", "k", blob)
        assert not isinstance(refused_write(address, number), DeviceFailed)

        way.proxy.blackhole = True
        until(lambda: isinstance(refused_write(address, number), DeviceFailed), 30)
        assert store.get("data", "k") == blob
        cluster.wait_states({number: "down"})
        assert store.put("data", "meanwhile", blob).size == len(blob)
        assert store.get("data", "meanwhile") == blob

        way.proxy.blackhole = False
        until(lambda: not isinstance(refused_write(address, number), DeviceFailed), 30)
        cluster.wait_states({number: "up"})
        assert last.running
        for key in ("k", "meanwhile"):
            assert store.get("data", key) == blob
