from __future__ import annotations

import asyncio
import os
import threading

import pytest

from reedbed.cli.streams import read_piece, unwaited, write_all


async def test_pieces_are_full_until_the_end() -> None:
    reading, writing = os.pipe()
    data = os.urandom(300_000)

    def feed() -> None:
        with os.fdopen(writing, "wb", buffering=0) as file:
            for start in range(0, len(data), 7777):
                file.write(data[start : start + 7777])

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        pieces = [await unwaited(lambda: read_piece(reading, 100_000)) for _ in range(4)]
    finally:
        feeder.join()
        os.close(reading)
    assert [len(piece) for piece in pieces] == [100_000, 100_000, 100_000, 0]
    assert b"".join(pieces) == data


async def test_all_is_written_although_the_pipe_is_small() -> None:
    reading, writing = os.pipe()
    data = os.urandom(500_000)

    def drain() -> bytes:
        return read_piece(reading, len(data))

    received, _ = await asyncio.gather(unwaited(drain), unwaited(lambda: write_all(writing, data)))
    os.close(reading)
    assert received == data
    with pytest.raises(BrokenPipeError):
        await unwaited(lambda: write_all(writing, b"more"))
    os.close(writing)


async def test_who_is_cancelled_does_not_wait_for_a_read_that_blocks() -> None:
    reading, writing = os.pipe()
    started = threading.Event()

    def read() -> bytes:
        started.set()
        return read_piece(reading)

    waiting = asyncio.create_task(unwaited(read))
    await asyncio.to_thread(started.wait)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    os.close(writing)  # lets the thread end
