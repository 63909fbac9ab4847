"""What only framed streams have: who is let in, what is fallen back on, garbage, and bytes in odd portions."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from reedbed_faults.proxy import FaultyProxy, split

from reedbed.common.clock import Deadline, ManualClock
from reedbed.common.errors import Corrupt, DeadlineExceeded, InvalidArgument, Unavailable
from reedbed.common.limits import KIB, MIB
from reedbed.transport import frames, stream_client, streams
from reedbed.transport.buffers import Buffers
from reedbed.transport.ends import MuxLane
from reedbed.transport.frames import Frame
from reedbed.transport.grpc_client import GrpcConnector
from reedbed.transport.grpc_server import GrpcServer
from reedbed.transport.lane import Answer, Hello, Request, Response
from reedbed.transport.stream_client import fits, open_stream
from reedbed.transport.stream_frames import HEAD, Head, encode
from reedbed.transport.stream_server import TICKET_S, StreamListener, Streams, Tickets, check_advertised
from reedbed.transport.streams import ANSWER, GREETING, TICKET, Stream, answer, greeting, ticket_of
from reedbed.transport.tls import TlsConfig, tls_from

CLUSTER = b"c" * 16


@asynccontextmanager
async def serving(service: Any, **options: Any) -> AsyncIterator[tuple[GrpcServer, str]]:
    options.setdefault("streams", Streams(local=False))
    server = GrpcServer(service, **options)
    address = f"127.0.0.1:{await server.start()}"
    try:
        yield server, address
    finally:
        await server.stop()


async def opened(address: str, connector: GrpcConnector | None = None, seconds: float = 10) -> MuxLane:
    return await (connector or GrpcConnector()).open(address, cluster=CLUSTER, deadline=Deadline(seconds))


def listener_of(server: GrpcServer) -> StreamListener:
    assert server._listener is not None
    return server._listener


def stream_address(server: GrpcServer) -> tuple[str, int]:
    return "127.0.0.1", int(listener_of(server)._addresses[-1].rpartition(":")[2])


async def echo(lane: MuxLane, text: bytes = b"hi") -> bool:
    return (await lane.call("echo", text, [text], deadline=Deadline(10))).header == text


def is_framed(lane: MuxLane) -> bool:
    return isinstance(lane._pump, Stream)


# --- the greeting ---


def test_a_greeting_names_its_ticket() -> None:
    ticket = bytes(range(TICKET))
    data = greeting(ticket)
    assert (len(data), len(answer())) == (GREETING, ANSWER)
    assert (ticket_of(data), ticket_of(answer())) == (ticket, b"")
    for at in range(len(data)):
        altered = bytearray(data)
        altered[at] ^= 1
        with pytest.raises(Corrupt):
            ticket_of(bytes(altered))


def test_a_ticket_is_good_once_and_not_for_long() -> None:
    clock = ManualClock()
    tickets = Tickets(clock, most=3)
    first = tickets.give()
    assert tickets.take(first)
    assert not tickets.take(first)
    late = tickets.give()
    clock.advance(TICKET_S + 1)
    assert not tickets.take(late)
    many = [tickets.give() for _ in range(4)]
    assert [tickets.take(ticket) for ticket in many] == [False, True, True, True]
    assert not tickets.take(bytes(TICKET))


async def test_nobody_is_let_in_without_a_ticket(service: Any) -> None:
    async with serving(service) as (server, address):
        for data in (greeting(bytes(TICKET)), b"GET / HTTP/1.1\r\n" * 10, bytes(GREETING)):
            reader, writer = await asyncio.open_connection(*stream_address(server))
            writer.write(data)
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionResetError):  # what it did not read
                    assert not await reader.read()
            writer.close()
        assert server.lanes == 0
        offer = listener_of(server).offer(int(address.rpartition(":")[2]))
        stream = await open_stream(address, offer, None, "", Deadline(10))
        assert stream is not None
        assert await open_stream(address, offer, None, "", Deadline(10)) is None  # the same ticket again
        await stream.end()


async def test_a_connection_that_says_nothing_is_left(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reedbed.transport.stream_server.GREETING_S", 0.05)
    async with serving(service) as (server, _):
        reader, writer = await asyncio.open_connection(*stream_address(server))
        async with asyncio.timeout(10):
            assert not await reader.read()
        writer.close()


# --- what is fallen back on ---


@pytest.mark.parametrize(
    ("where", "address", "fitting"),
    [
        (":5", "node1:7300", True),
        (":5", "node1:9999", False),  # by way of a proxy: its host need not pass the other port
        ("@name", "127.0.0.1:7300", True),
        ("@name", "localhost:7300", True),
        ("@name", "127.0.0.1:9999", False),
        ("@name", "node1:7300", False),
        ("proxy:5", "node1:9999", True),
        ("unix:/s.streams", "unix:/s", True),
    ],
)
def test_which_offers_are_taken(where: str, address: str, fitting: bool) -> None:
    assert fits(where, address, 7300) is fitting


async def test_grpc_where_streams_are_not_offered_or_not_wanted(service: Any) -> None:
    async with serving(service, streams=None) as (_, address):
        lane = await opened(address)
        assert not is_framed(lane)
        assert await echo(lane)
        await lane.close()
    async with serving(service) as (_, address):
        lane = await opened(address, GrpcConnector(streams=False))
        assert not is_framed(lane)
        assert await echo(lane)
        await lane.close()


async def test_grpc_where_the_stream_does_not_come_to_be(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_client, "CONNECT_S", 0.2)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    nobody = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = nobody.sockets[0].getsockname()[1]
    for advertise in (f"127.0.0.1:{port}", "127.0.0.1:1"):
        async with serving(service, streams=Streams(advertise=advertise)) as (_, address):
            lane = await opened(address)
            assert not is_framed(lane)
            assert await echo(lane)
            await lane.close()
    nobody.close()


async def test_a_stream_at_the_address_that_is_advertised(service: Any) -> None:
    proxy = FaultyProxy(("", 0), http2=False)
    await proxy.start()
    async with serving(service, streams=Streams(advertise=proxy.address)) as (server, address):
        proxy.target = split(f"127.0.0.1:{listener_of(server)._servers[0].sockets[0].getsockname()[1]}")
        lane = await opened(address)
        assert is_framed(lane)
        assert await echo(lane)
        assert proxy.connections == 1
        await lane.close()
    await proxy.stop()
    with pytest.raises(InvalidArgument):
        check_advertised("nonsense")


async def test_a_lane_is_broken_when_its_connection_is(service: Any) -> None:
    proxy = FaultyProxy(("", 0), http2=False)
    await proxy.start()
    async with serving(service, streams=Streams(advertise=proxy.address)) as (server, address):
        proxy.target = split(f"127.0.0.1:{listener_of(server)._servers[0].sockets[0].getsockname()[1]}")
        lane = await opened(address)
        call = asyncio.ensure_future(lane.call("wait", b"", deadline=Deadline(10)))
        await service.started.acquire()
        proxy.cut()
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.maybe_applied
        async with asyncio.timeout(10):
            await service.cancelled.acquire()
        await lane.close()

        lane = await opened(address)
        assert await echo(lane)
        proxy.flip_every = 20
        with pytest.raises((Corrupt, Unavailable, DeadlineExceeded)):  # noqa: PT012  one of many
            for _ in range(50):
                await lane.call("echo", bytes(100), deadline=Deadline(3))
        await lane.close()
    await proxy.stop()


async def test_unix_sockets(service: Any, tmp_path: Path) -> None:
    for _ in range(2):  # what a server that was killed leaves behind is no obstacle
        address = f"unix:{tmp_path}/s"
        server = GrpcServer(service, address, streams=Streams())
        await server.start()
        lane = await opened(address)
        assert is_framed(lane)
        assert await echo(lane)
        await lane.close()
        await server.stop()
        (tmp_path / "s.streams").touch()


async def test_tls(service: Any, certificates: Path) -> None:
    at = certificates
    tls = tls_from(at / "ca.pem", at / "server.pem", at / "server.key")
    client = GrpcConnector(tls=tls_from(at / "ca.pem", at / "client.pem", at / "client.key"))
    for local in (False, True):
        async with serving(service, tls=tls, streams=Streams(local=local)) as (server, address):
            lane = await opened(address, client)
            assert is_framed(lane)
            assert lane._pump._transport.get_extra_info("ssl_object") is not None  # type: ignore[attr-defined]
            data = random.Random(1).randbytes(3 * MIB)
            reply = await lane.call("echo", b"secret", [data], deadline=Deadline(20))
            assert (reply.header, reply.payload) == (b"secret", data)
            # a stream takes only whom the CA knows, whatever ticket there is
            offer = listener_of(server).offer(int(address.rpartition(":")[2]))
            context = stream_client.client_context(TlsConfig(ca=at / "ca.pem"))
            assert await open_stream(address, offer, context, "127.0.0.1", Deadline(5)) is None
            assert await open_stream(address, offer, None, "", Deadline(5)) is None
            await lane.close()


# --- bytes ---


async def test_garbage_ends_the_stream_and_nothing_else(service: Any) -> None:
    async with serving(service) as (server, address):
        good = await opened(address)
        for garbage in (b"\xff" * 100, b"".join(encode([Frame(frames.CANCEL, 1)]))[:-1] + b"\x01", bytes(1000)):
            offer = listener_of(server).offer(int(address.rpartition(":")[2]))
            reader, writer = await asyncio.open_connection(*stream_address(server))
            writer.write(greeting(offer.ticket) + garbage)
            async with asyncio.timeout(10):
                assert await reader.read() == answer()
            writer.close()
        assert await echo(good)
        assert server.lanes == 1
        await good.close()


@pytest.mark.parametrize("portion", [1, 7, 1000, 70 * KIB])
async def test_bytes_may_come_in_any_portions(service: Any, portion: int) -> None:
    """What a client says, cut anywhere: into a stream's buffer as much as fits, as the system would."""
    rng = random.Random(portion)
    data = rng.randbytes(200 * KIB)
    raw = b"".join(
        bytes(part)
        for part in encode(
            [
                Frame(frames.OPEN, payload_length=64 * MIB),
                Frame(frames.REQUEST, 1, "echo", bytes(300 * KIB), [b"small"], payload_length=5),
                Frame(frames.REQUEST, 2, "size", b"", payload_length=len(data)),
                Frame(frames.CHUNK, 2, payload=[memoryview(data)[: 100 * KIB]]),
                Frame(frames.REQUEST, 3, "echo", b"between"),
                Frame(frames.CHUNK, 99, payload=[memoryview(data)[: 80 * KIB]]),  # of a call that is gone
                Frame(frames.CHUNK, 2, payload=[memoryview(data)[100 * KIB :]]),
                Frame(frames.REQUEST, 4, "echo", b"last"),
            ]
        )
    )
    if portion == 1:
        raw = raw[:500]  # enough of it, byte by byte
    seen: list[tuple[int, int]] = []
    held: dict[int, bytearray] = {}

    class Mux:
        pending = owing = congested = False
        busy = 0

        def place(self, call: int, size: int) -> streams.Place | None:
            if call == 99:
                return None
            whole = held.setdefault(call, bytearray())
            whole += bytes(size)
            return streams.Place(memoryview(bytes(0)) if not size else memoryview(bytearray(size)))

    stream = Stream(0, lambda *_: None)
    stream._greeted = None
    stream.pump(Mux())  # type: ignore[arg-type]
    stream._receive = lambda batch: seen.extend((f.call, f.placed or sum(map(len, f.payload))) for f in batch)
    stream.wake = lambda: None  # type: ignore[method-assign]
    at = 0
    while at < len(raw):
        view = stream.get_buffer(-1)
        assert len(view)
        taken = raw[at : at + min(portion, len(view))]
        view[: len(taken)] = taken
        at += len(taken)
        stream.buffer_updated(len(taken))
    if portion == 1:
        assert seen == [(0, 0)]
        return
    assert seen == [(0, 0), (1, 5), (2, 0), (2, 100 * KIB), (3, 0), (99, 80 * KIB), (2, 100 * KIB), (4, 0)]


