"""Work that a caller begins and that must not be left half taken over when he gives up: a deadline, or a cut lane."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def carried_on(work: Coroutine[Any, Any, T], under_way: set[asyncio.Future[Any]]) -> T:
    """The result of the work, which goes on to its end by itself where the caller is cancelled.

    `under_way` keeps it until then.
    """
    task = asyncio.ensure_future(work)
    under_way.add(task)
    task.add_done_callback(under_way.discard)
    return await asyncio.shield(task)
