from __future__ import annotations

from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reedbed.common.errors import DataLoss, InvalidArgument
from reedbed.ec.codec import codec_for
from reedbed.ec.cut import Layout, layout_for, pack
from reedbed.ec.plan import DecodePlan, Part, Piece, decode_plan, durable, pieces, rebuild_plan, remaining
from reedbed.ec.profiles import Profile

RS_4_2 = Profile(4, 2)


class Store:
    """One extent's shards in memory, some lost. Reads take exact ranges, as a device does."""

    def __init__(self, layout: Layout, profile: Profile, seed: int) -> None:
        self.layout, self.profile = layout, profile
        self.content = Random(seed).randbytes(layout.size)
        data = [self.content[s : s + n] for s, n in zip(layout.starts, layout.lengths, strict=True)]
        parity = [bytearray(layout.parity_length) for _ in range(profile.m)]
        codec_for(profile).encode(data, parity)
        self.shards = [*data, *map(bytes, parity)]
        self.lost: set[int] = set()

    @property
    def usable(self) -> list[int]:
        return [shard for shard in range(self.profile.n) if shard not in self.lost and self.shards[shard]]

    def read(self, shard: int, start: int, length: int) -> bytes:
        assert shard not in self.lost
        assert 0 < length <= len(self.shards[shard]) - start
        return self.shards[shard][start : start + length]

    def carry_out(self, plan: DecodePlan) -> dict[int, bytes]:
        assert len(plan.sources) + len(plan.zeros) == (self.profile.k if plan.want else 0)
        have = {part.shard: self.read(part.shard, part.start, part.length) for part in plan.sources}
        want = {part.shard: bytearray(part.length) for part in plan.want}
        if want:
            codec_for(self.profile).rebuild(have | dict.fromkeys(plan.zeros, b""), want)
        return {shard: bytes(buffer) for shard, buffer in want.items()}

    def get(self, offset: int, length: int, preference: list[int]) -> bytes:
        result = bytearray(length)
        for piece in pieces(self.layout, offset, length):
            if piece.shard in self.lost:
                plan = decode_plan(self.layout, self.profile, piece.shard, piece.start, piece.length, preference)
                assert plan.table_shard in preference
                assert plan.table_shard in [part.shard for part in plan.sources]
                found = self.carry_out(plan)[piece.shard]
            else:
                found = self.read(piece.shard, piece.start, piece.length)
            result[piece.at : piece.at + piece.length] = found
        return bytes(result)


@st.composite
def stores(draw: st.DrawFn) -> Store:
    profile = Profile(draw(st.integers(1, 6)), draw(st.integers(1, 4)))
    kind = draw(st.sampled_from(["cut", "packed", "natural"]))
    if kind == "cut":
        layout = layout_for(draw(st.integers(0, profile.k * 100)), profile, shard_size=100)
    elif kind == "packed":
        layout = pack(draw(st.lists(st.integers(0, 200), max_size=20)), profile).layout
    else:
        layout = Layout(tuple(draw(st.lists(st.integers(0, 150), min_size=profile.k, max_size=profile.k))))
    return Store(layout, profile, draw(st.integers(0, 1000)))


