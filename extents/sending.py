"""One try of writing an extent: its shards go to the devices of one PG at the same time.

A device that lags beyond what its peers of the same try teach is given up if there is somewhere else to go, or once the
cluster map calls it down, and in any case after a limit. Once a device has failed, the whole try is given up if there
is somewhere else to go; if not, the others get their time, so that what they hold may do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from reedbed.common.checksums import Buffer
from reedbed.common.clock import Deadline
from reedbed.common.errors import (
    Corrupt,
    DeadlineExceeded,
    ReedbedError,
    ResourceExhausted,
    StaleGeneration,
    Unavailable,
    WrongCluster,
    WrongProtocol,
)
from reedbed.common.ids import Id, format_id
from reedbed.extents.choose import Choice
from reedbed.extents.context import ClusterAccess
from reedbed.extents.encoded import Encoded
from reedbed.protos import convert, storage_pb2
from reedbed.protos.methods import PUT_SHARD
from reedbed.protos.types import Ack, Device, Extent
from reedbed.transport.lane import Reply

LAG_FACTOR: Final = 8.0  # times the slowest answer so far, once half of the devices have answered
LAG_FLOOR_S: Final = 0.25
SHARD_LIMIT_S: Final = 10.0  # for one shard, whatever peers do
DOWN_CHECK_S: Final = 0.5  # between two looks at what the map says of those that are waited for
BUSY_S: Final = 0.02  # first pause before a device that has too much to do is asked again
BUSY_MAX_S: Final = 0.5

# These end a try, and the extent goes elsewhere; any other error ends the write.
_OF_DEVICE = (Unavailable, ResourceExhausted, DeadlineExceeded, StaleGeneration, WrongCluster, WrongProtocol)


class Sent:
    """What became of a try: acks by position, and the devices that failed, each with its error."""

    def __init__(self, encoded: Encoded, extent_id: Id, choice: Choice) -> None:
        self._encoded = encoded
        self._id = extent_id
        self._choice = choice
        self.acks: dict[int, Ack] = {}
        self.failed: dict[int, ReedbedError] = {}

    @property
    def present(self) -> int:
        """Positions that hold their shard, or need none since it is empty."""
        empty = sum(1 for length in self._encoded.lengths if not length)
        return len(self.acks) + empty

    def extent(self) -> Extent:
        """The extent as it was written."""
        pg = self._choice.pg
        acks = tuple(self.acks[position] for position in sorted(self.acks))
        present = sum(1 << position for position in self.acks)
        return Extent(self._id, pg.k, pg.m, pg.id, pg.generation, self._encoded.lengths, present, acks)


class Sending:
    """The calls of one try. `elsewhere` tells whether a healthy PG is left without the devices given."""

    def __init__(
        self,
        access: ClusterAccess,
        encoded: Encoded,
        extent_id: Id,
        tables: Sequence[bytes],
        choice: Choice,
        deadline: Deadline,
        elsewhere: Callable[[set[int]], bool],
        *,
        background: bool = False,
    ) -> None:
        self._background = background
        self._access = access
        self._devices = access.map.devices
        self._encoded = encoded
        self._id = extent_id
        self._tables = tables
        self._choice = choice
        self._overall = deadline
        left = deadline.left()
        self._deadline = deadline.within(SHARD_LIMIT_S if left is None else min(SHARD_LIMIT_S, left / 2))
        self._elsewhere = elsewhere
        self._sent = Sent(encoded, extent_id, choice)
        self._flying: dict[asyncio.Task[Ack], int] = {}
        self._ended: list[asyncio.Task[Ack]] = []  # and not noted yet
        self._woken: asyncio.Future[None] | None = None

    async def run(self) -> Sent:
        """Raises Corrupt, InvalidArgument (a buffer changed, or a device refused the request) and DeadlineExceeded."""
        loop = asyncio.get_running_loop()
        began = self._now()
        try:
            for position in self._choice.positions:
                task = loop.create_task(self._put(position))
                self._flying[task] = position
                task.add_done_callback(self._end)
            total = len(self._flying)
            lagging_from: float | None = None
            while self._flying:
                done = await self._some(None if lagging_from is None else max(0.0, lagging_from - self._now()))
                for task in done:
                    self._note(task, self._flying.pop(task))
                if self._sent.failed and self._pointless():
                    break
                if not done:
                    waited = self._now() - began
                    if self._leave_laggards(waited):
                        break
                    if await self._are_down(waited):
                        for task in [one for one in self._flying if one.done()]:  # while the map was asked for
                            self._note(task, self._flying.pop(task))
                        break
                    lagging_from = self._now() + DOWN_CHECK_S  # nowhere else to go: wait for them
                elif 2 * len(self._sent.acks) >= total:
                    lagging_from = began + max(LAG_FLOOR_S, LAG_FACTOR * (self._now() - began))
        finally:
            await self._land()
        return self._sent

    async def _some(self, left: float | None) -> list[asyncio.Task[Ack]]:
        """The calls that have ended since it was asked last, once there are any or so many seconds have passed."""
        if not self._ended and left != 0.0:
            loop = asyncio.get_running_loop()
            woken = self._woken = loop.create_future()
            timer = None if left is None else loop.call_later(left, self._wake)
            try:
                await woken
            finally:
                self._woken = None
                if timer is not None:
                    timer.cancel()
        ended, self._ended = self._ended, []
        return ended

    def _end(self, task: asyncio.Task[Ack]) -> None:
        self._ended.append(task)
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def _put(self, position: int) -> Ack:
        """One shard to its device, once more if its bytes were altered on the way or the answer was lost: to put the
        same shard again is harmless."""
        device = self._device(position)
        header = self._header(position, device)
        part = self._encoded.parts[position]
        for last in (False, True):
            try:
                reply = await self._call(device, header, part)
                answer = convert.parse(storage_pb2.PutShardReply, reply.header)
                return Ack(position, device.number, answer.incarnation)
            except Corrupt:
                await self._encoded.check()
                if last:
                    raise
            except Unavailable as error:
                if last or not error.maybe_applied:
                    raise
            self._access.metrics.add("writes.resent")
        raise AssertionError("unreachable")

    async def _call(self, device: Device, header: bytes, part: Buffer) -> Reply:
        """A put that waits for a device that is busy: to go elsewhere would only make others busy as well."""
        pause = BUSY_S
        while True:
            try:
                return await self._access.call(device, PUT_SHARD, header, (part,), deadline=self._deadline)
            except ResourceExhausted as error:
                left = self._deadline.left()
                if not error.retryable or (left is not None and left <= pause):
                    raise
            self._access.metrics.add("writes.waited")
            await asyncio.sleep(pause * self._access.rng.uniform(0.5, 1.0))
            pause = min(2 * pause, BUSY_MAX_S)

    def _header(self, position: int, device: Device) -> bytes:
        profile, pg = self._encoded.profile, self._choice.pg
        term, seq = self._access.log_position()
        return storage_pb2.PutShardRequest(
            device=device.number,
            extent=self._id,
            index=position,
            k=profile.k,
            m=profile.m,
            pg=pg.id,
            generation=pg.generation,
            table=self._tables[position],
            data_tables=self._tables[: profile.k] if position >= profile.k else (),
            log_term=term,
            log_seq=seq,
            background=self._background,
        ).SerializeToString()

    def _note(self, task: asyncio.Task[Ack], position: int) -> None:
        try:
            self._sent.acks[position] = task.result()
        except ReedbedError as error:
            # one that fails at a call without a name that we know is no reason to fail ourselves
            if not isinstance(error, _OF_DEVICE) and type(error) is not ReedbedError:
                raise
            self._overall.check(f"writing extent {format_id(self._id)}")
            self._sent.failed[self._choice.pg.positions[position].device] = error

    def _pointless(self) -> bool:
        """Whether this try is given up already: the map is old, or the extent goes to a PG without what failed."""
        failed = self._sent.failed
        return any(isinstance(error, StaleGeneration) for error in failed.values()) or self._elsewhere(set(failed))

    def _leave_laggards(self, waited: float) -> bool:
        """Whether to go elsewhere because of the devices that have not answered yet."""
        laggards = [self._device(position) for position in self._flying.values()]
        if not self._elsewhere({device.number for device in laggards} | set(self._sent.failed)):
            return False
        self._give_up(laggards, waited)
        return True

    async def _are_down(self, waited: float) -> bool:
        """Whether the cluster map calls all of those down that have not answered yet, when asked for once more."""
        access = self._access
        try:
            map_ = await access.refresh(access.map.epoch, self._deadline.within(DOWN_CHECK_S))
        except (Unavailable, DeadlineExceeded):
            return False
        laggards = [self._device(position) for task, position in self._flying.items() if not task.done()]
        if any((device := map_.devices.get(one.number)) is not None and device.state == "up" for one in laggards):
            return False
        self._give_up(laggards, waited)
        return bool(laggards)

    def _give_up(self, laggards: Sequence[Device], waited: float) -> None:
        for device in laggards:
            self._sent.failed[device.number] = DeadlineExceeded(
                f"device {device.number} at {device.address} lagged: no answer after {waited:.3g} s, long "
                "after its peers had given theirs"
            )

    def _device(self, position: int) -> Device:
        return self._devices[self._choice.pg.positions[position].device]

    def _now(self) -> float:
        return self._access.clock.monotonic()

    async def _land(self) -> None:
        """Ends the calls that still run, so that nobody uses the buffers any more."""
        flying, self._flying = self._flying, {}
        for task in flying:
            task.cancel()
        if flying:
            await asyncio.gather(*flying, return_exceptions=True)
