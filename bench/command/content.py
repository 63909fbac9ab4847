"""Contents of objects: random, made before anything is timed, and compared whole whenever they come back."""

from __future__ import annotations

import os
from typing import Final

from reedbed.common.limits import MIB

_MEMORY: Final = 32 * MIB  # of all bodies together, if that is two or more
_MOST: Final = 257  # a prime, so that neither concurrency nor cutting falls in step with it


class Content:
    """A few different bodies of one size, which objects have by their number."""

    def __init__(self, size: int, *, most: int = _MOST) -> None:
        self.size = size
        count = max(2, min(most, _MEMORY // size))
        self._bodies = [os.urandom(size) for _ in range(count)]
        self._expected: list[bytearray] = []

    @property
    def count(self) -> int:
        """How many bodies there are."""
        return len(self._bodies)

    def body(self, number: int) -> bytes:
        return self._bodies[number % len(self._bodies)]

    def matches(self, number: int, data: bytes | bytearray | memoryview) -> bool:
        """Whether these are the bytes of that object; as quick as memcmp, for a memoryview too."""
        if not isinstance(data, memoryview):
            return data == self.body(number)
        if not self._expected:
            self.prepare()
        return self._expected[number % len(self._bodies)] == data

    def prepare(self) -> None:
        """Readies the comparison with memoryviews, which only a bytearray does by memcmp."""
        self._expected = [bytearray(body) for body in self._bodies]


def shuffled(number: int, count: int) -> int:
    """Where the numberth read goes, so that reads follow no order of writing: a permutation of range(count)."""
    step = 1_000_003
    return number * (step if count % step else step + 30) % count
