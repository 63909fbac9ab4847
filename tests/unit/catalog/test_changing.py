"""Devices that come, fill, are emptied and leave: what moves, what it costs, and that nothing gets less safe by it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog import lacks, released, removing
from reedbed.catalog.comparing import note_lost
from reedbed.catalog.drains import read_leaving
from reedbed.catalog.edit import editing
from reedbed.catalog.hold import hold
from reedbed.catalog.lacks import Lack, Masks
from reedbed.catalog.mapstate import placed
from reedbed.catalog.moves import HEARD_MS, Released, Shift, begin, plan_moves
from reedbed.catalog.placement import domain_of, make_pgs
from reedbed.catalog.released import END, ROWS, decode
from reedbed.catalog.removals import Order
from reedbed.catalog.removed import read_removed
from reedbed.common.errors import DeviceRemoved, InvalidArgument, NotFound, PreconditionFailed, Unavailable
from reedbed.common.ids import NO_ID, Id
from reedbed.protos.types import ClusterMap, Device, Labels, PlacementGroup, Position
from tests.unit.catalog.keeping_model import PROFILE, K, M, Model


async def stocked(rack: Callable[..., Any], devices: int, extents: int, seed: int = 1) -> Model:
    model = Model(rack(profile=PROFILE, lag_s=20.0), seed)
    model.stale_writers = False
    await model.begin(devices)
    for _ in range(extents):
        await model.write()
    return model


def shards_at(model: Model, number: int) -> int:
    return len(model.disks.held[number])


def no_less_safe(model: Model) -> None:
    """Every shard that there should be is counted on, wherever it is."""
    with model.rack.engine.read() as reader:
        assert all(lack.masks.missing == lack.masks.gone == 0 for lack in lacks.lacks(reader))
    assert model.rack.keeping.status()["survives"][PROFILE] == M


async def until(model: Model, done: Callable[[dict[str, Any]], bool], turns: int = 400) -> int:
    """Steps and work, checked after each, until status is as wanted; how many bytes devices were given."""
    before = int(model.rack.keeping.status()["bytes_total"])
    for _ in range(turns):
        await model.step()
        await model.work()
        await model.clean_released()
        await model.collect()
        model.check()
        no_less_safe(model)
        told = model.rack.keeping.status()
        if done(told):
            return int(told["bytes_total"]) - before
    raise AssertionError(f"it does not end: {model.rack.keeping.status()}")


def quiet(told: dict[str, Any]) -> bool:
    busy = told["extents"] or told["moving_positions"] or told["noting_pgs"] or told["balancing"]
    return not busy and not told["stuck_positions"]


async def test_new_devices_get_their_share_by_no_more_moves_than_it_takes(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 8, 200)
    pgs = len(model.map.pgs)
    new = [await model.bring() for _ in range(2)]
    await model.step()
    assert model.rack.keeping.status()["idle"] == new
    assert not any(place.device in new for pg in model.map.pgs.values() for place in pg.positions), "not by itself"
    planned = await model.rack.keeping.add(new, plan=True)
    assert not any(place.source for pg in model.map.pgs.values() for place in pg.positions)
    assert model.rack.keeping.status()["balancing"] is None
    told = await model.rack.keeping.add(new, plan=False)
    assert told["positions"] == planned["positions"] == pytest.approx(pgs * (K + M) * 2 / 10, abs=2)
    assert told["new_pgs"] == planned["new_pgs"] == {PROFILE: 50}
    total = sum(shards_at(model, number) for number in model.disks.held)
    moved = await until(model, quiet)
    assert moved <= 1.2 * told["bytes"]
    assert model.rack.keeping.status()["idle"] == []
    for number in new:
        assert 0.7 * total / 10 < shards_at(model, number) < 1.3 * total / 10
    again = await model.rack.keeping.add(new, plan=True)
    assert (again["positions"], again["new_pgs"]) == (0, {})
    await model.check_nothing_left_over()
    assert sum(shards_at(model, number) for number in model.disks.held) == total, "sources keep what has moved"
    assert model.problems() == []


async def test_extents_that_are_committed_while_positions_move_are_moved_too(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 6, 60)
    model.stale_writers = True
    new = await model.bring()
    model.old_pgs = dict(model.map.pgs)
    await model.rack.keeping.add([new], plan=False)
    for _ in range(20):
        await model.step()
        await model.write()
        await model.work()
        model.check()
        no_less_safe(model)
    await until(model, quiet)
    model.check_whole()


async def test_an_order_goes_on_after_a_restart_and_can_be_stopped(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 5, 60)
    new = await model.bring()
    await model.rack.keeping.add([new], plan=False)
    model.rack = model.rack.restart()
    assert model.rack.keeping.status()["balancing"] is not None
    for _ in range(3):
        await model.step()
        model.rack = model.rack.restart()
    await until(model, quiet)
    assert shards_at(model, new) > 0
    other = await model.bring()
    await model.rack.keeping.add([other], plan=False)
    await model.rack.keeping.balancing.stop()
    model.rack = model.rack.restart()
    await until(model, quiet)
    assert shards_at(model, other) == 0


async def test_what_cannot_be_added_is_refused(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 6, 10)
    with pytest.raises(NotFound):
        await model.rack.keeping.add([99], plan=True)
    with pytest.raises(InvalidArgument):
        await model.rack.keeping.add([], plan=True)
    await model.rack.keeping.drain([3], plan=False)
    with pytest.raises(PreconditionFailed, match="drained"):
        await model.rack.keeping.add([3], plan=False)
    await model.rack.keeper.change(lambda map_, _: ([replace(map_.devices[4], state="down")], []))
    with pytest.raises(PreconditionFailed, match="is down"):
        await model.rack.keeping.add([4], plan=False)


async def test_bytes_are_evened_out_where_positions_are_already(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 6, 0)
    heavy = [pg for pg in model.map.pgs.values() if pg.positions[0].device == 1 and pg.id % 3]
    model.random = random.Random(2)
    for _ in range(4):
        for pg in heavy:
            model.old_pgs = dict.fromkeys(model.map.pgs, pg)
            await model.write_to(pg)
    held = [lengths_of(model, number) for number in sorted(model.disks.held)]
    assert held[0] > 1.3 * sum(held) / 6
    assert (await model.rack.keeping.rebalance(plan=True))["positions"] > 0
    await model.rack.keeping.rebalance(plan=False)
    await until(model, quiet)
    loads = Counter(place.device for pg in model.map.pgs.values() for place in pg.positions)
    assert max(loads.values()) - min(loads.values()) <= 1
    after = [lengths_of(model, number) for number in sorted(model.disks.held)]
    assert after[0] < 1.2 * sum(after) / 6
    assert (await model.rack.keeping.rebalance(plan=True))["positions"] == 0


async def test_a_device_that_is_drained_after_another_loses_no_redundancy_for_it(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 7, 80)
    await model.rack.keeping.drain([1], plan=False)
    await model.step()  # positions of device 1 are on their way, some of them to device 2
    assert any(place == Position(2, 1) for pg in model.map.pgs.values() for place in pg.positions)
    await model.rack.keeping.drain([2], plan=False)
    await until(model, lambda told: quiet(told) and not shards_at(model, 1) and not shards_at(model, 2))
    assert model.disks.incarnation[1] == model.disks.incarnation[2] == 2


async def test_two_drained_together_move_each_shard_once(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 8, 120)
    held = sum(lengths_of(model, number) for number in (1, 2))
    await model.rack.keeping.drain([1, 2], plan=False)
    moved = await until(model, lambda told: quiet(told) and not shards_at(model, 1) and not shards_at(model, 2))
    assert moved == held


def lengths_of(model: Model, number: int) -> int:
    """Bytes that a device holds."""
    return sum(
        (*model.live[extent_id].lengths, *[max(model.live[extent_id].lengths)] * M)[index]
        for extent_id, index in model.disks.held[number]
    )


async def test_positions_turn_back_from_a_device_that_is_full_and_move_once_it_has_room(
    rack: Callable[..., Any],
) -> None:
    model = await stocked(rack, 6, 80)
    new = await model.bring()
    model.disks.full.add(new)
    await model.rack.keeping.add([new], plan=False)
    for _ in range(12):
        await model.step()
        await model.work()
        model.check()
        no_less_safe(model)
    status = model.rack.keeping.status()
    assert status["full"] == [new]
    assert status["extents"] == 0, "work is left for a device that has no room"
    model.disks.full.discard(new)
    await until(model, quiet)
    assert shards_at(model, new) > 0
    model.check_whole()


async def test_a_drain_goes_elsewhere_when_a_device_fills(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 7, 80)
    model.disks.full.add(2)
    await model.rack.keeping.drain([1], plan=False)
    await until(model, lambda told: quiet(told) and not shards_at(model, 1))
    model.check_whole()


async def test_a_repair_goes_elsewhere_when_a_device_fills(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 8, 80)
    model.disks.full.add(2)
    model.disks.running.discard(1)
    await model.rack.keeper.change(lambda map_, _: ([replace(map_.devices[1], state="out")], []))
    for _ in range(200):
        await model.step()
        await model.work()
        model.check()
    assert quiet(model.rack.keeping.status())
    model.check_whole()


async def test_a_move_whose_target_dies_goes_back_to_where_the_shards_are(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 6, 80)
    new = await model.bring()
    await model.rack.keeping.add([new], plan=False)
    await model.step()
    await model.step()
    moving = {pg.id for pg in model.map.pgs.values() for place in pg.positions if place.device == new and place.source}
    assert moving
    model.disks.running.discard(new)
    await model.rack.keeper.change(lambda map_, _: ([replace(map_.devices[new], state="out")], []))
    for _ in range(60):
        await model.step()
        await model.work()
        model.check()
    assert quiet({**model.rack.keeping.status(), "balancing": None})
    assert all(place.device != new for pg in model.map.pgs.values() for place in pg.positions)
    assert model.rack.keeping.status()["bytes_total"] == 0, "shards are copied although they were never away"
    model.check_whole()


async def test_a_position_that_moves_back_is_not_touched_by_orders_from_when_it_left(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 5, 80)
    new = await model.bring()
    await model.rack.keeping.add([new], plan=False)
    for _ in range(400):
        await model.step()
        await model.work()
        if quiet(model.rack.keeping.status()):
            break
    assert any(shards_at(model, number) for number in range(1, 6))
    await model.rack.leftovers.step()  # orders are written, and not carried out yet
    waiting = sum(model.rack.removals.open_orders().values())
    assert waiting
    await model.rack.keeping.drain([new], plan=False)
    for _ in range(400):
        await model.step()
        await model.work()
        model.check()
        await model.clean_released()
        if quiet(model.rack.keeping.status()):
            break
    model.check_whole()
    await model.check_nothing_left_over()
    model.check_whole()


async def test_the_walk_for_what_was_left_behind_names_nothing_written_since_and_ends(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 5, 60)
    old = set(model.live)
    new = await model.bring()
    await model.rack.keeping.add([new], plan=False)
    for _ in range(400):
        await model.step()
        await model.work()
        if quiet(model.rack.keeping.status()):
            break
    model.rack.clock.advance(HEARD_MS / 1000 + 1)
    for _ in range(40):
        await model.write()
    for _ in range(5):
        await model.rack.leftovers.step()
    orders = model.rack.removals.orders(range(1, 7))
    assert orders
    assert {order.extent for order in orders} <= old, "it never was where this order looks for it"
    with model.rack.engine.read() as reader:
        rows = [decode(*row) for row in reader.scan(ROWS, END)]
    assert all(row.walked_ms for row in rows)


async def test_what_a_commit_may_still_name_is_not_removed_where_a_position_left_it(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 5, 1)
    (extent,) = model.live.values()
    position = next(index for index, length in enumerate(extent.lengths) if length)
    named = {place.device for place in model.map.pgs[extent.pg].positions}
    other = next(number for number in range(1, 6) if number not in named)
    with model.rack.engine.write() as writer:
        released.note(
            writer,
            model.map,
            [Released(extent.pg, position, other, 1)],
            model.rack.leases.id_time_ms(),
        )
    await model.rack.leftovers.step()
    assert model.rack.removals.open_orders() == {}, "it is above the horizon"
    for _ in range(100):
        await model.step()
    await model.rack.leftovers.step()
    assert sum(model.rack.removals.open_orders().values()) == 1


async def test_the_first_groups_of_a_profile_go_around_devices_that_leave(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 5, 10)
    await model.rack.keeping.drain([2], plan=False)
    await model.rack.cluster.ensure_profile("rs-1-1")
    fresh = [pg for pg in model.map.pgs.values() if (pg.k, pg.m) == (1, 1)]
    assert fresh
    assert all(place.device != 2 for pg in fresh for place in pg.positions)
    await model.rack.cluster.ensure_profile("rs-4-1")  # which needs all five
    assert any(place.device == 2 for pg in model.map.pgs.values() if pg.k == 4 for place in pg.positions)


async def test_what_positions_have_left_goes_only_where_their_new_devices_have_it(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 5, 60)
    new = await model.bring()
    await model.rack.keeping.add([new], plan=False)
    for _ in range(400):
        await model.step()
        await model.work()
        if quiet(model.rack.keeping.status()):
            break
    # all that moved is reported lost where it went, before what was left behind is ordered away
    held = dict(model.disks.held[new])
    model.disks.held[new].clear()
    with model.rack.engine.write() as writer, editing(writer, model.rack.needs) as edit:
        for extent_id, index in held:
            note_lost(edit, model.map, new, (extent_id, index))
    before = sum(shards_at(model, number) for number in range(1, 6))
    await model.collect()
    assert sum(shards_at(model, number) for number in range(1, 6)) == before
    for _ in range(30):
        await model.step()
        await model.work()
        await model.collect()
        model.check()
    model.check_whole()
    await model.check_nothing_left_over()


async def test_a_removed_device_is_never_trusted_again_and_its_number_not_given_again(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 6, 60)
    one = model.rack
    with pytest.raises(NotFound):
        await one.keeping.remove(99, plan=False)
    told = await one.keeping.remove(6, plan=True)
    assert told["possible"]
    assert told["survives"] == {PROFILE: M - 1}
    assert told["positions"] > 0
    assert 6 in model.map.devices
    await one.keeping.remove(6, plan=False)
    model.disks.forget(6)
    for again in (False, True):
        twin = model.rack = one = one.restart() if again else one
        assert 6 not in twin.cluster.map.devices
        with pytest.raises(DeviceRemoved, match="device 6 was removed"):
            await twin.cluster.register(twin.asked(6))
        with pytest.raises(DeviceRemoved):
            await twin.cluster.register(twin.asked(6, incarnation=2))
        with pytest.raises(NotFound):
            await twin.beat(6)
        with twin.engine.read() as reader:
            assert list(read_removed(reader).values()) == [6]
    assert one.keeping.status()["survives"][PROFILE] == M - 1
    for _ in range(60):
        await model.step()
        await model.work()
        model.check()
    assert quiet(one.keeping.status())
    assert one.keeping.status()["survives"][PROFILE] == M
    model.check_whole()
    model.next = 7
    await model.bring()


async def test_a_drained_device_can_be_removed_and_orders_for_it_are_forgotten(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 6, 60)
    await model.rack.keeping.drain([2], plan=False)
    await until(model, lambda told: quiet(told) and not shards_at(model, 2))
    told = await model.rack.keeping.remove(2, plan=False)
    assert (told["positions"], told["bytes"], told["lost"]["extents"]) == (0, 0, 0)
    assert model.rack.keeping.status()["leaving"] == []
    model.disks.forget(2)
    with model.rack.engine.write() as writer:
        extent_id = next(iter(model.live))
        order = model.rack.removals.add(writer, 2, extent_id, 0, model.live[extent_id].pg, 9)
    model.rack.removals.written([order])
    await model.rack.removals.step()
    assert model.rack.removals.open_orders() == {}
    assert model.rack.restart().removals.open_orders() == {}


async def test_the_last_copy_is_not_removed(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 4, 40)
    for number in (1, 2):
        model.disks.running.discard(number)
        await model.rack.keeper.change(lambda map_, _, n=number: ([replace(map_.devices[n], state="down")], []))
    with pytest.raises(PreconditionFailed, match="could not be read any more") as refused:
        await model.rack.keeping.remove(3, plan=False)
    assert "device drain 3" in refused.value.hint
    told = await model.rack.keeping.remove(3, plan=True)
    assert not told["possible"]
    assert told["lost"]["extents"] > 0
    assert told["lost"]["bytes"] == 5 * told["lost"]["extents"], "what objects name of it"
    assert 3 in model.map.devices
    # an extent of which one data shard is empty needs one shard only, and lies on 4 as well
    small = sum(1 for extent in model.live.values() if not all(extent.lengths))
    assert told["lost"]["extents"] <= len(model.live) - small // 2


# --- what moves do to failure domains, on maps alone ---


def hosts(count: int, each: int) -> ClusterMap:
    devices = [
        Device(number, bytes([number]) * 16, f"h:{number}", "up", Labels(host=f"h{(number - 1) // each}"), 1, 100 << 30)
        for number in range(1, count * each + 1)
    ]
    return ClusterMap(b"c" * 16, 1, {device.number: device for device in devices}, {}, "rs-4-2", "host")


@settings(max_examples=150, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1 << 32))
def test_no_domain_ever_holds_more_than_m_shards_of_an_extent_whatever_has_moved(
    data: st.DataObject, seed: int
) -> None:
    map_ = hosts(4, 3)
    groups = make_pgs(placed(map_.devices.values()), 4, 2, "host", 10, seed)
    map_ = replace(
        map_, pgs={i + 1: PlacementGroup(i + 1, 4, 2, 1, tuple(map(Position, group))) for i, group in enumerate(groups)}
    )
    source = random.Random(seed)
    shifts = []
    for _ in range(data.draw(st.integers(1, 40))):
        pg = map_.pgs[source.randrange(1, 11)]
        position = source.randrange(6)
        shifts.append(Shift(pg.id, position, pg.positions[position].device, source.randrange(1, 13)))
    begun = begin(map_, shifts, set(data.draw(st.lists(st.integers(1, 10), max_size=2))))
    domains = {device.number: domain_of(device, "host") for device in placed(map_.devices.values())}
    changed = {pg.id: pg for pg in begun.pgs}
    assert changed.keys() == begun.marks.keys()
    for pg in changed.values():
        assert pg.generation == 2
        numbers = [number for place in pg.positions for number in (place.device, place.source) if number]
        assert len(set(numbers)) == len(numbers), "a device would hold two shards of an extent"
        touched = Counter(
            domain for place in pg.positions for domain in {domains[n] for n in (place.device, place.source) if n}
        )
        assert max(touched.values()) <= 2
        moved = {index for index, place in enumerate(pg.positions) if place.source}
        assert begun.marks[pg.id].moving == sum(1 << index for index in moved)


def one_pg(*positions: Position, states: str = "uuuuuuuu") -> ClusterMap:
    names = {"u": "up", "d": "down", "o": "out", "f": "failed"}
    devices = {
        number: Device(number, bytes([number]) * 16, f"h:{number}", names[state], capacity=100 << 30)  # type: ignore[arg-type]
        for number, state in enumerate(states, 1)
        if state != "-"
    }
    return ClusterMap(b"c" * 16, 1, devices, {1: PlacementGroup(1, 2, 2, 5, positions)}, "rs-2-2", "device")


P = Position
STILL = (P(2), P(3), P(4))


def lack(**masks: int) -> list[Lack]:
    return [Lack(1, Masks(**masks), 1, 10, 0)]


@pytest.mark.parametrize(
    ("place", "states", "more", "expected", "bits"),
    [
        # dead target, living source: back to where the shards are
        (P(1, 5), "ouuuuuuu", {}, P(5, 1), {"back": 1, "gone": 1}),
        (P(1, 5), "-uuuuuuu", {}, P(5), {"back": 1, "lost": 1}),
        # unless the source is to leave, or is full: to a third, from the source
        (P(1, 5), "ouuuuuuu", {"leaving": {5}}, P(6, 5), {"lost": 1}),
        (P(1, 5), "ouuuuuuu", {"full": {5}}, P(6, 5), {"lost": 1}),
        # both dead: the newer one may yet come back
        (P(1, 5), "ouuuouuu", {}, P(6, 1), {"gone": 1, "lost": 1}),
        (P(1), "fuuuuuuu", {}, P(5, 1), {"gone": 1}),
        # a leaving target waits for its source
        (P(1, 5), "uuuuuuuu", {"leaving": {1}, "lacks": lack(moving=1)}, None, None),
        (P(1), "uuuuuuuu", {"leaving": {1}}, P(5, 1), {"moving": 1}),
        # full: back to a source that serves, else on to a third with what it has
        (P(1, 5), "uuuuuuuu", {"full": {1}, "lacks": lack(moving=1)}, P(5, 1), {"back": 1}),
        (P(1, 5), "uuuuuuuu", {"full": {1}, "leaving": {5}, "lacks": lack(moving=1)}, P(5, 1), {"back": 1}),
        (P(1, 5), "uuuuouuu", {"full": {1}, "lacks": lack(gone=1)}, P(6, 1), {"moving": 1, "lost": 1}),
        (P(1), "uuuuuuuu", {"full": {1}, "lacks": lack(missing=1)}, P(5, 1), {"moving": 1}),
        (P(1), "uuuuuuuu", {"full": {1}}, None, None),
        # where extents cannot be read, no device that serves is left: the source that is away is their last hope
        (P(1, 5), "uuuuouuu", {"full": {1}, "lacks": lack(gone=1, missing=6)}, None, None),
        (P(1, 5), "uuuuouuu", {"leaving": {1}, "lacks": lack(gone=1, missing=6)}, None, None),
    ],
)
def test_where_a_position_goes(
    place: Position, states: str, more: dict[str, Any], expected: Position | None, bits: dict[str, int] | None
) -> None:
    map_ = one_pg(place, *STILL, states=states)
    found = more.pop("lacks", [])
    planned = plan_moves(map_, (), found, unripe={(1, 0)}, **more)
    if expected is None:
        assert planned.pgs == ()
        return
    assert planned.pgs[0].positions == (expected, *STILL)
    mark = planned.marks[1]
    assert {name: getattr(mark, name) for name in ("gone", "moving", "lost", "back") if getattr(mark, name)} == bits
    assert mark.generation == planned.pgs[0].generation == 6
    named = {expected.device, expected.source}
    assert {one.device for one in planned.released} == {
        number for number in (place.device, place.source) if number and number not in named and number in map_.devices
    } - {device.number for device in planned.devices}


def test_sources_stay_while_a_commit_may_bring_what_they_acknowledged() -> None:
    map_ = one_pg(P(1, 5), P(2, 6), *STILL[1:])
    assert plan_moves(map_, (), [], unripe={(1, 0)}).pgs[0].positions[:2] == (P(1, 5), P(2))
    assert plan_moves(map_, (), []).pgs[0].positions[:2] == (P(1), P(2))
    assert plan_moves(map_, (), lack(moving=1)).pgs[0].positions[:2] == (P(1, 5), P(2))
    assert plan_moves(map_, {1}, []).pgs == ()
    dead = one_pg(P(1, 5), P(2), *STILL[1:], states="uuuuouuu")
    assert plan_moves(dead, (), [], unripe={(1, 0)}).pgs[0].positions[0] == P(1), "whoever is out acknowledges nothing"


async def shift(model: Model, *shifts: Shift) -> None:
    """Begin these moves, as an order to balance would."""
    balancing = model.rack.keeping.balancing
    before, model.rack.keeping.balancing = balancing, Ordered(balancing, list(shifts))
    await model.rack.keeping.step()
    model.rack.keeping.balancing = before


class Ordered:
    """An order with these moves, once."""

    open = True

    def __init__(self, balancing: Any, shifts: list[Shift]) -> None:
        self._shifts = shifts
        self.status, self.began = balancing.status, balancing.began

    async def shifts(self, *_: object) -> list[Shift]:
        return self._shifts


async def test_a_commit_that_comes_late_finds_its_shards_counted_where_positions_have_moved_meanwhile(
    rack: Callable[..., Any],
) -> None:
    model = await stocked(rack, 4, 0)
    new = [await model.bring(), await model.bring()]
    pg = next(iter(model.map.pgs.values()))
    for _ in range(10):
        await model.write_to(pg)
    # one position moves, and nobody works on it: so its source stays for long
    first, second = pg.positions[0].device, pg.positions[K].device
    await shift(model, Shift(pg.id, 0, first, new[0]))
    for _ in range(60):
        await model.step()
    # a writer puts by the map of now, and another position moves before it commits
    put = await model.put(model.map.pgs[pg.id])
    await shift(model, Shift(pg.id, K, second, new[1]))
    for _ in range(5):
        await model.step()
        await model.work()
        no_less_safe(model)
    assert model.rack.keeping.status()["extents"] == 0, "all that was committed has moved"
    assert model.map.pgs[pg.id].positions[K] == Position(new[1], second)
    assert model.commit(put)
    no_less_safe(model)
    await until(model, quiet)
    model.check_whole()


# While extents are held, since the catalog was begun anew


def hold_all(model: Model) -> None:
    """As a catalog that was begun anew finds it at its start."""
    with model.rack.engine.write() as writer:
        hold(writer, NO_ID, Id(b"\xff" * 16))
    model.rack = model.rack.restart()


def test_no_device_is_planned_to_be_cleaned_while_extents_are_held() -> None:
    devices = {number: Device(number, bytes([number]) * 16, f"x:{number}", "up") for number in range(1, 5)}
    devices[1] = replace(devices[1], state="out", incarnation=3)
    pg = PlacementGroup(1, 2, 1, 2, (Position(4, 1), Position(2), Position(3)))
    map_ = ClusterMap(b"c" * 16, 5, devices, {1: pg})
    (left,) = plan_moves(map_, (), ()).devices
    assert (left.number, left.incarnation) == (1, 4)
    kept = plan_moves(map_, (), (), held=True)
    assert kept.devices == ()
    assert [(one.device, one.generation) for one in kept.released] == [(1, 3)], "it is emptied of what is known"
    assert kept.pgs[0].positions[0] == Position(4)


async def test_a_device_that_was_out_comes_back_uncleaned_while_extents_are_held(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 6, 60)
    model.disks.running.discard(2)
    await model.rack.keeping.drain([2], plan=False)
    for _ in range(400):
        await model.step()
        await model.work()
    one = model.rack
    known = one.cluster.map.devices[2]
    assert (known.incarnation, known.state) == (2, "out"), "its positions are with others"
    asked = one.asked(2)
    assert (await one.cluster.register(asked)).incarnation == 2, "it would be cleaned"
    hold_all(model)
    one = model.rack
    order = ordered_away(model, 2)
    back = await one.cluster.register(asked)
    assert (back.incarnation, back.state) == (1, "up")
    assert one.removals.orders([2]) == [order], "it has what it had"


async def test_no_device_is_given_up_while_extents_are_held(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 6, 60)
    hold_all(model)
    await model.rack.keeping.drain([2], plan=False)
    for _ in range(400):
        await model.step()
        await model.work()
        known = model.map.devices[2]
        assert (known.incarnation, known.state) == (1, "up")
    assert not named_anywhere(model, 2)
    # if it goes out now it comes back as what it was, with what it was ordered to remove
    one = model.rack
    order = ordered_away(model, 2)
    await one.keeper.change(lambda map_, _: ([replace(known, state="out")], []))
    assert (await one.cluster.register(one.asked(2))).incarnation == 1
    assert one.removals.orders([2]) == [order]


def ordered_away(model: Model, number: int) -> Order:
    with model.rack.engine.write() as writer:
        order = model.rack.removals.add(writer, number, Id(bytes(15) + b"x"), 0, 1, 9)
    model.rack.removals.written([order])
    return order


def named_anywhere(model: Model, number: int) -> bool:
    return any(number in (place.device, place.source) for pg in model.map.pgs.values() for place in pg.positions)


async def test_whoever_removes_a_device_is_told_what_it_has_of_extents_that_are_held(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 6, 10)

    async def held_on(number: int) -> int | None:
        return {5: 3, 6: None}[number]

    model.rack.keeping._held_on = held_on
    assert (await model.rack.keeping.remove(5, plan=True))["held"] == 3
    assert (await model.rack.keeping.remove(6, plan=False))["held"] is None


# Orders of several operators at once


async def test_what_is_ordered_while_a_removal_is_looked_into_is_not_lost(
    rack: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await stocked(rack, 7, 10)
    keeping = model.rack.keeping
    real = removing.plan_removal

    async def slow(*args: Any) -> Any:
        told = await real(*args)
        await keeping.drain([6], plan=False)
        return told

    await keeping.drain([7], plan=False)
    monkeypatch.setattr(removing, "plan_removal", slow)
    await keeping.remove(7, plan=False)
    with model.rack.engine.read() as reader:
        assert read_leaving(reader) == keeping.leaving == {6}


async def test_of_two_drains_at_once_neither_is_lost_and_the_second_looks_again(rack: Callable[..., Any]) -> None:
    model = await stocked(rack, 7, 10)
    keeping = model.rack.keeping
    run = keeping._transactor.run

    async def late(fn: Any, **more: Any) -> Any:
        result = await run(fn, **more)
        await asyncio.sleep(0)
        return result

    keeping._transactor.run = late
    both = await asyncio.gather(keeping.drain([6], plan=False), keeping.drain([7], plan=False), return_exceptions=True)
    assert isinstance(both[1], Unavailable)
    await asyncio.gather(keeping.undrain([6]), keeping.drain([6, 7], plan=False), keeping.undrain([7]))
    with model.rack.engine.read() as reader:
        assert read_leaving(reader) == keeping.leaving == {6}
