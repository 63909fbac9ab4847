"""What happens to a simulated cluster: faults, and what operators do. A table that others may add to.

An action is a coroutine function of the scene. It may leave something behind that it ends later by itself (`later`);
`Scene.heal` ends everything. What destroys bytes asks `may_harm` first, so that never more devices are harmed, or away,
than an extent's parity stands for.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from reedbed.catalog import mending
from reedbed.catalog.records import MarkRow
from reedbed.client.store import AsyncStore
from reedbed.common.errors import ReedbedError
from reedbed.ec.profiles import parse_profile
from reedbed.protos import methods
from reedbed.protos.types import ClusterMap, Device, PlacementGroup, Position
from reedbed.storaged.segments import FOLDER as SEGMENTS
from reedbed_sim.cluster import CATALOG, Machine, SimCluster, StorageMachine
from reedbed_sim.loop import Process
from reedbed_sim.network import Connection, Weather
from reedbed_sim.scale import LAG_S
from reedbed_sim.watch import Watch
from reedbed_sim.workload import KEPT, PLAIN

Act = Callable[["Scene"], Awaitable[None]]


class Scene:
    """The cluster as a scenario sees it."""

    def __init__(self, cluster: SimCluster, watch: Watch, rng: Random, operator: AsyncStore) -> None:
        self.cluster = cluster
        self.watch = watch
        self.rng = rng
        self.operator = operator
        self.clients: dict[str, Process] = {}
        self.new_client: Callable[[str], None] = lambda name: None
        self.read_everything: Callable[[], None] = lambda: None
        self.away: set[str] = set()  # folders of devices that were away, or harmed, since all was whole
        self.leaving: set[int] = set()
        self._running: list[asyncio.Task[None]] = []
        self.parity = int(cluster.plan.profile.rpartition("-")[2])

    def later(self, seconds: float, work: Callable[[], object]) -> None:
        """In the world's own time, not that of any process."""
        self.cluster.loop.call_later(seconds, work, context=self.cluster.loop.root.context)

    def trace(self, line: str) -> None:
        self.cluster.trace(line)

    def machine(self) -> StorageMachine:
        return self.rng.choice(self.cluster.storage)

    def was_away(self, machine: Machine) -> None:
        """Writes may have done without its devices."""
        if isinstance(machine, StorageMachine):
            self.away.update(machine.disks)

    def may_harm(self, folder: str) -> bool:
        """Whether the bytes of one more device may go; counts it."""
        if len(self.away | {folder}) > self.parity:
            return False
        self.away.add(folder)
        return True

    def harmed(self, machine: StorageMachine, folder: str) -> None:
        store = machine.stores.get(folder)
        if store is not None:
            self.watch.harmed.add(store.device)

    def clear(self) -> None:
        """Weather, partitions and pauses end; every process runs."""
        cluster = self.cluster
        cluster.network.weather = Weather()
        cluster.network.heal()
        cluster.catalog.engine.full = False
        if cluster.catalog.engine.fail_syncs:
            cluster.catalog.kill(cut=True)
        for machine in cluster.machines:
            machine.slow_down(1.0)
            machine.resume()
            if isinstance(machine, StorageMachine):
                for name, disk in machine.disks.items():
                    disk.capacity = cluster.plan.capacity
                    disk.doom = None
                    store = machine.stores.get(name)
                    if disk.fail_syncs or (store is not None and store.failed):
                        machine.kill()
                        machine.replace_disk(name)
                        self.trace(f"{name} gets a new disk")
            machine.start()
        for process in self.clients.values():
            process.paused = False

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that goes on beside the actions that follow."""
        self._running.append(asyncio.get_running_loop().create_task(work))

    async def finished(self) -> None:
        """What goes on in the background is at its end."""
        if self._running:
            await asyncio.wait(self._running, timeout=200.0)
        for task in self._running:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
            task.cancel()

    async def operate(self, order: dict[str, Any]) -> None:
        """An operator's order, which may be refused."""
        try:
            await self.operator.operate(order)
        except ReedbedError as error:
            self.trace(f"operator: {order} is refused: {type(error).__name__}")
        else:
            self.trace(f"operator: {order}")


