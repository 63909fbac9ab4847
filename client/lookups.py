"""Rounds of lookups: those that wait at the same time share a call.

A lookup is sent at the end of the loop's turn in which it came, or, while ROUNDS calls are under way, when one of them
ends. So an idle client adds no wait.

Invariants:
- An answer is as of an instant after its lookup was asked for: what is asked joins no call that was sent before.
- Each lookup has its own outcome and its own deadline: the error of one is not another's.
- A call is cancelled once nobody who shares it wants its answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from reedbed.client.background import Background, ended
from reedbed.client.targets import Content, Target
from reedbed.common.clock import Deadline
from reedbed.common.errors import DeadlineExceeded, ReedbedError, Unavailable, rebuild
from reedbed.extents.wheel import Wheel

ROUNDS: Final = 2  # calls under way
ROUND_TARGETS: Final = 256  # of one call
SPREAD_FROM: Final = 16  # so many at once go into as many calls as may be: one is answered while another is made use of

Lookup = Callable[[Sequence[Target], bool, Deadline], Awaitable[list[Content | ReedbedError]]]


class _Waiting:
    """One lookup."""

    __slots__ = ("call", "deadline", "done", "slot", "target")

    def __init__(self, target: Target, deadline: Deadline, done: asyncio.Future[Content | ReedbedError]) -> None:
        self.target = target
        self.deadline = deadline
        self.done = done
        self.call: _Call | None = None  # once it is sent
        self.slot = 0

    def due(self) -> None:
        """Its time is up."""
        if not self.done.done():
            self.done.set_result(DeadlineExceeded("the catalog did not answer in time", where=self.target.where))


class _Call:
    """One call under way, and how many still want its answer."""

    __slots__ = ("task", "wanted")

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.task: asyncio.Task[None] | None = None


class LookupRounds:
    """All single lookups of one client, with slices or without. Only within the store's event loop."""

    def __init__(self, lookup: Lookup, slices: bool, background: Background, wheel: Wheel) -> None:
        self._lookup = lookup
        self._slices = slices
        self._background = background
        self._wheel = wheel
        self._queue: deque[_Waiting] = deque()
        self._calls = 0
        self._flushing = False

    @property
    def idle(self) -> bool:
        """Nothing waits and no call is under way."""
        return not self._calls and not self._queue

    async def find(self, target: Target, deadline: Deadline) -> Content:
        """The content of one target. Raises what the lookup does for it, and DeadlineExceeded."""
        if self._background.closed:
            raise Unavailable("the store is closed", hint="Connect again", retryable=False)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(target, deadline, loop.create_future())
        self._queue.append(waiting)
        if not self._flushing and self._calls < ROUNDS:
            self._flushing = True
            loop.call_soon(self._flush)
        left = deadline.left()
        if left is not None:
            self._wheel.add(waiting, left)
        try:
            found = await waiting.done
        finally:
            self._wheel.drop(waiting)
            call = waiting.call
            if call is not None:
                call.wanted -= 1
                if not call.wanted and call.task is not None:
                    call.task.cancel()  # nothing, if it has ended
        if isinstance(found, ReedbedError):
            raise found
        return found

    def _flush(self) -> None:
        self._flushing = False
        while self._queue and self._calls < ROUNDS:
            members: list[_Waiting] = []
            most = ROUND_TARGETS
            if len(self._queue) >= SPREAD_FROM:
                most = min(most, -(-len(self._queue) // (ROUNDS - self._calls)))
            while self._queue and len(members) < most:
                waiting = self._queue.popleft()
                if not waiting.done.done():
                    members.append(waiting)
            if not members:
                return
            try:
                call = _Call(len(members))
                call.task = self._background.start(self._round(members), "looking up")
            except ReedbedError as error:  # closed
                _fail(members, error)
                continue
            self._calls += 1
            for waiting in members:
                waiting.call = call

    async def _round(self, members: list[_Waiting]) -> None:
        try:
            await self._ask(members)
        except BaseException as error:
            _fail(members, ended("lookup", error, maybe_applied=False))
            raise
        finally:
            self._calls -= 1
            self._flush()

    async def _ask(self, members: list[_Waiting]) -> None:
        try:
            found = await self._lookup([one.target for one in members], self._slices, longest(members))
        except ReedbedError as error:
            if len(members) > 1 and not error.retryable:
                # refused as a whole, for what may be the fault of one
                for one in members:
                    if not one.done.done():
                        await self._ask([one])
            else:
                _fail(members, error)
            return
        for one, content in zip(members, found, strict=True):
            if not one.done.done():
                one.done.set_result(content)


def longest(members: Sequence[_Waiting]) -> Deadline:
    """The deadline of the most patient: an impatient one must not end the call for the others."""
    most = members[0].deadline
    if len(members) > 1:
        left_most = -1.0
        for one in members:
            left = one.deadline.left()
            if left is None:
                return one.deadline
            if left > left_most:
                most, left_most = one.deadline, left
    return most


def _fail(members: Sequence[_Waiting], error: ReedbedError) -> None:
    for one in members:
        if not one.done.done():
            # each gets an error of its own: a shared one would collect the tracebacks of all
            one.done.set_result(
                rebuild(error.code, error.what, error.where, error.hint, error.retryable, error.maybe_applied)
            )
