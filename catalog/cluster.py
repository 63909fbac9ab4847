"""The cluster's side of a catalog: registration, heartbeats, the map, PGs, id blocks, and its background steps.

Invariants:
- What a heartbeat says is kept in memory only, except what makes the map another: states, and how full a device is when
  that moved by more than USE_STEP of its size.
- A heartbeat is accepted whole or refused whole; a refused one renews no write lease.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from reedbed.catalog.leases import Lease, Leases, Transactor
from reedbed.catalog.liveness import Liveness, Times
from reedbed.catalog.mapkeeper import Changed, MapKeeper
from reedbed.catalog.mapstate import Counters, Registration, check_profile, may_be_used, new_pgs, pgs_of, register
from reedbed.catalog.moves import named
from reedbed.catalog.probe import listens
from reedbed.catalog.removals import Order, Removals
from reedbed.catalog.removed import refusal
from reedbed.common import logs
from reedbed.common.clock import Clock
from reedbed.common.errors import AlreadyExists, InvalidArgument, NotFound, PreconditionFailed
from reedbed.common.ids import Id, format_id
from reedbed.ec.profiles import Profile
from reedbed.protos.types import ClusterMap, Device, MapChange

USE_STEP: Final = 1 / 32

_log = logs.get("catalog.cluster")


@dataclass(frozen=True, slots=True)
class Report:
    """What a heartbeat says of one device; sizes in bytes, `done` numbers of removal orders.

    lost: shards that it found damaged. scrub: how its scrubber does, for status reports.
    """

    number: int
    uuid: bytes
    incarnation: int
    capacity: int
    used: int
    shards: int = 0
    failed: bool = False
    damaged: int = 0
    done: tuple[int, ...] = ()
    lost: tuple[tuple[Id, int], ...] = ()
    scrub: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HeartbeatAnswer:
    """`map` brings the caller's map up to now, None if it already is."""

    epoch: int
    term: int
    map: MapChange | None
    interval_s: float
    write_lease_s: float
    orders: Sequence[Order]


def processes(map_: ClusterMap) -> int:
    """How many storaged processes there are: addresses of devices in service."""
    return len({device.address for device in map_.devices.values() if device.state in ("up", "down")})


def reported(device: Device, report: Report) -> Device:
    """The device as the map should have it after this report of it."""
    if report.failed or device.state == "failed":
        device = replace(device, state="failed")
    else:
        device = replace(device, state="up")
    step = USE_STEP * max(1, device.capacity)
    if abs(report.used - device.used) > step or abs(report.capacity - device.capacity) > step:
        device = replace(device, used=report.used, capacity=report.capacity)
    return device


def check_report(map_: ClusterMap, report: Report, address: str = "") -> None:
    """NotFound for a device that must register first, PreconditionFailed for one that is not as it was registered.

    AlreadyExists for a report from another address than the device is registered at: a copied folder may have
    registered before the first of the two was heard by a catalog that had just started. An empty address is not told.
    """
    device = map_.devices.get(report.number)
    if device is None:
        raise NotFound(f"device {report.number} is not in the cluster map", hint="Register it first")
    where = f"device {report.number}"
    if device.uuid != report.uuid:
        raise PreconditionFailed(
            f"the heartbeat is of device {format_id(report.uuid)}, number {report.number} is {format_id(device.uuid)}",
            where=where,
            hint="Register it again",
        )
    if device.incarnation != report.incarnation:
        raise PreconditionFailed(
            f"the heartbeat is of incarnation {report.incarnation}, the cluster knows {device.incarnation}",
            where=where,
            hint="Register it again; an older incarnation is an old copy of the folder",
        )
    if address and device.address != address:
        raise AlreadyExists(
            f"device {report.number} is registered twice: a heartbeat comes from {address}, "
            f"and it has registered at {device.address}",
            where=where,
            hint="Stop the one whose folder is a copy, then start the other one again",
            retryable=True,
        )


