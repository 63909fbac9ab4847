"""GET: a version's slices are read into their final place, several at a time, and every byte is checked.

Invariants:
- All bytes of one read are of one version. If that is gone meanwhile, the read raises NotFound.
- Blocks are checked as they come (extents room); a whole version also against the checksum of its content, before
  its last bytes are handed on.
- A stream holds at most `window` bytes ahead of its reader, and one unit more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import aclosing
from typing import Any, Final

from reedbed.client.arguments import clip
from reedbed.client.catalog import Catalog
from reedbed.client.cluster import ClusterClient
from reedbed.client.contents import Handle, Part
from reedbed.client.flight import first_error
from reedbed.client.memory import bytes_to_fill
from reedbed.client.targets import Content, Target
from reedbed.common.checksums import crc32c, joined_sum
from reedbed.common.clock import Clock, Deadline
from reedbed.common.errors import Corrupt, DataLoss, PreconditionFailed, Unavailable, UnknownShard
from reedbed.common.limits import MIB
from reedbed.common.metrics import Metrics
from reedbed.extents.offload import off_loop
from reedbed.extents.read import RunSums, read_extent
from reedbed.extents.rounds import READ_MAX
from reedbed.extents.small import SmallReads
from reedbed.protos.types import ObjectInfo

UNIT: Final = 16 * MIB  # of a long read; units end at multiples of it, as the extents of most profiles do
_TRIES: Final = 4
_PAUSE_S: Final = 0.05  # before the same bytes are asked for again; doubles
_MOVED: Final = (Corrupt, DataLoss, Unavailable, UnknownShard, PreconditionFailed)  # if retryable: look it up again


class Getter:
    """All reads of one store. Only within its event loop."""

    def __init__(
        self,
        cluster: ClusterClient,
        catalog: Catalog,
        smalls: SmallReads,
        clock: Clock,
        metrics: Metrics,
        timeout: float | None,
        window: int,
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._smalls = smalls
        self._clock = clock
        self._metrics = metrics
        self._timeout = timeout
        self.window = window
        self.buffered = 0  # bytes of streams that were read and not yet handed on
        self.buffered_most = 0

    def deadline(self) -> Deadline:
        return Deadline(self._timeout, self._clock)

    async def open(self, target: Target, deadline: Deadline) -> Handle:
        """Looks a version up. NotFound where there is none."""
        return self.handle(target, await self._catalog.find(target, True, deadline))

    def handle(self, target: Target, content: Content) -> Handle:
        return Handle(self._catalog, target, content)

    async def get(self, target: Target, start: int, end: int | None) -> bytes:
        """The bytes of a range, `end` clipped to the size. InvalidArgument for a start past the end."""
        deadline = self.deadline()
        ahead = self._begin(target, start, end, deadline)
        try:
            content = await self._catalog.find(target, True, deadline)
            size = content.size
            if start > size:
                clip(start, end, size, target.where)
            if ahead is not None and content is ahead.content:
                data = await ahead.bytes()
                if data is not None:
                    self._metrics.add("gets.bytes", len(data))
                    return data
        finally:
            if ahead is not None:
                await ahead.close()
        return await self.read(target, content, start, size if end is None or end > size else end, deadline)

    def _begin(self, target: Target, start: int, end: int | None, deadline: Deadline) -> _Ahead | None:
        """Begins a small read before the catalog has confirmed what is known of where its bytes are, where that costs
        nobody else anything: while others wait for the catalog too, their reads had better share calls."""
        known = self._catalog.known(target) if self._catalog.quiet else None
        if known is None:
            return None
        last = known.size if end is None or end > known.size else end
        if not 0 < last - start <= READ_MAX or len(known.slices) != 1:
            return None
        self._metrics.add("gets.ahead")
        return _Ahead(known, self._read_small(target, known, start, last, deadline))

    async def read(self, target: Target, content: Content, start: int, end: int, deadline: Deadline) -> bytes:
        """The bytes of a range within a version that was looked up."""
        handle: Handle | None = None
        if 0 < end - start <= READ_MAX:
            try:
                data = await self._read_small(target, content, start, end, deadline)
                if data is not None:
                    self._metrics.add("gets.bytes", len(data))
                    return data
            except _MOVED as error:
                if not error.retryable or deadline.left() == 0.0:
                    raise
                self._metrics.add("gets.looked_up_again")
                self._catalog.doubt(target)
                handle = self.handle(target, content)
                await handle.renew(0, deadline)
        return await self.get_range(handle or self.handle(target, content), start, end, deadline)

    async def get_range(self, handle: Handle, start: int, end: int, deadline: Deadline) -> bytes:
        """The bytes of a range within the version."""
        data, view = bytes_to_fill(end - start)
        await self.read_into(handle, start, view, deadline)
        return data

    async def get_into(self, target: Target, buffer: memoryview, start: int) -> int:
        """Fills min(buffer, rest of the version) bytes and returns how many. After an error it may hold anything."""
        deadline = self.deadline()
        content = await self._catalog.find(target, True, deadline)
        first, last = clip(start, start + len(buffer), content.size, target.where)
        view = buffer[: last - first]
        if last - first <= READ_MAX:
            view[:] = await self.read(target, content, first, last, deadline)
        else:
            await self.read_into(self.handle(target, content), first, view, deadline)
        return last - first

    async def read_into(self, handle: Handle, start: int, view: memoryview, deadline: Deadline) -> None:
        """Fills the view from `start` of the version. The deadline holds for one unit; further ones get their own."""
        end = start + len(view)
        units = list(_units(start, end))
        sums: RunSums | None = {} if start == 0 and end == handle.info.size else None
        if len(units) == 1:
            await self._read(handle, start, end, view, deadline, sums)
        elif units:
            slots = asyncio.Semaphore(self._in_flight())
            try:
                async with asyncio.TaskGroup() as group:
                    for first, last in units:
                        await slots.acquire()
                        group.create_task(
                            self._read_unit(handle, first, last, view[first - start : last - start], slots, sums)
                        )
            except BaseExceptionGroup as errors:
                raise first_error(errors) from None
        if sums is not None:
            _check_whole(handle, await _joined(sums, 0, view))
        self._metrics.add("gets.bytes", end - start)

    async def stream(
        self, handle: Handle, start: int, end: int, free: list[bytearray] | None = None
    ) -> AsyncGenerator[memoryview, None]:
        """The bytes of a range in pieces of up to UNIT, in order, read ahead.

        Whoever gives `free` puts buffers back there that it has done with, for the next pieces.
        """
        units = _units(start, end)
        room = min(UNIT, end - start)  # of a buffer that serves for any piece
        ahead: deque[tuple[asyncio.Task[tuple[memoryview, RunSums]], int]] = deque()
        value = 0
        whole = start == 0 and end == handle.info.size
        at = start
        try:
            while True:
                while len(ahead) < self._in_flight():
                    unit = next(units, None)
                    if unit is None:
                        break
                    ahead.append((asyncio.create_task(self._fetch(handle, *unit, room, free)), unit[1] - unit[0]))
                    self.hold(unit[1] - unit[0])
                if not ahead:
                    break
                piece, sums = await ahead[0][0]
                self.hold(-ahead.popleft()[1])
                if whole:
                    value = joined_sum(value, await _joined(sums, at, piece), len(piece))
                at += len(piece)
                if whole and at == end:
                    _check_whole(handle, value)
                self._metrics.add("gets.bytes", len(piece))
                yield piece
        finally:
            for task, size in ahead:
                task.cancel()
                self.hold(-size)
            if ahead:
                await asyncio.wait([task for task, _ in ahead])
                for task, _ in ahead:
                    if not task.cancelled():
                        task.exception()  # the first error in order is the one that was raised

    async def get_iter(self, target: Target, start: int, end: int | None) -> AsyncGenerator[memoryview, None]:
        """`stream` of a version that is looked up first."""
        handle = await self.open(target, self.deadline())
        first, last = clip(start, end, handle.info.size, target.where)
        async with aclosing(self.stream(handle, first, last)) as pieces:
            async for piece in pieces:
                yield piece

    async def stat(self, target: Target) -> ObjectInfo:
        return (await self._catalog.find(target, False, self.deadline())).info

    async def _read_small(
        self, target: Target, content: Content, start: int, end: int, deadline: Deadline
    ) -> bytes | None:
        """A range of at most READ_MAX bytes within one slice; None where that is not the case."""
        slices = content.slices
        if len(slices) != 1 or content.more:
            return None
        slice_ = slices[0]
        extent = content.extents.get(slice_.extent)
        if extent is None or slice_.length != content.size or slice_.offset + slice_.length > extent.size:
            return None  # which whoever makes a handle of it tells
        await self._cluster.ready(deadline)
        data = await self._smalls.read(extent, slice_.offset + start, end - start, deadline)
        if end - start == content.size and (value := crc32c(data)) != content.checksum:
            raise _altered(target, content, value)
        return data

    def _in_flight(self) -> int:
        return max(1, self.window // UNIT)

    def hold(self, size: int) -> None:
        """Counts bytes that are read, or being read, ahead of whoever asked."""
        self.buffered += size
        self.buffered_most = max(self.buffered_most, self.buffered)

    async def _fetch(
        self, handle: Handle, start: int, end: int, room: int, free: list[bytearray] | None
    ) -> tuple[memoryview, RunSums]:
        buffer = free.pop() if free else bytearray(end - start if free is None else room)
        view = memoryview(buffer)[: end - start]
        sums: RunSums = {}
        await self._read(handle, start, end, view, self.deadline(), sums)
        return view, sums

    async def _read_unit(
        self,
        handle: Handle,
        start: int,
        end: int,
        view: memoryview,
        slots: asyncio.Semaphore,
        sums: RunSums | None,
    ) -> None:
        await self._read(handle, start, end, view, self.deadline(), sums)
        slots.release()

    async def _read(
        self, handle: Handle, start: int, end: int, view: memoryview, deadline: Deadline, sums: RunSums | None
    ) -> None:
        """One unit. Where its bytes are not where they were said to be, the version is looked up again. `sums` gets
        those that come of it, by their place in the version."""
        await self._cluster.ready(deadline)
        for attempt in range(_TRIES):
            seen = handle.generation
            parts = await handle.parts(start, end, deadline)
            try:
                return await self._read_parts(parts, view, deadline, start, sums)
            except _MOVED as error:
                if attempt + 1 == _TRIES or not error.retryable or deadline.left() == 0.0:
                    raise
                self._metrics.add("gets.looked_up_again")
                await handle.renew(seen, deadline)
                if await handle.parts(start, end, deadline) == parts:
                    if not isinstance(error, Unavailable) and type(error) is not Corrupt:
                        raise  # an unchanged answer: the bytes are lost
                    pause = _PAUSE_S * 2**attempt
                    if (left := deadline.left()) is not None and left <= pause:
                        raise
                    await asyncio.sleep(pause)

    async def _read_parts(
        self, parts: list[Part], view: memoryview, deadline: Deadline, start: int, sums: RunSums | None
    ) -> None:
        found: list[tuple[Part, RunSums | None]] = [(part, None if sums is None else {}) for part in parts]
        if len(parts) == 1:
            part, own = found[0]
            await read_extent(self._cluster, part.extent, part.offset, part.length, view, deadline, sums=own)
        else:
            try:
                async with asyncio.TaskGroup() as group:
                    for part, own in found:
                        place = view[part.at : part.at + part.length]
                        group.create_task(
                            read_extent(self._cluster, part.extent, part.offset, part.length, place, deadline, sums=own)
                        )
            except BaseExceptionGroup as errors:
                raise first_error(errors) from None
        for part, own in found:
            if sums is not None and own:
                sums.update({start + part.at + at: run for at, run in own.items()})


class _Ahead:
    """A read that was begun by what is known of a version; its bytes count only once the catalog has confirmed that."""

    __slots__ = ("_task", "content")

    def __init__(self, content: Content, read: Coroutine[Any, Any, bytes | None]) -> None:
        self.content = content
        self._task = asyncio.get_running_loop().create_task(read)

    async def bytes(self) -> bytes | None:
        """What was read; None where the read is to be done anew, as any other."""
        try:
            return await self._task
        except _MOVED:
            return None

    async def close(self) -> None:
        """Nothing of it runs on."""
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))
        if not self._task.cancelled():
            self._task.exception()  # seen: where it counts it was raised


def _units(start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        border = min(end, (start // UNIT + 1) * UNIT)
        yield start, border
        start = border


async def _joined(sums: RunSums, start: int, view: memoryview) -> int:
    """The CRC32C of bytes that begin at `start` of a version: of what has no sum yet it is computed."""
    at = value = 0
    size = len(view)
    while at < size:
        length, own = sums.get(start + at, (0, 0))
        if not length:
            length = min((begin - start for begin in sums if begin > start + at), default=size) - at
            piece = view[at : at + length]
            own = await off_loop(length, lambda piece=piece: crc32c(piece))  # type: ignore[misc]
        value = joined_sum(value, own, length)
        at += length
    return value


def _check_whole(handle: Handle, value: int) -> None:
    if value != handle.content.checksum:
        raise _altered(handle.target, handle.content, value)


def _altered(target: Target, content: Content, value: int) -> Corrupt:
    return Corrupt(
        content.altered(value),
        where=target.where,
        hint="Each block matched its own checksum, so report this as a bug",
    )
