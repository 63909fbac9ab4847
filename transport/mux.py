"""The state of a lane at its ends, without I/O: frames in, batches of frames out. The server's end is in mux_server.py.

Whoever drives an end hands every frame that came in to `receive`, sends what `next_batch` returns while `pending`, and
calls `sent` once all of that has left. An exception out of `receive` means that the other end does not keep the
protocol: close the lane with that error. Who can receive a piece of payload right into its place asks `place` for it.

Invariants:
- A call is known here from its beginning until its outcome is handed over or, at the server, its answer has left.
  Frames of calls that are not known are late; they are dropped, and their payload's credit is given back.
- Every payload byte that comes in is counted in `Account.held` until it is given back, once: a request's when its
  handler has finished or it was refused, a reply's when it was handed over, and both when the call was forgotten.
- Nothing is written into a caller's buffer once its call is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from reedbed.common.checksums import Buffer
from reedbed.common.clock import Deadline
from reedbed.common.errors import Corrupt, InvalidArgument, ReedbedError
from reedbed.common.limits import HEADER_MAX, PAYLOAD_MAX, WINDOW
from reedbed.transport import frames
from reedbed.transport.frames import Frame
from reedbed.transport.lane import Reply
from reedbed.transport.outbox import Outbox, Outgoing, pieces

METHOD_MAX: Final = 64
_SOON_PART: Final = 8  # owed credit is worth a message of its own from this part of the window on
_WORTH_PART: Final = 64  # and a frame in a message that is sent anyway from this one on

Outcome = Reply | ReedbedError


def _nobody(outcome: Outcome) -> None:
    """Who has the outcome already, or has given up."""


class Account:
    """Payload bytes that have come in: `held` until they are consumed, then `owed` until the other end is told."""

    __slots__ = ("held", "owed", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.held = self.owed = 0

    def take(self, count: int) -> None:
        """So many bytes came in. Corrupt if they exceed the window."""
        self.held += count
        if self.held + self.owed > self.window:
            raise Corrupt(f"more payload came than the window of {self.window} bytes")

    def give(self, count: int) -> None:
        """So many bytes are consumed."""
        self.held -= count
        self.owed += count


class End:
    """What both ends share."""

    def __init__(self, send_window: int, receive_window: int) -> None:
        self.outbox = Outbox(send_window)
        self.account = Account(receive_window)

    @property
    def pending(self) -> bool:
        """A message is worth sending now."""
        return self.outbox.pending or self.account.owed * _SOON_PART >= self.account.window

    @property
    def owing(self) -> bool:
        """There is credit to give back; if nothing else is sent for a while, send that alone."""
        return self.account.owed > 0

    @property
    def busy(self) -> int:
        """Calls that are not forgotten yet."""
        raise NotImplementedError

    @property
    def congested(self) -> bool:
        """So much waits for the other end to take it that no more should be taken from it."""
        return False

    def next_batch(self, settle: bool = True) -> list[Frame]:
        """The frames of the next message, none if nothing waits. Owed credit travels along, and without `settle` only
        where it is worth a frame."""
        batch = self.outbox.next_batch()
        owed = self.account.owed
        if owed and (settle or owed * _WORTH_PART >= self.account.window):
            batch.append(Frame(frames.CREDIT, credit=owed))
            self.account.owed = 0
        return batch

    def sent(self) -> None:
        """All frames that were taken have left: nobody reads their buffers any more."""
        if self.outbox.left:
            self.outbox.sent()

    def late(self, frame: Frame) -> None:
        """A piece of payload that nobody waits for."""
        size = size_of(frame)
        self.account.take(size)
        self.account.give(size)

    def place(self, call: int, size: int) -> Place | None:
        """Where the next `size` bytes of a call's payload belong, in a FRAME_CHUNK that is coming in; None if nobody
        waits for them, or they cannot be right."""
        raise NotImplementedError


class Place:
    """Memory that a piece of payload is received into. `given_up` once the call is forgotten: then leave it alone."""

    __slots__ = ("given_up", "view")

    def __init__(self, view: memoryview) -> None:
        self.view: memoryview | None = view
        self.given_up = False

    def give_up(self) -> None:
        self.given_up = True
        self.view = None


def size_of(frame: Frame) -> int:
    return frame.placed or (len(frame.payload[0]) if frame.payload else 0)


class ClientCall:
    """A call at its caller's end."""

    __slots__ = (
        "done",
        "epoch",
        "got",
        "header",
        "id",
        "into",
        "outgoing",
        "payload",
        "place",
        "target",
        "term",
        "total",
    )

    def __init__(self, id_: int, outgoing: Outgoing, into: memoryview | None, done: Callable[[Outcome], None]) -> None:
        self.id = id_
        self.outgoing = outgoing
        self.into = into
        self.done = done
        self.header = b""
        self.epoch = self.term = self.got = 0
        self.total = -1  # until the reply's first frame
        self.target: memoryview | None = None
        self.payload: memoryview | None = None
        self.place: Place | None = None  # of the piece that is coming in

    @property
    def started(self) -> bool:
        """Any of the request may have reached the server."""
        return self.outgoing.started

    def tell(self, outcome: Outcome) -> None:
        """Hands the outcome over, and lets go of who waited: they may know the call, and a cycle would keep the
        caller's memory until Python looks for such."""
        done, self.done = self.done, _nobody
        self.payload = None
        done(outcome)

    def leave(self) -> None:
        """Nobody waits for the outcome any more."""
        self.done = _nobody
        self.payload = None


