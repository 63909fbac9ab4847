from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import BLOCK, GIB, KIB, MIB, SHARD_DEFAULT, SHARD_MAX
from reedbed.ec.cut import Layout, block_borders, choose_packing, cut_object, extent_bytes, group, layout_for, pack
from reedbed.ec.profiles import Profile

RS_4_2 = Profile(4, 2)
profiles = st.builds(Profile, st.integers(1, 32), st.integers(1, 8))
shard_sizes = st.sampled_from([1, 100, 4096, BLOCK, BLOCK + 1, MIB, SHARD_DEFAULT, SHARD_MAX])


def fits(profile: Profile, shard_size: int) -> st.SearchStrategy[int]:
    full = extent_bytes(profile, shard_size)
    return st.one_of(st.integers(0, full), st.integers(0, min(full, 3 * MIB)))


def test_layout_of_unequal_shards() -> None:
    layout = Layout((5, 0, 7, 0))
    assert (layout.size, layout.parity_length, layout.starts) == (12, 7, (0, 5, 5, 12))
    assert [layout.shard_at(offset) for offset in range(12)] == [0] * 5 + [2] * 7
    assert [layout.length_of(shard) for shard in range(6)] == [5, 0, 7, 0, 7, 7]
    assert layout.stored(RS_4_2) == 26
    for offset in (-1, 12):
        with pytest.raises(InvalidArgument, match="outside"):
            layout.shard_at(offset)


@pytest.mark.parametrize("lengths", [(), (0,) * 33, (-1, 2), (SHARD_MAX + 1,)])
def test_impossible_layouts_are_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument):
        Layout(lengths)


