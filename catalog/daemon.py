"""The catalogd process: opens its folder, serves it over gRPC, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from reedbed.catalog.catalogd import Catalog
from reedbed.catalog.config import CatalogdSettings
from reedbed.catalog.leases import Leases
from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.common import logs
from reedbed.common.clock import SystemClock
from reedbed.common.errors import NotFound
from reedbed.common.ids import ID_BYTES, Id
from reedbed.transport.grpc_server import GrpcServer, check_free
from reedbed.transport.tls import tls_from

READ_THREADS: Final = 4
STOP_GRACE_S: Final = 2.0

_log = logs.get("catalog")


def open_engine(folder: Path) -> LmdbEngine:
    """The engine in `folder`; a new cluster is founded in one that is empty or absent. Errors as of LmdbEngine."""
    try:
        return LmdbEngine(folder)
    except NotFound:
        return LmdbEngine(folder, cluster=Id(os.urandom(ID_BYTES)))


async def run_catalogd(settings: CatalogdSettings, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Serves until `stop`, SIGTERM or SIGINT. `ready` is told HOST:PORT once everything is served.

    Raises the named error of whatever keeps it from serving: the folder's, the address's, the settings'.
    """
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_, stop.set)
    clock = SystemClock()
    tls = tls_from(settings.tls_ca, settings.tls_cert, settings.tls_key)
    bind = f"{settings.host}:{settings.port}"
    check_free(bind)  # before a folder is made
    async with contextlib.AsyncExitStack() as stack:
        engine = await asyncio.to_thread(open_engine, settings.dir)
        stack.push_async_callback(asyncio.to_thread, engine.close)
        leases = await asyncio.to_thread(lambda: Leases(engine, clock, lag_s=settings.horizon_lag_s))
        pool = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="catalog-read")
        stack.callback(pool.shutdown)
        catalog = Catalog(engine, engine.cluster, settings, clock, leases, pool)
        stack.push_async_callback(catalog.close)
        server = GrpcServer(catalog, bind=bind, tls=tls)
        port = await server.start()
        stack.push_async_callback(server.stop, STOP_GRACE_S)
        async with asyncio.TaskGroup() as group:
            background = group.create_task(catalog.run())
            endpoint = f"{settings.host}:{port}"
            _log.info(
                "serving cluster %s at %s, term %d, pid %d", engine.cluster.hex(), endpoint, leases.term(), os.getpid()
            )
            ready(endpoint)
            await stop.wait()
            background.cancel()
    _log.info("stopped")
