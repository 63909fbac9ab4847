"""The map that a catalog goes on with when it is begun anew: which one is news, and what it means for what is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reedbed.catalog.mapstate import STARTS_MAX, Counters, Start, next_change, read_map, read_starts, write_change
from reedbed.catalog.memory import MemoryEngine
from reedbed.catalog.records import ExtentRow
from reedbed.catalog.remap import EPOCH_STEP, GENERATION_STEP, Copied, Heard, change_to, realigned, remap
from reedbed.common.errors import Corrupt
from reedbed.protos.types import ClusterMap, Position
from tests.unit.catalog.test_restoring import device, group, map_of


def without(map_: ClusterMap, *numbers: int) -> ClusterMap:
    return replace(map_, devices={number: one for number, one in map_.devices.items() if number not in numbers})


def places(map_: ClusterMap, pg: int = 1) -> list[tuple[int, int]]:
    return [(place.device, place.source) for place in map_.pgs[pg].positions]


# Which map counts


def test_the_newer_map_counts_and_epoch_and_generations_leap() -> None:
    copied = Copied(map_of(5, group(1, 1, 1, 2, 3), group(2, 1, 2, 3, 4)), Counters(5, 3), [Start(1), Start(2, 3, 5)])
    heard = map_of(9, group(1, 3, 1, 2, (5, 3)), group(7, 1, 1, 2, 3), devices=5)
    new = remap(copied, Heard([(2, heard)], {1: 2, 2: 6, 9: 9}))
    assert (places(new.map), places(new.map, 2), places(new.map, 7)) == (
        [(1, 0), (2, 0), (5, 3)],
        [(2, 0), (3, 0), (4, 0)],
        [(1, 0), (2, 0), (3, 0)],
    )
    assert {pg.id: pg.generation - GENERATION_STEP for pg in new.map.pgs.values()} == {1: 3, 2: 6, 7: 1}
    assert new.map.devices == heard.devices
    assert new.map.epoch == 9 + EPOCH_STEP
    assert new.counters == Counters(6, 10)
    assert (new.changed, new.removed) == ({1}, ())
    for term, epoch in ((1, 3), (2, 4), (2, 5)):  # what the copy has been through
        kept = remap(copied, Heard([(term, replace(heard, epoch=epoch))]))
        assert [places(kept.map, pg) for pg in (1, 2)] == [places(copied.map, pg) for pg in (1, 2)]
        assert kept.changed == frozenset()
        assert kept.map.epoch == max(5, epoch) + EPOCH_STEP
        # nobody knows how far generations had come: a shard may have been removed under the last one
        assert kept.map.pgs[1].generation == 3 + GENERATION_STEP
    assert remap(copied, Heard()).map.epoch == 5 + EPOCH_STEP


TODAY = map_of(120, group(1, 7, 4, 2, 3))


@pytest.mark.parametrize(
    ("heard", "moved"),
    [
        # the folder of yesterday, of term 5 and epoch 100, was served in terms 6 and 7 before anybody told it of today
        ([(5, TODAY)], True),
        ([(6, map_of(104, group(1, 5, 1, 2, 3))), (5, TODAY)], True),
        ([(7, map_of(106, group(1, 5, 1, 2, 3))), (5, replace(TODAY, epoch=102))], True),
        # what it told itself then is no news
        ([(7, map_of(106, group(1, 5, 4, 2, 3))), (6, map_of(104, group(1, 5, 4, 2, 3)))], False),
        # nor what everybody knew when it was copied
        ([(5, map_of(98, group(1, 5, 4, 2, 3))), (4, map_of(60, group(1, 5, 4, 2, 3)))], False),
        # the lost catalog was started anew too
        ([(6, replace(TODAY, epoch=126))], True),
        ([(7, replace(TODAY, epoch=126))], True),
    ],
)
def test_an_old_folder_that_was_served_does_not_take_its_own_maps_for_news(
    heard: list[tuple[int, ClusterMap]], moved: bool
) -> None:
    starts = [Start(4, 50, 5), Start(5, 80, 5), Start(6, 100, 5), Start(7, 104, 5)]
    copied = Copied(map_of(106, group(1, 5, 1, 2, 3)), Counters(5, 2), starts, strayed=True)
    new = remap(copied, Heard(heard)).map
    assert places(new)[0] == ((4, 1) if moved else (1, 0))


def test_the_stored_map_tells_in_which_terms_it_was_changed() -> None:
    engine = MemoryEngine()
    with engine.read() as reader:
        assert read_starts(reader) == ()
    one = map_of(1)
    for term in range(1, 60):
        with engine.write() as writer:
            writer.put(b"istate", term.to_bytes(8, "big") + bytes(34))
            for _ in range(3):
                change = next_change(one, [device(term)] if term not in one.devices else [device(term, used=one.epoch)])
                assert change is not None
                write_change(writer, change, Counters(max(one.devices, default=0) + 2, 1))
                one = change.apply(one) or one
    with engine.read() as reader:
        starts, stored = read_starts(reader), read_map(reader)
    assert stored is not None
    assert len(starts) == STARTS_MAX
    assert [start.term for start in starts] == list(range(60 - STARTS_MAX, 60))
    assert all(start.epoch == 1 + 3 * (start.term - 1) for start in starts)
    with engine.write() as writer:
        writer.put(b"c/cluster", b"{")
        with pytest.raises(Corrupt):
            read_starts(writer)


def test_a_change_to_the_new_map_makes_it_of_the_old_one() -> None:
    copy = map_of(5, group(1, 1, 1, 2, 3), devices=6)
    new = remap(Copied(copy, Counters(7, 2)), Heard([(2, map_of(8, group(1, 4, 1, 2, 4), group(3, 1, 1, 2, 3)))])).map
    change = change_to(copy, new)
    assert change.removed_devices == (5, 6)
    assert change.apply(copy) == new


# Devices


def test_a_device_that_was_removed_since_stays_removed_though_positions_name_it() -> None:
    copied = Copied(map_of(5, group(1, 1, 1, 2, 3), group(2, 1, 2, 3, 4)), Counters(5, 3), [Start(1)])
    heard = without(map_of(9, group(1, 2, 1, 2, 3), group(2, 2, 2, (1, 3), 4)), 3)
    new = remap(copied, Heard([(1, heard)], uuids={device(3).uuid}, numbers={3, 9}))
    assert new.removed == (device(3),)
    assert new.map.devices.keys() == {1, 2, 4}
    assert (places(new.map), places(new.map, 2)) == ([(1, 0), (2, 0), (3, 0)], [(2, 0), (1, 3), (4, 0)])
    assert change_to(copied.map, new.map).removed_devices == (3,)
    assert new.counters == Counters(10, 3)
    # one of an older map is simply not there yet
    assert remap(copied, Heard([(1, replace(heard, epoch=4))])).removed == ()


def test_numbers_that_anybody_named_are_not_given_again() -> None:
    copied = Copied(map_of(5, group(1, 1, 1, 2, 3)), Counters(5, 2))
    heard = map_of(9, group(1, 2, 1, 2, 11), group(6, 1, (2, 14), 1, 3))
    assert remap(copied, Heard([(1, heard)])).counters == Counters(15, 7)
    assert remap(copied, Heard([], {8: 1}, numbers=[12])).counters == Counters(13, 9)


def test_who_joined_an_old_folder_while_it_was_served_was_not_removed() -> None:
    """Device 5 came after the copy was brought back: the lost catalog never knew it, or by another number."""
    mine = map_of(106, group(1, 1, 1, 2, 3), devices=5)
    starts = [Start(5, 80, 1), Start(6, 100, 5)]
    copied = Copied(mine, Counters(6, 2), starts, strayed=True)
    heard = without(map_of(120, group(1, 2, 1, 2, 4)), 3)
    new = remap(copied, Heard([(5, heard)]))
    assert new.removed == (device(3),)
    assert new.map.devices.keys() == {1, 2, 4, 5}
    renamed = replace(heard, devices={**heard.devices, 7: replace(device(5), number=7)})
    assert remap(copied, Heard([(5, renamed)])).map.devices.keys() == {1, 2, 4, 7}
    # where both were in the same term, whoever answers is none that an operator took out
    same = replace(copied, starts=[Start(6, 100, 5)])
    assert remap(same, Heard([(6, heard)], uuids={device(5).uuid})).removed == (device(3),)
    assert remap(same, Heard([(6, heard)])).removed == (device(3), device(5))


# Positions


def test_a_position_that_moved_from_start_to_end_gets_its_old_device_as_source() -> None:
    copy = map_of(5, group(1, 1, 1, 2, 3), group(2, 1, (1, 4), 2, 3), devices=6)
    copied = Copied(copy, Counters(7, 3))
    heard = map_of(9, group(1, 4, 5, 2, (6, 3)), group(2, 4, 1, 5, 3), devices=6)
    new = remap(copied, Heard([(2, heard)]))
    assert places(new.map) == [(5, 1), (2, 0), (6, 3)]
    assert places(new.map, 2) == [(1, 4), (5, 2), (3, 0)]
    # not one that was cleaned meanwhile, is out, or was removed
    for gone in (device(1, incarnation=2), device(1, uuid=b"x" * 16), device(1, state="out")):
        other = replace(heard, devices={**heard.devices, 1: gone})
        assert places(remap(copied, Heard([(2, other)])).map) == [(5, 0), (2, 0), (6, 3)]
    assert places(remap(copied, Heard([(2, without(heard, 1))])).map)[0] == (5, 0)


@given(st.integers(0, 7))
def test_rows_follow_the_positions_of_the_newer_map(present: int) -> None:
    row = ExtentRow(2, 1, 1, 1, (10, 10), present, 1, 10)
    old, new = group(1, 1, 1, 2, 3), group(1, 4, 1, (4, 2), (5, 3))
    map_ = map_of(9, new, devices=5)
    map_ = replace(map_, devices={**map_.devices, 3: device(3, state="out")})
    found = realigned(row, old, new, map_)
    assert (found.generation, found.present) == (4, present)
    assert (found.moving, found.gone) == (present & 0b010, present & 0b100)
    assert realigned(found, old, new, map_) == found


@given(st.integers(0, 7), st.integers(0, 7), st.integers(0, 7))
def test_rows_stay_right_where_positions_are_as_the_copy_has_them(present: int, gone: int, moving: int) -> None:
    """An extent that was written while a position moves is at its device, and at no source."""
    row = ExtentRow(2, 1, 1, 1, (10, 10), present, 1, 10, gone=gone & present, moving=moving & present & ~gone)
    map_ = map_of(9, group(1, 4, (1, 4), (2, 5), (3, 6)), devices=6)
    found = realigned(row, replace(map_.pgs[1], generation=1), map_.pgs[1], map_)
    assert (found.present, found.gone, found.moving) == (row.present, row.gone, row.moving)
    # a source that left meanwhile costs redundancy
    away = replace(map_, devices={number: device(number, state="out") for number in map_.devices})
    found = realigned(row, replace(map_.pgs[1], generation=1), map_.pgs[1], away)
    assert (found.present, found.gone, found.moving) == (row.present, row.gone | row.moving, 0)


@pytest.mark.parametrize("moving", [0, 1])
def test_where_a_position_turned_the_bits_turn(moving: int) -> None:
    row = ExtentRow(2, 1, 1, 1, (10, 10), 0b111, 1, 10, moving=moving)
    old, new = group(1, 1, (4, 1), 2, 3), group(1, 4, (1, 4), 2, 3)
    found = realigned(row, old, new, map_of(9, new))
    assert found.moving == 1 - moving
    # a beginning that was cut short, and made again, does not turn them back
    assert realigned(found, old, new, map_of(9, new)).moving == 1
    ended = replace(new, positions=(Position(4), *new.positions[1:]))
    assert realigned(row, old, ended, map_of(9, ended)).moving == 0


def test_two_shards_that_may_lie_on_one_device_are_not_counted_as_apart() -> None:
    """The first position went to 4, then the second to where the first had been."""
    copied = Copied(map_of(5, group(1, 1, 1, 2, 3)), Counters(5, 2))
    new = remap(copied, Heard([(2, map_of(9, group(1, 4, 4, 1, 3)))])).map
    assert places(new) == [(4, 1), (1, 2), (3, 0)]
    row = realigned(ExtentRow(2, 1, 1, 1, (10, 10), 0b111, 1, 10), copied.map.pgs[1], new.pgs[1], new)
    assert (row.present, row.gone, row.moving) == (0b111, 0b001, 0b010)
