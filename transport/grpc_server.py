"""Lanes over gRPC, the daemon's side.

gRPC's server for asyncio stops serving for good when a call comes in whose method is not UTF-8, which one altered byte
can do to any client's request. So it is watched, and another one takes its place at the same port.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from reedbed.common import limits, logs
from reedbed.common.checksums import Buffer
from reedbed.common.clock import Clock, Deadline, SystemClock
from reedbed.common.errors import (
    AlreadyExists,
    Corrupt,
    InvalidArgument,
    ReedbedError,
    ResourceExhausted,
    Unavailable,
    WrongCluster,
    WrongProtocol,
)
from reedbed.protos import lane_pb2
from reedbed.protos.convert import parse
from reedbed.transport.buffers import Buffers
from reedbed.transport.ends import PumpMaker, ServerEnd, Wire
from reedbed.transport.greeting import hello_bytes
from reedbed.transport.grpc_client import KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS, SERVICE
from reedbed.transport.lane import Service
from reedbed.transport.mux_server import Budget
from reedbed.transport.statuses import status_of
from reedbed.transport.stream_server import StreamListener, Streams
from reedbed.transport.streams import VERSION, Stream
from reedbed.transport.sums import check_seal
from reedbed.transport.tls import TlsConfig

log = logs.get("transport")

BUDGET: Final = 512 * limits.MIB  # of requests and replies that all lanes hold in memory

BUFFERS: Final = 64 * limits.MIB  # that are kept for the payloads of requests, those in use among them
_DRAIN_S: Final = 0.02  # between two looks at whether framed streams have been drained
_WATCH_S: Final = 0.25  # between two looks at whether gRPC still serves

_AHEAD: Final = 4 * limits.MIB  # of a lane that gRPC takes in before we read it

_Context = grpc.aio.ServicerContext[Any, Any]

SERVER_OPTIONS: Final[list[tuple[str, Any]]] = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_send_message_length", limits.MESSAGE_MAX),
    ("grpc.max_receive_message_length", limits.MESSAGE_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # a minute otherwise, whatever the line above says
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.bdp_probe", 0),  # else each lane may hold tens of megabytes that were not read yet
    ("grpc.http2.lookahead_bytes", _AHEAD),
]


class GrpcServer:
    """Serves one service at one address."""

    def __init__(
        self,
        service: Service,
        bind: str = "127.0.0.1:0",
        *,
        tls: TlsConfig | None = None,
        lanes_max: int = limits.LANES_MAX,
        lanes_of_daemons: int = limits.LANES_OF_DAEMONS,
        budget: int = BUDGET,
        clock: Clock | None = None,
        streams: Streams | None = None,
    ) -> None:
        """`bind` is HOST:PORT (0: the system chooses) or unix:PATH. `budget` in bytes. `lanes_of_daemons`: of
        `lanes_max`, not for clients. `streams`: framed streams are offered as well.

        InvalidArgument for TLS files that cannot be read or a certificate that is missing.
        """
        self._service = service
        self._bind = bind
        self._lanes_max = lanes_max
        self._clients_max = lanes_max - lanes_of_daemons
        self._budget = Budget(budget)
        self._clock = clock or SystemClock()
        self._ends: set[ServerEnd] = set()
        self._framed_ends = 0
        self._port = 0
        self._draining = False
        self._server: grpc.aio.Server | None = None
        self._watching: asyncio.Task[None] | None = None
        self._listener: StreamListener | None = None
        if streams is not None:
            self._listener = StreamListener(streams, bind, self._clock, tls)
        self._buffers = Buffers(BUFFERS)
        self._credentials: grpc.ServerCredentials | None = None
        if tls is not None:
            ca, cert, key = tls.read()
            if cert is None or key is None:
                raise InvalidArgument("a server with TLS needs a certificate and its key")
            self._credentials = grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=ca is not None)

    @property
    def lanes(self) -> int:
        """Lanes that are open."""
        return len(self._ends)

    @property
    def budget(self) -> Budget:
        return self._budget

    async def start(self) -> int:
        """Listens; returns the port (0 with unix:PATH).

        AlreadyExists if the address is taken, InvalidArgument if it is none of this machine's or no address.
        """
        check_free(self._bind)
        self._server, port = await self._listen(self._bind)
        self._port = port
        if port:  # whoever takes its place listens at the same one
            self._bind = f"{self._bind.rpartition(':')[0]}:{port}"
        if self._listener is not None:
            try:
                await self._listener.start(self._framed)
            except ReedbedError:
                await _end(self._server, None)
                raise
        self._watching = asyncio.create_task(self._watch())
        return port

    async def _listen(self, bind: str) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    SERVICE,
                    {
                        "Hello": grpc.unary_unary_rpc_method_handler(self._hello),
                        "Lane": grpc.stream_stream_rpc_method_handler(self._lane),
                    },
                ),
            )
        )
        try:
            if self._credentials is None:
                port = server.add_insecure_port(bind)
            else:
                port = server.add_secure_port(bind, self._credentials)
        except RuntimeError as error:
            await server.stop(None)
            text = str(error)
            raise AlreadyExists(
                f"cannot listen: {text[:200]}", where=bind, hint="Choose another port, or stop who listens there"
            ) from None
        await server.start()
        return server, 0 if bind.startswith("unix:") else port

    async def _watch(self) -> None:
        """Starts another server whenever gRPC's has ended by itself."""
        while True:
            server = self._server
            try:
                if server is None:
                    await asyncio.sleep(_WATCH_S)
                    self._server, _ = await self._listen(self._bind)
                elif not await server.wait_for_termination(_WATCH_S):
                    self._server = None
            except AlreadyExists as error:
                log.warning("%s", error)  # and tried again
            except Exception as error:  # whatever gRPC's loop died of
                log.exception("gRPC stopped serving, and is started anew", exc_info=error)
                self._server = None
                if server is not None:
                    await _end(server, None)

    async def stop(self, grace: float | None = None) -> None:
        """Takes no new lanes and calls, gives those under way up to `grace` seconds to be answered, and ends all."""
        if self._watching is None:
            return
        watching, self._watching = self._watching, None
        self._draining = True
        if self._listener is not None:
            self._listener.pause()
        if grace:
            for end in self._ends:
                end.drain()
            deadline = Deadline(grace, self._clock)
            while self._framed_ends and deadline.left():  # noqa: ASYNC110  one wait of a daemon's life
                await asyncio.sleep(_DRAIN_S)
        if self._listener is not None:
            await self._listener.stop()
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        server, self._server = self._server, None
        if server is not None:
            await _end(server, grace)

    async def _hello(self, data: bytes, context: _Context) -> bytes:
        hello = self._service.hello()
        try:
            check_seal(data)
            request = parse(lane_pb2.HelloRequest, data)
        except (Corrupt, InvalidArgument) as error:
            await _abort(context, error)
        if request.protocol != limits.PROTOCOL_VERSION:
            await _abort(context, WrongProtocol(f"this daemon speaks protocol {hello.protocol}"))
        if request.cluster and request.cluster != hello.cluster:
            await _abort(context, WrongCluster(f"this daemon belongs to cluster {hello.cluster.hex() or 'none'}"))
        # said here, and not at the lane, where gRPC may lose the reason
        if len(self._ends) >= (self._lanes_max if request.role else self._clients_max):
            await _abort(context, self._full())
        if self._listener is not None and request.streams == VERSION and not self._draining:
            return hello_bytes(hello, self._listener.offer(self._port))
        return hello_bytes(hello)

    async def _lane(self, _requests: object, context: _Context) -> None:
        if self._draining:
            await _abort(context, Unavailable("this daemon is stopping"))
        if len(self._ends) >= self._lanes_max:
            await _abort(context, self._full())
        end = self._end(_ContextWire(context))
        self._ends.add(end)
        try:
            await end.run()
        except ReedbedError as error:
            log.warning("a lane from %s ended: %s", context.peer(), error)
            await _abort(context, error)
        finally:
            self._ends.discard(end)

    async def _framed(self, stream: Stream) -> None:
        """Serves a lane over a framed stream."""
        if self._draining or len(self._ends) >= self._lanes_max:
            stream.abort()
            return
        end = self._end(stream)
        self._ends.add(end)
        self._framed_ends += 1
        try:
            await end.run()
        except ReedbedError as error:
            log.warning("a framed stream ended: %s", error)
        finally:
            self._ends.discard(end)
            self._framed_ends -= 1

    def _end(self, wire: Wire | PumpMaker) -> ServerEnd:
        return ServerEnd(wire, self._service, clock=self._clock, budget=self._budget, buffers=self._buffers)

    def _full(self) -> ResourceExhausted:
        return ResourceExhausted(f"{len(self._ends)} lanes are open at this daemon, and it takes no more")


