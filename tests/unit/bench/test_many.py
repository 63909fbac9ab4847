"""Operations among many objects: keys of their own, and answers that are checked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reedbed.bench.many import Many, body_of, key_of
from reedbed.bench.table import GET_MANY, LOG, PAGE, PUT_MORE, Row
from reedbed.client.store import AsyncStore
from reedbed.common.errors import Corrupt, ReedbedError, Unavailable
from reedbed.protos.catalog_pb2 import LogEntry, LogPosition, ReadLogReply, ReadLogRequest

SIZE = 100


class Memory:
    """What it uses of a store: objects, and a log of them."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.log: list[str] = []
        self.fail = False
        self.skip = 0
        self._core = SimpleNamespace(catalog=SimpleNamespace(_link=self), deadline=lambda: None)

    async def put(self, bucket: str, key: str, data: bytes) -> None:
        assert key not in self.objects
        self.objects[key] = data
        self.log.append(key)

    async def put_many(self, bucket: str, items: dict[str, bytes]) -> dict[str, Any]:
        for key, data in items.items():
            await self.put(bucket, key, data)
        return dict.fromkeys(items, Unavailable("no") if self.fail else None)

    async def get(self, bucket: str, key: str) -> bytes:
        return self.objects[key]

    async def list_pages(self, bucket: str, start_after: str) -> AsyncIterator[list[Any]]:
        keys = sorted(key for key in self.objects if key > start_after)[self.skip : 1000]
        yield [SimpleNamespace(key=key) for key in keys]
        raise AssertionError("one page is enough")

    async def call(self, method: str, request: ReadLogRequest, kind: type, deadline: object) -> ReadLogReply:
        first = request.after.seq + 1 + self.skip
        positions = [LogPosition(term=1, seq=seq) for seq in range(first, len(self.log) + 1)][: request.limit]
        entries = [LogEntry(position=position) for position in positions]
        return ReadLogReply(entries=entries, end=LogPosition(term=1, seq=len(self.log)))


def row(kind: str, keys: int = 5_000) -> Row:
    return Row(kind, kind, SIZE, 1, "", keys=keys)


@pytest.fixture
async def filled() -> tuple[Many, Memory]:
    memory = Memory()
    many = Many(cast(AsyncStore, memory), "bench")
    await many.fill(0, 2_500, SIZE)
    await many.fill(2_500, 2_500, SIZE)
    return many, memory


async def test_what_was_filled_is_read(filled: tuple[Many, Memory]) -> None:
    many, memory = filled
    assert len(memory.objects) == 5_000
    get = await many.operation(row(GET_MANY))
    for number in range(100):
        await get(number, 0)
    memory.objects = {key: data[::-1] for key, data in memory.objects.items()}
    with pytest.raises(Corrupt):
        await get(0, 0)


async def test_rows_put_objects_that_are_not_there(filled: tuple[Many, Memory]) -> None:
    many, memory = filled
    for _ in range(2):
        put = await many.operation(row(PUT_MORE))
        for number in range(100):
            await put(number, 0)
    assert len(memory.objects) == 5_200  # put() refuses what is there


async def test_pages_are_whole_and_in_order(filled: tuple[Many, Memory]) -> None:
    many, memory = filled
    page = await many.operation(row(PAGE))
    for number in range(20):
        await page(number, 0)
    memory.skip = 300
    with pytest.raises(Corrupt):
        await page(0, 0)


async def test_the_log_is_read_from_where_it_was_asked(filled: tuple[Many, Memory]) -> None:
    many, memory = filled
    log = await many.operation(row(LOG))
    for number in range(20):
        await log(number, 0)
    memory.skip = 1
    with pytest.raises(Corrupt):
        await log(0, 0)


async def test_filling_that_fails(filled: tuple[Many, Memory]) -> None:
    many, memory = filled
    memory.fail = True
    with pytest.raises(ReedbedError, match="no"):
        await many.fill(5_000, 1, SIZE)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(8, 5_000))
def test_no_two_objects_are_alike(first: int, second: int, size: int) -> None:
    assert len(body_of(first, size)) == size
    assert (key_of(first) == key_of(second)) == (first == second)
    assert (body_of(first, size) == body_of(second, size)) == (first == second)
