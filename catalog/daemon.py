"""The catalogd process: opens its folder, serves it over gRPC, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from reedbed.catalog.catalogd import Catalog
from reedbed.catalog.config import CatalogdSettings
from reedbed.catalog.leases import Leases
from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.catalog.standing import Evidence, standing
from reedbed.common import logs
from reedbed.common.clock import SystemClock
from reedbed.common.errors import NotFound
from reedbed.common.ids import ID_BYTES, Id
from reedbed.transport.grpc_client import GrpcConnector
from reedbed.transport.grpc_server import GrpcServer, check_free
from reedbed.transport.lane import Hello, Request, Response
from reedbed.transport.stream_server import Streams
from reedbed.transport.tls import tls_from

READ_THREADS: Final = 4
SWITCH_S: Final = 0.001  # that lookups wait at most for a thread which applies commits; Python's own is 5 ms
STOP_GRACE_S: Final = 2.0

_log = logs.get("catalog")


def open_engine(settings: CatalogdSettings) -> LmdbEngine:
    """The engine in the folder; a new cluster is founded in one that is empty or absent. Errors as of LmdbEngine."""
    opened = partial(LmdbEngine, settings.dir, reserve=settings.reserve, capacity=settings.capacity)
    try:
        return opened()
    except NotFound:
        return opened(cluster=Id(os.urandom(ID_BYTES)))


class _Serving:
    """The catalog that serves now; another one may take its place while the server goes on."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def hello(self) -> Hello:
        return self.catalog.hello()

    def position(self) -> tuple[int, int]:
        return self.catalog.position()

    async def handle(self, request: Request) -> Response:
        return await self.catalog.handle(request)


async def run_catalogd(settings: CatalogdSettings, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Serves until `stop`, SIGTERM or SIGINT. `ready` is told HOST:PORT once everything is served.

    Raises the named error of whatever keeps it from serving: the folder's, the address's, the settings', and StaleTerm
    once it has been replaced by another catalog.
    """
    sys.setswitchinterval(SWITCH_S)
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_, stop.set)
    clock = SystemClock()
    tls = tls_from(settings.tls_ca, settings.tls_cert, settings.tls_key)
    bind = f"{settings.host}:{settings.port}"
    streams = Streams(settings.stream_port, settings.advertise_streams) if settings.streams else None
    check_free(bind)  # before a folder is made
    connector = GrpcConnector(tls=tls, role="catalogd")
    async with contextlib.AsyncExitStack() as stack:
        engine = await asyncio.to_thread(open_engine, settings)
        stack.push_async_callback(asyncio.to_thread, engine.close)
        pool = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="catalog-read")
        stack.callback(pool.shutdown)

        async def made(evidence: Evidence = ()) -> Catalog:
            await standing(engine, connector, clock, evidence)
            leases = await asyncio.to_thread(lambda: Leases(engine, clock, lag_s=settings.horizon_lag_s))
            return Catalog(engine, engine.cluster, settings, clock, leases, pool, connector=connector)

        serving = _Serving(await made())
        stack.push_async_callback(lambda: serving.catalog.close())
        server = GrpcServer(serving, bind=bind, tls=tls, streams=streams)
        port = await server.start()
        stack.push_async_callback(server.stop, STOP_GRACE_S)
        endpoint = f"{settings.host}:{port}"
        _log.info(
            "serving cluster %s at %s, term %d, pid %d",
            engine.cluster.hex(),
            endpoint,
            serving.catalog.position()[1],
            os.getpid(),
        )
        serving.catalog.survival.notes.endpoint = endpoint
        ready(endpoint)
        while await _until_older(serving.catalog, stop):
            await serving.catalog.close()
            serving.catalog = await made(serving.catalog.survival.warden.evidence)
            serving.catalog.survival.notes.endpoint = endpoint
            _log.warning("serving on, in term %d", serving.catalog.position()[1])
    _log.info("stopped")


async def _until_older(catalog: Catalog, stop: asyncio.Event) -> bool:
    """Runs the background work until `stop`: False; or until the catalog proves older than its devices: True.

    Raises StaleTerm once the catalog has been replaced.
    """
    running = asyncio.ensure_future(catalog.run())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return False
        if not catalog.survival.warden.older:
            running.result()
        return True
    finally:
        for task in (running, stopping):
            task.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)
