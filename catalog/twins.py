"""In-memory twins of what the namespace needs: leases that move when told to, and a map that judges as told."""

from __future__ import annotations

from reedbed.catalog.needs import Needs
from reedbed.common.clock import ManualClock
from reedbed.common.errors import StaleGeneration
from reedbed.common.ids import NO_ID, Id, make_block
from reedbed.ec.profiles import parse_profile
from reedbed.protos.types import Extent


class ManualLeases:
    """An id clock, a horizon and a term that stand still; `take` gives ids out."""

    def __init__(self) -> None:
        self.time_ms = 1_000_000
        self.horizon_id = NO_ID
        self.term_now = 1
        self.leapt_ms = 0  # of the last move of the clock, for which no time went by
        self._counter = 0

    def horizon(self) -> Id:
        return self.horizon_id

    def id_time_ms(self) -> int:
        return self.time_ms

    def shown_before(self, seconds: float) -> int:
        return max(0, self.time_ms - self.leapt_ms - round(seconds * 1000))

    def term(self) -> int:
        return self.term_now

    def take(self) -> Id:
        """A fresh id, above all before it."""
        self._counter += 1
        return Id(make_block(self.time_ms, 1) + self._counter.to_bytes(4, "big"))

    def raise_horizon(self) -> None:
        """Settle all ids given out so far, and let the id clock go on."""
        self.horizon_id = Id(make_block(self.time_ms + 1, 0) + bytes(4))
        self.time_ms += 1000


class ManualJudge:
    """Counts what was acknowledged except the positions of `lost`; refuses PGs in `unknown_pgs`."""

    def __init__(self) -> None:
        self.lost = 0
        self.unknown_pgs: set[int] = set()
        self.generation = 1

    def judge(self, extent: Extent) -> int:
        if extent.pg in self.unknown_pgs or extent.generation > self.generation:
            raise StaleGeneration(f"PG {extent.pg} in generation {extent.generation} is not known")
        present = 0
        for ack in extent.acks:
            present |= 1 << ack.position
        return present & ~self.lost

    def at_sources(self, extent: Extent) -> tuple[int, int]:
        return 0, extent.generation


class AnyProfile:
    """Holds every profile there is; the default is rs-4-2."""

    def resolve(self, profile: str) -> str:
        return parse_profile(profile or "rs-4-2").name


def manual_needs() -> tuple[Needs, ManualLeases, ManualJudge, ManualClock]:
    """Needs made of twins, and the twins."""
    leases, judge, clock = ManualLeases(), ManualJudge(), ManualClock()
    return Needs(leases, judge, AnyProfile(), clock), leases, judge, clock