@dataclass(frozen=True, slots=True)
class Action:
    """`harms`: it destroys bytes; then it is not done while processes and the network are in a storm."""

    name: str
    weight: int
    act: Act
    harms: bool = False


# Processes


async def kill_storage(scene: Scene) -> None:
    machine = scene.machine()
    if machine.running:
        scene.was_away(machine)
        machine.kill(cut=scene.rng.random() < 0.5)
        scene.cluster.restart_later(machine, scene.rng.choice((0.2, 2.0, 6.0, 20.0)))


async def doom_storage(scene: Scene) -> None:
    machine = scene.machine()
    if machine.running:
        scene.was_away(machine)
        name = scene.rng.choice(list(machine.disks))
        machine.doom(name, scene.rng.randrange(40), cut=scene.rng.random() < 0.7)


async def kill_catalog(scene: Scene) -> None:
    scene.cluster.catalog.kill(cut=True)
    scene.cluster.restart_later(scene.cluster.catalog, scene.rng.choice((0.1, 1.0, 5.0)))


async def doom_catalog(scene: Scene) -> None:
    scene.cluster.catalog.doom = scene.rng.randrange(10)


async def kill_everything(scene: Scene) -> None:
    for machine in scene.cluster.machines:
        scene.was_away(machine)
        machine.kill(cut=True)
        scene.cluster.restart_later(machine)


async def pause_storage(scene: Scene) -> None:
    machine = scene.machine()
    scene.was_away(machine)
    machine.pause()
    scene.later(scene.rng.choice((0.3, 1.5, 5.0, 11.0, 25.0)), machine.resume)


async def pause_catalog(scene: Scene) -> None:
    machine = scene.cluster.catalog
    machine.pause()
    scene.later(scene.rng.choice((0.3, 2.0, 8.0, 40.0)), machine.resume)


async def pause_client(scene: Scene) -> None:
    name = scene.rng.choice(sorted(scene.clients))
    process = scene.clients[name]
    scene.trace(f"{name} is paused")
    process.paused = True

    def resume() -> None:
        process.paused = False

    scene.later(scene.rng.choice((0.5, 3.0, 12.0, 45.0)), resume)


async def kill_client(scene: Scene) -> None:
    """What it had under way may have been done or not; another one takes its place."""
    name = scene.rng.choice(sorted(scene.clients))
    scene.trace(f"{name} is killed")
    process = scene.clients[name]
    process.kill()
    scene.cluster.network.died(process)
    scene.cluster.loop.forget(process)
    scene.cluster.buried.append(process)
    scene.new_client(name)


async def lose_answer(scene: Scene) -> None:
    """The answer to a client's next commit is lost with its lane."""
    _trap_commit(scene, lambda process: None)


async def strand_client(scene: Scene) -> None:
    """The same, and the client is stopped for longer than the horizon lags: what it repeats then is too old."""

    def stop(process: Process) -> None:
        process.paused = True
        scene.trace(f"{process.name} is stranded")

        def resume() -> None:
            process.paused = False

        scene.later(LAG_S * scene.rng.uniform(1.1, 1.8), resume)

    _trap_commit(scene, stop)


def _trap_commit(scene: Scene, then: Callable[[Process], None]) -> None:
    def trap(connection: Connection, message: bytes) -> bool:
        if connection.client.name not in scene.clients or methods.COMMIT.encode() not in message:
            return False
        scene.trace(f"the answer to a commit of {connection.client.name} is lost")
        scene.later(0.0, lambda: then(connection.client))
        return True

    scene.cluster.network.trap = trap


# Network


async def bad_weather(scene: Scene) -> None:
    rng = scene.rng
    weather = Weather(
        delay_s=rng.choice((0.001, 0.02, 0.3)),
        slow=rng.choice((0.0, 0.05)),
        cut=rng.choice((0.0, 0.003, 0.02)),
        flip=rng.choice((0.0, 0.0, 0.003, 0.05)),
    )
    scene.trace(f"weather: {weather}")
    scene.away.update(folder for machine in scene.cluster.storage for folder in machine.disks)
    scene.cluster.network.weather = weather


async def good_weather(scene: Scene) -> None:
    scene.trace("weather: good")
    scene.cluster.network.weather = Weather()


