"""Native work of some size happens off the event loop, in its bounded thread pool; small work is not worth the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from reedbed.common.limits import KIB

T = TypeVar("T")

INLINE_BELOW: Final = 128 * KIB  # bytes that coding or summing gets through in less time than a thread takes to start


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """What `work`, which handles `size` bytes with the GIL released, returns or raises.

    Where the caller is cancelled the thread runs on to its end, and may read its buffers until then.
    """
    if size < INLINE_BELOW:
        return work()
    return await asyncio.get_running_loop().run_in_executor(None, work)
