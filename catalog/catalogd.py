"""A catalog put together over any engine: the transport's Service, and the loops that run beside it.

Order matters at both ends: the term is durable before anything is served, and the committer ends before the engine.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from random import Random
from typing import Final

from reedbed.catalog import keeping, rewriting, sweep
from reedbed.catalog.cluster import Cluster
from reedbed.catalog.committer import Committer
from reedbed.catalog.compare_calls import CompareCalls
from reedbed.catalog.comparing import Comparing
from reedbed.catalog.config import CatalogdSettings
from reedbed.catalog.edit import editing
from reedbed.catalog.engine import Engine, Writer
from reedbed.catalog.judge import AckJudge, ProfileJudge
from reedbed.catalog.keeping import Keeping
from reedbed.catalog.leases import Leases
from reedbed.catalog.leftovers import Leftovers
from reedbed.catalog.mapkeeper import MapKeeper, found
from reedbed.catalog.needs import Needs
from reedbed.catalog.objects import ObjectService
from reedbed.catalog.probe import listens
from reedbed.catalog.removals import Removals
from reedbed.catalog.rewriting import Rewriting
from reedbed.catalog.service import ClusterCalls
from reedbed.catalog.survival import Survival
from reedbed.common import logs
from reedbed.common.clock import Clock
from reedbed.common.errors import ReedbedError
from reedbed.common.ids import Id, format_id
from reedbed.common.limits import CALLS_MAX, PAYLOAD_MAX, PROTOCOL_VERSION, WINDOW
from reedbed.common.runner import Runner
from reedbed.ec.profiles import Profile
from reedbed.transport.greeting import SOFTWARE
from reedbed.transport.lane import Connector, Hello, Request, Response
from reedbed.transport.service import Router

SWEEP_S: Final = 5.0
REMOVAL_S: Final = 2.0
LEFTOVERS_S: Final = 2.0
_RETRY_MAX_S: Final = 60.0

_log = logs.get("catalog")


@dataclass(frozen=True, slots=True)
class Loop:
    """Background work: `step` does a bounded part and returns whether to go on at once, else after `pause_s`."""

    name: str
    step: Callable[[], Awaitable[bool]]
    pause_s: float


class Catalog:
    """See the module's text. Made within the event loop that it serves."""

    def __init__(
        self,
        engine: Engine,
        cluster: Id,
        settings: CatalogdSettings,
        clock: Clock,
        leases: Leases,
        pool: Executor | None = None,
        runner: Runner | None = None,
        listens: Callable[[str], Awaitable[bool]] = listens,
        connector: Connector | None = None,
        rng: Random | None = None,
    ) -> None:
        """`leases` have taken their term on this engine; `pool` runs long reads, `runner` the committer; `listens`
        tells whether anybody does at an address, `connector` leads to the devices. Errors as of `mapkeeper.found`."""
        found(engine, cluster, settings.level, settings.default_profile)
        self._engine = engine
        self._settings = settings
        self._leases = leases
        self._committer = Committer(engine, runner=runner)
        self._keeper = MapKeeper(engine, self._committer)
        deciding = self._keeper.deciding
        self._needs = Needs(leases, AckJudge(deciding), ProfileJudge(deciding), clock)
        self.survival = Survival(engine, self._committer, leases, self._keeper, settings, clock, connector, rng)
        self._removals = Removals(
            engine,
            self._committer,
            leases,
            self._keeper,
            self._needs,
            settings.delete_grace_s,
            self.survival.hold,
            self.survival.copied,
        )
        self.cluster = Cluster(
            self._keeper,
            leases,
            self._committer,
            self._removals,
            clock,
            settings.times(),
            listens,
            lambda: self.keeping.leaving,
        )
        self.survival.complete(self._needs, self._removals, self.cluster.ensure_profile)
        warden, notes = self.survival.warden, self.survival.notes
        self.objects = ObjectService(engine, self._committer, self._needs, pool, notes.committing)
        self.keeping = Keeping(engine, self._committer, self._keeper, self._needs, clock, pool, self.survival.held_on)
        self.rewriting = Rewriting(
            engine,
            self._committer,
            self._keeper,
            self._needs,
            clock,
            self.cluster.lease,
            self.cluster.ensure_profile,
            settings.compact_below,
        )
        self._leftovers = Leftovers(engine, self._committer, leases, self._keeper, self._removals)
        comparing = Comparing(
            engine,
            self._committer,
            leases,
            self._keeper,
            self._needs,
            self._removals,
            self.survival.hold,
            warden,
        )
        comparisons = CompareCalls(self.cluster, comparing, warden)
        calls = ClusterCalls(self.cluster, self.keeping, self.rewriting, comparisons, self.status, warden, notes)
        self._router = Router({**self.objects.handlers, **calls.handlers(), **self.survival.handlers()})
        self._uploads_after: Id | None = None

    def hello(self) -> Hello:
        epoch, term = self.position()
        return Hello(
            cluster=self.cluster.map.cluster,
            epoch=epoch,
            term=term,
            role="catalogd",
            software=SOFTWARE,
            protocol=PROTOCOL_VERSION,
            window=WINDOW,
            max_calls=CALLS_MAX,
            max_payload=PAYLOAD_MAX,
        )

    def position(self) -> tuple[int, int]:
        return self.cluster.position()

    async def handle(self, request: Request) -> Response:
        if self.survival.unsure():
            await self.survival.confirm()
        return await self._router.handle(request)

    async def run(self) -> None:
        """The background work, until cancelled, or until we must not go on: raises the warden's error then."""
        tasks = [asyncio.ensure_future(_repeat(loop)) for loop in self.loops()]
        ended = asyncio.ensure_future(self.survival.warden.ended.wait())
        try:
            done, _ = await asyncio.wait({*tasks, ended}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a bug
            self.survival.warden.check()
        finally:
            for task in (*tasks, ended):
                task.cancel()
            await asyncio.gather(*tasks, ended, return_exceptions=True)

    def loops(self) -> list[Loop]:
        """All background work."""
        return [
            Loop("liveness", self._tick, self._settings.times().tick_s()),
            Loop("leases", self._keep, self._leases.seconds_to_keep()),
            Loop("sweep", self._sweep, SWEEP_S),
            Loop("removals", self._remove, min(REMOVAL_S, max(0.1, self._settings.delete_grace_s))),
            Loop("keeping", self.keeping.step, keeping.STEP_S),
            Loop("rewriting", self.rewriting.step, rewriting.STEP_S),
            Loop("leftovers", self._leftovers.step, LEFTOVERS_S),
            *(Loop(*step) for step in self.survival.steps()),
        ]

    async def _tick(self) -> bool:
        await self.cluster.tick()
        return False

    async def _keep(self) -> bool:
        await self._leases.keep(self._committer)
        return False

    async def _sweep(self) -> bool:
        retention = sweep.Retention(self._settings.log_keep, self._settings.log_keep_s)
        after = self._uploads_after

        def apply(writer: Writer) -> sweep.Swept:
            with editing(writer, self._needs) as edit:
                return sweep.step(edit, retention, after)

        swept = await self._committer.run(apply, urgent=True)
        self._uploads_after = swept.uploads_after
        return swept.busy

    async def _remove(self) -> bool:
        return await self._removals.step() > 0

    async def close(self) -> None:
        """Finish what was accepted; the engine stays open."""
        await self._committer.close()
        await self.survival.close()

    def status(self) -> dict[str, object]:
        """What `catalog.status` tells; sizes in bytes, ids and cluster in hexadecimal."""
        map_ = self.cluster.map
        epoch, term = self.position()
        counts = self.objects.status()
        groups = Counter(Profile(pg.k, pg.m).name for pg in map_.pgs.values())
        return {
            "cluster": map_.cluster.hex(),
            "term": term,
            "epoch": epoch,
            "level": map_.level,
            "default_profile": map_.default_profile,
            "horizon": format_id(self._leases.horizon()),
            "id_time_ms": self._leases.id_time_ms(),
            "log": {"term": counts["log_term"], "seq": counts["log_seq"], "floor": counts["log_floor_seq"]},
            "counts": {name: count for name, count in counts.items() if not name.startswith("log_")},
            "devices": self._device_status(),
            "pgs": dict(sorted(groups.items())),
            "keeping": self.keeping.status(),
            "rewriting": self.rewriting.status(),
            "held": sorted(self.cluster.liveness.held),
            "queues": {
                "removals": sum(self._removals.open_orders().values()),
                "degraded": counts["degraded_extents"],
                "dropped": counts["dropped_extents"],
            },
            **self.survival.status(),
        }

    def _device_status(self) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        orders = self._removals.open_orders()
        for device in sorted(self.cluster.map.devices.values(), key=lambda device: device.number):
            report = self.cluster.reports.get(device.number)
            rows.append(
                {
                    "id": device.number,
                    "uuid": device.uuid.hex(),
                    "address": device.address,
                    "state": device.state,
                    "host": device.labels.host,
                    "rack": device.labels.rack,
                    "zone": device.labels.zone,
                    "incarnation": device.incarnation,
                    "capacity": report.capacity if report else device.capacity,
                    "used": report.used if report else device.used,
                    "shards": report.shards if report else 0,
                    "damaged": report.damaged if report else 0,
                    "removals": orders.get(device.number, 0),
                    "scrub": dict(report.scrub) if report else {},
                }
            )
        return rows


async def _repeat(loop: Loop) -> None:
    """Steps for ever. A step that fails is logged and tried again, less and less often while it goes on failing."""
    failures = 0
    while True:
        try:
            again = await loop.step()
            failures = 0
        except ReedbedError as error:
            again = False
            failures += 1
            _log.warning("background work %s failed: %s", loop.name, error)
        pause = loop.pause_s if not failures else min(_RETRY_MAX_S, max(1.0, loop.pause_s) * 2 ** min(failures - 1, 6))
        await asyncio.sleep(0 if again else pause)
