from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from reedbed.cli.lines import PENDING_MAX, Lines


async def test_lines_come_in_order_and_gather_while_one_is_written() -> None:
    written: list[list[str]] = []
    begun, go = threading.Event(), threading.Event()

    def write(lines: Sequence[str]) -> None:
        written.append(list(lines))
        begun.set()
        assert go.wait(10)

    lines = Lines(write)
    await lines.put("0")
    await asyncio.to_thread(begun.wait, 10)
    for number in range(1, 50):
        await lines.put(str(number))
    go.set()
    await lines.drain()
    assert written == [["0"], [str(number) for number in range(1, 50)]]


async def test_who_brings_too_many_waits_and_the_loop_goes_on() -> None:
    go = threading.Event()
    count = 0

    def write(lines: Sequence[str]) -> None:
        nonlocal count
        assert go.wait(10)
        count += len(lines)

    lines = Lines(write)
    brought = 0

    async def bring() -> None:
        nonlocal brought
        for number in range(3 * PENDING_MAX):
            await lines.put(str(number))
            brought += 1

    bringing = asyncio.create_task(bring())
    for _ in range(100):
        await asyncio.sleep(0.001)
    assert PENDING_MAX // 2 < brought <= PENDING_MAX + 1
    go.set()
    await bringing
    await lines.drain()
    assert count == 3 * PENDING_MAX


async def test_an_error_comes_back_to_whoever_brings_the_next_line() -> None:
    def write(lines: Sequence[str]) -> None:
        raise BrokenPipeError

    lines = Lines(write)
    with pytest.raises(BrokenPipeError):
        await put_and_drain(lines)
    with pytest.raises(BrokenPipeError):
        await lines.put("more")


async def put_and_drain(lines: Lines) -> None:
    await lines.put("a")
    await lines.drain()
