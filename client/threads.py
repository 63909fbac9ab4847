"""Threads for the caller's own blocking code: a file's `read`, an iterator.

They are daemon threads, unlike those of concurrent.futures: code that blocks for ever keeps neither the store from
closing nor the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from reedbed.common.errors import ReedbedError, Unavailable

T = TypeVar("T")

THREADS: Final = 128
IDLE_S: Final = 10.0  # after which a thread that has nothing to do ends


class ForeignThreads:
    """At most THREADS of them; what comes when all are busy waits for its turn.

    What would end an event loop, or cannot pass through a future (SystemExit, KeyboardInterrupt, StopIteration), comes
    back as the cause of a ReedbedError: one caller's code must not end what others wait for.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._idle = 0
        self._count = 0
        self._closed = False

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """What the work returns or raises. One that was given up before its turn is not begun. Unavailable."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            if future.cancelled():
                return
            result: T | None = None
            error: BaseException | None = None
            try:
                result = _contained(work, arguments)
            except BaseException as raised:  # noqa: BLE001 - handed over to whoever waits
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, result, error)

        self._submit(job)
        return await future

    def _submit(self, job: Callable[[], None]) -> None:
        with self._changed:
            if self._closed:
                raise Unavailable("the store is closed", hint="Connect again", retryable=False)
            self._jobs.append(job)
            if self._idle >= len(self._jobs) or self._count == THREADS:
                self._changed.notify()
                return
            self._count += 1
        threading.Thread(target=self._serve, name="reedbed-source", daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._jobs or self._closed, IDLE_S)
                self._idle -= 1
                if not self._jobs:
                    self._count -= 1
                    return
                job = self._jobs.popleft()
            job()
            del job  # it holds the caller's bytes

    def close(self) -> None:
        """Takes nothing more, and waits for nobody."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()


def _contained(work: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    try:
        return work(*arguments)
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        raise ReedbedError(f"where the bytes come from, {type(error).__name__} was raised: {error}") from error


def _settle(future: asyncio.Future[T], result: T | None, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)  # type: ignore[arg-type]
