"""One run of some work for all who want its result at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from reedbed.common.clock import Deadline
from reedbed.common.errors import DeadlineExceeded, Unavailable

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Starts `work` unless a run is under way; whoever joins waits with an own deadline and may leave.

    The run goes on when the one who began it leaves, so its own bound must be within `work`.
    """

    def __init__(self, what: str, work: Callable[[], Coroutine[Any, Any, T]], where: str = "") -> None:
        """`where`: whom the work asks, for errors."""
        self._what = what
        self._where = where
        self._work = work
        self._task: asyncio.Task[T] | None = None

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def join(self, deadline: Deadline) -> T:
        """The run's result or error; DeadlineExceeded where that comes too late for the caller."""
        task = self._task
        if task is None or task.done():
            task = asyncio.get_running_loop().create_task(self._work(), name=self._what)
            task.add_done_callback(_look)
            self._task = task
        done, _ = await asyncio.wait([task], timeout=deadline.left())
        if not done:
            hint = "Check that the daemon runs, and the address" if self._where else ""
            raise DeadlineExceeded(f"{self._what} took too long", where=self._where, hint=hint)
        if task.cancelled():
            raise Unavailable(f"{self._what} was given up", hint="The store was closed", retryable=False)
        return task.result()

    async def close(self) -> None:
        """Ends a run under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a group of tasks; those that came of it were cancellations."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _look(task: asyncio.Task[Any]) -> None:
    # all who joined may have left; then nobody else would look at the error
    if not task.cancelled():
        task.exception()
