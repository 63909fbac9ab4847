"""An event loop on virtual time for a whole cluster in one thread, and the processes that share it.

Invariants
- One seed, one run: what is chosen is drawn from the given source of randomness, in an order that depends on nothing
  else. Tasks and futures hash by their number, so that sets of them iterate the same in every run.
- Every handle belongs to the process in whose context it was made. Within a process handles run in the order in which
  they became ready, as asyncio promises; between processes the order is drawn.
- A dead process runs no handle ever again; nothing of it is cleaned up. A paused one runs none until it is resumed.
- What would run in a thread runs inline at a drawn moment: it begins, and takes effect, some time after it was asked
  for, and its result arrives some time after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from random import Random
from typing import Any, Final
from unittest.mock import patch

from reedbed.common.runner import WHEN_WOKEN, Running, Step

TICK_S: Final = 1e-6  # that each handle takes, so that time goes on whatever is done
BURST: Final = 12  # handles of one process in a row, at most
CURRENT: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


class Gone(BaseException):
    """Raised where a process ends in the midst of what it does."""


class Process:
    """One process of the simulated machines: what it has to run, its clock, how slow it is.

    delay: seconds, drawn anew for each piece of work beside the loop. dead, paused: see the module's text.
    """

    def __init__(self, loop: SimLoop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.dead = False
        self.paused = False
        self.ready: deque[asyncio.Handle] = deque()
        self.delay: Callable[[], float] = lambda: loop.rng.uniform(1e-5, 1e-3)
        self.offset = loop.rng.uniform(0, 1e5)  # of its monotonic clock
        self.wall_ahead = 0.0  # of its wall clock, changed by jumps
        self.kept: list[object] = []  # so that nothing of a dead process is finalized
        self.steps: list[_SimRunning] = []  # what its runners run
        self.context = contextvars.copy_context()
        self.context.run(CURRENT.set, self)

    def monotonic(self) -> float:
        return self.loop.time() + self.offset

    def wall(self) -> float:
        return 1_700_000_000.0 + self.loop.time() + self.wall_ahead

    def kill(self) -> None:
        """It runs no further; what it has under way stays as it is."""
        self.dead = True
        self.kept += self.ready
        self.ready.clear()

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Runs it within this process."""
        # a copy, since the context may be in use: what ends a process may be called within it
        task: asyncio.Task[Any] = self.context.copy().run(self.loop.create_task, work, name=name)
        self.kept.append(task)
        return task


