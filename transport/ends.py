"""Both ends of a lane in asyncio, over anything that carries messages of bytes in order (a Wire).

Invariants:
- A caller's task gets its outcome exactly once; after its cancellation or deadline its call is forgotten by the mux.
- A lane that has fallen silent is left: when a call's deadline passes and nothing came in for SILENT_S, although asked.
- A server's end runs one task for each call that has come whole, and has none left when `run` has returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from reedbed.common import logs
from reedbed.common.checksums import Buffer
from reedbed.common.clock import Clock, Deadline, SystemClock
from reedbed.common.errors import Corrupt, DeadlineExceeded, ReedbedError, Unavailable
from reedbed.transport.frames import decode, encode
from reedbed.transport.lane import Hello, Reply, Service
from reedbed.transport.mux import ClientCall, ClientMux, Outcome
from reedbed.transport.mux_server import Budget, ServerCall, ServerMux, Start

log = logs.get("transport")

SILENT_S: Final = 2.0  # a lane that says nothing for so long, although asked, is left when a call's time is up
STALLED_S: Final = 30.0  # a client that takes no answers for so long, and asks for more, is left
_CREDIT_DELAY_S: Final = 0.005  # a little owed credit waits so long for a message to travel in


class Wire(Protocol):
    """Messages in order, both ways, until it ends."""

    async def read(self) -> bytes | None:
        """The next message, None when the other side ended the wire. Raises one of our errors if it broke."""
        ...

    async def write(self, parts: list[Buffer]) -> None:
        """Sends one message made of these parts; they may change after that. Raises one of our errors if it broke."""
        ...


class _Pump:
    """Moves messages between a mux and its wire."""

    def __init__(self, mux: ClientMux | ServerMux, wire: Wire) -> None:
        self._mux = mux
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._something = asyncio.Event()
        self._progress = asyncio.Event()
        self._lazy: asyncio.TimerHandle | None = None
        self._finishing = False

    def finish(self) -> None:
        """Ends the wire as soon as no call is under way and nothing waits to be sent."""
        self._finishing = True
        self._something.set()

    def wake(self) -> None:
        """Call after anything was done to the mux: sends what is worth sending."""
        if self._mux.pending or self._finishing:
            self._something.set()
        elif self._mux.owing and self._lazy is None:
            self._lazy = self._loop.call_later(_CREDIT_DELAY_S, self._something.set)

    async def run(self, receive: Callable[[bytes], None]) -> None:
        """Until the wire ends; raises what broke it, or Corrupt from `receive`."""
        self._something.set()
        sides = [asyncio.ensure_future(self._read(receive)), asyncio.ensure_future(self._write())]
        try:
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._lazy is not None:
                self._lazy.cancel()
            for side in sides:
                side.cancel()
            outcomes = await asyncio.gather(*sides, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
                raise outcome

    async def _read(self, receive: Callable[[bytes], None]) -> None:
        while (data := await self._wire.read()) is not None:
            receive(data)
            self.wake()
            while self._mux.congested:
                self._progress.clear()
                try:
                    await asyncio.wait_for(self._progress.wait(), STALLED_S)
                except TimeoutError:
                    raise Unavailable("the other end takes no answers") from None

    async def _write(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            if self._lazy is not None:
                self._lazy.cancel()
                self._lazy = None
            while batch := self._mux.next_batch():
                await self._wire.write(encode(batch))
                self._progress.set()
            if self._finishing and not self._mux.busy:
                return


class MuxLane:
    """A lane (see lane.py) over a wire. `address` is told in errors."""

    def __init__(self, hello: Hello, wire: Wire, address: str, end_wire: Callable[[], Awaitable[None]]) -> None:
        """`end_wire` is called when the lane has ended; a second call must do no harm."""
        self._hello = hello
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._mux = ClientMux(hello.window, hello.max_payload)
        self._mux.epoch, self._mux.term = hello.epoch, hello.term
        self._pump = _Pump(self._mux, wire)
        self._end_wire = end_wire
        self._ended: ReedbedError | None = None
        self._asked: float | None = None  # since when nothing has come in, although asked, by the loop's clock
        self._begun = 0.0  # the last call
        self._wire_ended = False
        self._task = asyncio.ensure_future(self._run())

    @property
    def hello(self) -> Hello:
        return self._hello

    @property
    def broken(self) -> bool:
        return self._ended is not None

    @property
    def busy(self) -> int:
        """Calls under way."""
        return self._mux.busy

    @property
    def answered(self) -> bool:
        """The daemon has answered a call."""
        return self._mux.answered

    @property
    def seen(self) -> tuple[int, int]:
        """Map epoch and term of the newest answer."""
        return self._mux.epoch, self._mux.term

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
        """See lane.py."""
        if self._ended is not None:
            raise Unavailable("the lane has ended", where=self._address) from self._ended
        left = deadline.left()
        if left == 0.0:
            raise DeadlineExceeded(f"no time left for {method}", where=self._address)
        future: asyncio.Future[Outcome] = self._loop.create_future()

        def done(outcome: Outcome) -> None:
            if not future.done():
                future.set_result(outcome)

        now = self._loop.time()
        if self._asked is None or (not self._mux.busy and now - self._begun >= SILENT_S):
            self._asked = now
        self._begun = now
        call = self._mux.begin(method, header, payload, deadline=deadline, done=done, into=into, epoch=epoch)
        self._pump.wake()
        timer = None if left is None else _Timer(self._loop, deadline, lambda: self._late(call, method, done))
        try:
            outcome = await future
        except asyncio.CancelledError:
            self._mux.cancel(call)
            self._pump.wake()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if isinstance(outcome, Reply):
            return outcome
        if not outcome.where:
            outcome.where = self._address
        try:
            raise outcome
        finally:
            del outcome  # its traceback knows this frame, and the frame the caller's buffers

    async def close(self) -> None:
        """See lane.py."""
        self._end(Unavailable("the lane was closed", where=self._address))
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._wire_ended:  # the task never began, or was stopped while it ended the wire
            await self._end_wire()
            self._wire_ended = True

    def _late(self, call: ClientCall, method: str, done: Callable[[Outcome], None]) -> None:
        started = call.started
        self._mux.cancel(call)
        self._pump.wake()
        done(DeadlineExceeded(f"no answer to {method} in time", where=self._address, maybe_applied=started))
        if self._asked is not None and self._loop.time() - self._asked >= SILENT_S:
            # the two sides may have lost each other within a message, which pings below us do not show
            self._end(Unavailable(f"the daemon said nothing for {SILENT_S:g} s", where=self._address))
            self._task.cancel()

    def _receive(self, data: bytes) -> None:
        self._asked = None
        self._mux.receive(decode(data))

    async def _run(self) -> None:
        error: ReedbedError = Unavailable("the daemon ended the lane", where=self._address)
        try:
            await self._pump.run(self._receive)
        except ReedbedError as problem:
            error = problem
        finally:
            self._end(error)
            await self._end_wire()
            self._wire_ended = True

    def _end(self, error: ReedbedError) -> None:
        if self._ended is not None:
            return
        self._ended = error
        kind = Corrupt if isinstance(error, Corrupt) else Unavailable  # both: try again, over another lane
        self._mux.close(
            lambda started: kind(
                error.what, where=self._address, hint=error.hint, retryable=True, maybe_applied=started
            )
        )


class _Timer:
    """Calls back once the deadline has passed by its own clock, which need not be the loop's."""

    __slots__ = ("_deadline", "_handle", "_loop", "_passed")

    def __init__(self, loop: asyncio.AbstractEventLoop, deadline: Deadline, passed: Callable[[], object]) -> None:
        self._loop = loop
        self._deadline = deadline
        self._passed = passed
        self._handle = loop.call_later(deadline.left() or 0.0, self._fire)

    def cancel(self) -> None:
        self._handle.cancel()

    def _fire(self) -> None:
        left = self._deadline.left()
        if left:
            self._handle = self._loop.call_later(left, self._fire)
        else:
            self._passed()


