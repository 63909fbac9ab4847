"""Framed streams: a lane's frames over one TCP or unix connection, without gRPC, tasks or messages in between.

A stream begins with a greeting of the client, which names the ticket that the daemon gave it in its hello over gRPC,
and the daemon's answer to it:

    0   8s   magic "RBstream"
    8   u8   version, 1
    9   3    zero
    12  32s  ticket; absent in the answer
    .   u32  CRC32C of all before, little-endian

Frames follow (stream_frames.py). Payloads over 64 KiB are received right into the memory where they belong.

Invariants:
- No more is handed to the connection while it still holds bytes, so what was handed to it has left once it takes more.
- Bytes are received into a place only while its call is known (mux.py); the rest of a piece goes nowhere then.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Final, cast

from reedbed.common import logs
from reedbed.common.checksums import crc32c
from reedbed.common.errors import Corrupt, ReedbedError, Unavailable
from reedbed.common.limits import KIB, MIB
from reedbed.transport.frames import Frame
from reedbed.transport.mux import End, Place
from reedbed.transport.outbox import SMALL
from reedbed.transport.stream_frames import HEAD, Head, encode

log = logs.get("transport")

VERSION: Final = 1
TICKET: Final = 32  # bytes
STALLED_S: Final = 30.0  # an end that takes no answers for so long, and asks for more, is left
STUCK_S: Final = 15.0  # an end that takes nothing at all for so long, though bytes wait for it, is left
CREDIT_DELAY_S: Final = 0.05  # a little owed credit waits so long for other frames to travel with

_MAGIC: Final = b"RBstream" + bytes([VERSION, 0, 0, 0])
GREETING: Final = len(_MAGIC) + TICKET + 4
ANSWER: Final = len(_MAGIC) + 4

_BUFFER: Final = 256 * KIB  # of small frames
_AFTER_BULK: Final = 4 * KIB  # received at once where more bulk is likely, which had better go into its place
_TURN: Final = 4 * MIB  # handed to a connection before others have their turn
_SOCKET_BUFFER: Final = MIB
_NOWHERE: Final = memoryview(bytearray(_BUFFER))  # received into, and never read
_IDLE_S: Final = 10  # of a silent connection until the system asks whether the other end is there
_PROBE_S: Final = 5
_PROBES: Final = 3


def greeting(ticket: bytes) -> bytes:
    """What the client says first."""
    return _summed(_MAGIC + ticket)


def answer() -> bytes:
    """What the daemon says to that."""
    return _summed(_MAGIC)


def ticket_of(data: bytes) -> bytes:
    """The ticket of a greeting, empty in an answer. Corrupt for anything else."""
    body = data[:-4]
    if body[: len(_MAGIC)] != _MAGIC or _summed(body) != data:
        raise Corrupt("no greeting of a framed stream")
    return body[len(_MAGIC) :]


def _summed(body: bytes) -> bytes:
    return body + crc32c(body).to_bytes(4, "little")


class Stream(asyncio.BufferedProtocol):
    """One connection. First `greeted` is told the other end's greeting, of `expected` bytes; then `pump` is called."""

    def __init__(self, expected: int, greeted: Callable[[Stream, bytes], None]) -> None:
        """`greeted` is told no bytes where the connection ended before."""
        self._loop = asyncio.get_running_loop()
        self._expected = expected
        self._greeted: Callable[[Stream, bytes], None] | None = greeted
        self._transport: asyncio.Transport | None = None
        self._mux: End | None = None
        self._receive: Callable[[Sequence[Frame]], None] = lambda batch: None
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._error: ReedbedError | None = None
        self._view = memoryview(bytearray(expected))  # no more memory for whoever is not known yet
        self._start = self._end = 0
        self._limit = expected  # of the buffer, up to where it may be filled at present
        self._waits = False  # is not read, until it is served
        self._needed = 0  # bytes of the frame that begins the buffer, once its head is here
        self._bulk: _Bulk | None = None
        self._ended = False
        self._stuck: asyncio.TimerHandle | None = None  # while the connection holds bytes
        self._blocked = False  # the connection holds bytes
        self._flushing: asyncio.Handle | None = None
        self._lazy: asyncio.TimerHandle | None = None
        self._settle = False  # owed credit has waited long enough
        self._stalled: asyncio.TimerHandle | None = None
        self._finishing = False

    # --- what the ends see (see Pump in ends.py) ---

    def pump(self, mux: End) -> Stream:
        """From now on frames go between the connection and this mux. Only after the greeting."""
        self._mux = mux
        self._make_room()
        if self._waits and self._transport is not None and not self._ended:
            self._transport.resume_reading()
        self._waits = False
        return self

    async def run(self, receive: Callable[[Sequence[Frame]], None]) -> None:
        """Until the connection ends; raises what broke it, or Corrupt from `receive`."""
        self._receive = receive
        self.wake()
        try:
            if self._end > self._start:
                self._take()
            await asyncio.shield(self._closed)
        finally:
            self.abort()
            await asyncio.shield(self._closed)  # before anything lets go of memory that it may still read
        if self._error is not None:
            raise self._error

    def wake(self) -> None:
        """Call after anything was done to the mux: sends what is worth sending."""
        mux = self._mux
        if mux is None or self._flushing is not None:
            return
        if (mux.pending or self._finishing or mux.outbox.left) and not self._blocked:
            self._flushing = self._loop.call_soon(self._flush)
        elif self._lazy is None and mux.owing:
            self._lazy = self._loop.call_later(CREDIT_DELAY_S, self._settle_credit)

    def finish(self) -> None:
        """Ends the connection as soon as no call is under way and nothing waits to be sent."""
        self._finishing = True
        self.wake()

    def send(self, data: bytes) -> None:
        """Sends a greeting or its answer."""
        if self._transport is not None:
            self._transport.write(data)

    def abort(self) -> None:
        """Ends the connection at once."""
        self._ended = True
        for handle in (self._flushing, self._lazy, self._stalled, self._stuck):
            if handle is not None:
                handle.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def end(self) -> None:
        """Ends the connection, and returns when it has."""
        self.abort()
        if self._transport is not None:
            await asyncio.shield(self._closed)

    # --- what asyncio calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has no such base
        # told to pause above the limit; with TLS, at the limit, and never to go on from 0
        self._transport.set_write_buffer_limits(high=1 if transport.get_extra_info("sslcontext") else 0, low=0)
        prepare(transport.get_extra_info("socket"))
        if self._ended:  # given up before it was there, as during a TLS handshake
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self._error is None:
            self._error = Unavailable(f"the connection broke: {exc}")
        self._tell(b"")
        if self._bulk is not None:
            self._bulk = None
        if not self._closed.done():
            self._closed.set_result(None)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._blocked = True
        if self._stuck is None and not self._ended:
            self._stuck = self._loop.call_later(STUCK_S, self._look_whether_stuck, self._held())

    def resume_writing(self) -> None:
        self._blocked = False
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        if self._mux is not None and self._flushing is None and not self._ended:
            self._flushing = self._loop.call_soon(self._flush)

    def get_buffer(self, sizehint: int) -> memoryview:
        bulk = self._bulk
        if bulk is None:
            return self._view[self._end : self._limit]
        view = bulk.rest()
        if view is None:  # nobody waits for it any more
            view = _NOWHERE[: bulk.left]
        return view

    def buffer_updated(self, count: int) -> None:
        bulk = self._bulk
        if bulk is not None:
            bulk.left -= count
            if bulk.left:
                return
            self._bulk = None
            self._hand_over([bulk.frame])
            self._limit = _AFTER_BULK
            return
        self._end += count
        if self._greeted is not None:
            if self._end >= self._expected:
                self._start = self._expected
                self._tell(bytes(self._view[: self._expected]))
                if self._mux is None and not self._ended and self._transport is not None:
                    self._transport.pause_reading()  # the other end may go on before anybody serves this one
                    self._waits = True
            return
        self._take()

    # --- within ---

    def _tell(self, data: bytes) -> None:
        greeted, self._greeted = self._greeted, None
        if greeted is not None:
            greeted(self, data)

    def _take(self) -> None:
        """Hands over the frames that have come whole."""
        if self._mux is None:
            return
        try:
            batch = self._parse()
        except Corrupt as error:
            self._fail(error)
            return
        if batch:
            self._hand_over(batch)
        self._make_room()

    def _parse(self) -> list[Frame]:
        batch: list[Frame] = []
        view, end = self._view, self._end
        while end - self._start >= HEAD:
            head = Head(view, self._start)
            self._needed = head.small
            if end - self._start < head.small:
                break
            frame = head.frame(view, self._start)
            self._start += head.small
            if head.piece > SMALL:
                if batch:  # they say where it belongs
                    self._hand_over(batch)
                    batch = []
                if self._bulk_begins(frame, head.piece):
                    break
            else:
                batch.append(frame)
        return batch

    def _bulk_begins(self, frame: Frame, size: int) -> bool:
        """Whether more of the piece is to come than is here."""
        assert self._mux is not None
        frame.placed = size
        bulk = _Bulk(frame, self._mux.place(frame.call, size), size)
        here = min(size, self._end - self._start)
        place = bulk.rest()
        if place is not None:
            place[:here] = self._view[self._start : self._start + here]
        bulk.left -= here
        self._start += here
        if bulk.left:
            self._bulk = bulk
            return True
        self._hand_over([frame])
        return False

    def _make_room(self) -> None:
        """What is here of the next frame begins at the front of the buffer, which has room for all of it."""
        start, end = self._start, self._end
        rest = end - start
        wanted = _BUFFER
        if rest >= HEAD and self._bulk is None:
            wanted = max(wanted, self._needed)
        if wanted != len(self._view):
            fresh = memoryview(bytearray(wanted))
            fresh[:rest] = self._view[start:end]
            self._view = fresh
        elif rest and start:
            self._view[:rest] = bytes(self._view[start:end])
        self._start, self._end = 0, rest
        self._limit = wanted

    def _hand_over(self, batch: Sequence[Frame]) -> None:
        if self._error is not None:
            return
        try:
            self._receive(batch)
        except Corrupt as error:
            self._fail(error)
            return
        mux = self._mux
        assert mux is not None
        self.wake()
        if mux.congested and self._stalled is None and self._transport is not None:
            self._transport.pause_reading()
            self._stalled = self._loop.call_later(STALLED_S, self._stall)

    def _flush(self) -> None:
        self._flushing = None
        mux, transport = self._mux, self._transport
        if mux is None or transport is None or transport.is_closing():
            return
        handed = 0
        while not self._blocked and (batch := mux.next_batch(self._settle)):
            self._settle = False
            try:
                parts = encode(batch)
            except Exception:  # a bug; the frames that were taken are lost, so those who wait for them must hear of it
                log.exception("frames that cannot be said")
                self._fail(Unavailable("the daemon or client failed at a frame"))
                return
            handed += sum(map(len, parts))
            transport.writelines(parts)
            if not self._blocked:
                mux.sent()
            if handed >= _TURN:
                break
        if self._blocked:
            return
        mux.sent()
        if self._stalled is not None and not mux.congested:
            self._stalled.cancel()
            self._stalled = None
            transport.resume_reading()
        if self._finishing and not mux.busy and not mux.pending:
            transport.close()
            return
        self.wake()

    def _settle_credit(self) -> None:
        self._lazy = None
        self._settle = True
        if self._flushing is None and not self._blocked:
            self._flush()

    def _stall(self) -> None:
        self._fail(Unavailable("the other end takes no answers"))

    def _held(self) -> int:
        """Bytes that the connection holds."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def _look_whether_stuck(self, before: int) -> None:
        """Ends the connection if nothing at all has left it since: TCP would tell by itself, unix sockets do not."""
        self._stuck = None
        held = self._held()
        if held and held >= before:
            self._fail(Unavailable(f"the other end has taken nothing for {STUCK_S:g} s"))
        elif held and not self._ended:
            self._stuck = self._loop.call_later(STUCK_S, self._look_whether_stuck, held)

    def _fail(self, error: ReedbedError) -> None:
        if self._error is None:
            self._error = error
        self.abort()


class _Bulk:
    """A piece of payload that is coming in."""

    __slots__ = ("_place", "_size", "frame", "left")

    def __init__(self, frame: Frame, place: Place | None, size: int) -> None:
        self.frame = frame
        self.left = self._size = size
        self._place = place

    def rest(self) -> memoryview | None:
        """Where the rest belongs; None where nobody waits for it."""
        view = self._place.view if self._place is not None else None
        return None if view is None else view[self._size - self.left :]


def prepare(sock: socket.socket | None) -> None:
    """Sets a connection's options, as far as it has them."""
    if sock is None:
        return
    options = [(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)]
    if sock.family != socket.AF_UNIX:
        options = [
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * (_IDLE_S + _PROBE_S)),
        ]
    for level, name, value in options:
        try:
            sock.setsockopt(level, name, value)
        except OSError:
            continue  # it serves without
