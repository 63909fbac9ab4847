"""Shards that released sources still hold: they are ordered away, as positions go to others while a device stays.

Invariants:
- A row (released.py) is written with the change of the map that releases the source, and outlives every extent that was
  live or dropped then: a live one gives an order when the walk meets it, a dropped one with its others when its time is
  up (removals.py).
- An order names the generation of the release: if the device gets the position back, nothing that it is given then is
  touched. The row ends at once then, as it does when the device was cleaned or has left.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from reedbed.catalog import extents, lacks
from reedbed.catalog.engine import Engine, Writer
from reedbed.catalog.leases import Leases, Transactor
from reedbed.catalog.mapkeeper import MapKeeper
from reedbed.catalog.released import END, ROWS, Leftover, decode
from reedbed.catalog.removals import Order, Removals
from reedbed.common.ids import Id

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
        """Takes the next row one step further; whether there is more to do at once."""
        with self._engine.read() as reader:
            found = next(iter(reader.scan(self._after, END)), None)
            if found is None:
                self._after = ROWS
                return False
            row = decode(*found)
            oldest = extents.dropped(reader, row.walked_ms + 1, 1) if row.walked_ms else []
        self._after = row.key + b"\x00"
        if (row.walked_ms and oldest) or self._removals.open_orders().get(row.device, 0) > ORDERS_MAX:
            return True  # this one waits, the next may not

        def write(writer: Writer) -> tuple[list[Order], bool]:
            return self._advance(writer, row)

        orders, more = await self._transactor.run(write, urgent=True)
        self._removals.written(orders)
        if more:
            self._after = row.key
        return True

    def _advance(self, writer: Writer, row: Leftover) -> tuple[list[Order], bool]:
        """Orders for some extents; and whether the walk goes on."""
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
            return [], False
        orders = []
        last: Id | None = None
        for count, extent_id in enumerate(lacks.extents_of(writer, row.pg, row.after)):
            if count == EXTENTS_PER_STEP:
                writer.put(row.key, replace(row, after=last or b"").encode())
                return orders, True
            last = extent_id
            extent = extents.get(writer, extent_id)
            assert extent is not None, extent_id.hex()
            if lacks.required(extent.lengths, extent.m) >> row.position & 1:
                order = self._removals.add(writer, row.device, extent_id, row.position, row.pg, row.generation)
                orders.append(order)
        writer.put(row.key, replace(row, walked_ms=self._leases.id_time_ms(), after=b"").encode())
        return orders, False