async def test_large_payloads_are_received_where_they_belong(service: Any) -> None:
    async with serving(service) as (_, address):
        lane = await opened(address)
        data = random.Random(2).randbytes(5 * MIB)
        into = bytearray(6 * MIB)
        reply = await lane.call(
            "echo", b"", [data[: 2 * MIB], data[2 * MIB :]], deadline=Deadline(20), into=memoryview(into)
        )
        assert reply.payload == data
        assert reply.payload.obj is into
        assert len(service.last.payload) == 1  # in one buffer at the server, too
        await lane.close()


# --- what is begun without a task ---


class HotEcho:
    """Answers `now` at once, `later` when told, and leaves the rest to `handle`."""

    def __init__(self, service: Any) -> None:
        self.cold = service
        self.answers: list[Answer] = []
        self.cancels = 0

    def hello(self) -> Hello:
        told: Hello = self.cold.hello()
        return told

    def position(self) -> tuple[int, int]:
        return 7, 3

    async def handle(self, request: Request) -> Response:
        answered: Response = await self.cold.handle(request)
        return answered

    def begin(self, request: Request, answer: Answer) -> Any:
        if request.method == "now":
            answer(Response(b"now", request.payload))
        elif request.method == "later":
            self.answers.append(answer)
        elif request.method == "refuse":
            raise InvalidArgument("no")
        elif request.method == "bug":
            raise ZeroDivisionError
        else:
            return None
        return self._cancel

    def _cancel(self) -> None:
        self.cancels += 1


