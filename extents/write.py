"""Writing one extent: parity, checksums, a PG, all shards at once; and elsewhere, under a new id, if a device fails.

Invariants:

- An extent is returned whole, or, only where no healthy PG exists, with at least k+1 positions present.
- Each try has its own id: shards that an abandoned try left behind are never named, and only the catalog deletes them.
- What is sent is what was summed: a caller's buffer that changes before the write ends is refused.
- Every call that a write starts has ended when it ends, so that the caller's buffers are free again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from reedbed.common.checksums import Buffer
from reedbed.common.clock import Deadline
from reedbed.common.errors import DeadlineExceeded, ReedbedError, StaleGeneration, Unavailable
from reedbed.common.ids import Id
from reedbed.ec.cut import block_borders
from reedbed.ec.profiles import Profile
from reedbed.extents.choose import Choice, choose_pg
from reedbed.extents.context import ClusterAccess
from reedbed.extents.encoded import Encoded
from reedbed.extents.sending import Sending, Sent
from reedbed.protos.types import Extent

TRIES: Final = 6


async def write_extent(
    access: ClusterAccess,
    profile: Profile,
    shards: Sequence[Sequence[Buffer]],
    borders: Sequence[Sequence[int]],
    deadline: Deadline,
    *,
    keeping: bool = False,
    background: bool = False,
    mutable: bool = True,
) -> Extent:
    """Writes an extent whose k data shards are the joined buffers of `shards`, cut into blocks of the lengths
    `borders`, and returns it with its acks, for a commit or a registration to name.

    The map must hold PGs of the profile. Buffers that are `mutable` are found out if they change meanwhile. What is
    written in the `background` is nothing that repair and the like would yield to. So is what is written for `keeping`,
    which is never degraded: its bytes lie elsewhere already.

    Raises InvalidArgument (no bytes, impossible lengths, or a buffer that changed meanwhile; says which), Unavailable
    (too few devices, or failures in every try; says the last), DeadlineExceeded and Corrupt (bytes that repeatedly
    arrive altered). After an error nothing is visible.
    """
    first = await access.new_id(deadline)
    encoded = await Encoded.make(profile, shards, borders, first, mutable)
    return await _Writer(access, encoded, deadline, keeping, background or keeping).write(first)


async def write_flat(
    access: ClusterAccess,
    profile: Profile,
    buffer: memoryview,
    lengths: Sequence[int],
    starts: Sequence[int],
    deadline: Deadline,
    *,
    keeping: bool = False,
    mutable: bool = True,
    lent: bytearray | None = None,
) -> Extent:
    """`write_extent` of bytes that lie in one buffer; `starts`, in order, are where objects begin in it.

    `lent` is what `buffer` is a view of, taken from `extents.buffers`: once nobody reads it, it is free again.
    """
    shards, borders = _cut(buffer, lengths, starts)
    first = await access.new_id(deadline)
    encoded = await Encoded.make(profile, shards, borders, first, mutable)
    if lent is not None:
        encoded.lend(lent)
    return await _Writer(access, encoded, deadline, keeping, keeping).write(first)


async def write_summed(
    access: ClusterAccess,
    profile: Profile,
    buffer: memoryview,
    lengths: Sequence[int],
    deadline: Deadline,
    *,
    mutable: bool = True,
) -> tuple[Extent, int]:
    """`write_flat` of one object's bytes, and their CRC32C, which takes no further look at them."""
    shards, borders = _cut(buffer, lengths, (0,))
    first = await access.new_id(deadline)
    encoded = await Encoded.make(profile, shards, borders, first, mutable)
    value = encoded.content()
    return await _Writer(access, encoded, deadline, False, False).write(first), value


def _cut(
    buffer: memoryview, lengths: Sequence[int], starts: Sequence[int]
) -> tuple[list[list[memoryview]], list[list[int]]]:
    """The data shards of these lengths, and their blocks."""
    shards: list[list[memoryview]] = []
    borders: list[list[int]] = []
    begin = 0
    at = 0
    for length in lengths:
        end = begin + length
        inside: list[int] = []
        while at < len(starts) and starts[at] < end:
            inside.append(starts[at] - begin)
            at += 1
        shards.append([buffer[begin:end]] if length else [])
        borders.append(block_borders(length, inside))
        begin = end
    return shards, borders


