"""The extents of a long put, registered with an upload before the horizon can pass their ids.

Invariants:
- Slices are registered in order, each once: a repeated call names how many came before it.
- An extent waits at most REGISTER_AFTER_S, and what is left for the commit never exceeds SLICES_PER_COMMIT.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from reedbed.client.catalog import Catalog
from reedbed.client.cluster import ClusterClient
from reedbed.client.targets import Target
from reedbed.common import logs
from reedbed.common.clock import Deadline
from reedbed.common.errors import NotFound, ReedbedError
from reedbed.common.ids import Id
from reedbed.common.limits import HORIZON_LAG_S, SLICES_CHUNK, SLICES_PER_COMMIT
from reedbed.protos.types import Extent, Slice

REGISTER_AFTER_S: Final = 120.0
REGISTER_SLICES: Final = 4 * SLICES_CHUNK
_ABORT_S: Final = 5.0

assert REGISTER_AFTER_S * 4 < HORIZON_LAG_S
assert REGISTER_SLICES < SLICES_PER_COMMIT

_log = logs.get("client")


@dataclass(frozen=True, slots=True)
class _Written:
    slice: Slice
    extent: Extent
    since: float


class Registrar:
    """The slices of one put, in the order of the object's bytes."""

    def __init__(
        self,
        cluster: ClusterClient,
        catalog: Catalog,
        target: Target,
        deadlines: Callable[[], Deadline],
        after_s: float = REGISTER_AFTER_S,
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._target = target
        self._deadlines = deadlines
        self._after = after_s
        self._written: dict[int, _Written] = {}  # by index, of what is not registered yet
        self._registered = 0
        self._lock = asyncio.Lock()
        self.upload: Id | None = None

    def add(self, index: int, slice_: Slice, extent: Extent, since: float) -> None:
        """The index-th part of the object is durable; writing it began at `since` of the monotonic clock."""
        self._written[index] = _Written(slice_, extent, since)

    async def keep(self) -> None:
        """Registers what grows old, until cancelled. Raises what the catalog raises."""
        while True:
            await asyncio.sleep(self._after / 4)
            await self.step()

    async def step(self) -> None:
        """Registers the parts at hand if one is old or they are many."""
        async with self._lock:
            ready = self._ready()
            old = self._cluster.clock.monotonic() - self._after / 2
            if len(ready) >= REGISTER_SLICES or any(part.since < old for part in ready):
                await self._register(ready)

    async def rest(self) -> tuple[list[Slice], list[Extent]]:
        """What the commit itself has to name, once all parts are there."""
        async with self._lock:
            ready = self._ready()
            assert len(ready) == len(self._written), "a part of the object is missing"
            return [part.slice for part in ready], [part.extent for part in ready]

    async def abort(self) -> None:
        """Ends the upload, if one was begun. If that fails it is left for the catalog to end."""
        if self.upload is None:
            return
        try:
            await self._catalog.abort_upload(self.upload, Deadline(_ABORT_S, self._cluster.clock))
        except NotFound:
            return  # never begun, or ended by a commit whose answer was lost
        except ReedbedError as error:
            _log.warning("upload %s is left behind: %s", self.upload.hex(), error)

    def _ready(self) -> list[_Written]:
        ready: list[_Written] = []
        while (part := self._written.get(self._registered + len(ready))) is not None:
            ready.append(part)
        return ready

    async def _register(self, ready: list[_Written]) -> None:
        if self.upload is None:
            upload = await self._cluster.new_id(self._deadlines())
            self.upload = upload
            await self._catalog.begin_upload(upload, self._target, self._deadlines())
        for start in range(0, len(ready), SLICES_CHUNK):
            part = ready[start : start + SLICES_CHUNK]
            await self._catalog.register(
                self.upload,
                self._registered,
                [written.slice for written in part],
                [written.extent for written in part],
                self._deadlines(),
            )
            for index in range(self._registered, self._registered + len(part)):
                del self._written[index]
            self._registered += len(part)
