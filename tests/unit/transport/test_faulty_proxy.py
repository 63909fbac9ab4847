"""gRPC lanes through the faulty proxy, and so the proxy itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from reedbed_faults.proxy import FaultyProxy, ProxyThread

from reedbed.common.clock import Deadline
from reedbed.common.errors import DeadlineExceeded, ReedbedError, Unavailable
from reedbed.common.limits import KIB
from reedbed.transport import ends, grpc_client, grpc_server
from reedbed.transport.grpc_client import GrpcConnector
from reedbed.transport.grpc_server import GrpcServer

CLUSTER = b"c" * 16


@pytest.fixture
async def port(service: Any) -> AsyncIterator[int]:
    server = GrpcServer(service)
    yield await server.start()
    await server.stop()


async def opened(address: str) -> Any:
    return await GrpcConnector().open(address, cluster=CLUSTER, deadline=Deadline(10))


async def test_an_answer_that_is_dropped_leaves_the_outcome_unknown(port: int, service: Any) -> None:
    async with FaultyProxy(("127.0.0.1", port)) as proxy:
        lane = await opened(proxy.address)
        await lane.call("echo", b"", deadline=Deadline(10))
        proxy.drop_next_answer = True
        with pytest.raises(Unavailable) as caught:
            await lane.call("size", b"", [b"abc"], deadline=Deadline(10))
        assert caught.value.maybe_applied
        assert service.calls == ["echo", "size"]
        assert proxy.dropped == 1
        lane = await opened(proxy.address)
        await lane.call("echo", b"", deadline=Deadline(10))
        await lane.close()


async def test_a_cut_breaks_the_lane_at_once(port: int, service: Any) -> None:
    async with FaultyProxy(("127.0.0.1", port)) as proxy:
        lane = await opened(proxy.address)
        call = asyncio.ensure_future(lane.call("wait", b"", deadline=Deadline(20)))
        await service.started.acquire()
        proxy.cut()
        with pytest.raises(Unavailable):
            await call
        async with asyncio.timeout(10):
            await service.cancelled.acquire()
        assert lane.broken
        proxy.refuse = True
        with pytest.raises(Unavailable):
            await opened(proxy.address)


async def test_a_black_hole_ends_by_the_deadline(port: int) -> None:
    async with FaultyProxy(("127.0.0.1", port)) as proxy:
        lane = await opened(proxy.address)
        proxy.blackhole = True
        with pytest.raises(DeadlineExceeded) as caught:
            await lane.call("echo", b"", deadline=Deadline(0.2))
        assert caught.value.maybe_applied
        proxy.blackhole = False
        assert (await lane.call("echo", b"late", deadline=Deadline(10))).header == b"late"
        await lane.close()


async def test_both_ends_notice_a_black_hole(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a deadline, only keepalive ends the lane. With gRPC's own bound of a minute for a ping, this fails."""
    options = {"grpc.keepalive_time_ms": 300}
    options |= dict.fromkeys(("grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"), 300)
    for module, name in ((grpc_client, "CLIENT_OPTIONS"), (grpc_server, "SERVER_OPTIONS")):
        usual: list[tuple[str, Any]] = getattr(module, name)
        monkeypatch.setattr(module, name, [(option, options.get(option, value)) for option, value in usual])
    server = GrpcServer(service)
    port = await server.start()
    try:
        async with FaultyProxy(("127.0.0.1", port)) as proxy:
            lane = await opened(proxy.address)
            call = asyncio.ensure_future(lane.call("wait", b"", deadline=Deadline(None)))
            await service.started.acquire()
            proxy.blackhole = True
            async with asyncio.timeout(20):
                with pytest.raises(Unavailable):
                    await call
                await service.cancelled.acquire()
            assert lane.broken
    finally:
        await server.stop()


async def test_a_lane_that_has_fallen_silent_is_left(port: int, service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "SILENT_S", 0.3)
    async with FaultyProxy(("127.0.0.1", port)) as proxy:
        lane = await opened(proxy.address)
        await lane.call("echo", b"", deadline=Deadline(10))
        slow = asyncio.ensure_future(lane.call("wait", b"", deadline=Deadline(0.6)))
        await service.started.acquire()
        while not slow.done():
            await lane.call("echo", b"", deadline=Deadline(10))
        with pytest.raises(DeadlineExceeded):
            await slow
        assert not lane.broken, "one call is slow, but others are answered"

        proxy.hold_answers = True
        waiting = asyncio.ensure_future(lane.call("echo", b"", deadline=Deadline(20)))
        with pytest.raises(DeadlineExceeded):
            await lane.call("echo", b"", deadline=Deadline(0.8))
        assert lane.broken
        with pytest.raises(Unavailable) as caught:
            await waiting
        assert caught.value.maybe_applied
        assert caught.value.retryable
        proxy.hold_answers = False
        lane = await opened(proxy.address)
        await lane.call("echo", b"", deadline=Deadline(10))
        await lane.close()


async def echo_on(lane: Any, times: int) -> None:
    for _ in range(times):
        reply = await lane.call("echo", b"h", [bytes(10_000)], deadline=Deadline(10))
        assert reply.header == b"h"
        assert bytes(reply.payload) == bytes(10_000)


async def test_altered_and_torn_pieces(port: int) -> None:
    async with FaultyProxy(("127.0.0.1", port)) as proxy:
        lane = await opened(proxy.address)
        proxy.flip_every = 1000
        with pytest.raises(ReedbedError):
            await echo_on(lane, 200)
        assert proxy.altered
        proxy.flip_every, proxy.tear_every, proxy.altered = 0, 1, 0
        with pytest.raises(ReedbedError):
            await (await opened(proxy.address)).call("echo", b"", deadline=Deadline(2))
        assert proxy.altered


async def test_delay_and_rate(port: int) -> None:
    with ProxyThread(("127.0.0.1", port)) as thread:
        lane = await opened(thread.address)
        thread.proxy.delay = 0.05
        began = time.monotonic()
        await lane.call("echo", b"", deadline=Deadline(10))
        assert time.monotonic() - began >= 0.1
        thread.proxy.delay, thread.proxy.rate = 0.0, 1000 * KIB
        began = time.monotonic()
        await lane.call("size", b"", [bytes(200 * KIB)], deadline=Deadline(10))
        assert time.monotonic() - began >= 0.19
        thread.proxy.rate = 0.0
        thread.cut()
        async with asyncio.timeout(10):
            while not lane.broken:  # noqa: ASYNC110  a lane has no event for it
                await asyncio.sleep(0.001)
