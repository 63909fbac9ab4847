"""One version that is being read: where its bytes are, as far as that is known and for as long as it holds.

Invariants:
- The version is fixed once looked up: later look-ups name it, so bytes of two versions never mix.
- Slices are a prefix of the version's slices in order; they are asked for page by page as a read needs them.
- `generation` counts how often they were looked up anew, so that one of several readers does it for all.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from dataclasses import dataclass

from reedbed.client.catalog import Catalog, version_of
from reedbed.client.targets import Content, Target
from reedbed.common.clock import Deadline
from reedbed.common.errors import Corrupt
from reedbed.protos.types import Extent, ObjectInfo, Slice


@dataclass(frozen=True, slots=True)
class Part:
    """`length` bytes of an extent from `offset`, which belong at `at` of the range asked for."""

    extent: Extent
    offset: int
    length: int
    at: int


class Handle:
    """The slices of one version. Only within the store's event loop."""

    def __init__(self, catalog: Catalog, target: Target, content: Content) -> None:
        self._catalog = catalog
        self.content = content  # as it was looked up first
        self.info: ObjectInfo = content.info
        self.target = target._replace(version=version_of(content.info))
        self.generation = 0
        self._lock = asyncio.Lock()
        self._take(content)

    async def parts(self, start: int, end: int, deadline: Deadline) -> list[Part]:
        """The parts of extents that make up the version's bytes from `start` to `end`, in order.

        Raises Corrupt where the catalog's slices do not make up the version.
        """
        if self._covered < end:
            await self._load(end, deadline)
        found: list[Part] = []
        index = bisect_right(self._starts, start) - 1
        at = start
        while at < end:
            slice_ = self._slices[index]
            skip = at - self._starts[index]
            length = min(slice_.length - skip, end - at)
            found.append(Part(self._extents[slice_.extent], slice_.offset + skip, length, at - start))
            at += length
            index += 1
        return found

    async def renew(self, seen: int, deadline: Deadline) -> None:
        """Looks the slices up again, unless that was done since generation `seen`. NotFound if the version is gone."""
        async with self._lock:
            if self.generation == seen:
                self._catalog.doubt(self.target)
                self._take(await self._catalog.find(self.target, True, deadline))
                self.generation += 1

    def _take(self, content: Content) -> None:
        self._slices: list[Slice] = []
        self._starts: list[int] = []
        self._extents: dict[bytes, Extent] = {}
        self._covered = 0
        self._add(content)

    def _add(self, content: Content) -> None:
        self._extents.update(content.extents)
        for slice_ in content.slices:
            extent = self._extents.get(slice_.extent)
            if extent is None or slice_.offset + slice_.length > extent.size:
                raise Corrupt("the catalog's slices do not fit its extents", where=self.target.where)
            self._slices.append(slice_)
            self._starts.append(self._covered)
            self._covered += slice_.length
        self._more = content.more
        if self._covered > self.info.size or (not self._more and self._covered != self.info.size):
            raise Corrupt(
                f"the catalog's slices hold {self._covered} bytes of {self.info.size}", where=self.target.where
            )

    async def _load(self, end: int, deadline: Deadline) -> None:
        async with self._lock:
            while self._covered < end:
                content = await self._catalog.more_slices(self.target, len(self._slices), deadline)
                if not content.slices:
                    raise Corrupt("the catalog promised more slices than it has", where=self.target.where)
                self._add(content)
