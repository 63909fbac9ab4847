"""What devices hold against what they should hold, and damaged shards that they report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from reedbed.catalog import audit, comparing, extents, lacks
from reedbed.catalog.comparing import Comparing, Held
from reedbed.catalog.edit import editing
from reedbed.catalog.extents import Offers
from reedbed.catalog.hold import Hold
from reedbed.catalog.records import ExtentRow, SliceRow
from reedbed.catalog.warden import Warden
from reedbed.common.ids import NO_ID, Id, IdBlock
from reedbed.extents.digest import ShardsDigest
from reedbed.protos.types import Ack, Extent, Position

LAG = 900.0


async def cluster_of(rack: Any, *devices: int) -> Any:
    one = rack(lag_s=LAG)
    await one.add(*devices)
    await one.cluster.ensure_profile("rs-2-1")
    one.comparing = Comparing(one.engine, one.transactor, one.leases, one.keeper, one.needs, one.removals)
    return one


async def ids(one: Any, count: int) -> list[Id]:
    block = IdBlock((await one.cluster.lease()).prefix, count)
    return [block.take() for _ in range(count)]


async def written(one: Any, count: int, lengths: tuple[int, ...] = (10, 7)) -> list[Extent]:
    pg = next(iter(one.cluster.map.pgs.values()))
    acks = tuple(Ack(index, place.device, 1) for index, place in enumerate(pg.positions))
    made = [Extent(id_, 2, 1, pg.id, pg.generation, lengths, 0b111, acks) for id_ in await ids(one, count)]
    with one.engine.write() as writer, editing(writer, one.needs) as edit:
        for extent in made:
            extents.acquire(edit, [SliceRow(extent.id, 0, 5)], Offers(one.needs.judge, [extent]))
    return made


async def pass_time(one: Any, seconds: float) -> None:
    for _ in range(int(seconds // 10)):
        one.clock.advance(10)
        await one.leases.keep(one.transactor)


def shards_of(one: Any, device: int, made: Iterable[Extent]) -> list[Held]:
    """What the device has if all is well."""
    found = []
    for extent in made:
        for index, place in enumerate(one.cluster.map.pgs[extent.pg].positions):
            if place.device == device:
                length = extent.lengths[index] if index < extent.k else max(extent.lengths)
                found.append(Held(extent.id, index, extent.pg, length))
    return sorted(found, key=lambda held: (held.extent, held.index))


def digests_of(held: Iterable[Held]) -> dict[int, ShardsDigest]:
    found: dict[int, ShardsDigest] = {}
    for one in held:
        found.setdefault(one.pg, ShardsDigest()).add(one.extent, one.index, one.length)
    return found


def queue(one: Any) -> dict[Id, int]:
    with one.engine.read() as reader:
        # nothing but this test names the extents
        assert [problem for problem in audit.check(reader) if "references" not in problem] == []
        return {extent: missing for extent, _, missing in lacks.degraded(reader, 1000)}


async def compare(one: Any, device: int, held: list[Held], **more: Any) -> comparing.Compared:
    """Every PG, in one call."""
    below = more.pop("below", NO_ID)
    found: comparing.Compared = await one.comparing.shards(
        device, more.pop("incarnation", 1), below, list(one.cluster.map.pgs), b"", b"", held, more.pop("absent", ())
    )
    return found


# Damaged shards


async def test_a_damaged_shard_is_noted_as_missing_and_queued(rack: Any) -> None:
    one = await cluster_of(rack, 1, 2, 3)
    first, second = await written(one, 2)
    (shard,) = shards_of(one, 2, [first])
    key = (first.id, shard.index)
    assert await one.comparing.lost({2: (1, [key])}) == {2: []}
    assert queue(one) == {first.id: 1 << shard.index}
    await pass_time(one, LAG + 60)
    assert await one.comparing.lost({2: (1, [key])}) == {2: [key]}
    assert queue(one) == {first.id: 1 << shard.index}
    assert second.id not in queue(one)


async def test_only_the_device_that_is_counted_on_can_lose_a_shard(rack: Any) -> None:
    one = await cluster_of(rack, 1, 2, 3)
    (extent,) = await written(one, 1)
    (shard,) = shards_of(one, 2, [extent])
    key = (extent.id, shard.index)
    await pass_time(one, LAG + 60)
    assert await one.comparing.lost({3: (1, [key])}) == {3: [key]}
    assert await one.comparing.lost({2: (2, [key])}) == {}  # another incarnation
    assert await one.comparing.lost({2: (1, [(extent.id, 39)])}) == {2: [(extent.id, 39)]}
    assert queue(one) == {}


async def test_a_shard_at_the_source_of_a_moving_position_is_that_of_the_source(rack: Any) -> None:
    one = await cluster_of(rack, 1, 2, 3, 4)
    (extent,) = await written(one, 1)
    pg = one.cluster.map.pgs[extent.pg]
    old = pg.positions[0].device
    new = ({1, 2, 3, 4} - {place.device for place in pg.positions}).pop()
    moved = replace(pg, generation=2, positions=(Position(new, old), *pg.positions[1:]))
    await one.keeper.change(lambda map_, counters: ([], [moved]))
    with one.engine.write() as writer, editing(writer, one.needs) as edit:
        row = extents.get(writer, extent.id)
        assert row is not None
        lacks.store(edit, extent.id, row, _replace(row, moving=1, generation=2))
    await one.comparing.lost({new: (1, [(extent.id, 0)])})
    assert queue(one) == {extent.id: 1}  # to be copied, as before
    with one.engine.read() as reader:
        assert lacks.lacks(reader)[0].masks.missing == 0
    await one.comparing.lost({old: (1, [(extent.id, 0)])})
    with one.engine.read() as reader:
        assert lacks.lacks(reader)[0].masks.missing == 1


def _replace(row: Any, **changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(row, **changes)


async def test_damage_of_an_extent_that_a_commit_may_still_name_stays_reported(rack: Any) -> None:
    """Else the commit would count the shard."""
    one = await cluster_of(rack, 1, 2, 3)
    (id_,) = await ids(one, 1)
    assert await one.comparing.lost({2: (1, [(id_, 0)])}) == {2: []}
    await pass_time(one, LAG + 60)
    assert await one.comparing.lost({2: (1, [(id_, 0)])}) == {2: [(id_, 0)]}


async def test_damage_of_a_dropped_extent_is_only_heard(rack: Any) -> None:
    one = await cluster_of(rack, 1, 2, 3)
    (extent,) = await written(one, 1)
    with one.engine.write() as writer, editing(writer, one.needs) as edit:
        extents.release(edit, [SliceRow(extent.id, 0, 5)])
    (shard,) = shards_of(one, 2, [extent])
    key = (extent.id, shard.index)
    assert await one.comparing.lost({2: (1, [key])}) == {2: []}  # it may be revived
    await pass_time(one, LAG + 60)
    assert await one.comparing.lost({2: (1, [key])}) == {2: [key]}
    assert queue(one) == {}


async def test_a_shard_that_a_late_commit_counts_again_is_noted_again(rack: Any) -> None:
    one = await cluster_of(rack, 1, 2, 3)
    (extent,) = await written(one, 1)
    (shard,) = shards_of(one, 2, [extent])
    key = (extent.id, shard.index)
    slices = [SliceRow(extent.id, 0, 5)]
    for revived in (False, True):
        await one.comparing.lost({2: (1, [key])})
        assert queue(one) == {extent.id: 1 << shard.index}
        with one.engine.write() as writer, editing(writer, one.needs) as edit:
            if revived:
                extents.release(edit, slices * 2)
            extents.acquire(edit, slices, Offers(one.needs.judge, [extent]))
        assert queue(one) == {}
        assert await one.comparing.lost({2: (1, [key])}) == {2: []}
        assert queue(one) == {extent.id: 1 << shard.index}
    await pass_time(one, LAG + 60)
    with one.engine.write() as writer, editing(writer, one.needs) as edit:
        extents.acquire(edit, slices, Offers(one.needs.judge, [extent]))
    assert queue(one) == {extent.id: 1 << shard.index}


def test_readers_ask_damaged_shards_for_their_good_blocks_where_too_few_are_whole() -> None:
    row = ExtentRow(2, 1, 1, 1, (10, 7), 0b111, 1, 10)
    assert lacks.visible(row) == 0b111
    assert lacks.visible(_replace(row, present=0b101)) == 0b101
    assert lacks.visible(_replace(row, gone=0b010)) == 0b101
    assert lacks.visible(_replace(row, gone=0b110)) == 0b111
    assert lacks.visible(_replace(row, present=0b100)) == 0b111
    one_shard = ExtentRow(2, 1, 1, 1, (10, 0), 0b101, 1, 10)
    assert lacks.visible(_replace(one_shard, present=0b100)) == 0b100
    assert lacks.visible(_replace(one_shard, present=0)) == 0b101


# Comparison


async def test_equal_pgs_are_told_by_their_digests_alone(rack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "SCAN", 3)
    one = await cluster_of(rack, 1, 2, 3)
    made = await written(one, 8)
    await pass_time(one, LAG + 60)
    later = await written(one, 2)
    below = one.comparing.below()
    assert made[-1].id < below <= later[0].id
    for device in (1, 2, 3):
        held = shards_of(one, device, made)
        assert await one.comparing.differing(device, below, digests_of(held)) == []
        assert await one.comparing.differing(device, below, digests_of(held[1:])) == [held[0].pg]
        assert await one.comparing.differing(device, below, {}) == [held[0].pg]
        longer = [replace(held[0], length=99), *held[1:]]
        assert await one.comparing.differing(device, below, digests_of(longer)) == [held[0].pg]
    assert await one.comparing.differing(1, below, {**digests_of(held), 77: ShardsDigest(1, 1)}) != []


async def test_a_shard_that_nobody_remembers_on_the_device_is_found_missing(rack: Any) -> None:
    one = await cluster_of(rack, 1, 2, 3)
    made = await written(one, 5)
    held = shards_of(one, 2, made)
    suspects = (await compare(one, 2, held[2:])).suspects
    assert suspects == [(shard.extent, shard.index) for shard in held[:2]]
    assert queue(one) == {}  # the device looks again first
    compared = await compare(one, 2, held[2:], absent=suspects)
    assert compared.missing == 2
    assert compared.suspects == []
    assert set(queue(one)) == {made[0].id, made[1].id}
    assert (await compare(one, 2, [], absent=suspects, incarnation=2)) == comparing.Compared()


async def test_a_range_that_is_too_long_is_cut(rack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "SCAN", 2)
    one = await cluster_of(rack, 1, 2, 3)
    made = await written(one, 5)
    first = await compare(one, 2, [])
    assert first.upto == made[1].id
    assert [extent for extent, _ in first.suspects] == [made[0].id, made[1].id]
    rest = await one.comparing.shards(2, 1, NO_ID, [], first.upto, made[3].id, [], [])
    assert rest.upto == made[3].id
    assert [extent for extent, _ in rest.suspects] == [made[2].id, made[3].id]
    last = await one.comparing.shards(2, 1, NO_ID, [], made[3].id, b"", [], [])
    assert last.upto is None


async def test_only_chosen_pgs_are_compared_below_the_mark(rack: Any) -> None:
    one = await cluster_of(rack, 1, 2, 3)
    made = await written(one, 4)
    compared = await one.comparing.shards(2, 1, made[2].id, [], b"", b"", [], [])
    assert [extent for extent, _ in compared.suspects] == [made[2].id, made[3].id]


async def test_a_shard_that_nobody_knows_is_removed_once_no_commit_can_name_it(rack: Any) -> None:
    one = await cluster_of(rack, 1, 2, 3)
    pg = next(iter(one.cluster.map.pgs.values()))
    (id_,) = await ids(one, 1)
    held = [Held(id_, 0, pg.id, 10)]
    compared = await compare(one, 2, held)
    assert (compared.garbage, compared.unknown) == (0, 0)  # a commit may still name it
    assert list((await one.beat(2)).orders) == []
    await pass_time(one, LAG + 60)
    compared = await compare(one, 2, held)
    assert (compared.garbage, compared.unknown) == (1, 0)
    (order,) = (await one.beat(2)).orders
    assert (order.device, order.extent, order.index, order.pg) == (2, id_, 0, pg.id)
    assert order.generation == pg.generation  # what is put there under a later one stays


async def test_a_shard_of_nobody_on_a_group_that_the_map_lacks_is_kept(rack: Any) -> None:
    one = await cluster_of(rack, 1, 2, 3)
    (id_,) = await ids(one, 1)
    await pass_time(one, LAG + 60)
    compared = await compare(one, 2, [Held(id_, 0, 9999, 10)])
    assert (compared.garbage, compared.unknown) == (0, 1)


async def test_what_is_known_is_no_garbage(rack: Any) -> None:
    one = await cluster_of(rack, 1, 2, 3)
    live, dropped = await written(one, 2)
    with one.engine.write() as writer, editing(writer, one.needs) as edit:
        extents.release(edit, [SliceRow(dropped.id, 0, 5)])
    await pass_time(one, LAG + 60)
    held = shards_of(one, 2, [live, dropped])
    assert (await compare(one, 2, held)).garbage == 0


async def test_a_shard_where_no_position_points_any_more_is_garbage(rack: Any) -> None:
    one = await cluster_of(rack, 1, 2, 3, 4)
    (extent,) = await written(one, 1)
    pg = one.cluster.map.pgs[extent.pg]
    old = pg.positions[0].device
    new = ({1, 2, 3, 4} - {place.device for place in pg.positions}).pop()
    await pass_time(one, LAG + 60)
    held = [Held(extent.id, 0, pg.id, 10)]
    moving = replace(pg, generation=2, positions=(Position(new, old), *pg.positions[1:]))
    await one.keeper.change(lambda map_, counters: ([], [moving]))
    assert (await compare(one, old, held)).garbage == 0
    moved = replace(pg, generation=3, positions=(Position(new), *pg.positions[1:]))
    await one.keeper.change(lambda map_, counters: ([], [moved]))
    assert (await compare(one, old, held)).garbage == 1
    (order,) = (await one.beat(old)).orders
    assert order.generation == 3


# After the catalog was begun anew


async def test_what_may_belong_to_what_was_lost_is_kept_for_ever(rack: Any) -> None:
    one = await cluster_of(rack, 1, 2, 3)
    pg = next(iter(one.cluster.map.pgs.values()))
    before, lost, after = [(await ids(one, 1))[0] for _ in range(3)]
    one.comparing = Comparing(
        one.engine,
        one.transactor,
        one.leases,
        one.keeper,
        one.needs,
        one.removals,
        Hold(((lost, after),)),
    )
    await pass_time(one, 100 * LAG)
    compared = await compare(one, 2, [Held(id_, 0, pg.id, 10) for id_ in (before, lost, after)])
    assert (compared.garbage, compared.unknown) == (2, 1)
    assert {order.extent for order in (await one.beat(2)).orders} == {before, after}


async def test_nothing_of_nobody_is_removed_before_every_device_has_told_what_it_remembers(rack: Any) -> None:
    """Another one may know that this catalog is an old copy of its folder."""
    one = await cluster_of(rack, 1, 2, 3)
    pg = next(iter(one.cluster.map.pgs.values()))
    (id_,) = await ids(one, 1)
    warden = Warden(one.engine, one.leases, one.clock)
    one.comparing = Comparing(
        one.engine, one.transactor, one.leases, one.keeper, one.needs, one.removals, warden=warden
    )
    await pass_time(one, LAG + 60)
    for device in (2, 3):
        compared = await compare(one, 2, [Held(id_, 0, pg.id, 10)])
        assert (compared.garbage, compared.unknown) == (0, 1)
        warden.heard(device, None)
    assert warden.unheard(one.cluster.map) == [1]
    gone = replace(one.cluster.map.devices[1], state="out")
    await one.keeper.change(lambda map_, counters: ([gone], []))
    compared = await compare(one, 2, [Held(id_, 0, pg.id, 10)])
    assert (compared.garbage, compared.unknown) == (1, 0)
