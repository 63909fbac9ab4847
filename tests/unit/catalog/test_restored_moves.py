"""A catalog begun anew on a copy from before positions moved: what devices hold is neither removed nor forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from reedbed.catalog import hold, leases, mending, restoring
from reedbed.catalog.asking import Answer, Recalled
from reedbed.catalog.comparing import Compared, Comparing, Held
from reedbed.catalog.edit import editing
from reedbed.catalog.judge import AckJudge, ProfileJudge
from reedbed.catalog.mapkeeper import MapKeeper
from reedbed.catalog.memory import MemoryEngine
from reedbed.catalog.mending import Mended
from reedbed.catalog.needs import Needs
from reedbed.catalog.records import MarkRow
from reedbed.catalog.removals import Removals
from reedbed.catalog.removed import read_removed
from reedbed.catalog.restoring import NOTICED, REBUILT, RESTORED
from reedbed.common.ids import NO_ID
from reedbed.protos.types import Ack, ClusterMap, PlacementGroup, Position
from tests.unit.catalog.test_restoring import Begun, witness

TERM = 7_000_000_000


class Served:
    """What compares, repairs and removes in a catalog that was begun anew."""

    def __init__(self, engine: MemoryEngine, rack: Any) -> None:
        transactor = type(rack.transactor)(engine)
        self.engine = engine
        self.leases = leases.Leases(engine, rack.clock)
        self.keeper = MapKeeper(engine, transactor)
        deciding = self.keeper.deciding
        self.needs = Needs(self.leases, AckJudge(deciding), ProfileJudge(deciding), rack.clock)
        with engine.read() as reader:
            held = hold.read_hold(reader)
        self.removals = Removals(engine, transactor, self.leases, self.keeper, self.needs, 86400.0, held)
        self.comparing = Comparing(engine, transactor, self.leases, self.keeper, self.needs, self.removals, held)

    async def compare(self, device: int, held: Sequence[Held], absent: Sequence[Any] = ()) -> Compared:
        pgs = list(self.keeper.map.pgs)
        return await self.comparing.shards(device, 1, NO_ID, pgs, b"", b"", held, absent)

    def orders(self) -> int:
        return sum(self.removals.open_orders().values())


@pytest.fixture
async def begun(rack: Callable[..., Any]) -> Begun:
    one = rack(lag_s=900.0)
    await one.add(1, 2, 3, 4)
    await one.cluster.ensure_profile("rs-2-1")
    return Begun(one)


async def age(rack: Any) -> None:
    """All that was written so far is below the horizon."""
    for _ in range(150):
        rack.clock.advance(10)
        await rack.leases.keep(rack.transactor)


def moved(map_: ClusterMap, epoch: int = 99) -> tuple[ClusterMap, PlacementGroup, int, int]:
    """The map of today, in which the first position of PG 1 has moved, to its end; from and to which device."""
    pg = map_.pgs[1]
    spare = ({1, 2, 3, 4} - {place.device for place in pg.positions}).pop()
    newer = replace(pg, generation=3, positions=(Position(spare), *pg.positions[1:]))
    return replace(map_, epoch=epoch, pgs={**map_.pgs, 1: newer}), newer, pg.positions[0].device, spare


async def test_a_folder_noticed_late_goes_on_with_the_map_of_today(begun: Begun) -> None:
    (extent,) = await begun.write(1)
    await age(begun.rack)
    copy = begun.copy()
    heard, _, old, new = moved(begun.rack.cluster.map, begun.rack.cluster.map.epoch + 1)
    # catalogd starts on the folder before any device answers; devices register, which changes its map
    leases.Leases(copy, begun.rack.clock)
    strayed = MapKeeper(copy, type(begun.rack.transactor)(copy))
    for used in range(1, 8):
        await strayed.change(lambda map_, _, used=used: ([replace(map_.devices[1], used=used)], []))  # type: ignore[misc]
    restoring.begin(copy, witness(map=heard, map_term=1, generations={1: 3}), TERM, NOTICED, begun.rack.clock)
    served = Served(copy, begun.rack)
    assert served.keeper.map.pgs[1].positions[0] == Position(new, old)
    found = await served.compare(new, [Held(extent.id, 0, 1, 10)])
    assert (found.garbage, found.missing, served.orders()) == (0, 0, 0)


async def test_an_extent_that_was_dropped_while_its_position_moved_is_found_where_it_is(begun: Begun) -> None:
    """The backup is from before both. Nobody moved the extent along, and now it is live again."""
    (extent,) = await begun.write(1)
    await age(begun.rack)
    copy = begun.copy()
    heard, _, old, new = moved(begun.rack.cluster.map)
    restoring.begin(copy, witness(map=heard, map_term=1, generations={1: 3}), TERM, RESTORED, begun.rack.clock)
    served = Served(copy, begun.rack)
    assert begun.row(copy, extent.id).moving == 0b001
    found = await served.compare(old, [Held(extent.id, 0, 1, 10)])
    assert (found.suspects, found.garbage, found.unknown) == ([], 0, 0)
    await served.compare(new, [])
    with copy.write() as writer, editing(writer, served.needs) as edit:
        acks = (Ack(0, new, 1),)
        assert mending.record(edit, served.keeper.map, [Mended(extent.id, acks)])[0] is not None
    row = begun.row(copy, extent.id)
    assert (row.present, row.moving, row.gone) == (0b111, 0, 0)


async def test_a_shard_where_nobody_looks_for_it_is_kept_if_it_may_be_the_only_one(begun: Begun) -> None:
    (extent,) = await begun.write(1)
    await age(begun.rack)
    copy = begun.copy()
    heard, newer, old, new = moved(begun.rack.cluster.map)
    # it moved twice meanwhile: no position names the device of the copy
    other = newer.positions[1].device
    again = replace(newer, positions=(Position(new, other), Position(old), newer.positions[2]))
    heard = replace(heard, pgs={**heard.pgs, 1: again})
    restoring.begin(copy, witness(map=heard, map_term=1), TERM, RESTORED, begun.rack.clock)
    served = Served(copy, begun.rack)
    found = await served.compare(old, [Held(extent.id, 0, 1, 10)])
    assert (found.garbage, found.unknown, served.orders()) == (0, 1, 0)


async def test_what_is_written_after_a_restore_is_no_concern_of_the_hold(begun: Begun) -> None:
    copy = begun.copy()
    restoring.begin(copy, witness(map=None), TERM, RESTORED, begun.rack.clock)
    with copy.read() as reader:
        held = hold.read_hold(reader)
    assert held.predates(held.ranges[0][0])
    assert held.predates(NO_ID)
    assert not held.predates(held.ranges[0][1])


async def test_extents_that_were_written_while_a_position_moved_are_looked_for_at_its_device(begun: Begun) -> None:
    rack = begun.rack
    _, newer, old, new = moved(rack.cluster.map)
    moving = replace(newer, generation=2, positions=(Position(new, old), *newer.positions[1:]))
    await rack.keeper.change(lambda *_: ([], [moving]))
    (extent,) = await begun.write(1)
    await age(rack)
    copy = begun.copy()
    assert (begun.row(copy, extent.id).present, begun.row(copy, extent.id).moving) == (0b111, 0)
    heard = replace(rack.cluster.map, epoch=99, pgs={**rack.cluster.map.pgs, 1: replace(moving, generation=3)})
    restoring.begin(copy, witness(map=heard, map_term=1), TERM, REBUILT, rack.clock)
    assert (begun.row(copy, extent.id).present, begun.row(copy, extent.id).moving) == (0b111, 0)
    assert (await Served(copy, rack).compare(old, [])).suspects == []


async def test_a_change_that_was_not_noted_in_all_extents_is_noted_first(begun: Begun) -> None:
    rack = begun.rack
    (extent,) = await begun.write(1)
    heard, newer, old, new = moved(rack.cluster.map)
    moving = replace(newer, generation=2, positions=(Position(new, old), *newer.positions[1:]))
    await rack.keeper.change(
        lambda *_: ([], [moving]), lambda writer: mending.put_mark(writer, 1, MarkRow(2, moving=1))
    )
    copy = begun.copy()
    # since then it ended, and the next position began to move
    third = newer.positions[2].device
    ended = replace(newer, positions=(Position(new), newer.positions[1], Position(old, third)))
    heard = replace(heard, pgs={**heard.pgs, 1: ended})
    restoring.begin(copy, witness(map=heard, map_term=1), TERM, REBUILT, rack.clock)
    row = begun.row(copy, extent.id)
    assert (row.present, row.moving, row.gone) == (0b111, 0b100, 0b001)  # what is named twice is not counted twice
    with copy.read() as reader:
        assert mending.get_mark(reader, 1) is None


async def test_a_device_that_was_removed_since_the_copy_stays_out(begun: Begun) -> None:
    rack = begun.rack
    copy = begun.copy()
    gone = rack.cluster.map.devices[4]
    heard = replace(rack.cluster.map, epoch=99, devices={n: d for n, d in rack.cluster.map.devices.items() if n != 4})
    restoring.begin(copy, witness(map=heard, map_term=1), TERM, RESTORED, rack.clock)
    with copy.read() as reader:
        assert read_removed(reader) == {gone.uuid: 4}
    keeper = Served(copy, rack).keeper
    assert 4 not in keeper.map.devices
    assert keeper.removed == {gone.uuid: 4}


async def test_a_device_that_joined_an_old_folder_before_it_was_noticed_was_not_removed(begun: Begun) -> None:
    rack = begun.rack
    copy = begun.copy()
    heard = replace(rack.cluster.map, epoch=99)
    strayed = MapKeeper(copy, type(rack.transactor)(copy))
    joined = replace(strayed.map.devices[1], number=5, uuid=b"5" * 16)
    await strayed.change(lambda *_: ([joined], []))
    answers = [Answer("", rack.cluster.map.cluster, 1, [Recalled(5, joined.uuid, None, (0, 0), None)])]
    restoring.begin(copy, witness(map=heard, map_term=1, answers=answers), TERM, NOTICED, rack.clock)
    keeper = Served(copy, rack).keeper
    assert keeper.map.devices.keys() == {1, 2, 3, 4, 5}
    assert keeper.removed == {}
