"""What only gRPC lanes have: other protocols on the port, garbage on the stream, TLS, sockets, limits of the server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from reedbed.common.clock import Deadline
from reedbed.common.errors import (
    AlreadyExists,
    Corrupt,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    WrongCluster,
    WrongProtocol,
)
from reedbed.common.limits import MIB
from reedbed.protos import lane_pb2
from reedbed.transport import statuses
from reedbed.transport.greeting import parse_hello
from reedbed.transport.grpc_client import CLIENT_OPTIONS, HELLO, LANE, GrpcConnector
from reedbed.transport.grpc_server import GrpcServer
from reedbed.transport.sums import sealed
from reedbed.transport.tls import TlsConfig, tls_from

CLUSTER = b"c" * 16


async def opened(address: str, seconds: float = 10, connector: GrpcConnector | None = None) -> Any:
    return await (connector or GrpcConnector()).open(address, cluster=CLUSTER, deadline=Deadline(seconds))


@asynccontextmanager
async def listening(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A TCP server that does something else."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_a_web_server_on_the_port() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    async with listening(talk) as address:
        with pytest.raises(WrongProtocol) as caught:
            await opened(address)
    assert caught.value.where == address


async def test_garbage_on_the_port() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\x00SSH-2.0-whatever" * 20)
        await writer.drain()

    async with listening(talk) as address:
        with pytest.raises((WrongProtocol, Unavailable)):
            await opened(address)


async def test_something_silent_on_the_port() -> None:
    gone = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()

    async with listening(talk) as address, asyncio.timeout(5):
        with pytest.raises((DeadlineExceeded, Unavailable)):
            await opened(address, 0.3)
        gone.set()


async def test_something_that_hangs_up() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        return

    async with listening(talk) as address:
        with pytest.raises(Unavailable):
            await opened(address)


async def test_nobody_there() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        return

    async with listening(talk) as address:
        pass
    with pytest.raises(Unavailable) as caught:
        await opened(address)
    assert not caught.value.maybe_applied
    with pytest.raises(InvalidArgument):
        await opened("")


async def test_another_grpc_service_on_the_port() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with pytest.raises(WrongProtocol):
            await opened(f"127.0.0.1:{port}")
    finally:
        await server.stop(None)


async def test_a_hello_that_is_none() -> None:
    async def hello(request: bytes, context: object) -> bytes:
        return b"\xff\xff\xff"

    server = grpc.aio.server()
    handlers = {"Hello": grpc.unary_unary_rpc_method_handler(hello)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("reedbed.v1.Reedbed", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with pytest.raises(WrongProtocol):
            await opened(f"127.0.0.1:{port}")
    finally:
        await server.stop(None)


@asynccontextmanager
async def serving(service: Any, *args: Any, **options: Any) -> AsyncIterator[tuple[GrpcServer, str]]:
    server = GrpcServer(service, *args, **options)
    port = await server.start()
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop()


async def test_the_server_itself_refuses_another_cluster(service: Any) -> None:
    async with serving(service) as (_, address), grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS) as channel:
        request = sealed(lane_pb2.HelloRequest(protocol=1, cluster=b"other").SerializeToString())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(HELLO)(request)
        error = statuses.error_from_status(caught.value.code(), caught.value.details(), address)
        assert isinstance(error, WrongCluster)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(HELLO)(sealed(lane_pb2.HelloRequest(protocol=9).SerializeToString()))
        assert isinstance(statuses.error_from_status(caught.value.code(), "", address), WrongProtocol)


@pytest.mark.parametrize("garbage", [b"\xff" * 50, b"\x0a\x05\x08", b"\x0a\x02\x08\x01", bytes(100_000)])
async def test_garbage_ends_the_lane_and_nothing_else(service: Any, garbage: bytes) -> None:
    async with serving(service) as (server, address):
        good = await opened(address)
        async with grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS) as channel:
            stream = channel.stream_stream(LANE)()
            await stream.write(garbage)
            assert await stream.code() is grpc.StatusCode.DATA_LOSS
        assert (await good.call("echo", b"fine", deadline=Deadline(10))).header == b"fine"
        assert server.lanes == 1
        await good.close()


async def test_a_method_that_is_no_text_does_not_end_the_serving(service: Any) -> None:
    """gRPC itself stops at it; one altered byte of anybody's request is enough."""
    async with serving(service) as (_, address):
        good = await opened(address)
        await good.call("echo", b"", deadline=Deadline(10))
        _, writer = await asyncio.open_connection(*address.rsplit(":", 1))
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2_frame(4, 0, 0, b""))
        path = b"/reedbed.v\xb1.Reedbed/Lane"
        fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x"))
        fields += ((b"te", b"trailers"), (b"content-type", b"application/grpc"))
        block = b"".join(b"\0" + bytes([len(n)]) + n + bytes([len(v)]) + v for n, v in fields)
        writer.write(http2_frame(1, 4, 1, block))
        await writer.drain()
        async with asyncio.timeout(20):
            while not good.broken:  # noqa: ASYNC110  a lane has no event for it
                await asyncio.sleep(0.01)
            while True:
                try:
                    again = await opened(address)
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
        assert (await again.call("echo", b"back", deadline=Deadline(10))).header == b"back"
        await again.close()
        writer.close()


