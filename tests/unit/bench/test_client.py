"""One client process: how it drives a store, and what of the store's answers it refuses."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from reedbed.bench.client import Client, drive, first_of
from reedbed.bench.orders import Go, Hello, WaitDown
from reedbed.bench.table import DELETE, GET, LIST, PUT, Row
from reedbed.client.store import AsyncStore
from reedbed.common.errors import AlreadyExists, Corrupt, InvalidArgument, NotFound, Unavailable
from reedbed.common.limits import KIB, MIB


class Memory:
    """What the client uses of a store, in a dictionary."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, bytes]] = {}
        self.states = ["up"] * 6
        self.altered = False
        self.refuse: Exception | None = None

    async def create_bucket(self, bucket: str) -> None:
        if bucket in self.buckets:
            raise AlreadyExists("it is there")
        self.buckets[bucket] = {}

    async def delete_bucket(self, bucket: str) -> None:
        assert not self.buckets.pop(bucket)

    async def put(self, bucket: str, key: str, data: bytes) -> None:
        self.buckets[bucket][key] = data

    async def put_many(self, bucket: str, items: dict[str, bytes]) -> dict[str, Any]:
        self.buckets[bucket] |= items
        return dict.fromkeys(items, self.refuse)

    async def get(self, bucket: str, key: str) -> bytes:
        data = self.buckets[bucket][key]
        return data[:-1] + bytes([data[-1] ^ 1]) if self.altered else data

    async def get_into(self, bucket: str, key: str, buffer: bytearray) -> int:
        buffer[:] = await self.get(bucket, key)
        return len(buffer)

    async def delete(self, bucket: str, key: str) -> bool:
        return self.buckets[bucket].pop(key, None) is not None

    async def delete_many(self, bucket: str, keys: list[str]) -> dict[str, Any]:
        for key in keys if self.refuse is None else ():
            del self.buckets[bucket][key]
        return dict.fromkeys(keys, self.refuse or True)

    async def list(self, bucket: str, prefix: str = "") -> AsyncIterator[Any]:
        for key in sorted(self.buckets[bucket]):
            if key.startswith(prefix):
                yield SimpleNamespace(key=key)

    async def status(self) -> dict[str, Any]:
        return {"devices": [{"state": state} for state in self.states]}


HELLO = Hello("127.0.0.1:1", 1.0, None, "bench", "p00")


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def client(memory: Memory) -> Client:
    return Client(cast(AsyncStore, memory), HELLO)


def row(kind: str, size: int = 4 * KIB, concurrency: int = 4, **more: Any) -> Row:
    return Row(f"{kind} row", kind, size, concurrency, "small", **more)


def go(most: int = 1 << 30, seconds: float = 0.01) -> Go:
    return Go(time.perf_counter(), seconds, most)


async def test_it_drives_until_the_count_or_the_time_is_reached() -> None:
    done: list[tuple[int, int]] = []

    async def work(number: int, slot: int) -> None:
        done.append((number, slot))

    window = await drive(work, 3, time.perf_counter(), 60.0, 100)
    assert window.operations == 100
    assert sorted(number for number, _ in done) == list(range(100))
    assert {slot for _, slot in done} <= {0, 1, 2}
    window = await drive(work, 3, time.perf_counter() + 0.01, 0.01, 1 << 30)
    assert window.end - window.start >= 0.01
    assert len(window.latencies) == window.operations
    numbers = [number for number, _ in done[100:]]
    assert sorted(numbers) == list(range(len(numbers)))  # no number is left out, so that each can be read


@pytest.mark.parametrize("size", [4 * KIB, MIB])
async def test_what_a_row_puts_the_next_reads(client: Client, memory: Memory, size: int) -> None:
    await client.prepare(row(PUT, size))
    put = await client.go(go(most=20))
    assert put.operations == 20
    keys = set(memory.buckets["bench"])
    assert len(keys) == 20 + 4  # and those that it put before the time was taken
    await client.prepare(row(GET, size))
    assert (await client.go(go())).operations > 0
    memory.altered = True
    with pytest.raises(ExceptionGroup) as raised:
        await client.go(go())
    assert isinstance(first_of(raised.value), Corrupt)


async def test_each_object_is_deleted_once_and_must_have_been_there(client: Client, memory: Memory) -> None:
    await client.prepare(row(PUT))
    await client.go(go(most=10))
    await client.prepare(row(DELETE))
    assert (await client.go(go(seconds=10.0))).operations == 10
    assert len(memory.buckets["bench"]) == 4
    with pytest.raises(ExceptionGroup) as raised:
        await client.go(go())
    assert isinstance(first_of(raised.value), NotFound)


async def test_a_listing_is_compared(client: Client, memory: Memory) -> None:
    await client.prepare(row(LIST, 64, 1, keys=2_500))
    assert len(memory.buckets["bench-list"]) == 2_500
    assert (await client.go(go())).operations > 0
    del memory.buckets["bench-list"]["p00/00001234"]
    with pytest.raises(ExceptionGroup) as raised:
        await client.go(go())
    assert isinstance(first_of(raised.value), Corrupt)


async def test_a_listing_that_cannot_be_filled(client: Client, memory: Memory) -> None:
    memory.refuse = Unavailable("no room")
    with pytest.raises(Unavailable, match="no room"):
        await client.prepare(row(LIST, 64, 1, keys=10))


async def test_it_leaves_nothing_behind(client: Client, memory: Memory) -> None:
    await client.prepare(row(PUT))
    await client.prepare(row(LIST, 64, 1, keys=1_500))
    memory.refuse = Unavailable("not now")
    with pytest.raises(Unavailable, match="not now"):
        await client.clean()
    memory.refuse = None
    await client.clean()
    assert memory.buckets == {}
    await client.clean()


async def test_buckets_may_be_there(client: Client, memory: Memory) -> None:
    await memory.create_bucket("bench")
    await client.prepare(row(PUT))


async def test_it_waits_until_devices_are_known_to_be_down(client: Client, memory: Memory) -> None:
    memory.states[:2] = ["down", "out"]
    await client.wait_down(WaitDown(2, 1.0))
    with pytest.raises(Unavailable, match="not 3 devices are down"):
        await client.wait_down(WaitDown(3, 0.0))


def test_wrong_bytes_are_told_before_anything_else() -> None:
    corrupt = Corrupt("wrong")
    group = ExceptionGroup("", [Unavailable("a"), ExceptionGroup("", [InvalidArgument("b"), corrupt])])
    assert first_of(group) is corrupt
