"""The faults of the in-process network, and that nothing is left over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reedbed.common.clock import Deadline
from reedbed.common.errors import AlreadyExists, DeadlineExceeded, Unavailable
from reedbed.transport.inprocess import InProcessNetwork

CLUSTER = b"c" * 16


async def test_held_messages_arrive_after_the_release(service: Any) -> None:
    network = InProcessNetwork()
    network.serve("a", service)
    lane = await network.open("a", cluster=CLUSTER, deadline=Deadline(5))
    network.hold("a")
    with pytest.raises(DeadlineExceeded):
        await lane.call("echo", b"", deadline=Deadline(0.02))
    with pytest.raises(DeadlineExceeded):
        await network.open("a", cluster=CLUSTER, deadline=Deadline(0.02))
    waiting = asyncio.ensure_future(lane.call("echo", b"late", deadline=Deadline(10)))
    await asyncio.sleep(0)
    network.release("a")
    assert (await waiting).header == b"late"
    await lane.close()
    await network.close()


async def test_addresses_are_taken_once_and_cut_lanes_leave_nothing(service: Any) -> None:
    before = asyncio.all_tasks()
    network = InProcessNetwork()
    network.serve("a", service)
    with pytest.raises(AlreadyExists):
        network.serve("a", service)
    lanes = [await network.open("a", cluster=CLUSTER, deadline=Deadline(5)) for _ in range(3)]
    calls = [asyncio.ensure_future(lane.call("wait", b"", deadline=Deadline(10))) for lane in lanes]
    for _ in calls:
        await service.started.acquire()
    assert network.lanes("a") == 3
    await network.cut("a")
    for call in calls:
        with pytest.raises(Unavailable):
            await call
    assert network.lanes("a") == 0
    assert service.running == 0
    for lane in lanes:
        await lane.close()
    with pytest.raises(Unavailable):
        await network.open("b", cluster=CLUSTER, deadline=Deadline(5))
    await network.close()
    assert asyncio.all_tasks() == before