def http2_frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


async def test_an_altered_hello_is_refused_on_both_sides(service: Any) -> None:
    request = sealed(lane_pb2.HelloRequest(protocol=1, cluster=CLUSTER).SerializeToString())
    async with serving(service) as (_, address), grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS) as channel:
        reply = await channel.unary_unary(HELLO)(request)
        assert parse_hello(reply, address).cluster == CLUSTER
        for at in range(len(reply)):
            altered = bytearray(reply)
            altered[at] ^= 4
            with pytest.raises((Corrupt, WrongProtocol)):
                parse_hello(bytes(altered), address)
        for at in range(0, len(request), 3):
            altered = bytearray(request)
            altered[at] ^= 4
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(HELLO)(bytes(altered))
            assert caught.value.code() is grpc.StatusCode.DATA_LOSS


async def test_garbage_from_a_server_is_corrupt() -> None:
    async def hello(request: bytes, context: object) -> bytes:
        reply = lane_pb2.HelloReply(protocol=1, cluster=CLUSTER, window=MIB, max_payload=MIB, max_calls=1)
        return sealed(reply.SerializeToString())

    async def lane(requests: Any, context: Any) -> None:
        await context.read()
        await context.write(b"\xff" * 100)
        await context.read()

    server = grpc.aio.server()
    handlers = {
        "Hello": grpc.unary_unary_rpc_method_handler(hello),
        "Lane": grpc.stream_stream_rpc_method_handler(lane),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("reedbed.v1.Reedbed", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        opened_lane = await opened(f"127.0.0.1:{port}")
        with pytest.raises((Corrupt, Unavailable)):
            await opened_lane.call("echo", b"", deadline=Deadline(10))
        assert opened_lane.broken
        await opened_lane.close()
    finally:
        await server.stop(None)


async def test_one_lane_too_many(service: Any) -> None:
    """A client is told before it has a lane; other daemons still find room."""
    async with serving(service, lanes_max=2, lanes_of_daemons=1) as (server, address):
        first = await opened(address)
        await first.call("echo", b"", deadline=Deadline(10))
        with pytest.raises(ResourceExhausted, match="1 lanes") as caught:
            await opened(address)
        assert caught.value.retryable
        daemon = await GrpcConnector(role="storaged").open(address, cluster=b"", deadline=Deadline(10))
        await daemon.call("echo", b"", deadline=Deadline(10))
        with pytest.raises(ResourceExhausted, match="2 lanes"):
            await GrpcConnector(role="storaged").open(address, cluster=b"", deadline=Deadline(10))
        assert server.lanes == 2
        await first.close()
        await daemon.close()


async def test_the_budget_of_a_server_is_shared_by_its_lanes(service: Any) -> None:
    async with serving(service, budget=3 * MIB) as (server, address):
        lanes = [await opened(address), await opened(address)]
        held = asyncio.ensure_future(lanes[0].call("wait", b"", [bytes(2 * MIB)], deadline=Deadline(20)))
        await service.started.acquire()
        with pytest.raises(ResourceExhausted) as caught:
            await lanes[1].call("size", b"", [bytes(2 * MIB)], deadline=Deadline(10))
        assert caught.value.retryable
        service.go.set()
        await held
        assert (await lanes[1].call("size", b"", [bytes(2 * MIB)], deadline=Deadline(10))).header == b"2097152"
        for lane in lanes:
            await lane.close()
        assert server.budget.left == 3 * MIB


async def test_a_taken_port_has_a_name(service: Any) -> None:
    async with serving(service) as (_, address):
        with pytest.raises(AlreadyExists) as caught:
            await GrpcServer(service, address).start()
        assert caught.value.where == address
    for bind in ("nonsense", "127.0.0.1:99999", "127.0.0.1:", "no.such.host.invalid:0"):
        with pytest.raises(InvalidArgument):
            await GrpcServer(service, bind).start()


async def test_unix_sockets(service: Any, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    server = GrpcServer(service, address)
    assert await server.start() == 0
    with pytest.raises(AlreadyExists):
        await GrpcServer(service, address).start()
    lane = await opened(address)
    assert (await lane.call("echo", b"hi", deadline=Deadline(10))).header == b"hi"
    await lane.close()
    await server.stop()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{tmp_path}/s")
    server = GrpcServer(service, address)  # what a killed server leaves behind is no obstacle
    await server.start()
    await server.stop()


async def test_a_file_at_the_path_of_a_socket_is_not_touched(service: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(AlreadyExists):
        await GrpcServer(service, f"unix:{path}").start()
    assert path.read_text() == "mine"


async def test_a_proxy_in_the_environment_is_not_used(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(service) as (_, address):
        await (await opened(address)).close()


async def test_stopping_with_grace_answers_what_runs(service: Any) -> None:
    server = GrpcServer(service)
    address = f"127.0.0.1:{await server.start()}"
    lane = await opened(address)
    idle = await opened(address)
    await idle.call("echo", b"", deadline=Deadline(10))
    held = asyncio.ensure_future(lane.call("wait", b"held", deadline=Deadline(20)))
    await service.started.acquire()
    stopping = asyncio.ensure_future(server.stop(20))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as caught:
        await lane.call("echo", b"", deadline=Deadline(10))
    assert not caught.value.maybe_applied
    service.go.set()
    assert (await held).header == b"held"
    async with asyncio.timeout(10):
        await stopping
    await lane.close()
    await idle.close()


async def test_tls_both_ways(service: Any, certificates: Path) -> None:
    at = certificates
    server_tls = tls_from(at / "ca.pem", at / "server.pem", at / "server.key")
    async with serving(service, tls=server_tls) as (_, address):
        client = GrpcConnector(tls=tls_from(at / "ca.pem", at / "client.pem", at / "client.key"))
        lane = await opened(address, connector=client)
        assert (await lane.call("echo", b"secret", deadline=Deadline(10))).header == b"secret"
        await lane.close()
        for refused in (
            None,  # no TLS at all
            TlsConfig(ca=at / "ca.pem"),  # no certificate
            TlsConfig(at / "stranger.pem", at / "client.pem", at / "client.key"),  # does not know the server
        ):
            with pytest.raises((WrongProtocol, Unavailable, DeadlineExceeded)):
                await opened(address, 3, GrpcConnector(tls=refused))
    async with serving(service) as (_, address):
        with pytest.raises((WrongProtocol, Unavailable)):
            await opened(address, 3, client)


async def test_tls_files_that_cannot_be_used(service: Any, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no PEM")
    for ca in (tmp_path / "missing", tmp_path / "x"):
        with pytest.raises(InvalidArgument):
            GrpcConnector(tls=TlsConfig(ca=ca))
    with pytest.raises(InvalidArgument):
        TlsConfig(cert=tmp_path / "x")
    (tmp_path / "ca").write_text("-----BEGIN CERTIFICATE-----")
    with pytest.raises(InvalidArgument):
        GrpcServer(service, tls=TlsConfig(ca=tmp_path / "ca"))
    assert tls_from(None, None, None) is None


def test_every_error_has_a_status() -> None:
    for cls in statuses.TO_STATUS:
        assert statuses.status_of(cls("x")) is statuses.TO_STATUS[cls]
    assert statuses.status_of(AlreadyExists("x")) is grpc.StatusCode.UNKNOWN
    assert set(statuses.TO_STATUS.values()) <= set(statuses.FROM_STATUS)
