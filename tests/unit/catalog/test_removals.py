"""From dropped extents to removal orders to nothing, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from reedbed.catalog import extents
from reedbed.catalog.edit import editing, status
from reedbed.catalog.extents import Offers
from reedbed.catalog.records import SliceRow
from reedbed.catalog.removals import EXTENTS_PER_STEP, MARKS_MAX, ORDERS_PER_ANSWER, Removals
from reedbed.common.errors import BelowHorizon, Unavailable
from reedbed.common.ids import Id, IdBlock
from reedbed.common.limits import READ_DEADLINE_MAX_S
from reedbed.protos.types import Ack, Extent, PlacementGroup, Position

GRACE = 3600.0
LAG = 900.0


async def cluster_of_three(rack: Any, **more: Any) -> Any:
    one = rack(grace_s=GRACE, lag_s=LAG, **more)
    await one.add(1, 2, 3)
    await one.cluster.ensure_profile("rs-2-1")
    return one


async def written(one: Any, count: int = 1, lengths: tuple[int, ...] = (10, 10)) -> list[Extent]:
    """Live extents with one slice each, all on the first PG."""
    block = IdBlock((await one.cluster.lease()).prefix, count)
    pg = next(iter(one.cluster.map.pgs.values()))
    acks = tuple(Ack(index, place.device, 1) for index, place in enumerate(pg.positions))
    made = [Extent(block.take(), 2, 1, pg.id, pg.generation, lengths, 0b111, acks) for _ in range(count)]
    name(one, made)
    return made


def name(one: Any, made: Iterable[Extent]) -> None:
    with one.engine.write() as writer, editing(writer, one.needs) as edit:
        for extent in made:
            extents.acquire(edit, [SliceRow(extent.id, 0, 5)], Offers(one.needs.judge, [extent]))


def drop(one: Any, made: Iterable[Extent]) -> None:
    with one.engine.write() as writer, editing(writer, one.needs) as edit:
        for extent in made:
            extents.release(edit, [SliceRow(extent.id, 0, 5)])


async def pass_time(one: Any, seconds: float) -> None:
    for _ in range(int(seconds // 10)):
        one.clock.advance(10)
        await one.leases.keep(one.transactor)


def counters(one: Any) -> dict[str, int]:
    with one.engine.read() as reader:
        return status(reader)


def rows_of_orders(one: Any) -> int:
    with one.engine.read() as reader:
        return len(list(reader.scan(b"c/o/", b"c/p"))) + len(list(reader.scan(b"c/x/", b"c/y")))


async def ordered(one: Any, device: int, done: Iterable[int] = ()) -> list[Any]:
    answer = await one.beat(device, done=tuple(done))
    return list(answer.orders)


async def test_a_dropped_extent_is_removed_from_all_its_devices_and_then_forgotten(rack: Any) -> None:
    one = await cluster_of_three(rack)
    (extent,) = await written(one)
    drop(one, [extent])
    await pass_time(one, GRACE + LAG)
    assert await one.removals.step() == 1
    assert await one.removals.step() == 0
    assert counters(one)["dropped_extents"] == 0
    pg = one.cluster.map.pgs[extent.pg]
    for number in (1, 2, 3):
        (order,) = await ordered(one, number)
        assert (order.extent, order.pg, order.generation) == (extent.id, pg.id, pg.generation)
        assert pg.positions[order.index].device == order.device == number
        assert await ordered(one, number) == [order]  # until it is reported done
        assert await ordered(one, number, [order.number]) == []
    assert rows_of_orders(one) == 0
    assert one.removals.open_orders() == {}


async def test_nothing_is_ordered_before_the_grace_and_nothing_of_live_extents_ever(rack: Any) -> None:
    one = await cluster_of_three(rack)
    kept, gone = await written(one, 2)
    await pass_time(one, 2 * LAG)
    drop(one, [gone])
    for _ in range(6):
        await pass_time(one, GRACE / 6 - 20)
        assert await one.removals.step() == 0
    await pass_time(one, 200)
    assert await one.removals.step() == 1
    assert {order.extent for number in (1, 2, 3) for order in await ordered(one, number)} == {gone.id}
    assert kept.id not in {order.extent for number in (1, 2, 3) for order in await ordered(one, number)}


async def test_where_space_is_short_the_grace_is_that_of_the_longest_read(rack: Any) -> None:
    one = rack(grace_s=10 * GRACE, lag_s=LAG)
    await one.add(1, 2, 3)
    await one.cluster.ensure_profile("rs-2-1")
    (gone,) = await written(one)
    drop(one, [gone])
    await pass_time(one, READ_DEADLINE_MAX_S + 100)
    assert await one.removals.step() == 0
    await one.beat(2, used=86 << 30)
    assert await one.removals.step() == 1
    (gone,) = await written(one)
    drop(one, [gone])
    await pass_time(one, READ_DEADLINE_MAX_S - 100)
    assert await one.removals.step() == 0, "reads may still ask for it"


async def test_nothing_is_ordered_above_the_horizon(rack: Any) -> None:
    one = rack(grace_s=1.0, lag_s=LAG)
    await one.add(1, 2, 3)
    await one.cluster.ensure_profile("rs-2-1")
    (extent,) = await written(one)
    drop(one, [extent])
    while one.leases.horizon() <= extent.id:
        assert await one.removals.step() == 0
        # so it may come back, as often as it likes
        name(one, [extent])
        assert await one.removals.step() == 0
        drop(one, [extent])
        await pass_time(one, 30)
    with pytest.raises(Unavailable, match="was dropped"):
        name(one, [extent])
    assert await one.removals.step() == 1
    with pytest.raises(BelowHorizon):
        name(one, [extent])


async def test_neither_an_outage_nor_a_wall_clock_shortens_the_grace(rack: Any) -> None:
    one = await cluster_of_three(rack)
    (extent,) = await written(one)
    await pass_time(one, 2 * LAG)
    drop(one, [extent])
    one.clock.wall_now += 10 * GRACE
    one = one.restart()
    await pass_time(one, GRACE - 100)
    assert await one.removals.step() == 0
    one.clock.wall_now -= 20 * GRACE
    await pass_time(one, 200)
    assert await one.removals.step() == 1


async def test_orders_outlive_a_restart_and_numbers_are_not_given_twice(rack: Any) -> None:
    one = await cluster_of_three(rack)
    first, second = await written(one, 2)
    drop(one, [first])
    await pass_time(one, GRACE + LAG)
    await one.removals.step()
    before = [order for number in (1, 2, 3) for order in await ordered(one, number)]
    one = one.restart()
    assert one.removals.open_orders() == {1: 1, 2: 1, 3: 1}
    assert [order for number in (1, 2, 3) for order in await ordered(one, number)] == before
    for order in before:
        await ordered(one, order.device, [order.number])
    drop(one, [second])
    await pass_time(one, GRACE + LAG)
    await one.removals.step()
    after = {order.number for number in (1, 2, 3) for order in await ordered(one, number)}
    assert min(after) > max(order.number for order in before)


async def test_only_a_devices_own_orders_can_be_reported_done_and_only_once(rack: Any) -> None:
    one = await cluster_of_three(rack)
    drop(one, await written(one))
    await pass_time(one, GRACE + LAG)
    await one.removals.step()
    (mine,) = await ordered(one, 1)
    (other,) = await ordered(one, 2)
    assert await ordered(one, 1, [other.number, 99_999]) == [mine]
    assert await ordered(one, 2) == [other]
    assert await ordered(one, 1, [mine.number, mine.number]) == []
    assert await ordered(one, 1, [mine.number]) == []
    assert one.removals.open_orders() == {2: 1, 3: 1}
    assert await ordered(one, 2) == [other]


async def test_a_generation_of_that_moment_and_the_source_of_a_move_are_named(rack: Any) -> None:
    one = await cluster_of_three(rack)
    await one.add(4)
    (extent,) = await written(one)
    old = one.cluster.map.pgs[extent.pg]
    moved = PlacementGroup(old.id, 2, 1, 5, (Position(4, old.positions[0].device), *old.positions[1:]))
    await one.keeper.change(lambda *_: ([], [moved]))
    drop(one, [extent])
    await pass_time(one, GRACE + LAG)
    await one.removals.step()
    orders = [order for number in (1, 2, 3, 4) for order in await ordered(one, number)]
    assert {order.generation for order in orders} == {5}
    assert {order.device for order in orders if order.index == 0} == {4, old.positions[0].device}
    assert len(orders) == 4


async def test_empty_shards_are_not_ordered_away_but_unacknowledged_ones_are(rack: Any) -> None:
    one = await cluster_of_three(rack)
    made = await written(one, 1, (10, 0))
    drop(one, made)
    await pass_time(one, GRACE + LAG)
    await one.removals.step()
    orders = [order for number in (1, 2, 3) for order in await ordered(one, number)]
    assert {order.index for order in orders} == {0, 2}


async def test_a_cleaned_device_has_nothing_left_to_remove(rack: Any) -> None:
    one = await cluster_of_three(rack)
    drop(one, await written(one, 5))
    await pass_time(one, GRACE + LAG)
    await one.removals.step()
    await one.cluster.register(one.asked(1, incarnation=2))
    assert one.removals.open_orders() == {2: 5, 3: 5}
    answer = await one.beat(1, incarnation=2)
    assert list(answer.orders) == []
    for number in (2, 3):
        await ordered(one, number, [order.number for order in await ordered(one, number)])
    assert rows_of_orders(one) == 0


async def test_steps_and_answers_are_bounded_and_share_fairly(rack: Any) -> None:
    one = await cluster_of_three(rack)
    count = ORDERS_PER_ANSWER + 50
    drop(one, await written(one, count))
    await pass_time(one, GRACE + LAG)
    steps = []
    while done := await one.removals.step():
        steps.append(done)
    assert steps == [200, 200, 150]
    assert max(steps) <= EXTENTS_PER_STEP
    answer = await one.cluster.heartbeat(0, [one.report(1), one.report(2)])
    by_device = [order.device for order in answer.orders]
    assert len(by_device) == ORDERS_PER_ANSWER
    assert by_device.count(1) == by_device.count(2)
    seen: set[Id] = set()
    orders = await ordered(one, 3)
    while orders:
        seen |= {order.extent for order in orders}
        orders = await ordered(one, 3, [order.number for order in orders])
    assert len(seen) == count


class _Slow:
    """A transactor whose answer comes when it is let."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.done = asyncio.Event()
        self.go = asyncio.Event()

    async def run(self, fn: Any, *, urgent: bool = False, undo: Any = None) -> Any:
        result = await self.inner.run(fn, urgent=urgent)
        self.done.set()
        await self.go.wait()
        return result


