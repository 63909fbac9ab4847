"""Decoding where the bytes belong: nothing writes there once a read has ended, and buffers serve again."""

from __future__ import annotations

import asyncio
import threading

import pytest

from reedbed.common.checksums import crc32c
from reedbed.common.clock import Deadline
from reedbed.common.limits import MIB
from reedbed.extents import buffers, offload
from reedbed.extents.offload import off_loop_to_its_end
from reedbed.extents.read import read_extent


@pytest.fixture
async def degraded(make_twin, some_bytes):
    """An extent whose first two data shards are on devices that are down, and its bytes."""
    twin, data = make_twin(), some_bytes(5 * MIB)
    extent = await twin.write(data)
    for shard in (0, 1):
        twin.set_state(twin.number(extent, shard), "down")
        twin.holder(extent, shard).dead = True
    return twin, extent, data


async def test_whole_pieces_are_computed_in_place_and_summed(degraded):
    twin, extent, data = degraded
    into = bytearray(len(data))
    sums = {}
    buffers.clear()
    await read_extent(twin, extent, 0, len(data), memoryview(into), Deadline(5), sums=sums)
    assert into == data
    assert sum(length for length, _ in sums.values()) == len(data)
    for at, (length, value) in sums.items():
        assert value == crc32c(data[at : at + length])
    assert buffers.kept() == [max(extent.lengths)] * 2, "what parity was received into"
    for start, length in ((5, 70_000), (1_000_000, 2_000_000), (0, 1_310_720), (1_310_721, 65_536)):
        assert await twin.read(extent, start, length) == data[start : start + length]


async def test_bytes_that_came_out_wrong_are_not_handed_on(degraded):
    twin, extent, _ = degraded

    def alter(reply, payload):
        # bytes and sums that belong together, and to nothing that was stored
        for result in reply.results:
            for rows in result.data_rows:
                rows.table = rows.table[:4] + bytes(4) + rows.table[8:]

    for shard in (4, 5):
        twin.holder(extent, shard).alter = alter
    with pytest.raises(OSError, match=r"arrived altered|too few"):
        await twin.read(extent)


async def test_work_that_writes_to_a_callers_memory_is_waited_for(monkeypatch):
    """However often whoever waits is cancelled."""
    began, go_on = threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    plain = loop.run_in_executor

    def slowly(executor, work):
        def late():
            began.set()
            go_on.wait(5)
            return work()

        return plain(executor, late)

    monkeypatch.setattr(offload, "INLINE_BELOW", 0)
    monkeypatch.setattr(loop, "run_in_executor", slowly)
    ended = []
    work = asyncio.ensure_future(off_loop_to_its_end(1, lambda: ended.append(1)))
    while not began.is_set():  # noqa: ASYNC110  a thread tells no event loop
        await asyncio.sleep(0.001)
    for _ in range(3):
        work.cancel()
        await asyncio.sleep(0.001)
        assert not work.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert ended == [1]
