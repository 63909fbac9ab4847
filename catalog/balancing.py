"""Giving devices their share: an operator's order, carried out some positions at a time until nothing is left to move.

Row `c/balance`: JSON {"targets": [device numbers], "all": bool}; there while an order is being carried out. With `all`
every member gets what it lacks, and bytes are evened out too; else only `targets` get something.

A device that registers takes part in no PG by itself, but for repairs that lack one: to move a share of all bytes onto
it costs disks and networks hours of work, and an operator who brings ten of them wants that once, not ten times.

Invariants:
- What is left to do follows from the row and the map alone: a catalogd that starts goes on where it was.
- At most IN_FLIGHT positions and IN_FLIGHT_BYTES bytes are on their way because of an order at a time; sources that
  only wait for the horizon do not count. Repairs and drains come first: PGs that need them are not touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import msgspec

from reedbed.catalog.balance import Move
from reedbed.catalog.engine import Engine, Reader, Writer
from reedbed.catalog.lacks import Lack
from reedbed.catalog.leases import Transactor
from reedbed.catalog.mapkeeper import Changed, MapKeeper
from reedbed.catalog.mapstate import Counters, find_device
from reedbed.catalog.moves import Shift, is_up, serves
from reedbed.catalog.shares import SharesPlan, grown, members, plan_shares
from reedbed.catalog.weighing import Sizes, weigh
from reedbed.common import logs
from reedbed.common.errors import Corrupt, InvalidArgument, PreconditionFailed
from reedbed.common.limits import GIB
from reedbed.protos.types import ClusterMap, Device, PlacementGroup

ROW: Final = b"c/balance"
IN_FLIGHT: Final = 256
IN_FLIGHT_BYTES: Final = 8 * GIB
_NOT_GIVEN: Final = 1 << 31  # numbers of PGs in a plan that is only told

_log = logs.get("catalog.balancing")


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    targets: tuple[int, ...] = ()
    all: bool = False


def _read(reader: Reader) -> _Row | None:
    data = reader.get(ROW)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=_Row)
    except msgspec.DecodeError:
        raise Corrupt("the stored order to balance does not parse", where=f"key {ROW.decode()}") from None


def forget_order(writer: Writer) -> bool:
    """Carry no order out any more; whether there was one. For a catalog that does not run."""
    found = writer.get(ROW) is not None
    writer.delete(ROW)
    return found


@dataclass(frozen=True, slots=True)
class _Basis:
    """What a plan rests on, beside what the plan itself changes."""

    members: tuple[tuple[int, int, str], ...]  # number, capacity, state
    pgs: int


class Balancing:
    """See the module's text. Belongs to one event loop."""

    def __init__(self, engine: Engine, transactor: Transactor, keeper: MapKeeper, pool: Executor | None = None) -> None:
        """`pool` makes plans, so that nobody else waits for them."""
        self._engine = engine
        self._pool = pool
        self._transactor = transactor
        self._keeper = keeper
        with engine.read() as reader:
            self._order = _read(reader)
        self._plan: list[Move] = []
        self._basis: _Basis | None = None
        self._epoch = 0  # of the map that was planned for
        self._whole = False  # nothing waited for a repair or a drain in that map
        self._sizes: Sizes = {}

    @property
    def open(self) -> bool:
        """Whether there is an order to be carried out."""
        return self._order is not None

    async def add(self, numbers: Sequence[int], leaving: Collection[int], *, plan: bool) -> SharesPlan:
        """Let these devices take their share, or with `plan` only tell what that would be.

        NotFound; PreconditionFailed for a device that is not up, or that is to hold nothing.
        """
        if not numbers:
            raise InvalidArgument("no device is named")
        for number in numbers:
            device = find_device(self._keeper.map, number)
            if device.state != "up":
                raise PreconditionFailed(
                    f"device {number} is {device.state}", where=device.address, hint="Start its storaged first"
                )
            if number in leaving:
                raise PreconditionFailed(
                    f"device {number} is being drained", hint=f"Take that back first: reedbed device undrain {number}"
                )
        return await self._ordered(_Row(tuple(sorted(set(numbers)))), leaving, plan=plan)

    async def rebalance(self, leaving: Collection[int], *, plan: bool) -> SharesPlan:
        """Let every device have its share, in positions and in bytes, or with `plan` only tell what that would be."""
        return await self._ordered(_Row(all=True), leaving, plan=plan)

    async def stop(self) -> None:
        """Begin no further move; those under way end."""
        await self._store(None)

    async def _ordered(self, order: _Row, leaving: Collection[int], *, plan: bool) -> SharesPlan:
        if plan:
            pgs = grown(self._keeper.map, Counters(1, _NOT_GIVEN), members(self._keeper.map, order.targets, leaving))
            return await self._planned(order, pgs, leaving)
        made: list[PlacementGroup] = []

        def decide(map_: ClusterMap, counters: Counters) -> Changed:
            made[:] = grown(map_, counters, members(map_, order.targets, leaving))
            return [], made

        await self._keeper.change(decide)
        if self._order is not None:  # what was ordered before goes on
            order = _Row(tuple(sorted({*self._order.targets, *order.targets})), self._order.all or order.all)
        await self._store(order)
        found = await self._planned(order, (), leaving)
        if found.moves:
            _log.info("%d positions with %d bytes are to move", len(found.moves), found.size)
        return replace(found, pgs=tuple(made))

    async def _planned(self, order: _Row, pgs: Sequence[PlacementGroup], leaving: Collection[int]) -> SharesPlan:
        """What the order takes by the map of now, once `pgs` are made."""
        sizes, map_ = await weigh(self._engine), self._keeper.map
        devices = members(map_, order.targets, leaving)
        targets = [device.number for device in devices if order.all or device.number in order.targets]
        call = partial(plan_shares, map_, pgs, devices, targets, sizes, swaps=order.all)
        if self._pool is None:
            found = call()
        else:
            found = await asyncio.get_running_loop().run_in_executor(self._pool, call)
        if order is self._order:
            self._sizes, self._plan = sizes, list(found.moves)
            self._basis, self._epoch = _basis_of(map_, devices), map_.epoch
            self._whole = not found.waiting
        return found

    async def _store(self, order: _Row | None) -> None:
        def write(writer: Writer) -> None:
            if order is None:
                writer.delete(ROW)
            else:
                writer.put(ROW, msgspec.json.encode(order))

        await self._transactor.run(write, urgent=True)
        self._order, self._plan, self._basis, self._epoch = order, [], None, 0

    async def shifts(self, leaving: Collection[int], lacks: Iterable[Lack], marked: Collection[int]) -> list[Shift]:
        """The moves that may begin now, in their order; ends the order when nothing is left of it."""
        order = self._order
        if order is None:
            return []
        map_ = self._keeper.map
        if self._basis != _basis_of(map_, members(map_, order.targets, leaving)):
            await self._planned(order, (), leaving)
        self._plan = [move for move in self._plan if _is_ahead(map_, move)]
        if not self._plan and self._epoch != map_.epoch:
            await self._planned(order, (), leaving)
        if self._order is not order:
            return []  # it was changed meanwhile
        found, moving = self._some(self._keeper.map, lacks, marked)
        if not self._plan and self._whole and not moving:
            _log.info("every device has its share")
            await self._store(None)
        return found

    def began(self, moves: int, map_: ClusterMap) -> None:
        """So many moves of the last `shifts` have begun. Where none can, and nothing moves, the plan is too old."""
        if moves or not self._plan or self._epoch == map_.epoch:
            return
        if not any(place.source for pg in map_.pgs.values() for place in pg.positions):
            self._basis = None

    def _some(self, map_: ClusterMap, lacks: Iterable[Lack], marked: Collection[int]) -> tuple[list[Shift], int]:
        """As many of the plan's moves as may be on their way together with those that are; and how many are."""
        moving: dict[int, int] = {}
        for lack in lacks:
            moving[lack.pg] = moving.get(lack.pg, 0) | lack.masks.moving
        count = size = 0
        for pg in map_.pgs.values():
            for position, place in enumerate(pg.positions):
                if place.source and (pg.id in marked or moving.get(pg.id, 0) >> position & 1):
                    count += 1
                    size += self._size(pg.id, position)
        found, under_way = [], count
        for move in self._plan:
            if count >= IN_FLIGHT or (size and size + move.size > IN_FLIGHT_BYTES):
                break
            found.append(Shift(move.group, move.position, move.source, move.target))
            if is_up(map_, move.source) and is_up(map_, move.target):  # else it waits, and holds nobody up
                count += 1
                size += move.size
        return found, under_way

    def _size(self, pg: int, position: int) -> int:
        sizes = self._sizes.get(pg)
        return sizes[position] if sizes else 0

    def status(self) -> dict[str, object] | None:
        """What is being carried out; None if nothing is."""
        if self._order is None:
            return None
        left = [move for move in self._plan if _is_ahead(self._keeper.map, move)]
        return {
            "targets": list(self._order.targets),
            "all": self._order.all,
            "positions_left": len(left),
            "bytes_left": sum(move.size for move in left),
        }


def _basis_of(map_: ClusterMap, devices: Iterable[Device]) -> _Basis:
    return _Basis(tuple((one.number, one.capacity, one.state) for one in devices), len(map_.pgs))


def _is_ahead(map_: ClusterMap, move: Move) -> bool:
    """Whether the move is still to be made."""
    pg = map_.pgs.get(move.group)
    return pg is not None and pg.positions[move.position].device == move.source and serves(map_, move.source)
