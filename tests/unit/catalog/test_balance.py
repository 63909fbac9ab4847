"""Balance: no more moves than it takes, no promise of placement broken, bytes close to their share."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import ceil, floor

from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog.balance import CHEAP, DEAR_ABOVE, Balance, Move
from reedbed.catalog.placement import Group, Level, PlacedDevice, domain_of, make_pgs, pg_count
from reedbed.common.errors import InvalidArgument

codes = st.sampled_from([(1, 1), (2, 2), (4, 2), (8, 3)])
Sizes = Mapping[int, Sequence[int]]


def devices_of(hosts: int, per_host: int, weights: Sequence[float] = ()) -> list[PlacedDevice]:
    return [
        PlacedDevice(number, f"h{(number - 1) // per_host}", weight=weights[number - 1] if weights else 1.0)
        for number in range(1, hosts * per_host + 1)
    ]


def apply(groups: Mapping[int, Group], moves: Sequence[Move]) -> dict[int, Group]:
    made = {key: list(group) for key, group in groups.items()}
    for move in moves:
        assert made[move.group][move.position] == move.source
        made[move.group][move.position] = move.target
    return {key: tuple(group) for key, group in made.items()}


def bounded(groups: Mapping[int, Group], moves: Iterator[Move]) -> Iterator[Move]:
    """The moves; AssertionError for more than there are positions."""
    most = sum(map(len, groups.values()))
    for count, move in enumerate(moves):
        assert count <= most, "it does not end"
        yield move


def numbered(groups: Sequence[Group]) -> dict[int, Group]:
    return dict(enumerate(groups))


def spread(group: Group, devices: Sequence[PlacedDevice], level: Level) -> list[int]:
    by_number = {device.number: device for device in devices}
    return sorted(Counter(domain_of(by_number[number], level) for number in group).values(), reverse=True)


def sizes_for(groups: Mapping[int, Group], source: random.Random, empty: float = 0.0) -> dict[int, list[int]]:
    """As extents make them: all positions of a group hold about the same, the first and the parity a little more."""
    made = {}
    for key, group in groups.items():
        base = 0 if source.random() < empty else source.randrange(1, 1000)
        made[key] = [
            base + (source.randrange(0, 50) if position == 0 and base else 0) for position in range(len(group))
        ]
    return made


@settings(max_examples=80, deadline=None)
@given(
    data=st.data(),
    code=codes,
    hosts=st.integers(2, 10),
    per_host=st.integers(1, 3),
    more=st.integers(0, 4),
    level=st.sampled_from(["device", "host"]),
    seed=st.integers(0, 1 << 32),
)
def test_whatever_moves_keeps_the_promises_of_placement_and_brings_devices_closer(
    data: st.DataObject, code: tuple[int, int], hosts: int, per_host: int, more: int, level: Level, seed: int
) -> None:
    k, m = code
    count = (hosts + more) * per_host
    weights = data.draw(st.lists(st.sampled_from([1.0, 2.0, 5.0]), min_size=count, max_size=count))
    devices = devices_of(hosts + more, per_host, weights)
    try:
        groups = numbered(make_pgs(devices[: hosts * per_host], k, m, level, 40, seed))
    except InvalidArgument:
        return
    source = random.Random(seed)
    sizes = sizes_for(groups, source, 0.3)
    targets = data.draw(st.sets(st.sampled_from([device.number for device in devices]), min_size=1))
    frozen = {key for key in groups if source.random() < 0.1}
    room = {number: float(source.randrange(0, 20_000)) for number in targets if source.random() < 0.3}
    balance = Balance(groups, devices, m, level, sizes, frozen)
    loads = Counter(number for group in groups.values() for number in group)
    by_weight = {device.number: device.weight for device in devices}
    moves = []
    for move in bounded(groups, balance.plan_moves(targets, room)):
        assert move.target in targets
        assert move.group not in frozen
        assert move.size == sizes[move.group][move.position]
        loads[move.source] -= 1
        loads[move.target] += 1
        given_, got = loads[move.source] / by_weight[move.source], loads[move.target] / by_weight[move.target]
        assert given_ >= got - 1e-6, "it took from one that has less"
        moves.append(move)
    for number, bound in room.items():
        assert sum(move.size for move in moves if move.target == number) <= bound
    after = apply(groups, moves)
    for key, group in after.items():
        assert len(set(group)) == k + m
        assert spread(group, devices, level)[0] <= m
        assert spread(group, devices, level) <= spread(groups[key], devices, level)
    assert {number: balance.loads[number] for number in loads} == loads
    assert list(Balance(after, devices, m, level, sizes, frozen).plan_moves(targets - room.keys(), {})) == []


@settings(max_examples=60, deadline=None)
@given(code=codes, extra=st.integers(0, 8), new=st.integers(1, 6), seed=st.integers(0, 1 << 32))
def test_new_devices_get_their_share_from_all_others_and_nothing_else_moves(
    code: tuple[int, int], extra: int, new: int, seed: int
) -> None:
    k, m = code
    old = k + m + extra
    devices = devices_of(old + new, 1)
    groups = numbered(make_pgs(devices[:old], k, m, "device", pg_count(old, k + m), seed))
    sizes = sizes_for(groups, random.Random(seed))
    targets = set(range(old + 1, old + new + 1))
    moves = list(bounded(groups, Balance(groups, devices, m, "device", sizes).plan_moves(targets, {})))
    share = (k + m) * len(groups) / len(devices)
    after = apply(groups, moves)
    loads = Counter(number for group in after.values() for number in group)
    for number in targets:
        assert floor(share) <= loads[number] <= ceil(share)
    for device in devices[:old]:
        assert floor(share) - 1 <= loads[device.number] <= ceil(share) + 1
    assert len(moves) == sum(loads[number] for number in targets)
    assert len({(move.group, move.position) for move in moves}) == len(moves), "a position moves twice"
    for position in range(k + m):
        held = Counter(group[position] for group in after.values())
        counts = [held[device.number] for device in devices]
        assert max(counts) - min(counts) <= 3 + 0.2 * max(counts), "some device is first much more often than another"
    required = sum(map(sum, sizes.values())) * new / len(devices)
    moved = sum(move.size for move in moves)
    heaviest = max(map(max, sizes.values()))
    assert moved <= 1.02 * required + new * heaviest
    assert moved >= 0.9 * required - new * heaviest


@settings(max_examples=40, deadline=None)
@given(empty=st.sampled_from([0.5, 0.8, 0.95]), seed=st.integers(0, 1 << 32))
def test_bytes_are_shared_out_also_where_most_groups_are_empty(empty: float, seed: int) -> None:
    devices = devices_of(12, 1)
    groups = numbered(make_pgs(devices[:10], 4, 2, "device", pg_count(10, 6), seed))
    source = random.Random(seed)
    sizes = {key: [0 if source.random() < empty else 100] * 6 for key in groups}
    required = sum(map(sum, sizes.values())) * 2 / 12
    moves = list(bounded(groups, Balance(groups, devices, 2, "device", sizes).plan_moves({11, 12}, {})))
    assert sum(move.size for move in moves) <= 1.1 * required + 200
    assert sum(move.size for move in moves) >= 0.9 * required - 200


@settings(max_examples=30, deadline=None)
@given(
    weights=st.lists(st.sampled_from([1.0, 2.0, 4.0]), min_size=12, max_size=12),
    heavy=st.integers(0, 3),
    seed=st.integers(0, 1 << 32),
)
def test_swaps_even_out_bytes_and_change_no_count(weights: list[float], heavy: int, seed: int) -> None:
    devices = devices_of(12, 1, weights)
    groups = numbered(make_pgs(devices, 4, 2, "device", 200, seed))
    source = random.Random(seed)
    sizes = {
        key: [base * (8 if number <= heavy else 1) for number in group]
        for key, group in groups.items()
        for base in [0 if source.random() < 0.3 else source.randrange(1, 100)]
    }
    balance = Balance(groups, devices, 2, "device", sizes)
    before, loads = dict(balance.bytes), Counter(balance.loads)
    total = sum(before.values())
    share = {number: total * load / sum(loads.values()) for number, load in loads.items()}

    def off(held: Mapping[int, int]) -> float:
        return sum((held[number] - share[number]) ** 2 for number in share)

    last, moved = off(before), []
    for pair in balance.plan_swaps({}):
        assert balance.loads == loads
        assert off(balance.bytes) < last, "a swap that brings nobody closer"
        gain = pair[0].size - pair[1].size
        full = balance.bytes[pair[0].source] + gain
        assert pair[1].size <= CHEAP * gain or full > share[pair[0].source] * (1 + DEAR_ABOVE)
        last = off(balance.bytes)
        moved += pair
        assert pair[0].position == pair[1].position
    after = apply(groups, moved)
    for group in after.values():
        assert len(set(group)) == 6
    if max(weights) < 4:  # else some device is in nearly every group, and none of them may be exchanged with it
        heaviest = max(map(max, sizes.values()))
        for number, held in balance.bytes.items():
            assert held <= share[number] * (1 + DEAR_ABOVE) + heaviest
    assert list(Balance(after, devices, 2, "device", sizes).plan_swaps({})) == []


def test_a_new_host_gets_its_share_and_each_group_is_spread_further() -> None:
    devices = devices_of(4, 4)
    groups = numbered(make_pgs(devices[:12], 4, 2, "host", 200, 3))
    moves = list(bounded(groups, Balance(groups, devices, 2, "host", {}).plan_moves({13, 14, 15, 16}, {})))
    after = apply(groups, moves)
    loads = Counter(number for group in after.values() for number in group)
    assert max(loads.values()) - min(loads.values()) <= 2
    assert sum(spread(group, devices, "host") == [2, 2, 1, 1] for group in after.values()) > 150


def test_a_hundred_devices_more_take_no_time() -> None:
    devices = devices_of(50, 4)
    groups = numbered(make_pgs(devices[:100], 8, 3, "host", pg_count(100, 11), 1))
    moves = list(bounded(groups, Balance(groups, devices, 3, "host", {}).plan_moves(set(range(101, 201)), {})))
    assert len(moves) == 100 * 50
