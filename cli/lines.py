"""Lines on standard output from within an event loop, which must not wait for whoever reads them.

A thread of its own writes what has gathered, so that a reader that pauses delays the next step and nothing that is
already under way, and a terminal is redrawn once for many lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Final

PENDING_MAX: Final = 1000  # lines; who brings more waits


class Lines:
    """Made and used within one event loop. The thread is a daemon: it keeps no process from ending."""

    def __init__(self, write: Callable[[Sequence[str]], None]) -> None:
        """`write` writes some lines; it runs in the thread."""
        self._write = write
        self._changed = threading.Condition()
        self._pending: list[str] = []
        self._writing = False
        self._error: BaseException | None = None
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None], int]] = []
        self._thread: threading.Thread | None = None

    async def put(self, line: str) -> None:
        """Takes a line; waits while too many are pending. Raises what writing raised, such as BrokenPipeError."""
        with self._changed:
            self._raise()
            self._pending.append(line)
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="lines", daemon=True)
            self._thread.start()
        await self._until(PENDING_MAX)

    async def drain(self) -> None:
        """Returns when all lines are written. Raises what writing raised."""
        await self._until(0)

    async def _until(self, most: int) -> None:
        with self._changed:
            self._raise()
            if self._left() <= most:
                return
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            self._waiters.append((loop, future, most))
        await future
        with self._changed:
            self._raise()

    def _left(self) -> int:
        return len(self._pending) + self._writing

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending)
                lines, self._pending = self._pending, []
                self._writing = True
            try:
                self._write(lines)
            except BaseException as error:  # noqa: BLE001 - handed over to whoever brings the next line
                self._error = error
            with self._changed:
                self._writing = False
                ready = [waiter for waiter in self._waiters if self._error or self._left() <= waiter[2]]
                self._waiters = [waiter for waiter in self._waiters if waiter not in ready]
            for loop, future, _ in ready:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(_wake, future)
            if self._error is not None:
                return


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
