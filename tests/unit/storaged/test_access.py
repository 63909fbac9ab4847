"""Calls to the devices of one's own process need no lane, and keep the rules of one."""

from __future__ import annotations

import asyncio
import random

import pytest

from reedbed.common.clock import Deadline, SystemClock
from reedbed.common.errors import Corrupt, DeadlineExceeded, Unavailable
from reedbed.protos import catalog_pb2
from reedbed.protos.types import ClusterMap, Device
from reedbed.storaged.access import StorageAccess
from reedbed.storaged.ids import LeasedIds
from reedbed.transport.lane import Hello, Reply, Request, Response

MAP = ClusterMap(b"c" * 16, 4)
OWN, OTHER = (Device(number, bytes([number]) * 16, f"h:{number}", "up") for number in (1, 2))


class Echo:
    """A service that gives the payload back, when it is let."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.given_back = 0
        self.ended = False

    def hello(self) -> Hello:
        raise AssertionError

    def position(self) -> tuple[int, int]:
        return 4, 9

    async def handle(self, request: Request) -> Response:
        try:
            await self.go.wait()
        finally:
            self.ended = True
        if request.method == "no":
            raise Unavailable("it does not want to")

        def done() -> None:
            self.given_back += 1

        return Response(request.header, request.payload, done)


class Pool:
    async def call(self, address: str, *_: object, **__: object) -> Reply:
        return Reply(address.encode())


def access_of(service: Echo) -> StorageAccess:
    async def fetch() -> None:
        return None

    async def lease() -> catalog_pb2.LeaseReply:
        raise AssertionError

    pool: object = Pool()
    return StorageAccess(
        pool,  # type: ignore[arg-type]
        lambda: MAP,
        fetch,
        SystemClock(),
        random.Random(1),
        LeasedIds(lease, SystemClock(), lambda: 0),
        service,
        lambda number: number == OWN.number,
    )


async def test_an_answer_lands_where_it_should_and_its_memory_is_given_back() -> None:
    access = access_of(service := Echo())
    reply = await access.call(OWN, "echo", b"h", [b"ab", memoryview(b"cde")], deadline=Deadline(5))
    assert (reply.header, bytes(reply.payload), reply.epoch, reply.term) == (b"h", b"abcde", 4, 9)
    into = memoryview(bytearray(8))
    reply = await access.call(OWN, "echo", b"", [b"xyz"], deadline=Deadline(5), into=into)
    assert (bytes(into[:3]), len(reply.payload)) == (b"xyz", 3)
    with pytest.raises(Corrupt):
        await access.call(OWN, "echo", b"", [b"too long for it"], deadline=Deadline(5), into=into)
    assert service.given_back == 3
    assert (await access.call(OTHER, "echo", b"", deadline=Deadline(5))).header == b"h:2"


async def test_errors_and_deadlines_are_those_of_a_lane() -> None:
    access = access_of(service := Echo())
    with pytest.raises(Unavailable, match="does not want"):
        await access.call(OWN, "no", b"", deadline=Deadline(5))
    service.go.clear()
    service.ended = False
    with pytest.raises(DeadlineExceeded) as late:
        await access.call(OWN, "echo", b"", deadline=Deadline(0.01))
    assert late.value.maybe_applied
    assert service.ended
