"""PUT: bytes become extents, several under way at a time, and one commit makes the version visible.

Invariants:
- Nothing is visible before the commit, and a put that fails or is given up leaves nothing but an upload to end.
- At most `window` bytes, and one extent more, are held of a source at once.
- The version's checksum is that of the bytes that were coded: a caller's buffer is summed before its extent is written
  and again after; a source's bytes lie in buffers of our own.
- The checksum that a caller gives is compared before the commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from reedbed.client.catalog import Catalog
from reedbed.client.cluster import ClusterClient
from reedbed.client.commits import CommitRounds
from reedbed.client.flight import first_error
from reedbed.client.packer import PACK_MAX, Packer, Small, changed_during_put, check_sum
from reedbed.client.registrar import REGISTER_AFTER_S, Registrar
from reedbed.client.sources import Source
from reedbed.client.spec import PutSpec, put_operation
from reedbed.common.checksums import crc32c, joined_sum
from reedbed.common.clock import Clock, Deadline
from reedbed.common.errors import BelowHorizon, NotFound, ReedbedError, StaleGeneration, Unavailable
from reedbed.common.ids import Id
from reedbed.common.limits import SHARD_DEFAULT
from reedbed.common.metrics import Metrics
from reedbed.ec.cut import extent_bytes, layout_for
from reedbed.ec.profiles import Profile
from reedbed.extents.offload import off_loop
from reedbed.extents.write import write_summed
from reedbed.protos.convert import info_from_message
from reedbed.protos.types import Extent, ObjectInfo, Slice

IN_FLIGHT: Final = 4  # extents of one put, where the window has room for as many
_PAUSE_S: Final = 0.1
_TRIES: Final = 3  # of a put whose bytes are at hand, when the cluster changed under it

Progress = Callable[[int], None]


def _nothing() -> None:
    """Where a caller has nothing to be told."""


def _ignored(count: int) -> None:
    """Where nobody follows the progress."""


def worth_repeating(error: ReedbedError, deadline: Deadline) -> bool:
    """Whether a put whose bytes are still at hand may succeed with new extents and a new id: nothing was committed,
    and what was in the way (an older map, a device that went down, a shared extent that was dropped) can have gone."""
    if error.maybe_applied or deadline.left() == 0.0:
        return False
    return isinstance(error, BelowHorizon) or (error.retryable and isinstance(error, StaleGeneration | Unavailable))


class Putter:
    """All puts of one store. Only within its event loop."""

    def __init__(
        self,
        cluster: ClusterClient,
        catalog: Catalog,
        commits: CommitRounds,
        packer: Packer,
        clock: Clock,
        metrics: Metrics,
        timeout: float | None,
        window: int,
        register_after: float = REGISTER_AFTER_S,
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._commits = commits
        self._packer = packer
        self._clock = clock
        self._metrics = metrics
        self._timeout = timeout
        self._window = window
        self._register_after = register_after
        self._long: set[_LongPut] = set()

    async def close(self) -> None:
        """Ends the uploads of puts under way while there is still a way to the catalog; these puts then fail."""
        await asyncio.gather(*(long.give_up() for long in self._long))

    def under_way(self, long: _LongPut, running: bool) -> None:
        """Keeps track of the puts that may have begun an upload."""
        (self._long.add if running else self._long.discard)(long)

    def deadline(self) -> Deadline:
        return Deadline(self._timeout, self._clock)

    async def put_buffer(self, data: memoryview, mutable: bool, spec: PutSpec) -> ObjectInfo:
        """An object whose bytes are all at hand. Raises InvalidArgument if they change meanwhile."""
        deadline = self.deadline()
        profile = self._known_profile(spec) or await self._profile(spec, deadline)
        for tried in range(1, _TRIES):
            try:
                return await self._put_buffer(data, mutable, spec, profile, deadline)
            except ReedbedError as error:
                if not worth_repeating(error, deadline):
                    raise
                self._metrics.add("puts.repeated")
                await asyncio.sleep(_PAUSE_S * tried)
        return await self._put_buffer(data, mutable, spec, profile, deadline)

    async def put_source(
        self, source: Source, spec: PutSpec, check: Callable[[], None] = _nothing, progress: Progress = _ignored
    ) -> ObjectInfo:
        """An object of unknown length. `check` is called after the last byte was read, and may refuse the put;
        `progress` is told of bytes that have become durable."""
        profile = await self._profile(spec, self.deadline())
        start = memoryview(bytearray(PACK_MAX + 1))
        count = await source.fill(start)
        if count <= PACK_MAX:
            check()
            info = await self.put_buffer(start[:count], False, spec)
            progress(count)
            return info
        return await self._put_stream(source, start, spec, profile, check, progress)

    def pack(self, data: memoryview, mutable: bool, spec: PutSpec, profile: Profile) -> Small:
        """Hands an object to the packer, and `packed` waits for it; its time begins when its extent does."""
        small = Small(self._packer, spec, data, mutable, self.deadline(), self.deadline)
        self._packer.submit(profile, small)
        return small

    async def packed(self, small: Small) -> ObjectInfo:
        """What became of it."""
        return await self._packer.wait(small)

    async def commit(
        self,
        spec: PutSpec,
        slices: Sequence[Slice],
        extents: Sequence[Extent],
        size: int,
        value: int,
        upload: Id | None,
        deadline: Deadline,
    ) -> ObjectInfo:
        """Makes the version visible. Raises the commit's outcome; `maybe_applied` where it is unknown."""
        op = put_operation(spec, await self._cluster.new_id(deadline), slices, size, value, upload)
        try:
            outcome = await self._commits.commit(op, extents, deadline)
        except NotFound:
            self._catalog.forget_bucket(spec.target.bucket)
            raise
        self._metrics.add("puts.objects")
        self._metrics.add("puts.bytes", size)
        return info_from_message(outcome.info)

    async def profile(self, spec: PutSpec) -> Profile:
        """The profile that the object is to be written with, its placement groups made. NotFound without a bucket."""
        return await self._profile(spec, self.deadline())

    async def _profile(self, spec: PutSpec, deadline: Deadline) -> Profile:
        profile = await self._catalog.bucket_profile(spec.target.bucket, deadline)
        profile = spec.profile or profile
        await self._cluster.map_with(profile, deadline)
        return profile

    def _known_profile(self, spec: PutSpec) -> Profile | None:
        """`_profile` where nothing has to be asked for."""
        profile = self._catalog.known_profile(spec.target.bucket)
        if profile is None:
            return None
        profile = spec.profile or profile
        return profile if self._cluster.has_groups(profile) else None

    async def _put_buffer(
        self, data: memoryview, mutable: bool, spec: PutSpec, profile: Profile, deadline: Deadline
    ) -> ObjectInfo:
        if not len(data):
            check_sum(0, spec.expected, spec.target.where)
            return await self.commit(spec, (), (), 0, 0, None, deadline)
        if len(data) <= PACK_MAX:
            small = Small(self._packer, spec, data, mutable, deadline)
            self._packer.submit(profile, small)
            return await self._packer.wait(small)
        long = _LongPut(self, spec, profile)
        full = extent_bytes(profile)

        async def feed() -> None:
            for start in range(0, len(data), full):
                await long.write(data[start : start + full], mutable, _nothing)

        if len(data) <= full:  # then the whole put keeps one deadline
            return await long.run(feed, deadline=deadline)
        return await long.run(feed)

    async def _put_stream(
        self,
        source: Source,
        start: memoryview,
        spec: PutSpec,
        profile: Profile,
        check: Callable[[], None],
        progress: Progress,
    ) -> ObjectInfo:
        long = _LongPut(self, spec, profile)
        full = extent_bytes(profile)

        free: asyncio.Queue[memoryview] = asyncio.Queue()

        def written(buffer: memoryview, count: int) -> None:
            free.put_nowait(buffer)
            progress(count)

        async def feed() -> None:
            made = 0
            rest = start
            while True:
                if free.empty() and made <= long.in_flight:
                    made += 1
                    buffer = memoryview(bytearray(full))
                else:
                    buffer = await free.get()
                taken = len(rest)
                buffer[:taken] = rest
                rest = start[:0]
                count = taken + await source.fill(buffer[taken:])
                if count:
                    await long.write(buffer[:count], False, partial(written, buffer, count))
                if count < full:
                    break
            check()

        return await long.run(feed)


