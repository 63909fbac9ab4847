"""Shards on devices whose positions went to others: they are ordered away, as the devices stay.

Invariants:
- A row (released.py) is written with the change of the map that names the device no more, and outlives every extent
  that was live or dropped then: a live one gives an order when the walk meets it, a dropped one with its others when
  its time is up (removals.py). One that is held (hold.py) is not waited for: it may never go, and where its shards lie
  is asked of the devices.
- A shard is ordered away only where the one at the position's own device counts, and where no commit may name its
  extent any more: dropped meanwhile and named once more it would count, if the device had got the position back. Until
  then the walk waits. It ends with the extents whose ids were leased before the device had heard that it has left.
- An order names the generation of that change: if the device gets the position back, nothing that it is given then is
  touched. The row ends at once then, as it does when the device was cleaned or has left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import Final

from reedbed.catalog import extents, lacks, mending
from reedbed.catalog.engine import Engine, Writer
from reedbed.catalog.leases import Leases, Transactor
from reedbed.catalog.mapkeeper import MapKeeper
from reedbed.catalog.moves import HEARD_MS
from reedbed.catalog.released import END, ROWS, Leftover, decode
from reedbed.catalog.removals import Order, Removals
from reedbed.common.ids import id_time_ms

ROWS_PER_STEP: Final = 100
EXTENTS_PER_STEP: Final = 500
ORDERS_MAX: Final = 5000  # that may wait for a device before more are written


class Leftovers:
    """Walks through the rows. Belongs to one event loop."""

    def __init__(
        self, engine: Engine, transactor: Transactor, leases: Leases, keeper: MapKeeper, removals: Removals
    ) -> None:
        self._engine = engine
        self._transactor = transactor
        self._leases = leases
        self._keeper = keeper
        self._removals = removals
        self._after = ROWS

    async def step(self) -> bool:
        """Takes some rows one step further; whether there is more to do at once."""
        with self._engine.read() as reader:
            rows = [decode(*one) for one in islice(reader.scan(self._after, END), ROWS_PER_STEP)]
            walked_ms = max((row.walked_ms for row in rows), default=0)
            oldest_ms = self._removals.oldest_ms(reader, walked_ms + 1) if walked_ms else None
        self._after = rows[-1].key + b"\x00" if len(rows) == ROWS_PER_STEP else ROWS
        busy = {device for device, count in self._removals.open_orders().items() if count > ORDERS_MAX}
        # what was dropped before the walk ended is not ordered away yet
        dropped_ms = 1 << 62 if oldest_ms is None else oldest_ms
        due = [row for row in rows if row.device not in busy and not (row.walked_ms and dropped_ms <= row.walked_ms)]
        if due:
            self._removals.written(
                await self._transactor.run(lambda writer: self._advance_all(writer, due), urgent=True)
            )
        return self._after != ROWS

    def _advance_all(self, writer: Writer, due: Iterable[Leftover]) -> list[Order]:
        orders: list[Order] = []
        for row in due:
            if len(orders) < EXTENTS_PER_STEP:
                orders += self._advance(writer, row)
        return orders

    def _advance(self, writer: Writer, row: Leftover) -> list[Order]:
        """Orders for some extents."""
        map_ = self._keeper.deciding()
        device, pg = map_.devices.get(row.device), map_.pgs.get(row.pg)
        moot = (
            device is None
            or device.incarnation != row.incarnation
            or pg is None
            or row.device in (pg.positions[row.position].device, pg.positions[row.position].source)
        )
        if moot or row.walked_ms:
            writer.delete(row.key)
            return []
        orders: list[Order] = []
        after = row.after
        mark, horizon = mending.get_mark(writer, row.pg), self._leases.horizon()
        for count, extent_id in enumerate(lacks.extents_of(writer, row.pg, row.after)):
            extent = extents.get(writer, extent_id)
            assert extent is not None, extent_id.hex()
            if id_time_ms(extent_id) > row.released_ms + HEARD_MS:
                break
            waits = extent_id >= horizon or bool(lacks.masks(mending.as_of(extent, mark)).work >> row.position & 1)
            if waits or count == EXTENTS_PER_STEP:
                if after != row.after:
                    writer.put(row.key, replace(row, after=after).encode())
                return orders
            after = extent_id
            if lacks.required(extent.lengths, extent.m) >> row.position & 1:
                order = self._removals.add(writer, row.device, extent_id, row.position, row.pg, row.generation)
                orders.append(order)
        writer.put(row.key, replace(row, walked_ms=self._leases.id_time_ms(), after=b"").encode())
        return orders
