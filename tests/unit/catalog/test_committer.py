"""The committer and the service on it: shared transactions, lone fates, and what callers are told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message

from reedbed.catalog.committer import Committer
from reedbed.catalog.engine import Writer
from reedbed.catalog.memory import MemoryEngine
from reedbed.catalog.objects import ObjectService
from reedbed.common.clock import Deadline
from reedbed.common.errors import (
    AlreadyExists,
    DeviceFailed,
    DiskFull,
    InvalidArgument,
    LogTrimmed,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from reedbed.common.limits import HEADER_MAX
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos import methods
from reedbed.transport.lane import Request

World = Any
M = TypeVar("M", bound=Message)


class Gated(MemoryEngine):
    """Its transactions wait for `gate`, and fail at their end with `failure`."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.under_way = threading.Event()
        self.failure: Exception | None = None

    @contextmanager
    def write(self, *, urgent: bool = False) -> Any:
        with super().write(urgent=urgent) as writer:
            self.under_way.set()
            self.gate.wait(10)
            yield writer
            if self.failure is not None:
                raise self.failure


@pytest.fixture
def engine() -> Gated:
    return Gated()


@pytest.fixture
async def committer(engine: Gated) -> AsyncIterator[Committer]:
    made = Committer(engine)
    yield made
    engine.gate.set()
    await made.close()


def put(key: bytes, error: Exception | None = None) -> Callable[[Writer], bytes]:
    def fn(writer: Writer) -> bytes:
        writer.put(key, b"x")
        if error is not None:
            raise error
        return key

    return fn


def stored(engine: MemoryEngine) -> list[bytes]:
    with engine.read() as reader:
        return [key for key, _ in reader.scan(b"")]


async def held(engine: Gated, committer: Committer) -> asyncio.Task[Any]:
    """A transaction that is under way and waits for the gate."""
    engine.gate.clear()
    engine.under_way.clear()
    first = asyncio.create_task(committer.run(put(b"first")))
    assert await asyncio.to_thread(engine.under_way.wait, 10)
    return first


async def test_what_waits_shares_a_transaction_and_fails_alone(engine: Gated, committer: Committer) -> None:
    first = await held(engine, committer)
    waiting = [
        asyncio.create_task(committer.run(fn))
        for fn in (put(b"a"), put(b"b", NotFound("no b")), put(b"c", ZeroDivisionError()), put(b"d"))
    ]
    await asyncio.sleep(0)
    engine.gate.set()
    done = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert [type(one) for one in done] == [bytes, bytes, NotFound, ZeroDivisionError, bytes]
    assert stored(engine) == [b"a", b"d", b"first"]
    assert engine.redo_position() == 2


async def test_a_transaction_takes_no_more_than_its_share(engine: Gated) -> None:
    committer = Committer(engine, ops_per_transaction=10)
    first = await held(engine, committer)
    waiting = [asyncio.create_task(committer.run(put(b"%d" % at), weight=4)) for at in range(5)]
    await asyncio.sleep(0)
    engine.gate.set()
    await asyncio.gather(first, *waiting)
    assert engine.redo_position() == 1 + 3
    await committer.close()
    with pytest.raises(Unavailable):
        await committer.run(put(b"late"))


async def test_all_are_told_when_the_transaction_fails(engine: Gated, committer: Committer) -> None:
    first = await held(engine, committer)
    other = asyncio.create_task(committer.run(put(b"a", AlreadyExists("rests on what is lost"))))
    await asyncio.sleep(0)
    engine.failure = DeviceFailed("sync failed", maybe_applied=True)
    engine.gate.set()
    done = await asyncio.gather(first, other, return_exceptions=True)
    assert [(type(error), getattr(error, "maybe_applied", None)) for error in done] == [(DeviceFailed, True)] * 2
    assert done[0] is not done[1]
    assert stored(engine) == []
    engine.failure = None
    assert await committer.run(put(b"a")) == b"a"


async def test_no_more_waits_than_a_bound(engine: Gated, committer: Committer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reedbed.catalog.committer.WAITING_MAX", 10)
    first = await held(engine, committer)
    heavy = asyncio.create_task(committer.run(put(b"a"), weight=50))  # alone it may be over the bound
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted) as refused:
        await committer.run(put(b"b"))
    assert refused.value.retryable
    engine.gate.set()
    await asyncio.gather(first, heavy)
    assert await committer.run(put(b"b")) == b"b"


