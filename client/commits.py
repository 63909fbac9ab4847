"""Rounds of commits: while one call is under way, what else is to be committed gathers for the next.

Invariants:
- An operation is sent in one round only, unless the catalog had no room for it in its answer; the link repeats that
  call with the same ids until it has the outcome.
- Each operation has its own outcome: the error of one is not another's.
- An outcome is only what the first try's may be: the catalog forgets outcomes below its horizon, so BelowHorizon after
  a lost answer says nothing of what became of the operation.
- One that was given up before its round began is not sent; after that its outcome is unknown to who gave it up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from reedbed.client.background import Background, ended
from reedbed.client.cluster import ClusterClient
from reedbed.common.clock import Deadline
from reedbed.common.errors import (
    BelowHorizon,
    Corrupt,
    DeadlineExceeded,
    ReedbedError,
    ResourceExhausted,
    Unavailable,
    rebuild,
)
from reedbed.common.limits import COMMIT_OPS_MAX, HEADER_MAX, MIB
from reedbed.common.metrics import Metrics
from reedbed.extents.wheel import Wheel
from reedbed.protos import catalog_pb2, methods
from reedbed.protos.convert import error_from_message, extent_to_message
from reedbed.protos.types import Extent
from reedbed.protos.wire import field

ROUND_BYTES: Final = 2 * MIB  # of one call; a single operation may be longer

assert ROUND_BYTES < HEADER_MAX


class Waiter(Protocol):
    """Whoever waits for the outcome of one operation."""

    sent: bool  # set before it is

    @property
    def deadline(self) -> Deadline: ...

    def over(self) -> bool:
        """It waits no more: it was given up, or its time is up, or it was told."""
        ...

    def settle(self, outcome: catalog_pb2.Outcome | ReedbedError) -> None:
        """Tells it, once at most, unless it is over: what the catalog answered, or why there is no answer."""
        ...


class _Queued(NamedTuple):
    op: bytes  # a CommitOp
    extents: Sequence[Extent]
    waiter: Waiter
    size: int


class CommitRounds:
    """All commits of one client. Only within the store's event loop."""

    def __init__(self, cluster: ClusterClient, background: Background, metrics: Metrics, wheel: Wheel) -> None:
        self._cluster = cluster
        self._link = cluster.link
        self._background = background
        self._metrics = metrics
        self._wheel = wheel
        self._queue: deque[_Queued] = deque()
        self._running = False
        self._closed = False

    async def commit(
        self, op: catalog_pb2.CommitOp, extents: Sequence[Extent], deadline: Deadline
    ) -> catalog_pb2.Outcome:
        """The outcome of one operation, whose id is fresh. `extents` are the new ones that its slices name.

        Raises the outcome's error, and DeadlineExceeded or Unavailable, with `maybe_applied` where it was sent.
        """
        waiter = _Alone(op.bucket, deadline, asyncio.get_running_loop().create_future())
        self.submit(op.SerializeToString(), extents, waiter)
        left = deadline.left()
        if left is not None:
            self._wheel.add(waiter, left)
        try:
            outcome = await waiter.outcome  # cancelled with its waiter, which `_gather` and `_round` heed
        finally:
            self._wheel.drop(waiter)
        if isinstance(outcome, ReedbedError):
            raise outcome
        return outcome

    def submit(self, op: bytes, extents: Sequence[Extent], waiter: Waiter) -> None:
        """`commit` of the operation's message for whoever is told, and sees to the deadline. Unavailable once closed.

        The outcome has no error of its own: that is told as an error."""
        if self._closed:
            raise Unavailable("the store is closed", retryable=False)
        size = len(op)
        for extent in extents:
            size += 64 + 24 * (extent.k + extent.m)
        # before a task that is started has its first turn, which may be at once
        self._queue.append(_Queued(op, extents, waiter, size))
        if not self._running:
            self._running = True
            try:
                self._background.start(self._run(), "commit rounds")
            except BaseException:
                self._running = False
                self._queue.pop()
                raise

    async def _run(self) -> None:
        try:
            while self._queue:
                await self._round(self._gather())
        except asyncio.CancelledError:
            self._closed = True
            raise
        finally:
            self._running = False
            while self._queue:
                _fail(self._queue.popleft(), Unavailable("the store was closed before this was committed"))

    def _gather(self) -> list[_Queued]:
        members: list[_Queued] = []
        size = 0
        while self._queue and len(members) < COMMIT_OPS_MAX:
            first = self._queue[0]
            if not first.waiter.over():
                if members and size + first.size > ROUND_BYTES:
                    break
                members.append(first)
                size += first.size
            self._queue.popleft()
        return members

    async def _round(self, members: list[_Queued]) -> None:
        if not members:
            return
        lost = False

        def was_lost() -> None:
            nonlocal lost
            lost = True

        request = _request(members)
        for queued in members:
            queued.waiter.sent = True
        self._metrics.add("commits.rounds")
        self._metrics.add("commits.operations", len(members))
        try:
            reply = await self._link.call(
                methods.COMMIT, request, catalog_pb2.CommitReply, _longest(members), "same", was_lost
            )
            if len(reply.outcomes) != len(members):
                raise Corrupt(f"{len(reply.outcomes)} outcomes of {len(members)} commits", maybe_applied=True)
        except ReedbedError as error:
            if len(members) > 1 and not error.retryable and not error.maybe_applied:
                # refused as a whole, for what may be the fault of one
                for queued in members:
                    await self._round([queued])
            else:
                for queued in members:
                    _fail(queued, error)
            return
        except BaseException as error:
            for queued in members:
                _fail(queued, ended("commit", error, maybe_applied=True))
            raise
        newest = (0, 0)
        for queued, outcome in zip(members, reply.outcomes, strict=True):
            newest = max(newest, (outcome.log_term, outcome.log_seq))
            if outcome.HasField("error"):
                code = outcome.error.code
                if code == BelowHorizon.code and lost:
                    outcome.error.maybe_applied = True
                if code == ResourceExhausted.code and len(members) > 1:
                    self._queue.append(queued)  # one answer had no room for all; what it left out was not begun
                elif not queued.waiter.over():
                    queued.waiter.settle(error_from_message(outcome.error))
            elif not queued.waiter.over():
                queued.waiter.settle(outcome)
        self._cluster.saw_log(*newest)


