"""How a storaged lives with its catalog: it registers its devices, sends heartbeats, and carries removal orders out.

Invariants: an answer of an older term than one seen is not followed, and renews nothing; orders are carried out under
the term that came with them, which each store remembers durably first; an order is reported done only after its
removal is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from reedbed.common import logs
from reedbed.common.clock import Deadline
from reedbed.common.errors import (
    AlreadyExists,
    DeviceFailed,
    DeviceRemoved,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
    ReedbedError,
    ResourceExhausted,
    StaleTerm,
    Unavailable,
)
from reedbed.common.ids import Id, check_id
from reedbed.common.limits import HEARTBEAT_S
from reedbed.protos import catalog_pb2, methods
from reedbed.protos.convert import change_from_message, note_from_message, note_to_message, parse
from reedbed.protos.types import CatalogNote, ClusterMap, MapChange
from reedbed.storaged.calls import Removal, RemoveOrder
from reedbed.storaged.comparer import Comparer
from reedbed.storaged.settings import StoragedSettings
from reedbed.storaged.state import CatalogState
from reedbed.storaged.store import ShardStore
from reedbed.storaged.telling import Telling, scrub_report
from reedbed.transport.lane import Reply

M = TypeVar("M", bound=Message)

ALONE = (DeviceFailed, ResourceExhausted)  # what concerns one device, and not the others of its process

log = logs.get("storaged")

CALL_S = 10.0
RETRY_MAX_S = 5.0
CLEAN_RETRY_S = 30.0  # between tries to clean or register a device that failed
TWICE_S = 15.0  # after a move to another address the catalog waits for the old one to fall silent

Renew = Callable[[int, ShardStore, int], Awaitable[ShardStore]]  # number (0: none yet), store, incarnation
Withdraw = Callable[[int], Awaitable[None]]
Renumbered = Callable[[int, int, ShardStore], Awaitable[None]]  # old number, new one, store


class CatalogCaller(Protocol):
    """Calls whichever catalogd of the cluster answers."""

    async def call(self, method: str, header: bytes, deadline: Deadline) -> Reply: ...


@dataclass
class Served:
    """One device of this process; `done` are orders that the catalog has not been told of yet.

    cleaning: it is to be cleaned and could not be yet. Its store is closed then, or about to be, and is left alone.
    `number` is 0 until it is registered; one that could not be is tried again.
    """

    store: ShardStore
    number: int = 0
    cleaning: bool = False
    done: list[int] = field(default_factory=list)
    telling: Telling = field(default_factory=Telling)


@contextlib.contextmanager
def _alone(device: Served, what: str) -> Iterator[None]:
    """A device that fails does not silence the others of its process."""
    try:
        yield
    except ALONE as error:
        log.warning("device %d: %s: %s", device.number, what, error)


class Agent:
    """The conversation with the catalog, for all devices of the process."""

    def __init__(
        self,
        settings: StoragedSettings,
        state: CatalogState,
        caller: CatalogCaller,
        stores: Sequence[ShardStore],
        renew: Renew | None = None,
        withdraw: Withdraw | None = None,
        renumbered: Renumbered | None = None,
    ) -> None:
        """`renew` cleans a device that the catalog wants cleaned; `withdraw` stops serving one that was removed.
        `renumbered` is told of the number that one gets, and the one that it had: a catalog that was restored may
        give another."""
        self._renew = renew
        self._withdraw = withdraw
        self._renumbered = renumbered
        self._map: ClusterMap | None = None
        self.work = asyncio.Event()  # set while the catalog has tasks for this process
        self._settings = settings
        self._state = state
        self._caller = caller
        self._devices = [Served(store) for store in stores]
        self.comparer = Comparer(self._served, self._ask)
        self._again = float("-inf")  # when devices that failed are tried again
        self._interval = HEARTBEAT_S
        self._address = ""
        # what the devices remember outlives a restart: a catalog that was replaced before it is not followed either
        state.saw(0, max((state.term, *(store.term for store in stores))))

    @property
    def map(self) -> ClusterMap | None:
        """The newest cluster map that was heard of; None before the first."""
        return self._map

    @property
    def numbers(self) -> list[int]:
        """Numbers of the devices that serve, in the cluster map."""
        return [device.number for device in self._served()]

    @property
    def stores(self) -> list[ShardStore]:
        """What is open now, one for each number, in the order of the folders."""
        return [device.store for device in self._served()]

    async def exchange(self, request: catalog_pb2.TasksRequest) -> catalog_pb2.TasksReply:
        """Tells the catalog of tasks that have ended, and takes others."""
        return await self._ask(methods.TASKS, request, catalog_pb2.TasksReply)

    async def lease_ids(self) -> catalog_pb2.LeaseReply:
        """A block of ids for extents that the worker writes."""
        return await self._ask(methods.LEASE_IDS, catalog_pb2.LeaseRequest(), catalog_pb2.LeaseReply)

    async def fetch_map(self) -> None:
        """Asks the catalog for its present map."""
        epoch = self._map.epoch if self._map else 0
        reply = await self._ask(methods.GET_MAP, catalog_pb2.MapRequest(epoch=epoch), catalog_pb2.MapDelta)
        await self._learn(change_from_message(reply))

    async def _ask(self, method: str, message: Message, answer: type[M]) -> M:
        reply = await self._caller.call(method, message.SerializeToString(), Deadline(CALL_S, self._state.clock))
        return parse(answer, reply.header)

    async def register(self, address: str) -> list[int]:
        """Registers all devices under the address that clients shall use; returns the numbers of those that may serve.

        One that fails is left alone, and tried again later; its error if none is left. DeviceRemoved if none may.
        """
        self._address = address
        failed = await self._register_all()
        if failed is not None and not self.numbers:
            raise failed
        await self.beat()
        return self.numbers

    def _open(self) -> list[Served]:
        return [device for device in self._devices if not device.cleaning]

    def _served(self) -> list[Served]:
        return [device for device in self._open() if device.number]

    async def _register_all(self) -> ReedbedError | None:
        """The error of the last one that failed."""
        failed: ReedbedError | None = None
        for device in list(self._devices):
            try:
                await self._register_anew(device)
            except ALONE as error:
                failed = error
                self._again = self._state.clock.monotonic() + CLEAN_RETRY_S
                log.warning("%s: it is left alone for now: %s", device.store.folder, error)
        return failed

    async def _register_anew(self, device: Served) -> None:
        try:
            if await self._register(device):
                await self._register(device)
        except DeviceRemoved as error:
            if len(self._devices) == 1:
                raise
            # the others of its process go on
            log.error("%s: %s", device.store.folder, error)
            self._devices.remove(device)
            if self._withdraw is not None:
                await self._withdraw(device.number or device.store.memory.number)

    async def _register(self, device: Served) -> bool:
        """Whether the device was cleaned, and has to be registered as what it is now."""
        status = await asyncio.to_thread(device.store.status)
        reply = await self._ask(
            methods.REGISTER_DEVICE,
            catalog_pb2.RegisterDeviceRequest(
                uuid=bytes.fromhex(status.device),
                cluster=self._state.cluster,
                incarnation=status.incarnation,
                address=self._address,
                labels=catalog_pb2.Labels(host=self._settings.node, rack=self._settings.rack, zone=self._settings.zone),
                capacity=status.capacity,
            ),
            catalog_pb2.RegisterDeviceReply,
        )
        await self._follow(0, reply.term)  # nothing that follows is done on the word of a catalog that was replaced
        if reply.clean and reply.incarnation > status.incarnation and self._renew is not None:
            log.warning("%s: its positions were given to others: it is cleaned", device.store.folder)
            device.cleaning = True
            device.store = await self._renew(device.number, device.store, reply.incarnation)
            device.telling = Telling()
            device.cleaning = False
            return True
        if reply.incarnation != status.incarnation:
            raise InvalidArgument(
                f"the cluster knows this device in incarnation {reply.incarnation}, not {status.incarnation}",
                where=str(device.store.folder),
                hint="Clear the folder and add it as a new device",
            )
        old = device.number or device.store.memory.number
        if old != reply.number and old:
            log.warning("device %d is number %d from now on", old, reply.number)
        if device.number != reply.number and self._renumbered is not None:
            await self._renumbered(old, reply.number, device.store)
        device.number = reply.number
        return False

    async def _follow(self, epoch: int, term: int) -> None:
        """Takes a term over; StaleTerm for one of a catalog that has been replaced."""
        if not self._state.saw(epoch, term):
            raise StaleTerm(f"an answer of term {term}, but the catalog is in term {self._state.term}")
        for device in self._open():
            if device.store.term < term:
                with _alone(device, "the catalog's term is not remembered"):
                    await asyncio.to_thread(device.store.note_term, term)

    async def beat(self) -> None:
        """One heartbeat, with what its answer asks for."""
        told = [(device, list(device.done)) for device in self._served()]
        reports = [await self._report(device, done) for device, done in told]
        sent_at = self._state.clock.monotonic()
        epoch = self._map.epoch if self._map else 0
        reply = await self._ask(
            methods.HEARTBEAT,
            catalog_pb2.HeartbeatRequest(epoch=epoch, devices=reports, address=self._address, term=self._state.term),
            catalog_pb2.HeartbeatReply,
        )
        await self._follow(0, reply.term)
        self._state.granted(sent_at, reply.write_lease_ms / 1000)
        self._interval = max(0.01, reply.interval_ms / 1000)
        for device, done in told:
            heard = set(done)
            device.done = [number for number in device.done if number not in heard]
        for device in self._served():
            for noted in reply.noted:
                if noted.device == device.number:
                    device.telling.noted((Id(shard.extent), shard.index) for shard in noted.shards)
        if reply.HasField("map"):
            await self._learn(change_from_message(reply.map))
        note = note_from_message(reply.note)
        if note is not None:
            await self._remember(note)
        self.comparer.restored(reply.restored)
        await self._carry_out(list(reply.orders), reply.term)
        if reply.work:
            self.work.set()

    async def _remember_map(self, map_: ClusterMap | None) -> None:
        if map_ is None:
            return
        for device in self._served():
            with _alone(device, "the cluster map is not remembered"):
                await asyncio.to_thread(device.store.remember_map, self._state.term, map_)

    async def _remember(self, note: CatalogNote) -> None:
        for device in self._served():
            known = device.store.memory
            if known.note is None or note.age > known.note.age or known.number != device.number:
                with _alone(device, "what the catalog says of itself is not remembered"):
                    await asyncio.to_thread(device.store.remember, device.number, note)

    async def _report(self, device: Served, done: list[int]) -> catalog_pb2.DeviceReport:
        status = await asyncio.to_thread(device.store.status)  # it asks the file system for its free room
        note = device.store.memory.note
        scrub = device.store.scrubber().status()
        lost: list[tuple[Id, int]] = []
        with _alone(device, "its damage is not told"):
            # durable first: what is repaired is put again, and must be known to be bad then, also after a kill
            await asyncio.to_thread(device.store.note_damage)
            lost = device.telling.next(device.store.damaged())
        return catalog_pb2.DeviceReport(
            number=device.number,
            uuid=bytes.fromhex(status.device),
            incarnation=status.incarnation,
            capacity=status.capacity,
            used=status.used,
            shards=status.shards,
            failed=bool(status.failed),
            damaged=status.damaged + status.bad_regions + scrub.index_bad,
            done=done,
            lost=[catalog_pb2.ShardRef(extent=extent, index=index) for extent, index in lost],
            scrub=scrub_report(scrub, self.comparer.status(device.number)),
            note=None if note is None else note_to_message(note),
        )

    async def _learn(self, change: MapChange) -> None:
        """New generations of PGs that have a device of ours; a store that has one already changes nothing."""
        for device in self._served():
            newer = {
                pg.id: pg.generation
                for pg in change.pgs
                # there is no older one than the first that could be refused
                if pg.generation > 1 and any(device.number in (place.device, place.source) for place in pg.positions)
            }
            if newer:
                with _alone(device, "new generations are not remembered"):
                    await asyncio.to_thread(device.store.note_generations, newer)
        if self._map is None or change.epoch > self._map.epoch:  # else it was overtaken by a newer answer
            # None where the change starts at another map than ours: then the next answer brings the whole one
            self._map = change.apply(self._map)
            await self._remember_map(self._map)
        self._state.saw(change.epoch, self._state.term)

    async def _carry_out(self, orders: Sequence[catalog_pb2.RemoveOrder], term: int) -> None:
        for device in self._served():
            mine = [order for order in orders if order.device == device.number]
            if not mine:
                continue
            try:
                removing = await asyncio.to_thread(
                    device.store.begin_remove,
                    [
                        RemoveOrder(check_id(order.extent, "extent id"), order.index, order.pg, order.generation)
                        for order in mine
                    ],
                    term,
                )
                outcomes = await asyncio.wrap_future(removing)
            except ReedbedError as error:
                # the catalog gives the orders again until they are reported done
                log.warning("device %d: removal of %d shards failed: %s", device.number, len(mine), error)
            else:
                device.done.extend(
                    order.number
                    for order, outcome in zip(mine, outcomes, strict=True)
                    if outcome is not Removal.UNREADABLE
                )

    async def _beat_or_register(self) -> None:
        try:
            await self.beat()
        except (PreconditionFailed, NotFound) as error:
            if isinstance(error, StaleTerm):
                raise
            log.warning("the catalog wants to be told anew who we are: %s", error)
            await self._register_all()
            await self.beat()
        now = self._state.clock.monotonic()
        if now >= self._again and len(self._served()) < len(self._devices):
            await self._register_all()

    async def run(self, stop: asyncio.Event) -> None:
        """Heartbeats until `stop`. A catalogd that cannot be reached is tried on.

        Raises AlreadyExists where a device is served elsewhere too, and has been for TWICE_S, and DeviceRemoved when
        its last device was removed from the cluster.
        """
        failures = 0
        twice: float | None = None  # since when
        while not stop.is_set():
            wait = self._interval if not failures else min(RETRY_MAX_S, self._interval * 2**failures)
            try:
                await asyncio.wait_for(stop.wait(), wait)
                return
            except TimeoutError:
                pass
            try:
                await self._beat_or_register()
                if failures:
                    log.info("catalogd answers again")
                failures = 0
                twice = None
            except DeviceRemoved:
                raise
            except ReedbedError as error:
                if not isinstance(error, AlreadyExists):
                    twice = None
                else:
                    now = self._state.clock.monotonic()
                    twice = now if twice is None else twice
                    if now - twice >= TWICE_S:
                        raise
                failures = min(failures + 1, 10)
                if failures == 1 or not isinstance(error, Unavailable):
                    log.warning("no heartbeat: %s", error)