async def partition(scene: Scene) -> None:
    """One machine, or client, is cut off from some others, in one direction or both."""
    rng, network = scene.rng, scene.cluster.network
    names = [machine.name for machine in scene.cluster.machines] + sorted(scene.clients)
    victim = rng.choice(names)
    others = [name for name in names if name != victim and rng.random() < rng.choice((0.3, 1.0))]
    way = rng.choice(("to", "from", "both"))
    for other in others:
        if way != "from":
            network.block(victim, other)
        if way != "to":
            network.block(other, victim)
    for machine in scene.cluster.storage:
        if machine.name == victim or machine.name in others:
            scene.was_away(machine)
    scene.trace(f"partition: {victim} {way} {others}")
    scene.later(rng.choice((1.0, 5.0, 14.0, 30.0)), network.heal)


async def cut_lanes(scene: Scene) -> None:
    network = scene.cluster.network
    for connection in list(network.connections):
        if scene.rng.random() < 0.4:
            connection.cut(lose=True)
    scene.trace("lanes are cut")


# Clocks


async def jump_clock(scene: Scene) -> None:
    machine = scene.rng.choice(scene.cluster.machines)
    jump = scene.rng.choice((-86400.0, -3600.0, -30.0, 30.0, 3600.0, 86400.0 * 40))
    scene.cluster.wall_ahead[machine.name] = scene.cluster.wall_ahead.get(machine.name, 0.0) + jump
    if machine.process is not None:
        machine.process.wall_ahead = scene.cluster.wall_ahead[machine.name]
    scene.trace(f"the clock of {machine.name} jumps by {jump:g} s")


# Disks


async def slow_disk(scene: Scene) -> None:
    machine = scene.rng.choice(scene.cluster.machines)
    machine.slow_down(scene.rng.choice((10.0, 100.0, 600.0)))
    scene.trace(f"the disks of {machine.name} are {machine.slow:g} times slower")

    def well() -> None:
        machine.slow_down(1.0)

    scene.later(scene.rng.uniform(1, 15), well)


async def full_disk(scene: Scene) -> None:
    machine = scene.machine()
    name = scene.rng.choice(list(machine.disks))
    disk = machine.disks[name]
    scene.was_away(machine)
    used = disk.capacity - disk.space().free
    disk.capacity = max(1, used + scene.rng.choice((-100_000, 0, 50_000)))
    scene.trace(f"{name} is full")

    def empty() -> None:
        machine.disks[name].capacity = scene.cluster.plan.capacity

    scene.later(scene.rng.uniform(2, 20), empty)


async def full_catalog(scene: Scene) -> None:
    scene.cluster.catalog.engine.full = True
    scene.trace("the catalog's disk is full")

    def empty() -> None:
        scene.cluster.catalog.engine.full = False

    scene.later(scene.rng.uniform(1, 10), empty)


async def fail_catalog_sync(scene: Scene) -> None:
    scene.cluster.catalog.engine.fail_syncs = True
    scene.trace("the catalog's syncs fail")

    def again() -> None:
        if scene.cluster.catalog.engine.fail_syncs:
            scene.cluster.catalog.kill(cut=True)
            scene.cluster.restart_later(scene.cluster.catalog, 0.5)

    scene.later(scene.rng.uniform(0.5, 6), again)


async def fail_sync(scene: Scene) -> None:
    machine = scene.machine()
    name = scene.rng.choice(list(machine.disks))
    if scene.may_harm(name):
        scene.harmed(machine, name)
        machine.disks[name].fail_syncs = True
        scene.trace(f"syncs of {name} fail")


async def lose_disk(scene: Scene) -> None:
    machine = scene.machine()
    name = scene.rng.choice(list(machine.disks))
    if not scene.may_harm(name):
        return
    scene.harmed(machine, name)
    for folder in machine.disks:
        scene.away.add(folder)
    machine.kill()
    machine.replace_disk(name)
    scene.trace(f"{name} is lost")
    scene.cluster.restart_later(machine)