async def test_a_heartbeat_that_is_given_up_leaves_no_order_open_that_is_done(rack: Any) -> None:
    one = await cluster_of_three(rack)
    (extent,) = await written(one)
    drop(one, [extent])
    await pass_time(one, GRACE + LAG)
    await one.removals.step()
    numbers = [order.number for order in await ordered(one, 1)]
    slow = one.removals._transactor = _Slow(one.removals._transactor)
    beat = asyncio.ensure_future(one.removals.done({1: numbers}))
    await slow.done.wait()
    beat.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beat
    slow.go.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert rows_of_orders(one) == 2 + 1
    assert one.removals.open_orders() == {2: 1, 3: 1}


async def test_nothing_is_ordered_before_the_copy_knows_it_as_dropped(rack: Any) -> None:
    """Who rebuilds from a copy that still counts on the shards would not know what took their place."""
    one = await cluster_of_three(rack)
    copied: int | None = 0
    args = (one.engine, one.transactor, one.leases, one.keeper, one.needs, GRACE)
    collector = Removals(*args, copied=lambda: copied)
    first, second = await written(one, 2)
    drop(one, [first])
    known = one.engine.redo_position()
    await pass_time(one, GRACE + LAG)
    for _ in range(3):
        assert await collector.step() == 0
    copied = known - 1
    assert await collector.step() == 0
    drop(one, [second])
    copied = one.engine.redo_position()
    await collector.step()
    await collector.step()
    assert {order.extent for order in collector.orders([1, 2, 3])} == {first.id}
    await pass_time(one, GRACE + LAG)
    for _ in range(3):
        await collector.step()
    assert {order.extent for order in collector.orders([1, 2, 3])} == {first.id}, "the copy stands still"
    for upto in (one.engine.redo_position(), None):
        again = Removals(*args, copied=lambda upto=upto: upto)  # type: ignore[misc]
        await again.step()
        await again.step()
        assert second.id in {order.extent for order in again.orders([1, 2, 3])}


async def test_what_waits_for_the_copy_for_long_is_bounded(rack: Any) -> None:
    one = await cluster_of_three(rack)
    copied = 0
    collector = Removals(one.engine, one.transactor, one.leases, one.keeper, one.needs, GRACE, copied=lambda: copied)
    (extent,) = await written(one)
    drop(one, [extent])
    await pass_time(one, GRACE + LAG)
    for _ in range(MARKS_MAX + 50):
        one.clock.advance(2)
        await collector.step()
    assert len(collector._marks) == MARKS_MAX
    copied = one.engine.redo_position()
    await collector.step()
    assert {order.extent for order in collector.orders([1])} == {extent.id}
