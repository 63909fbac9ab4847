"""Which devices form a placement group. Pure: the same arguments give the same groups.

What holds for every list of groups:

- A group names k+m different devices.
- In a group the fullest domain of the chosen level has as few shards as the devices allow, and at most m. Every other
  domain has as many as the fullest, or one less, or all its devices.
- Every device is used in proportion to its weight, as far as the rule before allows; by equal weights and equally large
  domains the counts differ by at most one.
- Every position, the first one above all, is held by the devices in turn: as often as they are used, over k+m.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, Literal

from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import PGS_PER_DEVICE

Level = Literal["device", "host", "rack", "zone"]
LEVELS: Final = ("device", "host", "rack", "zone")


@dataclass(frozen=True, slots=True)
class PlacedDevice:
    """A device as placement sees it: its number in the map, its labels and its weight (such as its capacity)."""

    number: int
    host: str = ""
    rack: str = ""
    zone: str = ""
    weight: float = 1.0


Group = tuple[int, ...]
_Scored = tuple[float, float, int]  # score, random tie breaker, number of a device or domain


def pg_count(n_devices: int, n_positions: int) -> int:
    """How many groups give each device about PGS_PER_DEVICE of them."""
    return max(1, -(-n_devices * PGS_PER_DEVICE // n_positions))


def domain_of(device: PlacedDevice, level: Level) -> str:
    """The name of the failure domain that holds `device`. InvalidArgument if it has no label of that level."""
    if level == "device":
        return str(device.number)
    label: str = {"host": device.host, "rack": device.rack, "zone": device.zone}[level]
    if not label:
        raise InvalidArgument(f"device {device.number} has no label for its {level}", hint=f"Give it a {level}")
    return label


def make_pgs(devices: Sequence[PlacedDevice], k: int, m: int, level: Level, count: int, seed: int) -> list[Group]:
    """`count` groups: device numbers by position. See the module's text for what holds.

    InvalidArgument if there are too few devices, or too few domains for at most m shards in each.
    """
    positions = k + m
    if k < 1 or m < 1 or count < 1 or level not in LEVELS:
        raise InvalidArgument(f"no placement for k={k}, m={m}, {count} groups over {level!r}")
    if len({device.number for device in devices}) != len(devices) or any(d.weight <= 0 for d in devices):
        raise InvalidArgument("every device needs a number of its own and a weight above 0")
    if len(devices) < positions:
        raise InvalidArgument(
            f"rs-{k}-{m} needs {positions} devices, there are {len(devices)}",
            hint="Add devices, or choose a smaller profile",
        )
    random = Random(seed)
    domains: dict[str, _Domain] = {}
    for device in sorted(devices, key=lambda d: d.number):
        domains.setdefault(domain_of(device, level), _Domain()).add(device, random)
    members = _choose(list(domains.values()), positions, m, level, count, random)
    return _order(members, positions, random)


@dataclass(slots=True)
class _Domain:
    """Devices of one domain, the least used first."""

    weight: float = 0.0
    used: int = 0
    weights: dict[int, float] = field(default_factory=dict)
    loads: dict[int, int] = field(default_factory=dict)
    heap: list[_Scored] = field(default_factory=list)

    def add(self, device: PlacedDevice, random: Random) -> None:
        self.weight += device.weight
        self.weights[device.number] = device.weight
        self.loads[device.number] = 0
        heapq.heappush(self.heap, (_score(0, device.weight), random.random(), device.number))

    def score(self) -> float:
        return _score(self.used, self.weight)

    def take(self, count: int, random: Random) -> list[int]:
        """The `count` least used devices, which are used once more from now on."""
        taken = [heapq.heappop(self.heap)[2] for _ in range(count)]
        for number in taken:
            self.loads[number] += 1
            entry = (_score(self.loads[number], self.weights[number]), random.random(), number)
            heapq.heappush(self.heap, entry)
        self.used += count
        return taken


def _score(used: int, weight: float) -> float:
    # Webster's rule: fair to small weights and to large ones
    return (used + 0.5) / weight


def _choose(
    domains: list[_Domain], positions: int, m: int, level: Level, count: int, random: Random
) -> list[list[int]]:
    """The members of each group, in no order."""
    sizes = [len(domain.loads) for domain in domains]
    fullest = next(t for t in range(1, positions + 1) if sum(min(size, t) for size in sizes) >= positions)
    if fullest > m:
        raise InvalidArgument(
            f"{positions} shards with at most {m} in one {level} do not fit into {len(domains)} of them "
            f"with {min(sizes)} to {max(sizes)} devices each: one would hold {fullest}",
            hint=f"Add devices in other {level}s, choose a profile with more parity, or a lower level",
        )
    # Every domain gives `base` devices or all it has; some of those that have more give one more
    base = [min(size, fullest - 1) for size in sizes]
    more = positions - sum(base)
    heap = [(domain.score(), random.random(), index) for index, domain in enumerate(domains) if sizes[index] >= fullest]
    heapq.heapify(heap)
    groups: list[list[int]] = []
    for _ in range(count):
        chosen = [heapq.heappop(heap)[2] for _ in range(more)]
        group: list[int] = []
        for index in chosen:
            group += domains[index].take(base[index] + 1, random)
        if fullest > 1:
            for index in set(range(len(domains))) - set(chosen):
                group += domains[index].take(base[index], random)
            heap = [(domains[i].score(), tie, i) for _, tie, i in heap]
            heapq.heapify(heap)
        for index in chosen:
            heapq.heappush(heap, (domains[index].score(), random.random(), index))
        groups.append(group)
    return groups


def _order(members: list[list[int]], positions: int, random: Random) -> list[Group]:
    """Give each group's members their positions, so that every device holds each position equally often."""
    left = [sorted(group) for group in members]
    ordered: list[list[int]] = [[] for _ in members]
    for position in range(positions):
        holders = _share_out(left, positions - position, random)
        for group, rest, holder in zip(ordered, left, holders, strict=True):
            group.append(holder)
            rest.remove(holder)
    return [tuple(group) for group in ordered]


