"""Reading small ranges, each within one shard: as `read_extent` does, but in rounds and without a task for each.

A read that is late is raced as in read.py: what decoding without its device needs is asked for within the same budget,
and whichever comes first, verified, wins. What is unusual from the start (a position that moves, a device that is down
or slow, a range across shards) is read.py's.

Invariants:
- A device is asked for a range once, unless it is raced or fails.
- Every call that a read starts alone has ended when it ends; one that is shared ends with the last who waits for it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from reedbed.common.checksums import Buffer
from reedbed.common.clock import Deadline
from reedbed.common.errors import (
    Corrupt,
    DataLoss,
    DeadlineExceeded,
    ReedbedError,
    StaleGeneration,
    Unavailable,
    UnknownShard,
)
from reedbed.ec.plan import Piece
from reedbed.extents.asking import Asker
from reedbed.extents.context import ClusterAccess
from reedbed.extents.decoding import Decoding
from reedbed.extents.read import read_around, read_extent
from reedbed.extents.rounds import READ_MAX, Outcome, ReadRounds, SmallRead
from reedbed.extents.wheel import Wheel
from reedbed.protos.types import Device, Extent, PlacementGroup

TICK_S: Final = 0.001  # how exactly lateness is told


class SmallReads:
    """Reads of one client. Only within its event loop."""

    def __init__(self, access: ClusterAccess) -> None:
        self._access = access
        self._rounds = ReadRounds(access)
        self._wheel = Wheel(TICK_S)
        self._peers: dict[int, tuple[PlacementGroup, tuple[int, ...]]] = {}

    async def read(self, extent: Extent, offset: int, length: int, deadline: Deadline) -> bytes:
        """`length` bytes of the extent from `offset`. Raises what `read_extent` does."""
        if 0 < length <= READ_MAX:
            found = self._place(extent, offset, length)
            if found is not None:
                device, piece, peers = found
                access = self._access
                if not access.latency.avoid(device.number, length, peers, access.clock.monotonic()):
                    return await self._read(extent, offset, device, piece, peers, deadline)
                access.metrics.add("reads.avoided")
                asker = Asker(access, extent, deadline)
                await asker.locate()
                return await read_around(asker, piece)
        return await self._whole(extent, offset, length, deadline)

    async def close(self) -> None:
        """Ends the calls under way."""
        await self._rounds.close()
        self._wheel.close()

    def _place(self, extent: Extent, offset: int, length: int) -> tuple[Device, Piece, tuple[int, ...]] | None:
        """The one device to ask, what for, and the devices of its PG; None where the case is not that simple."""
        map_ = self._access.map
        pg = map_.pgs.get(extent.pg)
        if pg is None or pg.k != extent.k or pg.m != extent.m:
            return None
        start = offset
        for shard, has in enumerate(extent.lengths):  # noqa: B007 - the last one is used
            if start < has:
                break
            start -= has
        else:
            return None
        place = pg.positions[shard]
        device = map_.devices.get(place.device)
        if start + length > has or place.source or device is None or device.state != "up":
            return None
        if start < 0 or not extent.present >> shard & 1:
            return None
        known = self._peers.get(pg.id)
        if known is None or known[0] is not pg:
            known = self._peers[pg.id] = (pg, tuple([other.device for other in pg.positions]))
        return device, Piece(shard, start, length, 0), known[1]

    async def _whole(self, extent: Extent, offset: int, length: int, deadline: Deadline) -> bytes:
        into = bytearray(length)
        await read_extent(self._access, extent, offset, length, memoryview(into), deadline)
        return bytes(into)

    async def _read(
        self, extent: Extent, offset: int, device: Device, piece: Piece, peers: tuple[int, ...], deadline: Deadline
    ) -> bytes:
        access, length = self._access, piece.length
        latency = access.latency
        latency.budget.earn(length)
        read = self._rounds.ask(device, extent.id, piece.shard, piece.start, length, deadline)
        watch = _Watch(self, read, extent, peers, deadline, latency.patience(device.number, length, peers))
        try:
            outcome: Outcome | list[Buffer] | None = await read.done
            if outcome is None:  # it is late
                outcome = await self._raced(watch, piece)
        finally:
            self._wheel.drop(watch)
            self._rounds.drop(read)
        if isinstance(outcome, bytes):
            access.metrics.add("reads.direct")
            return outcome
        if isinstance(outcome, list):
            access.metrics.add("reads.decoded")
            return bytes(outcome[0])
        if isinstance(outcome, Corrupt):
            access.metrics.add("reads.damaged")
        if isinstance(outcome, UnknownShard | StaleGeneration):  # the map may be old
            return await self._whole(extent, offset, length, deadline)
        asker = watch.asker or Asker(access, extent, deadline)
        asker.give_up(piece.shard, outcome)
        await asker.locate()
        return await read_around(asker, piece)

    async def _raced(self, watch: _Watch, piece: Piece) -> Outcome | list[Buffer]:
        """The outcome of the read that is late, or the bytes that were decoded before it came, or after it failed."""
        access, read, deadline = self._access, watch.read, watch.deadline
        asker = watch.asker = Asker(access, watch.extent, deadline)
        await asker.locate()
        access.metrics.add("reads.spare_asked")
        spare = asyncio.get_running_loop().create_task(Decoding(asker, (piece,), budgeted=watch.budgeted).run())
        try:
            await asyncio.wait((read.done, spare), timeout=deadline.left(), return_when=asyncio.FIRST_COMPLETED)
            if not read.done.done() and spare.done():
                if spare.exception() is None:
                    asker.overtaken(piece.shard, piece.length, access.clock.monotonic() - read.since)
                    access.metrics.add("reads.spare_won")
                    return spare.result()
                # then the call itself is still the best hope
                await asyncio.wait((read.done,), timeout=deadline.left())
            if not read.done.done():
                raise DeadlineExceeded("the deadline passed before enough shards answered", where=asker.where())
            outcome = read.done.result()
            assert outcome is not None
            if isinstance(outcome, ReedbedError) and not isinstance(outcome, UnknownShard | StaleGeneration):
                try:
                    return await spare
                except (Corrupt, DataLoss, Unavailable):
                    return outcome
            return outcome
        finally:
            if not spare.done():
                spare.cancel()
                await asyncio.wait((spare,))
            if not spare.cancelled():
                spare.exception()  # seen


class _Watch:
    """Wakes whoever waits for a read when it is late and a spare read is to be asked for, or when the time is up."""

    __slots__ = ("_hung_s", "_peers", "_reads", "asker", "budgeted", "deadline", "extent", "read", "slot")

    def __init__(
        self,
        reads: SmallReads,
        read: SmallRead,
        extent: Extent,
        peers: tuple[int, ...],
        deadline: Deadline,
        late: float,
    ) -> None:
        self._reads = reads
        self.read = read
        self.extent = extent
        self._peers = peers
        self.deadline = deadline
        self.asker: Asker | None = None
        self.budgeted = False
        self.slot = 0
        self._hung_s: float | None = reads._access.latency.hung_after(late) - late
        self._wait(late)

    def due(self) -> None:
        """It is late, or hung, or its time is up."""
        read, hung = self.read, self._hung_s
        if read.done.done():
            return
        if self.deadline.left() == 0.0:
            error = DeadlineExceeded("the deadline passed before the device answered", where=read.where())
            read.done.set_result(error)
            return
        if hung is not None:
            self._hung_s = None
            latency = self._reads._access.latency
            if not latency.is_slow(read.device.number, read.length, self._peers):  # else this one probes it
                calls = sum(1 for length in self.extent.lengths if length > read.start)
                self.budgeted = latency.budget.take(calls, calls * read.length)
                if not self.budgeted:
                    self._wait(hung)  # no answer at all is an error, and what follows from it outside the budget
                    return
        read.late()

    def _wait(self, seconds: float) -> None:
        left = self.deadline.left()
        self._reads._wheel.add(self, seconds if left is None else min(seconds, left))
