"""Counters that a process keeps of its own work, as plain numbers that status reports and tests read."""

from __future__ import annotations

from collections import Counter


class Metrics:
    """Named counters. Names read `room.thing`, such as `reads.decoded`."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str, amount: int = 1) -> None:
        self._counts[name] += amount

    def get(self, name: str) -> int:
        return self._counts[name]

    def snapshot(self) -> dict[str, int]:
        """A copy of all counters, by name."""
        return dict(sorted(self._counts.items()))
