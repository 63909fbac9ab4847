"""A catalog begun anew: what is held, what is named as missing, and the map that it goes on with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from reedbed.catalog import audit, balancing, copying, extents, hold, leases, mending, released, restoring
from reedbed.catalog.asking import Answer, Recalled, ShardPlace
from reedbed.catalog.drains import read_leaving, write_leaving
from reedbed.catalog.edit import editing
from reedbed.catalog.extents import Offers
from reedbed.catalog.held import HeldExtents
from reedbed.catalog.hold import Hold
from reedbed.catalog.leftovers import Leftovers
from reedbed.catalog.mapstate import read_map
from reedbed.catalog.memory import MemoryEngine
from reedbed.catalog.moves import Released
from reedbed.catalog.records import BegunRow, CopyRow, ExtentRow, MarkRow, MissingRow, SliceRow
from reedbed.catalog.remap import EPOCH_STEP, GENERATION_STEP
from reedbed.catalog.removals import Removals
from reedbed.catalog.restoring import NOTICED, REBUILT, RESTORED, missing_of
from reedbed.catalog.witness import Witness, witness_of
from reedbed.common.clock import ManualClock
from reedbed.common.errors import Corrupt, InvalidArgument, PreconditionFailed, Unavailable, WrongCluster
from reedbed.common.ids import NO_ID, Id, IdBlock, id_time_ms, make_block
from reedbed.protos.types import Ack, CatalogNote, ClusterMap, Device, Extent, PlacementGroup, Position

CLUSTER = b"the test cluster"


def witness(**more: Any) -> Witness:
    values: dict[str, Any] = {
        "cluster": CLUSTER,
        "term": 3,
        "answers": (),
        "note": None,
        "log": (0, 0),
        "id_ms": 0,
        "map_term": 0,
        "map": MAP,
        "generations": {},
    }
    return Witness(**{**values, **more})


def device(number: int, **more: Any) -> Device:
    return replace(Device(number, bytes([number]) * 16, f"10.0.0.{number}:7301", "up"), **more)


def group(pg: int, generation: int, *places: int | tuple[int, int]) -> PlacementGroup:
    positions = tuple(Position(*place) if isinstance(place, tuple) else Position(place) for place in places)
    return PlacementGroup(pg, 2, 1, generation, positions)


def map_of(epoch: int, *pgs: PlacementGroup, devices: int = 4, **more: Any) -> ClusterMap:
    return ClusterMap(
        CLUSTER,
        epoch,
        {number: device(number) for number in range(1, devices + 1)},
        {pg.id: pg for pg in pgs},
        **{"default_profile": "rs-2-1", **more},
    )


MAP = map_of(5, group(1, 1, 1, 2, 3))


# What is missing


def settled(log: tuple[int, int], *, is_: bool = True, term: int = 2) -> CatalogNote:
    return CatalogNote(term, 1, log=log, settled=is_)


def test_nothing_is_missing_if_the_newest_note_says_that_the_copy_has_all() -> None:
    assert missing_of((2, 10), 0, witness(note=settled((2, 10)), log=(2, 10))) is None
    assert missing_of((2, 12), 0, witness(note=settled((2, 10)), log=(2, 10))) is None


def test_what_somebody_heard_of_is_named_and_that_there_may_be_more() -> None:
    note = settled((2, 14), is_=False)
    assert missing_of((2, 10), 0, witness(note=note, log=(2, 15))) == MissingRow(2, 10, 15, True)
    assert missing_of((2, 15), 0, witness(note=note, log=(2, 15))) == MissingRow(2, 15, 15, True)
    # entries that no copy has, but no more than these: a backup of yesterday
    assert missing_of((1, 10), 0, witness(note=settled((2, 15)), log=(2, 15))) == MissingRow(2, 10, 15, False)


def test_without_enough_devices_the_end_stays_open() -> None:
    known = settled((2, 10))
    assert missing_of((2, 10), 0, witness(note=known, log=(2, 10), away=[1])) is None  # rs-2-1 may lose one
    assert missing_of((2, 10), 0, witness(note=known, log=(2, 10), away=[1, 2])) == MissingRow(2, 10, 10, True)
    assert missing_of((2, 10), 0, witness()) == MissingRow(2, 10, 10, True)
    assert missing_of((2, 10), 0, witness(note=known, map=None)) == MissingRow(2, 10, 10, True)


def test_positions_from_before_it_was_last_begun_anew_are_accounted_for() -> None:
    note = settled((9, 12), term=9)
    assert missing_of((9, 12), 8, witness(note=note, log=(7, 99))) is None


# What devices witness


def recalled(number: int, **more: Any) -> Recalled:
    values: dict[str, Any] = {"uuid": bytes([number]) * 16, "highest": None, "log": (0, 0), "note": None}
    return Recalled(number, **{**values, **more})


def answer(*devices: Recalled, **more: Any) -> Answer:
    values: dict[str, Any] = {"cluster": CLUSTER, "term": 1}
    return Answer(more.pop("address", "a:1"), devices=devices, **{**values, **more})


def test_the_newest_of_what_devices_tell_counts() -> None:
    old, new = CatalogNote(2, 9, "x:1", (2, 5)), CatalogNote(3, 1, "y:1", (3, 7), id_bound_ms=4000)
    newer = map_of(9, group(1, 2, 1, 2, 4))
    found = witness_of(
        [
            answer(recalled(1, note=new, highest=Id(make_block(3000, 1) + bytes(4))), term=2, map_term=2, map=newer),
            answer(recalled(2, note=old, log=(3, 9), generations={1: 4, 2: 1}), term=5, map_term=1, map=map_of(99)),
            answer(recalled(3, generations={1: 3}), endpoints=["z:1"]),
        ]
    )
    assert (found.term, found.note, found.log, found.id_ms) == (5, new, (3, 9), 4000)
    assert (found.map_term, found.map) == (2, newer)
    assert found.generations == {1: 4, 2: 1}
    assert found.endpoints == ["x:1", "y:1", "z:1"]
    assert (found.away, found.complete) == ([4], True)


def test_too_many_devices_away_make_it_incomplete() -> None:
    found = witness_of([answer(recalled(1), map_term=1, map=MAP), answer(recalled(2))])
    assert (found.away, found.complete) == ([3, 4], False)
    gone = replace(MAP, devices={**MAP.devices, 4: device(4, state="out")})
    assert witness_of([answer(recalled(1), map_term=1, map=gone), answer(recalled(2))]).complete
    assert not witness_of([answer(recalled(1))]).complete  # nobody knows what there is


def test_answers_of_several_clusters_or_none_at_all_are_refused() -> None:
    with pytest.raises(Unavailable, match="no storaged answers"):
        witness_of([])
    with pytest.raises(WrongCluster):
        witness_of([answer(recalled(1)), answer(recalled(2), cluster=b"x" * 16)])


# All of it, in an engine


class Begun:
    """A cluster of four devices under rs-2-1, and its engine as a copy."""

    def __init__(self, rack: Any) -> None:
        self.rack = rack
        self.extents: list[Extent] = []

    async def write(self, count: int) -> list[Extent]:
        pg = self.rack.cluster.map.pgs[1]
        block = IdBlock((await self.rack.cluster.lease()).prefix, count)
        acks = tuple(Ack(index, place.device, 1) for index, place in enumerate(pg.positions))
        made = [Extent(block.take(), 2, 1, pg.id, pg.generation, (10, 7), 0b111, acks) for _ in range(count)]
        self.extents += made
        with self.rack.engine.write() as writer, editing(writer, self.rack.needs) as edit:
            for extent in made:
                extents.acquire(edit, [SliceRow(extent.id, 0, 5)], Offers(self.rack.needs.judge, [extent]))
                edit.append(0, extent.id, "data", b"key")
        return made

    def copy(self) -> MemoryEngine:
        """An engine that holds the same, as of the same record."""
        copy = MemoryEngine()
        with self.rack.engine.read() as reader:
            copy.load(list(reader.scan(b"")), self.rack.engine.redo_position())
        return copy

    def row(self, engine: MemoryEngine, extent: Id) -> ExtentRow:
        with engine.read() as reader:
            row = extents.get(reader, extent)
            assert [one for one in audit.check(reader) if "references" not in one] == []
        assert row is not None
        return row


@pytest.fixture
async def begun(rack: Callable[..., Any]) -> Begun:
    one = rack(lag_s=900.0)
    await one.add(1, 2, 3, 4)
    await one.cluster.ensure_profile("rs-2-1")
    return Begun(one)


async def test_a_rebuilt_catalog_holds_what_may_have_come_after_its_copy(begun: Begun) -> None:
    (old,) = await begun.write(1)
    for _ in range(100):
        begun.rack.clock.advance(10)
        await begun.rack.leases.keep(begun.rack.transactor)
    horizon = begun.rack.leases.horizon()
    assert old.id < horizon
    copy = begun.copy()
    (lost,) = await begun.write(1)
    seen = witness(note=settled((1, 2), is_=False, term=1), log=(1, 2), id_ms=id_time_ms(lost.id))
    clock = begun.rack.clock
    done = restoring.begin(copy, seen, 7_000_000_000, REBUILT, clock, stream=CopyRow(b"s" * 16, 9))
    with copy.read() as reader:
        held = hold.read_hold(reader)
        assert held == Hold((done.held,))
        assert done.held[0] == horizon
        assert not held.covers(old.id)
        assert held.covers(lost.id)
        assert hold.base_term(reader) == 7_000_000_000
        (told,) = hold.describe(reader)
        assert told["missing"] == {"term": 1, "from": 2, "to": 2, "open": True}
        assert copying.read(reader) == CopyRow(b"s" * 16, 9)
    after = leases.Leases(copy, clock)
    assert after.term() == 7_000_000_001
    assert Id(IdBlock((await after.lease(begun.rack.transactor)).prefix, 1).take()) >= done.held[1]
    assert after.horizon() >= done.held[1]


async def test_a_catalog_that_finds_out_by_itself_holds_everything_it_does_not_know(begun: Begun) -> None:
    """Its horizon may have risen since the folder was brought back."""
    await begun.write(1)
    done = restoring.begin(begun.copy(), witness(), 7_000_000_000, NOTICED, begun.rack.clock)
    assert done.held[0] == NO_ID


async def test_ranges_that_are_held_stay_held(begun: Begun) -> None:
    copy = begun.copy()
    first = restoring.begin(copy, witness(), 7_000_000_000, REBUILT, begun.rack.clock)
    begun.rack.clock.advance(1e6)
    leases.Leases(copy, begun.rack.clock)
    second = restoring.begin(copy, witness(id_ms=1 << 45), 8_000_000_000, RESTORED, begun.rack.clock)
    with copy.read() as reader:
        held = hold.read_hold(reader)
        assert held.covers(first.held[0])
        assert held.covers(second.held[0])
        assert len(list(hold.begun(reader))) == 2
        assert hold.base_term(reader) == 8_000_000_000
        assert copying.read(reader) is None
    with copy.write() as writer:
        assert hold.acknowledge(writer) == 2
        assert hold.acknowledge(writer) == 0
        assert hold.describe(writer) == []


async def test_positions_that_moved_since_the_copy_are_where_devices_heard_of_them(begun: Begun) -> None:
    moved, same = await begun.write(2)
    copy = begun.copy()
    pg = begun.rack.cluster.map.pgs[1]
    spare = ({1, 2, 3, 4} - {place.device for place in pg.positions}).pop()
    old = pg.positions[0].device
    # the lost catalog moved a position, noted that in its extents, and told devices
    newer = replace(pg, generation=3, positions=(Position(spare, old), *pg.positions[1:]))
    heard = replace(begun.rack.cluster.map, epoch=99, pgs={**begun.rack.cluster.map.pgs, 1: newer})
    with copy.write() as writer:
        mending.put_mark(writer, 1, MarkRow(2, moving=1))  # and the copy is from amid an earlier change
    restoring.begin(copy, witness(map=heard, map_term=1, generations={2: 5}), 7_000_000_000, REBUILT, begun.rack.clock)
    for extent in (moved, same):
        row = begun.row(copy, extent.id)
        assert (row.generation, row.present, row.moving, row.gone) == (3 + GENERATION_STEP, 0b111, 0b001, 0)
    with copy.read() as reader:
        stored = read_map(reader)
        assert mending.get_mark(reader, 1) is None
    assert stored is not None
    assert stored[0].pgs[1] == replace(newer, generation=3 + GENERATION_STEP)
    assert stored[0].pgs[2].generation == 5 + GENERATION_STEP
    assert stored[0].epoch > 99 + EPOCH_STEP - 1


async def test_a_copy_without_a_map_is_none(begun: Begun) -> None:
    with pytest.raises(Corrupt, match="no cluster map"):
        restoring.begin(MemoryEngine(), witness(), 7_000_000_000, REBUILT, ManualClock())


# Held


def test_ranges_are_joined_and_an_old_row_is_read() -> None:
    engine = MemoryEngine()
    ids = [Id(bytes([number]) * 16) for number in range(10)]
    with engine.write() as writer:
        writer.put(hold.HELD_ROW, ids[2])
        assert hold.read_hold(writer) == Hold(((NO_ID, ids[2]),))
        hold.hold(writer, ids[4], ids[6])
        hold.hold(writer, ids[8], ids[9])
        assert hold.read_hold(writer).ranges == ((NO_ID, ids[2]), (ids[4], ids[6]), (ids[8], ids[9]))
        hold.hold(writer, ids[5], ids[8])
        assert hold.read_hold(writer).ranges == ((NO_ID, ids[2]), (ids[4], ids[9]))
        held = hold.read_hold(writer)
        assert [held.covers(id_) for id_ in ids] == [True, True, False, False, *[True] * 5, False]
        writer.put(hold.HELD_ROW, b"short")
        with pytest.raises(Corrupt):
            hold.read_hold(writer)


async def test_a_dropped_extent_that_is_held_outlives_every_grace(begun: Begun, rack: Callable[..., Any]) -> None:
    """The lost catalog may have named it again: an extent is shared by objects that are committed one by one."""
    made = await begun.write(6)
    one = begun.rack
    with one.engine.write() as writer, editing(writer, one.needs) as edit:
        for extent in made:
            extents.release(edit, [SliceRow(extent.id, 0, 5)])
    held = Hold(((made[1].id, made[4].id),))
    collector = Removals(one.engine, one.transactor, one.leases, one.keeper, one.needs, 3600.0, held)
    for _ in range(2000):
        one.clock.advance(10)
        await one.leases.keep(one.transactor)
    while await collector.step():
        pass
    ordered = {order.extent for order in collector.orders([1, 2, 3, 4])}
    assert ordered == {made[0].id, made[4].id, made[5].id}
    with one.engine.read() as reader:
        for extent in made[1:4]:
            row = extents.get(reader, extent.id)
            assert row is not None
            assert row.dropped_ms is not None
    # what is dropped later is found behind those that stay
    (later,) = await begun.write(1)
    with one.engine.write() as writer, editing(writer, one.needs) as edit:
        extents.release(edit, [SliceRow(later.id, 0, 5)])
    assert await collector.step() == 0
    for _ in range(2000):
        one.clock.advance(10)
        await one.leases.keep(one.transactor)
    while await collector.step():
        pass
    assert later.id in {order.extent for order in collector.orders([1, 2, 3, 4])}


def test_begun_rows_are_told_with_what_is_missing() -> None:
    assert hold.missing_as_json(BegunRow("x", 1, 2)) is None
    lost = BegunRow("x", 1, 2, MissingRow(3, 10, 10, True))
    assert hold.missing_as_json(lost) == {"term": 3, "from": 11, "to": None, "open": True}


async def test_orders_of_operators_are_forgotten_and_told(begun: Begun) -> None:
    """Since the copy they may have been carried out, or taken back; and they would empty what may have held shards."""
    with begun.rack.engine.write() as writer:
        write_leaving(writer, frozenset({2, 4}))
        writer.put(balancing.ROW, b'{"targets": [3], "all": false}')
    for how in (REBUILT, RESTORED, NOTICED):
        copy = begun.copy()
        done = restoring.begin(copy, witness(), 7_000_000_000, how, begun.rack.clock)
        assert done.forgotten == ("the drain of devices 2, 4", "giving devices their share")
        with copy.read() as reader:
            assert read_leaving(reader) == frozenset()
            assert reader.get(balancing.ROW) is None
        assert restoring.begin(copy, witness(), 8_000_000_000, how, begun.rack.clock).forgotten == ()


async def test_what_left_a_device_is_forgotten_although_a_dropped_extent_is_held(begun: Begun) -> None:
    one = begun.rack
    kept, gone = await begun.write(2)
    with one.engine.write() as writer, editing(writer, one.needs) as edit:
        for extent in (kept, gone):
            extents.release(edit, [SliceRow(extent.id, 0, 5)])
    spare = ({1, 2, 3, 4} - {place.device for place in one.cluster.map.pgs[1].positions}).pop()
    with one.engine.write() as writer:
        released.note(writer, one.cluster.map, [Released(1, 0, spare, 1)], one.leases.id_time_ms())
    held = Hold(((kept.id, gone.id),))
    collector = Removals(one.engine, one.transactor, one.leases, one.keeper, one.needs, 3600.0, held)
    leftovers = Leftovers(one.engine, one.transactor, one.leases, one.keeper, collector)

    def rows() -> int:
        with one.engine.read() as reader:
            return len(list(released.of_pg(reader, 1)))

    for _ in range(20):
        one.clock.advance(60)
        await leftovers.step()
    assert rows() == 1, "what is dropped and not held has no orders yet"
    for _ in range(300):
        one.clock.advance(60)
        await one.leases.keep(one.transactor)
        await collector.step()
        await leftovers.step()
    assert gone.id in {order.extent for order in collector.orders([spare])}
    assert rows() == 0
    # and where that is all there is, nothing is waited for
    with one.engine.write() as writer:
        released.note(writer, one.cluster.map, [Released(1, 0, spare, 1)], one.leases.id_time_ms())
    fresh = Removals(one.engine, one.transactor, one.leases, one.keeper, one.needs, 3600.0, held)
    leftovers = Leftovers(one.engine, one.transactor, one.leases, one.keeper, fresh)
    for _ in range(3):
        await leftovers.step()
    assert rows() == 0


class Listing:
    """Device 1 lists one shard of each of these extents; others none, device 3 does not answer."""

    def __init__(self, *listed: Id, away: tuple[int, ...] = (3,)) -> None:
        self.listed = sorted(listed)
        self.away = away

    async def shards(
        self, address: str, number: int, after: tuple[Id, int], *, system: bool, limit: int
    ) -> tuple[list[ShardPlace], bool]:
        if number in self.away:
            raise Unavailable("away")
        behind = [one for one in self.listed if number == 1 and one > after[0]]
        return [ShardPlace(one, 0, 2, 1, 1, 1, 10, 1) for one in behind[:2]], len(behind) > 2


async def test_an_order_to_remove_what_is_held_that_is_given_up_is_counted(begun: Begun) -> None:
    one = begun.rack
    extent = Id(make_block(5, 1) + bytes(4))
    go = asyncio.Event()

    class Late:
        async def run(self, fn: Any, **more: Any) -> Any:
            async def work() -> Any:
                await go.wait()
                return await one.transactor.run(fn, **more)

            return await asyncio.shield(asyncio.ensure_future(work()))

    everything = Hold(((NO_ID, Id(b"\xff" * 16)),))
    asking: Any = Listing(extent)
    held = HeldExtents(one.engine, Late(), one.needs, one.removals, everything, lambda: one.keeper.map, asking)
    task = asyncio.ensure_future(held.delete([extent]))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    go.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert one.removals.open_orders() == one.restart().removals.open_orders() == {1: 1}


async def test_what_a_device_has_of_held_extents_is_counted(begun: Begun) -> None:
    one = begun.rack
    (live,) = await begun.write(1)
    low, high = Id(make_block(5, 1) + bytes(4)), Id(b"\xfe" * 16)
    unknown = [Id(make_block(5, 1) + bytes([0, 0, 0, count])) for count in range(1, 6)]
    asking: Any = Listing(live.id, *unknown, high, Id(b"\xff" * 15 + b"\xf0"))
    hold_ = Hold(((low, high),))
    held = HeldExtents(one.engine, one.transactor, one.needs, one.removals, hold_, lambda: one.keeper.map, asking)
    assert [await held.on(number) for number in (1, 2, 3, 9)] == [5, 0, None, 0]


async def test_a_hold_ends_when_nothing_is_held_and_all_is_whole(begun: Begun) -> None:
    one = begun.rack
    low, high = Id(make_block(5, 1) + bytes(4)), Id(b"\xfe" * 16)
    unknown = Id(make_block(5, 1) + bytes([0, 0, 0, 1]))
    with one.engine.write() as writer:
        hold.hold(writer, low, high)

    def held_by(asking: Any, ranges: tuple[tuple[Id, Id], ...] = ((low, high),)) -> tuple[Hold, HeldExtents]:
        kept = Hold(ranges)
        return kept, HeldExtents(
            one.engine, one.transactor, one.needs, one.removals, kept, lambda: one.keeper.map, asking
        )

    kept, held = held_by(Listing(unknown, away=()))
    with pytest.raises(PreconditionFailed, match="nobody knows"):
        await held.end()
    kept, held = held_by(Listing())
    with pytest.raises(PreconditionFailed, match="away"):
        await held.end()
    (extent,) = await begun.write(1)
    kept, held = held_by(Listing(away=()))
    with one.engine.write() as writer, editing(writer, one.needs) as edit:
        extents.set_present(edit, extent.id, extent.present & ~1)
    with pytest.raises(PreconditionFailed, match="not whole"):
        await held.end()
    assert kept.ranges
    with one.engine.write() as writer, editing(writer, one.needs) as edit:
        extents.set_present(edit, extent.id, extent.present)
    await held.end()
    assert not kept.ranges
    with one.engine.read() as reader:
        assert hold.read_hold(reader) == Hold()
    with pytest.raises(InvalidArgument, match="nothing is held"):
        await held.end()
