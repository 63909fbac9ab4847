"""The entry points: where options come from, and which lanes a store speaks over."""

from __future__ import annotations

import os

from reedbed.client.core import Core, forked_after_use, forked_from_use
from reedbed.client.options import Options, resolve_endpoint
from reedbed.client.store import AsyncStore
from reedbed.client.sync_store import Store
from reedbed.common.clock import Deadline
from reedbed.common.limits import MIB
from reedbed.transport.lane import Connector, Lane
from reedbed.transport.tls import TlsConfig


def connect(
    endpoint: str | None = None,
    *,
    timeout: float | None = 30.0,
    concurrency: int = 32,
    window: int = 64 * MIB,
    tls: TlsConfig | None = None,
) -> Store:
    """A store of the cluster at HOST:PORT: the argument, else REEDBED_ENDPOINT, else 127.0.0.1:7300.

    Nothing is sent before the first operation. `timeout`: seconds that an operation may take; a long stream may take
    longer, and is given up when one extent or call takes that long. `concurrency` and `window` (bytes) bound what one
    operation has under way at once.
    """
    options = Options(resolve_endpoint(endpoint), timeout, concurrency, window, tls)
    return Store(options, open_async)


def connect_async(
    endpoint: str | None = None,
    *,
    timeout: float | None = 30.0,
    concurrency: int = 32,
    window: int = 64 * MIB,
    tls: TlsConfig | None = None,
) -> AsyncStore:
    """`connect` for asynchronous code: use it in `async with`, or close it in the end."""
    return open_async(Options(resolve_endpoint(endpoint), timeout, concurrency, window, tls))


def open_async(options: Options) -> AsyncStore:
    """An asynchronous store over the lanes that its options ask for."""
    # gRPC's own handlers for a fork now and then end the child with SIGSEGV when other threads call at that moment,
    # even one that never uses a store; without them it lives, and whoever uses a store in it gets ForkedStore
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from reedbed.transport.grpc_client import GrpcConnector  # slow to import, and of no use to most of the package

    return AsyncStore(Core(options, _Unforked(GrpcConnector(tls=options.tls))))


class _Unforked:
    """A connector that says why it cannot work after a fork, where gRPC would only be silent until the deadline."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    async def open(self, address: str, *, cluster: bytes, deadline: Deadline) -> Lane:
        """As of Connector; ForkedStore after a fork of a process that had used a store."""
        if forked_after_use():
            raise forked_from_use()
        return await self._connector.open(address, cluster=cluster, deadline=deadline)
