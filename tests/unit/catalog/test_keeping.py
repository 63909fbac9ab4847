"""The planner against a model of what devices hold: nothing is believed that is not so, and in the end all is whole."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from reedbed.catalog import audit, extents, lacks, mending
from reedbed.catalog.edit import editing
from reedbed.catalog.extents import Offers
from reedbed.catalog.keeping import Result
from reedbed.catalog.mending import Mended
from reedbed.catalog.records import SliceRow
from reedbed.catalog.tasks import LEASE_S, Task
from reedbed.common.errors import InvalidArgument, NotFound, PreconditionFailed, Unavailable
from reedbed.common.ids import Id, IdBlock
from reedbed.protos.types import Ack, Extent, PlacementGroup

PROFILE = "rs-2-2"
K, M = 2, 2


class Disks:
    """What each device really holds, of which incarnation it is, and whether it runs."""

    def __init__(self) -> None:
        self.held: dict[int, set[tuple[Id, int]]] = {}
        self.incarnation: dict[int, int] = {}
        self.running: set[int] = set()

    def add(self, number: int) -> None:
        self.held[number], self.incarnation[number] = set(), 1
        self.running.add(number)


class Model:
    """A catalog on a manual clock, its devices as a model, and random things that happen to both."""

    def __init__(self, rack: Any, seed: int) -> None:
        self.rack = rack
        self.disks = Disks()
        self.random = random.Random(seed)
        self.live: dict[Id, Extent] = {}
        self.boot = 1
        self.stale_writers = True
        self.old_pgs: dict[int, PlacementGroup] = {}
        self.late: list[tuple[int, list[Result]]] = []

    @property
    def map(self) -> Any:
        return self.rack.cluster.map

    async def begin(self, devices: int) -> None:
        for number in range(1, devices + 1):
            await self.rack.add(number)
            self.disks.add(number)
        await self.rack.cluster.ensure_profile(PROFILE)

    async def write(self) -> None:
        """Puts an extent on the devices that run, and commits it if enough took it."""
        block = IdBlock((await self.rack.cluster.lease()).prefix, 1 << 16)
        pg: PlacementGroup = self.random.choice(sorted(self.map.pgs.values(), key=lambda pg: pg.id))
        if self.stale_writers and self.random.random() < 0.3:
            pg = self.old_pgs.get(pg.id, pg)  # the writer's map is not the newest
        lengths = self.random.choice([(10, 10), (10, 0), (3, 9)])
        extent_id = block.take()
        acks = []
        for index, place in enumerate(pg.positions):
            if place.device in self.disks.running and (index >= K or lengths[index]):
                self.disks.held[place.device].add((extent_id, index))
                acks.append(Ack(index, place.device, self.disks.incarnation[place.device]))
        present = sum(1 << ack.position for ack in acks)
        extent = Extent(extent_id, K, M, pg.id, pg.generation, lengths, present, tuple(acks))
        with self.rack.engine.write() as writer, editing(writer, self.rack.needs) as edit:
            try:
                extents.acquire(edit, [SliceRow(extent_id, 0, 5)], Offers(self.rack.needs.judge, [extent]))
            except Unavailable:
                return
        self.live[extent_id] = extent

    def drop(self) -> None:
        if self.live:
            extent_id = self.random.choice(sorted(self.live))
            with self.rack.engine.write() as writer, editing(writer, self.rack.needs) as edit:
                extents.release(edit, [SliceRow(extent_id, 0, 5)])
            del self.live[extent_id]

    async def lose(self) -> None:
        """A device stops and is called out, as long as no more than M are away."""
        if len(self.disks.held) - len(self.disks.running) < M:
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
        if not away:
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

    def clean_released(self) -> None:
        """Devices that run and hold nothing that counts are told at their next heartbeat."""
        for number in self.disks.running:
            known = self.map.devices[number].incarnation
            if known != self.disks.incarnation[number]:
                self.disks.held[number].clear()
                self.disks.incarnation[number] = known

    async def deliver(self) -> None:
        """Reports that were long under way arrive, whatever happened meanwhile."""
        late, self.late = self.late, []
        for number, results in late:
            await self.rack.keeping.exchange([number], self.boot, results, 0)

    async def work(self, answered: bool = True) -> None:
        """Every process that runs takes tasks and carries them out; without `answered` its report comes late."""
        for number in sorted(self.disks.running):
            if self.map.devices[number].state != "up":
                continue
            tasks = await self.rack.keeping.exchange([number], self.boot, [], self.random.randrange(1, 9))
            results = [self._carry_out(task) for task in tasks]
            if answered:
                await self.rack.keeping.exchange([number], self.boot, results, 0)
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
        acks = []
        for position in task.positions:
            number = pg.positions[position].device
            if number in self.disks.running and len(there) + empty >= K:
                self.disks.held[number].add((extent.id, position))
                acks.append(Ack(position, number, self.disks.incarnation[number]))
        error = "" if len(acks) == len(task.positions) else "too few"
        return Result(Mended(extent.id, tuple(acks)), error)

    async def step(self) -> None:
        self.rack.clock.advance(self.random.choice([0.1, 1.0]))
        if self.random.random() < 0.2:
            self.old_pgs = dict(self.map.pgs)
        await self.rack.leases.keep(self.rack.transactor)
        await self.rack.keeping.step()

    def check(self) -> None:
        """What the catalog believes is so: each shard that it counts on lies where it says, and enough of them."""
        with self.rack.engine.read() as reader:
            for extent_id in self.live:
                row = extents.get(reader, extent_id)
                assert row is not None
                row = mending.as_of(row, mending.get_mark(reader, row.pg))
                pg = self.map.pgs[row.pg]
                for index, place in enumerate(pg.positions):
                    if not row.present >> index & 1:
                        continue
                    at_source = (row.gone | row.moving) >> index & 1
                    holder = place.source if at_source else place.device
                    assert (extent_id, index) in self.disks.held[holder], (index, place, row)
                    known = self.map.devices[holder].incarnation
                    assert self.disks.incarnation[holder] == known, "a device that is to be cleaned still counts"
                empty = sum(1 for length in row.lengths if not length)
                assert row.present.bit_count() + empty >= K, "an extent is lost"

    def problems(self) -> list[str]:
        """Of the audit, without those that come from extents without a version."""
        with self.rack.engine.read() as reader:
            found = audit.check(reader)
        return [one for one in found if "references" not in one and "counters" not in one]

    async def settle(self) -> None:
        for number in sorted(set(self.disks.held) - self.disks.running):
            await self.come_back(number)
        for _ in range(400):
            self.rack.clock.advance(LEASE_S)
            await self.rack.leases.keep(self.rack.transactor)
            await self.rack.keeping.step()
            self.clean_released()
            await self.work()
            self.check()
            status = self.rack.keeping.status()
            if not status["extents"] and not status["moving_positions"] and not status["noting_pgs"]:
                return
        raise AssertionError(f"it never becomes whole: {self.rack.keeping.status()}")

    def check_whole(self) -> None:
        for extent_id, extent in self.live.items():
            pg = self.map.pgs[extent.pg]
            for index, place in enumerate(pg.positions):
                if index >= K or extent.lengths[index]:
                    assert (extent_id, index) in self.disks.held[place.device]
                    assert not place.source


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_happens_to_devices_nothing_is_lost_and_all_gets_whole(
    rack: Callable[..., Any], seed: int
) -> None:
    model = Model(rack(profile=PROFILE, lag_s=20.0), seed)
    await model.begin(devices=model.random.choice([4, 5, 7]))
    for _ in range(12):
        await model.write()
    for _ in range(120):
        await model.random.choice(
            [
                model.write,
                model.write,
                model.lose,
                model.come_back,
                model.step,
                model.step,
                model.work,
                model.work,
                lambda: model.work(answered=False),
                model.deliver,
                model.drain,
            ]
        )()
        if model.random.random() < 0.1:
            model.drop()
        model.clean_released()
        model.check()
    assert model.problems() == []
    await model.settle()
    model.check_whole()
    assert model.problems() == []
    assert model.rack.keeping.status()["survives"] == {PROFILE: M}


async def test_a_drained_device_ends_empty_and_no_extent_is_less_safe_meanwhile(rack: Callable[..., Any]) -> None:
    model = Model(rack(profile=PROFILE, lag_s=20.0), 4)
    await model.begin(devices=6)
    for _ in range(40):
        await model.write()
    planned = await model.rack.keeping.drain([2], plan=True)
    assert planned["possible"]
    assert planned["positions"] == sum(place.device == 2 for pg in model.map.pgs.values() for place in pg.positions)
    assert not any(place.source for pg in model.map.pgs.values() for place in pg.positions)
    old = dict(model.map.pgs)
    await model.rack.keeping.drain([2], plan=False)
    moved = 0
    for turn in range(300):
        # writers that have not heard of the move until its devices have
        model.old_pgs = old
        if turn < 3:
            await model.write()
        await model.step()
        model.stale_writers = turn < 3
        if turn < 30:
            await model.write()
        await model.work()
        with model.rack.engine.read() as reader:
            assert all(lack.masks.missing == lack.masks.gone == 0 for lack in lacks.lacks(reader))
        moved += sum(1 for pg in model.map.pgs.values() for place in pg.positions if place.source == 2)
        model.check()
        model.clean_released()
        assert model.rack.keeping.status()["survives"][PROFILE] == M
    assert moved
    assert model.disks.held[2] == set()
    assert model.disks.incarnation[2] == 2
    model.check_whole()
    assert model.problems() == []
    others = [set(pg.positions) ^ set(old[pg.id].positions) for pg in model.map.pgs.values()]
    assert all(len(changed) in (0, 2) for changed in others), "more moved than had to"


async def test_a_drain_without_places_or_room_is_refused_with_what_is_missing(rack: Callable[..., Any]) -> None:
    model = Model(rack(profile=PROFILE, lag_s=20.0), 4)
    await model.begin(devices=4)
    with pytest.raises(PreconditionFailed, match="no other device"):
        await model.rack.keeping.drain([1], plan=False)
    assert not (await model.rack.keeping.drain([1], plan=True))["possible"]
    await model.rack.add(5)
    await model.rack.beat(5, used=80 << 30)
    await model.rack.beat(2, 3, 4, used=89 << 30)
    await model.rack.beat(1, used=70 << 30)
    with pytest.raises(PreconditionFailed, match="room"):
        await model.rack.keeping.drain([1], plan=False)
    with pytest.raises(NotFound):
        await model.rack.keeping.drain([9], plan=True)
    assert model.rack.keeping.status()["leaving"] == []


async def test_a_catalog_that_starts_anew_goes_on_where_it_was(rack: Callable[..., Any]) -> None:
    model = Model(rack(profile=PROFILE, lag_s=20.0), 3)
    await model.begin(devices=6)
    for _ in range(40):
        await model.write()
    for number in (2, 5):
        model.disks.running.discard(number)
        await model.rack.keeper.change(lambda map_, _, n=number: ([replace(map_.devices[n], state="out")], []))
    for _ in range(5):
        await model.step()
    assert model.rack.keeping.status()["extents"] > 0
    for _ in range(60):
        model.rack = model.rack.restart()
        await model.step()
        await model.step()
        await model.work()
        model.check()
    await model.settle()
    model.check_whole()


async def test_the_extents_that_are_most_in_danger_come_first(rack: Callable[..., Any]) -> None:
    one = rack(profile=PROFILE, lag_s=20.0)
    model = Model(one, 5)
    await model.begin(devices=7)
    for _ in range(60):
        await model.write()
    for number in (1, 2):
        model.disks.running.discard(number)
        await one.keeper.change(lambda map_, _, n=number: ([replace(map_.devices[n], state="out")], []))
    for _ in range(200):
        await model.step()
    with one.engine.read() as reader:
        levels = [left for _, left, _ in lacks.queue(reader, 1000)]
    assert levels == sorted(levels)
    assert {0, 1} <= set(levels)
    tasks = await one.keeping.exchange([3], 1, [], 256)
    assert [task.redundancy for task in tasks] == sorted(task.redundancy for task in tasks)


async def test_where_no_device_is_left_a_position_stays_until_one_comes(rack: Callable[..., Any]) -> None:
    model = Model(rack(profile=PROFILE, lag_s=20.0), 6)
    await model.begin(devices=4)
    for _ in range(10):
        await model.write()
    model.disks.running.discard(2)
    await model.rack.keeper.change(lambda map_, _: ([replace(map_.devices[2], state="out")], []))
    before = model.map.pgs
    for _ in range(5):
        await model.step()
    status = model.rack.keeping.status()
    assert model.map.pgs == before
    assert status["stuck_positions"] == len(before)
    assert status["survives"] == {PROFILE: 1}
    await model.rack.add(5)
    model.disks.add(5)
    for _ in range(200):
        await model.step()
        await model.work()
        model.check()
    model.check_whole()
    assert model.map.devices[2].incarnation == 2
    await model.come_back(2)
    assert model.disks.held[2] == set()


async def test_a_device_that_is_back_before_it_is_replaced_keeps_what_it_has(rack: Callable[..., Any]) -> None:
    model = Model(rack(profile=PROFILE, lag_s=20.0), 7)
    await model.begin(devices=5)
    for _ in range(10):
        await model.write()
    held = set(model.disks.held[3])
    model.disks.running.discard(3)
    await model.rack.keeper.change(lambda map_, _: ([replace(map_.devices[3], state="out")], []))
    await model.come_back(3)
    await model.step()
    assert model.disks.held[3] == held
    assert model.rack.keeping.status()["extents"] == 0
    assert all(not place.source for pg in model.map.pgs.values() for place in pg.positions)


async def test_a_report_counts_only_for_the_device_that_the_position_names_as_it_is_now(
    rack: Callable[..., Any],
) -> None:
    model = Model(rack(profile=PROFILE, lag_s=20.0), 8)
    await model.begin(devices=5)
    model.disks.running.discard(2)
    while not model.live or model.rack.keeping.status()["extents"] == 0:
        await model.write()
    with model.rack.engine.read() as reader:
        [(extent_id, _, row), *_] = lacks.queue(reader, 1)
    position = row.missing.bit_length() - 1
    right = model.map.pgs[row.pg].positions[position].device
    assert right == 2
    other = next(number for number in model.disks.held if number != right)
    before = model.rack.keeping.status()["shards"]

    async def report(device: int, incarnation: int, at: int = position) -> int:
        result = Result(Mended(extent_id, (Ack(at, device, incarnation),)), "")
        await model.rack.keeping.exchange([1], 1, [result], 0)
        return int(model.rack.keeping.status()["shards"])

    assert await report(other, 1) == before
    assert await report(right, 2) == before
    assert await report(right, 0) == before
    assert await report(right, 1, at=63) == before
    await model.rack.keeper.change(lambda map_, _: ([replace(map_.devices[right], state="failed")], []))
    assert await report(right, 1) == before
    await model.rack.keeper.change(lambda map_, _: ([replace(map_.devices[right], state="up")], []))
    assert await report(right, 1) == before - 1
    assert await report(right, 1) == before - 1
    assert model.problems() == []


async def test_a_task_is_given_again_when_its_process_starts_anew_or_is_silent(rack: Callable[..., Any]) -> None:
    model = Model(rack(profile=PROFILE, lag_s=20.0), 9)
    await model.begin(devices=4)
    model.disks.running.discard(2)
    for _ in range(20):
        await model.write()
    await model.step()
    given = [task.extent.id for task in await model.rack.keeping.exchange([2], 1, [], 100)]
    assert given
    assert await model.rack.keeping.exchange([2], 1, [], 100) == []
    await model.step()
    assert await model.rack.keeping.exchange([2], 1, [], 100) == []
    await model.rack.keeping.exchange([2], 2, [], 100)
    model.rack.clock.advance(2)
    await model.step()
    assert [task.extent.id for task in await model.rack.keeping.exchange([2], 2, [], 100)] == given
    model.rack.clock.advance(LEASE_S + 1)
    for _ in range(3):
        await model.step()
    assert [task.extent.id for task in await model.rack.keeping.exchange([2], 2, [], 100)] == given


async def test_rates_are_durable_and_checked(rack: Callable[..., Any]) -> None:
    one = rack()
    await one.keeping.set_rates(0, 100 << 20)
    await one.keeping.set_rates(5 << 20, 0)
    for wrong in ((200 << 20, 0), (0, 1), (-1, 0)):
        with pytest.raises(InvalidArgument):
            await one.keeping.set_rates(*wrong)
    rates = one.restart().keeping.rates
    assert (rates.floor, rates.ceiling) == (5 << 20, 100 << 20)