class _Alone:
    """One that waits with a future of its own."""

    __slots__ = ("_where", "deadline", "outcome", "sent", "slot")

    def __init__(
        self, where: str, deadline: Deadline, outcome: asyncio.Future[catalog_pb2.Outcome | ReedbedError]
    ) -> None:
        self._where = where
        self.deadline = deadline
        self.outcome = outcome
        self.sent = False
        self.slot = 0

    def over(self) -> bool:
        return self.outcome.done()

    def settle(self, outcome: catalog_pb2.Outcome | ReedbedError) -> None:
        self.outcome.set_result(outcome)

    def due(self) -> None:
        """The time of whoever waits is up."""
        if not self.outcome.done():
            self.outcome.set_result(not_answered(self._where, self.sent))


def not_answered(where: str, sent: bool) -> DeadlineExceeded:
    """The error of a commit whose time is up."""
    return DeadlineExceeded("the commit was not answered in time", where=where, retryable=not sent, maybe_applied=sent)


def _request(members: Sequence[_Queued]) -> bytes:
    """A CommitRequest: operations are messages already, and each extent is named once."""
    parts = [field(1, queued.op) for queued in members]
    extents = {extent.id: extent for queued in members for extent in queued.extents}
    parts += [field(2, extent_to_message(extent).SerializeToString()) for extent in extents.values()]
    return b"".join(parts)


def _longest(members: Sequence[_Queued]) -> Deadline:
    # an impatient member must not end the call for the others; it stops waiting by itself
    most = members[0].waiter.deadline
    left_most = most.left()
    for queued in members:
        deadline = queued.waiter.deadline
        if deadline is not most and left_most is not None:  # many may share one
            left = deadline.left()
            if left is None or left > left_most:
                most, left_most = deadline, left
    return most


def _fail(queued: _Queued, error: ReedbedError) -> None:
    if not queued.waiter.over():
        # each gets an error of its own: a shared one would collect the tracebacks of all
        copy = rebuild(error.code, error.what, error.where, error.hint, error.retryable, error.maybe_applied)
        queued.waiter.settle(copy)
