"""Framed streams, the caller's side: from what a daemon offered in its hello to a connection that it answered on."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final

from reedbed.common import logs
from reedbed.common.clock import Deadline
from reedbed.common.errors import Corrupt, InvalidArgument
from reedbed.transport.greeting import Offer
from reedbed.transport.streams import ANSWER, Stream, greeting, ticket_of
from reedbed.transport.tls import TlsConfig

log = logs.get("transport")

CONNECT_S: Final = 2.0  # a stream that is not there by then is done without: some networks only pass gRPC
_LOCAL: Final = ("127.", "[::1]", "localhost")


async def open_stream(
    address: str, offer: Offer, context: ssl.SSLContext | None, name: str, deadline: Deadline
) -> Stream | None:
    """A stream to the daemon at `address` that made the offer; None where none of its streams can be had.

    `name`: what its certificate is checked against.
    """
    limit = deadline.within(CONNECT_S)
    for where in offer.streams:
        if not fits(where, address, offer.port):
            continue
        try:
            stream = await asyncio.wait_for(_open(address, where, offer.ticket, context, name), limit.left())
        except (OSError, TimeoutError, ValueError, OverflowError, Corrupt) as error:
            log.debug("no framed stream to %s at %s: %s", address, where, error)
            continue
        if stream is not None:
            return stream
    return None


def fits(where: str, address: str, port: int) -> bool:
    """Whether an offered place is for whoever reached the daemon, whose port is `port`, at this address."""
    if not where.startswith((":", "@")):
        return True
    # by another port it was reached through a proxy or a port mapping, which the stream's port need not have
    straight = address.rpartition(":")[2] == str(port)
    return straight and (where.startswith(":") or address.startswith(_LOCAL))


async def _open(address: str, where: str, ticket: bytes, context: ssl.SSLContext | None, name: str) -> Stream | None:
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()

    def greeted(_: Stream, data: bytes) -> None:
        if not answered.done():
            answered.set_result(data)

    def made() -> Stream:
        return Stream(ANSWER, greeted)

    server_name = name if context is not None else None
    if where.startswith(("@", "unix:")):
        sock = socket.socket(socket.AF_UNIX)  # by hand, since uvloop knows no abstract names
        try:
            sock.setblocking(False)
            path = "\0" + where[1:] if where.startswith("@") else where.removeprefix("unix:")
            await loop.sock_connect(sock, path)
            _, stream = await loop.create_unix_connection(made, sock=sock, ssl=context, server_hostname=server_name)
        except BaseException:
            sock.close()
            raise
    else:
        host, _, port = where.rpartition(":")
        host = host or address.rpartition(":")[0]
        _, stream = await loop.create_connection(
            made, host.strip("[]"), int(port), ssl=context, server_hostname=server_name
        )
    try:
        stream.send(greeting(ticket))
        data = await answered
        if data and ticket_of(data) == b"":
            return stream
    except BaseException:
        stream.abort()
        raise
    stream.abort()
    return None


def client_context(tls: TlsConfig) -> ssl.SSLContext:
    """What a caller's streams are secured with. InvalidArgument for files that do not fit."""
    tls.read()
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except (ssl.SSLError, OSError) as error:
        raise InvalidArgument(f"the TLS files do not fit: {error}", where=str(tls.cert or tls.ca)) from None
    return context