class SimFuture(asyncio.Future[Any]):
    """A future that hashes by its number."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._number = number

    def __hash__(self) -> int:
        return self._number


class SimTask(asyncio.Task[Any]):
    """A task that hashes by its number."""

    def __init__(
        self, number: int, work: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop, **how: Any
    ) -> None:
        # before anything else, since the set of all tasks asks for it at once
        self._number = number
        super().__init__(work, loop=loop, **how)

    def __hash__(self) -> int:
        return self._number


class SimLoop(asyncio.BaseEventLoop):
    """See the module's text."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self.rng = rng
        self._now = 0.0
        self._count = 0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._processes: list[Process] = []
        self.handles = 0  # that have run
        self.root = self.process("world")
        self.problems: list[str] = []  # what must not have happened within a process
        self.set_exception_handler(self._note)

    def process(self, name: str) -> Process:
        """A new process of that name."""
        made = Process(self, name)
        self._processes.append(made)
        return made

    def forget(self, process: Process) -> None:
        """A dead process is not looked at any more."""
        self._processes.remove(process)

    def number(self) -> int:
        self._count += 1
        return self._count

    # What asyncio asks of a loop

    def time(self) -> float:
        return self._now

    def create_future(self) -> asyncio.Future[Any]:
        return SimFuture(self.number(), self)

    def create_task(self, work: Any, *, name: object = None, context: contextvars.Context | None = None) -> Any:
        how: dict[str, Any] = {} if context is None else {"context": context}
        number = self.number()
        return SimTask(number, work, self, name=f"t{number}" if name is None else str(name), **how)

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._enqueue(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, self.number(), handle))
        return handle

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def run_in_executor(self, executor: Any, work: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        return asyncio.wrap_future(_begin(self, lambda: work(*args)), loop=self)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is dropped when its time has come."""

    def _write_to_self(self) -> None:
        """There is no selector to wake."""

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _run_once(self) -> None:
        self._take_due()
        runnable = [process for process in self._processes if process.ready and not process.paused]
        if not runnable:
            if not self._timers:
                raise RuntimeError("nothing is left to do, and nothing will happen: the simulation waits for itself")
            self._now = max(self._now, self._timers[0][0])
            return
        process = runnable[0] if len(runnable) == 1 else runnable[int(self.rng.random() * len(runnable))]
        for _ in range(1 + int(self.rng.random() * BURST)):
            if process.dead or process.paused or not process.ready:
                break
            handle = process.ready.popleft()
            self.handles += 1
            self._now += TICK_S
            if not handle.cancelled():
                handle._run()
            if self._timers and self._timers[0][0] <= self._now:
                self._take_due()

    def _take_due(self) -> None:
        while self._timers and self._timers[0][0] <= self._now:
            handle = heapq.heappop(self._timers)[2]
            if not handle.cancelled():
                self._enqueue(handle)

    def _enqueue(self, handle: asyncio.Handle) -> None:
        process = handle._context.get(CURRENT, self.root)  # type: ignore[attr-defined]
        if process.dead:
            process.kept.append(handle)
        else:
            process.ready.append(handle)

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Gone) or CURRENT.get(self.root).dead:
            return
        self.problems.append(f"{CURRENT.get(self.root).name}: {context.get('message')}: {error!r}")


def current(loop: SimLoop) -> Process:
    """The process that runs now."""
    return CURRENT.get(loop.root)


def _begin(loop: SimLoop, work: Callable[[], Any]) -> Future[Any]:
    """Runs it as a thread of the process would. Cancelling the future before it has begun drops it."""
    process = current(loop)
    future: Future[Any] = Future()

    def begin() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = work()
        except Gone:
            return
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            loop.call_later(process.delay() / 4, _settle, future, None, error)
        else:
            loop.call_later(process.delay() / 4, _settle, future, result, None)

    loop.call_later(process.delay(), begin)
    return future


def _settle(future: Future[Any], result: Any, error: BaseException | None) -> None:
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


class SimExecutor(Executor):
    """Threads of the process that submits."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def submit(self, work: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        return _begin(self._loop, lambda: work(*args, **named))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Whoever waited for the reads under way has waited for their futures."""


class SimRunner:
    """Runs steps of one process, on virtual time. A step's delay is the process's."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def start(self, name: str, step: Step, after: float = 0.0) -> Running:
        return _SimRunning(self._process, name, step, after)


class _SimRunning:
    def __init__(self, process: Process, name: str, step: Step, after: float) -> None:
        self._process = process
        self._name = name
        self._step = step
        self._timer: asyncio.TimerHandle | None = None
        self._in_step = False
        self._again = False
        self.alive = True
        process.steps.append(self)
        self._later(after)

    def wake(self) -> None:
        if not self.alive:
            return
        if self._in_step:
            self._again = True
            return
        soon = self._process.loop.time() + self._process.delay()
        if self._timer is None or self._timer.when() > soon:
            self._at(soon)

    def join(self) -> None:
        """Does what is left inline."""
        for _ in range(10_000):
            if not self.alive:
                return
            self._call()
        raise AssertionError(f"{self._name} does not end")

    def help(self) -> None:
        """Somebody of the process waits, blocked: this goes on meanwhile, unless it is what waits."""
        if self.alive and not self._in_step:
            self._call()

    def _later(self, pause: float) -> None:
        if pause != WHEN_WOKEN:
            self._at(self._process.loop.time() + pause + self._process.delay())

    def _at(self, when: float) -> None:
        self._drop_timer()
        self._timer = self._process.loop.call_at(when, self._fire, context=self._process.context)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        if self.alive:
            with contextlib.suppress(Gone):
                self._call()

    def _call(self) -> None:
        self._in_step, self._again = True, False
        pause: float | None = None
        try:
            pause = self._step()
        finally:
            self._in_step = False
            if pause is None:  # it ended, or failed as a thread would
                self.alive = False
                self._drop_timer()
        if pause is not None:
            self._later(0.0 if self._again else pause)


@contextlib.contextmanager
def blocking() -> Iterator[None]:
    """Within the context a wait for another thread's future lets the steps of the process go on, as threads would."""
    plain = Future.result

    def result(future: Future[Any], timeout: float | None = None) -> Any:
        loop = asyncio.get_running_loop() if not future.done() else None
        if isinstance(loop, SimLoop):
            for _ in range(1000):
                if future.done():
                    break
                for step in list(current(loop).steps):
                    step.help()
            assert future.done(), "a thread waits for what does not come"
        return plain(future, timeout)

    with patch.object(Future, "result", result):
        yield