async def test_a_cancelled_caller_does_not_undo(engine: Gated, committer: Committer) -> None:
    first = await held(engine, committer)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    engine.gate.set()
    await committer.run(put(b"second"))
    assert stored(engine) == [b"first", b"second"]


async def test_on_a_full_disk_only_what_is_urgent_goes_on(engine: Gated, committer: Committer) -> None:
    first = await held(engine, committer)
    plain = asyncio.create_task(committer.run(put(b"a")))
    urgent = asyncio.create_task(committer.run(put(b"b"), urgent=True))
    await asyncio.sleep(0)
    engine.full = True
    engine.gate.set()
    done = await asyncio.gather(first, plain, urgent, return_exceptions=True)
    assert [type(one) for one in done] == [bytes, DiskFull, bytes]
    assert stored(engine) == [b"b", b"first"]


class Client:
    """Calls handlers as a lane would."""

    def __init__(self, service: ObjectService) -> None:
        self.service = service

    async def __call__(self, method: str, message: Message, kind: type[M]) -> M:
        request = Request(method, message.SerializeToString(), (), Deadline(10), 0, 0)
        return kind.FromString((await self.service.handlers[method](request)).header)


@pytest.fixture
def world(make_world: type[World], engine: Gated) -> World:
    return make_world(engine)


@pytest.fixture
async def client(world: World, engine: Gated, committer: Committer) -> Client:
    return Client(ObjectService(engine, committer, world.needs))


async def test_a_tour_of_the_calls(client: Client, world: World) -> None:
    made = await client(methods.CREATE_BUCKET, pb.CreateBucketRequest(name="data", profile="rs-2-1"), pb.Bucket)
    assert (made.name, made.profile, made.versioned) == ("data", "rs-2-1", False)
    assert await client(methods.STAT_BUCKET, pb.BucketRequest(name="data"), pb.Bucket) == made
    listed = await client(methods.LIST_BUCKETS, pb.ListBucketsRequest(), pb.ListBucketsReply)
    assert list(listed.buckets) == [made]

    extent = world.extent(10, 0)
    upload = world.leases.take()
    await client(methods.BEGIN_UPLOAD, pb.BeginUploadRequest(id=upload, bucket="data", key=b"k"), pb.Empty)
    part = pb.Slice(extent=extent.id, offset=0, length=10)
    register = pb.RegisterRequest(upload=upload, slices=[part], extents=[extent])
    world.judge.generation = 0
    refused = await client(methods.REGISTER, register, pb.RegisterReply)
    assert refused.error.code == "StaleGeneration"
    world.judge.generation = 1
    assert await client(methods.REGISTER, register, pb.RegisterReply) == pb.RegisterReply()
    uploads = await client(methods.LIST_UPLOADS, pb.ListUploadsRequest(bucket="data"), pb.ListUploadsReply)
    assert [(one.id, one.bytes) for one in uploads.uploads] == [(upload, 10)]
    op = world.put_op(b"k", [], size=10, upload=upload)
    outcome = (await client(methods.COMMIT, pb.CommitRequest(ops=[op]), pb.CommitReply)).outcomes[0]
    target = pb.Target(bucket="data", key=b"k")
    found = await client(methods.LOOKUP, pb.LookupRequest(targets=[target] * 9, slices=True), pb.LookupReply)
    assert [one.info for one in found.found] == [outcome.info] * 9
    target.version = outcome.info.version
    slices = await client(methods.SLICES, pb.SlicesRequest(target=target), pb.SlicesReply)
    assert list(slices.slices) == [part]
    for method, asked in (
        (methods.LIST, pb.ListRequest(bucket="data")),
        (methods.LIST_VERSIONS, pb.ListVersionsRequest(bucket="data")),
    ):
        assert [row.info for row in (await client(method, asked, pb.ListReply)).rows] == [outcome.info]
    log = await client(methods.READ_LOG, pb.ReadLogRequest(), pb.ReadLogReply)
    assert [entry.kind for entry in log.entries] == ["create-bucket", "put"]
    status = client.service.status()
    assert (status["buckets"], status["objects"], status["bytes"], status["live_extents"]) == (1, 1, 10, 1)
    await client(methods.COMMIT, pb.CommitRequest(ops=[world.delete_op(b"k")]), pb.CommitReply)
    with pytest.raises(NotFound):
        await client(methods.ABORT_UPLOAD, pb.AbortUploadRequest(upload=upload), pb.Empty)
    await client(methods.DELETE_BUCKET, pb.BucketRequest(name="data"), pb.Empty)
    assert world.problems() == []


