"""Ids for the extents that a worker writes, from blocks that the catalog leases.

Invariants: each id is handed out once, and none from a block that is older than the catalog said it is good for,
counted by the monotonic clock from before the block was asked for. A block of another term is not used: a catalog that
was begun anew refuses what an earlier one leased.
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
    """`lease` asks the catalog for a block; `term` tells the catalog's newest term."""

    def __init__(
        self, lease: Callable[[], Awaitable[catalog_pb2.LeaseReply]], clock: Clock, term: Callable[[], int]
    ) -> None:
        self._lease = lease
        self._term_now = term
        self._term = 0
        self._clock = clock
        self._block: IdBlock | None = None
        self._good_until = 0.0
        self._asking = asyncio.Lock()

    async def take(self) -> Id:
        """An id that nobody else has. Raises what the call does."""
        async with self._asking:
            while not self._good:
                asked, self._term = self._clock.monotonic(), self._term_now()
                reply = await self._lease()
                self._block = IdBlock(reply.prefix, reply.count)
                self._good_until = asked + _LEASE_PART * reply.good_for_ms / 1000
            assert self._block is not None
            return self._block.take()

    @property
    def _good(self) -> bool:
        if self._block is None or not self._block.left or self._term != self._term_now():
            return False
        return self._clock.monotonic() < self._good_until
