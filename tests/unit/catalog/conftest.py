"""Every engine, in a shape that the conformance suite can open, reopen and damage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import lmdb
import pytest

from reedbed.catalog import audit, buckets, commits, indexing, listing, log, lookup
from reedbed.catalog.cluster import Cluster, HeartbeatAnswer, Report
from reedbed.catalog.edit import Edit, editing
from reedbed.catalog.engine import Engine, Reader, Writer
from reedbed.catalog.hold import read_hold
from reedbed.catalog.judge import AckJudge, ProfileJudge
from reedbed.catalog.keeping import Keeping
from reedbed.catalog.leases import Leases
from reedbed.catalog.leftovers import Leftovers
from reedbed.catalog.liveness import Times
from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.catalog.lmdb_rows import TREES
from reedbed.catalog.longkeys import ROOT_TABLE
from reedbed.catalog.mapkeeper import MapKeeper, found
from reedbed.catalog.mapstate import Registration
from reedbed.catalog.memory import MemoryEngine
from reedbed.catalog.needs import Needs
from reedbed.catalog.removals import Removals
from reedbed.catalog.rewriting import Rewriting
from reedbed.catalog.twins import manual_needs
from reedbed.common.clock import ManualClock
from reedbed.common.ids import Id
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos.types import Labels

CLUSTER = Id(b"the test cluster")

T = TypeVar("T")


class Rig(Protocol):
    """One engine under test; `engine` is the one that is open now."""

    engine: Engine

    def reopen(self) -> Engine: ...

    def spoil(self, key: bytes, change: Callable[[bytes], bytes]) -> None:
        """Change the stored bytes of a short key behind the engine's back."""


class MemoryRig:
    def __init__(self) -> None:
        self.memory = MemoryEngine()

    @property
    def engine(self) -> Engine:
        return self.memory

    def reopen(self) -> Engine:
        self.memory = self.memory.crash()
        return self.memory

    def spoil(self, key: bytes, change: Callable[[bytes], bytes]) -> None:
        self.memory.spoil(key, change)


class LmdbRig:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine: Engine = LmdbEngine(path, cluster=CLUSTER)

    def reopen(self) -> Engine:
        self.engine.close()
        self.engine = LmdbEngine(self.path, cluster=CLUSTER)
        return self.engine

    def spoil(self, key: bytes, change: Callable[[bytes], bytes]) -> None:
        self.engine.close()
        spoil_folder(self.path, key, change)
        self.engine = LmdbEngine(self.path, check=False)


def spoil_folder(path: Path, key: bytes, change: Callable[[bytes], bytes]) -> None:
    """Change what a closed catalog folder holds under a short key."""
    env: Any = lmdb.open(str(path), max_dbs=TREES)
    tree = env.open_db(b"k%02x" % key[0])
    with env, env.begin(write=True, db=tree) as txn:
        stored = txn.get(ROOT_TABLE + key)
        assert stored is not None
        txn.put(ROOT_TABLE + key, change(stored))