class Cluster:
    """See the module's text. Belongs to one event loop."""

    def __init__(
        self,
        keeper: MapKeeper,
        leases: Leases,
        transactor: Transactor,
        removals: Removals,
        clock: Clock,
        times: Times,
        listens: Callable[[str], Awaitable[bool]] = listens,
        leaving: Callable[[], Collection[int]] = tuple,
    ) -> None:
        """`listens` tells whether anybody does at an address, `leaving` which devices are to hold nothing."""
        self._listens = listens
        self._leaving = leaving
        self._keeper = keeper
        self._leases = leases
        self._transactor = transactor
        self._removals = removals
        self._clock = clock
        self._times = times
        self._liveness = Liveness(times, clock.monotonic(), processes(keeper.map))
        self._reports: dict[int, Report] = {}

    @property
    def map(self) -> ClusterMap:
        """The map as it is durable."""
        return self._keeper.map

    @property
    def liveness(self) -> Liveness:
        """What has been heard of whom; only to look at."""
        return self._liveness

    @property
    def reports(self) -> Mapping[int, Report]:
        """The newest report of each device since our start."""
        return self._reports

    def position(self) -> tuple[int, int]:
        """Epoch and term, for every answer."""
        return self._keeper.map.epoch, self._leases.term()

    def since(self, epoch: int) -> MapChange:
        """What brings a map of `epoch` (0: none) up to now."""
        return self._keeper.since(epoch)

    def check_profile(self, name: str) -> Profile:
        """The profile of that name; InvalidArgument if it is unknown, or needs more than the devices there are."""
        return check_profile(self._keeper.map, name)

    async def lease(self) -> Lease:
        """A fresh block of ids."""
        return await self._leases.lease(self._transactor)

    async def register(self, asked: Registration) -> Device:
        """Take a device in, or in again; the errors are those of `mapstate.register`, and DeviceRemoved."""
        if asked.uuid in self._keeper.removed:
            raise refusal(self._keeper.removed[asked.uuid], f"device {format_id(asked.uuid)} at {asked.address}")
        number = 0
        cleaned = False
        gone = await self._is_gone(asked)
        await self._forget_orders(asked)

        def decide(map_: ClusterMap, counters: Counters) -> Changed:
            nonlocal number, cleaned
            device = register(
                map_,
                counters,
                asked,
                lambda number: not gone and self._alive(number),
                held=self._removals.holds,
            )
            number = device.number
            known = map_.devices.get(number)
            cleaned = known is not None and known.incarnation < device.incarnation
            return [device], []

        map_ = await self._keeper.change(decide)
        self._liveness.heard(number, self._clock.monotonic())
        if cleaned:
            self._reports.pop(number, None)
            await self._removals.cleaned(number)
        _log.info("device %d registered at %s", number, asked.address)
        return map_.devices[number]

    async def _forget_orders(self, asked: Registration) -> None:
        """Orders that were given to a device before it was cleaned are moot; while it is out there are no others.

        Where extents are held no device is cleaned, and orders stay.
        """
        if self._removals.holds:
            return
        for device in self._keeper.map.devices.values():
            known = device.uuid == asked.uuid and device.incarnation == asked.incarnation
            if known and device.state == "out" and device.number not in named(self._keeper.map.pgs.values()):
                await self._removals.cleaned(device.number)

    async def _is_gone(self, asked: Registration) -> bool:
        """Whether the device was here a moment ago under another address where nobody listens by now."""
        for device in self._keeper.map.devices.values():
            if device.uuid == asked.uuid and device.address != asked.address and self._alive(device.number):
                return not await self._listens(device.address)
        return False

    def _alive(self, number: int) -> bool:
        return self._liveness.alive(number, self._clock.monotonic(), processes(self._keeper.map))

    async def heartbeat(self, epoch: int, reports: Sequence[Report], address: str = "") -> HeartbeatAnswer:
        """One heartbeat of one process. The errors are those of `check_report`, and InvalidArgument."""
        if len({report.number for report in reports}) != len(reports):
            raise InvalidArgument("a heartbeat reports a device twice")
        for report in reports:
            check_report(self._keeper.map, report, address)
        now = self._clock.monotonic()
        for report in reports:
            self._liveness.heard(report.number, now)
            self._reports[report.number] = report
        if any(device != self.map.devices[device.number] for device in _as_reported(self.map, reports)):
            await self._keeper.change(lambda map_, _: (_as_reported(map_, reports), []))
        done = {report.number: report.done for report in reports if report.done}
        if done:
            await self._removals.done(done)
        map_ = self._keeper.map
        count = processes(map_)
        return HeartbeatAnswer(
            epoch=map_.epoch,
            term=self._leases.term(),
            map=None if epoch == map_.epoch else self._keeper.since(epoch),
            interval_s=self._times.interval_s(count),
            write_lease_s=self._times.write_lease_s(count),
            orders=self._removals.orders(report.number for report in reports),
        )

    async def ensure_profile(self, name: str) -> MapChange:
        """PGs for the profile, made now if it has none; answers with the whole map. InvalidArgument as `check_profile`.

        Devices that come later get a share of a profile in use when an operator says so (balancing.py).
        """
        profile = self.check_profile(name)

        def decide(map_: ClusterMap, counters: Counters) -> Changed:
            if pgs_of(map_, profile):
                return [], []
            staying = [device for device in may_be_used(map_) if device.number not in self._leaving()]
            try:
                return [], new_pgs(map_, counters, profile, staying)
            except InvalidArgument:  # those that leave are needed; they go when others have come
                return [], new_pgs(map_, counters, profile)

        if not pgs_of(self._keeper.map, profile):
            await self._keeper.change(decide)
        return self._keeper.since(0)

    async def tick(self) -> None:
        """The step of a background loop, every `Times.tick_s`: calls devices down and out."""
        now = self._clock.monotonic()
        map_ = self._keeper.map
        changes = self._liveness.tick(now, map_.devices.values(), processes(map_))
        if not changes:
            return

        def decide(map_: ClusterMap, _: Counters) -> Changed:
            then = self._clock.monotonic()
            return [
                replace(device, state=state)
                for number, state in changes.items()
                if (device := map_.devices.get(number)) is not None
                and device.state in ("up", "down")
                # whoever was heard while we waited for our turn is not what it seemed
                and then - self._liveness.silent_s(number, then) < now
            ], []

        after = await self._keeper.change(decide)
        for number, state in changes.items():
            device = after.devices.get(number)
            if device is not None and device.state == state:
                _log.warning("device %d at %s is %s", number, device.address, state)


def _as_reported(map_: ClusterMap, reports: Iterable[Report]) -> list[Device]:
    return [
        reported(device, report)
        for report in reports
        if (device := map_.devices.get(report.number)) is not None and device.incarnation == report.incarnation
    ]