async def test_the_log_is_awaited_at_its_end(client: Client, world: World) -> None:
    asked = pb.ReadLogRequest(wait_ms=20_000)
    waiting = asyncio.create_task(client(methods.READ_LOG, asked, pb.ReadLogReply))
    await asyncio.sleep(0)
    assert not waiting.done()
    await client(methods.CREATE_BUCKET, pb.CreateBucketRequest(name="data"), pb.Bucket)
    assert [entry.bucket for entry in (await waiting).entries] == ["data"]
    end = pb.LogPosition(term=1, seq=1)
    timed = await client(methods.READ_LOG, pb.ReadLogRequest(after=end, wait_ms=20), pb.ReadLogReply)
    assert not timed.entries
    assert timed.end == end


async def test_the_log_is_not_awaited_for_longer_than_a_bound(
    client: Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reedbed.catalog.objects.LOG_WAIT_MAX_S", 0.02)
    asked = pb.ReadLogRequest(wait_ms=(1 << 32) - 1)
    async with asyncio.timeout(20):
        assert not (await client(methods.READ_LOG, asked, pb.ReadLogReply)).entries


async def test_what_has_no_room_in_the_answer_is_not_begun(client: Client, world: World) -> None:
    await client(methods.CREATE_BUCKET, pb.CreateBucketRequest(name="data"), pb.Bucket)
    long = {"name": "x" * 8000}
    ops = [world.put_op(b"k%03d" % number, [], metadata=long) for number in range(500)]
    reply = await client(methods.COMMIT, pb.CommitRequest(ops=ops), pb.CommitReply)
    assert reply.ByteSize() < HEADER_MAX
    codes = [outcome.error.code for outcome in reply.outcomes]
    done = codes.count("")
    assert 0 < done < 500
    assert codes == [""] * done + ["ResourceExhausted"] * (500 - done)
    listed = await client(methods.LIST, pb.ListRequest(bucket="data"), pb.ListReply)
    assert len(listed.rows) <= done
    again = await client(methods.COMMIT, pb.CommitRequest(ops=ops[done:]), pb.CommitReply)
    assert not again.outcomes[0].error.code


async def test_errors_of_a_lookup_are_told_apart(client: Client, world: World) -> None:
    world.bucket()
    world.put(b"k")
    targets = [
        pb.Target(bucket="none", key=b"k"),
        pb.Target(bucket="data", key=b"none"),
        pb.Target(bucket="data", key=b"k", version=world.leases.take()),
        pb.Target(bucket="data", key=b""),
        pb.Target(bucket="data", key=b"k"),
    ]
    found = (await client(methods.LOOKUP, pb.LookupRequest(targets=targets), pb.LookupReply)).found
    assert [one.error.code for one in found] == [*["NotFound"] * 3, "InvalidArgument", ""]
    texts = [one.error.what for one in found[:3]]
    assert ["bucket" in texts[0], "no object" in texts[1], "no version" in texts[2]] == [True] * 3


async def test_bad_messages_and_too_much_at_once_are_refused(client: Client, engine: Gated) -> None:
    before = engine.redo_position()
    for method, handler in client.service.handlers.items():
        with pytest.raises(InvalidArgument):
            await handler(Request(method, b"\xff\xff\xff", (), Deadline(10), 0, 0))
    with pytest.raises(InvalidArgument, match="more than"):
        await client(methods.COMMIT, pb.CommitRequest(ops=[pb.CommitOp()] * 1001), pb.CommitReply)
    with pytest.raises(InvalidArgument, match="more than"):
        await client(methods.LOOKUP, pb.LookupRequest(targets=[pb.Target()] * 1001), pb.LookupReply)
    register = pb.RegisterRequest(upload=bytes(16), slices=[pb.Slice()] * 4097)
    with pytest.raises(InvalidArgument, match="more than"):
        await client(methods.REGISTER, register, pb.RegisterReply)
    with pytest.raises((InvalidArgument, LogTrimmed)):
        await client(methods.READ_LOG, pb.ReadLogRequest(after=pb.LogPosition(term=1, seq=9)), pb.ReadLogReply)
    assert engine.redo_position() == before
