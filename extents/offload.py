"""Native work of some size happens off the event loop, in its bounded thread pool; small work is not worth the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from reedbed.common.limits import MIB

T = TypeVar("T")

# Bytes that are summed in 0.1 ms and coded in 0.3: the way to a thread and back costs as much, and the event loop waits
# for the lock of the interpreter on top of it.
INLINE_BELOW: Final = 2 * MIB
SUMS_AS_CODING: Final = 4  # blocks are summed so many times as fast as they are coded, and with the lock held


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """What `work`, which handles `size` bytes with the GIL released, returns or raises.

    Where the caller is cancelled the thread runs on to its end, and may read its buffers until then.
    """
    if size < INLINE_BELOW:
        return work()
    return await asyncio.get_running_loop().run_in_executor(None, work)


async def off_loop_to_its_end(size: int, work: Callable[[], T]) -> T:
    """`off_loop` for work that writes into a caller's memory: where the caller is cancelled it is waited for."""
    if size < INLINE_BELOW:
        return work()
    running = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            try:
                await asyncio.wait((running,))
            except asyncio.CancelledError:
                continue
        raise
