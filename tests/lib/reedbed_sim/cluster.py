"""A whole cluster of the product's own classes in one loop: catalogd, storaged processes, clients, and their machines.

A machine outlives its processes: it keeps the disk. What supervises it (systemd, say) starts a process that ended by
itself again after a while.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from reedbed.catalog.catalogd import Catalog
from reedbed.catalog.config import CatalogdSettings
from reedbed.catalog.leases import Leases
from reedbed.catalog.memory import MemoryEngine
from reedbed.client.core import Core
from reedbed.client.options import Options
from reedbed.client.store import AsyncStore
from reedbed.common.errors import ReedbedError
from reedbed.common.ids import Id
from reedbed.common.limits import KIB, MIB
from reedbed.storaged.identity import LOCK, clean, load
from reedbed.storaged.options import StoreOptions
from reedbed.storaged.process import World, run_process
from reedbed.storaged.service import MEMORY
from reedbed.storaged.settings import StoragedSettings
from reedbed.storaged.store import ShardStore
from reedbed.transport.lane import Service
from reedbed_sim.disk import SimDisk
from reedbed_sim.loop import Gone, Process, SimExecutor, SimLoop, SimRunner
from reedbed_sim.network import SimConnector, SimNetwork, SimServer
from reedbed_sim.scale import LAG_S

CATALOG: Final = "catalog"
ENDPOINT: Final = "catalog:7300"
CLUSTER: Final = Id(bytes(range(16)))
RESTART_S: Final = 3.0  # until a process that ended by itself is started again
SEGMENT: Final = 384 * KIB


@dataclass
class Plan:
    """What kind of cluster a seed has."""

    profile: str = "rs-2-2"
    machines: int = 4
    devices: int = 6
    clients: int = 3
    capacity: int = 64 * MIB
    down_s: float = 4.0
    out_s: float = 9.0
    grace_s: float = 4.0
    scrub_s: float = 20.0


@dataclass
class Trace:
    """What happened, line by line, with the time."""

    loop: SimLoop
    lines: list[str] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        self.lines.append(f"{self.loop.time():10.4f} {line}")


class Machine:
    """Where one daemon runs. `process` is None while none does."""

    def __init__(self, cluster: SimCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.process: Process | None = None
        self.slow = 1.0
        self.starts = 0
        self._wanted = False
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and not self.process.dead

    def start(self) -> None:
        """Starts its daemon, if none runs."""
        self._wanted = True
        if self.running:
            return
        process = self.process = self.cluster.loop.process(self.name)
        process.delay = self.delay
        process.wall_ahead = self.cluster.wall_ahead.get(self.name, 0.0)
        self.starts += 1
        self._task = process.start(self.run(process), f"{self.name} {self.starts}")
        self._task.add_done_callback(lambda task: self._ended(process, task))
        self.cluster.trace(f"{self.name} starts")

    def slow_down(self, times: float) -> None:
        """Its disks are so many times slower than they are at their best."""
        self.slow = times

    def delay(self) -> float:
        """Of a piece of work on its disk."""
        rng = self.cluster.rng
        return rng.uniform(0.0001, 0.002) * self.slow * (20 if rng.random() < 0.01 else 1)

    def kill(self, *, cut: bool = False, why: str = "") -> None:
        """Its process ends at once, by kill -9 or by a power cut."""
        self._wanted = False
        process = self.process
        if process is None or process.dead:
            return
        self.cluster.trace(f"{self.name} {'loses power' if cut else 'is killed'}{why}")
        process.kill()
        process.kept.append(self._task)
        self.left(cut)
        self.cluster.network.died(process)
        self.cluster.loop.forget(process)
        self.cluster.buried.append(process)

    def pause(self) -> None:
        if self.process is not None and not self.process.dead:
            self.cluster.trace(f"{self.name} is paused")
            self.process.paused = True

    def resume(self) -> None:
        if self.process is not None and self.process.paused:
            self.cluster.trace(f"{self.name} is resumed")
            self.process.paused = False

    async def run(self, process: Process) -> None:
        raise NotImplementedError

    def left(self, cut: bool) -> None:
        """The process has gone: what its successor finds."""

    def _ended(self, process: Process, task: asyncio.Task[None]) -> None:
        if process.dead:
            return
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ReedbedError | Gone):
            told = "".join(traceback.format_exception(error)[-6:])
            self.cluster.loop.problems.append(f"{self.name} ended with {error!r}: {told}")
        self.cluster.trace(f"{self.name} ended: {type(error).__name__} {error}")
        wanted = self._wanted
        self.kill()
        if wanted:
            self._wanted = True
            root = self.cluster.loop.root.context
            self.cluster.loop.call_later(RESTART_S, self._again, context=root)

    def _again(self) -> None:
        if self._wanted and not self.running:
            self.start()


class CatalogMachine(Machine):
    """catalogd, with its engine. `doom`: transactions from now, and what then ends the process within one."""

    def __init__(self, cluster: SimCluster) -> None:
        super().__init__(cluster, CATALOG)
        self.engine = MemoryEngine()
        self.catalog: Catalog | None = None
        self.doom: int | None = None
        self.commits: list[Callable[[], None]] = []

    async def run(self, process: Process) -> None:
        cluster, plan = self.cluster, self.cluster.plan
        engine = self.engine
        engine.around = self._around
        settings = CatalogdSettings(
            dir=Path(CATALOG),
            default_profile=plan.profile,
            down_after_s=plan.down_s,
            out_after_s=plan.out_s,
            delete_grace_s=plan.grace_s,
            short_grace=True,
            horizon_lag_s=LAG_S,
        )
        leases = await asyncio.to_thread(lambda: Leases(engine, process, lag_s=LAG_S))
        self.catalog = catalog = Catalog(
            engine,
            CLUSTER,
            settings,
            process,
            leases,
            SimExecutor(cluster.loop),
            SimRunner(process),
            cluster.network.listens,
            SimConnector(cluster.network),
            Random(cluster.rng.getrandbits(64)),
        )
        cluster.network.serve(ENDPOINT, process, catalog)
        cluster.trace(f"catalog serves in term {leases.term()}")
        await catalog.run()

    def left(self, cut: bool) -> None:
        self.catalog = None
        self.doom = None
        full = self.engine.full
        self.engine = self.engine.crash(keep_failed=self.cluster.rng.random() < 0.5)
        self.engine.full = full

    def _around(self, moment: str) -> None:
        if self.doom is not None:
            self.doom -= 1
            if self.doom < 0:
                self.kill(cut=True, why=f" at the {moment} of a transaction")
                self.cluster.restart_later(self)
                raise Gone
        if moment == "end":
            for look in self.commits:
                look()


class StorageMachine(Machine):
    """A storaged with its disks."""

    def __init__(self, cluster: SimCluster, name: str, count: int) -> None:
        super().__init__(cluster, name)
        capacity = cluster.plan.capacity
        self.disks = {f"{name}/{at}": SimDisk(f"{name}/{at}", capacity, cluster.rng) for at in range(1, count + 1)}
        self.stores: dict[str, ShardStore] = {}
        self.numbers: dict[int, str] = {}

    def slow_down(self, times: float) -> None:
        super().slow_down(times)
        for disk in self.disks.values():
            disk.cached = times == 1.0  # else small reads would not notice

    async def run(self, process: Process) -> None:
        cluster = self.cluster
        self.slow_down(self.slow)
        settings = StoragedSettings(
            dir=tuple(self.disks),
            catalog=(ENDPOINT,),
            host=self.name,
            port=7400,
            scrub_period_s=cluster.plan.scrub_s,
            node=self.name,
        )

        def options() -> StoreOptions:
            return StoreOptions(
                capacity=cluster.plan.capacity,
                segment_bytes=SEGMENT,
                reserve_bytes=64 * KIB,
                checkpoint_seconds=1.5,
                clock=process,
                runner=SimRunner(process),
                index_home=lambda disk: self.disks[str(disk.root)].home,
                rng=cluster.rng,
            )

        def open_store(folder: str, cluster_id: bytes) -> ShardStore:
            store = ShardStore.open(self.disks[folder], cluster_id, options=options())  # type: ignore[arg-type]
            self.stores[folder] = store
            cluster.opened(self, folder, store)
            return store

        def clean_device(folder: str, incarnation: int) -> None:
            disk = self.disks[folder]
            unlock = disk.lock(LOCK)
            try:
                clean(disk, incarnation, disk.home, cluster.rng)
            finally:
                unlock()

        def server(service: Service) -> SimServer:
            return SimServer(cluster.network, process, f"{self.name}:7400", service, MEMORY)

        world = World(
            connector=SimConnector(cluster.network),
            server=server,
            open_store=open_store,
            clean=clean_device,
            readers=lambda _: SimExecutor(cluster.loop),
            clock=process,
            rng=Random(cluster.rng.getrandbits(64)),
            known=self._cluster_of,
        )

        def ready(address: str, devices: list[tuple[int, str]]) -> None:
            self.numbers = dict(devices)
            cluster.trace(f"{self.name} serves {[number for number, _ in devices]}")

        await run_process(settings, world, ready, asyncio.Event())

    def _cluster_of(self, folder: str) -> bytes:
        identity = load(self.disks[folder])
        return b"" if identity is None else bytes.fromhex(identity.cluster)

    def left(self, cut: bool) -> None:
        self.stores.clear()
        for name, disk in self.disks.items():
            self.disks[name] = disk.after_cut() if cut else disk.after_kill()

    def replace_disk(self, name: str) -> None:
        """A new, empty disk in the place of one; only while no process runs."""
        assert not self.running
        self.disks[name] = SimDisk(name, self.cluster.plan.capacity, self.cluster.rng)

    def doom(self, name: str, operations: int, *, cut: bool) -> None:
        """The process ends at one of the disk's next operations."""

        def end() -> None:
            self.kill(cut=cut, why=f" in the midst of an operation on {name}")
            self.cluster.restart_later(self)
            raise Gone

        self.disks[name].doom = (operations, end)


