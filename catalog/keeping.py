"""The planner: compares what is with what should be, moves positions, and gives workers the tasks that follow.

Invariants:
- A change of PGs and the marks that tell what it means for their extents are one transaction.
- What is left to do is in the engine alone (queue, marks, the map's sources): a catalogd that starts goes on there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final

from reedbed.catalog import edit, lacks, margins, mending, released
from reedbed.catalog.balancing import Balancing
from reedbed.catalog.carry_on import carried_on
from reedbed.catalog.drains import plan_drain, read_leaving, write_leaving
from reedbed.catalog.edit import editing
from reedbed.catalog.engine import Engine, Writer
from reedbed.catalog.hold import read_hold
from reedbed.catalog.leases import Transactor
from reedbed.catalog.mapkeeper import Changed, MapKeeper
from reedbed.catalog.mapstate import Counters, find_device
from reedbed.catalog.mending import Counted, Mended
from reedbed.catalog.moves import HEARD_MS, Moves, begin, plan_moves
from reedbed.catalog.needs import Needs
from reedbed.catalog.rates import Progress, Rates, read_rates, write_rates
from reedbed.catalog.removing import HeldOn, RemovalPlan, nothing_held, plan_removal, remove
from reedbed.catalog.reporting import age_s, by_device, by_pg, idle, seconds
from reedbed.catalog.tasks import Task, TaskBoard
from reedbed.common import logs
from reedbed.common.clock import Clock
from reedbed.common.errors import InvalidArgument, NotFound, Unavailable
from reedbed.common.ids import Id
from reedbed.common.ids import id_time_ms as time_of
from reedbed.protos.types import ClusterMap

STEP_S: Final = 0.25
NOTES_PER_STEP: Final = 2000  # extents that one step notes their PG's change in
PGS_PER_STEP: Final = 20  # that share them
TASKS_PER_ANSWER: Final = 256
FULL_S: Final = 60.0  # until a device that refused a shard for want of room is tried again
LAST: Final = 1  # an extent that survives fewer losses than this is urgent

_log = logs.get("catalog.keeping")


@dataclass(frozen=True, slots=True)
class Result:
    """What a worker says of one task; an empty `error`: as planned. `full`: devices that had no room for a shard."""

    mended: Mended
    error: str
    full: tuple[int, ...] = ()


class Keeping:
    """See the module's text. Belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        transactor: Transactor,
        keeper: MapKeeper,
        needs: Needs,
        clock: Clock,
        pool: Executor | None = None,
        held_on: HeldOn = nothing_held,
    ) -> None:
        """`pool` makes long plans."""
        self._held_on = held_on
        self._engine = engine
        self._transactor = transactor
        self._keeper = keeper
        self._needs = needs
        self._clock = clock
        self._board = TaskBoard()
        self._progress = Progress()
        self._stuck = 0
        self.balancing = Balancing(engine, transactor, keeper, pool)
        self._under_way: set[asyncio.Future[Any]] = set()
        self._full: dict[int, float] = {}  # devices that refused a shard for want of room, and when they did last
        self._moved: dict[tuple[int, int, int], int] = {}  # PG, position, source; and the id clock when first seen so
        self._seen: ClusterMap | None = None
        self._settled: ClusterMap | None = None  # a map in which no position has to move
        with engine.read() as reader:
            self._rates = read_rates(reader)
            self._leaving = read_leaving(reader)
            self._holds = bool(read_hold(reader).ranges)

    @property
    def rates(self) -> Rates:
        return self._rates

    @property
    def repairing(self) -> bool:
        """Whether tasks wait for a process, or are with one, that may well succeed."""
        return self._board.hopeful

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
                if not busy:
                    self._progress.idle()
                return busy
            return self._board.fill(reader, self._keeper.map, self._clock.monotonic()) or busy

    async def _move(self) -> None:
        """Give positions to others, release sources."""
        self._forget_full()
        if self._settled is self._keeper.map and not self.balancing.open:
            return
        with self._engine.read() as reader:
            shifts = await self.balancing.shifts(self._leaving, lacks.lacks(reader), mending.marks(reader))
        planned, begun = Moves(), Moves()

        def decide(map_: ClusterMap, _: Counters) -> Changed:
            nonlocal planned, begun
            with self._engine.read() as reader:
                marked, found = mending.marks(reader), lacks.lacks(reader)
            unripe = self._unripe(map_)
            planned = plan_moves(map_, marked, found, self._leaving, unripe, self._full, held=self._holds)
            avoid = {*self._full, *(device.number for device in planned.devices)}
            begun = begin(map_, shifts, {*marked, *(pg.id for pg in planned.pgs)}, avoid)
            return planned.devices, [*planned.pgs, *begun.pgs]

        def also(writer: Writer) -> None:
            for pg, mark in (*planned.marks.items(), *begun.marks.items()):
                mending.put_mark(writer, pg, mark)
            released.note(writer, self._keeper.map, planned.released, self._needs.leases.id_time_ms())

        map_ = await self._keeper.change(decide, also)
        self.balancing.began(len(begun.pgs), map_)
        self._stuck = planned.stuck
        if planned.marks:
            _log.warning("%d placement groups have positions on other devices now", len(planned.marks))
        for device in planned.devices:
            _log.info("device %d holds nothing that counts any more", device.number)
        if not planned.pgs and not planned.stuck and not any(_moves(map_)):
            self._settled = map_

    def _forget_full(self) -> None:
        """Devices that have not refused anything for a while may be tried again."""
        now = self._clock.monotonic()
        for number in [number for number, when in self._full.items() if when + FULL_S < now]:
            del self._full[number]
            self._settled = None

    def _unripe(self, map_: ClusterMap) -> set[tuple[int, int]]:
        """Positions that moved so lately that a commit may bring what a source acknowledged under the old generation.

        Such extents have ids from before the sources heard of the move; below the horizon no commit names them.
        """
        now = self._needs.leases.id_time_ms()
        moving = {(pg, index, map_.pgs[pg].positions[index].source) for pg, index in _moves(map_)}
        self._moved = {one: self._moved.get(one, now) for one in moving}
        settled = time_of(self._needs.leases.horizon())
        return {(pg, index) for (pg, index, _), since in self._moved.items() if settled < since + HEARD_MS}

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

    @property
    def leaving(self) -> frozenset[int]:
        """The devices that are being drained, or stay so."""
        return self._leaving

    def process_of(self, devices: Sequence[int]) -> str:
        """The address of the process that serves these devices. NotFound for devices that are unknown."""
        map_ = self._keeper.map
        addresses = {map_.devices[number].address for number in devices if number in map_.devices}
        if len(addresses) != 1:
            raise NotFound(f"no process serves the devices {list(devices)}", hint="Register them first")
        return addresses.pop()

    async def exchange(
        self, address: str, boot: int, results: Sequence[Result], room: int, held: Collection[Id] | None = None
    ) -> list[Task]:
        """Takes a process's results, and gives it up to `room` further tasks; `held` as of `TaskBoard.take`."""
        if results:
            await self._record(address, results)
        with self._engine.read() as reader:
            now = self._clock.monotonic()
            most = min(room, TASKS_PER_ANSWER)
            return self._board.take(reader, self._keeper.map, address, boot, most, now, held)

    async def _record(self, address: str, results: Sequence[Result]) -> None:
        def apply(writer: Writer) -> list[Counted | None]:
            with editing(writer, self._needs) as now:
                return mending.record(now, self._keeper.deciding(), [result.mended for result in results])

        all_counted = await self._transactor.run(apply)
        now = self._clock.monotonic()
        good: dict[Id, bool] = {}
        for result, counted in zip(results, all_counted, strict=True):
            if counted is not None:
                self._progress.add(counted.pg, counted.by_device, now)
            for number in result.full:
                if number not in self._full:
                    _log.warning("device %d has no room for a shard", number)
                    self._settled = None
                self._full[number] = now
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

    async def drain(self, devices: Sequence[int], *, plan: bool) -> dict[str, object]:
        """Let devices give all their positions to others, or with `plan` only tell what that would be.

        NotFound; PreconditionFailed where the others have no place or no room for what they hold, with what is missing;
        Unavailable where others began to leave meanwhile.
        """
        planned = self._leaving
        told = plan_drain(self._keeper.map, devices, planned)
        if not plan:
            told.check()

            def also(leaving: frozenset[int]) -> frozenset[int]:
                if leaving - planned:
                    raise Unavailable("another device began to leave meanwhile", hint="Look again, and try again")
                return leaving.union(devices)

            await self._set_leaving(also)
        return told.as_json()

    async def undrain(self, devices: Sequence[int]) -> dict[str, object]:
        """Let devices take shards again; what has moved stays where it is. NotFound."""
        for device in devices:
            find_device(self._keeper.map, device)
        await self._set_leaving(lambda leaving: leaving.difference(devices))
        return {"devices": sorted(devices)}

    async def add(self, devices: Sequence[int], *, plan: bool) -> dict[str, object]:
        """Let devices take their share; errors as of `Balancing.add`."""
        return (await self.balancing.add(devices, self._leaving, plan=plan)).as_json()

    async def rebalance(self, *, plan: bool) -> dict[str, object]:
        """Let every device have its share."""
        return (await self.balancing.rebalance(self._leaving, plan=plan)).as_json()

    async def remove(self, device: int, *, plan: bool) -> dict[str, object]:
        """Take a device out for good; errors as of `removing.remove`."""
        if plan:
            told = await plan_removal(self._engine, self._keeper.map, device, self._leaving, self._held_on)
            return told.as_json()

        async def carry_out() -> RemovalPlan:
            told = await remove(self._engine, self._keeper, device, self._leaving, self._held_on)
            self._read_leaving()
            return told

        return (await carried_on(carry_out(), self._under_way)).as_json()

    async def _set_leaving(self, change: Callable[[frozenset[int]], frozenset[int]]) -> None:
        async def carry_out() -> None:
            await self._transactor.run(lambda writer: write_leaving(writer, change(read_leaving(writer))), urgent=True)
            self._read_leaving()

        await carried_on(carry_out(), self._under_way)

    def _read_leaving(self) -> None:
        """As the engine has it: of several changes the last one may be heard of first."""
        with self._engine.read() as reader:
            self._leaving = read_leaving(reader)
        self._settled = None

    def status(self) -> dict[str, object]:
        """How safe the data is, and how the work goes; sizes in bytes, times in seconds."""
        map_, progress, now = self._keeper.map, self._progress, self._clock.monotonic()
        with self._engine.read() as reader:
            found = lacks.lacks(reader)
            waiting = mending.marks(reader)
            least = margins.by_pg(reader, map_, found, waiting)
        left, count = sum(lack.bytes for lack in found), sum(lack.extents for lack in found)
        return {
            "extents": count,
            "shards": sum(lack.extents * lack.masks.work.bit_count() for lack in found),
            "bytes_left": left,
            "bytes_done": progress.bytes,
            "extents_done": progress.extents,
            "bytes_total": progress.total_bytes,
            "rate": round(progress.rate(now)),
            "seconds_left": seconds(progress.seconds_left(left, count, now)),
            "survives": margins.by_profile(map_, least),
            "at_risk_s": age_s(found, self._needs.leases.id_time_ms()),
            "noting_pgs": len(waiting),
            "stuck_positions": self._stuck,
            "moving_positions": sum(1 for _ in _moves(map_)),
            "tasks": self._board.open,
            "leaving": sorted(self._leaving),
            "idle": sorted(idle(map_, self._leaving)),
            "full": sorted(self._full),
            "balancing": self.balancing.status(),
            "floor": self._rates.floor,
            "ceiling": self._rates.ceiling,
            "devices": by_device(map_, found, progress, now),
            "pgs": by_pg(map_, found, least, progress, now, self._needs.leases.id_time_ms()),
        }


def _moves(map_: ClusterMap) -> Iterable[tuple[int, int]]:
    """The positions that have a source: (PG, position)."""
    for pg in map_.pgs.values():
        for position, place in enumerate(pg.positions):
            if place.source:
                yield pg.id, position
