"""Choosing a PG for a new extent, against a plain restatement of the rule."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.common.errors import Unavailable
from reedbed.ec.profiles import Profile
from reedbed.extents.choose import choose_pg, needed_positions
from reedbed.protos.types import ClusterMap, Device, PlacementGroup, Position


def make_map(profile, orders, states, free=None):
    devices = {
        number: Device(number, bytes([number]) * 16, f"d:{number}", state, capacity=100 if free else 0, used=0)
        for number, state in states.items()
    }
    if free:
        devices = {
            n: Device(n, d.uuid, d.address, d.state, capacity=1000, used=1000 - free[n]) for n, d in devices.items()
        }
    pgs = {
        i: PlacementGroup(i, profile.k, profile.m, 1, tuple(Position(n) for n in order))
        for i, order in enumerate(orders, 1)
    }
    return ClusterMap(b"c" * 16, 1, devices, pgs)


@st.composite
def clusters(draw):
    profile = Profile(draw(st.integers(1, 4)), draw(st.integers(1, 3)))
    count = draw(st.integers(profile.n, profile.n + 4))
    states = {n: draw(st.sampled_from(["up", "up", "up", "down", "out", "failed"])) for n in range(1, count + 1)}
    orders = draw(st.lists(st.permutations(range(1, count + 1)).map(lambda p: p[: profile.n]), min_size=1, max_size=8))
    lengths = draw(st.lists(st.sampled_from([0, 0, 5]), min_size=profile.k, max_size=profile.k).filter(any))
    avoid, wary = draw(st.sets(st.integers(1, count), max_size=2)), draw(st.sets(st.integers(1, count), max_size=2))
    free = draw(st.none() | st.fixed_dictionaries({n: st.integers(0, 1000) for n in states}))
    return profile, make_map(profile, orders, states, free), lengths, avoid, wary


@given(clusters(), st.integers(0, 5))
@settings(max_examples=150)
def test_the_rule(cluster, seed):
    profile, map_, lengths, avoid, wary = cluster
    needed = [i for i in range(profile.n) if i >= profile.k or lengths[i]]
    assert tuple(needed) == needed_positions(lengths, profile.m)
    good = {n for n, device in map_.devices.items() if device.state == "up"} - avoid

    def there(pg, allowed):
        return [i for i in needed if pg.positions[i].device in allowed]

    healthy = {pg.id for pg in map_.pgs.values() if there(pg, good) == needed}
    preferred = {pg.id for pg in map_.pgs.values() if there(pg, good - wary) == needed}
    best = max(len(there(pg, good)) for pg in map_.pgs.values()) + profile.n - len(needed)
    try:
        choice = choose_pg(map_, profile, lengths, random.Random(seed), avoid=avoid, wary=wary)
    except Unavailable as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert best < profile.k + 1
        assert not healthy
        assert f"{len(good)} of {len(map_.devices)}" in refused
        assert f"needs {profile.k + 1}" in refused
        return
    assert choice.positions == tuple(there(choice.pg, good))
    assert choice.present == len(choice.positions) + profile.n - len(needed)
    if healthy:
        assert choice.pg.id in (preferred or healthy)
        assert not choice.degraded
    else:
        assert choice.degraded
        assert choice.present == best >= profile.k + 1


def test_a_profile_without_placement_groups():
    map_ = make_map(Profile(2, 1), [(1, 2, 3)], {1: "up", 2: "up", 3: "up"})
    with pytest.raises(Unavailable, match="no placement group of rs-4-2"):
        choose_pg(map_, Profile(4, 2), (1, 0, 0, 0), random.Random(1))


def test_free_space_weighs():
    profile, states = Profile(1, 1), dict.fromkeys(range(1, 7), "up")
    orders = [(1, 2), (3, 4), (5, 6)]
    free = {1: 600, 2: 900, 3: 300, 4: 300, 5: 0, 6: 900}
    map_, rng = make_map(profile, orders, states, free), random.Random(1)
    drawn = Counter(choose_pg(map_, profile, (1,), rng).pg.id for _ in range(3000))
    assert set(drawn) == {1, 2}, "the full device gets nothing while others have room"
    assert 1.7 < drawn[1] / drawn[2] < 2.3
    full = make_map(profile, [(5, 6)], states, free)
    assert choose_pg(full, profile, (1,), rng).pg.id == 1


def test_unknown_capacities_count_equal():
    profile, rng = Profile(1, 1), random.Random(1)
    map_ = make_map(profile, [(1, 2), (3, 4)], dict.fromkeys(range(1, 5), "up"))
    drawn = Counter(choose_pg(map_, profile, (1,), rng).pg.id for _ in range(2000))
    assert 0.8 < drawn[1] / drawn[2] < 1.25
