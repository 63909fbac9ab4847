"""The server's end of a lane, without I/O (see mux.py, whose invariants hold here too)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from reedbed.common.checksums import Buffer
from reedbed.common.clock import Clock, Deadline
from reedbed.common.errors import Corrupt, InvalidArgument, ReedbedError, ResourceExhausted, Unavailable, rebuild
from reedbed.common.limits import CALLS_MAX, HEADER_MAX, KIB, MESSAGE_MAX, PAYLOAD_MAX, WINDOW
from reedbed.transport import frames
from reedbed.transport.buffers import Buffers
from reedbed.transport.frames import Frame
from reedbed.transport.lane import Request, Response
from reedbed.transport.mux import METHOD_MAX, End, Place, size_of
from reedbed.transport.outbox import Outgoing, pieces

_BACKLOG_MAX: Final = 2 * MESSAGE_MAX  # bytes of answers' heads that wait for the client to take them
_SHARE: Final = 2  # one part in so many of the budget may be in answers that one lane's client does not take
_ERROR_TEXT_MAX: Final = 4 * KIB  # characters of each text of an error


class Budget:
    """Bytes of requests and replies that all lanes of a server may hold in memory."""

    def __init__(self, total: int) -> None:
        self.total = self.left = total

    def try_take(self, count: int) -> bool:
        """False, and nothing taken, if there is not that much left."""
        if count > self.left:
            return False
        self.left -= count
        return True

    def take(self, count: int) -> None:
        """For what is there already; may go below 0, so that new requests are refused."""
        self.left -= count

    def give(self, count: int) -> None:
        self.left += count


class ServerCall:
    """A call at the server's end. It goes from receiving to running to replying, and is ended when it is forgotten."""

    __slots__ = ("buffer", "cost", "done", "got", "id", "outgoing", "parts", "place", "request", "state", "total")

    def __init__(self, id_: int, request: Request, parts: list[Buffer], total: int, cost: int) -> None:
        self.id = id_
        self.request = request
        self.parts = parts
        self.total = total
        self.cost = cost
        self.got = 0
        self.state: Literal["receiving", "running", "stopped", "replying", "ended"] = "receiving"
        self.outgoing: Outgoing | None = None
        self.done: Callable[[], None] | None = None  # of the reply
        self.buffer: memoryview | None = None  # for the whole payload, where pieces are received into their place
        self.place: Place | None = None  # of the piece that is coming in


@dataclass(slots=True)
class Start:
    """A request is whole: run its handler, then `reply` or `fail`."""

    call: ServerCall


@dataclass(slots=True)
class Stop:
    """The caller gave up: cancel the handler, then `reply` or `fail` all the same."""

    call: ServerCall


