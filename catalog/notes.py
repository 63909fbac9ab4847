"""What devices are told of the catalog, for the day when it is lost; above all whether something may be lost with it.

Invariants
- Of two notes of one term, the one with the higher version was made later and says what was true then.
- While the newest note is `settled`, the copy on the cluster holds every acknowledged commit. Before a commit that
  changes the log is begun after that, a note that is not settled is durable on one device more than the default profile
  may lose, or as many as there are; only where so many do not answer in OPEN_S it goes on without, and says so.
- So who rebuilds finds out whether entries may be missing from any set of devices with which the bytes survive.

Notes also travel with the answers to heartbeats, so that devices which come later get the newest one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from reedbed.catalog.asking import Asking
from reedbed.catalog.edit import log_state
from reedbed.catalog.engine import Engine
from reedbed.catalog.leases import Leases
from reedbed.catalog.warden import Warden
from reedbed.common import logs
from reedbed.common.errors import ReedbedError, StaleTerm
from reedbed.common.ids import Id
from reedbed.ec.profiles import parse_profile
from reedbed.protos.types import CatalogNote, ClusterMap

STEP_S: Final = 0.25
OPEN_S: Final = 0.5  # that a commit waits for devices to remember that the copy may lack something
PUSH_S: Final = 2.0
BOUND_STEP_MS: Final = 10 * 60_000  # the bound of ids is worth a note of its own after that

_log = logs.get("catalog.notes")


class Notes:
    """See the module's text. Belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        leases: Leases,
        map_: Callable[[], ClusterMap],
        asking: Asking | None,
        warden: Warden,
        pending: Callable[[], int] = lambda: 0,
    ) -> None:
        """`warden` is told what devices knew before. Without `asking` nobody is told but by heartbeats.

        pending: transactions that may still come of what was accepted, whoever still waits for them.
        """
        self._pending = pending
        self._engine = engine
        self._leases = leases
        self._map = map_
        self._asking = asking
        self._warden = warden
        self.endpoint = ""
        self._begin: Id | None = None
        self._settled = False
        self._open = False  # devices know that commits are under way
        self._under_way = 0
        self._opening = asyncio.Lock()
        self._note = CatalogNote(leases.term())
        self._told_settled = False  # as far as devices know
        self.unconfirmed = False  # commits go on though too few devices know

    @property
    def settled(self) -> bool:
        """Whether the copy holds every acknowledged commit, and devices know: else a rebuild could not say so."""
        return self._settled and self._told_settled

    def current(self) -> CatalogNote:
        """The note as of now; a new version if it says something else than the last one."""
        with self._engine.read() as reader:
            state = log_state(reader)
        old, bound = self._note, self._leases.bound_ms()
        says = ((state.term, state.seq), self._settled, self._begin, self.endpoint)
        known = (old.log, old.settled, old.begin, old.endpoint)
        if old.version and says == known and bound - old.id_bound_ms < BOUND_STEP_MS:
            return old
        self._warden.version = old.version + 1
        self._note = CatalogNote(
            term=self._leases.term(),
            version=old.version + 1,
            endpoint=self.endpoint,
            log=says[0],
            redo=self._engine.redo_position(),
            settled=self._settled,
            begin=self._begin,
            id_bound_ms=bound,
        )
        return self._note

    def snapshot_from(self, begin: Id | None) -> None:
        """No extent of the copy with a lower id is needed any more."""
        self._begin = begin

    @asynccontextmanager
    async def committing(self) -> AsyncIterator[None]:
        """Around everything that changes the log: see the invariants. StaleTerm once devices follow another catalog."""
        self._under_way += 1
        try:
            if not self._open:
                await self._announce()
            yield
        finally:
            self._under_way -= 1

    async def _announce(self) -> None:
        async with self._opening:
            if self._open:
                return
            self._settled = self._told_settled = False
            needed = self._needed()
            confirmed = await self._push(self.current(), OPEN_S, needed)
            self.unconfirmed = confirmed < needed
            if self.unconfirmed:
                _log.warning("of %d devices that should know of commits under way, %d do", needed, confirmed)
            self._open = True

    def _needed(self) -> int:
        map_ = self._map()
        up = sum(1 for device in map_.devices.values() if device.state == "up")
        return min(up, parse_profile(map_.default_profile).m + 1) if self._asking is not None else 0

    def settle(self, looked_at: int) -> None:
        """The copy holds all that is worth it up to this redo record; that counts only if nothing came after it."""
        if self._settled or self._under_way or self._opening.locked() or self._pending():
            return
        if self._engine.redo_position() == looked_at:
            self._open = False
            self._settled = True

    async def step(self) -> bool:
        """The step of a background loop: tells what devices have not heard."""
        if self._asking is None:
            return False
        if self.unconfirmed or self._settled != self._told_settled:
            note = self.current()
            if await self._push(note, PUSH_S, None) >= self._needed():
                self.unconfirmed = False
                self._told_settled = note.settled
        return False

    async def check(self, seconds: float) -> None:
        """Ask devices whether they still follow us: StaleTerm if one does not. Who does not answer says nothing."""
        await self._push(self.current(), seconds, self._needed())

    async def _push(self, note: CatalogNote, seconds: float, enough: int | None) -> int:
        """Tell all processes that are up; devices that remember it now. Returns once it is `enough`, None: all."""
        if self._asking is None:
            return 0
        asking = self._asking

        async def tell(address: str) -> int:
            devices, before = await asking.remember(address, note, seconds)
            self._warden.judge(before)
            return len(devices)

        addresses = {device.address for device in self._map().devices.values() if device.state == "up"}
        tasks = {asyncio.ensure_future(tell(address)) for address in addresses}
        pending = set(tasks)
        confirmed = 0
        try:
            async with asyncio.timeout(seconds):
                while pending and (enough is None or confirmed < enough):
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        try:
                            confirmed += task.result()
                        except StaleTerm:
                            self._warden.replaced_by(0)
                        except ReedbedError:
                            pass  # it hears of it with its next heartbeat
        except TimeoutError:
            pass
        finally:
            for task in pending:
                task.cancel()
            if pending:
                await asyncio.gather(*pending, return_exceptions=True)
        self._warden.check()
        return confirmed