async def rot(scene: Scene) -> None:
    machine = scene.machine()
    name = scene.rng.choice(list(machine.disks))
    disk = machine.disks[name]
    files = [one for one in disk.all_names() if one.startswith(SEGMENTS + "/") and len(disk.content(one)) > 200]
    if not files or not scene.may_harm(name):
        return
    scene.harmed(machine, name)
    for _ in range(scene.rng.choice((1, 10, 300))):
        file = scene.rng.choice(files)
        disk.rot(file, scene.rng.randrange(len(disk.content(file))), 1 << scene.rng.randrange(8))
    scene.trace(f"bits of {name} rot")
    if scene.rng.random() < 0.6:
        scene.read_everything()


async def read_everything(scene: Scene) -> None:
    """A client reads all that there is, while it is as it is."""
    scene.read_everything()


# Operators


async def scrub(scene: Scene) -> None:
    machine = scene.machine()
    for store in machine.stores.values():
        if machine.running and not store._closed:
            store.scrubber().ask()
    scene.trace(f"operator: scrub {machine.name}")


async def drain(scene: Scene) -> None:
    machine = scene.machine()
    if not machine.numbers or scene.leaving:
        return
    number = scene.rng.choice(list(machine.numbers))
    scene.leaving.add(number)
    await scene.operate({"do": "drain", "device": number})


async def undrain(scene: Scene) -> None:
    for number in sorted(scene.leaving):
        await scene.operate({"do": "undrain", "device": number})
    scene.leaving.clear()


async def recode(scene: Scene) -> None:
    """Another profile for a bucket, that survives as many losses at least."""
    choices = [
        profile.name
        for profile in map(parse_profile, ("rs-1-2", "rs-2-1", "rs-2-2", "rs-3-1", "rs-3-2", "rs-4-2"))
        if profile.m >= scene.parity and profile.n <= scene.cluster.plan.devices
    ]
    await scene.operate(
        {"do": "recode", "bucket": scene.rng.choice((PLAIN, KEPT)), "profile": scene.rng.choice(choices)}
    )


async def there_and_back(scene: Scene) -> None:
    """A position moves to another device, its source is released and cleared, and it moves back; then an order of the
    meantime comes late."""

    async def move() -> None:
        catalog = scene.cluster.catalog.catalog
        pgs = sorted(catalog.cluster.map.pgs.values(), key=lambda pg: pg.id) if catalog else []
        named = [pg for pg in pgs if not any(place.source for place in pg.positions)]
        if not named:
            return
        pg_id = scene.rng.choice(named).id
        at = scene.rng.randrange(len(named[0].positions))
        first = await _shift(scene, pg_id, at, 0)
        if not first or not await _released(scene, pg_id):
            return
        await asyncio.sleep(scene.cluster.plan.scrub_s + 5.0)  # a comparison finds what is surplus there
        if await _shift(scene, pg_id, at, first):
            await asyncio.sleep(6.0)
            scene.watch.deliver_late()

    scene.background(move())


async def _shift(scene: Scene, pg_id: int, at: int, wanted: int) -> int:
    """Moves a position, as a rebalance does; the device that it moves from, 0 if that cannot be now."""
    machine = scene.cluster.catalog
    catalog = machine.catalog
    if catalog is None or machine.process is None or machine.process.paused:
        return 0
    left = 0
    mark: list[MarkRow] = []

    def decide(map_: ClusterMap, _: object) -> tuple[list[Device], list[PlacementGroup]]:
        nonlocal left
        pg = map_.pgs[pg_id]
        members = {place.device for place in pg.positions} | {place.source for place in pg.positions}
        with machine.engine.read() as reader:
            marked = mending.get_mark(reader, pg_id) is not None
        free = [number for number, device in sorted(map_.devices.items()) if device.state == "up"]
        free = [number for number in free if number not in members and number not in scene.leaving]
        if marked or pg.positions[at].source or not free or (wanted and wanted not in free):
            return [], []
        old = pg.positions[at].device
        if map_.devices[old].state != "up":
            return [], []
        left = old
        positions = list(pg.positions)
        positions[at] = Position(wanted or scene.rng.choice(free), old)
        mark.append(MarkRow(pg.generation + 1, moving=1 << at))
        return [], [dataclasses.replace(pg, generation=pg.generation + 1, positions=tuple(positions))]

    change = catalog.keeping._keeper.change(decide, lambda writer: mending.put_mark(writer, pg_id, mark[-1]))
    task = machine.process.start(change, "shift")
    await asyncio.wait([task], timeout=20.0)
    if left:
        scene.trace(f"position {at} of PG {pg_id} moves from device {left}")
    return left if task.done() and not task.cancelled() and task.exception() is None else 0


