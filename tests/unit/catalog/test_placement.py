"""Placement's promises, for random clusters and for the ones that people build."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog.placement import (
    Level,
    PlacedDevice,
    Vacancy,
    domain_of,
    make_pgs,
    pg_count,
    replace_devices,
)
from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import PGS_PER_DEVICE

codes = st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2), (8, 3), (10, 4)])


def cluster(hosts: int, per_host: int, racks: int = 1) -> list[PlacedDevice]:
    return [
        PlacedDevice(host * per_host + n + 1, f"h{host}", f"r{host % racks}", "z")
        for host in range(hosts)
        for n in range(per_host)
    ]


def spread_is_right(group: tuple[int, ...], devices: list[PlacedDevice], level: Level, m: int) -> None:
    assert len(set(group)) == len(group)
    by_number = {device.number: device for device in devices}
    sizes = Counter(domain_of(device, level) for device in devices)
    used = Counter(domain_of(by_number[number], level) for number in group)
    fullest = max(used.values())
    assert fullest <= m
    assert sum(min(size, fullest - 1) for size in sizes.values()) < len(group), "it could be spread more evenly"
    for domain, size in sizes.items():
        assert used[domain] >= min(size, fullest - 1)


@settings(max_examples=100, deadline=None)
@given(code=codes, extra=st.integers(0, 12), count=st.integers(1, 120), seed=st.integers(0, 1 << 32))
def test_equal_devices_are_used_equally(code: tuple[int, int], extra: int, count: int, seed: int) -> None:
    k, m = code
    devices = cluster(k + m + extra, 1)
    groups = make_pgs(devices, k, m, "device", count, seed)
    assert len(groups) == count
    for group in groups:
        assert len(group) == k + m
        spread_is_right(group, devices, "device", m)
    uses = Counter(number for group in groups for number in group)
    counts = [uses[device.number] for device in devices]
    assert max(counts) - min(counts) <= 1
    assert make_pgs(devices[::-1], k, m, "device", count, seed) == groups


@settings(max_examples=60, deadline=None)
@given(code=codes, extra=st.integers(0, 12), seed=st.integers(0, 1 << 32))
def test_every_device_is_first_equally_often(code: tuple[int, int], extra: int, seed: int) -> None:
    k, m = code
    devices = cluster(k + m + extra, 1)
    groups = make_pgs(devices, k, m, "device", pg_count(len(devices), k + m), seed)
    for position in range(k + m):
        held = Counter(group[position] for group in groups)
        counts = [held[device.number] for device in devices]
        assert max(counts) - min(counts) <= 1


@settings(max_examples=80, deadline=None)
@given(
    code=codes,
    domains=st.integers(1, 12),
    each=st.integers(1, 5),
    level=st.sampled_from(["host", "rack", "zone"]),
    seed=st.integers(0, 1 << 32),
)
def test_equal_domains(code: tuple[int, int], domains: int, each: int, level: Level, seed: int) -> None:
    k, m = code
    devices = [
        PlacedDevice(domain * each + n, **{level: f"d{domain}"}) for domain in range(domains) for n in range(each)
    ]
    possible = len(devices) >= k + m and -(-(k + m) // domains) <= m
    if not possible:
        with pytest.raises(InvalidArgument):
            make_pgs(devices, k, m, level, 60, seed)
        return
    groups = make_pgs(devices, k, m, level, 60, seed)
    for group in groups:
        spread_is_right(group, devices, level, m)
    uses = Counter(number for group in groups for number in group)
    assert max(uses.values()) - min(uses[device.number] for device in devices) <= 1
    firsts = Counter(group[0] for group in groups)
    assert max(firsts.values()) - min(firsts[device.number] for device in devices) <= 1


@settings(max_examples=80, deadline=None)
@given(
    code=codes,
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=12),
    weights=st.lists(st.sampled_from([1.0, 2.0, 4.0]), min_size=96, max_size=96),
    seed=st.integers(0, 1 << 32),
)
def test_uneven_domains_and_weights_keep_the_spread(
    code: tuple[int, int], sizes: list[int], weights: list[float], seed: int
) -> None:
    k, m = code
    labels = [f"r{rack}" for rack, size in enumerate(sizes) for _ in range(size)]
    devices = [PlacedDevice(n, rack=rack, weight=weights[n]) for n, rack in enumerate(labels)]
    if sum(min(size, m) for size in sizes) < k + m:
        with pytest.raises(InvalidArgument):
            make_pgs(devices, k, m, "rack", 30, seed)
        return
    for group in make_pgs(devices, k, m, "rack", 30, seed):
        spread_is_right(group, devices, "rack", m)


def test_use_follows_weight() -> None:
    devices = [PlacedDevice(n, weight=4.0 if n < 5 else 1.0) for n in range(30)]
    groups = make_pgs(devices, 2, 1, "device", 600, 7)
    uses = Counter(number for group in groups for number in group)
    unit = 3 * 600 / sum(device.weight for device in devices)
    firsts = Counter(group[0] for group in groups)
    for device in devices:
        assert abs(uses[device.number] - unit * device.weight) <= 2
        assert abs(firsts[device.number] - unit * device.weight / 3) <= 2


def test_groups_of_few_devices_differ_in_order() -> None:
    groups = make_pgs(cluster(6, 1), 4, 2, "device", 100, 1)
    assert len(set(groups)) > 50


def test_repair_of_one_device_is_shared_by_all_others() -> None:
    groups = make_pgs(cluster(30, 1), 4, 2, "device", pg_count(30, 6), 1)
    helpers = {number for group in groups if 1 in group for number in group}
    assert len(helpers) == 30


def test_seeds_matter() -> None:
    devices = cluster(12, 1)
    assert make_pgs(devices, 4, 2, "device", 50, 1) != make_pgs(devices, 4, 2, "device", 50, 2)


def test_impossible_placements_say_what_is_missing() -> None:
    with pytest.raises(InvalidArgument, match="needs 6 devices, there are 5"):
        make_pgs(cluster(5, 1), 4, 2, "device", 1, 0)
    with pytest.raises(InvalidArgument, match="at most 2 in one host do not fit into 2 of them"):
        make_pgs(cluster(2, 6), 4, 2, "host", 1, 0)
    with pytest.raises(InvalidArgument, match="no label for its rack"):
        make_pgs([PlacedDevice(n) for n in range(6)], 4, 2, "rack", 1, 0)
    with pytest.raises(InvalidArgument):
        make_pgs([PlacedDevice(1) for _ in range(6)], 4, 2, "device", 1, 0)
    with pytest.raises(InvalidArgument):
        make_pgs([PlacedDevice(n, weight=0) for n in range(6)], 4, 2, "device", 1, 0)


def test_pg_count_gives_each_device_its_share() -> None:
    for devices in (6, 7, 30, 100):
        for positions in (2, 6, 11):
            assert 0 <= pg_count(devices, positions) * positions / devices - PGS_PER_DEVICE < positions


def test_a_hundred_devices_take_no_time() -> None:
    devices = cluster(25, 4, racks=5)
    begin = time.process_time()
    groups = make_pgs(devices, 8, 3, "host", pg_count(100, 11), 1)
    assert time.process_time() - begin < 2
    firsts = Counter(group[0] for group in groups)
    assert max(firsts.values()) - min(firsts.values()) <= 1


@settings(max_examples=80, deadline=None)
@given(data=st.data(), code=codes, hosts=st.integers(3, 9), per_host=st.integers(1, 4), seed=st.integers(0, 1 << 32))
def test_vacant_positions_are_filled_and_nothing_else_moves(
    data: st.DataObject, code: tuple[int, int], hosts: int, per_host: int, seed: int
) -> None:
    k, m = code
    devices = cluster(hosts, per_host)
    level: Level = data.draw(st.sampled_from(["device", "host"]))
    try:
        groups = make_pgs(devices, k, m, level, 30, seed)
    except InvalidArgument:
        return
    lost = set(data.draw(st.lists(st.sampled_from([device.number for device in devices]), min_size=1, max_size=3)))
    left = [device.number for device in devices if device.number not in lost]
    loads = Counter(number for group in groups for number in group)
    vacancies = {
        index: Vacancy(tuple(None if number in lost else number for number in group), m)
        for index, group in enumerate(groups)
        if lost & set(group)
    }
    filled = replace_devices(vacancies, devices, left, loads, level)
    by_number = {device.number: device for device in devices}
    for index, group in filled.items():
        old = groups[index]
        assert all(new == before for new, before in zip(group, old, strict=True) if before not in lost)
        members = [number for number in group if number is not None]
        assert len(set(members)) == len(members)
        assert not lost & set(members)
        domains = Counter(domain_of(by_number[number], level) for number in members)
        assert max(domains.values(), default=0) <= m
        if None in group:
            free = [number for number in left if number not in members]
            assert all(domains[domain_of(by_number[number], level)] >= m for number in free)
    assert filled.keys() == vacancies.keys()


def test_vacant_positions_are_shared_out_evenly_and_barred_devices_left_alone() -> None:
    devices = cluster(12, 1)
    groups = make_pgs(devices, 4, 2, "device", 200, 1)
    vacancies = {
        index: Vacancy(tuple(None if number == 3 else number for number in group), 2, frozenset({4}))
        for index, group in enumerate(groups)
        if 3 in group
    }
    filled = replace_devices(
        vacancies, devices, [n for n in range(1, 13) if n != 3], Counter(n for group in groups for n in group), "device"
    )
    given_to = Counter(
        number
        for index, group in filled.items()
        for number in group
        if number is not None and number not in groups[index]
    )
    assert given_to[4] == 0
    assert max(given_to.values()) - min(given_to[number] for number in range(5, 13)) <= 3
