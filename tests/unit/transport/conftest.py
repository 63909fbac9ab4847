"""A service with what the conformance tests need, and every kind of lane to it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pytest
import uvloop

from reedbed.common.clock import Deadline
from reedbed.common.errors import NotFound, ReedbedError
from reedbed.common.limits import CALLS_MAX, PAYLOAD_MAX, PROTOCOL_VERSION, WINDOW
from reedbed.transport.ends import MuxLane
from reedbed.transport.grpc_client import GrpcConnector
from reedbed.transport.grpc_server import GrpcServer
from reedbed.transport.inprocess import InProcessNetwork
from reedbed.transport.lane import Hello, Request, Response
from reedbed.transport.service import Router
from reedbed.transport.stream_server import Streams
from reedbed.transport.streams import Stream

CLUSTER = b"c" * 16


class EchoService:
    """Methods that answer, fail, and wait until they are told to go on."""

    def __init__(self) -> None:
        self.told = Hello(CLUSTER, 7, 3, "storaged", "test", PROTOCOL_VERSION, WINDOW, CALLS_MAX, PAYLOAD_MAX)
        self.epoch, self.term = 7, 3
        self.go = asyncio.Event()
        self.started = asyncio.Semaphore(0)
        self.cancelled = asyncio.Semaphore(0)
        self.running = 0
        self.most_running = 0
        self.calls: list[str] = []
        self.last: Request | None = None
        self._router = Router(
            {
                "echo": self._echo,
                "size": self._size,
                "make": self._make,
                "fail": self._fail,
                "bug": self._bug,
                "wait": self._wait,
                "too-much": self._too_much,
            }
        )

    def hello(self) -> Hello:
        return self.told

    def limit(self, **changes: int) -> None:
        """Changes what the hello says."""
        self.told = replace(self.told, **changes)  # type: ignore[arg-type]

    def position(self) -> tuple[int, int]:
        return self.epoch, self.term

    async def handle(self, request: Request) -> Response:
        self.calls.append(request.method)
        self.last = request
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._router.handle(request)
        finally:
            self.running -= 1

    async def _echo(self, request: Request) -> Response:
        return Response(request.header, request.payload)

    async def _size(self, request: Request) -> Response:
        await asyncio.sleep(0)
        return Response(b"%d" % sum(map(len, request.payload)))

    async def _make(self, request: Request) -> Response:
        return Response(b"made", [bytes(int(request.header))])

    async def _fail(self, request: Request) -> Response:
        raise NotFound("no such thing", where="here", hint="Look elsewhere")

    async def _bug(self, request: Request) -> Response:
        raise ZeroDivisionError("secret")

    async def _wait(self, request: Request) -> Response:
        self.started.release()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        return Response(request.header, request.payload)

    async def _too_much(self, request: Request) -> Response:
        return Response(b"", [bytes(PAYLOAD_MAX), b"x"])


class Kind(Protocol):
    """One kind of lane, with a server for it."""

    async def serve(self, service: EchoService) -> str:
        """Starts a server; returns its address."""
        ...

    async def open(self, address: str, cluster: bytes = CLUSTER) -> MuxLane: ...

    async def stop(self) -> None:
        """The server ends at once."""
        ...

    async def restart(self, service: EchoService) -> None:
        """A server at the address of the one that was stopped."""
        ...


class InProcessKind:
    def __init__(self) -> None:
        self.connector = InProcessNetwork()

    async def serve(self, service: EchoService) -> str:
        self.connector.serve("daemon", service)
        return "daemon"

    async def open(self, address: str, cluster: bytes = CLUSTER) -> MuxLane:
        return await self.connector.open(address, cluster=cluster, deadline=Deadline(10))

    async def stop(self) -> None:
        await self.connector.close()

    async def restart(self, service: EchoService) -> None:
        await self.serve(service)


class GrpcKind:
    streams: Streams | None = Streams()  # the connector does not ask for them

    def __init__(self) -> None:
        self.connector = GrpcConnector(streams=False)
        self._server: GrpcServer | None = None
        self._port = 0

    async def serve(self, service: EchoService) -> str:
        self._server = GrpcServer(service, f"127.0.0.1:{self._port}", streams=self.streams)
        self._port = await self._server.start()
        return f"127.0.0.1:{self._port}"

    async def open(self, address: str, cluster: bytes = CLUSTER) -> MuxLane:
        return await self.connector.open(address, cluster=cluster, deadline=Deadline(10))

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()

    async def restart(self, service: EchoService) -> None:
        await self.serve(service)


class StreamKind(GrpcKind):
    """Framed streams, agreed on over gRPC: over TCP, or within this machine."""

    streams = Streams(local=False)
    uvloop = False

    def __init__(self) -> None:
        super().__init__()
        self.connector = GrpcConnector()

    async def open(self, address: str, cluster: bytes = CLUSTER) -> MuxLane:
        lane = await super().open(address, cluster)
        assert isinstance(lane._pump, Stream)
        transport = lane._pump._transport
        assert transport is not None
        assert (transport.get_extra_info("socket").family == socket.AF_UNIX) is self.uvloop
        return lane


class LocalStreamKind(StreamKind):
    """In uvloop, as daemons and synchronous stores are."""

    streams = Streams()
    uvloop = True


@dataclass
class Pair:
    """A lane and the service at its other end."""

    lane: MuxLane
    service: EchoService
    kind: Kind
    address: str

    async def call(
        self,
        method: str,
        header: bytes = b"",
        *payload: bytes | bytearray | memoryview,
        timeout: float | None = 20,
        into: memoryview | None = None,
    ) -> tuple[bytes, bytes]:
        """Header and payload of the answer."""
        reply = await self.lane.call(method, header, payload, deadline=Deadline(timeout), into=into)
        return reply.header, bytes(reply.payload)

    async def error(self, method: str, header: bytes = b"", timeout: float | None = 20) -> ReedbedError:
        """The error that the call gives."""
        with pytest.raises(ReedbedError) as caught:
            await self.call(method, header, timeout=timeout)
        return caught.value


@pytest.fixture(
    params=[InProcessKind, GrpcKind, StreamKind, LocalStreamKind], ids=["inprocess", "grpc", "stream", "local-stream"]
)
async def kind(request: pytest.FixtureRequest) -> AsyncIterator[Kind]:
    """Add a kind of lane here, and all conformance tests run over it."""
    made: Kind = request.param()
    yield made
    await made.stop()


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Conformance tests come in both loops; the rest needs but one."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name == "test_lane_conformance.py":
        loops["uvloop"] = uvloop.new_event_loop
    return loops


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each kind of lane is tested in the loop that it is for."""
    items[:] = [
        item
        for item in items
        if not isinstance(item, pytest.Function)
        or item.path.name != "test_lane_conformance.py"
        or ("uvloop" in item.name) == ("local-stream" in item.name)
    ]


@pytest.fixture
def service_class() -> type[EchoService]:
    """For a test that makes it within a loop of its own."""
    return EchoService


@pytest.fixture
def service() -> EchoService:
    return EchoService()


@pytest.fixture
async def pair(kind: Kind, service: EchoService) -> AsyncIterator[Pair]:
    address = await kind.serve(service)
    lane = await kind.open(address)
    yield Pair(lane, service, kind, address)
    await lane.close()


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA and certificates by it for a server and a client, and a CA that nobody knows."""
    folder = tmp_path_factory.mktemp("certificates")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "stranger"):
        subject = ("-subj", f"/CN={name}", "-days", "2")
        _openssl(folder, "req", "-x509", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.pem", *subject)
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        _openssl(folder, "req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        _openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    return folder