async def _released(scene: Scene, pg_id: int) -> bool:
    for _ in range(120):
        await asyncio.sleep(1.0)
        catalog = scene.cluster.catalog.catalog
        if catalog is not None and not any(place.source for place in catalog.cluster.map.pgs[pg_id].positions):
            return True
    return False


async def swing(scene: Scene) -> None:
    """While clients cannot reach the catalog, a device goes out and comes back cleaned, and then a device that took its
    place goes out: what was written to the first before counts no more, though it may hold the same position again."""
    machines = [machine for machine in scene.cluster.storage if machine.running and machine.numbers]
    if len(machines) < 2 or scene.leaving:
        return
    first = scene.rng.choice(machines)
    scene.trace(f"swing at {first.name}")
    await _swing(scene, first)


async def _swing(scene: Scene, first: StorageMachine) -> None:
    plan, network = scene.cluster.plan, scene.cluster.network
    numbers = set(first.numbers)
    out = plan.down_s + plan.out_s + 0.5
    for name in sorted(scene.clients):
        network.block(name, CATALOG)
    await asyncio.sleep(scene.rng.uniform(0.5, 2.5))
    held = [(pg, at) for pg, at, number in _places(scene) if number in numbers]
    scene.was_away(first)
    first.kill()
    await asyncio.sleep(out)
    for _ in range(20):
        if not numbers & {number for *_, number in _places(scene, sources=True)}:
            break
        await asyncio.sleep(0.5)
    first.start()
    await asyncio.sleep(1.5)
    takers = [number for pg, at, number in _places(scene) if (pg, at) in held]
    second = next((one for one in scene.cluster.storage if takers and takers[0] in one.numbers), None)
    if second is not None and second is not first and second.running:
        scene.was_away(second)
        second.kill()
        await asyncio.sleep(out + 1.0)
    network.heal()
    if second is not None:
        second.start()


def _places(scene: Scene, *, sources: bool = False) -> list[tuple[int, int, int]]:
    """PG, position and device of all positions, or with `sources` of what they move from as well."""
    catalog = scene.cluster.catalog.catalog
    found = []
    for pg in catalog.cluster.map.pgs.values() if catalog is not None else ():
        for at, place in enumerate(pg.positions):
            found.append((pg.id, at, place.device))
            if sources and place.source:
                found.append((pg.id, at, place.source))
    return found


async def rates(scene: Scene) -> None:
    order = {"do": "rates", "floor": 1 << scene.rng.randint(16, 22), "ceiling": 1 << scene.rng.randint(22, 28)}
    await scene.operate(order)


ACTIONS: Final = (
    Action("kill_storage", 10, kill_storage),
    Action("doom_storage", 10, doom_storage),
    Action("kill_catalog", 5, kill_catalog),
    Action("doom_catalog", 6, doom_catalog),
    Action("kill_everything", 2, kill_everything),
    Action("pause_storage", 7, pause_storage),
    Action("pause_catalog", 3, pause_catalog),
    Action("pause_client", 4, pause_client),
    Action("kill_client", 4, kill_client),
    Action("strand_client", 6, strand_client),
    Action("lose_answer", 6, lose_answer),
    Action("bad_weather", 7, bad_weather),
    Action("good_weather", 5, good_weather),
    Action("partition", 8, partition),
    Action("cut_lanes", 4, cut_lanes),
    Action("jump_clock", 4, jump_clock),
    Action("slow_disk", 4, slow_disk),
    Action("full_disk", 4, full_disk),
    Action("full_catalog", 2, full_catalog),
    Action("fail_catalog_sync", 2, fail_catalog_sync),
    Action("fail_sync", 4, fail_sync, harms=True),
    Action("lose_disk", 5, lose_disk, harms=True),
    Action("rot", 8, rot, harms=True),
    Action("read_everything", 8, read_everything),
    Action("scrub", 2, scrub),
    Action("there_and_back", 5, there_and_back),
    Action("swing", 6, swing),
    Action("drain", 3, drain),
    Action("undrain", 2, undrain),
    Action("recode", 4, recode),
    Action("rates", 1, rates),
)
