"""One client process of the benchmark: a store of its own, driven by as many tasks as a row asks for.

    python -m reedbed.bench.client FD

It takes orders from the connection that it inherited as FD, and ends with it. What a row needs (buckets, connections,
contents, buffers) is there before it answers Prepare; Go measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
import time
from array import array
from multiprocessing.connection import Connection
from typing import Final

import uvloop

import reedbed
from reedbed.bench.content import Content, shuffled
from reedbed.bench.many import KINDS, Many, Operation
from reedbed.bench.measured import Window, resident
from reedbed.bench.orders import Answer, Clean, Fill, Go, Hello, Order, Prepare, Probe, Ready, WaitDown
from reedbed.bench.table import DEGRADED, DELETE, GET, LIST, PUT, Row
from reedbed.client.store import AsyncStore
from reedbed.common.errors import AlreadyExists, Corrupt, NotFound, ReedbedError, Unavailable

_LIST_OBJECTS: Final = 1000  # of one put_many
_WAIT_S: Final = 0.05
_MOST_READS: Final = 1_000_000


async def drive(operation: Operation, concurrency: int, start: float, seconds: float, most: int) -> Window:
    """Runs an operation in as many tasks from `start` on, until the time is up or the count reached."""
    clock = time.perf_counter
    latencies = array("I")
    numbers = iter(range(most))
    await asyncio.sleep(max(0.0, start - clock()))
    usage = own_cpu()
    began = clock()
    end = began + seconds

    async def task(slot: int) -> None:
        before = clock()
        for number in numbers:
            await operation(number, slot)
            after = clock()
            latencies.append(int((after - before) * 1e6))
            before = after
            if after >= end:
                break

    async with asyncio.TaskGroup() as group:
        for slot in range(concurrency):
            group.create_task(task(slot))
    ended = clock()
    return Window(len(latencies), began, ended, own_cpu() - usage, resident([os.getpid()]), latencies)


def own_cpu() -> float:
    """CPU seconds of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Client:
    """Carries out orders against one cluster."""

    def __init__(self, store: AsyncStore, hello: Hello) -> None:
        self._store = store
        self._bucket = hello.bucket
        self._list_bucket = f"{hello.bucket}-list"
        self._prefix = hello.prefix
        self._contents: dict[int, Content] = {}
        self._stored: dict[str, int] = {}
        self._row: Row | None = None
        self._operation: Operation | None = None
        self._made: set[str] = set()
        self._many = Many(store, hello.bucket)

    def _key(self, row: Row, number: int) -> str:
        return f"{self._prefix}/{row.size}-{row.concurrency}/{number:08}"

    async def _bucket_made(self, bucket: str) -> None:
        if bucket not in self._made:
            with contextlib.suppress(AlreadyExists):
                await self._store.create_bucket(bucket)
            self._made.add(bucket)

    async def fill(self, order: Fill) -> None:
        """Puts many small objects."""
        await self._bucket_made(self._bucket)
        await self._many.fill(order.first, order.count, order.size)

    async def prepare(self, row: Row) -> None:
        """Readies a row, and runs it a few times, so that nothing is done for the first time while it is measured."""
        await self._bucket_made(self._bucket)
        self._row = row
        if row.kind == LIST:
            await self._bucket_made(self._list_bucket)
            self._operation = await self._prepare_list(row)
            warm = range(1)
        elif row.kind in KINDS:
            self._operation = await self._many.operation(row)
            warm = range(row.concurrency)
        else:
            if row.size not in self._contents:
                self._contents = {row.size: Content(row.size)}
            make = {PUT: self._put, GET: self._get, DEGRADED: self._get, DELETE: self._delete}[row.kind]
            self._operation = make(row)
            # objects that the row itself does not count, and for deletes none
            warm = {PUT: range(-row.concurrency, 0), DELETE: range(0)}.get(row.kind, range(row.concurrency))
        operation = self._operation
        await asyncio.gather(*(operation(number, slot) for slot, number in enumerate(warm)))

    async def go(self, order: Go) -> Window:
        """Measures the row that was prepared."""
        assert self._row is not None
        assert self._operation is not None
        row = self._row
        per_process = row.concurrency // row.processes
        most = order.most if row.puts else self._stored[self._of(row)] if row.kind == DELETE else _MOST_READS
        window = await drive(self._operation, per_process, order.start, order.seconds, most)
        if row.kind == PUT:
            self._stored[self._of(row)] = window.operations
        return window

    @staticmethod
    def _of(row: Row) -> str:
        """What rows that work on the same objects have in common."""
        return f"{row.size}-{row.concurrency}"

    def _put(self, row: Row) -> Operation:
        content, store, bucket = self._contents[row.size], self._store, self._bucket

        async def put(number: int, slot: int) -> None:
            await store.put(bucket, self._key(row, number), content.body(number))

        return put

    def _get(self, row: Row) -> Operation:
        content, store, bucket = self._contents[row.size], self._store, self._bucket
        stored = self._stored[self._of(row)]
        if not row.bulk:

            async def get(number: int, slot: int) -> None:
                wanted = shuffled(number, stored)
                key = self._key(row, wanted)
                if not content.matches(wanted, await store.get(bucket, key)):
                    raise Corrupt("other bytes came back than were put", where=f"{bucket}/{key}")

            return get
        buffers = [bytearray(row.size) for _ in range(row.concurrency)]

        async def get_into(number: int, slot: int) -> None:
            wanted = shuffled(number, stored)
            key, buffer = self._key(row, wanted), buffers[slot]
            count = await store.get_into(bucket, key, buffer)
            if count != row.size or buffer != content.body(wanted):
                raise Corrupt("other bytes came back than were put", where=f"{bucket}/{key}")

        return get_into

    def _delete(self, row: Row) -> Operation:
        store, bucket = self._store, self._bucket

        async def delete(number: int, slot: int) -> None:
            key = self._key(row, number)
            if not await store.delete(bucket, key):
                raise NotFound("an object that was put is not there", where=f"{bucket}/{key}")

        return delete

    async def _prepare_list(self, row: Row) -> Operation:
        store, bucket = self._store, self._list_bucket
        keys = [f"{self._prefix}/{number:08}" for number in range(row.keys)]
        for start in range(0, len(keys), _LIST_OBJECTS):
            items = dict.fromkeys(keys[start : start + _LIST_OBJECTS], b"x" * row.size)
            for result in (await store.put_many(bucket, items)).values():
                if isinstance(result, Exception):
                    raise result

        prefix = f"{self._prefix}/"

        async def listing(number: int, slot: int) -> None:
            if await self._keys(bucket, prefix) != keys:
                raise Corrupt("a listing differs from what was put", where=bucket)

        return listing

    async def _keys(self, bucket: str, prefix: str = "") -> list[str]:
        # without a delimiter there are no rows but objects
        return [row.key async for row in self._store.list(bucket, prefix)]  # type: ignore[union-attr]

    async def wait_down(self, order: WaitDown) -> None:
        """Until so many devices are known to be down; Unavailable if that takes too long."""
        end = time.monotonic() + order.seconds
        while True:
            states = [device["state"] for device in (await self._store.status())["devices"]]
            if len(states) - states.count("up") == order.count:
                return
            if time.monotonic() > end:
                raise Unavailable(f"after {order.seconds:g} s not {order.count} devices are down: {states}")
            await asyncio.sleep(_WAIT_S)

    async def clean(self) -> None:
        """Deletes objects and buckets."""
        for bucket in sorted(self._made):
            keys = await self._keys(bucket)
            for start in range(0, len(keys), _LIST_OBJECTS):
                for result in (await self._store.delete_many(bucket, keys[start : start + _LIST_OBJECTS])).values():
                    if isinstance(result, Exception):
                        raise result
            await self._store.delete_bucket(bucket)
        self._made.clear()


