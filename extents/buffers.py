"""Large buffers that serve again: to get fresh ones from the system, and have it clear them, takes as long as coding.

Whoever gives one back says that nobody can read or write it any more. What is not given back is garbage as any other.
"""

from __future__ import annotations

from typing import Final

from reedbed.common.limits import MIB

KEEP_FROM: Final = MIB  # shorter ones are quickly made
KEEP_BYTES: Final = 32 * MIB  # so much of them

_kept: dict[int, list[bytearray]] = {}  # by length; lists are only appended to and popped from, by any thread


def take(length: int) -> bytearray:
    """A buffer of that length, which holds anything."""
    try:
        return _kept[length].pop()
    except (KeyError, IndexError):
        return bytearray(length)


def give(buffer: bytearray) -> None:
    """It is free."""
    length = len(buffer)
    if length >= KEEP_FROM:
        if sum(size * len(kept) for size, kept in list(_kept.items())) + length > KEEP_BYTES:
            _kept.clear()  # what is there has lengths that may never be wanted again
        _kept.setdefault(length, []).append(buffer)


def kept() -> list[int]:
    """The lengths of all that are free."""
    return [length for length, free in _kept.items() for _ in free]


def clear() -> None:
    """Keeps none."""
    _kept.clear()
