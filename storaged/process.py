"""A storaged process, put together: stores, service, server, agent, worker and comparer, from start to clean stop.

What it stands on (network, disks, clock, randomness) is handed in as a World: daemon.py has the machine's, the
simulation its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from reedbed.common import logs
from reedbed.common.clock import Clock, Deadline
from reedbed.common.errors import (
    AlreadyExists,
    DeadlineExceeded,
    DeviceFailed,
    InvalidArgument,
    StaleTerm,
    Unavailable,
)
from reedbed.storaged.access import StorageAccess
from reedbed.storaged.agent import CALL_S, TWICE_S, Agent
from reedbed.storaged.ids import LeasedIds
from reedbed.storaged.pace import Pace
from reedbed.storaged.service import StorageService
from reedbed.storaged.settings import StoragedSettings
from reedbed.storaged.state import CatalogState
from reedbed.storaged.store import ShardStore
from reedbed.storaged.worker import Worker
from reedbed.transport.lane import Connector, Hello, Reply, Service
from reedbed.transport.pool import LanePool

log = logs.get("storaged")

CONNECT_RETRY_S = 0.5
GRACE_S = 5.0


class Server(Protocol):
    """Serves one service from `start`, which returns its port, to `stop`, which gives calls so many seconds."""

    async def start(self) -> int: ...

    async def stop(self, grace: float) -> None: ...


@dataclass(frozen=True, slots=True)
class World:
    """What a process stands on.

    open_store: opens the device in a folder for a cluster; blocks, and raises as `ShardStore.open`. clean: starts the
    device in a folder that nobody serves anew, in an incarnation; blocks. readers: threads that read from one device.
    """

    connector: Connector
    server: Callable[[Service], Server]
    open_store: Callable[[str, bytes], ShardStore]
    clean: Callable[[str, int], None]
    readers: Callable[[str], Executor]
    clock: Clock
    rng: random.Random


class _Endpoints:
    """Calls the catalogd that answered last, and the next one when it does not, or when it has been replaced."""

    def __init__(self, pool: LanePool, endpoints: Sequence[str], state: CatalogState) -> None:
        self._pool = pool
        self._endpoints = list(endpoints)
        self._state = state

    async def call(self, method: str, header: bytes, deadline: Deadline) -> Reply:
        try:
            reply = await self._pool.call(self._endpoints[0], method, header, deadline=deadline)
        except (Unavailable, DeadlineExceeded):
            self._next()
            raise
        if reply.term < self._state.term:
            self._next()
        return reply

    def _next(self) -> None:
        self._endpoints.append(self._endpoints.pop(0))


async def find_catalog(world: World, endpoints: Sequence[str], stop: asyncio.Event) -> Hello | None:
    """The hello of the first catalogd that answers, however long it takes; None if told to stop before.

    Raises InvalidArgument (WrongProtocol and others) where something else answers.
    """
    waited = False
    while not stop.is_set():
        for endpoint in endpoints:
            try:
                lane = await world.connector.open(endpoint, cluster=b"", deadline=Deadline(CALL_S, world.clock))
            except (Unavailable, DeadlineExceeded) as error:
                if not waited:
                    log.warning("waiting for catalogd: %s", error)
                waited = True
                continue
            hello = lane.hello
            await lane.close()
            if hello.role != "catalogd":
                raise InvalidArgument(f"{endpoint} is a {hello.role}, not a catalogd", hint="Check --catalog")
            return hello
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), CONNECT_RETRY_S)
    return None


def advertised(settings: StoragedSettings, port: int) -> str:
    """The address that clients are told."""
    if not settings.advertise:
        return f"{settings.host}:{port}"
    return settings.advertise if ":" in settings.advertise else f"{settings.advertise}:{port}"


async def run_process(
    settings: StoragedSettings,
    world: World,
    ready: Callable[[str, list[tuple[int, str]]], None],
    stop: asyncio.Event,
) -> None:
    """Serves until `stop`. `ready` is told the address, and number and folder of each device, once all are registered.

    Raises the named error of whatever keeps it from serving.
    """
    hello = await find_catalog(world, settings.catalog, stop)
    if hello is None:
        return
    state = CatalogState(hello.cluster, world.clock, term=hello.term)
    async with contextlib.AsyncExitStack() as stack:
        opened = await stack.enter_async_context(contextlib.AsyncExitStack())  # closed when nothing uses them any more

        async def open_store(folder: str) -> ShardStore:
            store = await asyncio.to_thread(world.open_store, folder, hello.cluster)
            opened.push_async_callback(asyncio.to_thread, store.close)
            (await asyncio.to_thread(store.scrubber, Pace(settings.scrub_period_s, settings.scrub_rate))).start()
            return store

        stores = [await open_store(folder) for folder in settings.dir]

        cleaned: dict[str, int] = {}  # folders, and the incarnation that they were cleaned for

        async def renew(number: int, store: ShardStore, incarnation: int) -> ShardStore:
            folder = str(store.folder)
            await service.withdraw(number)
            await asyncio.to_thread(store.close, clean=False)
            if cleaned.get(folder) != incarnation:
                try:
                    await asyncio.to_thread(world.clean, folder, incarnation)
                except OSError as error:
                    raise DeviceFailed(f"it cannot be cleaned: {error}", where=folder, retryable=True) from error
                cleaned[folder] = incarnation
            fresh = await open_store(folder)
            if number:
                service.serve(number, fresh)
            return fresh

        service = StorageService(state, world.readers)
        stack.callback(service.close)
        server = world.server(service)
        port = await server.start()
        stack.push_async_callback(server.stop, GRACE_S)
        pool = LanePool(world.connector, cluster=hello.cluster, clock=world.clock, rng=world.rng)
        stack.push_async_callback(pool.close)
        agent = Agent(settings, state, _Endpoints(pool, settings.catalog, state), stores, renew)
        service.compared = agent.comparer.status
        address = advertised(settings, port)
        numbers = await registered(agent, address, stop, state.clock)
        if not numbers:
            return
        for number, store in zip(numbers, agent.stores, strict=True):
            service.serve(number, store)
        ids = LeasedIds(agent.lease_ids, state.clock)
        access = StorageAccess(pool, lambda: agent.map, agent.fetch_map, state.clock, world.rng, ids)
        boot = world.rng.getrandbits(63)
        worker = Worker(access, agent.exchange, lambda: agent.numbers, agent.work, service.foreground, boot)
        log.info("serving devices %s at %s, pid %d", numbers, address, os.getpid())
        ready(address, list(zip(numbers, settings.dir, strict=True)))
        try:
            async with asyncio.TaskGroup() as group:
                working = group.create_task(worker.run(), name="worker")
                group.create_task(agent.comparer.run(stop), name="comparer")
                await agent.run(stop)
                working.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # what ended one of them; the others were cancelled for it


async def registered(
    agent: Agent, address: str, stop: asyncio.Event, clock: Clock, retry_s: float = CONNECT_RETRY_S
) -> list[int]:
    """Numbers of all devices, tried until the catalog answers; none if told to stop before.

    Raises AlreadyExists for a device that is still heard elsewhere after TWICE_S, and other errors at once.
    """
    give_up: float | None = None
    while not stop.is_set():
        try:
            return await agent.register(address)
        except (Unavailable, DeadlineExceeded, StaleTerm) as error:
            log.warning("cannot register yet: %s", error)
        except AlreadyExists as error:
            give_up = clock.monotonic() + TWICE_S if give_up is None else give_up
            if not error.retryable or clock.monotonic() >= give_up:
                raise
            log.warning("cannot register yet: %s", error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), retry_s)
    return []