async def test_calls_that_are_begun_without_a_task(service: Any, caplog: pytest.LogCaptureFixture) -> None:
    hot = HotEcho(service)
    async with serving(hot) as (_, address):
        lane = await opened(address)

        async def call(method: str, seconds: float = 10) -> bytes:
            return (await lane.call(method, b"cold", [b"x"], deadline=Deadline(seconds))).header

        assert await call("now") == b"now"
        assert await call("echo") == b"cold"
        with pytest.raises(InvalidArgument):
            await call("refuse")
        assert "ZeroDivisionError" not in caplog.text
        with pytest.raises(Exception, match="the daemon failed at this call"):
            await call("bug")
        assert "ZeroDivisionError" in caplog.text

        later = asyncio.ensure_future(call("later"))
        await until(lambda: hot.answers)
        hot.answers.pop()(Response(b"late"))
        assert await later == b"late"

        dones: list[str] = []
        cancelled = asyncio.ensure_future(call("later"))
        await until(lambda: hot.answers)
        cancelled.cancel()
        await until(lambda: hot.cancels == 1)
        hot.answers.pop()(Response(b"too late", done=lambda: dones.append("cancelled")))

        with pytest.raises(DeadlineExceeded):
            await call("later", 0.05)
        await until(lambda: hot.cancels == 2)
        hot.answers.pop()(Response(b"too late", done=lambda: dones.append("late")))
        assert dones == ["cancelled", "late"]
        assert await call("now") == b"now"

        left = asyncio.ensure_future(call("later"))
        await until(lambda: hot.answers)
        await lane.close()
        with pytest.raises(Unavailable):
            await left
        await until(lambda: hot.cancels == 3)
        hot.answers.pop()(Response(b"too late", done=lambda: dones.append("left")))
        assert dones[-1] == "left"


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.001)


