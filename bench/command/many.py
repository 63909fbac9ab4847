"""A bucket of very many small objects, and what one operation on it costs.

Objects have numbers, and keys that a permutation scatters over all keys there can be, so that what comes next belongs
anywhere among what is there.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from reedbed.bench.content import shuffled
from reedbed.bench.table import GET_MANY, LOG, PAGE, PUT_MORE, Row
from reedbed.client.store import AsyncStore
from reedbed.common.errors import Corrupt, ReedbedError
from reedbed.common.limits import PAGE_MAX
from reedbed.protos import methods
from reedbed.protos.catalog_pb2 import LogPosition, ReadLogReply, ReadLogRequest

Operation: TypeAlias = Callable[[int, int], Awaitable[None]]  # of an object's number, and of the task

KINDS: Final = (PUT_MORE, GET_MANY, PAGE, LOG)

_BATCH: Final = 1_000
_BITS: Final = 32
_STEP: Final = 0x9E3779B1  # odd: number * step is another number for each of the 2 ** 32
_BODY: Final = b"reedbed "


def key_of(number: int) -> str:
    """The key of an object, below 2 ** 32."""
    return f"{number * _STEP % (1 << _BITS):08x}"


def body_of(number: int, size: int) -> bytes:
    """Its bytes, which no other object has."""
    return (b"%08x" % number + _BODY * (size // len(_BODY)))[:size]


class Many:
    """The bucket."""

    def __init__(self, store: AsyncStore, bucket: str) -> None:
        self._store = store
        self._bucket = bucket
        self._next = 1 << (_BITS - 1)  # of objects that a row puts, beside those that filling puts

    async def fill(self, first: int, count: int, size: int) -> None:
        """Puts objects, by the thousand."""
        for start in range(first, first + count, _BATCH):
            numbers = range(start, min(start + _BATCH, first + count))
            items = {key_of(number): body_of(number, size) for number in numbers}
            for result in (await self._store.put_many(self._bucket, items)).values():
                if isinstance(result, ReedbedError):
                    raise result

    async def operation(self, row: Row) -> Operation:
        """What a row does; `row.keys` objects are there from filling."""
        if row.kind == PUT_MORE:
            return self._put(row)
        if row.kind == GET_MANY:
            return self._get(row)
        if row.kind == PAGE:
            return self._page(row)
        return await self._log()

    def _put(self, row: Row) -> Operation:
        store, bucket = self._store, self._bucket
        numbers = itertools.count(self._next)
        self._next += 1 << 24  # for the next row

        async def put(number: int, slot: int) -> None:
            fresh = next(numbers)
            await store.put(bucket, key_of(fresh), body_of(fresh, row.size))

        return put

    def _get(self, row: Row) -> Operation:
        store, bucket = self._store, self._bucket

        async def get(number: int, slot: int) -> None:
            wanted = shuffled(number, row.keys)
            if await store.get(bucket, key_of(wanted)) != body_of(wanted, row.size):
                raise Corrupt("other bytes came back than were put", where=f"{bucket}/{key_of(wanted)}")

        return get

    def _page(self, row: Row) -> Operation:
        store, bucket = self._store, self._bucket

        async def page(number: int, slot: int) -> None:
            # somewhere in the first half, so that a whole page follows
            after = f"{number * _STEP % (1 << _BITS) // 2:08x}"
            async for rows in store.list_pages(bucket, start_after=after):
                keys = [row.key for row in rows]  # type: ignore[union-attr]  # no delimiter, no prefixes
                if keys[0] <= after or keys != sorted(keys) or len(keys) < min(PAGE_MAX, row.keys // 4):
                    raise Corrupt("a page of the listing is not right", where=f"{bucket}, after {after}")
                return

        return page

    async def _log(self) -> Operation:
        link, core = self._store._core.catalog._link, self._store._core  # the SDK has no call for it yet

        async def read(after: LogPosition | None) -> ReadLogReply:
            request = ReadLogRequest(after=after, limit=PAGE_MAX)
            return await link.call(methods.READ_LOG, request, ReadLogReply, core.deadline())

        whole = await read(None)
        first, end = whole.entries[0].position.seq, whole.end

        async def log(number: int, slot: int) -> None:
            seq = first + shuffled(number, max(1, end.seq - first - PAGE_MAX))
            reply = await read(LogPosition(term=end.term, seq=seq))
            if not reply.entries or reply.entries[0].position.seq != seq + 1:
                raise Corrupt("the log goes on elsewhere than it was asked for", where=f"after {seq}")

        return log
