"""The wheel of coarse timers: never too soon, in order, and what is dropped is not due."""

from __future__ import annotations

import asyncio
import random

import pytest

from reedbed.extents.wheel import Wheel


class Waiting:
    def __init__(self, seen: list[tuple[object, float]], name: object) -> None:
        self.slot = 0
        self.seen = seen
        self.name = name
        self.on_due = lambda: None

    def due(self) -> None:
        assert self.slot == 0
        self.seen.append((self.name, asyncio.get_running_loop().time()))
        self.on_due()


async def test_none_is_due_too_soon_and_all_in_order():
    loop, wheel, seen = asyncio.get_running_loop(), Wheel(0.002), []
    rng = random.Random(1)
    wanted = {}
    for name in range(100):
        seconds = rng.choice([0.0, 0.001, 0.005, 0.01, 0.03])
        wanted[name] = loop.time() + seconds
        wheel.add(Waiting(seen, name), seconds)
    while len(seen) < 100:  # noqa: ASYNC110  what is waited for tells nobody
        await asyncio.sleep(0.001)
    assert all(at >= wanted[name] - 1e-6 for name, at in seen)
    ticks = [int(wanted[name] / 0.002) for name, _ in seen]
    assert ticks == sorted(ticks)


async def test_what_is_dropped_is_never_due_and_leaves_nothing():
    wheel, seen = Wheel(0.001), []
    entries = [Waiting(seen, number) for number in range(50)]
    for entry in entries:
        wheel.add(entry, 0.003)
    for entry in entries[::2]:
        wheel.drop(entry)
        wheel.drop(entry)
    while len(seen) < 25:  # noqa: ASYNC110  what is waited for tells nobody
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.005)
    assert [name for name, _ in seen] == list(range(1, 50, 2))
    assert not wheel._slots


async def test_an_earlier_one_is_not_kept_waiting_by_a_later_one():
    wheel, seen = Wheel(0.001), []
    wheel.add(Waiting(seen, "late"), 30.0)
    wheel.add(Waiting(seen, "soon"), 0.002)
    while not seen:  # noqa: ASYNC110  what is waited for tells nobody
        await asyncio.sleep(0.001)
    assert [name for name, _ in seen] == ["soon"]
    wheel.close()


@pytest.mark.parametrize("again", [0.0, 0.001, 0.004])
async def test_one_that_is_due_may_add_itself_and_drop_others(again):
    wheel, seen = Wheel(0.001), []
    first, other = Waiting(seen, "first"), Waiting(seen, "other")

    def once_more() -> None:
        wheel.drop(other)
        if len(seen) < 5:
            wheel.add(first, again)

    first.on_due = once_more
    wheel.add(first, 0.001)
    wheel.add(other, 0.001)
    while len(seen) < 5:  # noqa: ASYNC110  what is waited for tells nobody
        await asyncio.sleep(0.001)
    assert {name for name, _ in seen} == {"first"}


async def test_after_close_nothing_is_due():
    wheel, seen = Wheel(0.001), []
    entry = Waiting(seen, 1)
    wheel.add(entry, 0.001)
    wheel.close()
    wheel.drop(entry)
    await asyncio.sleep(0.005)
    assert not seen


async def test_what_adds_itself_far_away_does_not_hold_back_what_is_nearer():
    wheel, seen = Wheel(0.001), []
    first, second = Waiting(seen, "first"), Waiting(seen, "second")
    first.on_due = lambda: wheel.add(first, 100.0)
    wheel.add(first, 0.002)
    wheel.add(second, 0.01)
    async with asyncio.timeout(5):
        while len(seen) < 2:  # noqa: ASYNC110  what is waited for tells nobody
            await asyncio.sleep(0.001)
    assert [name for name, _ in seen] == ["first", "second"]
    wheel.close()
