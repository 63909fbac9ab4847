"""The planner against a model of what devices hold: nothing is believed that is not so, and in the end all is whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from reedbed.catalog import lacks
from reedbed.catalog.keeping import Result
from reedbed.catalog.mending import Mended
from reedbed.catalog.tasks import LEASE_S, SEVERAL
from reedbed.common.errors import InvalidArgument, NotFound, PreconditionFailed
from reedbed.protos.types import Ack
from tests.unit.catalog.keeping_model import PROFILE, M, Model


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
                model.add,
                model.collect,
                model.collect,
                model.rebalance,
                model.remove,
            ]
        )()
        if model.random.random() < 0.1:
            model.drop()
        if model.random.random() < 0.05:
            model.fill()
        await model.clean_released()
        model.check()
    assert model.problems() == []
    await model.settle()
    model.check_whole()
    assert model.problems() == []
    assert model.rack.keeping.status()["survives"] == {PROFILE: M}
    await model.check_nothing_left_over()


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
        await model.clean_released()
        assert model.rack.keeping.status()["survives"][PROFILE] == M
    assert moved
    assert model.disks.held[2] == {}
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
    tasks = await one.keeping.exchange(one.keeping.process_of([3]), 1, [], 256)
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
    assert model.disks.held[2] == {}


async def test_a_device_that_is_back_before_it_is_replaced_keeps_what_it_has(rack: Callable[..., Any]) -> None:
    model = Model(rack(profile=PROFILE, lag_s=20.0), 7)
    await model.begin(devices=5)
    for _ in range(10):
        await model.write()
    held = dict(model.disks.held[3])
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
        await model.exchange(1, 1, [result], 0)
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
    given = [task.extent.id for task in await model.exchange(2, 1, [], 100)]
    assert given
    assert await model.exchange(2, 1, [], 100) == []
    await model.step()
    assert await model.exchange(2, 1, [], 100, given) == []
    again = await model.exchange(2, 1, [], 100, given[1:])
    assert again == [], "what was lost waits for its turn"
    await model.step()
    assert [task.extent.id for task in await model.exchange(2, 1, [], 100, given[1:])] == given[:1]
    await model.exchange(2, 2, [], 100)
    model.rack.clock.advance(2)
    await model.step()
    assert [task.extent.id for task in await model.exchange(2, 2, [], 100)] == given
    model.rack.clock.advance(LEASE_S + 1)
    for _ in range(3):
        await model.step()
    assert [task.extent.id for task in await model.exchange(2, 2, [], 100)] == given


async def test_rates_are_durable_and_checked(rack: Callable[..., Any]) -> None:
    one = rack()
    await one.keeping.set_rates(0, 100 << 20)
    await one.keeping.set_rates(5 << 20, 0)
    for wrong in ((200 << 20, 0), (0, 1), (-1, 0)):
        with pytest.raises(InvalidArgument):
            await one.keeping.set_rates(*wrong)
    rates = one.restart().keeping.rates
    assert (rates.floor, rates.ceiling) == (5 << 20, 100 << 20)


async def test_what_cannot_be_repaired_holds_no_other_work_back(rack: Callable[..., Any]) -> None:
    model = Model(rack(profile=PROFILE, lag_s=20.0), 9)
    await model.begin(devices=4)
    model.disks.running.discard(2)
    for _ in range(20):
        await model.write()
    keeping, clock = model.rack.keeping, model.rack.clock
    await model.step()
    failures = 0
    while keeping.repairing:
        given = await model.exchange(2, 1, [], 100)
        assert given
        failures += 1
        await model.exchange(2, 1, [Result(Mended(task.extent.id, ()), "too few are left") for task in given], 0)
        clock.advance(70)
        await model.step()
    assert failures == SEVERAL
    again = await model.exchange(2, 1, [], 100)
    assert len(again) == len(given), "it is tried on"
    clock.advance(300)
    for _ in range(3):
        await model.step()
    assert not keeping.repairing, "also where it waited for long"
    again = await model.exchange(2, 1, [], 100)
    await model.exchange(2, 1, [Result(Mended(again[0].extent.id, ()), "")], 0)
    clock.advance(2)
    await model.step()
    assert keeping.repairing
