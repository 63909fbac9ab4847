"""The committer: a step in a thread of its own, which applies whatever waits in one write transaction, and then answers
all of it.

Invariants:
- Work is applied in the order in which it came, each piece in its own savepoint: it changes everything or nothing.
- A caller is answered only after the transaction with its work is durable, also where the answer is an error, since the
  error may rest on what others did in the same transaction. If the transaction fails, all of it gets that error.
- Work that was accepted is applied and answered, or answered with an error, whether its caller still waits or not.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from reedbed.catalog.engine import Engine, Writer
from reedbed.common import logs
from reedbed.common.errors import DiskFull, ReedbedError, ResourceExhausted, Unavailable, rebuild
from reedbed.common.runner import WHEN_WOKEN, Runner, ThreadRunner

T = TypeVar("T")

OPS_PER_TRANSACTION: Final = 4000
WAITING_MAX: Final = 100_000  # operations

_log = logs.get("catalog")


@dataclass(slots=True, eq=False)
class _Work:
    apply: Callable[[Writer], Any]
    weight: int
    urgent: bool
    future: asyncio.Future[Any]
    undo: Callable[[], None] | None = None
    result: Any = None
    error: BaseException | None = field(default=None)


class Committer:
    """Runs write functions for the coroutines of one event loop. Made within that loop; ends with `close`."""

    def __init__(
        self, engine: Engine, *, ops_per_transaction: int = OPS_PER_TRANSACTION, runner: Runner | None = None
    ) -> None:
        self._engine = engine
        self._most = ops_per_transaction
        self._loop = asyncio.get_running_loop()
        self._changing = threading.Lock()
        self._waiting: deque[_Work] = deque()
        self._weight = 0
        self._closed = False
        self._count = 0
        self._pending = 0
        self._watchers: set[asyncio.Future[None]] = set()
        self._running = (runner or ThreadRunner()).start("committer", self._step, WHEN_WOKEN)

    @property
    def pending(self) -> int:
        """Work that was accepted and is not answered yet."""
        return self._pending

    @property
    def count(self) -> int:
        """Transactions finished so far."""
        return self._count

    async def run(
        self,
        fn: Callable[[Writer], T],
        *,
        weight: int = 1,
        urgent: bool = False,
        undo: Callable[[], None] | None = None,
    ) -> T:
        """What `fn` returns, once it is durable, or the error it raised.

        `fn` runs in the committer's step and must only use its writer. `weight` is the number of operations in it.
        `urgent` work (removals, map changes) may use the disk's reserve. A caller that is cancelled does not undo it.
        `undo` is called, in that step, where the whole transaction fails: before another one begins.
        Raises Unavailable once closed, ResourceExhausted when too much waits, and the engine's errors.
        """
        work = _Work(fn, weight, urgent, self._loop.create_future(), undo)
        with self._changing:
            if self._closed:
                raise Unavailable("the catalog is stopping")
            if self._weight + weight > WAITING_MAX and self._waiting:
                raise ResourceExhausted(f"{self._weight} operations wait for the catalog already", hint="Slow down")
            self._waiting.append(work)
            self._weight += weight
            self._pending += 1
        self._running.wake()
        result: T = await work.future
        return result

    async def next_commit(self, seen: int, timeout: float) -> None:
        """Return once `count` is above `seen`, or after `timeout` seconds."""
        if self._count > seen or timeout <= 0:
            return
        watcher: asyncio.Future[None] = self._loop.create_future()
        self._watchers.add(watcher)
        try:
            await asyncio.wait((watcher,), timeout=timeout)
        finally:
            self._watchers.discard(watcher)
            watcher.cancel()

    async def close(self) -> None:
        """Finish what waits, refuse what comes, end the step."""
        with self._changing:
            self._closed = True
        self._running.wake()
        await asyncio.to_thread(self._running.join)

    def _step(self) -> float | None:
        """One transaction of what waits; None when closed and done."""
        batch = self._take()
        if batch is None:
            return None
        if not batch:
            return WHEN_WOKEN
        self._transact(batch)
        self._loop.call_soon_threadsafe(self._answer, batch)
        return 0.0

    def _take(self) -> list[_Work] | None:
        """The next work, some of it; None when closed and done."""
        with self._changing:
            if self._closed and not self._waiting:
                return None
            batch: list[_Work] = []
            weight = 0
            while self._waiting and (not batch or weight + self._waiting[0].weight <= self._most):
                weight += self._waiting[0].weight
                batch.append(self._waiting.popleft())
            self._weight -= weight
            return batch

    def _transact(self, batch: list[_Work]) -> None:
        if self._try(batch, urgent=False):
            return
        # The disk is down to its reserve: what may use it goes on alone
        urgent = [work for work in batch if work.urgent]
        if urgent:
            self._try(urgent, urgent=True)

    def _try(self, batch: list[_Work], *, urgent: bool) -> bool:
        """One transaction; False if it came to nothing for want of room."""
        for work in batch:
            work.error = None
        try:
            with self._engine.write(urgent=urgent) as writer:
                for work in batch:
                    self._apply(writer, work)
        except BaseException as error:  # noqa: BLE001 - handed to every caller that waits for it
            for work in batch:
                work.error = _own_copy(error)
                if work.undo is not None:
                    work.undo()
            if not isinstance(error, ReedbedError):
                _log.exception("a transaction of the catalog failed")
            return not isinstance(error, DiskFull) or error.maybe_applied
        return True

    def _apply(self, writer: Writer, work: _Work) -> None:
        mark = writer.mark()
        try:
            work.result = work.apply(writer)
        except Exception as error:  # noqa: BLE001 - handed to the caller
            writer.undo_to(mark)
            work.error = error

    def _answer(self, batch: list[_Work]) -> None:
        self._count += 1
        self._pending -= len(batch)
        for work in batch:
            if work.future.done():
                continue
            if work.error is None:
                work.future.set_result(work.result)
            else:
                work.future.set_exception(work.error)
        watchers, self._watchers = self._watchers, set()
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)


def _own_copy(error: BaseException) -> BaseException:
    """An error of its own for each caller, since tracebacks grow on the one that is raised."""
    if isinstance(error, ReedbedError):
        return rebuild(error.code, error.what, error.where, error.hint, error.retryable, error.maybe_applied)
    return Unavailable(f"a transaction of the catalog failed: {error!r}", maybe_applied=True)
