"""What the namespace needs from the rest of the catalog: leases, the cluster map's judgement, a clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from reedbed.common.clock import Clock
from reedbed.common.errors import BelowHorizon, InvalidArgument
from reedbed.common.ids import Id, format_id
from reedbed.common.ids import id_time_ms as time_of
from reedbed.protos.types import Extent


class Leases(Protocol):
    """The id clock and what follows from it. The horizon is durable and only rises."""

    def horizon(self) -> Id: ...

    def id_time_ms(self) -> int:
        """Milliseconds of the id clock now: not below those of any id that was leased."""

    def shown_before(self, seconds: float) -> int:
        """The highest `id_time_ms` that was certainly at least `seconds` ago; 0 if none is."""

    def term(self) -> int: ...


class AckJudge(Protocol):
    """The cluster map's word on acknowledgements."""

    def judge(self, extent: Extent) -> int:
        """The bitmap of positions whose acknowledgement counts now.

        That is: the device is at that position of that PG, in that incarnation, and neither failed nor out.
        Raises StaleGeneration when the PG is unknown or the generation is not one that it has reached.
        """

    def at_sources(self, extent: Extent) -> tuple[int, int]:
        """The positions whose source, in service, acknowledged the shard; and the PG's generation now."""


class ProfileJudge(Protocol):
    """Which profiles the cluster can hold."""

    def resolve(self, profile: str) -> str:
        """The profile's name, the cluster's default for an empty one.

        Raises InvalidArgument for an unknown profile and for one with more positions than the devices allow.
        """


@dataclass(frozen=True, slots=True)
class Needs:
    """All of it. `clock` is asked for wall time only."""

    leases: Leases
    judge: AckJudge
    profiles: ProfileJudge
    clock: Clock


def check_new_id(leases: Leases, id_: Id, what: str) -> None:
    """BelowHorizon for an id below the horizon, InvalidArgument for one that no lease can have given out yet."""
    if id_ < leases.horizon():
        raise BelowHorizon(
            f"{what} {format_id(id_)} is below the horizon",
            hint="The work took too long; start it again with a new id, and register long uploads on the way",
        )
    if time_of(id_) > leases.id_time_ms():
        raise InvalidArgument(f"{what} {format_id(id_)} was never leased", hint="Take ids from a leased block")
