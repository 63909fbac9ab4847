"""The way to catalogd: one lane, and the one layer that tries calls again.

Invariants:
- The cluster's id is learned at first contact and never changes; another cluster at the endpoint is an error.
- `term` and `epoch` only rise. A catalogd that answers with a lower term than was seen anywhere has been replaced:
  its lane is left, and nothing that it said is used.
- A call is tried again only after a retryable error, within its deadline, and only if trying twice cannot do harm.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, Literal, TypeVar

from google.protobuf.message import Message

from reedbed.common.clock import Clock, Deadline
from reedbed.common.errors import DeadlineExceeded, ReedbedError, StaleTerm, Unavailable, WrongProtocol
from reedbed.common.metrics import Metrics
from reedbed.protos.convert import parse
from reedbed.transport.lane import Lane, Reply
from reedbed.transport.pool import LanePool

M = TypeVar("M", bound=Message)

# read: changes nothing. same: the catalog repeats the outcome of the first. once: a lost answer must not be tried again
Effect = Literal["read", "same", "once"]

FIRST_CONTACT_S: Final = 2.0  # a catalogd that was never there is given up after that, whatever the timeout
ATTEMPT_MIN_S: Final = 1.0  # of a call's time left a third goes to one attempt, but no less than this
ATTEMPT_MAX_S: Final = 30.0
BACKOFF_S: Final = 0.02  # doubles with each attempt, and is jittered
BACKOFF_MAX_S: Final = 1.0

assert BACKOFF_MAX_S < FIRST_CONTACT_S < ATTEMPT_MAX_S


def _nothing() -> None:
    """Where nobody wants to be told."""


def _answer(kind: type[M], reply: Reply) -> M:
    """The reply's message. One that cannot be read still says that the catalog did something."""
    try:
        return parse(kind, reply.header)
    except ReedbedError as error:
        error.maybe_applied = True
        raise


class CatalogLink:
    """Calls to one endpoint. Only within the store's event loop."""

    def __init__(self, endpoint: str, pool: LanePool, clock: Clock, metrics: Metrics, rng: random.Random) -> None:
        self.endpoint = endpoint
        self.pool = pool
        self.clock = clock
        self.metrics = metrics
        self.cluster = b""
        self.epoch = 0
        self.term = 0
        self.on_newer_epoch: Callable[[int], None] = lambda epoch: None
        self._rng = rng

    async def call(
        self,
        method: str,
        request: Message | bytes,
        kind: type[M],
        deadline: Deadline,
        effect: Effect = "read",
        on_lost: Callable[[], None] = _nothing,
    ) -> M:
        """The answer to one call, tried again as long as that can help. `on_lost` is told of each try that may have
        reached the catalog without an answer.

        Raises what the catalog raised, and Unavailable, DeadlineExceeded, WrongCluster and WrongProtocol.
        `maybe_applied` is set where a call with an effect may have reached the catalog and no answer came.
        """
        header = request if isinstance(request, bytes) else request.SerializeToString()
        began = self.clock.monotonic()
        lost = False
        attempt = 0
        while True:
            try:
                return _answer(kind, await self._once(method, header, deadline))
            except ReedbedError as error:
                if error.maybe_applied:
                    lost = True
                    on_lost()
                pause = min(BACKOFF_MAX_S, BACKOFF_S * 2**attempt) * self._rng.uniform(0.5, 1.0)
                if not self._worth_it(error, lost, effect, began, deadline, pause):
                    error.maybe_applied = lost and effect != "read"
                    raise
                last = error
            attempt += 1
            self.metrics.add("catalog.retries")
            await asyncio.sleep(pause)
            if deadline.left() == 0.0:
                last.maybe_applied = lost and effect != "read"
                raise last  # says more than that the time is up

    def saw(self, epoch: int, term: int) -> None:
        """What an answer of any daemon tells of the cluster's newest state. `on_newer_epoch` is told until the map is
        as new: a renewal may fail."""
        self.term = max(self.term, term)
        if epoch > self.epoch:
            self.on_newer_epoch(epoch)

    def has_map(self, epoch: int) -> None:
        """The epoch that calls carry from now on."""
        self.epoch = epoch

    def _worth_it(
        self, error: ReedbedError, lost: bool, effect: Effect, began: float, deadline: Deadline, pause: float
    ) -> bool:
        if not error.retryable or (effect == "once" and lost):
            return False
        if not self.cluster and self.clock.monotonic() - began + pause > FIRST_CONTACT_S:
            return False
        left = deadline.left()
        return left is None or left > pause

    async def _once(self, method: str, header: bytes, deadline: Deadline) -> Reply:
        left = deadline.left()
        if left == 0.0:
            raise DeadlineExceeded(f"no time left for {method}", where=self.endpoint, retryable=False)
        attempt = deadline.within(ATTEMPT_MAX_S if left is None else max(ATTEMPT_MIN_S, min(ATTEMPT_MAX_S, left / 3)))
        lane = await self.pool.lane(self.endpoint, deadline=attempt, cluster=self.cluster)
        await self._greet(lane)
        reply = await lane.call(method, header, deadline=attempt, epoch=self.epoch)
        if reply.term < self.term:
            await self._leave(lane, reply.term, maybe_applied=True)
        self.saw(reply.epoch, reply.term)
        return reply

    async def _greet(self, lane: Lane) -> None:
        hello = lane.hello
        if hello.role != "catalogd":
            raise WrongProtocol(
                f"a {hello.role} answers instead of a catalogd",
                where=self.endpoint,
                hint="The endpoint of a cluster is the address of its catalogd",
            )
        if hello.term < self.term:
            await self._leave(lane, hello.term, maybe_applied=False)
        if not self.cluster:
            self.cluster = hello.cluster
        self.saw(hello.epoch, hello.term)

    async def _leave(self, lane: Lane, term: int, *, maybe_applied: bool) -> None:
        self.metrics.add("catalog.left")
        await lane.close()
        reason = StaleTerm(f"this catalogd is of term {term}, and {self.term} is known", where=self.endpoint)
        raise Unavailable(
            "this catalogd has been replaced by another",
            where=self.endpoint,
            hint="Connect to the one that took its place",
            maybe_applied=maybe_applied,
        ) from reason