async def test_an_answer_is_done_with_once_it_has_left(service: Any) -> None:
    """Its memory may be used again then, so not while the connection still reads it."""
    released: list[bytes] = []
    blob = bytearray(random.Random(3).randbytes(32 * MIB))
    whole = bytes(blob)

    async def make(request: Request) -> Response:
        def done() -> None:
            released.append(b"")
            blob[:] = bytes(len(blob))

        return Response(b"", [memoryview(blob)], done)

    service._router._handlers["blob"] = make
    async with serving(service) as (_, address):
        lane = await opened(address)
        reply = await lane.call("blob", b"", deadline=Deadline(30))
        assert reply.payload == whole
        await until(lambda: released)
        await lane.close()


# --- buffers ---


def test_a_buffer_is_used_again_only_when_no_view_of_it_is_left() -> None:
    buffers = Buffers(4 * MIB)
    first = buffers.take(MIB)
    second = buffers.take(MIB)
    assert first.obj is not second.obj
    part = second[5:10]
    memory = second.obj
    del second
    third = buffers.take(MIB)
    assert third.obj is not memory
    del part
    assert buffers.take(MIB - 5).obj is memory
    assert buffers.take(64 * MIB).nbytes == 64 * MIB  # more than is kept
    assert len(first) == MIB


