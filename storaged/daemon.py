"""A storaged on this machine: a process (process.py) over gRPC, folders, threads and the system's clocks."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reedbed.common.clock import SystemClock
from reedbed.storaged.identity import clean_folder, known_cluster
from reedbed.storaged.process import World, run_process
from reedbed.storaged.service import MEMORY
from reedbed.storaged.settings import StoragedSettings
from reedbed.storaged.store import ShardStore
from reedbed.transport.grpc_client import GrpcConnector
from reedbed.transport.grpc_server import GrpcServer, check_free
from reedbed.transport.stream_server import Streams
from reedbed.transport.tls import TlsConfig, tls_from


async def run_storaged(
    settings: StoragedSettings, ready: Callable[[str, list[tuple[int, str]]], None], stop: asyncio.Event
) -> None:
    """`run_process` on this machine; SIGINT and SIGTERM set `stop`."""
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_, stop.set)
    tls: TlsConfig | None = tls_from(settings.tls_ca, settings.tls_cert, settings.tls_key)
    bind = f"{settings.host}:{settings.port}"
    streams = Streams(settings.stream_port, settings.advertise_streams) if settings.streams else None
    check_free(bind)  # before a folder is made
    world = World(
        connector=GrpcConnector(tls=tls, role="storaged"),
        server=lambda service: GrpcServer(service, bind=bind, tls=tls, budget=MEMORY, streams=streams),
        open_store=lambda folder, cluster: ShardStore.open(Path(folder), cluster, capacity=settings.capacity),
        clean=lambda folder, incarnation: clean_folder(Path(folder), incarnation),
        readers=lambda name: ThreadPoolExecutor(settings.read_threads, thread_name_prefix=name),
        clock=SystemClock(),
        rng=random.Random(),
        known=lambda folder: known_cluster(Path(folder)),
    )
    await run_process(settings, world, ready, stop)
