"""Which positions go to which devices, so that each device has its share by capacity. Pure: no map, no clock.

What holds for every plan:

- A move takes a position from a device that has at least as much for its weight afterwards as the one that gets it: so
  no plan moves more positions than balance requires, and of what a plan leaves there is nothing to move.
- After each move the group's devices differ, no domain of the chosen level has more than m of its shards, and these are
  spread over domains as evenly as before, or more so.
- Of positions that would do, those are taken whose bytes bring the receiver closest to its share of bytes, and of their
  numbers in the group the one that the receiver has least of: so every device stays first equally often.
- `plan_swaps` exchanges two positions of the same number, a full one against a lighter one, where devices differ in
  bytes although each has its share of positions. It changes no count, and brings the two closer to each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from reedbed.catalog.placement import Group, Level, PlacedDevice, domain_of

FILL_TOLERANCE: Final = 0.05  # of a device's share of bytes: devices that differ less are left alone
DEAR_ABOVE: Final = 0.2  # and those that differ more are helped whatever it costs
CHEAP: Final = 0.1  # of what a swap brings: what it may move back
GAIN_MIN: Final = 0.01  # of a device's share: less is not worth a swap
_GIVERS: Final = 16  # that are compared by what they could give
_EPSILON: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Move:
    """Position `position` of group `group` goes from one device to another, with about `size` bytes."""

    group: int
    position: int
    source: int
    target: int
    size: int


class Balance:
    """Groups of one profile, and moves in them, each made as it is planned.

    `devices` are those that may hold positions; positions of others stay, and count for nothing. `sizes` are the bytes
    of each position by group, as far as they are known; groups in `frozen` do not change.
    """

    def __init__(
        self,
        groups: Mapping[int, Group],
        devices: Sequence[PlacedDevice],
        m: int,
        level: Level,
        sizes: Mapping[int, Sequence[int]],
        frozen: Collection[int] = frozenset(),
    ) -> None:
        self._groups = {key: list(group) for key, group in groups.items()}
        self._weights = {device.number: device.weight for device in devices}
        self._domains = {device.number: domain_of(device, level) for device in devices}
        self._m = m
        self._sizes = sizes
        self._frozen = frozenset(frozen)
        self._n = len(next(iter(groups.values()), ()))
        # by number of the position: how heavy one is in the middle
        self._means = [sum(self._size(key, i) for key in groups) / max(1, len(groups)) for i in range(self._n)]
        self.loads: Counter[int] = Counter(dict.fromkeys(self._weights, 0))
        self.bytes: Counter[int] = Counter(dict.fromkeys(self._weights, 0))
        # groups by device and position: what it could give
        self._held: dict[int, list[set[int]]] = {number: [set() for _ in range(self._n)] for number in self._weights}
        for key, group in sorted(self._groups.items()):
            for position, number in enumerate(group):
                if number in self._weights:
                    self.loads[number] += 1
                    self.bytes[number] += self._size(key, position)
                    self._held[number][position].add(key)

    def plan_moves(self, targets: Collection[int], room: Mapping[int, float]) -> Iterator[Move]:
        """Moves to `targets`, one after the other, until none of them has less than its share. `room`: bytes that
        each may get, without a bound where it is not named."""
        left = {number: room.get(number, inf) for number in sorted(targets) if number in self._weights}
        open_ = set(left)
        moved = False
        while open_:
            target = min(open_, key=lambda number: (self._ratio(number, 1), number))
            move = self._best(target, left[target])
            if move is not None:
                left[target] -= move.size
                self._make(move)
                moved = True
                yield move
                continue
            open_.discard(target)
            if not open_ and moved:  # a group that changed may take a device now that it could not take before
                open_, moved = set(left), False

    def plan_swaps(self, room: Mapping[int, float]) -> Iterator[tuple[Move, Move]]:
        """Pairs of moves that even the bytes out, each pair to be made together. `room` as of `plan_moves`."""
        total, count = sum(self.bytes.values()), sum(self.loads.values())
        if not total:
            return
        # by positions, which follow the weights as far as groups and domains allow
        share = {number: total * own / count for number, own in self.loads.items()}
        left = dict(room)
        while True:
            over = {number: self.bytes[number] - share[number] for number in self._weights}
            full = sorted((n for n in over if over[n] > FILL_TOLERANCE * share[n]), key=lambda n: (-over[n], n))
            low = sorted(over, key=lambda n: (over[n], n))
            found = next(
                (
                    pair
                    for source in full
                    for target in low
                    if (pair := self._swap(source, target, over, share, left)) is not None
                ),
                None,
            )
            if found is None:
                return
            for move in found:
                self._make(move)
                if move.target in left:
                    left[move.target] -= move.size
            yield found

    def _size(self, key: int, position: int) -> int:
        sizes = self._sizes.get(key)
        return sizes[position] if sizes is not None else 0

    def _ratio(self, number: int, more: int = 0) -> float:
        return (self.loads[number] + more) / self._weights[number]

    def _best(self, target: int, room: float) -> Move | None:
        """The best move to a device that leaves no giver with less for its weight than it has itself then."""
        ratio = self._ratio(target, 1)
        givers = [
            number
            for number in self._weights
            if number != target and self._ratio(number, -1) >= ratio - _EPSILON and self.loads[number] > 0
        ]
        if not givers:
            return None
        givers.sort(key=lambda number: (-self._ratio(number), number))
        wanted = self._wanted(target)
        own = self._held[target]
        for position in sorted(range(self._n), key=lambda one: (len(own[one]), one)):
            goal = wanted * self._means[position]
            for equals in self._alike(givers):
                fit = sorted(
                    # after those that hold this number seldom themselves
                    (len(keys) * self._n < self.loads[source], abs(size - goal), key, source)
                    for source in equals
                    for keys in [self._held[source][position]]
                    for key in keys
                    if (size := self._size(key, position)) <= room
                )
                for _, _, key, source in fit:
                    if self._may(key, position, target):
                        return Move(key, position, source, target, self._size(key, position))
        return None

    def _alike(self, givers: Sequence[int]) -> Iterator[Sequence[int]]:
        """Givers in runs of such that differ by less than a position."""
        start = 0
        while start < len(givers):
            end = start + 1
            lowest = self._ratio(givers[start], -1)
            while end < min(len(givers), start + _GIVERS) and self._ratio(givers[end]) > lowest:
                end += 1
            yield givers[start:end]
            start = end

    def _wanted(self, target: int) -> float:
        """How heavy the next position should be, times the mean of its number."""
        share = self._weights[target] / sum(self._weights.values())
        count = share * sum(self.loads.values())
        rest_count = count - self.loads[target]
        if rest_count < 1 or not sum(self.bytes.values()):
            return 1.0
        mean = sum(self.bytes.values()) / sum(self.loads.values())
        rest = share * sum(self.bytes.values()) - self.bytes[target]
        return max(0.0, rest / (rest_count * mean))

    def _may(self, key: int, position: int, target: int) -> bool:
        """Whether the group keeps its promises with that device at that position."""
        group = self._groups[key]
        if key in self._frozen or target in group:
            return False
        gets, loses = self._domains[target], self._domains[group[position]]
        if gets == loses:
            return True
        counts = Counter(self._domains.get(number, "") for number in group)
        return counts[gets] + 1 <= min(self._m, counts[loses])

    def _swap(
        self, source: int, target: int, over: Mapping[int, float], share: Mapping[int, float], room: Mapping[int, float]
    ) -> tuple[Move, Move] | None:
        """The pair that brings the two closest to each other, and of such pairs the cheapest."""
        need = (over[source] - over[target]) / 2
        if need < GAIN_MIN * share[source]:
            return None
        dear = over[source] > DEAR_ABOVE * share[source]
        best: tuple[float, int, Move, Move] | None = None
        for position in range(self._n):
            light = sorted((self._size(key, position), key) for key in self._held[target][position])
            for key in sorted(self._held[source][position]):
                size = self._size(key, position)
                if size > room.get(target, inf) or not self._may(key, position, target):
                    continue
                for small, other in light:
                    gain = size - small
                    if gain < GAIN_MIN * share[source] or (not dear and small > gain * CHEAP):
                        break
                    # more than needed would only turn the difference round
                    if gain > need or other == key or small > room.get(source, inf):
                        continue
                    rank = (need - gain + small, small)
                    if (best is None or rank < best[:2]) and self._may(other, position, source):
                        there = Move(key, position, source, target, size)
                        back = Move(other, position, target, source, small)
                        best = (*rank, there, back)
                        break
        return None if best is None else (best[2], best[3])

    def _make(self, move: Move) -> None:
        self._groups[move.group][move.position] = move.target
        for number, sign in ((move.source, -1), (move.target, 1)):
            self.loads[number] += sign
            self.bytes[number] += sign * move.size
        self._held[move.source][move.position].discard(move.group)
        self._held[move.target][move.position].add(move.group)
