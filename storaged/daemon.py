"""A storaged process, put together: stores, service, server and agent, from start to clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from reedbed.common import logs
from reedbed.common.clock import Clock, Deadline, SystemClock
from reedbed.common.errors import AlreadyExists, DeadlineExceeded, InvalidArgument, StaleTerm, Unavailable
from reedbed.storaged.access import StorageAccess
from reedbed.storaged.agent import CALL_S, TWICE_S, Agent
from reedbed.storaged.identity import clean_folder
from reedbed.storaged.pace import Pace
from reedbed.storaged.service import MEMORY, StorageService
from reedbed.storaged.settings import StoragedSettings
from reedbed.storaged.state import CatalogState
from reedbed.storaged.store import ShardStore
from reedbed.storaged.worker import Worker
from reedbed.transport.grpc_client import GrpcConnector
from reedbed.transport.grpc_server import GrpcServer, check_free
from reedbed.transport.lane import Hello, Reply
from reedbed.transport.pool import LanePool
from reedbed.transport.tls import TlsConfig, tls_from

log = logs.get("storaged")

CONNECT_RETRY_S = 0.5
GRACE_S = 5.0


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


async def find_catalog(connector: GrpcConnector, endpoints: Sequence[str], stop: asyncio.Event) -> Hello | None:
    """The hello of the first catalogd that answers, however long it takes; None if told to stop before.

    Raises InvalidArgument (WrongProtocol and others) where something else answers.
    """
    waited = False
    while not stop.is_set():
        for endpoint in endpoints:
            try:
                lane = await connector.open(endpoint, cluster=b"", deadline=Deadline(CALL_S))
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


async def run_storaged(
    settings: StoragedSettings, ready: Callable[[str, list[tuple[int, str]]], None], stop: asyncio.Event
) -> None:
    """Serves until `stop`. `ready` is told the address, and number and folder of each device, once all are registered.

    Raises the named error of whatever keeps it from serving.
    """
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_, stop.set)
    tls: TlsConfig | None = tls_from(settings.tls_ca, settings.tls_cert, settings.tls_key)
    bind = f"{settings.host}:{settings.port}"
    check_free(bind)  # before a folder is made
    connector = GrpcConnector(tls=tls, role="storaged")
    hello = await find_catalog(connector, settings.catalog, stop)
    if hello is None:
        return
    state = CatalogState(hello.cluster, SystemClock(), term=hello.term)
    async with contextlib.AsyncExitStack() as stack:
        opened = await stack.enter_async_context(contextlib.AsyncExitStack())  # closed when nothing uses them any more

        async def open_store(folder: Path) -> ShardStore:
            store = await asyncio.to_thread(ShardStore.open, folder, hello.cluster, capacity=settings.capacity)
            opened.push_async_callback(asyncio.to_thread, store.close)
            store.scrubber(Pace(settings.scrub_period_s, settings.scrub_rate)).start()
            return store

        stores = [await open_store(Path(folder)) for folder in settings.dir]

        async def renew(number: int, store: ShardStore, incarnation: int) -> ShardStore:
            await service.withdraw(number)
            await asyncio.to_thread(store.close, clean=False)
            await asyncio.to_thread(clean_folder, store.folder, incarnation)
            fresh = await open_store(store.folder)
            if number:
                service.serve(number, fresh)
            return fresh

        service = StorageService(state, settings.read_threads)
        stack.callback(service.close)
        server = GrpcServer(service, bind=bind, tls=tls, budget=MEMORY)
        port = await server.start()
        stack.push_async_callback(server.stop, GRACE_S)
        pool = LanePool(connector, cluster=hello.cluster)
        stack.push_async_callback(pool.close)
        agent = Agent(settings, state, _Endpoints(pool, settings.catalog, state), stores, renew)
        service.compared = agent.comparer.status
        address = advertised(settings, port)
        numbers = await registered(agent, address, stop, state.clock)
        if not numbers:
            return
        for number, store in zip(numbers, agent.stores, strict=True):
            service.serve(number, store)
        access = StorageAccess(pool, lambda: agent.map, agent.fetch_map, state.clock)
        worker = Worker(access, agent.exchange, lambda: agent.numbers, agent.work, service.foreground)
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
