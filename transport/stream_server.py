"""Framed streams, the daemon's side: where they come in, and the tickets that let them in.

A ticket is given in the hello over gRPC, to whoever may open a lane there; it is good for one stream, and for TICKET_S.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reedbed.common import limits, logs
from reedbed.common.clock import Clock
from reedbed.common.errors import AlreadyExists, Corrupt, InvalidArgument
from reedbed.transport.greeting import Offer
from reedbed.transport.streams import GREETING, TICKET, Stream, answer, ticket_of
from reedbed.transport.tls import TlsConfig

log = logs.get("transport")

TICKET_S: Final = 10.0
GREETING_S: Final = 10.0  # a connection that has not said its greeting by then is left
_WAITING_MAX: Final = 256  # connections that have not said their greeting

Serve = Callable[[Stream], Awaitable[None]]


class Tickets:
    """Tickets that were given and not used yet."""

    def __init__(self, clock: Clock, most: int = limits.LANES_MAX) -> None:
        self._clock = clock
        self._most = most
        self._good: dict[bytes, float] = {}  # in the order of giving, so of their ends

    def give(self) -> bytes:
        """A new one. Where too many are unused the oldest is not good any more."""
        now = self._clock.monotonic()
        for ticket, until in list(self._good.items()):
            if until > now and len(self._good) < self._most:
                break
            del self._good[ticket]
        ticket = secrets.token_bytes(TICKET)
        self._good[ticket] = now + TICKET_S
        return ticket

    def take(self, ticket: bytes) -> bool:
        """Whether it is good; it is not good any more after that."""
        now = self._clock.monotonic()
        for known, until in self._good.items():
            if hmac.compare_digest(known, ticket):
                del self._good[known]
                return until > now
        return False


@dataclass(frozen=True, slots=True)
class Streams:
    """How a daemon offers framed streams, beside gRPC at its own address.

    port: of the same host, 0: the system chooses. advertise: HOST:PORT that clients are told instead, such as that of
    a proxy. local: clients on this machine may use its own unix sockets, which are faster.
    """

    port: int = 0
    advertise: str = ""
    local: bool = True


def check_advertised(address: str) -> None:
    """InvalidArgument unless it is empty or HOST:PORT."""
    host, _, port = address.rpartition(":")
    if address and not (host and port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
        raise InvalidArgument(f"not an address of framed streams: {address[:64]!r}", hint="It reads HOST:PORT")


class StreamListener:
    """Takes streams in at a TCP port, and at a name of the machine's own unix sockets, which is faster within it."""

    def __init__(self, streams: Streams, bind: str, clock: Clock, tls: TlsConfig | None = None) -> None:
        """`bind`: of gRPC, HOST:PORT or unix:PATH. InvalidArgument for TLS files that do not fit."""
        self._bind = f"{bind}.streams" if bind.startswith("unix:") else f"{bind.rpartition(':')[0]}:{streams.port}"
        self._advertise = streams.advertise
        self._local = streams.local and not bind.startswith("unix:") and not streams.advertise
        self._tickets = Tickets(clock)
        self._context = server_context(tls) if tls is not None else None
        self._tls: dict[str, Any] = {"ssl": self._context}
        if self._context is not None:
            self._tls["ssl_handshake_timeout"] = GREETING_S
        self._servers: list[asyncio.Server] = []
        self._serve: Serve | None = None
        self._waiting: dict[Stream, asyncio.TimerHandle] = {}  # who has not said the greeting, in the order of coming
        self._tasks: set[asyncio.Task[None]] = set()
        self._addresses: list[str] = []

    async def start(self, serve: Serve) -> None:
        """Listens; `serve` is run for each stream that is let in. AlreadyExists where the address is taken."""
        self._serve = serve
        loop = asyncio.get_running_loop()
        try:
            if self._bind.startswith("unix:"):
                path = self._bind.removeprefix("unix:")
                # gRPC has the name beside it, so whoever had this one is gone
                await asyncio.to_thread(Path(path).unlink, missing_ok=True)
                self._servers.append(await loop.create_unix_server(self._made, path, **self._tls))
                self._addresses = [self._bind]
                return
            host, _, port = self._bind.rpartition(":")
            server = await loop.create_server(self._made, host.strip("[]"), int(port), **self._tls)
        except OSError as error:
            raise AlreadyExists(
                f"cannot listen for framed streams: {error.strerror or error}",
                where=self._bind,
                hint="Choose another port, or stop who listens there",
            ) from None
        self._servers.append(server)
        if self._local:
            name = f"reedbed-{os.getpid()}-{secrets.token_hex(8)}"
            try:
                sock = socket.socket(socket.AF_UNIX)
                sock.bind("\0" + name)
            except OSError as error:
                log.info("no framed streams over unix sockets: %s", error)
            else:
                self._servers.append(await loop.create_unix_server(self._made, sock=sock, **self._tls))
                self._addresses.append(f"@{name}")
        self._addresses.append(self._advertise or f":{server.sockets[0].getsockname()[1]}")

    def offer(self, port: int) -> Offer:
        """Where a client may come, the best first, and its ticket. `port`: of gRPC."""
        return Offer(self._addresses, self._tickets.give(), port)

    async def stop(self) -> None:
        """Takes no more streams, and ends those that are there."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for stream in list(self._waiting):
            self._leave(stream)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def pause(self) -> None:
        """Takes no more streams."""
        for server in self._servers:
            server.close()

    def _made(self) -> Stream:
        loop = asyncio.get_running_loop()
        stream = Stream(GREETING, self._greeted)
        if len(self._waiting) >= _WAITING_MAX:
            self._leave(next(iter(self._waiting)))
        self._waiting[stream] = loop.call_later(GREETING_S, self._leave, stream)
        return stream

    def _leave(self, stream: Stream) -> None:
        """Gives up one that has not said the greeting."""
        self._waiting.pop(stream).cancel()
        stream.abort()

    def _greeted(self, stream: Stream, data: bytes) -> None:
        timer = self._waiting.pop(stream, None)
        if timer is None:
            return
        timer.cancel()
        try:
            good = bool(data) and self._tickets.take(ticket_of(data))
        except Corrupt:
            good = False
        if not good or self._serve is None:
            if data:
                log.warning("a framed stream without a ticket was refused")
            stream.abort()
            return
        stream.send(answer())
        task = asyncio.ensure_future(self._serve(stream))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a framed stream ended unexpectedly", exc_info=error)


def server_context(tls: TlsConfig) -> ssl.SSLContext:
    """What a daemon's streams are secured with. InvalidArgument for files that do not fit."""
    tls.read()
    if tls.cert is None or tls.key is None:
        raise InvalidArgument("a server with TLS needs a certificate and its key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.cert, tls.key)
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (ssl.SSLError, OSError) as error:
        raise InvalidArgument(f"the TLS files do not fit: {error}", where=str(tls.cert)) from None
    return context
