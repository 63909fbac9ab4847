"""The cluster as the extents room wants to see it, from within catalogd: for the pieces of its own copy."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence

from reedbed.catalog.leases import Lease
from reedbed.common.checksums import Buffer
from reedbed.common.clock import Clock, Deadline
from reedbed.common.ids import Id, IdBlock
from reedbed.common.metrics import Metrics
from reedbed.extents.latency import LatencyBook
from reedbed.protos.types import ClusterMap, Device
from reedbed.transport.lane import Reply
from reedbed.transport.pool import LanePool


class CatalogAccess:
    """A ClusterAccess whose ids come from blocks of the catalog's own. Belongs to one event loop."""

    def __init__(
        self,
        pool: LanePool,
        map_: Callable[[], ClusterMap],
        lease: Callable[[], Awaitable[Lease]],
        log_position: Callable[[], tuple[int, int]],
        clock: Clock,
        latency: LatencyBook,
        rng: random.Random,
    ) -> None:
        """`lease` gives a fresh block of the right owner; `map_` the durable map, `log_position` the log's end."""
        self._pool = pool
        self._map = map_
        self._lease = lease
        self._block: IdBlock | None = None
        self._good_until = 0.0
        self._log_position = log_position
        self.clock = clock
        self.metrics = Metrics()
        self.rng = rng
        self.latency = latency

    @property
    def map(self) -> ClusterMap:
        return self._map()

    def log_position(self) -> tuple[int, int]:
        return self._log_position()

    async def refresh(self, newer_than: int, deadline: Deadline) -> ClusterMap:
        """Nobody has a newer map than the catalog."""
        deadline.check("asking for the cluster map")
        return self._map()

    async def call(
        self,
        device: Device,
        method: str,
        header: bytes,
        payload: Sequence[Buffer] = (),
        *,
        deadline: Deadline,
        into: memoryview | None = None,
    ) -> Reply:
        """One call to the storaged that serves a device."""
        return await self._pool.call(
            device.address, method, header, payload, deadline=deadline, into=into, epoch=self.map.epoch
        )

    async def new_id(self, deadline: Deadline) -> Id:
        """An id for a piece, above the horizon."""
        now = self.clock.monotonic()
        if self._block is None or not self._block.left or now >= self._good_until:
            lease = await self._lease()
            self._block = IdBlock(lease.prefix, lease.count)
            self._good_until = now + lease.good_for_ms / 1000
        return self._block.take()
