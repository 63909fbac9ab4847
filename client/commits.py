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
from dataclasses import dataclass, field
from typing import Final

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
from reedbed.protos import catalog_pb2, methods
from reedbed.protos.convert import error_from_message, extent_to_message
from reedbed.protos.types import Extent

ROUND_BYTES: Final = 2 * MIB  # of one call; a single operation may be longer

assert ROUND_BYTES < HEADER_MAX


@dataclass(slots=True, eq=False)
class _Waiting:
    op: catalog_pb2.CommitOp
    extents: Sequence[Extent]
    deadline: Deadline
    outcome: asyncio.Future[catalog_pb2.Outcome | ReedbedError]
    sent: bool = False
    size: int = field(init=False)

    def expire(self) -> None:
        """The time of whoever waits is up."""
        if not self.outcome.done():
            self.outcome.set_result(
                DeadlineExceeded(
                    "the commit was not answered in time",
                    where=self.op.bucket,
                    retryable=not self.sent,
                    maybe_applied=self.sent,
                )
            )

    def __post_init__(self) -> None:
        self.size = self.op.ByteSize() + sum(64 + 24 * (extent.k + extent.m) for extent in self.extents)


class CommitRounds:
    """All commits of one client. Only within the store's event loop."""

    def __init__(self, cluster: ClusterClient, background: Background, metrics: Metrics) -> None:
        self._cluster = cluster
        self._link = cluster.link
        self._background = background
        self._metrics = metrics
        self._queue: deque[_Waiting] = deque()
        self._running = False
        self._closed = False

    async def commit(
        self, op: catalog_pb2.CommitOp, extents: Sequence[Extent], deadline: Deadline
    ) -> catalog_pb2.Outcome:
        """The outcome of one operation, whose id is fresh. `extents` are the new ones that its slices name.

        Raises the outcome's error, and DeadlineExceeded or Unavailable, with `maybe_applied` where it was sent.
        """
        if self._closed:
            raise Unavailable("the store is closed", retryable=False)
        if not self._running:
            self._background.start(self._run(), "commit rounds")
            self._running = True
        waiting = _Waiting(op, extents, deadline, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)  # before the task that was started has its first turn
        left = deadline.left()
        timer = None if left is None else asyncio.get_running_loop().call_later(left, waiting.expire)
        try:
            outcome = await waiting.outcome  # cancelled with its waiter, which `_gather` and `_round` heed
        finally:
            if timer is not None:
                timer.cancel()
        if isinstance(outcome, ReedbedError):
            raise outcome
        if outcome.HasField("error"):
            raise error_from_message(outcome.error)
        return outcome

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

    def _gather(self) -> list[_Waiting]:
        members: list[_Waiting] = []
        size = 0
        while self._queue and len(members) < COMMIT_OPS_MAX:
            first = self._queue[0]
            if not first.outcome.done():
                if members and size + first.size > ROUND_BYTES:
                    break
                members.append(first)
                size += first.size
            self._queue.popleft()
        return members

    async def _round(self, members: list[_Waiting]) -> None:
        if not members:
            return
        extents = {extent.id: extent for waiting in members for extent in waiting.extents}
        request = catalog_pb2.CommitRequest(
            ops=[waiting.op for waiting in members],
            extents=[extent_to_message(extent) for extent in extents.values()],
        )
        for waiting in members:
            waiting.sent = True
        lost = False

        def was_lost() -> None:
            nonlocal lost
            lost = True

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
                for waiting in members:
                    await self._round([waiting])
            else:
                for waiting in members:
                    _fail(waiting, error)
            return
        except BaseException as error:
            for waiting in members:
                _fail(waiting, ended("commit", error, maybe_applied=True))
            raise
        for waiting, outcome in zip(members, reply.outcomes, strict=True):
            self._cluster.saw_log(outcome.log_term, outcome.log_seq)
            if outcome.error.code == BelowHorizon.code and lost:
                outcome.error.maybe_applied = True
            if outcome.error.code == ResourceExhausted.code and len(members) > 1:
                self._queue.append(waiting)  # one answer had no room for all; what it left out was not begun
            elif not waiting.outcome.done():
                waiting.outcome.set_result(outcome)


def _longest(members: Sequence[_Waiting]) -> Deadline:
    # an impatient member must not end the call for the others; it stops waiting by itself
    return max((waiting.deadline for waiting in members), key=lambda d: float("inf") if (s := d.left()) is None else s)


def _fail(waiting: _Waiting, error: ReedbedError) -> None:
    if not waiting.outcome.done():
        # each gets an error of its own: a shared one would collect the tracebacks of all
        copy = rebuild(error.code, error.what, error.where, error.hint, error.retryable, error.maybe_applied)
        waiting.outcome.set_result(copy)