# --- what a review found ---


async def test_calls_that_were_begun_give_their_memory_back_when_the_lane_ends(service: Any) -> None:
    hot = HotEcho(service)
    async with serving(hot, budget=8 * MIB) as (server, address):
        for _ in range(4):
            lane = await opened(address)
            calls = [
                asyncio.ensure_future(lane.call("later", b"", [bytes(MIB)], deadline=Deadline(20))) for _ in range(3)
            ]
            await until(lambda: len(hot.answers) == 3)
            hot.answers.clear()  # they are dropped, and nobody is told
            await lane.close()
            await asyncio.gather(*calls, return_exceptions=True)
            await until(lambda: server.budget.left == 8 * MIB)


async def test_a_batch_that_ends_in_garbage_leaves_nothing_behind(service: Any) -> None:
    async with serving(service, budget=8 * MIB) as (server, address):
        offer = listener_of(server).offer(int(address.rpartition(":")[2]))
        frames_ = [
            Frame(frames.OPEN, payload_length=MIB),
            Frame(frames.REQUEST, 1, "wait", bytes(1000)),
            Frame(frames.REPLY, 2),
        ]
        reader, writer = await asyncio.open_connection(*stream_address(server))
        writer.write(greeting(offer.ticket) + b"".join(bytes(part) for part in encode(frames_)))
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()
        await until(lambda: server.lanes == 0)
        assert server.budget.left == 8 * MIB