class SimCluster:
    """All machines. Only within the loop's root process."""

    def __init__(self, loop: SimLoop, rng: Random, plan: Plan) -> None:
        self.loop = loop
        self.rng = rng
        self.plan = plan
        self.trace = Trace(loop)
        self.network = SimNetwork(loop, rng)
        self.buried: list[Process] = []
        self.wall_ahead: dict[str, float] = {}
        self.catalog = CatalogMachine(self)
        counts = [plan.devices // plan.machines + (at < plan.devices % plan.machines) for at in range(plan.machines)]
        self.storage = [StorageMachine(self, f"s{at + 1}", count) for at, count in enumerate(counts)]
        self.restart_after = (0.5, 6.0)
        self.watch_store: Callable[[StorageMachine, str, ShardStore], None] = lambda machine, folder, store: None

    @property
    def machines(self) -> list[Machine]:
        return [self.catalog, *self.storage]

    def opened(self, machine: StorageMachine, folder: str, store: ShardStore) -> None:
        self.watch_store(machine, folder, store)

    def restart_later(self, machine: Machine, after: float | None = None) -> None:
        """Starts it again after a while."""
        pause = self.rng.uniform(*self.restart_after) if after is None else after
        self.loop.call_later(pause, machine.start, context=self.loop.root.context)

    def client(self, name: str, timeout: float = 12.0) -> tuple[Process, AsyncStore]:
        """A client in a process of its own."""
        process = self.loop.process(name)
        process.wall_ahead = self.rng.uniform(-5000, 5000)
        options = Options(ENDPOINT, timeout=timeout)
        core = Core(options, SimConnector(self.network), process, self.rng.getrandbits(32))
        return process, AsyncStore(core)

    async def start(self) -> None:
        """Everything runs; returns when all devices are registered."""
        for machine in self.machines:
            machine.start()
        for _ in range(600):
            if all(machine.numbers for machine in self.storage):
                return
            await asyncio.sleep(0.1)
        raise AssertionError("the cluster does not start")
