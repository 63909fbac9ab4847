"""A catalog's planner, and its devices as a model: random things happen to both; the one believes only what is so."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from typing import Any

from reedbed.catalog import audit, extents, mending
from reedbed.catalog.edit import editing
from reedbed.catalog.extents import Offers
from reedbed.catalog.keeping import Result
from reedbed.catalog.mending import Mended
from reedbed.catalog.records import SliceRow
from reedbed.catalog.tasks import LEASE_S, Task
from reedbed.common.errors import PreconditionFailed, Unavailable
from reedbed.common.ids import Id, IdBlock
from reedbed.protos.types import Ack, Extent, PlacementGroup

PROFILE = "rs-2-2"
K, M = 2, 2


class Disks:
    """What each device really holds, of which incarnation it is, and whether it runs."""

    def __init__(self) -> None:
        self.held: dict[int, dict[tuple[Id, int], int]] = {}  # shards, with the generation that they were put under
        self.incarnation: dict[int, int] = {}
        self.running: set[int] = set()
        self.full: set[int] = set()
        self.known: dict[int, dict[int, int]] = {}  # generations of PGs, as each device has heard of them

    def add(self, number: int) -> None:
        self.held[number], self.incarnation[number] = {}, 1
        self.running.add(number)
        self.known[number] = {}

    def put(self, number: int, extent: Id, index: int, pg: int, generation: int) -> bool:
        """Whether the device took the shard; full or not, it takes one that it has."""
        held = self.held[number]
        if number not in self.running or (number in self.full and (extent, index) not in held):
            return False
        if generation < self.known[number].get(pg, 0):
            return False
        held[extent, index] = max(generation, held.get((extent, index), 0))
        return True

    def forget(self, number: int) -> None:
        """The device has left for good."""
        del self.held[number], self.incarnation[number]
        self.running.discard(number)
        self.full.discard(number)


class Model:
    """A catalog on a manual clock, its devices as a model, and random things that happen to both."""

    def __init__(self, rack: Any, seed: int) -> None:
        self.rack = rack
        self.disks = Disks()
        self.random = random.Random(seed)
        self.live: dict[Id, Extent] = {}
        self.committed: set[Id] = set()
        self.boot = 1
        self.stale_writers = True
        self.old_pgs: dict[int, PlacementGroup] = {}
        self.late: list[tuple[int, list[Result]]] = []
        self.next = 1

    @property
    def map(self) -> Any:
        return self.rack.cluster.map

    async def begin(self, devices: int) -> None:
        for _ in range(devices):
            await self.bring()
        await self.rack.cluster.ensure_profile(PROFILE)

    async def write(self) -> None:
        """Puts an extent on the devices that run, and commits it if enough took it."""
        pg: PlacementGroup = self.random.choice(sorted(self.map.pgs.values(), key=lambda pg: pg.id))
        if self.stale_writers and self.random.random() < 0.3:
            pg = self.old_pgs.get(pg.id, pg)  # the writer's map is not the newest
        await self.write_to(pg)

    async def write_to(self, pg: PlacementGroup) -> None:
        """`write`, on that PG."""
        self.commit(await self.put(pg))

    async def put(self, pg: PlacementGroup) -> Extent:
        """An extent on the devices that run, not committed yet."""
        block = IdBlock((await self.rack.cluster.lease()).prefix, 1 << 16)
        lengths = self.random.choice([(10, 10), (10, 0), (3, 9)])
        extent_id = block.take()
        acks = []
        for index, place in enumerate(pg.positions):
            needed = place.device in self.disks.held and (index >= K or lengths[index])
            if needed and self.disks.put(place.device, extent_id, index, pg.id, pg.generation):
                acks.append(Ack(index, place.device, self.disks.incarnation[place.device]))
        present = sum(1 << ack.position for ack in acks)
        return Extent(extent_id, K, M, pg.id, pg.generation, lengths, present, tuple(acks))

    def commit(self, extent: Extent) -> bool:
        """Whether enough shards of it count."""
        with self.rack.engine.write() as writer, editing(writer, self.rack.needs) as edit:
            try:
                extents.acquire(edit, [SliceRow(extent.id, 0, 5)], Offers(self.rack.needs.judge, [extent]))
            except Unavailable:
                return False
        self.live[extent.id] = extent
        self.committed.add(extent.id)
        return True

    def drop(self) -> None:
        if self.live:
            extent_id = self.random.choice(sorted(self.live))
            with self.rack.engine.write() as writer, editing(writer, self.rack.needs) as edit:
                extents.release(edit, [SliceRow(extent_id, 0, 5)])
            del self.live[extent_id]

    async def lose(self) -> None:
        """A device stops and is called down or out, as long as status says that this is survived."""
        if self.rack.keeping.status()["survives"][PROFILE] > 0 and self.disks.running:
            number = self.random.choice(sorted(self.disks.running))
            self.disks.running.discard(number)
            state = self.random.choice(["out", "out", "down"])
            await self.rack.keeper.change(lambda map_, _: ([replace(map_.devices[number], state=state)], []))

    async def drain(self) -> None:
        """An operator lets a device leave, or stay after all."""
        number = self.random.choice(sorted(self.disks.held))
        if self.random.random() < 0.4:
            await self.rack.keeping.undrain([number])
            return
        with contextlib.suppress(PreconditionFailed):  # too many leave or are away already
            await self.rack.keeping.drain([number], plan=False)

    async def come_back(self, number: int | None = None) -> None:
        away = sorted(set(self.disks.held) - self.disks.running)
        if number is None and not away:
            return
        number = number or self.random.choice(away)
        for _ in range(2):
            asked = self.rack.asked(number, incarnation=self.disks.incarnation[number])
            device = await self.rack.cluster.register(asked)
            if device.incarnation == self.disks.incarnation[number]:
                assert device.state == "up"
                self.disks.running.add(number)
                return
            self.disks.held[number].clear()
            self.disks.incarnation[number] = device.incarnation
        raise AssertionError("a device that was cleaned is to be cleaned again")

    async def bring(self) -> int:
        """One device more; it takes part in nothing yet."""
        number = self.next
        self.next += 1
        await self.rack.add(number)
        self.disks.add(number)
        return number

    async def add(self) -> None:
        """An operator lets some devices have their share, which may be more than they have or no more at all."""
        up = [number for number, device in self.map.devices.items() if device.state == "up"]
        if len(up) < 12 and self.random.random() < 0.4:
            up.append(await self.bring())
        chosen = self.random.sample(up, min(len(up), 2)) or [await self.bring()]
        with contextlib.suppress(PreconditionFailed):  # one of them is drained
            await self.rack.keeping.add(chosen, plan=False)

    async def rebalance(self) -> None:
        await self.rack.keeping.rebalance(plan=False)

    async def remove(self, number: int | None = None) -> None:
        """An operator takes a device out for good, where that is allowed."""
        number = number or self.random.choice(sorted(self.disks.held))
        if len(self.disks.held) == 1:
            return
        try:
            await self.rack.keeping.remove(number, plan=False)
        except PreconditionFailed:
            return
        self.disks.forget(number)

    def fill(self) -> None:
        """A disk is full, or has room again."""
        number = self.random.choice(sorted(self.disks.held))
        self.disks.full ^= {number}

    async def collect(self) -> None:
        """Shards of nobody are ordered away, and devices that run follow their orders."""
        await self.rack.leftovers.step()
        await self.rack.removals.step()
        for number in sorted(self.disks.running):
            orders = self.rack.removals.orders([number])
            held = self.disks.held[number]
            for order in orders:
                if held.get((order.extent, order.index), 1 << 60) <= order.generation:
                    del held[order.extent, order.index]
            if orders:
                await self.rack.removals.done({number: [order.number for order in orders]})

    async def clean_released(self) -> None:
        """Devices that run and hold nothing that counts are told at their next heartbeat."""
        for number in sorted(self.disks.running & self.map.devices.keys()):
            if self.map.devices[number].incarnation != self.disks.incarnation[number]:
                await self.come_back(number)

    async def deliver(self) -> None:
        """Reports that were long under way arrive, whatever happened meanwhile."""
        late, self.late = self.late, []
        for number, results in late:
            if number not in self.map.devices:
                continue
            await self.exchange(number, self.boot, results, 0)

    async def exchange(
        self, number: int, boot: int, results: list[Result], room: int, held: list[Id] | None = None
    ) -> list[Task]:
        """What the process that serves the device reports and asks for."""
        return await self.rack.keeping.exchange(self.rack.keeping.process_of([number]), boot, results, room, held)

    async def work(self, answered: bool = True) -> None:
        """Every process that runs takes tasks and carries them out; without `answered` its report comes late."""
        for number in sorted(self.disks.running):
            if self.map.devices[number].state != "up":
                continue
            tasks = await self.exchange(number, self.boot, [], self.random.randrange(1, 9))
            results = [self._carry_out(task) for task in tasks]
            if answered:
                await self.exchange(number, self.boot, results, 0)
            else:
                self.late.append((number, results))
                self.boot += 1

    def _carry_out(self, task: Task) -> Result:
        extent, pg = task.extent, self.map.pgs[task.extent.pg]
        there = {
            index
            for index, place in enumerate(pg.positions)
            for number in (place.device, place.source)
            if number in self.disks.running and (extent.id, index) in self.disks.held[number]
        }
        empty = sum(1 for length in extent.lengths if not length)
        acks, full = [], []
        for position in task.positions:
            number = pg.positions[position].device
            if number not in self.disks.running or len(there) + empty < K:
                continue
            if self.disks.put(number, extent.id, position, pg.id, pg.generation):
                acks.append(Ack(position, number, self.disks.incarnation[number]))
            else:
                full.append(number)
        error = "" if len(acks) == len(task.positions) else "too few"
        return Result(Mended(extent.id, tuple(acks)), error, tuple(full))

    async def step(self) -> None:
        self.rack.clock.advance(self.random.choice([0.1, 1.0]))
        if self.random.random() < 0.2:
            self.old_pgs = dict(self.map.pgs)
        await self.rack.leases.keep(self.rack.transactor)
        self.hear()
        await self.rack.keeping.step()

    def hear(self) -> None:
        """Devices that run have had the answer to a heartbeat."""
        for pg in self.map.pgs.values():
            for place in pg.positions:
                for number in {place.device, place.source} & self.disks.running:
                    self.disks.known[number][pg.id] = pg.generation

    def check(self) -> None:
        """What the catalog believes is so: each shard that it counts on lies where it says, and enough of them."""
        with self.rack.engine.read() as reader:
            for extent_id in self.live:
                row = extents.get(reader, extent_id)
                assert row is not None
                row = mending.as_of(row, mending.get_mark(reader, row.pg))
                pg = self.map.pgs[row.pg]
                there = 0
                for index, place in enumerate(pg.positions):
                    if not row.present >> index & 1:
                        continue
                    at_source = (row.gone | row.moving) >> index & 1
                    holder = place.source if at_source else place.device
                    if holder not in self.map.devices:
                        continue  # it was removed a moment ago
                    there += 1
                    assert (extent_id, index) in self.disks.held[holder], (index, place, row)
                    known = self.map.devices[holder].incarnation
                    assert self.disks.incarnation[holder] == known, "a device that is to be cleaned still counts"
                empty = sum(1 for length in row.lengths if not length)
                assert there + empty >= K, "an extent is lost"

    def problems(self) -> list[str]:
        """Of the audit, without those that come from extents without a version."""
        with self.rack.engine.read() as reader:
            found = audit.check(reader)
        return [one for one in found if "references" not in one and "counters" not in one]

    async def settle(self) -> None:
        for number in sorted(set(self.disks.held) - self.disks.running):
            await self.come_back(number)
        self.disks.full.clear()
        staying = len(self.map.devices) - len(self.rack.keeping.status()["leaving"])
        for _ in range(K + M - staying):
            await self.bring()
        for _ in range(400):
            self.rack.clock.advance(LEASE_S)
            await self.rack.leases.keep(self.rack.transactor)
            await self.rack.keeping.step()
            await self.clean_released()
            await self.work()
            self.check()
            status = self.rack.keeping.status()
            busy = status["extents"] or status["moving_positions"] or status["noting_pgs"] or status["balancing"]
            if not busy:
                return
        raise AssertionError(f"it never becomes whole: {self.rack.keeping.status()}")

    def check_whole(self) -> None:
        for extent_id, extent in self.live.items():
            pg = self.map.pgs[extent.pg]
            for index, place in enumerate(pg.positions):
                if index >= K or extent.lengths[index]:
                    assert (extent_id, index) in self.disks.held[place.device]
                    assert not place.source

    async def check_nothing_left_over(self) -> None:
        """Devices hold nothing of what was committed but what they should, once all times of grace are past."""
        self.rack.clock.advance(2 * 3600)
        for _ in range(40):
            self.rack.clock.advance(LEASE_S)
            await self.rack.leases.keep(self.rack.transactor)
            await self.rack.keeping.step()
            await self.collect()
        for number in self.disks.running:
            for extent_id, index in self.disks.held[number]:
                if extent_id in self.committed:
                    assert extent_id in self.live, "what was dropped is still there"
                    assert self.map.pgs[self.live[extent_id].pg].positions[index].device == number