class _Writer:
    """The tries of one extent."""

    def __init__(
        self, access: ClusterAccess, encoded: Encoded, deadline: Deadline, keeping: bool, background: bool
    ) -> None:
        self._access = access
        self._encoded = encoded
        self._keeping = keeping
        self._background = background
        self._deadline = deadline
        self._avoid: set[int] = set()
        self._stale: set[int] = set()
        self._last: ReedbedError | None = None

    async def write(self, extent_id: Id) -> Extent:
        for number in range(TRIES):
            choice = await self._placed()
            sent = await self._try(choice, extent_id if number == 0 else None)
            if sent.failed:
                await self._learn(sent)
            if not sent.failed or self._good_enough(sent):
                extent = sent.extent()
                if sent.present < self._encoded.profile.n:
                    self._access.metrics.add("writes.degraded")
                elif number == 0:  # else a call that was given up may not have let go of the buffers yet
                    self._encoded.release()
                return extent
            self._access.metrics.add("writes.replaced")
        raise Unavailable(
            f"an extent could not be written in {TRIES} tries; the last failure: {self._last}",
            hint="See `reedbed status` for devices that fail",
        ) from self._last

    async def _placed(self) -> Choice:
        """A PG by the map at hand, or, if that has none that will do, by the present one: devices may have come."""
        try:
            return self._choose(self._avoid)
        except Unavailable:
            epoch = self._access.map.epoch
            if (await self._access.refresh(epoch, self._deadline)).epoch == epoch:
                raise
            return self._choose(self._avoid)

    def _choose(self, avoid: set[int]) -> Choice:
        access = self._access
        wary = access.latency.recently_failed(access.clock.monotonic())
        try:
            choice = choose_pg(
                access.map, self._encoded.profile, self._encoded.lengths, access.rng, avoid=avoid, wary=wary
            )
            if self._keeping and choice.degraded:
                raise Unavailable(
                    f"no placement group of {self._encoded.profile} has all of its devices up",
                    where=f"map epoch {access.map.epoch}",
                    hint="Bring devices back, or add some",
                )
            return choice
        except Unavailable as error:
            if self._last is None:
                raise
            raise Unavailable(
                f"{error.what}; the last failure: {self._last}", where=error.where, hint=error.hint
            ) from self._last

    async def _try(self, choice: Choice, extent_id: Id | None) -> Sent:
        try:
            self._deadline.check("writing an extent")
            extent_id = extent_id or await self._access.new_id(self._deadline)
            tables = await self._encoded.tables(extent_id)
            sending = Sending(
                self._access,
                self._encoded,
                extent_id,
                tables,
                choice,
                self._deadline,
                self._elsewhere,
                background=self._background,
            )
            return await sending.run()
        except DeadlineExceeded as error:
            if self._last is None:
                raise
            raise DeadlineExceeded(f"{error.what}; the last failure: {self._last}", hint=error.hint) from self._last

    def _elsewhere(self, laggards: set[int]) -> bool:
        """Whether a healthy PG is left without these devices."""
        try:
            return not self._choose(self._avoid | laggards).degraded
        except Unavailable:
            return False

    async def _learn(self, sent: Sent) -> None:
        """Takes the failures of a try to heart: refreshes an old map, and avoids the other devices from now on."""
        epoch = self._access.map.epoch
        stale = {device for device, error in sent.failed.items() if isinstance(error, StaleGeneration)}
        for device, error in sent.failed.items():
            self._last = error
            if device not in stale or device in self._stale:
                self._avoid.add(device)
                self._access.latency.note_failure(device, self._access.clock.monotonic())
        if stale:
            self._stale |= stale
            await self._access.refresh(epoch, self._deadline)

    def _good_enough(self, sent: Sent) -> bool:
        """Whether a try in which devices failed is as good as any other could be."""
        if self._keeping or sent.present < self._encoded.profile.k + 1:
            return False
        try:
            best = self._choose(self._avoid)
        except Unavailable:
            return True
        return best.degraded and best.present <= sent.present
