"""The planner: compares what is with what should be, moves positions, and gives workers the tasks that follow.

Invariants:
- A change of PGs and the marks that tell what it means for their extents are one transaction.
- What is left to do is in the engine alone (queue, marks, the map's sources): a catalogd that starts goes on there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from reedbed.catalog import edit, lacks, mending
from reedbed.catalog.carry_on import carried_on
from reedbed.catalog.drains import find_device, plan_drain, read_leaving, write_leaving
from reedbed.catalog.edit import editing
from reedbed.catalog.engine import Engine, Reader, Writer
from reedbed.catalog.leases import Transactor
from reedbed.catalog.mapkeeper import Changed, MapKeeper
from reedbed.catalog.mapstate import Counters
from reedbed.catalog.mending import Mended
from reedbed.catalog.moves import Moves, plan_moves
from reedbed.catalog.needs import Needs
from reedbed.catalog.rates import Progress, Rates, read_rates, write_rates
from reedbed.catalog.tasks import Task, TaskBoard
from reedbed.common import logs
from reedbed.common.clock import Clock
from reedbed.common.errors import InvalidArgument, NotFound
from reedbed.common.ids import Id
from reedbed.common.ids import id_time_ms as time_of
from reedbed.ec.profiles import Profile
from reedbed.protos.types import ClusterMap

STEP_S: Final = 0.25
NOTES_PER_STEP: Final = 2000  # extents that one step notes their PG's change in
PGS_PER_STEP: Final = 20  # that share them
HEARD_MS: Final = 2000  # until every device that serves has heard of a move, and refuses what is older
TASKS_PER_ANSWER: Final = 256
LAST: Final = 1  # an extent that survives fewer losses than this is urgent

_log = logs.get("catalog.keeping")


@dataclass(frozen=True, slots=True)
class Result:
    """What a worker says of one task; an empty `error`: as planned."""

    mended: Mended
    error: str


class Keeping:
    """See the module's text. Belongs to one event loop."""

    def __init__(self, engine: Engine, transactor: Transactor, keeper: MapKeeper, needs: Needs, clock: Clock) -> None:
        self._engine = engine
        self._transactor = transactor
        self._keeper = keeper
        self._needs = needs
        self._clock = clock
        self._board = TaskBoard()
        self._progress = Progress()
        self._stuck = 0
        self._under_way: set[asyncio.Future[Any]] = set()
        self._moved: dict[int, int] = {}  # PGs with sources, and the id clock when they were first seen so
        self._seen: ClusterMap | None = None
        self._settled: ClusterMap | None = None  # a map in which no position has to move
        with engine.read() as reader:
            self._rates = read_rates(reader)
            self._leaving = read_leaving(reader)

    @property
    def rates(self) -> Rates:
        return self._rates

    @property
    def open_tasks(self) -> int:
        """Tasks that wait for a process, or are with one."""
        return self._board.open

    async def step(self) -> bool:
        """The step of a background loop; whether to go on at once."""
        await self._move()
        busy = await self._note()
        if busy or self._seen is not self._keeper.map:
            self._seen = self._keeper.map
            self._board.wake()
        with self._engine.read() as reader:
            counts = edit.counters(reader)
            if not counts.degraded_extents and not counts.moving_extents:
                self._progress.idle()
                return busy
            return self._board.fill(reader, self._keeper.map, self._clock.monotonic()) or busy

    async def _move(self) -> None:
        """Give positions to others, release sources."""
        if self._settled is self._keeper.map:
            return
        planned = Moves()

        def decide(map_: ClusterMap, _: Counters) -> Changed:
            nonlocal planned
            with self._engine.read() as reader:
                marked, found = mending.marks(reader), lacks.lacks(reader)
            planned = plan_moves(map_, marked, found, self._leaving, self._unripe(map_))
            return planned.devices, planned.pgs

        def also(writer: Writer) -> None:
            for pg, mark in planned.marks.items():
                mending.put_mark(writer, pg, mark)

        map_ = await self._keeper.change(decide, also)
        self._stuck = planned.stuck
        if planned.marks:
            _log.warning("%d placement groups have positions on other devices now", len(planned.marks))
        for device in planned.devices:
            _log.info("device %d holds nothing that counts any more", device.number)
        if not planned.pgs and not planned.stuck and not any(_moves(map_)):
            self._settled = map_

    def _unripe(self, map_: ClusterMap) -> set[int]:
        """PGs that moved so lately that a commit may still bring what a source acknowledged under the old generation.

        Such extents have ids from before the sources heard of the move; below the horizon no commit names them.
        """
        now = self._needs.leases.id_time_ms()
        moving = {pg for pg, _ in _moves(map_)}
        self._moved = {pg: self._moved.get(pg, now) for pg in moving}
        settled = time_of(self._needs.leases.horizon())
        return {pg for pg, since in self._moved.items() if settled < since + HEARD_MS}

    async def _note(self) -> bool:
        """Note changes in some extents of some PGs, of those first that have the most shards at stake."""
        with self._engine.read() as reader:
            waiting = mending.marks(reader)
        if not waiting:
            return False
        order = sorted(waiting, key=lambda pg: (-(waiting[pg].gone | waiting[pg].lost).bit_count(), pg))

        def apply(writer: Writer) -> None:
            with editing(writer, self._needs) as now:
                for pg in order[:PGS_PER_STEP]:
                    mending.note(now, pg, NOTES_PER_STEP // PGS_PER_STEP)

        await self._transactor.run(apply)
        return True

    def has_work(self, addresses: Iterable[str]) -> bool:
        """Whether tasks wait for a process at one of these addresses."""
        return any(self._board.waits_for(address) for address in addresses)

    async def exchange(self, devices: Sequence[int], boot: int, results: Sequence[Result], room: int) -> list[Task]:
        """Takes a process's results, and gives it up to `room` further tasks. NotFound for devices that are unknown."""
        map_ = self._keeper.map
        addresses = {map_.devices[number].address for number in devices if number in map_.devices}
        if len(addresses) != 1:
            raise NotFound(f"no process serves the devices {list(devices)}", hint="Register them first")
        address = addresses.pop()
        if results:
            await self._record(address, results)
        with self._engine.read() as reader:
            now = self._clock.monotonic()
            most = min(room, TASKS_PER_ANSWER)
            return self._board.take(reader, self._keeper.map, address, boot, most, now)

    async def _record(self, address: str, results: Sequence[Result]) -> None:
        def apply(writer: Writer) -> list[int]:
            with editing(writer, self._needs) as now:
                return mending.record(now, self._keeper.deciding(), [result.mended for result in results])

        sizes = await self._transactor.run(apply)
        now = self._clock.monotonic()
        good: dict[Id, bool] = {}
        for result, size in zip(results, sizes, strict=True):
            if size > 0:
                self._progress.add(size, now)
            # what was written but does not count (the map moved on) is done again, at once
            good[result.mended.extent] = not result.error
        self._board.done(address, good, now)

    async def set_rates(self, floor: int, ceiling: int) -> Rates:
        """Set what is not 0, durably. InvalidArgument."""
        if floor < 0 or ceiling < 0:
            raise InvalidArgument("rates are not below 0")

        async def carry_out() -> None:
            self._rates = await self._transactor.run(lambda writer: write_rates(writer, floor, ceiling))

        await carried_on(carry_out(), self._under_way)
        return self._rates

    async def drain(self, device: int, *, plan: bool) -> dict[str, object]:
        """Let a device give all its positions to others, or with `plan` only tell what that would be.

        NotFound; PreconditionFailed where the others have no place or no room for what it holds, with what is missing.
        """
        told = plan_drain(self._keeper.map, device, self._leaving)
        if not plan:
            told.check()
            await self._set_leaving(self._leaving | {device})
        return told.as_json()

    async def undrain(self, device: int) -> dict[str, object]:
        """Let a device take shards again; what has moved stays where it is. NotFound."""
        find_device(self._keeper.map, device)
        await self._set_leaving(self._leaving - {device})
        return {"device": device}

    async def _set_leaving(self, leaving: frozenset[int]) -> None:
        async def carry_out() -> None:
            await self._transactor.run(lambda writer: write_leaving(writer, leaving), urgent=True)
            self._leaving = leaving
            self._settled = None

        await carried_on(carry_out(), self._under_way)

    def status(self) -> dict[str, object]:
        """How safe the data is, and how the work goes; sizes in bytes, times in seconds."""
        map_ = self._keeper.map
        with self._engine.read() as reader:
            found = lacks.lacks(reader)
            waiting = mending.marks(reader)
            survives = _survives(reader, map_, found, waiting)
        left = sum(lack.bytes for lack in found)
        risky = [lack for lack in found if lack.masks.missing | lack.masks.gone]
        rate = self._progress.rate(self._clock.monotonic())
        return {
            "extents": sum(lack.extents for lack in found),
            "shards": sum(lack.extents * lack.masks.work.bit_count() for lack in found),
            "bytes_left": left,
            "bytes_done": self._progress.done_bytes,
            "extents_done": self._progress.done_extents,
            "rate": round(rate),
            "seconds_left": round(left / rate, 1) if rate and left else (0.0 if not left else None),
            "survives": survives,
            "at_risk_s": round(self._age_s(risky), 1),
            "noting_pgs": len(waiting),
            "stuck_positions": self._stuck,
            "moving_positions": sum(1 for _ in _moves(map_)),
            "tasks": self._board.open,
            "leaving": sorted(self._leaving),
            "floor": self._rates.floor,
            "ceiling": self._rates.ceiling,
            "devices": _by_device(map_, found),
            "pgs": _by_pg(found),
        }

    def _age_s(self, risky: Sequence[lacks.Lack]) -> float:
        if not risky:
            return 0.0
        return max(0.0, (self._needs.leases.id_time_ms() - min(lack.since_ms for lack in risky)) / 1000)


def _moves(map_: ClusterMap) -> Iterable[tuple[int, int]]:
    """The positions that have a source: (PG, position)."""
    for pg in map_.pgs.values():
        for position, place in enumerate(pg.positions):
            if place.source:
                yield pg.id, position


def _survives(
    reader: Reader, map_: ClusterMap, found: Iterable[lacks.Lack], waiting: Mapping[int, object]
) -> dict[str, int]:
    """By profile, how many more devices may be lost whatever they are; below 0 where bytes cannot be had now.

    Never too high: an extent without a shard at a position that is away may survive one more.
    """
    up = {number for number, device in map_.devices.items() if device.state == "up"}
    held: dict[int, list[lacks.Masks]] = {}
    for lack in found:
        held.setdefault(lack.pg, []).append(lack.masks)
    least: dict[str, int] = {}
    for pg in map_.pgs.values():
        away = sources_away = unsure = 0
        for position, place in enumerate(pg.positions):
            away |= (place.device not in up) << position
            if place.source and place.source not in up:
                sources_away |= 1 << position
                unsure |= (pg.id in waiting) << position
        name = Profile(pg.k, pg.m).name
        kinds = [*held.get(pg.id, ()), lacks.Masks()]
        if len(kinds) == 1 and pg.m - (away | unsure).bit_count() >= least.get(name, pg.m):
            continue  # nothing that the scan of an index could make worse
        if len(kinds) == 1 and next(lacks.extents_of(reader, pg.id), None) is None:
            continue
        for masks in kinds:
            at_source = masks.gone | masks.moving
            lost = masks.missing | (at_source & sources_away) | (away & ~at_source) | unsure
            least[name] = min(least.get(name, pg.m), pg.m - lost.bit_count())
    for pg in map_.pgs.values():
        least.setdefault(Profile(pg.k, pg.m).name, pg.m)
    return dict(sorted(least.items()))


def _by_device(map_: ClusterMap, found: Iterable[lacks.Lack]) -> dict[str, dict[str, int]]:
    """What devices are still to get: shards, and about how many bytes."""
    by: dict[int, list[int]] = {}
    for lack in found:
        pg = map_.pgs.get(lack.pg)
        work = lack.masks.work
        for position in range(work.bit_length()) if pg is not None else ():
            if work >> position & 1:
                row = by.setdefault(pg.positions[position].device, [0, 0])  # type: ignore[union-attr]
                row[0] += lack.extents
                row[1] += lack.bytes // work.bit_count()
    return {str(number): {"shards": row[0], "bytes": row[1]} for number, row in sorted(by.items())}


def _by_pg(found: Iterable[lacks.Lack], most: int = 100) -> list[dict[str, int]]:
    """The PGs that lack the most bytes."""
    by: dict[int, list[int]] = {}
    for lack in found:
        row = by.setdefault(lack.pg, [0, 0])
        row[0] += lack.extents
        row[1] += lack.bytes
    worst = sorted(by.items(), key=lambda item: -item[1][1])[:most]
    return [{"pg": pg, "extents": row[0], "bytes": row[1]} for pg, row in worst]