class ClientMux(End):
    """The caller's end. Outcomes are handed to each call's `done`, from within `receive` and `close`."""

    def __init__(self, send_window: int, max_payload: int = PAYLOAD_MAX, receive_window: int = WINDOW) -> None:
        """`send_window` and `max_payload` as the server's hello says, `receive_window` is what we grant for replies."""
        super().__init__(send_window, receive_window)
        self._max_payload = min(max_payload, PAYLOAD_MAX, send_window)
        self._calls: dict[int, ClientCall] = {}
        self._last = 0
        self.epoch = self.term = 0  # of the newest answer
        self.answered = False  # any call
        self.outbox.control(Frame(frames.OPEN, payload_length=receive_window))

    @property
    def busy(self) -> int:
        """Calls under way."""
        return len(self._calls)

    def begin(
        self,
        method: str,
        header: bytes,
        payload: Sequence[Buffer],
        *,
        deadline: Deadline,
        done: Callable[[Outcome], None],
        into: memoryview | None = None,
        epoch: int = 0,
    ) -> ClientCall:
        """Puts a call on its way. InvalidArgument if header, payload or `into` cannot be right."""
        if not 0 < len(method) <= METHOD_MAX:
            raise InvalidArgument(f"no method name: {method[:METHOD_MAX]!r}")
        if len(header) > HEADER_MAX:
            raise InvalidArgument(f"header of {len(header)} bytes is over the limit of {HEADER_MAX}")
        parts, length = pieces(payload) if payload else ([], 0)
        if length > self._max_payload:
            raise InvalidArgument(f"payload of {length} bytes is over the limit of {self._max_payload}")
        if into is not None:
            into = _writable(into)
        self._last += 1
        head = Frame(frames.REQUEST, self._last, method, header, payload_length=length, epoch=epoch)
        call = ClientCall(self._last, Outgoing(head, parts, length, deadline), into, done)
        self._calls[call.id] = call
        self.outbox.send(call.outgoing)
        return call

    def cancel(self, call: ClientCall) -> None:
        """Forgets a call and tells the server, if it may know of it. Nothing happens if its outcome is known."""
        if self._calls.get(call.id) is not call:
            return
        self._forget(call)
        if call.started:
            self.outbox.control(Frame(frames.CANCEL, call.id))

    def receive(self, batch: Sequence[Frame]) -> None:
        """Takes frames of the server. Corrupt if they break the protocol."""
        for frame in batch:
            kind = frame.kind
            if kind in (frames.REPLY, frames.ERROR):
                self._answer(frame)
            elif kind == frames.CHUNK:
                call = self._calls.get(frame.call)
                if call is None:
                    self.late(frame)
                else:
                    self._piece(call, frame)
            elif kind == frames.CREDIT:
                self.outbox.give_back(frame.credit)
            else:
                raise Corrupt(f"a server sent a frame of kind {kind}")

    def close(self, error: Callable[[bool], ReedbedError]) -> None:
        """Ends all calls with the error made for each; it is told whether the server may know of the call."""
        for call in list(self._calls.values()):
            self._forget(call)
            call.tell(error(call.started))
        self.outbox.clear()

    def _answer(self, frame: Frame) -> None:
        self.epoch, self.term = frame.epoch, frame.term
        self.answered = True
        call = self._calls.get(frame.call)
        if call is None:
            self.late(frame)
            return
        if frame.kind == frames.ERROR:
            self.late(frame)
            self._forget(call)
            call.tell(frame.error or ReedbedError("the server gave an error without saying which"))
            return
        if call.total >= 0:
            raise Corrupt(f"call {call.id} was answered twice")
        if frame.payload_length > min(PAYLOAD_MAX, self.account.window) or len(frame.header) > HEADER_MAX:
            raise Corrupt(f"an answer of {len(frame.header)} and {frame.payload_length} bytes is over the limits")
        call.total = frame.payload_length
        call.header, call.epoch, call.term = frame.header, frame.epoch, frame.term
        if call.into is not None and call.total > len(call.into):
            error = Corrupt(f"an answer of {call.total} bytes for a buffer of {len(call.into)}", maybe_applied=True)
            self.late(frame)
            self.cancel(call)
            call.tell(error)
            return
        self._piece(call, frame)

    def place(self, call: int, size: int) -> Place | None:
        found = self._calls.get(call)
        if found is None or size > found.total - found.got:
            return None
        found.place = Place(self._target(found)[found.got : found.got + size])
        return found.place

    @staticmethod
    def _target(call: ClientCall) -> memoryview:
        if call.target is None:
            call.target = memoryview(bytearray(call.total)) if call.into is None else call.into[: call.total]
        return call.target

    def _piece(self, call: ClientCall, frame: Frame) -> None:
        size = size_of(frame)
        if call.got + size > call.total:
            raise Corrupt(f"call {call.id} got more payload than was announced")
        self.account.take(size)
        if size:
            if frame.placed:
                call.place = None
            elif call.into is None and size == call.total:
                piece = frame.payload[0]
                call.payload = memoryview(bytes(piece) if frame.passing else piece)
            else:
                self._target(call)[call.got : call.got + size] = frame.payload[0]
            call.got += size
        if call.got == call.total:
            if call.payload is None:
                call.payload = call.target
                if call.payload is None:
                    call.payload = memoryview(b"") if call.into is None else call.into[:0]
            reply = Reply(call.header, call.payload, call.epoch, call.term)
            self._forget(call)
            call.tell(reply)

    def _forget(self, call: ClientCall) -> None:
        del self._calls[call.id]
        self.account.give(call.got)
        self.outbox.drop(call.outgoing)
        call.target = call.into = None
        if call.place is not None:
            call.place.give_up()
            call.place = None


def _writable(into: memoryview) -> memoryview:
    if into.readonly or not into.c_contiguous:
        raise InvalidArgument("the buffer for the answer is not writable, or not contiguous in memory")
    return into if into.format == "B" and into.ndim == 1 else into.cast("B")