@pytest.fixture(params=["memory", "lmdb"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made: Rig = MemoryRig() if request.param == "memory" else LmdbRig(tmp_path / "catalog")
    yield made
    made.engine.close()


@pytest.fixture
def engine(rig: Rig) -> Engine:
    return rig.engine


class Direct:
    """A transactor that gives every function a transaction of its own, at once. `error`: what the next ones end in."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.error: Exception | None = None

    async def run(self, fn: Callable[[Writer], T], *, urgent: bool = False, undo: Any = None) -> T:
        with self.engine.write(urgent=urgent) as writer:
            result = fn(writer)
            if self.error is not None:
                raise self.error
        return result


@pytest.fixture
def direct() -> type[Direct]:
    return Direct


class Rack:
    """The cluster's half of a catalog on a clock that the test moves."""

    def __init__(self, engine: MemoryEngine, clock: ManualClock, **more: Any) -> None:
        self.engine, self.clock, self.more = engine, clock, more
        found(engine, CLUSTER, more.get("level"), more.get("profile", "rs-2-1"))
        self.transactor = Direct(engine)
        self.leases = Leases(engine, clock, lag_s=more.get("lag_s", 900.0))
        self.keeper = MapKeeper(engine, self.transactor)
        deciding = self.keeper.deciding
        self.needs = Needs(self.leases, AckJudge(deciding), ProfileJudge(deciding), clock)
        with engine.read() as reader:
            held = read_hold(reader)
        self.removals = Removals(
            engine, self.transactor, self.leases, self.keeper, self.needs, more.get("grace_s", 3600.0), held
        )
        self.times = Times(more.get("down_s", 5.0), more.get("out_s", 600.0))
        self.listening: set[str] = more.get("listening", set())
        self.cluster = Cluster(
            self.keeper,
            self.leases,
            self.transactor,
            self.removals,
            clock,
            self.times,
            self.listens,
            lambda: self.keeping.leaving,
        )

        self.keeping = Keeping(engine, self.transactor, self.keeper, self.needs, clock)
        self.rewriting = Rewriting(
            engine,
            self.transactor,
            self.keeper,
            self.needs,
            clock,
            self.cluster.lease,
            self.cluster.ensure_profile,
            more.get("compact_below", 50),
        )
        self.leftovers = Leftovers(engine, self.transactor, self.leases, self.keeper, self.removals)

    async def listens(self, address: str) -> bool:
        return address in self.listening

    def restart(self) -> Rack:
        return Rack(self.engine.crash(), self.clock, **self.more)

    def asked(self, number: int, **more: Any) -> Registration:
        values: dict[str, Any] = {
            "uuid": bytes([number]) * 16,
            "cluster": b"",
            "incarnation": 1,
            "address": f"10.0.0.{number}:7301",
            "labels": Labels(),
            "capacity": 100 << 30,
        }
        return Registration(**{**values, **more})

    def report(self, number: int, **more: Any) -> Report:
        values: dict[str, Any] = {
            "number": number,
            "uuid": bytes([number]) * 16,
            "incarnation": 1,
            "capacity": 100 << 30,
            "used": 0,
        }
        return Report(**{**values, **more})

    async def add(self, *numbers: int, **more: Any) -> None:
        for number in numbers:
            device = await self.cluster.register(self.asked(number, **more))
            assert device.number == number

    async def beat(self, *numbers: int, epoch: int = 0, **more: Any) -> HeartbeatAnswer:
        """A heartbeat of one process for each device; returns the last answer."""
        for number in numbers:
            answer = await self.cluster.heartbeat(epoch, [self.report(number, **more)])
        return answer

    async def run(self, seconds: float, *beating: int) -> None:
        """Ticks, and a heartbeat a second from each of `beating`."""
        step = self.times.tick_s()
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            if beating:
                await self.beat(*beating)
            await self.cluster.tick()

    def states(self) -> str:
        return " ".join(device.state for device in self.cluster.map.devices.values())


@pytest.fixture
def rack() -> Callable[..., Rack]:
    """Makes a Rack on an empty engine."""
    return lambda **more: Rack(MemoryEngine(), ManualClock(), **more)


class World:
    """The namespace's half of a catalog, driven by messages as a client would; whole extents of rs-2-1."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.needs, self.leases, self.judge, self.clock = manual_needs()
        self.change(lambda edit: indexing.step(edit, 1))

    def change(self, fn: Callable[[Edit], T]) -> T:
        with self.engine.write() as writer, editing(writer, self.needs) as edit:
            return fn(edit)

    def look(self, fn: Callable[[Reader], T]) -> T:
        with self.engine.read() as reader:
            return fn(reader)

    def bucket(self, name: str = "data", versioned: bool = False, profile: str = "rs-2-1") -> buckets.Bucket:
        return self.change(lambda edit: buckets.create(edit, name, versioned, profile))

    def extent(self, *lengths: int, **more: Any) -> pb.Extent:
        """A new extent with every shard acknowledged but those of positions `lost`."""
        lost = more.pop("lost", ())
        acks = [
            pb.Ack(position=place, device=place + 1, incarnation=1)
            for place in range(3)
            if place not in lost and (place == 2 or lengths[place])
        ]
        values: dict[str, Any] = {"id": self.leases.take(), "k": 2, "m": 1, "pg": 1, "generation": 1}
        return pb.Extent(**{**values, "lengths": lengths, "acks": acks, **more})

    def put_op(self, key: bytes, slices: list[pb.Slice], bucket: str = "data", **more: Any) -> pb.CommitOp:
        """A put of these slices; `more` are fields of Put, and `id` and `condition` of the operation."""
        op_id = more.pop("id", None) or self.leases.take()
        condition = pb.Condition(**more.pop("condition", {}))
        size = more.pop("size", sum(slice_.length for slice_ in slices))
        put = pb.Put(slices=slices, size=size, **more)
        return pb.CommitOp(id=op_id, bucket=bucket, key=key, condition=condition, put=put)

    def delete_op(self, key: bytes, bucket: str = "data", version: bytes = b"", **condition: Any) -> pb.CommitOp:
        return pb.CommitOp(
            id=self.leases.take(),
            bucket=bucket,
            key=key,
            condition=pb.Condition(**condition),
            delete=pb.Delete(version=version),
        )

    def copy_op(self, source: bytes, key: bytes, source_bucket: str = "data", **more: Any) -> pb.CommitOp:
        bucket = more.pop("bucket", "data")
        copy = pb.Copy(source_bucket=source_bucket, source_key=source, **more)
        return pb.CommitOp(id=self.leases.take(), bucket=bucket, key=key, copy=copy)

    def commit(self, *ops: pb.CommitOp, extents: Iterable[pb.Extent] = ()) -> list[pb.Outcome]:
        # Serialised and back: what a handler gets
        request = pb.CommitRequest.FromString(pb.CommitRequest(ops=ops, extents=extents).SerializeToString())
        return list(self.change(lambda edit: commits.apply(edit, request)).outcomes)

    def one(self, op: pb.CommitOp, *extents: pb.Extent) -> pb.Outcome:
        return self.commit(op, extents=extents)[0]

    def put(self, key: bytes, size: int = 10, bucket: str = "data", **more: Any) -> pb.Outcome:
        """Put an object that has an extent of its own."""
        extent = self.extent(size, 0)
        op = self.put_op(key, [pb.Slice(extent=extent.id, offset=0, length=size)], bucket, **more)
        return self.one(op, extent)

    def find(self, key: bytes, bucket: str = "data", version: bytes = b"", slices: bool = True) -> pb.Found:
        target = pb.Target(bucket=bucket, key=key, version=version)
        request = pb.LookupRequest(targets=[target], slices=slices)
        return self.look(lambda reader: lookup.lookup(reader, request)).found[0]

    def list(self, bucket: str = "data", limit: int = 1000, **asked: bytes) -> list[pb.ListRow]:
        """All rows, page by page."""
        return self._pages(
            lambda reader, token: listing.page(reader, buckets.get(reader, bucket), limit=limit, token=token, **asked)
        )

    def list_versions(self, bucket: str = "data", limit: int = 1000, prefix: bytes = b"") -> list[pb.ListRow]:
        return self._pages(
            lambda reader, token: listing.page_of_versions(
                reader, buckets.get(reader, bucket), limit=limit, prefix=prefix, token=token
            )
        )

    def _pages(self, page: Callable[[Reader, bytes], pb.ListReply]) -> list[pb.ListRow]:
        rows: list[pb.ListRow] = []
        token = b""
        while True:
            reply = self.look(lambda reader, token=token: page(reader, token))  # type: ignore[misc]
            rows.extend(reply.rows)
            token = reply.token
            if not token:
                return rows
            assert reply.rows

    def log(self) -> list[pb.LogEntry]:
        """The whole log, in order; asserts that its numbers have no gap."""
        reply = self.look(lambda reader: log.read(reader, 0, 0, 1_000_000))
        assert [entry.position.seq for entry in reply.entries] == list(range(1, reply.end.seq + 1))
        return list(reply.entries)

    def problems(self) -> list[str]:
        return self.look(audit.check)


@pytest.fixture
def world() -> World:
    """A World on an empty engine in memory, with an unversioned bucket `data` and a versioned one `kept`."""
    made = World(MemoryEngine())
    made.bucket()
    made.bucket("kept", versioned=True)
    return made


@pytest.fixture(scope="session")
def make_world() -> type[World]:
    return World
