"""A cluster in memory behind real messages: a catalog and devices, with faults to switch on."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from reedbed.client.core import Core
from reedbed.client.options import Options
from reedbed.client.store import AsyncStore
from reedbed.client.sync_store import Store
from reedbed.common.checksums import Buffer, block_sum
from reedbed.common.clock import Clock, Deadline
from reedbed.common.errors import (
    AlreadyExists,
    BelowHorizon,
    Corrupt,
    DeadlineExceeded,
    NotEmpty,
    NotFound,
    PreconditionFailed,
    ReedbedError,
    Unavailable,
    UnknownShard,
)
from reedbed.common.ids import Id, make_block
from reedbed.ec.profiles import Profile
from reedbed.extents.blocks import pack_table, unpack_table
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos import methods, storage_pb2
from reedbed.protos.convert import change_to_message, error_to_message, whole_map
from reedbed.protos.types import ClusterMap, Device, PlacementGroup, Position, etag_of
from reedbed.transport.lane import Hello, Reply


@dataclass
class Version:
    info: pb.ObjectInfo
    slices: list[pb.Slice]


@dataclass
class Cluster:
    """The twin. `lose[method]`: so many answers get lost after they took effect; `refuse[method]`: so many calls fail
    before; `hang`: methods that never answer; `gate[method]`: calls wait for it; `down`: dead devices."""

    profile: str = "rs-2-1"
    page: int = 3
    buckets: dict[str, pb.Bucket] = field(default_factory=dict)
    objects: dict[tuple[str, bytes], list[Version]] = field(default_factory=dict)
    extents: dict[bytes, pb.Extent] = field(default_factory=dict)
    outcomes: dict[bytes, pb.Outcome] = field(default_factory=dict)
    uploads: dict[bytes, tuple[pb.BeginUploadRequest, list[pb.Slice]]] = field(default_factory=dict)
    shards: dict[tuple[int, bytes, int], tuple[bytes, bytes, tuple[bytes, ...]]] = field(default_factory=dict)
    lose: Counter[str] = field(default_factory=Counter)
    refuse: Counter[str] = field(default_factory=Counter)
    hang: set[str] = field(default_factory=set)
    gate: dict[str, asyncio.Event] = field(default_factory=dict)
    entered: dict[str, asyncio.Event] = field(default_factory=dict)
    down: set[int] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)
    outcome_errors: list[ReedbedError] = field(default_factory=list)  # given to the next commits instead of applying
    slices_page: int = 64
    horizon: bytes = bytes(16)
    good_for_ms: int = 60_000
    term: int = 5
    blocks: int = 0
    name: bytes = b"c" * 16
    present: bool = True
    seq: int = 0
    unchanged: int = 0  # lookups that were answered so

    def __post_init__(self) -> None:
        devices = {n: Device(n, bytes([n]) * 16, f"device:{n}", "up") for n in range(1, 9)}
        self.map = ClusterMap(self.name, 7, devices, {}, self.profile)

    # lanes

    async def open(self, address: str, *, cluster: bytes, deadline: Deadline) -> TwinLane:
        if not self.present or (address.startswith("device:") and int(address[7:]) in self.down):
            raise Unavailable("nobody answers", where=address)
        return TwinLane(self, address)

    def hello(self, role: str) -> Hello:
        return Hello(self.name, self.map.epoch, self.term, role, "twin", 1, 1 << 26, 1024, 1 << 26)

    def serve(self, address: str, method: str, header: bytes, payload: bytes) -> tuple[bytes, bytes]:
        if address.startswith("device:"):
            device = int(address[7:])
            if device in self.down:
                raise Unavailable("the lane broke", maybe_applied=True)
            return self.put_shard(header, payload) if method == methods.PUT_SHARD else self.read_shards(header)
        kind, handler = self.handlers()[method]
        return handler(kind.FromString(header)).SerializeToString(), b""

    def handlers(self) -> dict[str, tuple[Any, Callable[[Any], Any]]]:
        return {
            methods.COMMIT: (pb.CommitRequest, self.commit),
            methods.LOOKUP: (pb.LookupRequest, self.lookup),
            methods.SLICES: (pb.SlicesRequest, self.more_slices),
            methods.LIST: (pb.ListRequest, self.list_rows),
            methods.LIST_VERSIONS: (pb.ListVersionsRequest, self.list_versions),
            methods.CREATE_BUCKET: (pb.CreateBucketRequest, self.create_bucket),
            methods.DELETE_BUCKET: (pb.BucketRequest, self.delete_bucket),
            methods.STAT_BUCKET: (pb.BucketRequest, lambda request: self.bucket(request.name)),
            methods.LIST_BUCKETS: (pb.ListBucketsRequest, self.list_buckets),
            methods.BEGIN_UPLOAD: (pb.BeginUploadRequest, self.begin_upload),
            methods.REGISTER: (pb.RegisterRequest, self.register),
            methods.ABORT_UPLOAD: (pb.AbortUploadRequest, self.abort_upload),
            methods.LIST_UPLOADS: (pb.ListUploadsRequest, self.list_uploads),
            methods.LEASE_IDS: (pb.LeaseRequest, self.lease),
            methods.GET_MAP: (pb.MapRequest, lambda request: change_to_message(whole_map(self.map))),
            methods.ENSURE_PROFILE: (pb.EnsureProfileRequest, self.ensure),
            methods.CATALOG_STATUS: (
                pb.CatalogStatusRequest,
                lambda request: pb.CatalogStatusReply(json=json.dumps({"devices": 8}).encode()),
            ),
        }

    # cluster

    def lease(self, request: pb.LeaseRequest) -> pb.LeaseReply:
        self.blocks += 1
        prefix = make_block(self.blocks, self.blocks)
        return pb.LeaseReply(prefix=prefix, count=1 << 20, horizon=self.horizon, good_for_ms=self.good_for_ms)

    def ensure(self, request: pb.EnsureProfileRequest) -> pb.MapDelta:
        code = Profile.parse(request.profile)
        if not any((pg.k, pg.m) == (code.k, code.m) for pg in self.map.pgs.values()):
            rng, pgs = random.Random(code.n), dict(self.map.pgs)
            for _ in range(12):
                order = rng.sample(sorted(self.map.devices), code.n)
                pgs[len(pgs) + 1] = PlacementGroup(len(pgs) + 1, code.k, code.m, 1, tuple(Position(d) for d in order))
            self.map = ClusterMap(self.name, self.map.epoch + 1, self.map.devices, pgs, self.profile)
        return change_to_message(whole_map(self.map))

    # buckets

    def bucket(self, name: str) -> pb.Bucket:
        if name not in self.buckets:
            raise NotFound(f"no bucket {name}")
        return self.buckets[name]

    def create_bucket(self, request: pb.CreateBucketRequest) -> pb.Bucket:
        if request.name in self.buckets:
            raise AlreadyExists(f"bucket {request.name} exists")
        profile = request.profile or self.profile
        self.buckets[request.name] = pb.Bucket(name=request.name, versioned=request.versioned, profile=profile)
        return self.buckets[request.name]

    def delete_bucket(self, request: pb.BucketRequest) -> pb.Empty:
        self.bucket(request.name)
        if any(bucket == request.name for bucket, _ in self.objects):
            raise NotEmpty(f"bucket {request.name} is not empty")
        del self.buckets[request.name]
        return pb.Empty()

    def list_buckets(self, request: pb.ListBucketsRequest) -> pb.ListBucketsReply:
        names = [name for name in sorted(self.buckets) if name > request.start_after]
        rows = [self.buckets[name] for name in names[: self.page]]
        return pb.ListBucketsReply(buckets=rows, more=len(names) > self.page)

    # objects

    def find(self, target: pb.Target) -> Version:
        self.bucket(target.bucket)
        versions = self.objects.get((target.bucket, target.key), [])
        for version in reversed(versions):
            if not target.version or version.info.version == target.version:
                if version.info.delete_marker and not target.version:
                    break
                return version
        raise NotFound(f"no object {target.key!r}")

    def lookup(self, request: pb.LookupRequest) -> pb.LookupReply:
        reply = pb.LookupReply()
        for target in request.targets:
            found = reply.found.add()
            try:
                version = self.find(target)
            except NotFound as error:
                found.error.CopyFrom(error_to_message(error))
                continue
            found.info.CopyFrom(version.info)
            if request.slices:
                found.slices.extend(version.slices[: self.slices_page])
                found.more = len(version.slices) > self.slices_page
                found.extents.extend(self.named(found.slices))
                if not found.more:
                    token = hashlib.sha256(found.SerializeToString(deterministic=True)).digest()
                    if token == target.known:
                        found.Clear()
                        found.unchanged = True
                        self.unchanged += 1
                    else:
                        found.token = token
        return reply

    def named(self, slices: Any) -> list[pb.Extent]:
        return [self.extents[id_] for id_ in dict.fromkeys(slice_.extent for slice_ in slices)]

    def more_slices(self, request: pb.SlicesRequest) -> pb.SlicesReply:
        slices = self.find(request.target).slices
        part = slices[request.first : request.first + self.slices_page]
        more = request.first + len(part) < len(slices)
        return pb.SlicesReply(slices=part, extents=self.named(part), more=more)

    def commit(self, request: pb.CommitRequest) -> pb.CommitReply:
        offered = {extent.id: extent for extent in request.extents}
        reply = pb.CommitReply()
        for op in request.ops:
            if op.id not in self.outcomes:
                outcome = pb.Outcome()
                try:
                    if self.outcome_errors:
                        raise self.outcome_errors.pop(0)
                    self.apply(op, offered, outcome)
                    self.seq += 1
                    outcome.log_term, outcome.log_seq = self.term, self.seq
                except ReedbedError as error:
                    outcome.Clear()
                    outcome.error.CopyFrom(error_to_message(error))
                self.outcomes[op.id] = outcome
            reply.outcomes.append(self.outcomes[op.id])
        return reply

    def apply(self, op: pb.CommitOp, offered: dict[bytes, pb.Extent], outcome: pb.Outcome) -> None:
        if op.id < self.horizon:
            raise BelowHorizon("the id is settled")
        bucket = self.bucket(op.bucket)
        try:
            latest: Version | None = self.find(pb.Target(bucket=op.bucket, key=op.key))
        except NotFound:
            latest = None
        if op.condition.if_none_match and latest:
            raise PreconditionFailed("the object exists")
        if op.condition.if_match and (latest is None or etag_of(latest.info.version.hex()) != op.condition.if_match):
            raise PreconditionFailed("the object is another")
        versions = self.objects.get((op.bucket, op.key), [])
        info = pb.ObjectInfo(bucket=op.bucket, key=op.key, version=op.id, latest=True, modified_us=self.seq)
        if op.HasField("delete"):
            if op.delete.version:
                left = [version for version in versions if version.info.version != op.delete.version]
                outcome.removed = len(left) < len(versions)
            else:
                outcome.removed = latest is not None
                left = []
                if bucket.versioned:
                    info.delete_marker = True
                    left = [*versions, Version(info, [])]
            self.objects[op.bucket, op.key] = left
            if not left:
                del self.objects[op.bucket, op.key]
            return
        if op.HasField("copy"):
            what = op.copy
            source = self.find(pb.Target(bucket=what.source_bucket, key=what.source_key, version=what.source_version))
            slices = source.slices
            info.size, info.checksum = source.info.size, source.info.checksum
            new = what if what.replace_metadata else source.info
        else:
            slices = list(op.put.slices)
            if op.put.upload:
                if op.put.upload not in self.uploads:
                    raise NotFound("no such upload")
                slices = [*self.uploads.pop(op.put.upload)[1], *slices]
            self.admit(op.put.slices, offered)
            info.size, info.checksum = op.put.size, op.put.checksum
            new = op.put
        assert sum(slice_.length for slice_ in slices) == info.size
        info.content_type, info.profile = new.content_type, op.put.profile or bucket.profile
        for name, value in new.metadata.items():
            info.metadata[name] = value
        kept = versions if bucket.versioned else []
        self.objects[op.bucket, op.key] = [*kept, Version(info, slices)]
        outcome.info.CopyFrom(info)

    def admit(self, slices: Any, offered: dict[bytes, pb.Extent]) -> None:
        for slice_ in slices:
            if slice_.extent not in self.extents:
                if slice_.extent < self.horizon:
                    raise BelowHorizon("the extent's id is settled")
                extent = offered[slice_.extent]
                assert len(extent.acks) >= extent.k + 1 - list(extent.lengths).count(0)
                self.extents[slice_.extent] = extent
            assert slice_.offset + slice_.length <= sum(self.extents[slice_.extent].lengths)

    def list_rows(self, request: pb.ListRequest) -> pb.ListReply:
        self.bucket(request.bucket)
        after = max(request.start_after, request.token)
        reply, prefixes = pb.ListReply(), set()
        for bucket, key in sorted(self.objects):
            if bucket != request.bucket or not key.startswith(request.prefix):
                continue
            version = self.objects[bucket, key][-1]
            if version.info.delete_marker:
                continue
            rest = key[len(request.prefix) :]
            if request.delimiter and request.delimiter in rest:
                cut = request.prefix + rest[: rest.index(request.delimiter) + len(request.delimiter)]
                if cut > after and cut not in prefixes:
                    prefixes.add(cut)
                    reply.rows.add(prefix=cut)
            elif key > after:
                reply.rows.add(info=version.info)
        return self.paged(reply)

    def paged(self, reply: pb.ListReply) -> pb.ListReply:
        if len(reply.rows) > self.page:
            del reply.rows[self.page :]
            reply.token = reply.rows[-1].prefix or reply.rows[-1].info.key
        return reply

    def list_versions(self, request: pb.ListVersionsRequest) -> pb.ListReply:
        self.bucket(request.bucket)
        reply = pb.ListReply()
        for bucket, key in sorted(self.objects):
            if bucket == request.bucket and key.startswith(request.prefix):
                for version in reversed(self.objects[bucket, key]):
                    reply.rows.add(info=version.info)
        return reply

    # uploads

    def begin_upload(self, request: pb.BeginUploadRequest) -> pb.Empty:
        self.bucket(request.bucket)
        self.uploads.setdefault(request.id, (request, []))
        return pb.Empty()

    def register(self, request: pb.RegisterRequest) -> pb.RegisterReply:
        slices = self.uploads[request.upload][1]
        try:
            self.admit(request.slices, {extent.id: extent for extent in request.extents})
        except ReedbedError as error:
            return pb.RegisterReply(error=error_to_message(error))
        assert request.first <= len(slices)
        slices[request.first :] = request.slices
        return pb.RegisterReply()

    def abort_upload(self, request: pb.AbortUploadRequest) -> pb.Empty:
        if self.uploads.pop(request.upload, None) is None:
            raise NotFound("no such upload")
        return pb.Empty()

    def list_uploads(self, request: pb.ListUploadsRequest) -> pb.ListUploadsReply:
        rows = [
            pb.Upload(
                id=id_, bucket=begun.bucket, key=begun.key, slices=len(slices), bytes=sum(s.length for s in slices)
            )
            for id_, (begun, slices) in sorted(self.uploads.items())
            if begun.bucket == request.bucket and id_ > request.after
        ]
        return pb.ListUploadsReply(uploads=rows)

    # shards

    def put_shard(self, header: bytes, payload: bytes) -> tuple[bytes, bytes]:
        request = storage_pb2.PutShardRequest.FromString(header)
        at = 0
        for block, (length, value) in enumerate(unpack_table(request.table)):
            if block_sum(Id(request.extent), request.index, block, payload[at : at + length]) != value:
                raise Corrupt(f"block {block} does not match its checksum")
            at += length
        place = (request.device, request.extent, request.index)
        self.shards[place] = (payload, request.table, tuple(request.data_tables))
        return storage_pb2.PutShardReply(incarnation=1).SerializeToString(), b""

    def read_shards(self, header: bytes) -> tuple[bytes, bytes]:
        request, payload = storage_pb2.ReadShardsRequest.FromString(header), bytearray()
        reply = storage_pb2.ReadShardsReply()
        for asked in request.reads:
            result = reply.results.add()
            shard = self.shards.get((asked.device, asked.extent, asked.index))
            if shard is None:
                result.failed, result.code, result.what = True, UnknownShard.code, "no such shard"
                continue
            data, table, tables = shard
            end = asked.offset + asked.length
            rows, first, at = [], None, 0
            for block, (length, _) in enumerate(unpack_table(table)):
                lo, hi = max(at, asked.offset), min(at + length, end)
                if lo < hi:
                    first = block if first is None else first
                    rows.append((hi - lo, block_sum(Id(asked.extent), asked.index, block, data[lo:hi])))
                at += length
            result.length, result.shard_length = asked.length, len(data)
            result.rows.shard, result.rows.first_block = asked.index, first or 0
            result.rows.offset, result.rows.table = asked.offset, pack_table(rows)
            payload += data[asked.offset : end]
            for of in asked.rows_of:
                given, at = result.data_rows.add(), 0
                given.shard = of
                for block, (length, value) in enumerate(unpack_table(tables[of])):
                    if at < asked.rows_end and at + length > asked.rows_start:
                        if not given.table:
                            given.first_block, given.offset = block, at
                        given.table += pack_table([(length, value)])
                    at += length
        return reply.SerializeToString(), bytes(payload)

    # what tests do with it

    def content(self, bucket: str, key: str) -> Version:
        return self.find(pb.Target(bucket=bucket, key=key.encode()))

    def drop_shards(self) -> None:
        self.shards.clear()


class TwinLane:
    """A lane to one address of the twin."""

    def __init__(self, cluster: Cluster, address: str) -> None:
        self._cluster = cluster
        self._address = address
        self._closed = False
        self.hello = cluster.hello("storaged" if address.startswith("device:") else "catalogd")

    @property
    def broken(self) -> bool:
        return self._closed

    async def close(self) -> None:
        self._closed = True

    async def call(
        self,
        method: str,
        header: bytes,
        payload: Sequence[Buffer] = (),
        *,
        deadline: Deadline,
        into: memoryview | None = None,
        epoch: int = 0,
    ) -> Reply:
        cluster = self._cluster
        cluster.calls[method] += 1
        await asyncio.sleep(0)
        if method in cluster.entered:
            cluster.entered[method].set()
        if cluster.refuse[method] > 0:
            cluster.refuse[method] -= 1
            raise Unavailable("refused", where=self._address)
        if method in cluster.hang or method in cluster.gate:
            try:
                await asyncio.wait_for(cluster.gate.get(method, asyncio.Event()).wait(), deadline.left())
            except TimeoutError:
                raise DeadlineExceeded("no answer in time", maybe_applied=True) from None
        reply, answer = cluster.serve(self._address, method, header, b"".join(payload))
        if cluster.lose[method] > 0:
            cluster.lose[method] -= 1
            raise Unavailable("the lane broke", where=self._address, maybe_applied=True)
        view = memoryview(answer)
        if into is not None:
            into[: len(answer)] = answer
            view = into[: len(answer)]
        return Reply(reply, view, cluster.map.epoch, cluster.term)


def make_core(cluster: Cluster, clock: Clock | None = None, **settings: Any) -> Core:
    return Core(Options("127.0.0.1:7300", **{"timeout": 5.0, **settings}), cluster, clock, seed=1)


async def until(condition: Callable[[], object]) -> None:
    """Lets the loop run until the condition holds; the test's own time limit ends it otherwise."""
    for _ in range(1_000_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to be")


@pytest.fixture(scope="session", name="until")
def until_fixture() -> Callable[..., Any]:
    return until


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture(scope="session")
def new_cluster() -> type[Cluster]:
    """For hypothesis, which wants fixtures that live longer than one example."""
    return Cluster


@pytest.fixture(scope="session")
def core_of() -> Callable[..., Core]:
    return make_core


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[AsyncStore]:
    """A store with the bucket `data`."""
    async with AsyncStore(make_core(cluster)) as opened:
        await opened.create_bucket("data")
        yield opened


@pytest.fixture
def sync_store(cluster: Cluster) -> Iterator[Store]:
    with Store(Options("127.0.0.1:7300", timeout=5.0), lambda _: AsyncStore(make_core(cluster))) as opened:
        opened.create_bucket("data")
        yield opened


@pytest.fixture(scope="session")
def some_bytes() -> Callable[[int], bytes]:
    """Bytes that look random and are the same in each run."""
    return lambda length: random.Random(length).randbytes(length)