class ServerEnd:
    """One lane being served."""

    def __init__(
        self,
        wire: Wire,
        service: Service,
        *,
        clock: Clock | None = None,
        hello: Hello | None = None,
        budget: Budget | None = None,
    ) -> None:
        """`hello` is what the client was told, if not `service.hello()`. All lanes of a server share `budget`."""
        hello = hello or service.hello()
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._mux = ServerMux(
            service.position,
            clock or SystemClock(),
            window=hello.window,
            max_calls=hello.max_calls,
            max_payload=hello.max_payload,
            budget=budget,
        )
        self._pump = _Pump(self._mux, wire)
        self._handlers: dict[ServerCall, asyncio.Task[None]] = {}

    def drain(self) -> None:
        """Takes no new calls, and ends the lane once those under way are answered."""
        self._mux.drain()
        self._pump.finish()

    async def run(self) -> None:
        """Serves until the wire ends or this task is cancelled; then all its handlers are cancelled.

        Raises what broke the wire, and Corrupt if the client does not keep the protocol.
        """
        try:
            await self._pump.run(self._receive)
        finally:
            self._mux.close()
            for task in self._handlers.values():
                task.cancel()
            if self._handlers:
                await asyncio.wait(self._handlers.values())

    def _receive(self, data: bytes) -> None:
        for event in self._mux.receive(decode(data)):
            call = event.call
            if isinstance(event, Start):
                task = self._handlers[call] = self._loop.create_task(self._handle(call))
                task.add_done_callback(lambda task, call=call: self._done(call, task))  # type: ignore[misc]
            else:
                self._handlers[call].cancel()

    async def _handle(self, call: ServerCall) -> None:
        request = call.request
        left = request.deadline.left()
        if left == 0.0:
            self._fail(call, DeadlineExceeded(f"the request of {request.method} came after its deadline"))
            return
        timer = None if left is None else _Timer(self._loop, request.deadline, self._handlers[call].cancel)
        try:
            self._mux.reply(call, await self._service.handle(request))
        except ReedbedError as problem:
            self._fail(call, problem)
        except Exception:
            log.exception("a handler of %s failed", request.method)
            self._fail(call, ReedbedError("the daemon failed at this call", hint="Its log says why"))
        else:
            self._pump.wake()
        finally:
            if timer is not None:
                timer.cancel()

    def _fail(self, call: ServerCall, error: ReedbedError) -> None:
        self._mux.fail(call, error)
        self._pump.wake()

    def _done(self, call: ServerCall, task: asyncio.Task[None]) -> None:
        del self._handlers[call]
        if not task.cancelled():
            return
        # by the caller, who waits for nothing, by the deadline, since the lane has ended, or by the handler itself
        method = call.request.method
        if call.request.deadline.left() == 0.0:
            self._fail(call, DeadlineExceeded(f"{method} was stopped at its deadline", maybe_applied=True))
        else:
            self._fail(call, Unavailable(f"{method} was stopped by the daemon", maybe_applied=True))