def _share_out(groups: list[list[int]], size: int, random: Random) -> list[int]:
    """One member of each group, chosen so that each device is chosen once in `size` of its groups.

    `excess` is how often a device is chosen above that. First greedily, then along chains of groups that each pass the
    choice on to another member: such a chain exists wherever the excess of two connected devices differs too much.
    """
    excess: dict[int, float] = {}
    for group in groups:
        for number in group:
            excess[number] = excess.get(number, 0.0) - 1 / size
    holders: list[int] = []
    for group in groups:
        holder = min((excess[number], random.random(), number) for number in group)[2]
        excess[holder] += 1
        holders.append(holder)
    held: dict[int, list[int]] = {number: [] for number in excess}
    for index, holder in enumerate(holders):
        held[holder].append(index)
    moved = True
    while moved:  # each move evens the excess out, so this ends
        moved = False
        for most in sorted(excess, key=lambda number: (-excess[number], number)):
            while excess[most] - min(excess.values()) > 1 + 1e-6:
                if not _pass_on(most, groups, holders, held, excess):
                    break
                moved = True
    return holders


def _pass_on(
    start: int, groups: list[list[int]], holders: list[int], held: dict[int, list[int]], excess: dict[int, float]
) -> bool:
    """Take one choice from `start` and give it, along a shortest chain, to a device with at least one less."""
    came: dict[int, tuple[int, int]] = {}  # device -> (group that passed the choice on to it, device before)
    queue = deque([start])
    while queue:
        number = queue.popleft()
        if excess[start] - excess[number] > 1 + 1e-6:
            excess[start] -= 1
            excess[number] += 1
            while number != start:
                index, before = came[number]
                held[before].remove(index)
                held[number].append(index)
                holders[index] = number
                number = before
            return True
        for index in held[number]:
            for other in groups[index]:
                if other != start and other not in came:
                    came[other] = (index, number)
                    queue.append(other)
    return False


@dataclass(frozen=True, slots=True)
class Vacancy:
    """A group with positions to fill: device numbers by position, None where a device is wanted.

    At most `m` of its shards may lie in one domain; `barred` devices must not be chosen.
    """

    group: tuple[int | None, ...]
    m: int
    barred: frozenset[int] = frozenset()


def replace_devices(
    vacancies: Mapping[int, Vacancy],
    devices: Sequence[PlacedDevice],
    candidates: Collection[int],
    loads: Mapping[int, int],
    level: Level,
) -> dict[int, tuple[int | None, ...]]:
    """The groups with their vacant positions filled, as far as candidates suffice; no other position changes.

    Each position goes to the candidate whose domain has the fewest shards of the group, and never to one whose domain
    has `m` already; among those to the one that is least used for its weight. `loads` are the positions that devices
    hold now. Groups are filled in order of how much they lack, so that scarce candidates go where they matter most.
    """
    known = {device.number: device for device in devices}
    domains = {number: domain_of(device, level) for number, device in known.items()}
    used = {number: loads.get(number, 0) for number in candidates}
    filled: dict[int, tuple[int | None, ...]] = {}
    for key, vacancy in sorted(vacancies.items(), key=lambda item: (-item[1].group.count(None), item[0])):
        group = list(vacancy.group)
        counts = Counter(domains[number] for number in group if number is not None and number in domains)
        for position, holder in enumerate(group):
            if holder is not None:
                continue
            fit = [
                (counts[domains[number]], _score(load, known[number].weight), number)
                for number, load in used.items()
                if number not in group and number not in vacancy.barred and counts[domains[number]] < vacancy.m
            ]
            if not fit:
                break
            number = min(fit)[2]
            group[position] = number
            used[number] += 1
            counts[domains[number]] += 1
        filled[key] = tuple(group)
    return filled
