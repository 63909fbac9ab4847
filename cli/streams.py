"""Objects from standard input and to standard output, in bounded memory.

A read or write here may block for as long as the other end of the pipe likes. So each runs in a daemon thread of its
own, on the bare descriptor: neither Ctrl-C nor the end of the process waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from reedbed.cli.locations import Remote
from reedbed.cli.progress import Meter
from reedbed.common.limits import MIB

if TYPE_CHECKING:
    from reedbed.client.store import AsyncStore

T = TypeVar("T")

PIECE: Final = 4 * MIB


async def unwaited(work: Callable[[], T]) -> T:
    """What `work` returns or raises. Nobody waits for it any more once this call is cancelled."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001 - handed over to whoever waits
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True).start()
    return await future


def read_piece(descriptor: int, size: int = PIECE) -> bytes:
    """The next `size` bytes; less at the end."""
    parts, left = [], size
    while left and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """All of `data`; BrokenPipeError if the reader is gone."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


async def from_stdin(store: AsyncStore, target: Remote, meter: Meter) -> int:
    """Puts all of standard input; returns its size in bytes. Nothing is visible before its end."""
    descriptor = sys.stdin.fileno()

    async def pieces() -> AsyncIterator[bytes]:
        while piece := await unwaited(lambda: read_piece(descriptor)):
            meter.moved(len(piece))
            yield piece

    info = await store.put(target.bucket, target.key, pieces())
    return info.size


async def to_stdout(store: AsyncStore, source: Remote, meter: Meter) -> int:
    """Writes an object to standard output; returns its size in bytes."""
    descriptor, total = sys.stdout.fileno(), 0
    async with store.open(source.bucket, source.key, "rb") as file:
        while piece := await file.read(PIECE):
            await unwaited(lambda data=piece: write_all(descriptor, data))  # type: ignore[misc]
            meter.moved(len(piece))
            total += len(piece)
    return total
