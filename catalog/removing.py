"""Taking a device out of the cluster for good: what that would mean, and doing it.

The device leaves the map at once; the planner gives its positions to others, as those of a dead one. Its number is
never given again, and its folder is refused when it comes back (removed.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from reedbed.catalog import lacks, margins, mending
from reedbed.catalog.drains import read_leaving, write_leaving
from reedbed.catalog.engine import Engine, Writer
from reedbed.catalog.losses import Losses, find_losses
from reedbed.catalog.mapkeeper import MapKeeper
from reedbed.catalog.mapstate import find_device
from reedbed.catalog.moves import is_up, plan_moves
from reedbed.common import logs
from reedbed.common.errors import PreconditionFailed, Unavailable
from reedbed.protos.types import ClusterMap

# How many extents that nobody knows (hold.py) a device has shards of; None where it does not answer
HeldOn = Callable[[int], Awaitable[int | None]]

_log = logs.get("catalog.keeping")


async def nothing_held(number: int) -> int | None:
    """Where nothing is."""
    return 0


@dataclass(frozen=True, slots=True)
class RemovalPlan:
    """What removing a device means: positions that others take over, of which `stuck` have no place; what is lost; and
    how many more losses the extents of each profile survive until the rest is rebuilt. held: as of HeldOn; no walk
    over what is known finds these, and what they lose with the device is not rebuilt."""

    device: int
    positions: int
    size: int
    stuck: int
    losses: Losses
    survives: Mapping[str, int] = field(default_factory=dict)
    held: int | None = 0
    serves: bool = False

    @property
    def wasteful(self) -> bool:
        """Whether redundancy would go with a device that works, and nothing could bring it back."""
        return self.serves and self.stuck > 0

    def check(self) -> None:
        """PreconditionFailed where something would be lost, or less safe for good although the device works."""
        if not self.losses.extents:
            if self.wasteful:
                raise PreconditionFailed(
                    f"{self.stuck} of its positions have no other device to go to, and it works: what is stored "
                    "would be less safe until devices are added",
                    where=f"device {self.device}",
                    hint="Add devices first; or, if it must go, stop its storaged",
                )
            return
        names = ", ".join(self.losses.names)
        raise PreconditionFailed(
            f"without device {self.device}, {self.losses.extents} extents with {self.losses.bytes} bytes of "
            f"{self.losses.objects} objects could not be read any more" + (f", among them {names}" if names else ""),
            where=f"device {self.device}",
            hint=f"Move its shards to others first: reedbed device drain {self.device}; "
            "or bring back other devices that hold shards of these objects, or delete the objects",
        )

    def as_json(self) -> dict[str, object]:
        return {
            "device": self.device,
            "positions": self.positions,
            "bytes": self.size,
            "stuck_positions": self.stuck,
            "lost": self.losses.as_json(),
            "survives": dict(self.survives),
            "held": self.held,
            "serves": self.serves,
            "possible": not self.losses.extents and not self.wasteful,
        }


async def plan_removal(
    engine: Engine, map_: ClusterMap, number: int, leaving: Collection[int], held_on: HeldOn = nothing_held
) -> RemovalPlan:
    """What it would mean now. NotFound."""
    device = find_device(map_, number)
    losses = await find_losses(engine, map_, number)
    without = replace(map_, devices={one: known for one, known in map_.devices.items() if one != number})
    with engine.read() as reader:
        found, marked = lacks.lacks(reader), mending.marks(reader)
        safe = margins.by_pg(reader, without, found, marked)
    positions = sum(place.device == number for pg in map_.pgs.values() for place in pg.positions)
    stuck = plan_moves(without, (), (), leaving).stuck - plan_moves(map_, (), (), leaving).stuck
    size = device.used if positions else 0
    survives = margins.by_profile(without, safe)
    return RemovalPlan(
        number, positions, size, max(0, stuck), losses, survives, await held_on(number), is_up(map_, number)
    )


async def remove(
    engine: Engine, keeper: MapKeeper, number: int, leaving: frozenset[int], held_on: HeldOn = nothing_held
) -> RemovalPlan:
    """Do it. NotFound; PreconditionFailed where something would be lost; Unavailable if others left meanwhile."""
    before = keeper.map
    planned = await plan_removal(engine, before, number, leaving, held_on)
    planned.check()

    def check(map_: ClusterMap) -> None:
        if any(is_up(before, one) and not is_up(map_, one) for one in before.devices):
            raise Unavailable("another device left the cluster meanwhile", hint="Look again, and try again")

    def also(writer: Writer) -> None:
        write_leaving(writer, read_leaving(writer) - {number})

    await keeper.remove(number, check, also)
    _log.warning("device %d was removed from the cluster for good", number)
    return planned
