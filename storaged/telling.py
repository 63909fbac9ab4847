"""What heartbeats say of damage: the damaged shards, some at a time until the catalog has noted them, and the scrubber.

A shard that the catalog noted is not told again; if the catalog lost that note, the comparison after the next pass of
the scrubber finds it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from reedbed.common.ids import Id
from reedbed.protos import catalog_pb2
from reedbed.storaged.calls import Damage
from reedbed.storaged.comparer import Comparison
from reedbed.storaged.scrub import ScrubStatus

PER_BEAT: Final = 256  # damaged shards of one device in one heartbeat

ShardKey = tuple[Id, int]


class Telling:
    """What one device has still to tell. Pure."""

    def __init__(self) -> None:
        self._noted: set[ShardKey] = set()
        self._last: ShardKey | None = None

    def next(self, damaged: Iterable[Damage]) -> list[ShardKey]:
        """The next ones to tell, in turn, so that those that cannot be noted yet do not keep back the others."""
        all_ = {(one.extent, one.index) for one in damaged}
        self._noted &= all_
        waiting = sorted(all_ - self._noted)
        start = 0 if self._last is None else bisect_right(waiting, self._last)
        chosen = [*waiting[start:], *waiting[:start]][:PER_BEAT]
        self._last = chosen[-1] if chosen else None
        return chosen

    def noted(self, shards: Iterable[ShardKey]) -> None:
        """The catalog has noted these."""
        self._noted.update(shards)


def scrub_report(scrub: ScrubStatus, compared: Comparison) -> catalog_pb2.ScrubReport:
    return catalog_pb2.ScrubReport(
        phase=scrub.phase,
        passes=scrub.passes,
        done=scrub.read,
        left=scrub.left,
        rate=round(scrub.rate),
        found=scrub.found,
        last_found=scrub.last_found,
        last_end_us=round(scrub.last_end * 1e6),
        compared=compared.done,
        missing=compared.missing,
        error=scrub.error or compared.error,
    )
