"""Scenarios of the simulation on real processes: the same clients and the same checkers, fewer faults and seeds.

What happens is drawn from the seed, when it happens from what the clients have done so far: real processes do not
repeat to the letter.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Final

import pytest
from reedbed_cluster import LocalCluster
from reedbed_faults.cluster import Way, cluster_behind_proxies
from reedbed_faults.proxy import ProxyThread, split
from reedbed_sim.checks import check_all
from reedbed_sim.history import History
from reedbed_sim.scenario import read_final
from reedbed_sim.workload import KEPT, PLAIN, Driver, Follower

import reedbed.aio

CLIENTS: Final = 3  # of which one reaches the catalog through a proxy
FAULTS: Final = 7
OPS: Final = 25  # that end between two faults
DEVICES: Final = 6
SEEDS: Final = [int(seed) for seed in os.environ.get("REEDBED_SCENARIOS", "1").split()]  # more in `make soak`


class Stage:
    """A cluster of real processes, and what can happen to it."""

    def __init__(self, cluster: LocalCluster, proxies: dict[int, Way], way: ProxyThread, rng: Random) -> None:
        self.cluster = cluster
        self.proxies = proxies
        self.way = way
        self.rng = rng
        self.acts: list[Callable[[], Awaitable[None]]] = [
            self.crash_storage,
            self.crash_catalog,
            self.crash_all,
            self.pause_storage,
            self.pause_catalog,
            self.partition,
            self.lose_answer,
        ]
        self._undo: list[Callable[[], None]] = []

    async def crash_storage(self) -> None:
        daemon = self.rng.choice(self.cluster.storaged)
        await asyncio.to_thread(daemon.kill)

    async def crash_catalog(self) -> None:
        await asyncio.to_thread(self.cluster.catalogd.kill)
        await asyncio.to_thread(self.cluster.start_catalog)

    async def crash_all(self) -> None:
        await asyncio.to_thread(self.cluster.kill_all)
        await self.heal()

    async def pause_storage(self) -> None:
        daemon = self.rng.choice(self.cluster.storaged)
        daemon.signal(signal.SIGSTOP)
        self._undo.append(lambda: daemon.signal(signal.SIGCONT))

    async def pause_catalog(self) -> None:
        daemon = self.cluster.catalogd
        daemon.signal(signal.SIGSTOP)
        await asyncio.sleep(self.rng.random())  # how long is part of what is drawn, nothing waits for it
        daemon.signal(signal.SIGCONT)

    async def partition(self) -> None:
        proxy = self.rng.choice(list(self.proxies.values()))
        proxy.blackhole = True

        def heal() -> None:
            proxy.blackhole = False

        self._undo.append(heal)

    async def lose_answer(self) -> None:
        self.way.proxy.drop_next_answer = True

    async def heal(self) -> None:
        """Everything runs, and everybody is reached."""
        for undo in self._undo:
            undo()
        self._undo.clear()
        await asyncio.to_thread(self.cluster.restart)


def ended(history: History) -> int:
    return sum(op.end < float("inf") for op in history.ops)


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the clients do not get on"
        await asyncio.sleep(0.02)


@pytest.mark.cluster
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
async def test_what_clients_were_told_holds(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    history = History(versioned={PLAIN: False, KEPT: True})
    async with AsyncExitStack() as stack:
        cluster, proxies = stack.enter_context(
            cluster_behind_proxies(tmp_path / "cluster", (1, 4), DEVICES, profile="rs-2-2")
        )
        way = stack.enter_context(ProxyThread(split(cluster.endpoint)))
        stage = Stage(cluster, proxies, way, rng)
        drivers: list[Driver] = []
        endpoints = [cluster.endpoint] * (CLIENTS - 1) + [way.address]
        for at, endpoint in enumerate(endpoints):
            store = await stack.enter_async_context(reedbed.aio.connect(endpoint, timeout=15))
            if not at:
                await store.create_bucket(PLAIN)
                await store.create_bucket(KEPT, versioned=True)
            drivers.append(Driver(f"c{at}", store, history, Random(rng.random()), time.monotonic, pause_s=0.02))
        follower = Follower(await stack.enter_async_context(reedbed.aio.connect(cluster.endpoint, timeout=15)))
        async with asyncio.TaskGroup() as group:
            for driver in drivers:
                group.create_task(driver.run())
            group.create_task(follower.run())
            for act in rng.sample(stage.acts, FAULTS):
                before = ended(history)
                await until(lambda before=before: ended(history) >= before + OPS)  # type: ignore[misc]
                await act()
                before = ended(history)
                await until(lambda before=before: ended(history) >= before + OPS // 3)  # type: ignore[misc]
                if rng.random() < 0.7:
                    await stage.heal()
            await stage.heal()
            for driver in drivers:
                driver.stopping = True
            follower.stopping = True
        reader = await stack.enter_async_context(reedbed.aio.connect(cluster.endpoint, timeout=30))
        log, final = await read_final(reader)
        problems = check_all(history, follower.seen, log, final)
        told = "\n".join(map(str, history.ops[-100:]))
        assert not problems, f"{told}\n{problems}\n{cluster.logs()[-5000:]}"
        assert len(history.ops) > FAULTS * OPS
