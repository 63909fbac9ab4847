"""Lanes over gRPC, the caller's side: one channel and one bidirectional stream a lane; or, where a daemon offers framed
streams in its hello, one of those instead."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

import grpc
import grpc.aio

from reedbed.common import limits
from reedbed.common.checksums import Buffer
from reedbed.common.clock import Deadline
from reedbed.common.errors import DeadlineExceeded, InvalidArgument, ReedbedError
from reedbed.protos import lane_pb2
from reedbed.transport.ends import MuxLane
from reedbed.transport.greeting import SOFTWARE, check_hello, offered, parse_hello
from reedbed.transport.statuses import error_from_status
from reedbed.transport.stream_client import client_context, fits, open_stream
from reedbed.transport.streams import VERSION, Stream
from reedbed.transport.sums import sealed
from reedbed.transport.tls import TlsConfig

SERVICE: Final = "reedbed.v1.Reedbed"
HELLO: Final = f"/{SERVICE}/Hello"
LANE: Final = f"/{SERVICE}/Lane"

WITHOUT_S: Final = 300.0  # a daemon whose streams could not be had is not asked for one again so soon
_WITHOUT_MAX: Final = 10_000  # addresses

KEEPALIVE_MS: Final = 10_000
KEEPALIVE_TIMEOUT_MS: Final = 5_000

CLIENT_OPTIONS: Final[list[tuple[str, Any]]] = [
    ("grpc.max_send_message_length", limits.MESSAGE_MAX),
    ("grpc.max_receive_message_length", limits.MESSAGE_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # a minute otherwise, whatever the line above says
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a new lane is a new connection, not one that has failed before
]


class GrpcConnector:
    """Opens lanes over gRPC (see Connector in lane.py). Reads no proxy settings from the environment."""

    def __init__(
        self, *, tls: TlsConfig | None = None, server_name: str | None = None, role: str = "", streams: bool = True
    ) -> None:
        """`server_name` is what the daemons' certificates are checked against, if not their host. `role`: of a daemon.
        `streams`: lanes are framed streams where the daemon offers them.

        InvalidArgument for TLS files that cannot be read.
        """
        self._options = list(CLIENT_OPTIONS)
        self._role = role
        self._streams = streams
        self._server_name = server_name
        self._context: ssl.SSLContext | None = None
        self._without: dict[str, float] = {}  # where streams cannot be had, by the loop's clock until when
        self._credentials: grpc.ChannelCredentials | None = None
        if tls is not None:
            ca, cert, key = tls.read()
            self._credentials = grpc.ssl_channel_credentials(ca, key, cert)
            if streams:
                self._context = client_context(tls)
            if server_name is not None:
                self._options.append(("grpc.ssl_target_name_override", server_name))

    async def open(self, address: str, *, cluster: bytes, deadline: Deadline) -> MuxLane:
        """See Connector in lane.py. PermissionDenied and ResourceExhausted where the daemon refuses us."""
        left = deadline.left()
        if left == 0.0:
            raise DeadlineExceeded("no time left to open a lane", where=address)
        if not address or any(char.isspace() for char in address):
            raise InvalidArgument(f"not an address: {address!r}", hint="An address reads HOST:PORT or unix:PATH")
        if self._credentials is None:
            channel = grpc.aio.insecure_channel(address, options=self._options)
        else:
            channel = grpc.aio.secure_channel(address, self._credentials, options=self._options)
        try:
            request = lane_pb2.HelloRequest(
                protocol=limits.PROTOCOL_VERSION,
                cluster=cluster,
                software=SOFTWARE,
                role=self._role,
                streams=VERSION if self._streams else 0,
            )
            greet: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(HELLO)
            data = await greet(sealed(request.SerializeToString()), timeout=left)
            # an answer may end well without a message
            hello = check_hello(parse_hello(data or b"", address), cluster, address)
            framed = await self._framed(address, data, deadline) if self._streams else None
            if framed is not None:
                try:
                    await channel.close()
                except BaseException:
                    framed.abort()
                    raise
                return MuxLane(hello, framed, address, framed.end)
            stream: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(LANE)()
        except grpc.aio.AioRpcError as error:
            await channel.close()
            raise error_from_status(error.code(), error.details(), address) from None
        except BaseException:
            await channel.close()
            raise
        return MuxLane(hello, _StreamWire(stream, address), address, channel.close)

    async def _framed(self, address: str, hello: bytes, deadline: Deadline) -> Stream | None:
        """A framed stream, where the daemon offers one that can be had."""
        offer = offered(hello)
        now = asyncio.get_running_loop().time()
        if not offer.streams or now < self._without.get(address, now):
            return None
        name = self._server_name or address.rpartition(":")[0].strip("[]")
        stream = await open_stream(address, offer, self._context, name, deadline)
        if stream is not None:
            self._without.pop(address, None)
        elif any(fits(where, address, offer.port) for where in offer.streams):
            if len(self._without) >= _WITHOUT_MAX:
                self._without.clear()
            self._without[address] = now + WITHOUT_S
        return stream


class _StreamWire:
    """A wire (see ends.py) of a client's stream."""

    def __init__(self, stream: grpc.aio.StreamStreamCall[bytes, bytes], address: str) -> None:
        self._stream = stream
        self._address = address

    async def read(self) -> bytes | None:
        try:
            data = await self._stream.read()
            if isinstance(data, bytes):
                return data
            code = await self._stream.code()
            if code is grpc.StatusCode.OK:
                return None
            raise error_from_status(code, await self._stream.details(), self._address)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise self._broken(error) from None

    async def write(self, parts: list[Buffer]) -> None:
        try:
            await self._stream.write(b"".join(parts))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise await self._ended(error) from None

    async def _ended(self, error: Exception) -> ReedbedError:
        if isinstance(error, grpc.aio.AioRpcError):
            return self._broken(error)
        return error_from_status(await self._stream.code(), await self._stream.details(), self._address)

    def _broken(self, error: Exception) -> ReedbedError:
        if isinstance(error, grpc.aio.AioRpcError):
            return error_from_status(error.code(), error.details(), self._address)
        return error_from_status(grpc.StatusCode.UNAVAILABLE, str(error), self._address)
