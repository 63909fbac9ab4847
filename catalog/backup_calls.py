"""Backups of a catalog that serves: whoever takes one asks for page after page, then for what changed meanwhile.

What makes the pages whole is the redo since before the first one, so the engine keeps it while somebody asks: a pin,
which goes when nobody has asked for PIN_S. Pages and runs longer than one answer are given in several; they are kept
with the pin until the next one is asked for, since the catalog goes on changing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from reedbed.catalog import copying, pieces
from reedbed.catalog.engine import Engine
from reedbed.catalog.pieces import Packed
from reedbed.catalog.snapshots import read_page
from reedbed.common.clock import Clock
from reedbed.common.errors import InvalidArgument, LogTrimmed, NotFound, ResourceExhausted
from reedbed.common.limits import MIB
from reedbed.protos import catalog_pb2, methods
from reedbed.protos.convert import parse
from reedbed.transport.lane import Request, Response

Handler = Callable[[Request], Awaitable[Response]]

PIN_S: Final = 120.0
PINS_MAX: Final = 4
ANSWER_BYTES: Final = 2 * MIB  # it has to fit a call's header


_NOTHING: Final = Packed(b"", 0)


@dataclass(slots=True)
class _Pin:
    redo: int
    asked_at: float
    item: tuple[str, bytes, int] = ("", b"", 0)  # what `packed` is: step, after, redo_after
    packed: Packed = _NOTHING
    last: bytes = b""
    upto: int = 0
    rows: int = 0


class BackupCalls:
    """Handlers of backups. Belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        cluster: bytes,
        term: Callable[[], int],
        clock: Clock,
        begun: Callable[[], Awaitable[None]],
        grace_s: float,
    ) -> None:
        """`begun` is waited for when a backup begins. grace_s: how long what is deleted stays on devices."""
        self._grace_s = grace_s
        self._engine = engine
        self._cluster = cluster
        self._term = term
        self._clock = clock
        self._begun = begun
        self._pins: dict[int, _Pin] = {}

    def handlers(self) -> dict[str, Handler]:
        """By method name."""
        return {methods.BACKUP: self._backup}

    def pinned(self) -> list[int]:
        """Records that those who take backups have, and need all that follow."""
        now = self._clock.monotonic()
        self._pins = {number: pin for number, pin in self._pins.items() if now - pin.asked_at < PIN_S}
        return [pin.redo for pin in self._pins.values()]

    async def _backup(self, request: Request) -> Response:
        asked = parse(catalog_pb2.BackupRequest, request.header)
        reply = catalog_pb2.BackupReply(cluster=self._cluster, term=self._term())
        if asked.step == "begin":
            if len(self.pinned()) >= PINS_MAX:
                raise ResourceExhausted(f"{PINS_MAX} backups are being taken already", hint="Try again later")
            await self._begun()
            reply.redo = self._engine.redo_position()
            reply.grace_ms = round(self._grace_s * 1000)
            reply.pin = secrets.randbits(63)
            self._pins[reply.pin] = _Pin(reply.redo, self._clock.monotonic())
            return Response(reply.SerializeToString())
        if asked.step == "end":
            self._pins.pop(asked.pin, None)
            return Response(reply.SerializeToString())
        pin = self._pins.get(asked.pin)
        if pin is None:
            raise NotFound("the backup was given up, since nobody had asked for it for long", hint="Begin it again")
        pin.asked_at = self._clock.monotonic()
        item = (asked.step, asked.after, asked.redo_after)
        if asked.offset == 0 or pin.item != item:
            await self._load(pin, asked)
            pin.item = item
        body = pin.packed.body[asked.offset : asked.offset + ANSWER_BYTES]
        reply.body, reply.raw = body, pin.packed.raw
        reply.more = asked.offset + len(body) < len(pin.packed.body)
        reply.last, reply.redo_upto, reply.rows = pin.last, pin.upto, pin.rows
        reply.redo = self._engine.redo_position()
        return Response(reply.SerializeToString())

    async def _load(self, pin: _Pin, asked: catalog_pb2.BackupRequest) -> None:
        if asked.offset:
            raise InvalidArgument("a backup goes on with a part that was not begun")
        if asked.step == "rows":
            page, pin.last = await asyncio.to_thread(read_page, self._engine, asked.after)
            pin.rows = len(page)
            pin.packed = await asyncio.to_thread(pieces.pack_rows, page)
        elif asked.step == "redo":
            try:
                found = await asyncio.to_thread(self._engine.read_redo, asked.redo_after, copying.RUN_RECORDS)
            except LogTrimmed as error:
                raise LogTrimmed(
                    "redo records that the backup needs are gone", hint="Begin it again, where there is more room"
                ) from error
            run = copying.run_of(found)
            pin.upto = run[-1].number if run else asked.redo_after
            pin.packed = await asyncio.to_thread(pieces.pack_run, run)
        else:
            raise InvalidArgument(f"a backup has no step {asked.step[:32]!r}")
