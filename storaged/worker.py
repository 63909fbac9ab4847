"""The worker: has the planner's tasks carried out (carrying.py), and reports what became of them.

Invariants:
- A task is reported once it has ended, and again until the catalog has answered; what was not reported is given again.
- Tasks under way hold at most MEMORY bytes together, or there is only one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Final

from reedbed.common import logs
from reedbed.common.clock import Deadline
from reedbed.common.errors import ReedbedError
from reedbed.common.limits import MIB
from reedbed.extents.context import ClusterAccess
from reedbed.protos import catalog_pb2
from reedbed.storaged.carrying import carry_out, failed, is_rewrite, memory_of
from reedbed.storaged.politeness import URGENT_PART, Foreground, Politeness

MEMORY: Final = 48 * MIB
AT_ONCE: Final = 16  # tasks
WAITING: Final = 64  # tasks that are kept at hand
REPORT_S: Final = 0.5  # results wait no longer
TASK_S: Final = 60.0
RESTED_S: Final = 10.0  # after so long without a task beside foreground the next one is the first again
SPREAD_S: Final = 4.0  # within which the first tasks of all processes begin
IDLE_S: Final = 2.0  # between calls that bring nothing while tasks are said to wait

log = logs.get("storaged.worker")

Exchange = Callable[[catalog_pb2.TasksRequest], Awaitable[catalog_pb2.TasksReply]]


class Worker:
    """One for a process. `numbers` gives its devices; `work` is set while the catalog has tasks for them."""

    def __init__(
        self,
        access: ClusterAccess,
        exchange: Exchange,
        numbers: Callable[[], Sequence[int]],
        work: asyncio.Event,
        foreground: Foreground,
        boot: int,
    ) -> None:
        """`boot`: 63 bits that no other start of this process has."""
        self._access = access
        self._exchange = exchange
        self._numbers = numbers
        self._work = work
        self._foreground = foreground
        self._boot = boot
        self._politeness = Politeness(MIB, MIB)
        self._waiting: deque[catalog_pb2.Task] = deque()
        self._results: list[catalog_pb2.TaskResult] = []
        self._running: dict[asyncio.Task[None], catalog_pb2.Task] = {}
        self._memory = 0
        self._alone = asyncio.Lock()
        self._polite_at = -inf  # when the last task beside foreground began

    async def run(self) -> None:
        """Works until cancelled."""
        try:
            while True:
                if not self._waiting and not self._running and not self._results:
                    await self._work.wait()
                try:
                    await self._turn()
                except ReedbedError as error:
                    log.warning("no tasks: %s", error)
                    await asyncio.sleep(IDLE_S)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _turn(self) -> None:
        """One call for tasks, and work until the next one is due."""
        brought = await self._ask()
        due = self._now() + REPORT_S
        while True:
            self._start()
            left = due - self._now()
            low = len(self._waiting) < WAITING // 4
            if left <= 0 or (low and len(self._results) >= WAITING // 4):
                return
            if not self._running:
                break
            await asyncio.wait(self._running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if not brought and not self._results:
            self._work.clear()  # the next heartbeat's answer sets it again
            await asyncio.sleep(0)

    async def _ask(self) -> int:
        """Reports, and takes tasks; returns how many came."""
        results = list(self._results)
        at_hand = (*self._waiting, *self._running.values())
        request = catalog_pb2.TasksRequest(
            devices=self._numbers(),
            boot=self._boot,
            results=results,
            room=max(0, WAITING - len(self._waiting)),
            held=[task.extent.id for task in at_hand if not is_rewrite(task)],
            rewriting=[task.rewrite.number for task in at_hand if is_rewrite(task)],
        )
        reply = await self._exchange(request)
        del self._results[: len(results)]
        if reply.floor and reply.ceiling:
            self._politeness.floor, self._politeness.ceiling = reply.floor, reply.ceiling
        # what brings redundancy back goes before what saves room
        self._waiting = deque(sorted((*self._waiting, *reply.tasks), key=is_rewrite))
        return len(reply.tasks)

    def _start(self) -> None:
        while self._waiting and len(self._running) < AT_ONCE:
            message = self._waiting[0]
            size = memory_of(message)
            if self._running and self._memory + size > MEMORY:
                return
            self._waiting.popleft()
            self._memory += size
            task = asyncio.get_running_loop().create_task(self._carry_out(message, size))
            self._running[task] = message
            task.add_done_callback(self._ended)

    async def _carry_out(self, message: catalog_pb2.Task, size: int) -> None:
        try:
            if self._politeness.alone(self._share()):
                async with self._alone:
                    await self._not_all_at_once(message.urgent)
                    await self._one(message, polite=True)
            else:
                await self._one(message, polite=False)
        finally:
            self._memory -= size

    def _ended(self, task: asyncio.Task[None]) -> None:
        message = self._running.pop(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            log.error("a task failed", exc_info=bug)
            self._results.append(failed(message, ReedbedError.code, f"the worker failed: {bug!r}"))

    async def _one(self, message: catalog_pb2.Task, *, polite: bool) -> None:
        began, waited = self._now(), 0.0

        async def pace(size: int) -> None:
            nonlocal waited
            wait = self._politeness.wait_for(size, self._now())
            waited += wait
            if wait:
                await asyncio.sleep(wait)

        done = await carry_out(
            self._access, message, lambda: Deadline(TASK_S, self._access.clock), pace, at_once=not polite
        )
        self._results.append(done.result)
        if polite and done.read + done.written:
            took = self._now() - began - waited
            pause = self._politeness.pause_after(took, done.read, done.written, self._share(), message.urgent)
            await asyncio.sleep(pause)

    async def _not_all_at_once(self, urgent: bool) -> None:
        """Before the first task in a while: the workers of all processes have heard of their work at the same time."""
        if self._now() - self._polite_at > RESTED_S:
            await asyncio.sleep(self._access.rng.uniform(0.0, SPREAD_S * (URGENT_PART if urgent else 1.0)))
        self._polite_at = self._now()

    def _share(self) -> float:
        return self._foreground.share(self._now())

    def _now(self) -> float:
        return self._access.clock.monotonic()
