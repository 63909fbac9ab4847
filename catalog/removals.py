"""From dropped extents to removal orders, and from done orders to nothing: the collector.

Rows (numbers big-endian):

    c/n                                 u64: the next order's number
    c/o/<device u32><number u64>        an order: extent 16 bytes | index u16 | pg u32 | generation u64
    c/x/<extent 16 bytes>               u32: orders of the extent that are not done
    c/h                                 see hold.py

Invariants:
- Orders are written in the one transaction that sees the extent still dropped and forgets it everywhere else, and only
  for extents dropped longer ago than the grace and below the durable horizon, so that no commit may name them any more:
  no order names a live extent. Where space is short the grace is only that of the longest read.
- With a copy of the catalog on the cluster, none are written before the copy knows the extent as dropped: who rebuilds
  from it would count on the shards, and not know where what they held lies by now.
- A dropped extent whose id is held (hold.py) stays: what was lost may have named it again.
- An order goes out with every heartbeat of its device until that device reports it done, or was cleaned. How many are
  open, in memory, is as the rows say, also where whoever changed them has given up meanwhile.
- An order's generation is the PG's of that moment, so that every shard of the extent put so far falls under it.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from reedbed.catalog import extents
from reedbed.catalog.carry_on import carried_on
from reedbed.catalog.edit import Edit, editing
from reedbed.catalog.engine import Engine, Reader, Writer
from reedbed.catalog.extents import DroppedExtent
from reedbed.catalog.hold import NO_HOLD, Hold
from reedbed.catalog.leases import Leases, Transactor
from reedbed.catalog.mapkeeper import MapKeeper
from reedbed.catalog.needs import Needs
from reedbed.catalog.released import holders
from reedbed.catalog.room import is_short
from reedbed.common.errors import Corrupt
from reedbed.common.ids import ID_BYTES, Id
from reedbed.common.limits import READ_DEADLINE_MAX_S
from reedbed.protos.types import ClusterMap, Extent

NUMBER_ROW: Final = b"c/n"
ORDER_ROWS: Final = b"c/o/"
OPEN_ROWS: Final = b"c/x/"
ORDERS_PER_ANSWER: Final = 500  # for all devices of a process
EXTENTS_PER_STEP: Final = 200
MARKS_MAX: Final = 1000
_ORDER: Final = struct.Struct(">16sHIQ")
_AFTER: Final = b"\xff"


@dataclass(frozen=True, slots=True)
class Order:
    """Device `device` shall remove this shard, unless it was put under a later generation."""

    number: int
    device: int
    extent: Id
    index: int
    pg: int
    generation: int


def orders_for_extent(
    map_: ClusterMap, extent: Extent, first_number: int, before: Iterable[tuple[int, int]] = ()
) -> list[Order]:
    """One order for each device that may hold a shard, acknowledged or not: the answer may have been lost.

    `before`: (position, device) where the PG's shards lay before, and some may lie still.
    """
    pg = map_.pgs.get(extent.pg)
    if pg is None:
        return []
    places = {(index, number) for index, place in enumerate(pg.positions) for number in (place.device, place.source)}
    generation = max(pg.generation, extent.generation)
    return [
        Order(first_number + count, device, extent.id, index, pg.id, generation)
        for count, (index, device) in enumerate(
            (index, device)
            for index, device in sorted(places | set(before))
            if device in map_.devices and (index >= extent.k or extent.lengths[index])
        )
    ]


def _order_key(device: int, number: int) -> bytes:
    return ORDER_ROWS + device.to_bytes(4, "big") + number.to_bytes(8, "big")


def _read_orders(reader: Reader, device: int, limit: int) -> list[Order]:
    prefix = ORDER_ROWS + device.to_bytes(4, "big")
    found: list[Order] = []
    for key, value in reader.scan(prefix, prefix + _AFTER * 9):
        if len(found) >= limit:
            break
        if len(key) != len(prefix) + 8 or len(value) != _ORDER.size:
            raise Corrupt("a row of a removal order is cut short", where=f"device {device}")
        extent, index, pg, generation = _ORDER.unpack(value)
        found.append(Order(int.from_bytes(key[-8:], "big"), device, Id(extent), index, pg, generation))
    return found


def _close(writer: Writer, order: Order) -> None:
    """Delete the order, and the extent's row with its last one."""
    writer.delete(_order_key(order.device, order.number))
    key = OPEN_ROWS + order.extent
    left = int.from_bytes(writer.get(key) or b"", "big") - 1
    if left > 0:
        writer.put(key, left.to_bytes(4, "big"))
    else:
        writer.delete(key)


