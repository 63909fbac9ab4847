"""A storaged process, put together: stores, service, server, agent, worker and comparer, from start to clean stop.

What it stands on (network, disks, clock, randomness) is handed in as a World: daemon.py has the machine's, the
simulation its own.

Devices that were served before answer reads, lists and what they remember of their catalog as soon as they are open,
whether a catalogd answers or not: without them nobody could rebuild one.
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
    WrongCluster,
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


def _new(folder: str) -> bytes:
    """Where all folders are new."""
    return b""


@dataclass(frozen=True, slots=True)
class World:
    """What a process stands on.

    open_store: opens the device in a folder for a cluster; blocks, and raises as `ShardStore.open`. clean: starts the
    device in a folder that nobody serves anew, in an incarnation; blocks. readers: threads that read from one device.
    known: the cluster of the device in a folder, empty for a new one; blocks, and raises as `open_store`.
    """

    connector: Connector
    server: Callable[[Service], Server]
    open_store: Callable[[str, bytes], ShardStore]
    clean: Callable[[str, int], None]
    readers: Callable[[str], Executor]
    clock: Clock
    rng: random.Random
    known: Callable[[str], bytes] = _new


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
    """Serves until `stop`. `ready` is told the address, and number and folder of each device that serves, once they are
    registered.

    Raises the named error of whatever keeps it from serving.
    """
    cluster = await asyncio.to_thread(_cluster_of, world, settings.dir)
    hello = None if cluster else await find_catalog(world, settings.catalog, stop)
    if hello is not None:
        cluster = hello.cluster
    if not cluster:
        return
    state = CatalogState(cluster, world.clock)
    async with contextlib.AsyncExitStack() as stack:
        opened = await stack.enter_async_context(contextlib.AsyncExitStack())  # closed when nothing uses them any more

        async def open_store(folder: str) -> ShardStore:
            store = await asyncio.to_thread(world.open_store, folder, cluster)
            opened.push_async_callback(asyncio.to_thread, store.close)
            (await asyncio.to_thread(store.scrubber, Pace(settings.scrub_period_s, settings.scrub_rate))).start()
            return store

        cleaned: dict[str, int] = {}  # folders, and the incarnation that they were cleaned for

        async def renew(number: int, store: ShardStore, incarnation: int) -> ShardStore:
            folder = str(store.folder)
            await service.withdraw(number or store.memory.number)
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

        stores = [await open_store(folder) for folder in settings.dir]
        # a catalog that was replaced before is not followed while none has answered yet, and nobody may claim its term
        state.saw(0, max(store.term for store in stores))
        service = StorageService(state, world.readers, settings.catalog)
        stack.callback(service.close)
        for store in stores:
            if store.memory.number:
                service.serve(store.memory.number, store)
        server = world.server(service)
        port = await server.start()
        stack.push_async_callback(server.stop, GRACE_S)
        address = advertised(settings, port)
        if hello is None:
            log.info("what is there is read at %s, pid %d, while catalogd is looked for", address, os.getpid())
            hello = await find_catalog(world, settings.catalog, stop)
            if hello is None:
                return
        if hello.cluster != cluster:
            raise WrongCluster(
                f"the device folder belongs to cluster {cluster.hex()}, not {hello.cluster.hex()}",
                where=settings.dir[0],
                hint="Name the folder of this cluster, or an empty one. A catalog that was lost is made again by "
                "`reedbed catalog rebuild`, not by starting an empty one",
            )
        state.saw(0, hello.term)
        pool = LanePool(world.connector, cluster=cluster, clock=world.clock, rng=world.rng)
        stack.push_async_callback(pool.close)
        caller = _Endpoints(pool, settings.catalog, state)
        agent = Agent(settings, state, caller, stores, renew, service.withdraw, service.renumber)
        service.compared = agent.comparer.status
        numbers = await registered(agent, address, stop, state.clock)
        if not numbers:
            return
        ids = LeasedIds(agent.lease_ids, state.clock, lambda: state.term)
        serves = service.stores.__contains__
        access = StorageAccess(pool, lambda: agent.map, agent.fetch_map, state.clock, world.rng, ids, service, serves)
        boot = world.rng.getrandbits(63)
        worker = Worker(access, agent.exchange, lambda: agent.numbers, agent.work, service.foreground, boot)
        log.info("serving devices %s at %s, pid %d", numbers, address, os.getpid())
        folders = [str(store.folder) for store in agent.stores]
        ready(address, list(zip(numbers, folders, strict=True)))
        try:
            async with asyncio.TaskGroup() as group:
                working = group.create_task(worker.run(), name="worker")
                group.create_task(agent.comparer.run(stop), name="comparer")
                await agent.run(stop)
                working.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # what ended one of them; the others were cancelled for it


def _cluster_of(world: World, folders: Sequence[str]) -> bytes:
    """The cluster of devices that were served before; empty if all folders are new."""
    return next((known for folder in folders if (known := world.known(folder))), b"")


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
