"""Extents that a catalog begun anew must not judge (hold.py): listed from what devices hold, removed by order only.

Nothing of this is stored: a page of the list is what devices have in the held ranges, less what the catalog knows as
live. An extent that it knows as dropped is listed too, for it stays as well; so is what was the lost catalog's copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from reedbed.catalog import extents, mending
from reedbed.catalog.asking import Asking, ShardPlace
from reedbed.catalog.carry_on import carried_on
from reedbed.catalog.edit import counters, editing
from reedbed.catalog.engine import Engine, Reader, Writer
from reedbed.catalog.hold import Hold, release
from reedbed.catalog.leases import Transactor
from reedbed.catalog.needs import Needs
from reedbed.catalog.removals import Order, Removals
from reedbed.common.errors import InvalidArgument, PreconditionFailed, ReedbedError, Unavailable
from reedbed.common.ids import ID_BYTES, Id, format_id, id_time_ms, is_system
from reedbed.common.limits import PAGE_MAX, POSITIONS_MAX
from reedbed.protos.types import ClusterMap

DELETE_MAX: Final = 1000  # extents of one order
_HIGHEST_INDEX: Final = POSITIONS_MAX - 1


@dataclass(slots=True)
class HeldExtent:
    """One of them, with its shards as devices have them."""

    extent: Id
    dropped: bool
    places: list[ShardPlace] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        return {
            "extent": format_id(self.extent),
            "why": "copy" if is_system(self.extent) else "dropped" if self.dropped else "unknown",
            "bytes": sum(place.length for place in self.places),
            "shards": len(self.places),
            "devices": sorted({place.device for place in self.places}),
            "time_ms": id_time_ms(self.extent),
        }


class HeldExtents:
    """See the module's text. Belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        transactor: Transactor,
        needs: Needs,
        removals: Removals,
        hold: Hold,
        map_: Callable[[], ClusterMap],
        asking: Asking | None,
    ) -> None:
        self._engine = engine
        self._transactor = transactor
        self._needs = needs
        self._removals = removals
        self._hold = hold
        self._map = map_
        self._asking = asking
        self._under_way: set[asyncio.Future[Any]] = set()

    async def page(self, after: Id | None, limit: int) -> tuple[list[HeldExtent], Id | None, list[int]]:
        """Up to about `limit` of them behind `after`, where to go on (None: this was all), and devices that are away.

        Unavailable for a catalogd without a way to its devices.
        """
        for begin, end in self._hold.ranges:
            start = _before(begin) if after is None or after < begin else after
            if start >= _before(end):
                continue
            found, upto, away = await self._between(start, end, limit)
            last = self._hold.ranges[-1][1] == end
            return found, upto if upto is not None else (None if last else _before(end)), away
        return [], None, []

    async def delete(self, wanted: Sequence[Id]) -> tuple[int, int, list[int]]:
        """Order all shards of these extents to be removed: extents, shards, and devices that are away.

        InvalidArgument for an extent that is not held, or is live; then nothing is ordered.
        """
        if len(wanted) > DELETE_MAX:
            raise InvalidArgument(f"{len(wanted)} extents in one order are more than {DELETE_MAX}")
        strange = [one for one in wanted if not self._hold.covers(one)]
        if strange:
            raise InvalidArgument(
                f"extent {format_id(strange[0])} is not held", hint="See `reedbed catalog held` for those that are"
            )
        found: dict[Id, list[ShardPlace]] = {}
        away: set[int] = set()
        for extent in wanted:
            places, missing = await self._list(_before(extent), POSITIONS_MAX)
            away.update(missing)
            found[extent] = [place for rows, _ in places for place in rows if place.extent == extent]
        pgs = self._map().pgs

        def write(writer: Writer) -> list[Order]:
            orders = []
            with editing(writer, self._needs) as edit:
                for extent, places in found.items():
                    row = extents.get(writer, extent)
                    if row is not None and row.dropped_ms is None:
                        raise InvalidArgument(f"extent {format_id(extent)} is live: objects are made of it")
                    if row is not None:
                        extents.forget_dropped(edit, extent)
                    for place in places:
                        pg = pgs.get(place.pg)
                        generation = max(place.generation, pg.generation if pg is not None else 0)
                        orders.append(
                            self._removals.add(writer, place.device, extent, place.index, place.pg, generation)
                        )
            return orders

        async def carry_out() -> int:
            orders = await self._transactor.run(write, urgent=True)
            self._removals.written(orders)
            return len(orders)

        return len(found), await carried_on(carry_out(), self._under_way), sorted(away)

    async def end(self) -> None:
        """Hold nothing any more: from now on devices that come back are cleaned, and misplaced shards go, as ever.

        InvalidArgument if nothing is held. PreconditionFailed while devices hold extents that nobody knows, or may, as
        they are away; and while extents are not whole, for what is misplaced may be needed then.
        """
        if not self._hold.ranges:
            raise InvalidArgument("nothing is held: the catalog was not begun anew, or this was done")
        after: Id | None = None
        while True:
            found, after, away = await self.page(after, PAGE_MAX)
            if away:
                raise PreconditionFailed(
                    f"devices {', '.join(map(str, away))} are away: what they hold is not known",
                    hint="Start them, or remove them: reedbed device remove",
                )
            if found:
                raise PreconditionFailed(
                    f"there are extents that nobody knows, such as {format_id(found[0].extent)}",
                    hint="See `reedbed catalog held`, and `held delete`",
                )
            if after is None:
                break

        def write(writer: Writer) -> None:
            counts = counters(writer)
            if counts.degraded_extents or counts.moving_extents or mending.marks(writer):
                raise PreconditionFailed(
                    "extents are not whole at their places yet", hint="Wait until `reedbed status` is healthy"
                )
            release(writer)

        async def carry_out() -> None:
            await self._transactor.run(write, urgent=True)
            self._hold.end()

        await carried_on(carry_out(), self._under_way)

    async def on(self, number: int) -> int | None:
        """How many of them a device has shards of; None where it does not answer."""
        device = self._map().devices.get(number)
        if not self._hold.ranges or device is None:
            return 0
        if self._asking is None:
            return None
        count = 0
        for begin, end in self._hold.ranges:
            after, more = (_before(begin), _HIGHEST_INDEX), True
            while more:
                try:
                    rows, more = await self._asking.shards(device.address, number, after, system=False, limit=PAGE_MAX)
                except ReedbedError:
                    return None
                new = {row.extent for row in rows if after[0] < row.extent < end}
                with self._engine.read() as reader:
                    count += sum(_held(reader, extent, ()) is not None for extent in new)
                after = (rows[-1].extent, rows[-1].index) if rows else (end, 0)
                more = more and after[0] < end
        return count

    async def _between(self, after: Id, end: Id, limit: int) -> tuple[list[HeldExtent], Id | None, list[int]]:
        listed, away = await self._list(after, min(max(limit, POSITIONS_MAX + 1), PAGE_MAX))
        # what a device lists behind its last extent is not known, and that one may not be complete
        upto = min((_before(rows[-1].extent) for rows, more in listed if more), default=None)
        if upto is not None and upto >= _before(end):
            upto = None
        places: dict[Id, list[ShardPlace]] = {}
        for rows, _ in listed:
            for place in rows:
                if place.extent < end and (upto is None or place.extent <= upto):
                    places.setdefault(place.extent, []).append(place)
        with self._engine.read() as reader:
            found = [one for extent in sorted(places) if (one := _held(reader, extent, places[extent])) is not None]
        return found, upto, away

    async def _list(self, after: Id, limit: int) -> tuple[list[tuple[list[ShardPlace], bool]], list[int]]:
        """What each device lists behind all shards of an extent, and whether there is more; and devices away."""
        if self._asking is None:
            raise Unavailable("this catalogd has no way to its devices", retryable=False)
        asking = self._asking
        devices = list(self._map().devices.values())

        async def one(address: str, number: int) -> tuple[list[ShardPlace], bool] | None:
            try:
                return await asking.shards(address, number, (after, _HIGHEST_INDEX), system=False, limit=limit)
            except ReedbedError:
                return None

        answers = await asyncio.gather(*(one(device.address, device.number) for device in devices))
        away = [device.number for device, answer in zip(devices, answers, strict=True) if answer is None]
        return [answer for answer in answers if answer is not None], away


def _held(reader: Reader, extent: Id, places: Iterable[ShardPlace]) -> HeldExtent | None:
    row = extents.get(reader, extent)
    if row is not None and row.dropped_ms is None:
        return None
    return HeldExtent(extent, row is not None, list(places))


def _before(id_: Id) -> Id:
    return Id((max(1, int.from_bytes(id_, "big")) - 1).to_bytes(ID_BYTES, "big"))
