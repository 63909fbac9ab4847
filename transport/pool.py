"""Lanes by address: opened on first use, opened anew after a break, closed when idle.

Invariants:
- At most one lane to an address is open, and at most one is being opened; all who wait share that attempt.
- The first call after a break tries at once. After a failed attempt the next is made no sooner than a jittered pause
  that doubles with each failure; calls in between fail at once with what failed last. A lane that broke before it
  gave an answer counts as a failed attempt: a daemon that takes no more lanes ends them so.
- A lane with calls under way is never closed for being idle.
- Nothing of the pool runs after `close`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol, runtime_checkable

from reedbed.common.checksums import Buffer
from reedbed.common.clock import Clock, Deadline, SystemClock
from reedbed.common.errors import DeadlineExceeded, ReedbedError, Unavailable, WrongCluster, rebuild
from reedbed.transport.lane import Connector, Lane, Reply

IDLE_S: Final = 120.0
OPEN_S: Final = 10.0  # an attempt that takes longer has failed, whoever waits
BACKOFF_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0


@runtime_checkable
class _Watched(Protocol):
    """What our own lanes tell beyond the contract."""

    @property
    def busy(self) -> int: ...

    @property
    def answered(self) -> bool: ...

    @property
    def seen(self) -> tuple[int, int]: ...


class _Slot:
    """What is known of one address."""

    __slots__ = ("error", "failures", "lane", "not_before", "opened", "opening", "seen", "tried_for", "used", "watched")

    def __init__(self) -> None:
        self.lane: Lane | None = None
        self.watched: _Watched | None = None
        self.opening: asyncio.Task[Lane] | None = None
        self.failures = 0
        self.not_before = 0.0
        self.error: ReedbedError | None = None
        self.tried_for = b""  # the cluster that was asked for
        self.used = self.opened = 0.0
        self.seen: tuple[int, int] | None = None


class LanePool:
    """The lanes of one process. Only within one event loop."""

    def __init__(
        self,
        connector: Connector,
        cluster: bytes = b"",
        *,
        on_answer: Callable[[str, int, int], None] | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        idle_s: float = IDLE_S,
        open_s: float = OPEN_S,
        backoff_s: float = BACKOFF_S,
        backoff_max_s: float = BACKOFF_MAX_S,
    ) -> None:
        """`cluster` empty: any. `on_answer` is told address, map epoch and term whenever they differ from before."""
        self._connector = connector
        self._cluster = cluster
        self._on_answer = on_answer
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._idle_s = idle_s
        self._open_s = open_s
        self._backoff_s = backoff_s
        self._backoff_max_s = backoff_max_s
        self._slots: dict[str, _Slot] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def lane(self, address: str, *, deadline: Deadline, cluster: bytes | None = None) -> Lane:
        """The open lane to that address, opened if need be. Use it at once: a lane that is idle is closed.

        Raises what Connector.open raises, and Unavailable at once while it waits before the next attempt.
        """
        if self._closed:
            raise Unavailable("the pool of lanes is closed", where=address, retryable=False)
        wanted = self._cluster if cluster is None else cluster
        slot = self._slots.get(address)
        if slot is None:
            slot = self._slots[address] = _Slot()
        lane = slot.lane
        if lane is None or lane.broken:
            lane = await self._opened(address, slot, wanted, deadline)
        if wanted and lane.hello.cluster != wanted:
            raise WrongCluster(
                f"the daemon belongs to cluster {lane.hello.cluster.hex() or 'none'}, not to {wanted.hex()}",
                where=address,
            )
        slot.used = self._clock.monotonic()
        return lane

    async def call(
        self,
        address: str,
        method: str,
        header: bytes,
        payload: Sequence[Buffer] = (),
        *,
        deadline: Deadline,
        into: memoryview | None = None,
        epoch: int = 0,
    ) -> Reply:
        """One call to the daemon at that address. Raises what `lane` and Lane.call raise."""
        lane = await self.lane(address, deadline=deadline)
        try:
            return await lane.call(method, header, payload, deadline=deadline, into=into, epoch=epoch)
        finally:
            self._answered(address, lane)

    async def close(self) -> None:
        """Closes all lanes; calls under way get Unavailable."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        openings = [slot.opening for slot in self._slots.values() if slot.opening is not None]
        for opening in openings:
            opening.cancel()
        if openings:
            await asyncio.wait(openings)
        lanes = [slot.lane for slot in self._slots.values() if slot.lane is not None]
        self._slots.clear()
        await asyncio.gather(*(lane.close() for lane in lanes), *self._closing)

    async def _opened(self, address: str, slot: _Slot, cluster: bytes, deadline: Deadline) -> Lane:
        """The lane of the attempt under way, or of a new one."""
        if slot.opening is None:
            wait = slot.not_before - self._clock.monotonic()
            if slot.error is not None and wait > 0 and slot.tried_for == cluster:
                raise _copy(slot.error)
            if slot.lane is not None:
                self._close_later(slot.lane)
                slot.lane = None
                if slot.watched is not None and not slot.watched.answered:
                    problem = Unavailable("the daemon ended the lane before it gave an answer", where=address)
                    self._failed(slot, problem, slot.opened)
                    slot.tried_for = cluster
                    if slot.not_before > self._clock.monotonic():
                        raise _copy(problem)
                else:
                    slot.failures = 0
            slot.tried_for = cluster
            slot.opening = asyncio.ensure_future(self._open(address, slot, cluster))
            # whoever waited may have been cancelled; the slot remembers the error for the next one
            slot.opening.add_done_callback(lambda opening: opening.cancelled() or opening.exception())
        opening = slot.opening
        while not opening.done():
            left = deadline.left()
            if left == 0.0:
                raise DeadlineExceeded("the lane was not open in time", where=address)
            await asyncio.wait([opening], timeout=left)
        if opening.cancelled():
            raise Unavailable("the pool of lanes is closed", where=address, retryable=False)
        error = opening.exception()
        if error is None:
            return opening.result()
        raise _copy(error) if isinstance(error, ReedbedError) else error

    async def _open(self, address: str, slot: _Slot, cluster: bytes) -> Lane:
        try:
            limit = Deadline(self._open_s, self._clock)
            lane = await self._connector.open(address, cluster=cluster, deadline=limit)
        except ReedbedError as error:
            problem = error
            if isinstance(error, DeadlineExceeded):
                problem = Unavailable(f"no answer within {self._open_s:g} s", where=address, hint=error.hint)
            self._failed(slot, problem, self._clock.monotonic())
            raise problem from None
        finally:
            slot.opening = None
        slot.lane = lane
        slot.watched = lane if isinstance(lane, _Watched) else None
        slot.error = None
        slot.used = slot.opened = self._clock.monotonic()
        self._tell(address, slot, (lane.hello.epoch, lane.hello.term))
        if self._sweeper is None and not self._closed:
            self._sweep_later()
        return lane

    def _failed(self, slot: _Slot, problem: ReedbedError, when: float) -> None:
        pause = min(self._backoff_max_s, self._backoff_s * 2.0 ** min(slot.failures, 30))
        slot.failures += 1
        slot.not_before = when + pause * self._rng.uniform(0.5, 1.0)
        slot.error = problem

    def _answered(self, address: str, lane: Lane) -> None:
        slot = self._slots.get(address)
        if slot is not None and slot.lane is lane:
            slot.used = self._clock.monotonic()
            if slot.watched is not None and slot.watched.seen != slot.seen:
                self._tell(address, slot, slot.watched.seen)

    def _tell(self, address: str, slot: _Slot, seen: tuple[int, int]) -> None:
        slot.seen = seen
        if self._on_answer is not None:
            self._on_answer(address, *seen)

    def _sweep_later(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(self._idle_s / 2, self._sweep)

    def _sweep(self) -> None:
        """Closes lanes that nobody has used for a while, and forgets addresses without any."""
        self._sweeper = None
        now = self._clock.monotonic()
        for address, slot in list(self._slots.items()):
            lane = slot.lane
            if slot.opening is not None or now - slot.used < self._idle_s or now < slot.not_before:
                continue
            if lane is not None and not lane.broken and slot.watched is not None and slot.watched.busy:
                continue
            del self._slots[address]
            if lane is not None:
                self._close_later(lane)
        if self._slots:
            self._sweep_later()

    def _close_later(self, lane: Lane) -> None:
        task = asyncio.ensure_future(lane.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _copy(error: ReedbedError) -> ReedbedError:
    """The same error for a further caller, who may change or raise it."""
    return rebuild(error.code, error.what, error.where, error.hint, error.retryable, error.maybe_applied)
