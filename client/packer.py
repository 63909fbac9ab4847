"""Packing: small objects that are put at the same time share an extent, and one round of shard writes.

A put is written at once when less than ROUNDS writes of its bucket and profile are under way; otherwise it gathers
with others until one of them ends. So an idle client adds no wait, and a busy one writes full extents.

Invariants:
- Objects of one extent share its write, nothing else: each is committed by itself, and its error is its own.
- What is stored is a copy of the caller's bytes; its sum is the version's, and a caller's buffer is summed again after
  the write, so that one that changed meanwhile is refused.
- One that was given up is not committed, unless its commit had begun.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from reedbed.client.background import Background, ended
from reedbed.client.cluster import IdBlocks
from reedbed.client.commits import CommitRounds, not_answered
from reedbed.client.spec import PutSpec, put_operation
from reedbed.common.checksums import crc32c, format_checksum
from reedbed.common.clock import Deadline
from reedbed.common.errors import (
    Corrupt,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ReedbedError,
    Unavailable,
    rebuild,
)
from reedbed.common.ids import Id
from reedbed.common.limits import KIB, MIB
from reedbed.common.metrics import Metrics
from reedbed.ec.cut import Packing, choose_packing, extent_bytes
from reedbed.ec.profiles import Profile
from reedbed.extents import buffers
from reedbed.extents.wheel import Wheel
from reedbed.protos import catalog_pb2
from reedbed.protos.convert import info_from_message
from reedbed.protos.types import Extent, ObjectInfo, Slice

PACK_MAX: Final = 2 * MIB  # larger ones fill shards of their own
ROUNDS: Final = 2  # extents of one bucket and profile under way at once: one is sent while the next is summed
EXTENT_OBJECTS: Final = 4096  # objects of one extent
PACKED_BYTES: Final = 16 * MIB  # of one extent, also where the profile would allow more
_INLINE_COPY: Final = 256 * KIB  # more is copied and summed in a thread


class WriteExtent(Protocol):
    """Writes one extent; `starts` are the offsets at which objects begin in it, in order. `lent`, of which `buffer` is
    a view, serves again once nobody reads it."""

    async def __call__(
        self,
        profile: Profile,
        buffer: memoryview,
        lengths: Sequence[int],
        starts: Sequence[int],
        deadline: Deadline,
        lent: bytearray | None,
    ) -> Extent: ...


class Small:
    """One object to be packed, and who waits for it.

    With `renew` its time begins when its extent does: one of many that were handed in at once waits for the others.
    """

    __slots__ = ("_packer", "committing", "data", "deadline", "mutable", "renew", "result", "sent", "slot", "spec")

    def __init__(
        self,
        packer: Packer,
        spec: PutSpec,
        data: memoryview,
        mutable: bool,
        deadline: Deadline,
        renew: Callable[[], Deadline] | None = None,
    ) -> None:
        self._packer = packer
        self.spec = spec
        self.data = data
        self.mutable = mutable  # else the caller's buffer cannot change
        self.deadline = deadline
        self.renew = renew
        self.committing = False
        self.sent = False
        self.slot = 0
        self.result: asyncio.Future[ObjectInfo | ReedbedError] = asyncio.get_running_loop().create_future()

    def due(self) -> None:
        """The time of whoever waits is up."""
        if not self.result.done():
            where = self.spec.target.where
            self.result.set_result(
                not_answered(where, self.sent)
                if self.committing
                else DeadlineExceeded("the object was not written in time", where=where)
            )

    def over(self) -> bool:
        """It was given up, or has its result."""
        return self.result.done()

    def settle(self, outcome: catalog_pb2.Outcome | ReedbedError) -> None:
        """The commit's outcome."""
        self._packer.told(self, outcome)


@dataclass(slots=True)
class _Lot:
    """What waits for one bucket and profile."""

    profile: Profile
    queue: deque[Small] = field(default_factory=deque)
    writing: int = 0