@given(store=stores(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_range_reads_back_after_any_m_losses(store: Store, data: st.DataObject) -> None:
    profile, size = store.profile, store.layout.size
    store.lost = data.draw(st.sets(st.integers(0, profile.n - 1), max_size=profile.m))
    offset = data.draw(st.integers(0, size))
    length = data.draw(st.integers(0, size - offset))
    preference = data.draw(st.permutations(store.usable))
    assert store.get(offset, length, preference) == store.content[offset : offset + length]


@given(store=stores(), data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_m_losses_are_rebuilt_at_once_in_any_steps(store: Store, data: st.DataObject) -> None:
    profile = store.profile
    store.lost = data.draw(st.sets(st.integers(0, profile.n - 1), max_size=profile.m))
    whole = store.carry_out(rebuild_plan(store.layout, profile, store.lost, store.usable))
    assert whole == {shard: store.shards[shard] for shard in store.lost if store.shards[shard]}

    step = data.draw(st.integers(1, 60))
    parts = dict.fromkeys(whole, b"")
    for start in range(0, store.layout.parity_length, step):
        plan = rebuild_plan(store.layout, profile, store.lost, store.usable, start, step)
        for shard, found in store.carry_out(plan).items():
            parts[shard] += found
    assert parts == whole


@given(store=stores(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_remaining_tells_which_losses_are_too_many(store: Store, data: st.DataObject) -> None:
    assume(store.layout.size > 0)
    profile = store.profile
    store.lost = data.draw(st.sets(st.integers(0, profile.n - 1)))
    left = remaining(store.layout, profile, store.usable)
    assert durable(store.layout, profile, store.usable) == (left > 0)
    if left >= 0:
        store.carry_out(rebuild_plan(store.layout, profile, store.lost, store.usable))
    else:
        with pytest.raises(DataLoss, match=rf"^{len(store.usable)} shards are usable"):
            rebuild_plan(store.layout, profile, store.lost, store.usable)


@given(store=stores(), data=st.data())
@settings(max_examples=100)
def test_pieces_cover_each_byte_once(store: Store, data: st.DataObject) -> None:
    layout = store.layout
    offset = data.draw(st.integers(0, layout.size))
    length = data.draw(st.integers(0, layout.size - offset))
    at = 0
    for piece in pieces(layout, offset, length):
        assert piece.length > 0
        assert piece.at == at
        assert piece.start + piece.length <= layout.lengths[piece.shard]
        assert layout.starts[piece.shard] + piece.start == offset + at
        at += piece.length
    assert at == length


def test_pieces_of_a_range() -> None:
    layout = Layout((10, 0, 5, 10))
    assert pieces(layout, 8, 10) == [Piece(0, 8, 2, 0), Piece(2, 0, 5, 2), Piece(3, 0, 3, 7)]
    assert pieces(layout, 25, 0) == pieces(layout, 10, 0) == pieces(Layout((0,)), 0, 0) == []
    for offset, length in ((-1, 1), (0, -1), (0, 26), (26, 0), (25, 1)):
        with pytest.raises(InvalidArgument, match="outside"):
            pieces(layout, offset, length)


def test_the_preferred_shards_are_asked_and_clipped() -> None:
    layout = Layout((100, 60, 100, 100))
    plan = decode_plan(layout, RS_4_2, 0, 50, 40, usable=[5, 1, 0, 5, 4, 3, 2])
    assert plan.want == (Part(0, 50, 40),)
    assert plan.sources == (Part(5, 50, 40), Part(1, 50, 10), Part(4, 50, 40), Part(3, 50, 40))
    assert (plan.zeros, plan.table_shard) == ((), 5)


def test_shards_that_end_before_the_range_cost_nothing_even_when_lost() -> None:
    layout = Layout((100, 60, 0, 100))
    plan = decode_plan(layout, RS_4_2, 0, 60, 40, usable=[4, 3])  # shards 1 and 5 are lost too
    assert plan.sources == (Part(4, 60, 40), Part(3, 60, 40))
    assert (plan.zeros, plan.table_shard) == ((1, 2), 4)
    with pytest.raises(DataLoss, match="2 shards are usable and 3 are needed"):
        decode_plan(layout, RS_4_2, 0, 59, 40, usable=[4, 3])


def test_a_small_object_is_decoded_from_one_parity_shard() -> None:
    layout = layout_for(1000, RS_4_2)
    plan = decode_plan(layout, RS_4_2, 0, 100, 200, usable=[5])
    assert plan == DecodePlan(100, (Part(0, 100, 200),), (Part(5, 100, 200),), (1, 2, 3), 5)


def test_a_lost_parity_shard_is_made_of_data_and_checked_with_another() -> None:
    layout = Layout((100, 100, 30, 100))
    plan = rebuild_plan(layout, RS_4_2, [5], usable=[0, 1, 2, 3, 4])
    assert [part.shard for part in plan.sources] == [0, 1, 2, 3]
    assert plan.table_shard == 4
    assert rebuild_plan(layout, RS_4_2, [4, 5], usable=[0, 1, 2, 3]).table_shard is None


def test_nothing_wanted_needs_nothing() -> None:
    layout = Layout((100, 0, 0, 0))
    assert rebuild_plan(layout, RS_4_2, [1, 2], usable=[]) == DecodePlan(0, (), (), (), None)
    assert decode_plan(layout, RS_4_2, 0, 100, 0, usable=[4]) == DecodePlan(100, (), (), (), 4)


def test_plans_of_what_cannot_be_are_refused() -> None:
    layout = Layout((100, 60, 0, 100))
    everything = range(6)
    for start, length in ((-1, 5), (0, -5), (0, 61), (61, 0)):
        with pytest.raises(InvalidArgument, match="outside shard 1"):
            decode_plan(layout, RS_4_2, 1, start, length, everything)
    with pytest.raises(InvalidArgument, match="has no shard 6"):
        decode_plan(layout, RS_4_2, 6, 0, 1, everything)
    with pytest.raises(InvalidArgument, match="has no shard -1"):
        decode_plan(layout, RS_4_2, 0, 0, 1, [-1])
    with pytest.raises(InvalidArgument, match="is not one of rs-3-2"):
        rebuild_plan(layout, Profile(3, 2), [0], everything)
    with pytest.raises(InvalidArgument, match="not a range"):
        rebuild_plan(layout, RS_4_2, [0], everything, start=-1)
    with pytest.raises(InvalidArgument):
        remaining(layout, RS_4_2, [6])


def test_what_an_extent_survives() -> None:
    one_shard = layout_for(1000, RS_4_2)
    assert remaining(one_shard, RS_4_2, [0, 4, 5]) == 2
    assert remaining(one_shard, RS_4_2, [4]) == 0
    assert remaining(one_shard, RS_4_2, []) == -1
    full = Layout((10,) * 4)
    assert [remaining(full, RS_4_2, range(count)) for count in range(3, 7)] == [-1, 0, 1, 2]
    assert [durable(full, RS_4_2, range(count)) for count in range(3, 7)] == [False, False, True, True]
