"""What writing and reading an extent need of whoever does it: a client, a repair worker, a test's twin."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from reedbed.common.checksums import Buffer
from reedbed.common.clock import Clock, Deadline
from reedbed.common.ids import Id
from reedbed.common.metrics import Metrics
from reedbed.extents.latency import LatencyBook
from reedbed.protos.types import ClusterMap, Device
from reedbed.transport.lane import Reply


class ClusterAccess(Protocol):
    """A cluster map, a way to call its devices, ids for new extents, and what the process has learnt of latencies."""

    @property
    def map(self) -> ClusterMap:
        """The newest map at hand."""
        ...

    @property
    def metrics(self) -> Metrics: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def rng(self) -> random.Random: ...

    @property
    def latency(self) -> LatencyBook:
        """One for the whole process, since what one read learns of a device serves the next."""
        ...

    def log_position(self) -> tuple[int, int]:
        """Term and sequence number of the newest log entry known, (0, 0) for none."""
        ...

    async def refresh(self, newer_than: int, deadline: Deadline) -> ClusterMap:
        """The catalog's present map, asked for if the one at hand is not newer than epoch `newer_than`.

        It may still have that epoch, where nothing changed. Raises Unavailable and DeadlineExceeded.
        """
        ...

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
        """One call to the device's daemon, under the rules of transport/lane.py."""
        ...

    async def new_id(self, deadline: Deadline) -> Id:
        """An id for a new extent, never given before. Raises Unavailable and DeadlineExceeded."""
        ...
