"""A whole catalog: over lanes within this process, and as a process that is killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message

from reedbed.catalog.catalogd import Catalog
from reedbed.catalog.config import CatalogdSettings
from reedbed.catalog.daemon import open_engine
from reedbed.catalog.leases import Leases
from reedbed.catalog.memory import MemoryEngine
from reedbed.common.clock import Deadline, SystemClock
from reedbed.common.errors import InvalidArgument, NotFound, WrongCluster
from reedbed.common.ids import Id
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos import methods
from reedbed.protos.convert import change_from_message, parse
from reedbed.transport.grpc_client import GrpcConnector
from reedbed.transport.inprocess import InProcessNetwork
from reedbed.transport.lane import Lane

M = TypeVar("M", bound=Message)

CLUSTER = Id(b"the test cluster")
ADDRESS = "catalog:7300"


async def ask(lane: Lane, method: str, message: Message, answer: type[M]) -> M:
    reply = await lane.call(method, message.SerializeToString(), deadline=Deadline(20))
    return parse(answer, reply.header)


@asynccontextmanager
async def serving(engine: MemoryEngine, **more: Any) -> AsyncIterator[tuple[Catalog, Lane]]:
    settings = CatalogdSettings(Path("/none"), **more)
    clock = SystemClock()
    catalog = Catalog(engine, CLUSTER, settings, clock, Leases(engine, clock))
    network = InProcessNetwork()
    network.serve(ADDRESS, catalog)
    background = asyncio.ensure_future(catalog.run())
    try:
        yield catalog, await network.open(ADDRESS, cluster=b"", deadline=Deadline(20))
        assert not background.done()
    finally:
        background.cancel()
        await asyncio.wait((background,))
        await network.close()
        await catalog.close()


def device(number: int, **more: Any) -> pb.RegisterDeviceRequest:
    values = {"uuid": bytes([number]) * 16, "incarnation": 1, "address": f"10.0.0.{number}:7301", "capacity": 1 << 40}
    return pb.RegisterDeviceRequest(**{**values, **more})


async def register(lane: Lane, *numbers: int) -> None:
    for number in numbers:
        reply = await ask(lane, methods.REGISTER_DEVICE, device(number), pb.RegisterDeviceReply)
        assert (reply.number, reply.cluster, reply.incarnation) == (number, CLUSTER, 1)


async def test_the_cluster_calls_over_a_lane() -> None:
    engine = MemoryEngine()
    async with serving(engine) as (catalog, lane):
        assert (lane.hello.role, lane.hello.cluster, lane.hello.term, lane.hello.epoch) == ("catalogd", CLUSTER, 1, 1)
        with pytest.raises(WrongCluster):
            await ask(lane, methods.REGISTER_DEVICE, device(1, cluster=b"x" * 16), pb.RegisterDeviceReply)
        await register(lane, 1, 2, 3)
        ensured = await ask(lane, methods.ENSURE_PROFILE, pb.EnsureProfileRequest(profile="rs-2-1"), pb.MapDelta)
        map_ = change_from_message(ensured).apply(None)
        assert map_ == catalog.cluster.map
        assert len(map_.pgs) == 100
        delta = await ask(lane, methods.GET_MAP, pb.MapRequest(epoch=4), pb.MapDelta)
        assert (delta.base, delta.epoch, len(delta.devices), len(delta.pgs)) == (4, 5, 0, 100)
        report = pb.DeviceReport(number=2, uuid=bytes([2]) * 16, incarnation=1, capacity=1 << 40)
        beat = await ask(lane, methods.HEARTBEAT, pb.HeartbeatRequest(epoch=2, devices=[report]), pb.HeartbeatReply)
        assert (beat.epoch, beat.term, beat.interval_ms, beat.write_lease_ms) == (5, 1, 1000, 300_000)
        assert beat.map.base == 2
        beat = await ask(lane, methods.HEARTBEAT, pb.HeartbeatRequest(epoch=5, devices=[report]), pb.HeartbeatReply)
        assert not beat.HasField("map")
        report.number = 9
        with pytest.raises(NotFound):
            await ask(lane, methods.HEARTBEAT, pb.HeartbeatRequest(devices=[report]), pb.HeartbeatReply)
        reply = await lane.call(methods.GET_MAP, b"", deadline=Deadline(20))
        assert (reply.epoch, reply.term) == (5, 1)
        for method in (methods.HEARTBEAT, methods.REGISTER_DEVICE, methods.GET_MAP, methods.LEASE_IDS):
            with pytest.raises(InvalidArgument):
                await lane.call(method, b"\xff\xff\xff", deadline=Deadline(20))
    async with serving(engine.crash()) as (_, lane):
        assert (lane.hello.term, lane.hello.epoch) == (2, 5)


async def test_status_tells_of_everything() -> None:
    async with serving(MemoryEngine()) as (_, lane):
        await register(lane, 1, 2, 3)
        await ask(lane, methods.ENSURE_PROFILE, pb.EnsureProfileRequest(profile="rs-2-1"), pb.MapDelta)
        await ask(lane, methods.CREATE_BUCKET, pb.CreateBucketRequest(name="data", profile="rs-2-1"), pb.Bucket)
        report = pb.DeviceReport(
            number=2, uuid=bytes([2]) * 16, incarnation=1, capacity=90, used=7, shards=3, damaged=1
        )
        await ask(lane, methods.HEARTBEAT, pb.HeartbeatRequest(devices=[report]), pb.HeartbeatReply)
        answer = await ask(lane, methods.CATALOG_STATUS, pb.CatalogStatusRequest(), pb.CatalogStatusReply)
        status = json.loads(answer.json)
        assert status["cluster"] == CLUSTER.hex()
        assert status["term"] == 1
        assert status["pgs"] == {"rs-2-1": 100}
        assert status["log"] == {"term": 1, "seq": 1, "floor": 0}
        assert status["counts"]["buckets"] == 1
        assert status["queues"] == {"removals": 0, "degraded": 0, "dropped": 0}
        assert [row["state"] for row in status["devices"]] == ["up", "up", "up"]
        second = status["devices"][1]
        assert (second["used"], second["capacity"], second["shards"], second["damaged"]) == (7, 90, 3, 1)


async def test_a_bucket_whose_profile_the_devices_cannot_hold_is_refused() -> None:
    async with serving(MemoryEngine()) as (_, lane):
        await register(lane, 1, 2, 3)
        with pytest.raises(InvalidArgument, match="needs 6 devices, there are 3"):
            await ask(lane, methods.CREATE_BUCKET, pb.CreateBucketRequest(name="data", profile="rs-4-2"), pb.Bucket)
        with pytest.raises(NotFound):
            await ask(lane, methods.STAT_BUCKET, pb.BucketRequest(name="data"), pb.Bucket)


async def test_silent_devices_are_called_down_by_the_background_loop() -> None:
    async with serving(MemoryEngine(), down_after_s=0.2, out_after_s=0.5) as (catalog, lane):
        await register(lane, 1)
        async with asyncio.timeout(10):
            while catalog.cluster.map.devices[1].state == "up":
                await ask(lane, methods.GET_MAP, pb.MapRequest(), pb.MapDelta)
        assert catalog.cluster.liveness.held == {1}


async def test_redo_records_that_nobody_needs_are_trimmed() -> None:
    engine = MemoryEngine()
    async with serving(engine, redo_keep=3) as (catalog, lane):
        await register(lane, *range(1, 9))
        trim = next(loop for loop in catalog.loops() if loop.name == "redo")
        await trim.step()
        newest = engine.redo_position()
        assert [record.number for record in engine.read_redo(newest - 3, 10)] == [newest - 2, newest - 1, newest]


def test_a_folder_founds_one_cluster_and_keeps_it(tmp_path: Path) -> None:
    engine = open_engine(CatalogdSettings(tmp_path / "a"))
    cluster = engine.cluster
    engine.close()
    engine = open_engine(CatalogdSettings(tmp_path / "a"))
    assert engine.cluster == cluster
    engine.close()
    engine = open_engine(CatalogdSettings(tmp_path / "b"))
    assert engine.cluster != cluster
    engine.close()


# --- a real process ---

PROGRAM = """
import asyncio, sys
from pathlib import Path
from reedbed.catalog.config import CatalogdSettings
from reedbed.catalog.daemon import run_catalogd