@given(profile=profiles, shard_size=shard_sizes, data=st.data())
@settings(max_examples=150)
def test_an_extent_holds_its_bytes_in_nearly_equal_shards(
    profile: Profile, shard_size: int, data: st.DataObject
) -> None:
    size = data.draw(fits(profile, shard_size))
    layout = layout_for(size, profile, shard_size)
    assert len(layout.lengths) == profile.k
    assert layout.size == size
    used = min(profile.k, max(-(-size // (64 * KIB)), -(-size // shard_size)))
    assert [length > 0 for length in layout.lengths] == [True] * used + [False] * (profile.k - used)
    if used:
        least = -(-size // used)
        assert least <= layout.parity_length <= min(shard_size, least + least // 64)
        assert set(layout.lengths[: used - 1]) <= {layout.parity_length}


def test_borders_lie_on_blocks_where_that_is_cheap() -> None:
    for size in range(16 * MIB - 5 * BLOCK, 16 * MIB, 10_007):
        assert all(length % BLOCK == 0 for length in layout_for(size, RS_4_2).lengths[:-1])
    for size in range(MIB, 8 * MIB, 100_003):
        assert all(length % 4096 == 0 for length in layout_for(size, RS_4_2).lengths[:-1])


def test_sizes_of_note() -> None:
    def lengths(size: int) -> tuple[int, ...]:
        return layout_for(size, RS_4_2).lengths

    assert lengths(0) == (0, 0, 0, 0)
    assert lengths(1) == (1, 0, 0, 0)
    assert lengths(64 * KIB) == (64 * KIB, 0, 0, 0)
    assert lengths(128 * KIB) == (64 * KIB, 64 * KIB, 0, 0)
    assert lengths(256 * KIB) == (64 * KIB,) * 4
    assert lengths(16 * MIB) == (4 * MIB,) * 4


def test_a_gibibyte_is_stored_in_one_and_a_half() -> None:
    layouts = list(cut_object(GIB, RS_4_2))
    assert len(layouts) == 64
    assert sum(layout.stored(RS_4_2) for layout in layouts) == 3 * GIB // 2


@given(profile=profiles, shard_size=st.integers(MIB, SHARD_MAX), size=st.integers(0, GIB))
@settings(max_examples=100)
def test_an_object_is_cut_as_a_stream_of_unknown_length_is(profile: Profile, shard_size: int, size: int) -> None:
    full = extent_bytes(profile, shard_size)
    left = size
    for layout in cut_object(size, profile, shard_size):
        here = min(left, full)
        assert layout == layout_for(here, profile, shard_size)
        assert layout.size == here > 0
        left -= here
    assert left == 0


@pytest.mark.parametrize(("size", "shard_size"), [(-1, MIB), (1 << 51, MIB), (5, 0), (5, SHARD_MAX + 1)])
def test_sizes_off_limits_are_refused(size: int, shard_size: int) -> None:
    with pytest.raises(InvalidArgument):
        cut_object(size, RS_4_2, shard_size)
    with pytest.raises(InvalidArgument):
        layout_for(size, RS_4_2, shard_size)


@given(profile=profiles, sizes=st.lists(st.one_of(st.integers(0, 300_000), st.just(4096)), max_size=200))
@settings(max_examples=150)
def test_packing_keeps_objects_whole_and_apart(profile: Profile, sizes: list[int]) -> None:
    packing = pack(sizes, profile)
    layout, offsets = packing.layout, packing.offsets
    assert len(offsets) == len(sizes)
    assert len(layout.lengths) == profile.k
    assert layout.size == sum(sizes)

    end = 0
    for offset, size in sorted(zip(offsets, sizes, strict=True)):
        assert offset == end  # no gap, no overlap
        end += size
        if size:
            assert layout.shard_at(offset) == layout.shard_at(offset + size - 1)
    assert end == layout.size

    used = max(1, min(profile.k, -(-sum(sizes) // (64 * KIB))))
    assert not any(layout.lengths[used:])
    largest = max(sizes, default=0)
    assert layout.parity_length <= sum(sizes) / used + largest * (used - 1) / used


@given(sizes=st.lists(st.integers(20_000, 100_000), min_size=1, max_size=6))
@settings(max_examples=60)
def test_packing_comes_near_the_shortest_parity(sizes: list[int]) -> None:
    layout = pack(sizes, Profile(3, 2)).layout
    used = min(3, -(-sum(sizes) // (64 * KIB)))
    best = sum(sizes)
    for places in product(range(used), repeat=len(sizes)):
        loads = [0] * used
        for place, size in zip(places, sizes, strict=True):
            loads[place] += size
        best = min(best, max(loads))
    assert 3 * layout.parity_length <= 4 * best


def test_large_objects_are_packed_before_small_ones() -> None:
    layout = pack([64 * KIB] * 4 + [256 * KIB], Profile(2, 1)).layout
    assert sorted(layout.lengths) == [256 * KIB, 256 * KIB]


@pytest.mark.parametrize("count", [*range(64, 100), 128, 1000, 4096])
def test_small_objects_packed_cost_little_parity(count: int) -> None:
    layout = pack([4 * KIB] * count, RS_4_2).layout
    assert layout.stored(RS_4_2) <= 1.55 * count * 4 * KIB


@given(
    sizes=st.lists(st.one_of(st.integers(1, 512 * KIB), st.integers(1, 50 * MIB)), min_size=1, max_size=60),
    code=st.sampled_from([(1, 1), (2, 1), (4, 2), (10, 4)]),
)
def test_what_is_chosen_costs_little_more_than_equal_shards(sizes: list[int], code: tuple[int, int]) -> None:
    profile, total = Profile(*code), sum(sizes)
    packing = choose_packing(sizes, profile)
    equal = layout_for(total, profile, max(SHARD_DEFAULT, -(-total // profile.k)))
    assert packing.layout.stored(profile) <= 1.1 * equal.stored(profile)
    ends = sorted((offset, offset + size) for offset, size in zip(packing.offsets, sizes, strict=True))
    assert ends[0][0] == 0
    assert ends[-1][1] == packing.layout.size
    assert all(before[1] == after[0] for before, after in pairwise(ends))


def test_objects_that_cannot_be_packed_are_refused() -> None:
    for sizes in ([-1], [SHARD_MAX + 1], [SHARD_MAX] * 5):
        with pytest.raises(InvalidArgument):
            pack(sizes, RS_4_2)


@given(sizes=st.lists(st.integers(0, 1000), max_size=100), shard_size=st.integers(1, 500))
def test_groups_are_consecutive_and_fit(sizes: list[int], shard_size: int) -> None:
    groups = group(sizes, RS_4_2, shard_size)
    assert [index for run in groups for index in run] == list(range(len(sizes)))
    for position, run in enumerate(groups):
        total = sum(sizes[index] for index in run)
        assert len(run) == 1 or total <= 4 * shard_size
        if position + 1 < len(groups):
            assert total + sizes[groups[position + 1].start] > 4 * shard_size


@given(length=st.integers(0, 5 * BLOCK), data=st.data())
def test_blocks_start_anew_where_slices_start(length: int, data: st.DataObject) -> None:
    starts = data.draw(st.lists(st.integers(0, length), max_size=10))
    blocks = block_borders(length, starts)
    assert sum(blocks) == length
    assert all(0 < block <= BLOCK for block in blocks)
    ends = {sum(blocks[: i + 1]) for i in range(len(blocks))} | {0}
    assert set(starts) <= ends
    borders = sorted({0, length, *starts})
    assert len(blocks) == sum(-(-(b - a) // BLOCK) for a, b in pairwise(borders))


def test_blocks_without_slices() -> None:
    assert block_borders(0) == []
    assert block_borders(2 * BLOCK + 1) == [BLOCK, BLOCK, 1]
    for length, starts in ((-1, ()), (SHARD_MAX + 1, ()), (10, (11,)), (10, (-1,))):
        with pytest.raises(InvalidArgument):
            block_borders(length, starts)
