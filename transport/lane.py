"""The lane contract: what every transport gives to those who call and to those who serve.

A call has a method name, a header (one protobuf message, see protos/methods.py) and a payload of raw bytes; its answer
has a header and a payload, or is one of our errors. Answers are matched by id, so that many calls share a lane.

Rules that every implementation keeps, and the conformance tests check:

1. A call ends by its deadline: with its answer, an error of the server, DeadlineExceeded, or Unavailable when the lane
   broke. `maybe_applied` is set on the last two once any of the request may have reached the server.
2. A call that is cancelled (its task is) tells the server, which cancels its handler. After that nothing is written
   into the caller's `into` any more.
3. The payload bytes under way to either side never exceed that side's window. A payload is admitted whole, so half
   payloads cannot wait for each other; calls without payload pass at once, and small calls do not wait behind bulk.
4. The server runs at most `max_calls` handlers a lane; further requests are refused with ResourceExhausted.
5. A header over HEADER_MAX or payload over PAYLOAD_MAX is refused with InvalidArgument before anything is sent.
6. Garbage ends the lane, never the process: all its calls get Corrupt or Unavailable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from reedbed.common.checksums import Buffer
from reedbed.common.clock import Deadline
from reedbed.common.errors import ReedbedError


@dataclass(frozen=True, slots=True)
class Hello:
    """What a daemon says of itself before a lane is opened."""

    cluster: bytes
    epoch: int
    term: int
    role: str
    software: str
    protocol: int
    window: int
    max_calls: int
    max_payload: int


@dataclass(slots=True)
class Request:
    """One call as its handler sees it. The payload is a list of buffers in order, to be used without joining."""

    method: str
    header: bytes
    payload: Sequence[Buffer]
    deadline: Deadline
    epoch: int
    term: int


@dataclass(slots=True)
class Response:
    """What a handler returns. Buffers of the payload must not change until they are sent.

    `done` is called once, when the payload has left or is dropped: the handler's memory for it is free again.
    """

    header: bytes
    payload: Sequence[Buffer] = ()
    done: Callable[[], None] | None = None


@dataclass(slots=True)
class Reply:
    """What a caller gets. `payload` is `into` cut to the length received if `into` was given, else a new buffer.

    epoch and term are those of the daemon when it answered.
    """

    header: bytes
    payload: memoryview = field(default_factory=lambda: memoryview(b""))
    epoch: int = 0
    term: int = 0


class Lane(Protocol):
    """A caller's end."""

    @property
    def hello(self) -> Hello: ...

    @property
    def broken(self) -> bool:
        """No further call can succeed: open another lane."""
        ...

    async def call(
        self,
        method: str,
        header: bytes,
        payload: Sequence[Buffer] = (),
        *,
        deadline: Deadline,
        into: memoryview | None = None,
        epoch: int = 0,
    ) -> Reply:
        """One call. `into` is a writable buffer of bytes that the answer's payload is received into.

        Raises what the server raised, DeadlineExceeded, Unavailable, InvalidArgument, and Corrupt for an answer that
        is longer than `into`.
        """
        ...

    def begin(
        self,
        method: str,
        header: bytes,
        payload: Sequence[Buffer] = (),
        *,
        deadline: Deadline,
        done: Callable[[Reply | ReedbedError], None],
        into: memoryview | None = None,
        epoch: int = 0,
    ) -> Any:
        """`call` without a task: `done` is told the outcome, once, from the event loop, unless the call is cancelled.

        Returns what `cancel` takes. Raises only what is known before anything is sent.
        """
        ...

    def cancel(self, call: Any) -> None:
        """Gives up a call that was begun; nothing happens once its outcome is known."""
        ...

    async def close(self) -> None:
        """Ends the lane; calls under way get Unavailable."""
        ...


class Service(Protocol):
    """The server's side: who it is, and what answers a call."""

    def hello(self) -> Hello: ...

    def position(self) -> tuple[int, int]:
        """Map epoch and term to stamp on each answer."""
        ...

    async def handle(self, request: Request) -> Response:
        """Answers one call, or raises one of our errors. Cancelled when the caller gives up or its deadline passes."""
        ...


Answer: TypeAlias = Callable[[Response | ReedbedError], None]


@runtime_checkable
class HotService(Service, Protocol):
    """A service that answers some calls without a task for each."""

    def begin(self, request: Request, answer: Answer) -> Callable[[], None] | None:
        """Begins a call that needs no task of its own, or returns None: then `handle` is to be called.

        `answer` is called once, within this call or later from the event loop's thread. Returns what cancels it, after
        which an answer may still come, and is dropped. Raises one of our errors, as `handle` does.
        """
        ...


class Connector(Protocol):
    """Opens lanes by address."""

    async def open(self, address: str, *, cluster: bytes, deadline: Deadline) -> Lane:
        """A lane to the daemon at HOST:PORT (or unix:PATH). `cluster` empty: any.

        Raises Unavailable (nobody there), WrongProtocol (something else is there), WrongCluster, DeadlineExceeded.
        """
        ...