async def test_of_those_who_say_no_greeting_only_some_are_kept(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reedbed.transport.stream_server._WAITING_MAX", 8)
    async with serving(service) as (server, _):
        listener = listener_of(server)
        pairs = await asyncio.gather(*(asyncio.open_connection(*stream_address(server)) for _ in range(40)))
        ends = [asyncio.ensure_future(reader.read()) for reader, _ in pairs]
        await until(lambda: sum(end.done() for end in ends) == 32)
        assert len(listener._waiting) == 8
        assert all(len(stream._view) == GREETING for stream in listener._waiting)
        for _, writer in pairs:
            writer.close()
        await asyncio.gather(*ends, return_exceptions=True)
        await until(lambda: not listener._waiting)


async def test_a_handshake_that_fails_leaves_nothing(
    service: Any, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reedbed.transport.stream_server.GREETING_S", 0.2)
    at = certificates
    async with serving(service, tls=tls_from(at / "ca.pem", at / "server.pem", at / "server.key")) as (server, _):
        pairs = await asyncio.gather(*(asyncio.open_connection(*stream_address(server)) for _ in range(10)))
        for _, writer in pairs[:5]:
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await until(lambda: len(listener_of(server)._waiting) == 10)
        await until(lambda: not listener_of(server)._waiting)
        for reader, writer in pairs:
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionError):
                    await reader.read()
            writer.close()


async def test_an_end_that_takes_nothing_is_left(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a unix socket nothing else tells."""
    monkeypatch.setattr(streams, "STUCK_S", 0.2)
    async with serving(service, budget=64 * MIB, streams=Streams()) as (server, address):
        offer = listener_of(server).offer(int(address.rpartition(":")[2]))
        name = next(where for where in offer.streams if where.startswith("@"))
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, "\0" + name[1:])
            asks = [Frame(frames.OPEN, payload_length=64 * MIB), Frame(frames.REQUEST, 1, "make", b"%d" % (16 * MIB))]
            raw = b"".join(bytes(part) for part in encode(asks))
            await loop.sock_sendall(deaf, greeting(offer.ticket) + raw)
            await until(lambda: server.lanes == 1)
            await until(lambda: server.lanes == 0)
            assert server.budget.left == 64 * MIB


async def test_an_error_that_utf8_cannot_say_is_said_all_the_same(service: Any) -> None:
    async def fail(request: Request) -> Response:
        raise InvalidArgument("bad", where="/disk/\udcff")

    service._router._handlers["odd"] = fail
    async with serving(service) as (_, address):
        lane = await opened(address)
        calls = (lane.call("odd", b"", deadline=Deadline(10)), lane.call("echo", b"", deadline=Deadline(10)))
        odd, good = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(odd, InvalidArgument)
        assert odd.where == "/disk/?"
        assert not isinstance(good, BaseException)
        await lane.close()


async def test_a_frame_that_cannot_be_said_ends_the_lane(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(service) as (_, address):
        lane = await opened(address)
        monkeypatch.setattr(streams, "encode", lambda batch: 1 // 0)
        with pytest.raises(Unavailable):
            await lane.call("echo", b"", deadline=Deadline(10))
        assert lane.broken
        await lane.close()


async def test_streams_that_could_not_be_had_are_not_tried_each_time(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_client, "CONNECT_S", 0.2)
    connector = GrpcConnector()
    async with serving(service, streams=Streams(advertise="127.0.0.1:1")) as (_, address):
        tries: list[str] = []
        known = stream_client._open

        async def counted(address: str, where: str, *rest: Any) -> Any:
            tries.append(where)
            return await known(address, where, *rest)

        monkeypatch.setattr(stream_client, "_open", counted)
        for _ in range(3):
            lane = await opened(address, connector)
            assert await echo(lane)
            await lane.close()
        assert tries == ["127.0.0.1:1"]
        connector._without[address] -= 1000.0
        await (await opened(address, connector)).close()
        assert len(tries) == 2


async def talks_at_once(service: Any) -> None:
    """A client that goes on with bulk before its greeting is answered, and a loop that reads on at once."""
    async with serving(service) as (server, address):
        for _ in range(5):
            offer = listener_of(server).offer(int(address.rpartition(":")[2]))
            data = bytes(2 * MIB)
            said = [
                Frame(frames.OPEN, payload_length=64 * MIB),
                Frame(frames.REQUEST, 1, "size", b"", payload_length=len(data)),
                *(Frame(frames.CHUNK, 1, payload=[data[at : at + 60 * KIB]]) for at in range(0, len(data), 60 * KIB)),
            ]
            reader, writer = await asyncio.open_connection(*stream_address(server))
            writer.write(greeting(offer.ticket) + b"".join(bytes(part) for part in encode(said)))
            async with asyncio.timeout(10):
                assert await reader.readexactly(ANSWER) == answer()
                head = Head(await reader.readexactly(HEAD), 0)
                body = await reader.readexactly(head.small - HEAD)
            assert body.endswith(b"2097152")
            writer.close()


async def test_bulk_may_come_before_anybody_serves_the_stream(service: Any) -> None:
    await talks_at_once(service)


def test_bulk_may_come_before_anybody_serves_the_stream_in_uvloop(service_class: Any) -> None:
    async def main() -> None:
        await talks_at_once(service_class())

    uvloop.run(main())