class Packer:
    """All small puts of one client. Only within the store's event loop."""

    def __init__(
        self,
        write: WriteExtent,
        commits: CommitRounds,
        ids: IdBlocks,
        forget_bucket: Callable[[str], None],
        background: Background,
        metrics: Metrics,
        wheel: Wheel,
    ) -> None:
        self._write = write
        self._commits = commits
        self._ids = ids
        self._forget_bucket = forget_bucket
        self._background = background
        self._metrics = metrics
        self._wheel = wheel
        self._lots: dict[tuple[str, Profile], _Lot] = {}
        self._closed = False

    def submit(self, profile: Profile, small: Small) -> None:
        """Takes the object in; `small.result` gets its info or its error. At most PACK_MAX bytes, at least one."""
        assert 0 < len(small.data) <= PACK_MAX
        if self._closed:
            raise Unavailable("the store is closed", retryable=False)
        name = (small.spec.target.bucket, profile)
        lot = self._lots.get(name)
        if lot is None:
            lot = self._lots[name] = _Lot(profile)
        lot.queue.append(small)  # before a task that is started has its first turn, which may be at once
        if lot.writing < ROUNDS:
            lot.writing += 1
            try:
                self._background.start(self._drain(name, lot), "packing")
            except BaseException:
                lot.writing -= 1
                lot.queue.remove(small)
                raise

    async def wait(self, small: Small) -> ObjectInfo:
        """The info of what was submitted, or its error. Giving up the wait gives up the object."""
        if not small.renew:
            self._watch(small)
        try:
            result = await small.result  # cancelled with its waiter: then the object is not committed
        finally:
            self._wheel.drop(small)
        if isinstance(result, ReedbedError):
            raise result
        return result

    def told(self, small: Small, outcome: catalog_pb2.Outcome | ReedbedError) -> None:
        """The outcome of an object's commit."""
        if isinstance(outcome, ReedbedError):
            if isinstance(outcome, NotFound):
                self._forget_bucket(small.spec.target.bucket)
            small.result.set_result(outcome)
            return
        self._metrics.add("puts.objects")
        self._metrics.add("puts.bytes", len(small.data))
        small.result.set_result(info_from_message(outcome.info))

    def _watch(self, small: Small) -> None:
        left = small.deadline.left()
        if left is not None and not small.slot:
            self._wheel.add(small, left)

    async def _drain(self, name: tuple[str, Profile], lot: _Lot) -> None:
        members: list[Small] = []
        try:
            while members := _gather(lot):
                await self._round(lot.profile, members)
        except BaseException as error:
            self._closed = self._closed or isinstance(error, asyncio.CancelledError)
            waiting = (*members, *lot.queue)
            lot.queue.clear()
            for small in waiting:
                _settle(small, ended("put", error, maybe_applied=small.committing))
            raise
        finally:
            lot.writing -= 1
            if not lot.writing and not lot.queue:
                self._lots.pop(name, None)

    async def _round(self, profile: Profile, members: list[Small]) -> None:
        sizes = [len(small.data) for small in members]
        try:
            packing = choose_packing(sizes, profile)
            if sum(sizes) > _INLINE_COPY:
                buffer, lent, sums = await asyncio.to_thread(_copy, members, packing)
            else:
                buffer, lent, sums = _copy(members, packing)
            starts = sorted(packing.offsets)
            extent = await self._write(profile, buffer, packing.layout.lengths, starts, _longest(members), lent)
        except ReedbedError as error:
            for small in members:
                _settle(small, error)
            return
        self._metrics.add("packer.extents")
        self._metrics.add("packer.objects", len(members))
        # commits of this extent join the round of commits; the next extent does not wait for them
        extents = (extent,)
        for small, offset, value in zip(members, packing.offsets, sums, strict=True):
            try:
                id_ = self._ids.at_hand() or await self._ids.take(small.deadline)
                if not small.result.done():
                    self._commit(extents, id_, small, offset, value)
            except ReedbedError as error:
                _settle(small, error)

    def _commit(self, extents: tuple[Extent], id_: Id, small: Small, offset: int, value: int) -> None:
        """Begins the commit of one object; it is given up, if it was not sent, together with the object."""
        spec = small.spec
        if spec.expected is not None:
            check_sum(value, spec.expected, spec.target.where)
        if small.mutable and crc32c(small.data) != value:
            raise changed_during_put(spec.target.where)
        size = len(small.data)
        op = put_operation(spec, id_, (Slice(extents[0].id, offset, size),), size, value)
        small.committing = True
        self._commits.submit(op.SerializeToString(), extents, small)
        if small.renew:
            self._watch(small)


def check_sum(value: int, expected: int | None, where: str) -> None:
    """Corrupt where the caller's checksum is not that of the bytes."""
    if expected is not None and value != expected:
        raise Corrupt(
            f"the bytes have {format_checksum(value)}, and the caller gave {format_checksum(expected)}",
            where=where,
            hint="Nothing was stored; the bytes changed on their way here, or the checksum is that of others",
        )


def changed_during_put(where: str) -> ReedbedError:
    return InvalidArgument(
        "the buffer changed during the put", where=where, hint="Leave it alone until the put has returned"
    )


def _gather(lot: _Lot) -> list[Small]:
    members: list[Small] = []
    room = min(extent_bytes(lot.profile), PACKED_BYTES)
    while lot.queue and len(members) < EXTENT_OBJECTS:
        small = lot.queue[0]
        if not small.result.done():
            if members and len(small.data) > room:
                break
            if small.renew is not None:
                small.deadline = small.renew()
            members.append(small)
            room -= len(small.data)
        lot.queue.popleft()
    return members


def _copy(members: Sequence[Small], packing: Packing) -> tuple[memoryview, bytearray | None, list[int]]:
    """One buffer with all objects at their places, what it is a view of if that is lent, and each copy's CRC32C."""
    size = packing.layout.size
    # whole MiB, so that what was taken for others fits
    lent = buffers.take(-(-size // MIB) * MIB) if size >= buffers.KEEP_FROM else None
    buffer = memoryview(bytearray(size) if lent is None else lent)[:size]
    sums: list[int] = []
    for small, offset in zip(members, packing.offsets, strict=True):
        place = buffer[offset : offset + len(small.data)]
        place[:] = small.data
        sums.append(crc32c(place))
    return buffer, lent, sums


def _longest(members: Sequence[Small]) -> Deadline:
    most = members[0].deadline
    left_most = most.left()
    for small in members:
        if left_most is None:
            break
        left = small.deadline.left()
        if left is None or left > left_most:
            most, left_most = small.deadline, left
    return most


def _settle(small: Small, result: ObjectInfo | ReedbedError) -> None:
    if small.result.done():
        return
    if isinstance(result, ReedbedError):
        # each gets an error of its own: a shared one would collect the tracebacks of all
        result = rebuild(result.code, result.what, result.where, result.hint, result.retryable, result.maybe_applied)
    small.result.set_result(result)
