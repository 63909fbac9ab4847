"""Both ends of a lane in asyncio, over anything that carries messages of bytes in order (a Wire), or frames (a Pump).

Invariants:
- A caller's task gets its outcome exactly once; after its cancellation or deadline its call is forgotten by the mux.
- A lane that has fallen silent is left: when a call's deadline passes and nothing came in for SILENT_S, although asked.
- A server's end runs one task for each call that has come whole and that its service does not begin without one, and
  has none left when `run` has returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar, runtime_checkable

from reedbed.common import logs
from reedbed.common.checksums import Buffer
from reedbed.common.clock import Clock, Deadline, SystemClock
from reedbed.common.errors import Corrupt, DeadlineExceeded, ReedbedError, Unavailable
from reedbed.transport.buffers import Buffers
from reedbed.transport.frames import Frame, decode, encode
from reedbed.transport.lane import Hello, HotService, Reply, Response, Service
from reedbed.transport.mux import ClientCall, ClientMux, End, Outcome
from reedbed.transport.mux_server import Budget, ServerCall, ServerMux, Start

K = TypeVar("K")

log = logs.get("transport")

SILENT_S: Final = 2.0  # a lane that says nothing for so long, although asked, is left when a call's time is up
STALLED_S: Final = 30.0  # a client that takes no answers for so long, and asks for more, is left
_CREDIT_DELAY_S: Final = 0.005  # a little owed credit waits so long for a message to travel in


@runtime_checkable
class Wire(Protocol):
    """Messages in order, both ways, until it ends."""

    async def read(self) -> bytes | None:
        """The next message, None when the other side ended the wire. Raises one of our errors if it broke."""
        ...

    async def write(self, parts: list[Buffer]) -> None:
        """Sends one message made of these parts; they may change after that. Raises one of our errors if it broke."""
        ...


class Pump(Protocol):
    """Moves frames between a mux and what carries them."""

    def wake(self) -> None:
        """Call after anything was done to the mux: sends what is worth sending."""
        ...

    def finish(self) -> None:
        """Ends it as soon as no call is under way and nothing waits to be sent."""
        ...

    async def run(self, receive: Callable[[Sequence[Frame]], None]) -> None:
        """Until it ends; raises what broke it, or Corrupt from `receive`."""
        ...


class PumpMaker(Protocol):
    """What carries frames by itself, such as a framed stream."""

    def pump(self, mux: End) -> Pump: ...


def _pump(mux: End, wire: Wire | PumpMaker) -> Pump:
    return WirePump(mux, wire) if isinstance(wire, Wire) else wire.pump(mux)


class WirePump:
    """A pump of a wire, with a task for each direction."""

    def __init__(self, mux: End, wire: Wire) -> None:
        self._mux = mux
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._something = asyncio.Event()
        self._progress = asyncio.Event()
        self._lazy: asyncio.TimerHandle | None = None
        self._finishing = False

    def finish(self) -> None:
        self._finishing = True
        self._something.set()

    def wake(self) -> None:
        if self._mux.pending or self._finishing or self._mux.outbox.left:
            self._something.set()
        elif self._mux.owing and self._lazy is None:
            self._lazy = self._loop.call_later(_CREDIT_DELAY_S, self._something.set)

    async def run(self, receive: Callable[[Sequence[Frame]], None]) -> None:
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

    async def _read(self, receive: Callable[[Sequence[Frame]], None]) -> None:
        while (data := await self._wire.read()) is not None:
            receive(decode(data))
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
                self._mux.sent()
                self._progress.set()
            self._mux.sent()
            if self._finishing and not self._mux.busy:
                return


class _Watch(Generic[K]):
    """Tells of calls whose deadline has passed by its own clock, which need not be the loop's; one timer for all."""

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[K], object]) -> None:
        self._loop = loop
        self._passed = passed
        self._deadlines: dict[K, Deadline] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._when = 0.0
        self._closed = False

    def add(self, call: K, deadline: Deadline, left: float) -> None:
        """`left`: seconds of the deadline."""
        self._deadlines[call] = deadline
        self._look_at(self._loop.time() + left)

    def discard(self, call: K) -> None:
        self._deadlines.pop(call, None)

    def close(self) -> None:
        """Tells of nothing any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _look_at(self, when: float) -> None:
        """Looks by then at the latest."""
        if self._closed:
            return
        if self._timer is not None:
            if self._when <= when:
                return
            self._timer.cancel()
        self._when = when
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer = None
        soonest: float | None = None
        for call, deadline in list(self._deadlines.items()):
            left = deadline.left()
            if left == 0.0:
                if self._deadlines.pop(call, None) is not None:
                    try:
                        self._passed(call)
                    except Exception:  # a bug, of one call alone
                        log.exception("a call whose deadline has passed could not be ended")
            elif left is not None and (soonest is None or left < soonest):
                soonest = left
        if soonest is not None:
            self._look_at(self._loop.time() + soonest)


class MuxLane:
    """A lane (see lane.py) over a wire. `address` is told in errors."""

    def __init__(
        self, hello: Hello, wire: Wire | PumpMaker, address: str, end_wire: Callable[[], Awaitable[None]]
    ) -> None:
        """`end_wire` is called when the lane has ended; a second call must do no harm."""
        self._hello = hello
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._mux = ClientMux(hello.window, hello.max_payload)
        self._mux.epoch, self._mux.term = hello.epoch, hello.term
        self._pump = _pump(self._mux, wire)
        self._watch: _Watch[ClientCall] = _Watch(self._loop, self._late)
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
        future: asyncio.Future[Outcome] = self._loop.create_future()

        def done(outcome: Outcome) -> None:
            if not future.done():
                future.set_result(outcome)

        call = self.begin(method, header, payload, deadline=deadline, done=done, into=into, epoch=epoch)
        try:
            outcome = await future
        except asyncio.CancelledError:
            self.cancel(call)
            raise
        if isinstance(outcome, Reply):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # its traceback knows this frame, and the frame the caller's buffers

    def begin(
        self,
        method: str,
        header: bytes,
        payload: Sequence[Buffer] = (),
        *,
        deadline: Deadline,
        done: Callable[[Outcome], None],
        into: memoryview | None = None,
        epoch: int = 0,
    ) -> ClientCall:
        """See lane.py."""
        if self._ended is not None:
            raise Unavailable("the lane has ended", where=self._address) from self._ended
        left = deadline.left()
        if left == 0.0:
            raise DeadlineExceeded(f"no time left for {method}", where=self._address)
        now = self._loop.time()
        if self._asked is None or (not self._mux.busy and now - self._begun >= SILENT_S):
            self._asked = now
        self._begun = now
        watch, address = self._watch, self._address

        def ended(outcome: Outcome) -> None:
            watch.discard(call)
            if isinstance(outcome, ReedbedError) and not outcome.where:
                outcome.where = address
            done(outcome)

        call = self._mux.begin(method, header, payload, deadline=deadline, done=ended, into=into, epoch=epoch)
        if left is not None:
            watch.add(call, deadline, left)
        self._pump.wake()
        return call

    def cancel(self, call: ClientCall) -> None:
        """See lane.py."""
        self._watch.discard(call)
        self._mux.cancel(call)
        call.leave()
        self._pump.wake()

    async def close(self) -> None:
        """See lane.py."""
        self._end(Unavailable("the lane was closed", where=self._address))
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._wire_ended:  # the task never began, or was stopped while it ended the wire
            await self._end_wire()
            self._wire_ended = True

    def _late(self, call: ClientCall) -> None:
        started, method = call.started, call.outgoing.head.method
        self._mux.cancel(call)
        self._pump.wake()
        call.tell(DeadlineExceeded(f"no answer to {method} in time", where=self._address, maybe_applied=started))
        if self._asked is not None and self._loop.time() - self._asked >= SILENT_S:
            # the two sides may have lost each other within a message, which pings below us do not show
            self._end(Unavailable(f"the daemon said nothing for {SILENT_S:g} s", where=self._address))
            self._task.cancel()

    def _receive(self, batch: Sequence[Frame]) -> None:
        self._asked = None
        self._mux.receive(batch)

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
        self._watch.close()
        kind = Corrupt if isinstance(error, Corrupt) else Unavailable  # both: try again, over another lane
        self._mux.close(
            lambda started: kind(
                error.what, where=self._address, hint=error.hint, retryable=True, maybe_applied=started
            )
        )


class ServerEnd:
    """One lane being served."""

    def __init__(
        self,
        wire: Wire | PumpMaker,
        service: Service,
        *,
        clock: Clock | None = None,
        hello: Hello | None = None,
        budget: Budget | None = None,
        buffers: Buffers | None = None,
    ) -> None:
        """`hello` is what the client was told, if not `service.hello()`. All lanes of a server share `budget` and
        `buffers`."""
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
            buffers=buffers,
        )
        self._begin = service.begin if isinstance(service, HotService) else None
        self._begun: dict[ServerCall, Callable[[], None]] = {}  # without a task: what cancels each
        self._pump = _pump(self._mux, wire)
        self._watch: _Watch[ServerCall] = _Watch(self._loop, self._late)
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
            self._watch.close()
            self._mux.close()
            begun, self._begun = self._begun, {}
            for call, cancel in begun.items():
                self._give_up(call, cancel, Unavailable("the lane has ended"))
            for task in self._handlers.values():
                task.cancel()
            if self._handlers:
                await asyncio.wait(self._handlers.values())
            self._mux.forget()

    def _receive(self, batch: Sequence[Frame]) -> None:
        for event in self._mux.receive(batch):
            call = event.call
            if isinstance(event, Start):
                self._start(call)
            elif call in self._begun:
                self._give_up(call, self._begun.pop(call), Unavailable("the caller gave up"))
            elif call in self._handlers:
                self._handlers[call].cancel()

    def _start(self, call: ServerCall) -> None:
        request = call.request
        left = request.deadline.left()
        if left == 0.0:
            self._fail(call, DeadlineExceeded(f"the request of {request.method} came after its deadline"))
            return
        if self._begin is not None:
            try:
                cancel = self._begin(request, lambda outcome: self._answered(call, outcome))
            except ReedbedError as problem:
                self._fail(call, problem)
                return
            except Exception:
                log.exception("a handler of %s failed", request.method)
                self._fail(call, ReedbedError("the daemon failed at this call", hint="Its log says why"))
                return
            if cancel is not None:
                if call.state == "running":
                    self._begun[call] = cancel
                    if left is not None:
                        self._watch.add(call, request.deadline, left)
                return
        task = self._handlers[call] = self._loop.create_task(self._handle(call))
        task.add_done_callback(lambda task: self._done(call, task))
        if left is not None:
            self._watch.add(call, request.deadline, left)

    def _answered(self, call: ServerCall, outcome: Response | ReedbedError) -> None:
        """The answer to a call that was begun without a task."""
        self._begun.pop(call, None)
        self._watch.discard(call)
        if call.state not in ("running", "stopped"):  # it was given up before
            if isinstance(outcome, Response) and outcome.done is not None:
                outcome.done()
        elif isinstance(outcome, Response):
            self._mux.reply(call, outcome)
            self._pump.wake()
        else:
            self._fail(call, outcome)

    def _give_up(self, call: ServerCall, cancel: Callable[[], None], error: ReedbedError) -> None:
        """Nobody waits for a call that was begun without a task: its answer, should it still come, is dropped."""
        try:
            cancel()
        except Exception:
            log.exception("%s could not be cancelled", call.request.method)
        self._answered(call, error)

    def _late(self, call: ServerCall) -> None:
        """The deadline of a call has passed."""
        task = self._handlers.get(call)
        if task is not None:
            task.cancel()
            return
        cancel = self._begun.pop(call, None)
        if cancel is not None:
            method = call.request.method
            error = DeadlineExceeded(f"{method} was stopped at its deadline", maybe_applied=True)
            self._give_up(call, cancel, error)

    async def _handle(self, call: ServerCall) -> None:
        try:
            self._mux.reply(call, await self._service.handle(call.request))
        except ReedbedError as problem:
            self._fail(call, problem)
        except Exception:
            log.exception("a handler of %s failed", call.request.method)
            self._fail(call, ReedbedError("the daemon failed at this call", hint="Its log says why"))
        else:
            self._pump.wake()

    def _fail(self, call: ServerCall, error: ReedbedError) -> None:
        self._mux.fail(call, error)
        self._pump.wake()

    def _done(self, call: ServerCall, task: asyncio.Task[None]) -> None:
        del self._handlers[call]
        self._watch.discard(call)
        if not task.cancelled():
            return
        # by the caller, who waits for nothing, by the deadline, since the lane has ended, or by the handler itself
        method = call.request.method
        if call.request.deadline.left() == 0.0:
            self._fail(call, DeadlineExceeded(f"{method} was stopped at its deadline", maybe_applied=True))
        else:
            self._fail(call, Unavailable(f"{method} was stopped by the daemon", maybe_applied=True))
