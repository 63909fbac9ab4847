"""The worker over a twin of a cluster: a slow pace is no failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from reedbed.ec.profiles import Profile
from reedbed.protos import catalog_pb2
from reedbed.protos.convert import extent_to_message
from reedbed.storaged import worker as module
from reedbed.storaged.politeness import Foreground
from reedbed.storaged.worker import Worker


async def test_a_task_has_its_time_from_when_it_is_its_turn(
    make_twin: Callable[..., Any], some_bytes: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pace keeps the second task waiting for longer than a task may take."""
    monkeypatch.setattr(module, "TASK_S", 0.4)
    twin = make_twin(Profile(4, 2), 6)
    extents = [await twin.write(some_bytes(1 << 20)) for _ in range(2)]
    for extent in extents:
        twin.devices[twin.map.pgs[1].positions[0].device].shards.pop((extent.id, 0))
    tasks = [
        catalog_pb2.Task(extent=extent_to_message(replace(extent, present=extent.present & ~1)), positions=[0])
        for extent in extents
    ]
    results: dict[bytes, catalog_pb2.TaskResult] = {}
    done = asyncio.Event()

    asked: list[int] = []

    async def exchange(request: catalog_pb2.TasksRequest) -> catalog_pb2.TasksReply:
        told = {result.extent for result in request.results}
        assert not told & set(request.held), "what has ended is not at hand any more"
        asked.append(len(request.held))
        results.update((result.extent, result) for result in request.results)
        if len(results) == 2:
            done.set()
        reply = catalog_pb2.TasksReply(tasks=tasks, floor=1, ceiling=1 << 18)
        tasks.clear()
        return reply

    work = asyncio.Event()
    work.set()
    worker = Worker(twin, exchange, lambda: [1], work, Foreground(twin.clock.monotonic()), 1)
    running = asyncio.create_task(worker.run())
    await done.wait()
    running.cancel()
    assert [result.error for result in results.values()] == ["", ""]
    assert asked[0] == 0
    assert max(asked) in (1, 2), "a task that was given is named until it has ended"
