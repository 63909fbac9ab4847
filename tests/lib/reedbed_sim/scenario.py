"""One seed, from its cluster's start to the last check.

Rounds alternate. In a storm everything that destroys no byte happens, in any number at once. In a loss devices are
destroyed, up to the parity, counting those that were away since all was whole. Between rounds faults are cleared, and
mostly everything becomes whole again. At the end all is healed, waits until nothing is left to do, and is checked.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from reedbed.client.store import AsyncStore
from reedbed.common.errors import ReedbedError
from reedbed.protos.types import ObjectInfo
from reedbed_sim.actions import ACTIONS, Action, Scene
from reedbed_sim.checks import Final as FinalState
from reedbed_sim.checks import check_all
from reedbed_sim.cluster import Plan, SimCluster
from reedbed_sim.history import Entry, History, digest
from reedbed_sim.loop import SimLoop, blocking
from reedbed_sim.scale import LAG_S, small_world
from reedbed_sim.watch import Watch
from reedbed_sim.workload import KEPT, KEYS, PLAIN, Driver, Follower, read_log, read_whole

LOOK_S: Final = 2.0
WHOLE_S: Final = 240.0  # within which everything is whole once all faults are gone


class Found(Exception):
    """Something is wrong already: the run need not go on."""


@dataclass(slots=True)
class Result:
    """What a seed came to. digest: of its whole trace; the same seed gives the same."""

    seed: int
    problems: list[str]
    trace: list[str]
    digest: str
    virtual_s: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)


def plan_of(rng: Random) -> Plan:
    """The kind of cluster that a seed has."""
    profile, positions = rng.choice((("rs-2-1", 3), ("rs-2-2", 4), ("rs-2-2", 4), ("rs-4-2", 6)))
    devices = positions + rng.choice((1, 1, 2, 3))
    quick = rng.random() < 0.5
    return Plan(
        profile=profile,
        devices=devices,
        machines=rng.choice((devices, devices, max(positions // 2 + 1, devices // 2))),
        clients=rng.randint(2, 3),
        scrub_s=rng.choice((8.0, 20.0, 60.0)),
        grace_s=rng.choice((0.5, 3.0)),
        down_s=1.2 if quick else 4.0,
        out_s=2.6 if quick else 9.0,
    )


def run_seed(seed: int, actions: Sequence[Action] = ACTIONS, rounds: int = 2) -> Result:
    """Runs one seed in this thread. What a dead process had under way is never finalized: best run in a child."""
    rng = Random(seed)
    loop = SimLoop(rng)
    asyncio.set_event_loop(loop)
    gc.disable()
    cluster = SimCluster(loop, rng, plan_of(rng))
    run = _Run(cluster, actions, rounds)
    problems: list[str] = []
    with small_world(), blocking():
        try:
            loop.run_until_complete(run.run())
        except Found:
            pass
        except BaseException as error:  # noqa: BLE001 - told with the trace
            problems.append("".join(traceback.format_exception(error)))
        problems += run.problems()
    trace = cluster.trace.lines
    sum_ = hashlib.blake2b(digest_size=16)
    for line in trace:
        sum_.update(line.encode())
    for op in run.history.ops:
        sum_.update(str(op).encode())
    sum_.update(f"{loop.handles} {loop.time()} {rng.getrandbits(64)}".encode())
    return Result(seed, problems, [*trace, *map(str, run.history.ops)], sum_.hexdigest(), loop.time(), run.counts())


class _Run:
    def __init__(self, cluster: SimCluster, actions: Sequence[Action], rounds: int) -> None:
        self.cluster = cluster
        self.history = History(versioned={PLAIN: False, KEPT: True})
        self._actions = actions
        self._rounds = rounds
        self._watch = Watch(cluster)
        self._drivers: list[Driver] = []
        self._found: list[str] = []
        self._unknown = 0

    def problems(self) -> list[str]:
        return [*self._found, *self._watch.problems, *self.cluster.loop.problems]

    def counts(self) -> dict[str, int]:
        ok = [op for op in self.history.ops if op.outcome == "ok"]
        return {
            "ops": len(self.history.ops),
            "ok": len(ok),
            "unknown": sum(op.outcome == "unknown" for op in self.history.ops),
            "removed": self._watch.removed,
            "unknown_shards": self._unknown,
            "messages": self.cluster.network.messages,
            "handles": self.cluster.loop.handles,
        }

    async def run(self) -> None:
        cluster, rng = self.cluster, self.cluster.rng
        cluster.trace(f"plan: {cluster.plan}")
        await cluster.start()
        process, operator = cluster.client("operator")
        await process.start(_make_buckets(operator), "buckets")
        scene = Scene(cluster, self._watch, rng, operator)
        followed, follower_store = cluster.client("follower")
        follower = Follower(follower_store)
        followed.start(follower.run(), "follower")
        for at in range(cluster.plan.clients):
            self._new_client(scene, f"c{at + 1}")
        scene.new_client = lambda name: self._new_client(scene, name)
        scene.read_everything = self._read_everything
        for _ in range(self._rounds):
            await self._round(scene)
        for driver in self._drivers:
            driver.stopping = True
        follower.stopping = True
        scene.clear()
        await scene.finished()
        scene.clear()
        for number in sorted(scene.leaving):
            await self._as_operator(scene, {"do": "undrain", "device": number})
        await self._become_whole(scene, WHOLE_S, collection=True)
        await self._scrubbed(scene)
        left = await self._become_whole(scene, WHOLE_S, collection=True)
        if left:
            self._found.append(f"after {WHOLE_S:g} s without faults there is left: {left}")
        self._watch.look()
        self._found += self._watch.last()
        self._unknown = self._watch.unknown()
        process, store = cluster.client("last")
        try:
            await process.start(self._serves(store), "serves")
        except ReedbedError as error:
            self._found.append(f"all is whole, and a put fails: {error!r}")
        process, store = cluster.client("reader")
        log, final = await process.start(read_final(store), "final")
        self._found += check_all(self.history, follower.seen, log, final)
        cluster.trace(f"counts: {self.counts()}")

    async def _serves(self, store: AsyncStore) -> None:
        driver = Driver("last", store, self.history, Random(0), self.cluster.loop.time)
        for bucket, keys in KEYS.items():
            for key in keys[:2]:
                await driver.put_must(bucket, key)

    def _read_everything(self) -> None:
        process, store = self.cluster.client("looker")
        driver = Driver("looker", store, self.history, Random(0), self.cluster.loop.time)
        process.start(driver.read_everything(), "looker")

    def _new_client(self, scene: Scene, name: str) -> None:
        rng = self.cluster.rng
        process, store = self.cluster.client(name, rng.choice((3.0, 8.0, 25.0, 90.0)))
        pause_s = rng.choice((0.3, 1.0, 2.0))
        now = self.cluster.loop.time
        driver = Driver(name, store, self.history, Random(rng.getrandbits(64)), now, pause_s=pause_s)
        scene.clients[name] = process
        self._drivers.append(driver)
        process.start(driver.run(), name)

    async def _round(self, scene: Scene) -> None:
        cluster, rng = self.cluster, self.cluster.rng
        loss = rng.random() < 0.4
        cluster.trace("round: loss" if loss else "round: storm")
        actions = [one for one in self._actions if loss or not one.harms]
        if loss:
            whole = await self._become_whole(scene, 60.0)
            if whole:
                cluster.trace(f"not whole yet: {whole}")
            actions = [one for one in actions if one.harms or rng.random() < 0.3] or actions
        for driver in self._drivers:
            driver.slowness = 1.0
        for _ in range(rng.randint(4, 12)):
            action = rng.choices(actions, [one.weight for one in actions])[0]
            await action.act(scene)
            await self._wait(rng.choice((0.05, 0.5, 2.0, 5.0)) * (0.5 + rng.random()))
        await self._wait(rng.choice((0.0, 4.0, 12.0)))
        for driver in self._drivers:
            driver.slowness = 5.0
        scene.clear()
        await self._wait(rng.choice((0.2, 3.0)))

    async def _wait(self, seconds: float) -> None:
        """Passes time, looking now and then."""
        until = self.cluster.loop.time() + seconds
        while (left := until - self.cluster.loop.time()) > 0:
            await asyncio.sleep(min(left, LOOK_S))
            self._watch.look()
            if self.problems():
                raise Found

    async def _become_whole(self, scene: Scene, seconds: float, *, collection: bool = False) -> str:
        """Waits until nothing is left to do; what is after so many seconds."""
        until = self.cluster.loop.time() + seconds
        calm = 0
        left = ""
        while self.cluster.loop.time() < until:
            await self._wait(1.0)
            left = self._watch.unfinished(collection=collection) or (
                "" if self._all_run() else "processes that do not run"
            )
            calm = 0 if left.strip() else calm + 1
            catalog = self.cluster.catalog.catalog
            if (
                left
                and catalog is not None
                and catalog.cluster.liveness.held
                and until - self.cluster.loop.time() < 150
            ):
                # devices that fell silent with many others are declared out by nobody but an operator; a catalogd that
                # starts anew forgets whom it held, and meets only those that are really gone
                self.cluster.trace("operator: catalogd is started anew, since devices are held")
                self.cluster.catalog.kill()
                self.cluster.catalog.start()
            if calm >= 2:
                scene.away.clear()
                self.cluster.trace("all is whole")
                return ""
        return left

    def _all_run(self) -> bool:
        return all(machine.running for machine in self.cluster.machines)

    async def _scrubbed(self, scene: Scene) -> None:
        """A pass over everything, and the comparison behind it."""
        wanted = {}
        for machine in self.cluster.storage:
            for name, store in machine.stores.items():
                wanted[machine.name, name] = (store, store.scrubber().ask())
        for _ in range(120):
            await self._wait(1.0)
            if all(store.scrubber().status().passes >= number for store, number in wanted.values()):
                break
        await self._wait(LAG_S + 15.0)

    async def _as_operator(self, scene: Scene, order: dict[str, object]) -> None:
        for _ in range(30):
            try:
                await scene.operator.operate(order)
                return
            except ReedbedError:
                await asyncio.sleep(1.0)


async def _make_buckets(store: AsyncStore) -> None:
    await store.create_bucket(PLAIN)
    await store.create_bucket(KEPT, versioned=True)


async def read_final(store: AsyncStore) -> tuple[list[Entry], FinalState]:
    """Everything that there is, read through a client."""
    final = FinalState()
    log: list[Entry] = []
    while page := await read_log(store, (log[-1].term, log[-1].seq) if log else (0, 0)):
        log += page
    for bucket in KEYS:
        async for row in store.list(bucket):
            assert isinstance(row, ObjectInfo)
            final.latest[bucket, row.key] = row.version
        async for info in store.list_versions(bucket):
            stack = final.stacks.setdefault((bucket, info.key), [])
            stack.insert(0, f"-{info.version}" if info.delete_marker else info.version)
            if not info.delete_marker:
                final.sizes[info.version] = info.size
                _, blob = await read_whole(store, bucket, info.key, info.version)
                final.contents[info.version] = digest(blob)
    return log, final
