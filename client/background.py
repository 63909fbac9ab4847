"""Work that outlives the call that began it: tasks that are kept, ended at close and never fail in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from reedbed.common import logs
from reedbed.common.errors import ReedbedError, Unavailable, rebuild

_log = logs.get("client")


def ended(what: str, cause: BaseException, *, maybe_applied: bool) -> ReedbedError:
    """The error for those who wait for work that ended by cancellation, at close, or by what is a bug or no memory."""
    if isinstance(cause, asyncio.CancelledError):
        return Unavailable(f"the store was closed during the {what}", retryable=False, maybe_applied=maybe_applied)
    if isinstance(cause, ReedbedError):
        return rebuild(cause.code, cause.what, cause.where, cause.hint, cause.retryable, maybe_applied)
    return ReedbedError(f"the {what} failed unexpectedly: {cause!r}", maybe_applied=maybe_applied)


class Background:
    """Tasks of one store. Only within its event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Runs it; what it raises is logged, since nobody waits for it. Unavailable once closed."""
        if self._closed:
            work.close()
            raise Unavailable("the store is closed", hint="Connect again", retryable=False)
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    @property
    def closed(self) -> bool:
        """Whether nothing can be started any more."""
        return self._closed

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Ends the task at close too; its result and its errors are somebody else's."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("%s: %s", task.get_name(), error)

    async def close(self) -> None:
        """Cancels all and waits until they have ended."""
        self._closed = True
        # a task that is cancelled before its first step could not tell those who wait for it
        await asyncio.sleep(0)
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
