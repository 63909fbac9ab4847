"""The cluster as the extents room wants to see it, from within a storaged: for the worker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from reedbed.common.checksums import Buffer
from reedbed.common.clock import Clock, Deadline
from reedbed.common.errors import Corrupt, DeadlineExceeded, Unavailable
from reedbed.common.ids import Id
from reedbed.common.metrics import Metrics
from reedbed.extents.latency import LatencyBook
from reedbed.protos.types import ClusterMap, Device
from reedbed.storaged.ids import LeasedIds
from reedbed.transport.lane import Reply, Request, Service
from reedbed.transport.pool import LanePool


class StorageAccess:
    """A ClusterAccess. `fetch` asks the catalog for the map, `known` gives the one at hand; `ids` for new extents."""

    def __init__(
        self,
        pool: LanePool,
        known: Callable[[], ClusterMap | None],
        fetch: Callable[[], Awaitable[None]],
        clock: Clock,
        rng: random.Random,
        ids: LeasedIds,
        own: Service,
        serves: Callable[[int], bool],
    ) -> None:
        """`own` answers for the devices that it `serves`: to call them needs no lane."""
        self._ids = ids
        self._own = own
        self._serves = serves
        self._pool = pool
        self._known = known
        self._fetch = fetch
        self.clock = clock
        self.metrics = Metrics()
        self.rng = rng
        self.latency = LatencyBook()

    @property
    def map(self) -> ClusterMap:
        """The newest map at hand; Unavailable before the first one came."""
        map_ = self._known()
        if map_ is None:
            raise Unavailable("the cluster map is not known yet")
        return map_

    def log_position(self) -> tuple[int, int]:
        """None is known here: the shards that keeping writes say nothing new of the log."""
        return 0, 0

    async def refresh(self, newer_than: int, deadline: Deadline) -> ClusterMap:
        """The catalog's present map, asked for if the one at hand is not newer than that epoch."""
        map_ = self._known()
        if map_ is None or map_.epoch <= newer_than:
            deadline.check("asking for the cluster map")
            await self._fetch()
        return self.map

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
        """One call to the storaged that serves a device, which may be this one."""
        if self._serves(device.number):
            return await self._call_own(Request(method, header, payload, deadline, self.map.epoch, 0), into)
        return await self._pool.call(
            device.address, method, header, payload, deadline=deadline, into=into, epoch=self.map.epoch
        )

    async def _call_own(self, request: Request, into: memoryview | None) -> Reply:
        try:
            async with asyncio.timeout(request.deadline.left()):
                response = await self._own.handle(request)
        except TimeoutError:
            raise DeadlineExceeded("this process did not answer itself in time", maybe_applied=True) from None
        size = sum(map(len, response.payload))
        try:
            target = memoryview(bytearray(size)) if into is None else into[:size]
            if len(target) < size:
                raise Corrupt(f"an answer of {size} bytes for {len(target)} bytes of memory")
            at = 0
            for part in response.payload:
                target[at : at + len(part)] = part
                at += len(part)
        finally:
            if response.done is not None:
                response.done()
        return Reply(response.header, target, *self._own.position())

    async def new_id(self, deadline: Deadline) -> Id:
        """An id for an extent that is written for keeping."""
        deadline.check("taking an id")
        return await self._ids.take()