async def serve(orders: Connection) -> None:
    """Answers orders until there are no more."""
    loop = asyncio.get_running_loop()

    async def take() -> Order | None:
        try:
            order: Order = await loop.run_in_executor(None, orders.recv)
        except (EOFError, ConnectionError):
            return None
        return order

    hello = await take()
    if not isinstance(hello, Hello):
        return
    async with reedbed.aio.connect(hello.endpoint, timeout=hello.timeout, tls=hello.tls) as store:
        client = Client(store, hello)
        while (order := await take()) is not None:
            answer: Answer = Ready()
            try:
                match order:
                    case Probe():
                        await store.status()
                    case Fill():
                        await client.fill(order)
                    case Prepare(row):
                        await client.prepare(row)
                    case Go():
                        answer = await client.go(order)
                    case WaitDown():
                        await client.wait_down(order)
                    case Clean():
                        await client.clean()
            except* ReedbedError as group:
                answer = first_of(group)
            with contextlib.suppress(ConnectionError):
                orders.send(answer)


def first_of(group: BaseExceptionGroup[ReedbedError]) -> ReedbedError:
    """One of the errors; wrong bytes before others."""
    found: list[ReedbedError] = []
    waiting: list[BaseException] = [group]
    while waiting:
        error = waiting.pop()
        if isinstance(error, BaseExceptionGroup):
            waiting += error.exceptions
        elif isinstance(error, ReedbedError):
            found.append(error)
    return min(found, key=lambda error: not isinstance(error, Corrupt))


def main() -> None:
    with Connection(int(sys.argv[1])) as orders, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(orders))


if __name__ == "__main__":
    main()
