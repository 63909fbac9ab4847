"""Ids for the extents that a worker writes, from blocks that the catalog leases.

Invariants: each id is handed out once, and none from a block that is older than the catalog said it is good for,
counted by the monotonic clock from before the block was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from reedbed.common.clock import Clock
from reedbed.common.ids import Id, IdBlock
from reedbed.protos import catalog_pb2

_LEASE_PART: Final = 0.8  # of the time that a block is good for; the rest is for the report to arrive


class LeasedIds:
    """`lease` asks the catalog for a block."""

    def __init__(self, lease: Callable[[], Awaitable[catalog_pb2.LeaseReply]], clock: Clock) -> None:
        self._lease = lease
        self._clock = clock
        self._block: IdBlock | None = None
        self._good_until = 0.0
        self._asking = asyncio.Lock()

    async def take(self) -> Id:
        """An id that nobody else has. Raises what the call does."""
        async with self._asking:
            while self._block is None or not self._block.left or self._clock.monotonic() >= self._good_until:
                asked = self._clock.monotonic()
                reply = await self._lease()
                self._block = IdBlock(reply.prefix, reply.count)
                self._good_until = asked + _LEASE_PART * reply.good_for_ms / 1000
            return self._block.take()
