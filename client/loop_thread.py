"""The process's one event loop in a background thread, for callers that are not asynchronous.

All synchronous stores share it, and it lives as long as the process: gRPC hands its events around between the loops of
a process, and one that was closed meanwhile would make it lose them.

Invariants:
- Any number of threads may call `run` at once; the loop's own thread may not, since it would wait for itself.
- A caller that is interrupted (KeyboardInterrupt) gives its work up and waits a moment for it to clean up.
- In a forked process the thread does not exist, and `run` says so instead of waiting for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, ClassVar, Final, Generic, TypeVar

import uvloop

from reedbed.client.core import forked
from reedbed.client.system import fill_standard
from reedbed.common.errors import InvalidArgument, Unavailable

T = TypeVar("T")

LOOK_S: Final = 0.5
CLEAN_UP_S: Final = 6.0


class _Loop:
    """The loop and its thread. A forked process makes its own."""

    _one: ClassVar[_Loop | None] = None
    _making: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        fill_standard()
        self.loop = uvloop.new_event_loop()
        self.thread = threading.Thread(target=self._serve, name="reedbed", daemon=True)
        self.thread.start()
        # at the end of the process, behind the stores that were made later and are still open
        weakref.finalize(self, _stop, self.loop, self.thread, os.getpid())

    @classmethod
    def get(cls) -> _Loop:
        with cls._making:
            if cls._one is None:
                cls._one = cls()
            return cls._one

    @classmethod
    def forget(cls) -> None:
        """In a forked child: the thread is not there, and whoever held the lock is not either."""
        cls._inherited, cls._one, cls._making = cls._one, None, threading.Lock()

    _inherited: ClassVar[_Loop | None] = None  # kept, since closing it would close the parent's descriptors

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            self.loop.close()


os.register_at_fork(after_in_child=_Loop.forget)


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, pid: int) -> None:
    if os.getpid() == pid:
        with contextlib.suppress(RuntimeError):  # it is closed already
            loop.call_soon_threadsafe(loop.stop)
        thread.join(CLEAN_UP_S)


class LoopThread:
    """One store's way into the loop, until `stop`."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        shared = _Loop.get()
        self._loop, self._thread = shared.loop, shared.thread
        self._stopped = False
        self._guard = threading.RLock()  # the garbage collector may call `run` or `stop` within it, in the same thread
        self._calls: set[_Call[Any]] = set()  # under way; only within the loop

    @property
    def forked(self) -> bool:
        """Whether this is another process than the one that the thread is in."""
        return os.getpid() != self._pid

    @property
    def inside(self) -> bool:
        """Whether this is the loop's own thread."""
        return threading.current_thread() is self._thread

    def check(self) -> None:
        """ForkedStore, Unavailable or InvalidArgument where `run` cannot work."""
        if self.forked:
            raise forked()
        if self._stopped:
            raise Unavailable("the store is closed", hint="Connect again", retryable=False)
        if self.inside:
            raise InvalidArgument(
                "a synchronous call within the loop of all synchronous stores would wait for itself",
                hint="Use reedbed.aio there",
            )

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs the coroutine that `work` makes, in the loop, and returns or raises what it does."""
        call: _Call[T] = _Call(self._loop, work, self._calls)
        if self.forked:
            raise forked()  # before the guard, which a thread of the parent may have held
        try:
            with self._guard:  # so that what is begun is begun before `stop` has an effect
                self.check()
                call.begun = True
                self._loop.call_soon_threadsafe(call.start)
            # CPython loses an interrupt that comes just before a lock is waited for: it takes effect at the next look
            while not call.done.wait(LOOK_S):
                pass
        except BaseException:
            # an interrupt; what was begun must not become visible behind the caller's back
            if call.begun:
                self.soon(call.cancel)
                call.done.wait(CLEAN_UP_S)
            raise
        return call.result()

    def iterate(self, make: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """The items of an asynchronous iterator, which is closed when the caller stops."""
        items = make()

        async def step() -> tuple[bool, T | None]:
            try:
                return True, await anext(items)
            except StopAsyncIteration:
                return False, None

        async def end() -> None:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

        self.check()
        try:
            while True:
                more, item = self.run(step)
                if not more:
                    return
                yield item  # type: ignore[misc]
        finally:
            if not (self.forked or self._stopped or self.inside):
                self.run(end)

    def soon(self, work: Callable[[], object]) -> None:
        """Has the loop call `work`, without waiting; nothing happens where there is no loop any more."""
        if not (self.forked or self._stopped):
            # the loop may end at this moment; its end does what is asked for here
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(work)

    def stop(self) -> None:
        """Calls under way in other threads get Unavailable, and later ones too. May be called twice."""
        if self.forked:
            return
        with self._guard:
            if self._stopped:
                return
            self._stopped = True
            ended = threading.Event()
            try:
                self._loop.call_soon_threadsafe(self._end_all, ended)
            except RuntimeError:  # the process is ending, and the loop has
                return
        if not self.inside:
            ended.wait(CLEAN_UP_S)

    def last(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs the coroutine as the last thing before `stop`; within the loop it is begun, and not waited for."""
        if self.forked or self._stopped:
            return
        if self.inside:
            self._last = self._loop.create_task(work())  # kept, so that it is not collected
        else:
            self.run(work)

    def _end_all(self, ended: threading.Event) -> None:
        calls = list(self._calls)
        for call in calls:
            call.cancel()

        async def wait() -> None:
            for call in calls:
                await call.wait()
            ended.set()

        self._ending = self._loop.create_task(wait())


class _Call(Generic[T]):
    """One coroutine on its way through the loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, T]], under_way: set[_Call[Any]]
    ) -> None:
        self._loop = loop
        self._work = work
        self._under_way = under_way
        self._task: asyncio.Task[T] | None = None
        self._error: Exception | None = None
        self.begun = False
        self.done = threading.Event()

    def start(self) -> None:
        try:
            work = self._work()
        except Exception as error:  # noqa: BLE001 - such as a TypeError for an unknown setting: the caller's
            self._error = error
            self.done.set()
            return
        self._task = self._loop.create_task(work)
        self._under_way.add(self)
        self._task.add_done_callback(self._ended)

    def _ended(self, _: asyncio.Task[T]) -> None:
        self._under_way.discard(self)
        self.done.set()

    async def wait(self) -> None:
        if self._task is not None:
            await asyncio.wait((self._task,))

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:
            self.done.set()  # the interrupt came before the loop was asked to start it

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        assert self._task is not None
        if self._task.cancelled():
            raise Unavailable("the store was closed meanwhile", retryable=False, maybe_applied=True)
        return self._task.result()