class ServerMux(End):
    """The server's end of one lane."""

    def __init__(
        self,
        position: Callable[[], tuple[int, int]],
        clock: Clock,
        *,
        window: int = WINDOW,
        max_calls: int = CALLS_MAX,
        max_payload: int = PAYLOAD_MAX,
        budget: Budget | None = None,
        buffers: Buffers | None = None,
    ) -> None:
        """`position` gives epoch and term to stamp on answers; window, max_calls and max_payload as in the hello.
        `buffers`: for payloads that are received into their place."""
        super().__init__(0, window)
        self._position = position
        self._clock = clock
        self._max_calls = max_calls
        self._max_payload = min(max_payload, window)
        self._budget = budget or Budget(1 << 62)
        self._buffers = buffers or Buffers(0)
        self._draining = False
        self._calls: dict[int, ServerCall] = {}
        self._replying = 0  # cost of the answers on their way

    @property
    def congested(self) -> bool:
        # only what needs no credit: credit is given back by what would then not be read
        count, heads = self.outbox.backlog
        return count > 2 * self._max_calls or heads > _BACKLOG_MAX

    @property
    def busy(self) -> int:
        """Calls whose memory is held."""
        return len(self._calls)

    def drain(self) -> None:
        """From now on new requests are refused."""
        self._draining = True

    def receive(self, batch: Sequence[Frame]) -> list[Start | Stop]:
        """Takes frames of the client and says what is to be done. Corrupt if they break the protocol."""
        events: list[Start | Stop] = []
        for frame in batch:
            kind = frame.kind
            if kind == frames.REQUEST:
                self._request(frame, events)
            elif kind == frames.CHUNK:
                call = self._calls.get(frame.call)
                if call is None:
                    self.late(frame)
                else:
                    self._piece(call, frame, events)
            elif kind == frames.CREDIT:
                self.outbox.give_back(frame.credit)
            elif kind == frames.CANCEL:
                self._cancel(frame.call, events)
            elif kind == frames.OPEN:
                self.outbox.open(frame.payload_length)
            else:
                raise Corrupt(f"a client sent a frame of kind {kind}")
        return events

    def reply(self, call: ServerCall, response: Response) -> None:
        """The handler has finished."""
        if not self._replied(call, response) and response.done is not None:
            response.done()

    def _replied(self, call: ServerCall, response: Response) -> bool:
        """Whether the reply is on its way."""
        if len(response.header) > HEADER_MAX:
            self.fail(call, ReedbedError(f"the answer's header of {len(response.header)} bytes is over the limit"))
            return False
        parts, length = pieces(response.payload) if response.payload else ([], 0)
        if length > min(PAYLOAD_MAX, self.outbox.window):
            self.fail(call, ReedbedError(f"the answer of {length} bytes is over the limit or the caller's window"))
            return False
        if not self._finished(call):
            return False
        epoch, term = self._position()
        head = Frame(frames.REPLY, call.id, header=response.header, payload_length=length, epoch=epoch, term=term)
        call.state = "replying"
        call.done = response.done
        call.cost = len(response.header) + length
        self._budget.take(call.cost)
        self._replying += call.cost
        self._calls[call.id] = call
        call.outgoing = Outgoing(head, parts, length, done=lambda: self._left(call))
        self.outbox.send(call.outgoing)
        return True

    def fail(self, call: ServerCall, error: ReedbedError) -> None:
        """The handler has failed, or was stopped."""
        if self._finished(call):
            self._error(call.id, error)

    def close(self) -> None:
        """The lane has ended: forgets all calls but those whose handlers still run."""
        for call in list(self._calls.values()):
            if call.state in ("receiving", "replying"):
                self._forget(call)
            else:
                call.state = "stopped"
        self.outbox.clear()
        self.sent()

    def forget(self) -> None:
        """The lane has ended and no handler runs any more: forgets what is left, such as calls that came together with
        something that broke the protocol."""
        for call in list(self._calls.values()):
            self._forget(call)
        self.sent()

    def place(self, call: int, size: int) -> Place | None:
        found = self._calls.get(call)
        if found is None or found.state != "receiving" or size > found.total - found.got:
            return None
        if found.buffer is None:
            found.buffer = self._buffers.take(found.total)
            at = 0
            for part in found.parts:  # that came in small pieces before
                found.buffer[at : at + len(part)] = part
                at += len(part)
            found.parts[:] = [found.buffer]
        found.place = Place(found.buffer[found.got : found.got + size])
        return found.place

    def _request(self, frame: Frame, events: list[Start | Stop]) -> None:
        if not self.outbox.window:
            raise Corrupt("a request came before the lane was opened")
        if frame.call in self._calls:
            raise Corrupt(f"call {frame.call} was made twice")
        total, cost = frame.payload_length, len(frame.header) + frame.payload_length
        refusal: ReedbedError | None = None
        if len(frame.header) > HEADER_MAX or len(frame.method) > METHOD_MAX:
            refusal = InvalidArgument(f"a header of {len(frame.header)} bytes or a method's name is over the limit")
        elif total > self._max_payload:
            refusal = InvalidArgument(f"payload of {total} bytes is over the limit of {self._max_payload}")
        elif self._draining:
            refusal = Unavailable("the daemon is stopping")
        elif len(self._calls) >= self._max_calls:
            refusal = ResourceExhausted(f"{self._max_calls} calls are under way", hint="Try again a little later")
        elif self._replying > self._budget.total // _SHARE:
            refusal = ResourceExhausted("answers are asked for faster than taken", hint="Try again a little later")
        elif not self._budget.try_take(cost):
            refusal = ResourceExhausted("the daemon's memory for calls is used up", hint="Try again a little later")
        if refusal is not None:
            self.late(frame)
            self._error(frame.call, refusal)
            return
        deadline = Deadline(frame.timeout_ms / 1000 if frame.timeout_ms else None, self._clock)
        parts: list[Buffer] = []
        request = Request(frame.method, frame.header, parts, deadline, frame.epoch, frame.term)
        call = self._calls[frame.call] = ServerCall(frame.call, request, parts, total, cost)
        self._piece(call, frame, events)

    def _piece(self, call: ServerCall, frame: Frame, events: list[Start | Stop]) -> None:
        size = size_of(frame)
        if call.state != "receiving" or call.got + size > call.total:
            raise Corrupt(f"call {call.id} sent more payload than was announced")
        self.account.take(size)
        if size:
            if frame.placed:
                call.place = None
            elif call.buffer is not None:
                call.buffer[call.got : call.got + size] = frame.payload[0]
            else:
                call.parts.append(bytes(frame.payload[0]) if frame.passing else frame.payload[0])
            call.got += size
        if call.got == call.total:
            call.state = "running"
            events.append(Start(call))

    def _cancel(self, id_: int, events: list[Start | Stop]) -> None:
        call = self._calls.get(id_)
        if call is None:
            return
        if call.state == "running":
            call.state = "stopped"
            events.append(Stop(call))
        elif call.state != "stopped":
            self._forget(call)

    def _finished(self, call: ServerCall) -> bool:
        """Gives back what the request held. False if nobody waits for the answer."""
        wanted = call.state == "running"
        self._forget(call)
        return wanted

    def _left(self, call: ServerCall) -> None:
        if self._calls.get(call.id) is call:
            del self._calls[call.id]
            call.outgoing = None  # which knows the call: a cycle would keep all payloads until Python looks for such
            self._budget.give(call.cost)
            self._replying -= call.cost
            call.state = "ended"
            if call.done is not None:
                self.outbox.left.append(call.done)

    def _forget(self, call: ServerCall) -> None:
        del self._calls[call.id]
        self._budget.give(call.cost)
        if call.state == "replying":
            self._replying -= call.cost
            leaving = call.outgoing is not None and call.outgoing.started
            if call.outgoing is not None:
                self.outbox.drop(call.outgoing)
                call.outgoing = None
            if call.done is not None:
                if leaving:  # the wire may still read what was taken for it
                    self.outbox.left.append(call.done)
                else:
                    call.done()
        else:
            # the buffers stay as they are: a thread of the handler may still read them
            self.account.give(call.got)
            if call.place is not None:
                call.place.give_up()
                call.place = None
            call.buffer = None
        call.state = "ended"

    def _error(self, id_: int, error: ReedbedError) -> None:
        epoch, term = self._position()
        self.outbox.control(Frame(frames.ERROR, id_, error=_trimmed(error), epoch=epoch, term=term))


def _is_utf8(text: str) -> bool:
    """Whether it can be sent as it is: names of files may hold what no UTF-8 says."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _trimmed(error: ReedbedError) -> ReedbedError:
    """The error with texts that fit into a frame."""
    texts = (error.what, error.where, error.hint)
    if max(map(len, texts)) <= _ERROR_TEXT_MAX and all(map(_is_utf8, texts)):
        return error
    what, where, hint = (text[:_ERROR_TEXT_MAX].encode("utf-8", "replace").decode() for text in texts)
    return rebuild(error.code, what, where, hint, error.retryable, error.maybe_applied)