class _ContextWire:
    """A wire (see ends.py) of a server's stream."""

    def __init__(self, context: _Context) -> None:
        self._context = context

    async def read(self) -> bytes | None:
        data = await self._context.read()
        return data if isinstance(data, bytes) else None

    async def write(self, parts: list[Buffer]) -> None:
        try:
            await self._context.write(b"".join(parts))
        except grpc.aio.BaseError:
            raise Unavailable("the client has ended the lane") from None


async def _end(server: grpc.aio.Server, grace: float | None) -> None:
    """Stops gRPC's server; one that has died raises once more what it died of, and can be stopped after that."""
    try:
        await server.stop(grace)
    except Exception:
        log.exception("gRPC had stopped serving")
        await server.stop(None)


async def _abort(context: _Context, error: ReedbedError) -> NoReturn:
    """Ends the call with the status of the error; does not return."""
    await context.abort(status_of(error), str(error)[:1000])
    raise AssertionError("abort returned")


def check_free(bind: str) -> None:
    """Finds out by name what gRPC only says as a failure: AlreadyExists for an address that is taken, InvalidArgument
    for one that is none of ours."""
    if bind.startswith("unix:"):
        _check_free_path(bind.removeprefix("unix:"))
        return
    host, colon, port = bind.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise InvalidArgument(f"not an address to listen at: {bind!r}", hint="It reads HOST:PORT or unix:PATH")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise InvalidArgument(f"unknown host: {error.strerror}", where=bind) from None
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError:
            raise InvalidArgument("this user may not listen at that port", where=bind) from None
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise InvalidArgument("no address of this machine", where=bind, hint="Check --host") from None
            hint = "Choose another port, or stop who listens there"
            raise AlreadyExists(f"cannot listen: {error.strerror}", where=bind, hint=hint) from None


def _check_free_path(path: str) -> None:
    """gRPC takes the path of any socket from whoever listens there: only one that nobody answers at may be taken."""
    if not os.path.lexists(path):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                return
        except OSError:
            pass  # no socket, or one that we cannot judge: it stays
    hint = "Choose another path, or stop who listens there"
    raise AlreadyExists("cannot listen: the path is taken", where=path, hint=hint)
