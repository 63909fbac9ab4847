"""How a shard store is opened."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reedbed.common.clock import Clock, SystemClock
from reedbed.common.limits import WINDOW
from reedbed.common.runner import Runner, ThreadRunner
from reedbed.storaged.disk import Disk
from reedbed.storaged.index import IndexHome
from reedbed.storaged.index_check import find_damage_in_child
from reedbed.storaged.index_lmdb import FOLDER, LmdbHome
from reedbed.storaged.keeper import ROWS, SECONDS
from reedbed.storaged.reserve import RESERVE_BYTES
from reedbed.storaged.segments import SEGMENT_BYTES

QUEUE_BYTES: Final = 2 * WINDOW  # of puts that wait


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Sizes and hooks.

    capacity: bytes that the device may use, 0 for the whole disk. check_index: tells what is wrong with an index after
    an unclean stop, the empty string if nothing is. runner: runs the writer, the keeper and the scrubber.
    index_home: where a disk has its index; in LMDB, in a folder beside the segments, unless given. rng: of a new
    device's id and salt.
    """

    capacity: int = 0
    segment_bytes: int = SEGMENT_BYTES
    reserve_bytes: int = RESERVE_BYTES
    queue_bytes: int = QUEUE_BYTES
    checkpoint_rows: int = ROWS
    checkpoint_seconds: float = SECONDS
    check_index: Callable[[Path], str] = find_damage_in_child
    clock: Clock = dataclasses.field(default_factory=SystemClock)
    runner: Runner = dataclasses.field(default_factory=ThreadRunner)
    index_home: Callable[[Disk], IndexHome] | None = None
    rng: random.Random = dataclasses.field(default_factory=random.SystemRandom)

    def home(self, disk: Disk) -> IndexHome:
        """Where the device on this disk has its index."""
        if self.index_home is not None:
            return self.index_home(disk)
        return LmdbHome(disk.root / FOLDER, self.check_index)