class _LongPut:
    """One object of more than a packed one's size."""

    def __init__(self, putter: Putter, spec: PutSpec, profile: Profile) -> None:
        self._putter = putter
        self._spec = spec
        self._profile = profile
        self.in_flight = max(1, min(IN_FLIGHT, putter._window // extent_bytes(profile)))
        self._slots = asyncio.Semaphore(self.in_flight)
        self._deadline: Deadline | None = None
        self._registrar = Registrar(
            putter._cluster, putter._catalog, spec.target, self._deadlines, putter._register_after
        )
        self._size = 0
        self._count = 0
        self._sums: dict[int, tuple[int, int]] = {}  # of each part its length and CRC32C

    async def run(self, feed: Callable[[], Awaitable[None]], deadline: Deadline | None = None) -> ObjectInfo:
        """Feeds all parts, then commits. Everything keeps `deadline`; without one each extent and call has its own."""
        self._deadline = deadline
        self._putter.under_way(self, True)
        try:
            try:
                async with asyncio.TaskGroup() as self._group:
                    keeper = self._group.create_task(self._registrar.keep())
                    await feed()
                    await self._written()
                    # waits for a registration under way: ended in its midst, its slices would be named once more
                    slices, extents = await self._registrar.rest()
                    keeper.cancel()
            except BaseExceptionGroup as errors:
                raise first_error(errors) from None
            value = 0
            for index in range(self._count):
                length, own = self._sums[index]
                value = joined_sum(value, own, length)
            check_sum(value, self._spec.expected, self._spec.target.where)
            return await self._putter.commit(
                self._spec, slices, extents, self._size, value, self._registrar.upload, self._deadlines()
            )
        except BaseException as error:
            if not (isinstance(error, ReedbedError) and error.maybe_applied):
                await asyncio.shield(self._registrar.abort())
            raise
        finally:
            self._putter.under_way(self, False)

    async def give_up(self) -> None:
        """Ends the upload, if one was begun: then nothing can become visible any more but what was."""
        await self._registrar.abort()

    async def write(self, part: memoryview, mutable: bool, done: Callable[[], None]) -> None:
        """Begins to write the object's next part, once less than `in_flight` are under way."""
        await self._slots.acquire()
        index = self._count
        self._count += 1
        self._size += len(part)
        self._group.create_task(self._write(index, part, mutable, done))

    async def _write(self, index: int, part: memoryview, mutable: bool, done: Callable[[], None]) -> None:
        since = self._putter._clock.monotonic()
        lengths = layout_for(len(part), self._profile).lengths
        extent, value = await write_summed(
            self._putter._cluster, self._profile, part, lengths, self._deadlines(), mutable=mutable
        )
        if mutable and await off_loop(len(part), lambda: crc32c(part)) != value:
            raise changed_during_put(self._spec.target.where)
        self._sums[index] = (len(part), value)
        self._registrar.add(index, Slice(extent.id, 0, len(part)), extent, since)
        await self._registrar.step()  # many parts may come before it is the keeper's turn
        self._putter._metrics.add("puts.extents")
        self._slots.release()
        done()

    async def _written(self) -> None:
        for _ in range(self.in_flight):
            await self._slots.acquire()

    def _deadlines(self) -> Deadline:
        return self._deadline or self._putter.deadline()


assert PACK_MAX < SHARD_DEFAULT  # so that the first bytes of a stream fit one extent of any profile