def ready(endpoint):
    sys.stdout.write(endpoint + "\\n")
    sys.stdout.flush()

async def main():
    settings = CatalogdSettings(Path(sys.argv[1]), port=0)
    await run_catalogd(settings, ready, asyncio.Event())

import uvloop
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


@asynccontextmanager
async def process(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(folder), stdout=asyncio.subprocess.PIPE
    )
    assert started.stdout is not None
    try:
        async with asyncio.timeout(30):
            yield started, (await started.stdout.readline()).decode().strip()
    finally:
        if started.returncode is None:
            os.kill(started.pid, signal.SIGKILL)
        await started.wait()


async def test_a_catalogd_that_is_killed_comes_back_as_the_same_cluster_with_a_higher_term(tmp_path: Path) -> None:
    connector = GrpcConnector()
    clusters, prefixes, horizons = set(), [], []
    for term in (1, 2, 3):
        async with process(tmp_path / "catalog") as (started, endpoint):
            lane = await connector.open(endpoint, cluster=b"", deadline=Deadline(20))
            assert lane.hello.term == term
            clusters.add(lane.hello.cluster)
            for _ in range(3):
                lease = await ask(lane, methods.LEASE_IDS, pb.LeaseRequest(), pb.LeaseReply)
                prefixes.append(lease.prefix)
                horizons.append(lease.horizon)
            reply = await ask(lane, methods.REGISTER_DEVICE, device(term), pb.RegisterDeviceReply)
            assert (reply.number, reply.term) == (term, term)
            whole = await ask(lane, methods.GET_MAP, pb.MapRequest(), pb.MapDelta)
            assert [row.number for row in whole.devices] == list(range(1, term + 1))
            await lane.close()
            started.kill()
            await started.wait()
    assert len(clusters) == 1
    assert prefixes == sorted(set(prefixes))
    assert horizons == sorted(horizons)


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
async def test_a_catalogd_stops_in_order_when_told_to(tmp_path: Path, signal_: signal.Signals) -> None:
    async with process(tmp_path / "catalog") as (started, endpoint):
        lane = await GrpcConnector().open(endpoint, cluster=b"", deadline=Deadline(20))
        await ask(lane, methods.CREATE_BUCKET, pb.CreateBucketRequest(name="data"), pb.Bucket)
        await lane.close()
        started.send_signal(signal_)
        assert await started.wait() == 0
    assert (tmp_path / "catalog" / "clean.txt").exists()
