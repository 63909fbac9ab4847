"""The pool of lanes, over the in-process network and a connector with faults."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import Any

import pytest

from reedbed.common.clock import Deadline, ManualClock
from reedbed.common.errors import DeadlineExceeded, NotFound, Unavailable, WrongCluster
from reedbed.transport.ends import MuxLane
from reedbed.transport.inprocess import InProcessNetwork
from reedbed.transport.pool import LanePool

CLUSTER = b"c" * 16


class Counting:
    """A connector that counts attempts, and can be told to hang."""

    def __init__(self, network: InProcessNetwork) -> None:
        self.network = network
        self.attempts = 0
        self.go = asyncio.Event()
        self.go.set()

    async def open(self, address: str, *, cluster: bytes, deadline: Deadline) -> MuxLane:
        self.attempts += 1
        await self.go.wait()
        return await self.network.open(address, cluster=cluster, deadline=deadline)


class Set:
    def __init__(self, service: Any) -> None:
        self.service = service
        self.network = InProcessNetwork()
        self.network.serve("a", service)
        self.connector = Counting(self.network)
        self.clock = ManualClock()
        self.answers: list[tuple[str, int, int]] = []
        self.pool = LanePool(
            self.connector,
            CLUSTER,
            on_answer=lambda *seen: self.answers.append(seen),
            clock=self.clock,
            rng=random.Random(1),
            idle_s=0.02,
        )

    async def echo(self, header: bytes = b"x") -> bytes:
        return (await self.pool.call("a", "echo", header, deadline=Deadline(10))).header


@pytest.fixture
async def made(service: Any) -> Any:
    made = Set(service)
    yield made
    await made.pool.close()
    await made.network.close()


async def test_one_lane_is_opened_for_all_who_wait(made: Set) -> None:
    assert await asyncio.gather(*(made.echo(b"%d" % number) for number in range(20))) == [b"%d" % n for n in range(20)]
    assert made.connector.attempts == 1
    lane = await made.pool.lane("a", deadline=Deadline(1))
    assert lane is await made.pool.lane("a", deadline=Deadline(1), cluster=b"")
    with pytest.raises(WrongCluster):
        await made.pool.lane("a", deadline=Deadline(1), cluster=b"d" * 16)
    assert not lane.broken


async def test_epoch_and_term_are_told_when_they_change(made: Set) -> None:
    await made.echo()
    await made.echo()
    assert made.answers == [("a", 7, 3)]
    made.service.epoch = 8
    with pytest.raises(NotFound):
        await made.pool.call("a", "fail", b"", deadline=Deadline(10))
    assert made.answers[1:] == [("a", 8, 3)]


async def test_the_first_call_after_a_break_tries_at_once(made: Set) -> None:
    await made.echo()
    lane = await made.pool.lane("a", deadline=Deadline(1))
    await made.network.cut("a")
    async with asyncio.timeout(5):
        while not lane.broken:  # noqa: ASYNC110  a lane has no event for it
            await asyncio.sleep(0)
    assert await made.echo() == b"x"
    assert made.connector.attempts == 2


async def test_failed_attempts_are_made_ever_more_rarely(made: Set) -> None:
    await made.network.stop("a")
    with pytest.raises(Unavailable):
        await made.echo()
    for attempt in range(1, 10):
        waited = 0.0
        while made.connector.attempts == attempt:
            made.clock.advance(0.005)
            waited += 0.005
            with pytest.raises(Unavailable, match="nobody listens"):
                await made.echo()
        longest = min(2.0, 0.05 * 2 ** (attempt - 1))
        assert longest / 2 <= waited <= longest + 0.006
    made.network.serve("a", made.service)
    made.clock.advance(10)
    assert await made.echo() == b"x"


async def test_who_waits_for_a_lane_keeps_to_the_deadline(made: Set) -> None:
    made.connector.go.clear()
    patient = asyncio.ensure_future(made.echo())
    with pytest.raises(DeadlineExceeded):
        await made.pool.call("a", "echo", b"", deadline=Deadline(0.03))
    made.connector.go.set()
    assert await patient == b"x"
    assert made.connector.attempts == 1


async def test_one_who_gives_up_does_not_end_the_attempt(made: Set) -> None:
    made.connector.go.clear()
    impatient = asyncio.ensure_future(made.echo())
    patient = asyncio.ensure_future(made.echo())
    await asyncio.sleep(0)
    impatient.cancel()
    made.connector.go.set()
    assert await patient == b"x"
    assert made.connector.attempts == 1


async def test_an_attempt_that_fails_after_all_gave_up_is_not_complained_of(made: Set) -> None:
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
    await made.network.close()
    made.connector.go.clear()
    waiting = asyncio.create_task(made.echo())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert made.connector.attempts == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    made.connector.go.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert made.pool._slots["a"].opening is None
    gc.collect()
    assert complaints == []


async def test_an_attempt_has_an_end_of_its_own(service: Any) -> None:
    network = InProcessNetwork()
    network.serve("a", service)
    network.hold("a")
    pool = LanePool(network, CLUSTER, open_s=0.02)
    with pytest.raises(Unavailable, match="no answer within"):
        await pool.call("a", "echo", b"", deadline=Deadline(20))
    await pool.close()
    await network.close()


async def test_idle_lanes_are_closed_and_busy_ones_are_not(made: Set) -> None:
    waiting = asyncio.ensure_future(made.pool.call("a", "wait", b"w", deadline=Deadline(20)))
    await made.service.started.acquire()
    made.clock.advance(1000)
    for _ in range(3):
        await asyncio.sleep(0.02)
    assert made.network.lanes("a") == 1
    made.service.go.set()
    assert (await waiting).header == b"w"
    made.clock.advance(1000)
    async with asyncio.timeout(5):
        while made.network.lanes("a"):  # noqa: ASYNC110  the network has no event for it
            await asyncio.sleep(0.005)
    assert await made.echo() == b"x"
    assert made.connector.attempts == 2


async def test_a_closed_pool_stays_closed(made: Set) -> None:
    waiting = asyncio.ensure_future(made.pool.call("a", "wait", b"", deadline=Deadline(20)))
    await made.service.started.acquire()
    made.connector.go.clear()
    opening = asyncio.ensure_future(made.pool.call("b", "echo", b"", deadline=Deadline(20)))
    await asyncio.sleep(0)
    await made.pool.close()
    for call in (waiting, opening):
        with pytest.raises(Unavailable):
            await call
    with pytest.raises(Unavailable) as caught:
        await made.echo()
    assert not caught.value.retryable
