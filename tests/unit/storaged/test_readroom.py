"""Room for reads: who was given up takes none."""

from __future__ import annotations

import asyncio

import pytest

from reedbed.common.limits import KIB
from reedbed.storaged.readroom import ReadRoom


async def test_room_for_a_waiter_that_was_cancelled_goes_to_the_next() -> None:
    room = ReadRoom(1024 * KIB)
    await room.take(1000 * KIB)
    first = asyncio.ensure_future(room.take(500 * KIB))
    second = asyncio.ensure_future(room.take(600 * KIB))
    await asyncio.sleep(0)
    first.cancel()
    room.give(1000 * KIB)  # before the cancelled one has its turn
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert room.held == 600 * KIB
    room.give(600 * KIB)
    assert room.held == 0
