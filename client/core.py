"""The parts of one store, put together. Everything in here lives in one event loop of one process."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from typing import Final

from reedbed.client.background import Background
from reedbed.client.catalog import Catalog
from reedbed.client.cluster import ClusterClient
from reedbed.client.commits import CommitRounds
from reedbed.client.get import Getter
from reedbed.client.link import CatalogLink
from reedbed.client.many import ManyReader
from reedbed.client.options import Options
from reedbed.client.packer import Packer
from reedbed.client.put import Putter
from reedbed.client.threads import ForeignThreads
from reedbed.common.clock import Clock, Deadline, SystemClock
from reedbed.common.errors import ForkedStore, InvalidArgument, Unavailable
from reedbed.common.metrics import Metrics
from reedbed.ec.profiles import Profile
from reedbed.extents.small import SmallReads
from reedbed.extents.wheel import Wheel
from reedbed.extents.write import write_flat
from reedbed.protos.types import Extent
from reedbed.transport.lane import Connector
from reedbed.transport.pool import LanePool

DEADLINE_TICK_S: Final = 0.02  # how exactly deadlines of single operations are kept


class Core:
    """What the operations of a store work with."""

    def __init__(self, options: Options, connector: Connector, clock: Clock | None = None, seed: int | None = None):
        self.options = options
        self.clock: Clock = clock or SystemClock()
        self.metrics = Metrics()
        self.threads = ForeignThreads()
        self._forks = _Inherited.forks
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        rng = random.Random(seed)
        self._pool = LanePool(connector, clock=self.clock, rng=rng)
        self._background = Background()
        self._wheel = Wheel(DEADLINE_TICK_S)
        self._link = CatalogLink(options.endpoint, self._pool, self.clock, self.metrics, rng)
        self.cluster = ClusterClient(self._link, self._background, self.clock, self.metrics, rng)
        self.catalog = Catalog(self._link, self.clock, self._background, self._wheel)
        self.smalls = SmallReads(self.cluster)
        self.commits = CommitRounds(self.cluster, self._background, self.metrics, self._wheel)
        self.packer = Packer(
            self._write,
            self.commits,
            self.cluster.ids,
            self.catalog.forget_bucket,
            self._background,
            self.metrics,
            self._wheel,
        )
        self.putter = Putter(
            self.cluster,
            self.catalog,
            self.commits,
            self.packer,
            self.clock,
            self.metrics,
            options.timeout,
            options.window,
        )
        self.getter = Getter(
            self.cluster, self.catalog, self.smalls, self.clock, self.metrics, options.timeout, options.window
        )
        self.many = ManyReader(self.getter, self.catalog, self.threads, options.concurrency)

    @property
    def background(self) -> Background:
        return self._background

    def deadline(self) -> Deadline:
        """For one operation, or one step of a long one."""
        return Deadline(self.options.timeout, self.clock)

    def enter(self) -> None:
        """To be called when an operation begins. ForkedStore, Unavailable or InvalidArgument where it must not."""
        if self._forks != _Inherited.forks:
            raise forked()
        if self._closed:
            raise Unavailable("the store is closed", hint="Connect again", retryable=False)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            _Inherited.used = True
        elif self._loop is not loop:
            raise InvalidArgument("the store belongs to another event loop", hint="Connect in each loop by itself")

    async def close(self) -> None:
        """Ends what is under way and closes all lanes. May be called twice."""
        if self._closed or self._forks != _Inherited.forks:
            return
        self._closed = True
        await self.putter.close()
        await self._background.close()
        await self.smalls.close()
        self._wheel.close()
        await self.cluster.close()
        await self._pool.close()
        self.threads.close()

    async def _write(
        self,
        profile: Profile,
        buffer: memoryview,
        lengths: Sequence[int],
        starts: Sequence[int],
        deadline: Deadline,
        lent: bytearray | None,
    ) -> Extent:
        return await write_flat(self.cluster, profile, buffer, lengths, starts, deadline, mutable=False, lent=lent)


_HINT: Final = (
    "Start processes with the 'spawn' or 'forkserver' method: a store pickles, and connects anew where it is unpickled"
)


class _Inherited:
    """Whether a store was ever used in this process, and in the one that it was forked from.

    Closing it makes no difference: gRPC's threads, which a forked process lacks, go on until the process ends.
    """

    used = False
    told = False
    forks = 0  # between this process and the one that first had this module: to ask for its number each time is slow

    @classmethod
    def note(cls) -> None:
        cls.forks += 1
        cls.told = cls.told or cls.used
        cls.used = False


os.register_at_fork(after_in_child=_Inherited.note)


def forked_after_use() -> bool:
    """Whether this process was forked from one that had used a store: gRPC does not work in it."""
    return _Inherited.told


def forked() -> ForkedStore:
    """The error of a store that is used in a process forked from the one that opened it."""
    return ForkedStore("this store was opened in the process that this one was forked from", hint=_HINT)


def forked_from_use() -> ForkedStore:
    """The error of a new store that cannot work, since a store was used before the process was forked."""
    return ForkedStore("a store was used before this process was forked, so gRPC does not work in it", hint=_HINT)
