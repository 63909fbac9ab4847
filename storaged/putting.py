"""Puts as they come over lanes: checked, handed to the writer of their device without a task, and answered in batches.

Invariants
- A put is answered only after its shard is durable, once, in the event loop's thread; one that was dropped is not.
- While the catalog has not been heard for the time that it granted, puts are refused.
- What the writer has done with one batch comes back to the loop in one call.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from reedbed.common.errors import DeviceFailed, InvalidArgument, ReedbedError
from reedbed.common.ids import check_id
from reedbed.common.limits import K_MAX, M_MAX
from reedbed.protos import storage_pb2
from reedbed.protos.convert import parse
from reedbed.storaged.calls import PutShard
from reedbed.storaged.operations import Put
from reedbed.storaged.politeness import Foreground
from reedbed.storaged.state import CatalogState
from reedbed.storaged.store import ShardStore
from reedbed.transport.lane import Answer, Request, Response


class _Asker(NamedTuple):
    """Who waits for a put."""

    answer: Answer
    incarnation: int
    counted: bool


class Putting:
    """The puts of one process, for one event loop."""

    def __init__(self, state: CatalogState, foreground: Foreground, store: Callable[[int], ShardStore]) -> None:
        """`store` gives a device's by its number, and raises Unavailable."""
        self._state = state
        self._foreground = foreground
        self._store = store
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._soon: set[ShardStore] = set()  # that are going to write here

    def begin(self, request: Request, answer: Answer) -> Callable[[], None]:
        """Begins a put; returns what drops it, if it was not begun. Raises what refuses it at once."""
        if self._loop is None:
            self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        message = parse(storage_pb2.PutShardRequest, request.header)
        number = message.device
        store = self._store(number)
        if not self._state.may_write():
            raise DeviceFailed(
                f"device {number} takes no writes: catalogd has not answered it for too long",
                hint="Check that catalogd runs and that this node reaches it",
                retryable=True,
            )
        k, m, index = message.k, message.m, message.index
        if not (1 <= k <= K_MAX and 1 <= m <= M_MAX and index < k + m):
            raise InvalidArgument(f"no shard {index} in a profile of {k}+{m}")
        shard = PutShard(
            check_id(message.extent, "extent id"),
            index,
            k,
            m,
            message.pg,
            message.generation,
            message.table,
            request.payload,
            message.data_tables,
            message.log_term,
            message.log_seq,
            request.deadline,
        )
        asker = _Asker(answer, store.incarnation, not message.background)
        put = store.begin_put(shard, self._tell, asker, here=True)
        if asker.counted:
            self._foreground.begin(self._state.clock.monotonic())
        if store.in_memory and store not in self._soon:
            self._soon.add(store)
            self._loop.call_soon(self._write, store)  # with all that come in before

        def cancel() -> None:
            if store.drop(put) and asker.counted:
                self._foreground.end(self._state.clock.monotonic())

        return cancel

    async def handle(self, request: Request) -> Response:
        """A put for which a task waits."""
        outcome = await self._outcome(request)
        if isinstance(outcome, Response):
            return outcome
        try:
            raise outcome
        finally:
            del outcome, request  # its traceback knows this frame: a cycle would keep the bytes of the request

    async def _outcome(self, request: Request) -> Response | ReedbedError:
        future: asyncio.Future[Response | ReedbedError] = asyncio.get_running_loop().create_future()

        def answer(outcome: Response | ReedbedError) -> None:
            if not future.done():
                future.set_result(outcome)

        cancel = self.begin(request, answer)
        try:
            return await future
        except asyncio.CancelledError:
            cancel()
            raise

    def _write(self, store: ShardStore) -> None:
        self._soon.discard(store)
        store.write_here()

    def _tell(self, puts: Sequence[Put]) -> None:
        """From any thread."""
        assert self._loop is not None
        if threading.get_ident() == self._thread:
            self._told(puts)
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            self._loop.call_soon_threadsafe(self._told, puts)

    def _told(self, puts: Sequence[Put]) -> None:
        now = self._state.clock.monotonic()
        for put in puts:
            answer, incarnation, counted = put.whom
            if counted:
                self._foreground.end(now)
            outcome = put.outcome
            answer(outcome if isinstance(outcome, ReedbedError) else Response(_reply(incarnation)))


@lru_cache(256)
def _reply(incarnation: int) -> bytes:
    return storage_pb2.PutShardReply(incarnation=incarnation).SerializeToString()
