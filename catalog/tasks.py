"""Which worker is to do what next: tasks of one shape, "make this extent be as planned", given out in order of need.

Invariants:
- An extent is given to one process at a time, until it reports, or has not been heard for LEASE_S, or started anew.
- A task goes to the process of a device that is to get a shard, and names only positions whose devices are up.
- What is given out is kept in memory only: the queue in the engine is the truth, and a task may be done twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from reedbed.catalog import extents, lacks
from reedbed.catalog.engine import Reader
from reedbed.common.ids import Id
from reedbed.protos.types import ClusterMap, Extent

LEASE_S: Final = 30.0
WAITING_MAX: Final = 512  # tasks that wait for one process
ROWS_PER_STEP: Final = 2000  # of the queue that one step looks at
LAP_PAUSE_S: Final = 1.0  # between laps that find nothing
RETRY_S: Final = 1.0  # doubles with each failure
RETRY_MAX_S: Final = 60.0
SEVERAL: Final = 3  # failures after which nothing else waits for an extent's repair


@dataclass(frozen=True, slots=True)
class Task:
    """The devices of `positions` are to get their shards. `redundancy`: how many more losses the extent survives."""

    extent: Extent
    positions: tuple[int, ...]
    redundancy: int


@dataclass(slots=True)
class _Process:
    """One storaged: what waits for it, what it has, and when it was heard."""

    waiting: list[tuple[int, Id]]  # a heap: (redundancy, extent)
    given: set[Id]
    boot: int = 0
    heard: float = 0.0


class TaskBoard:
    """What waits for which process. Belongs to one event loop; told the time."""

    def __init__(self) -> None:
        self._processes: dict[str, _Process] = {}
        self._assigned: set[Id] = set()
        self._hopeful: set[Id] = set()  # those of them that have not failed several times
        self._later: dict[Id, tuple[float, int]] = {}  # after failures: not before, and how many there were
        self._after: tuple[int, Id] | None = None
        self._found = 0
        self._next_lap = 0.0

    @property
    def open(self) -> int:
        """Extents that wait for a process or are with one."""
        return len(self._assigned)

    @property
    def hopeful(self) -> bool:
        """Whether some of them have not failed several times: what cannot be repaired holds nothing back."""
        return bool(self._hopeful)

    def wake(self) -> None:
        """There is something new in the queue, or somebody new to work on it: look at once."""
        self._next_lap = 0.0

    def waits_for(self, address: str) -> bool:
        process = self._processes.get(address)
        return process is not None and bool(process.waiting)

    def fill(self, reader: Reader, map_: ClusterMap, now: float) -> bool:
        """Look at some of the queue, and let tasks wait for their processes; whether there is more to look at."""
        self._expire(map_, now)
        if self._after is None and now < self._next_lap:
            return False
        rows = lacks.queue(reader, ROWS_PER_STEP, self._after)
        for extent_id, redundancy, row in rows:
            later, failures = self._later.get(extent_id, (0.0, 0))
            if extent_id in self._assigned or later > now:
                continue
            address = self._address_for(map_, row.pg, row.missing)
            if address is not None:
                heappush(self._process(address, now).waiting, (redundancy, extent_id))
                self._assigned.add(extent_id)
                if failures < SEVERAL:
                    self._hopeful.add(extent_id)
                self._found += 1
        if len(rows) == ROWS_PER_STEP:
            self._after = rows[-1][1], rows[-1][0]
            return True
        self._next_lap = now + (0.0 if self._found else LAP_PAUSE_S)
        self._after, self._found = None, 0
        return False

    def take(
        self,
        reader: Reader,
        map_: ClusterMap,
        address: str,
        boot: int,
        room: int,
        now: float,
        held: Collection[Id] | None = None,
    ) -> list[Task]:
        """Up to `room` tasks for the process at that address.

        held: the extents whose tasks it still has; those of an answer that was lost on the way are free again.
        """
        process = self._process(address, now)
        kept = process.given if held is None else process.given.intersection(held)
        lost = process.given - (kept if boot == process.boot else set())
        if lost:
            self._free(lost)
            process.given = process.given - lost
            self.wake()
        process.boot = boot
        process.heard = now
        tasks: list[Task] = []
        while process.waiting and len(tasks) < room:
            redundancy, extent_id = heappop(process.waiting)
            task = _task(reader, map_, extent_id, redundancy)
            if task is None:
                self._free((extent_id,))
            else:
                process.given.add(extent_id)
                tasks.append(task)
        return tasks

    def done(self, address: str, results: Mapping[Id, bool], now: float) -> None:
        """The process is through with these extents; True: as planned."""
        process = self._process(address, now)
        for extent_id, good in results.items():
            if extent_id in process.given:
                process.given.discard(extent_id)
                self._free((extent_id,))
            if good:
                self._later.pop(extent_id, None)
            else:
                failures = self._later.get(extent_id, (0.0, 0))[1]
                self._later[extent_id] = now + min(RETRY_MAX_S, RETRY_S * 2.0 ** min(failures, 10)), failures + 1

    def _expire(self, map_: ClusterMap, now: float) -> None:
        for extent_id in [one for one, (when, _) in self._later.items() if when + 2 * RETRY_MAX_S < now]:
            if extent_id not in self._assigned:  # what waits for long, or was with who is silent now, has failed still
                del self._later[extent_id]
        served = {device.address for device in map_.devices.values() if device.state == "up"}
        for address, process in list(self._processes.items()):
            if address not in served or (process.given and now - process.heard > LEASE_S):
                self._drop(process)
                del self._processes[address]

    def _free(self, extents: Collection[Id]) -> None:
        self._assigned.difference_update(extents)
        self._hopeful.difference_update(extents)

    def _drop(self, process: _Process) -> None:
        self._free(process.given)
        self._free([extent_id for _, extent_id in process.waiting])
        process.given.clear()
        process.waiting.clear()

    def _process(self, address: str, now: float) -> _Process:
        process = self._processes.get(address)
        if process is None:
            process = self._processes[address] = _Process([], set(), heard=now)
        return process

    def _address_for(self, map_: ClusterMap, pg: int, work: int) -> str | None:
        """Of the processes that are to get a shard, and have room for tasks, the one with the fewest."""
        best: tuple[int, str] | None = None
        for position in doable(map_, pg, work):
            address = map_.devices[map_.pgs[pg].positions[position].device].address
            process = self._processes.get(address)
            load = (len(process.waiting) + len(process.given)) if process is not None else 0
            if load < WAITING_MAX and (best is None or load < best[0]):
                best = load, address
        return None if best is None else best[1]


def doable(map_: ClusterMap, pg_id: int, work: int) -> Iterable[int]:
    """The positions of `work` whose devices are up."""
    pg = map_.pgs.get(pg_id)
    if pg is None:
        return
    for position, place in enumerate(pg.positions):
        if work >> position & 1:
            device = map_.devices.get(place.device)
            if device is not None and device.state == "up":
                yield position


def _task(reader: Reader, map_: ClusterMap, extent_id: Id, redundancy: int) -> Task | None:
    """The task as of now; None if there is nothing to do for the extent any more, or at present."""
    row = extents.get(reader, extent_id)
    if row is None or row.dropped_ms is not None:
        return None
    positions = tuple(doable(map_, row.pg, lacks.masks(row).work))
    if not positions:
        return None
    extent = Extent(extent_id, row.k, row.m, row.pg, row.generation, row.lengths, row.present)
    return Task(extent, positions, redundancy)
