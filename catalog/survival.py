"""All that lets the catalog survive its own loss, put together: who it is, what devices are told, the copy, backups.

Without a `connector` it has no way to its devices: then there is no copy, devices are told by heartbeats alone, and
redo records are kept as far as `redo_keep`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Final

import msgspec

from reedbed.catalog import copying, hold, shipping, snapshots
from reedbed.catalog import notes as noting
from reedbed.catalog.access import CatalogAccess
from reedbed.catalog.asking import Asking
from reedbed.catalog.backup_calls import BackupCalls
from reedbed.catalog.committer import Committer
from reedbed.catalog.config import CatalogdSettings
from reedbed.catalog.copywork import CopyWork, Place
from reedbed.catalog.edit import log_state
from reedbed.catalog.engine import Engine
from reedbed.catalog.held import HeldExtents
from reedbed.catalog.hold import Hold
from reedbed.catalog.leases import Leases
from reedbed.catalog.mapkeeper import MapKeeper
from reedbed.catalog.needs import Needs
from reedbed.catalog.notes import Notes
from reedbed.catalog.removals import Removals
from reedbed.catalog.shipping import Shipping
from reedbed.catalog.snapshots import Snapshots
from reedbed.catalog.warden import Warden
from reedbed.common import logs
from reedbed.common.clock import Clock
from reedbed.common.errors import InvalidArgument
from reedbed.common.ids import SNAPSHOT, STREAM, format_id, parse_id
from reedbed.common.limits import PAGE_MAX
from reedbed.ec.profiles import Profile, parse_profile
from reedbed.extents.latency import LatencyBook
from reedbed.protos import catalog_pb2, methods
from reedbed.protos.convert import parse
from reedbed.transport.lane import Connector, Request, Response
from reedbed.transport.pool import LanePool

WATCH_S: Final = 0.5
CHECK_S: Final = 5.0  # between two questions to devices whether they still follow us
CHECK_WAIT_S: Final = 1.0
QUIET_S: Final = 10.0  # without a new device, before placement groups are made for the copy alone
TRIM_S: Final = 2.0

_log = logs.get("catalog")

Step = tuple[str, Callable[[], Awaitable[bool]], float]  # name, step, pause in seconds
Handler = Callable[[Request], Awaitable[Response]]


class Survival:
    """See the module's text. Belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        committer: Committer,
        leases: Leases,
        keeper: MapKeeper,
        settings: CatalogdSettings,
        clock: Clock,
        connector: Connector | None,
        rng: Random | None = None,
    ) -> None:
        self._engine = engine
        self._committer = committer
        self._leases = leases
        self._keeper = keeper
        self._settings = settings
        self._clock = clock
        self._rng = rng or Random()
        cluster = keeper.map.cluster
        self._pool = LanePool(connector, cluster, clock=clock, rng=self._rng) if connector is not None else None
        asking = Asking(self._pool, clock) if self._pool is not None else None
        self._asking = asking
        with engine.read() as reader:
            self.hold: Hold = hold.read_hold(reader)
        self.warden = Warden(engine, leases, clock)
        self.notes = Notes(engine, leases, lambda: keeper.map, asking, self.warden, lambda: committer.pending)
        self._confirming = asyncio.Lock()
        self._asked_at = clock.monotonic()
        self._devices: tuple[int, float] = (0, clock.monotonic())  # how many there were, and since when

    def complete(self, needs: Needs, removals: Removals, ensure_profile: Callable[[str], Awaitable[object]]) -> None:
        """The second half, which needs what the first one is needed for."""
        self._ensure_profile = ensure_profile
        map_ = self._keeper.map
        latency, rng = LatencyBook(), self._rng
        self._place: Callable[[Profile], Place] | None = None
        if self._pool is not None:
            pool = self._pool

            def access(owner: int) -> CatalogAccess:
                return CatalogAccess(
                    pool,
                    lambda: self._keeper.map,
                    lambda: self._leases.lease(self._committer, owner),
                    self._log_position,
                    self._clock,
                    latency,
                    rng,
                )

            stream, pages = access(STREAM), access(SNAPSHOT)
            self._place = lambda profile: Place(stream, pages, profile)
        work = CopyWork(
            self._engine,
            self._committer,
            self._leases,
            needs,
            self.notes,
            map_.cluster,
            self._placing,
            self._clock,
        )
        self._work = work
        self._shipping = Shipping(work, self._settings.copy_every_s, self._rng)
        self._snapshots = Snapshots(work, self._shipping)
        self._backups = BackupCalls(
            self._engine,
            map_.cluster,
            self._leases.term,
            self._clock,
            self._snapshots.want,
            self._settings.delete_grace_s,
        )
        self._held = HeldExtents(
            self._engine, self._committer, needs, removals, self.hold, lambda: self._keeper.map, self._asking
        )

    def _log_position(self) -> tuple[int, int]:
        with self._engine.read() as reader:
            state = log_state(reader)
        return state.term, state.seq

    async def _placing(self) -> Place | str:
        """Where pieces of the copy go now, or why there is no place for them yet."""
        if self._place is None:
            return "this catalogd has no way to its devices"
        map_ = self._keeper.map
        profile = parse_profile(map_.default_profile)
        in_use = {Profile(pg.k, pg.m) for pg in map_.pgs.values()}
        if in_use and profile not in in_use:
            # the default may need more devices than there are; better another that is in use than no copy at all
            profile = min(in_use, key=lambda one: (-one.m, one.n))
        if not in_use:
            now = self._clock.monotonic()
            if len(map_.devices) != self._devices[0]:
                self._devices = len(map_.devices), now
            if not self._log_position()[1]:
                return "nothing is stored yet"
            up = sum(1 for device in map_.devices.values() if device.state == "up")
            if up < profile.n:
                return f"{profile.name} needs {profile.n} devices, {up} are up"
            if now - self._devices[1] < QUIET_S:
                return "devices are still coming"
            await self._ensure_profile(profile.name)
        return self._place(profile)

    # Who we are

    def unsure(self) -> bool:
        """Whether `confirm` has something to say before anything is answered."""
        return self.warden.error is not None or self.warden.stalled()

    async def confirm(self) -> None:
        """That we have not been replaced while we stood still. StaleTerm, and Unavailable while we begin anew."""
        self.warden.check()
        async with self._confirming:
            if self.warden.stalled():
                _log.warning("this catalogd stood still: it asks devices whether they still follow it")
                await self._ask()
        self.warden.check()

    async def _ask(self) -> None:
        await self.notes.check(CHECK_WAIT_S)
        self._asked_at = self._clock.monotonic()
        self.warden.seen()

    async def _watch(self) -> bool:
        if self.warden.stalled() or self._clock.monotonic() - self._asked_at >= CHECK_S:
            async with self._confirming:
                await self._ask()
        self.warden.seen()
        return False

    # Background work

    def steps(self) -> list[Step]:
        """All of it."""
        found: list[Step] = [
            ("watch", self._watch, WATCH_S),
            ("redo", self._trim, TRIM_S),
        ]
        if self._pool is not None:
            found += [
                ("notes", self.notes.step, noting.STEP_S),
                ("copy", self._shipping.step, shipping.STEP_S),
                ("snapshots", self._snapshots.step, snapshots.STEP_S),
            ]
        return found

    async def _trim(self) -> bool:
        """Forget redo records that are in the copy; beyond `redo_keep`, and on a full disk, whatever there is."""
        position = self._engine.redo_position()
        row = self._work.row if self._pool is not None else None
        upto = copying.keep_from(row, position, self._settings.redo_keep, self._backups.pinned())
        if self._shipping.problem and self._engine.usage().room < 0:
            _log.warning("the catalog's disk is full: redo records are forgotten before they are in the copy")
            upto = position
        if upto > 0:
            await asyncio.to_thread(self._engine.trim_redo, upto)
        return False

    async def held_on(self, device: int) -> int | None:
        """How many held extents a device has shards of; None where it does not answer."""
        return await self._held.on(device)

    def copied(self) -> int | None:
        """The redo record up to which the copy can bring everything back; None where nothing waits for it.

        That is without a way to devices, and where these have no room for it: only removals can make some then.
        """
        return None if self._pool is None or self._work.no_room else self._shipping.covered

    async def close(self) -> None:
        """End the way to the devices."""
        if self._pool is not None:
            await self._pool.close()

    # Calls

    def handlers(self) -> dict[str, Handler]:
        """By method name."""
        return {
            **self._backups.handlers(),
            methods.HELD: self._held_call,
            methods.ACKNOWLEDGE: self._acknowledge,
        }

    async def _held_call(self, request: Request) -> Response:
        order = _order(request, HeldList | HeldDelete | HeldEnd)
        if isinstance(order, HeldEnd):
            await self._held.end()
            return _answer({"ended": True})
        if isinstance(order, HeldDelete):
            done, shards, away = await self._held.delete([parse_id(text) for text in order.extents])
            return _answer({"extents": done, "shards": shards, "devices_away": away})
        assert isinstance(order, HeldList)
        after = parse_id(order.after) if order.after else None
        found, upto, away = await self._held.page(after, min(max(1, order.limit), PAGE_MAX))
        return _answer(
            {
                "extents": [one.as_json() for one in found],
                "after": format_id(upto) if upto is not None else None,
                "devices_away": away,
            }
        )

    async def _acknowledge(self, request: Request) -> Response:
        _order(request, Acknowledge)
        count = await self._committer.run(hold.acknowledge, urgent=True)
        return _answer({"acknowledged": count})

    def status(self) -> dict[str, object]:
        """What `catalog.status` tells of all this."""
        usage = self._engine.usage()
        with self._engine.read() as reader:
            begun = hold.describe(reader)
        return {
            "copy": {**self._shipping.status(), **self._snapshots.status()},
            "begun_anew": begun,
            "hold": [{"from": format_id(begin), "to": format_id(end)} for begin, end in self.hold.ranges],
            "disk": {"used": usage.used, "room": usage.room},
        }


class HeldList(msgspec.Struct, tag="list", tag_field="do", forbid_unknown_fields=True):
    """A page of the held extents behind `after`."""

    after: str = ""
    limit: int = PAGE_MAX


class HeldDelete(msgspec.Struct, tag="delete", tag_field="do", forbid_unknown_fields=True):
    """Remove these."""

    extents: list[str]


class HeldEnd(msgspec.Struct, tag="end", tag_field="do", forbid_unknown_fields=True):
    """Hold nothing any more."""


class Acknowledge(msgspec.Struct, tag="acknowledge", tag_field="do", forbid_unknown_fields=True):
    """The operator has read what is missing."""


def _order(request: Request, kind: Any) -> Any:
    message = parse(catalog_pb2.OperateRequest, request.header)
    try:
        return msgspec.json.decode(message.json, type=kind)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"not an order: {error}", hint="Check that both sides run the same Reedbed") from None


def _answer(told: dict[str, object]) -> Response:
    return Response(catalog_pb2.OperateReply(json=msgspec.json.encode(told)).SerializeToString())
