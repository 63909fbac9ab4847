"""One event loop in one background thread, for callers that are not asynchronous.

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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Final, Generic, TypeVar

import uvloop

from reedbed.client.core import forked
from reedbed.client.system import fill_standard
from reedbed.common.errors import InvalidArgument, Unavailable

T = TypeVar("T")

CLEAN_UP_S: Final = 6.0


class LoopThread:
    """Starts at once, ends at `stop` or with the process."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        fill_standard()
        self._loop = uvloop.new_event_loop()
        self._stopped = False
        self._guard = threading.RLock()  # the garbage collector may call `run` or `stop` within it, in the same thread
        self._thread = threading.Thread(target=self._serve, name="reedbed", daemon=True)
        self._thread.start()

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
                "a synchronous call within the store's own event loop would wait for itself",
                hint="Use reedbed.aio there",
            )

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs the coroutine that `work` makes, in the loop, and returns or raises what it does."""
        call: _Call[T] = _Call(self._loop, work)
        if self.forked:
            raise forked()  # before the guard, which a thread of the parent may have held
        try:
            with self._guard:  # so that what is begun is begun before `stop` has an effect
                self.check()
                call.begun = True
                self._loop.call_soon_threadsafe(call.start)
            call.done.wait()
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
        """Ends the thread. Calls under way in other threads get Unavailable. May be called twice."""
        if self.forked:
            return
        with self._guard:
            if self._stopped:
                return
            self._stopped = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        if not self.inside:
            self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()


class _Call(Generic[T]):
    """One coroutine on its way through the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._loop = loop
        self._work = work
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
        self._task.add_done_callback(lambda _: self.done.set())

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
