"""What the cluster map says to a write transaction: which acknowledged shards count, and which profiles it can hold."""

from __future__ import annotations

from collections.abc import Callable

from reedbed.catalog.mapstate import check_profile
from reedbed.common.errors import InvalidArgument, StaleGeneration
from reedbed.common.ids import format_id
from reedbed.protos.types import ClusterMap, Extent


class AckJudge:
    """Compares acknowledgements with the cluster map of this moment. May be used from any thread."""

    def __init__(self, current: Callable[[], ClusterMap]) -> None:
        """`current` gives the map that the transaction under way sees; it may be ahead of what clients were told."""
        self._current = current

    def judge(self, extent: Extent) -> int:
        """Bitmap of the positions whose shard is durable on a device that the position still holds.

        An acknowledgement counts if the position's device is the one that gave it, in the incarnation that it has
        now, and is neither failed nor out: shards of a failed device are lost, those of an out one are given to
        others. A device that went down a moment ago still has what it acknowledged. Empty data shards have no bit.

        StaleGeneration for a PG that the map does not have, or a generation that it has not reached. InvalidArgument
        for an extent whose profile is not that of its PG.
        """
        map_ = self._current()
        pg = map_.pgs.get(extent.pg)
        if pg is None or extent.generation > pg.generation:
            raise StaleGeneration(
                f"the cluster map has no PG {extent.pg} in generation {extent.generation}",
                where=f"extent {format_id(extent.id)}",
                hint="Refresh the cluster map and write the extent again",
            )
        if (pg.k, pg.m) != (extent.k, extent.m):
            raise InvalidArgument(
                f"the extent is of rs-{extent.k}-{extent.m}, but PG {pg.id} of rs-{pg.k}-{pg.m}",
                where=f"extent {format_id(extent.id)}",
            )
        present = 0
        for ack in extent.acks:
            if not 0 <= ack.position < len(pg.positions):
                continue
            if ack.position < extent.k and not extent.lengths[ack.position]:
                continue
            device = map_.devices.get(ack.device)
            if (
                device is not None
                and pg.positions[ack.position].device == ack.device
                and device.incarnation == ack.incarnation
                and device.state in ("up", "down")
            ):
                present |= 1 << ack.position
        return present

    def at_sources(self, extent: Extent) -> tuple[int, int]:
        """The positions whose source acknowledged the shard and is in service, and the PG's generation now.

        A writer with an older map puts shards on a device that positions are moving from: they count, and move too.
        To be asked after `judge` has found the PG.
        """
        map_ = self._current()
        pg = map_.pgs[extent.pg]
        held = 0
        for ack in extent.acks:
            device = map_.devices.get(ack.device)
            if (
                0 <= ack.position < len(pg.positions)
                and pg.positions[ack.position].source == ack.device
                and device is not None
                and device.incarnation == ack.incarnation
                and device.state in ("up", "down")
            ):
                held |= 1 << ack.position
        return held, pg.generation


class ProfileJudge:
    """Which profiles the cluster can hold. May be used from any thread."""

    def __init__(self, current: Callable[[], ClusterMap]) -> None:
        """`current` as for AckJudge."""
        self._current = current
        self._known: tuple[ClusterMap | None, set[str]] = (None, set())

    def resolve(self, profile: str) -> str:
        """The profile's name, the cluster's default for an empty one, which its founder answers for.

        InvalidArgument for an unknown profile, and for one without PGs that the devices there are cannot hold.
        """
        map_ = self._current()
        if not profile:
            return map_.default_profile
        checked_for, names = self._known
        if checked_for is not map_:
            names = set()
            self._known = (map_, names)
        if profile not in names:
            check_profile(map_, profile)
            names.add(profile)
        return profile
