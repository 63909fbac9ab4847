"""The cluster map of a running catalog: durable, changed by one at a time, with a history for deltas.

Invariants:
- `map` is what the engine has durably; its epoch rises by one with each change.
- `deciding` is the map as of the newest change that a write transaction has seen: never behind `map`, and what
  commits in the same or later transactions are judged by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reedbed.catalog.carry_on import carried_on
from reedbed.catalog.engine import Engine, Writer
from reedbed.catalog.leases import Transactor
from reedbed.catalog.mapstate import (
    Counters,
    MapHistory,
    check_cluster_settings,
    next_change,
    read_map,
    without_device,
    write_change,
)
from reedbed.catalog.removed import read_removed, write_removed
from reedbed.common.errors import InvalidArgument, ResourceExhausted, WrongCluster
from reedbed.common.limits import MAP_MAX
from reedbed.protos.convert import change_to_message
from reedbed.protos.types import ClusterMap, Device, MapChange, PlacementGroup

Changed = tuple[Sequence[Device], Sequence[PlacementGroup]]


def found(engine: Engine, cluster: bytes, level: str | None, default_profile: str | None) -> None:
    """Store the map of a new cluster, if there is none. Level and default profile are those of the founding.

    WrongCluster if the stored map is another cluster's; InvalidArgument for a level or default profile other than the
    stored one.
    """
    chosen = level or "device", default_profile or "rs-4-2"
    check_cluster_settings(*chosen)
    with engine.read() as reader:
        stored = read_map(reader)
    if stored is None:
        first = MapChange(base=0, epoch=1, cluster=cluster, default_profile=chosen[1], level=chosen[0])
        with engine.write(urgent=True) as writer:
            write_change(writer, first, Counters())
        return
    map_ = stored[0]
    if map_.cluster != cluster:
        raise WrongCluster(f"the folder is of cluster {cluster.hex()}, but its map of {map_.cluster.hex()}")
    if level and level != map_.level:
        raise InvalidArgument(
            f"the cluster was founded with failure domain {map_.level}, not {level}",
            hint="Leave the level out; it cannot be changed",
        )
    if default_profile and default_profile != map_.default_profile:
        raise InvalidArgument(
            f"the cluster was founded with default profile {map_.default_profile}, not {default_profile}",
            hint="Leave the profile out; each bucket can have its own",
        )


def check_size(whole: MapChange, limit: int = MAP_MAX) -> None:
    """ResourceExhausted for a map that would leave a message no room for anything else: nobody could learn it."""
    size = change_to_message(whole).ByteSize()
    if size > limit:
        raise ResourceExhausted(
            f"the cluster map would have {size} bytes, more than {limit}",
            where=f"{len(whole.devices)} devices, {len(whole.pgs)} placement groups",
            hint="Use fewer profiles, or a cluster more",
            retryable=False,
        )


class MapKeeper:
    """See the module's text. Belongs to one event loop; `map` and `deciding` may be read from any thread."""

    def __init__(self, engine: Engine, transactor: Transactor) -> None:
        """Reads the stored map, which `found` has made."""
        with engine.read() as reader:
            stored = read_map(reader)
            self._removed = read_removed(reader)
        assert stored is not None, "the cluster was not founded"
        self._map, self._counters = stored
        self._deciding = self._map
        self._history = MapHistory()
        self._transactor = transactor
        self._changing = asyncio.Lock()
        self._under_way: set[asyncio.Future[Any]] = set()

    @property
    def map(self) -> ClusterMap:
        """The map as it is durable."""
        return self._map

    @property
    def removed(self) -> Mapping[bytes, int]:
        """The devices that have left for good: numbers by uuid."""
        return self._removed

    def deciding(self) -> ClusterMap:
        """The map that the write transaction under way sees."""
        return self._deciding

    def since(self, epoch: int) -> MapChange:
        """What brings a map of `epoch` (0: none) up to now."""
        return self._history.since(epoch, self._map)

    async def change(
        self, decide: Callable[[ClusterMap, Counters], Changed], also: Callable[[Writer], None] | None = None
    ) -> ClusterMap:
        """Put in the devices and PGs that `decide` gives for the map of that moment; returns the map after it.

        `also` writes what belongs to the change, in its transaction, which there is only if something changes. Errors
        of `decide` and of the engine come through and leave the map as it was.
        """

        def make() -> MapChange | None:
            return next_change(self._map, *decide(self._map, self._counters))

        return await carried_on(self._change(make, also), self._under_way)

    async def remove(
        self, number: int, check: Callable[[ClusterMap], None], also: Callable[[Writer], None]
    ) -> ClusterMap:
        """Take a device out for good, unless `check` raises; PGs that name it are left to the planner.

        `also` as of `change`. NotFound.
        """
        gone: Device | None = None

        def make() -> MapChange:
            nonlocal gone
            check(self._map)
            change, gone = without_device(self._map, number)
            return change

        def write(writer: Writer) -> None:
            assert gone is not None
            write_removed(writer, gone)
            also(writer)

        map_ = await carried_on(self._change(make, write), self._under_way)
        assert gone is not None
        self._removed[gone.uuid] = number
        return map_

    async def _change(self, make: Callable[[], MapChange | None], also: Callable[[Writer], None] | None) -> ClusterMap:
        async with self._changing:
            change = make()
            if change is None:
                return self._map
            counters = Counters(
                max([self._counters.next_device, *(device.number + 1 for device in change.devices)]),
                max([self._counters.next_pg, *(pg.id + 1 for pg in change.pgs)]),
            )
            map_ = change.apply(self._map)
            assert map_ is not None
            if len(map_.devices) + len(map_.pgs) > len(self._map.devices) + len(self._map.pgs):
                check_size(self._history.since(0, map_))

            def store(writer: Writer) -> None:
                write_change(writer, change, counters)
                if also is not None:
                    also(writer)
                self._deciding = map_

            def undo() -> None:
                self._deciding = self._map

            try:
                await self._transactor.run(store, urgent=True, undo=undo)
                self._map, self._counters = map_, counters
                self._history.add(change)
            finally:
                self._deciding = self._map
            return self._map