class Removals:
    """See the module's text. Belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        transactor: Transactor,
        leases: Leases,
        keeper: MapKeeper,
        needs: Needs,
        grace_s: float,
        hold: Hold = NO_HOLD,
        copied: Callable[[], int | None] = lambda: None,
    ) -> None:
        """copied: the redo record up to which the catalog's copy can bring back everything; None: it need not."""
        self._hold = hold
        self._copied = copied
        self._marks: deque[tuple[int, int]] = deque()  # what was dropped before is in the redo up to this record
        self._known_ms = 0  # what was dropped before is so in the copy
        self._after: tuple[int, Id] | None = None  # dropped extents up to there need no look
        self._engine = engine
        self._transactor = transactor
        self._leases = leases
        self._keeper = keeper
        self._needs = needs
        self._grace_s = grace_s
        self._open: dict[int, int] = {}  # orders that are not done, by device
        self._under_way: set[asyncio.Future[Any]] = set()
        with engine.read() as reader:
            for key, _ in reader.scan(ORDER_ROWS, ORDER_ROWS + _AFTER):
                device = int.from_bytes(key[len(ORDER_ROWS) : len(ORDER_ROWS) + 4], "big")
                self._open[device] = self._open.get(device, 0) + 1

    @property
    def holds(self) -> bool:
        """Whether extents are held: then no device is cleaned."""
        return bool(self._hold.ranges)

    async def step(self) -> int:
        """Turns some due extents into orders; returns how many it looked at. Call again at once while it is not 0.

        Orders of devices that have left are forgotten.
        """
        for device in [number for number in self.open_orders() if number not in self._keeper.map.devices]:
            await self.cleaned(device)
        grace = min(self._grace_s, READ_DEADLINE_MAX_S) if is_short(self._keeper.map) else self._grace_s
        before = self._known_before(self._leases.shown_before(grace))
        with self._engine.read() as reader:
            oldest = extents.dropped(reader, before, EXTENTS_PER_STEP, self._after)
        horizon = self._leases.horizon()
        due = [dropped.id for dropped in oldest if dropped.id < horizon and not self._hold.covers(dropped.id)]
        if not due:
            self._pass_over(oldest, horizon)
            return len(oldest) if self._hold.ranges and len(oldest) == EXTENTS_PER_STEP else 0

        def write(writer: Writer) -> list[Order]:
            with editing(writer, self._needs) as edit:
                return self._write_orders(edit, due)

        self.written(await self._transactor.run(write, urgent=True))
        self._pass_over(oldest, horizon)
        return len(due)

    def _known_before(self, before_ms: int) -> int:
        """Of what was dropped before that time, how much the copy knows as dropped: up to which time."""
        copied = self._copied()
        if copied is None:
            return before_ms
        if len(self._marks) < MARKS_MAX and before_ms > (self._marks[-1][0] if self._marks else self._known_ms):
            self._marks.append((before_ms, self._engine.redo_position()))
        while self._marks and self._marks[0][1] <= copied:
            self._known_ms = self._marks.popleft()[0]
        return min(before_ms, self._known_ms)

    def oldest_ms(self, reader: Reader, before_ms: int) -> int | None:
        """When the first of the extents was dropped that were before, and are not held; None if there is none."""
        for dropped_ms, extent in extents.dropped_ids(reader, before_ms, self._after):
            if not self._hold.covers(extent):
                return dropped_ms
        return None

    def _pass_over(self, oldest: Sequence[DroppedExtent], horizon: Id) -> None:
        """Do not look again at what is held, nor at what has been ordered away: up to the first that still waits."""
        for dropped in oldest if self._hold.ranges else ():
            if dropped.id >= horizon and not self._hold.covers(dropped.id):
                return
            self._after = dropped.dropped_ms, dropped.id

    def _write_orders(self, edit: Edit, due: Iterable[Id]) -> list[Order]:
        writer = edit.writer
        written: list[Order] = []
        number = int.from_bytes(writer.get(NUMBER_ROW) or b"\x01", "big")
        for extent_id in due:
            row = extents.get(writer, extent_id)
            if row is None or row.dropped_ms is None or not extents.forget_dropped(edit, extent_id):
                continue
            before = holders(writer, row.pg)
            orders = orders_for_extent(self._keeper.deciding(), extents.to_type(extent_id, row), number, before)
            for order in orders:
                value = _ORDER.pack(order.extent, order.index, order.pg, order.generation)
                writer.put(_order_key(order.device, order.number), value)
            if orders:
                writer.put(OPEN_ROWS + extent_id, len(orders).to_bytes(4, "big"))
            number += len(orders)
            written += orders
        if written:
            writer.put(NUMBER_ROW, number.to_bytes(8, "big"))
        return written

    def add(self, writer: Writer, device: int, extent: Id, index: int, pg: int, generation: int) -> Order:
        """Write an order for a shard that no dropped extent stands for. Call `written` once it is durable."""
        number = int.from_bytes(writer.get(NUMBER_ROW) or b"\x01", "big")
        order = Order(number, device, extent, index, pg, generation)
        writer.put(_order_key(device, number), _ORDER.pack(extent, index, pg, generation))
        open_ = int.from_bytes(writer.get(OPEN_ROWS + extent) or b"", "big")
        writer.put(OPEN_ROWS + extent, (open_ + 1).to_bytes(4, "big"))
        writer.put(NUMBER_ROW, (number + 1).to_bytes(8, "big"))
        return order

    def written(self, orders: Iterable[Order]) -> None:
        """These orders are durable."""
        for order in orders:
            self._open[order.device] = self._open.get(order.device, 0) + 1

    def orders(self, devices: Iterable[int]) -> list[Order]:
        """Orders for the next answer to a process with these devices, the oldest of each first; bounded."""
        waiting = [device for device in devices if self._open.get(device)]
        if not waiting:
            return []
        found: list[Order] = []
        with self._engine.read() as reader:
            for index, device in enumerate(waiting):
                share = max(1, (ORDERS_PER_ANSWER - len(found)) // (len(waiting) - index))
                found += _read_orders(reader, device, share)
        return found[:ORDERS_PER_ANSWER]

    async def done(self, reports: Mapping[int, Sequence[int]]) -> None:
        """Devices report the numbers of orders that they carried out; numbers that are not theirs change nothing."""
        await self._close_all(
            lambda writer: [
                Order(number, device, Id(value[:ID_BYTES]), 0, 0, 0)
                for device, numbers in reports.items()
                for number in set(numbers)
                if (value := writer.get(_order_key(device, number))) is not None
            ]
        )

    async def cleaned(self, device: int) -> None:
        """A device came with a new incarnation: what was ordered before is gone with its shards."""
        while self._open.get(device):
            before = self._open[device]
            await self._close_all(lambda writer: _read_orders(writer, device, 10 * ORDERS_PER_ANSWER))
            if self._open.get(device, 0) >= before:
                return

    async def _close_all(self, find: _Find) -> None:
        def write(writer: Writer) -> list[Order]:
            orders = find(writer)
            for order in orders:
                _close(writer, order)
            return orders

        await carried_on(self._closed(write), self._under_way)

    async def _closed(self, write: Callable[[Writer], list[Order]]) -> None:
        for order in await self._transactor.run(write, urgent=True):
            self._open[order.device] = max(0, self._open.get(order.device, 0) - 1)

    def open_orders(self) -> dict[int, int]:
        """Orders that are not done, by device."""
        return {device: count for device, count in sorted(self._open.items()) if count}


class _Find(Protocol):
    def __call__(self, writer: Writer, /) -> list[Order]: ...
