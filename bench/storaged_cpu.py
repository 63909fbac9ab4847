"""What a storaged's service costs in CPU per operation, without any transport: one process, one device, one event loop.

    python bench/storaged_cpu.py                       # RAM-backed, prints a table
    python bench/storaged_cpu.py --dir /var/tmp/x      # on a disk
    python bench/storaged_cpu.py --only put:4096:32    # one row, e.g. below a profiler

Rows read kind:bytes:concurrency, for reads kind:bytes:reads per call:concurrency. `us` is CPU of the whole process per
operation (a read of several ranges counts each range), `wall` the time per operation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reedbed.common.clock import Deadline, SystemClock
from reedbed.common.errors import ReedbedError
from reedbed.common.ids import Id
from reedbed.common.limits import BLOCK, KIB, MIB
from reedbed.extents.blocks import build_table
from reedbed.protos import methods, storage_pb2
from reedbed.storaged.service import StorageService
from reedbed.storaged.state import CatalogState
from reedbed.storaged.store import ShardStore
from reedbed.transport.lane import Request, Response

CLUSTER = bytes(range(16))
DEVICE = 1
K, M = 4, 2
ROWS = [
    *(f"put:{size}:{width}" for size in (4 * KIB, 64 * KIB) for width in (1, 6, 32)),
    *(f"parity:{size}:{width}" for size in (4 * KIB, 64 * KIB) for width in (32,)),
    *(f"put:{size}:{width}" for size in (MIB, 4 * MIB) for width in (1, 6)),
    f"parity:{4 * MIB}:6",
    *(f"read:{4 * KIB}:{reads}:{width}" for reads in (1, 5, 16) for width in (1, 32)),
    *(f"read:{size}:1:{width}" for size in (64 * KIB, MIB, 4 * MIB) for width in (1, 6)),
]


@dataclass(slots=True)
class Row:
    name: str
    operations: int
    size: int
    cpu: float
    wall: float

    def line(self) -> str:
        us, wall = self.cpu / self.operations * 1e6, self.wall / self.operations * 1e6
        rate = self.operations * self.size / max(self.cpu, 1e-9) / 1e6
        return f"{self.name:>20}  {us:9.1f} us  {wall:9.1f} us wall  {rate:8.0f} MB per CPU second"


class Driver:
    """Calls the service as a transport does: through `begin` where it takes the call, else with a task."""

    def __init__(self, service: StorageService) -> None:
        self._service = service
        self._begin: Callable[..., Any] | None = getattr(service, "begin", None)
        self._loop = asyncio.get_running_loop()

    async def call(self, request: Request) -> Response:
        future: asyncio.Future[Response] = self._loop.create_future()
        if self._begin is None or self._begin(request, lambda answer: _settle(future, answer)) is None:
            return await self._loop.create_task(self._service.handle(request))
        return await future


def _settle(future: asyncio.Future[Response], answer: Response | ReedbedError) -> None:
    if isinstance(answer, ReedbedError):
        future.set_exception(answer)
    else:
        future.set_result(answer)


async def many(width: int, operations: int, one: Callable[[int], Any]) -> tuple[float, float]:
    """Runs `one` for every number below `operations`, so many at a time; CPU and wall seconds."""
    numbers = iter(range(operations))

    async def work() -> None:
        for number in numbers:
            await one(number)

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(width)))
    return time.process_time() - cpu, time.perf_counter() - wall


class Bench:
    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds

    async def row(self, name: str) -> Row:
        kind, *numbers = name.split(":")
        values = [int(number) for number in numbers]
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        state = CatalogState(CLUSTER, SystemClock())
        state.granted(state.clock.monotonic(), 1e9)
        service = StorageService(state, lambda name: ThreadPoolExecutor(4, thread_name_prefix=name))
        store = await asyncio.to_thread(ShardStore.open, folder, CLUSTER)
        try:
            service.serve(DEVICE, store)
            driver = Driver(service)
            if kind == "read":
                return await self._read(name, driver, *values)
            return await self._put(name, driver, values[0], values[1], parity=kind == "parity")
        finally:
            service.close()
            await asyncio.to_thread(store.close)
            shutil.rmtree(folder)

    async def _put(self, name: str, driver: Driver, size: int, width: int, *, parity: bool) -> Row:
        operations = max(50, min(20_000, int(self._seconds * 4000), 1024 * MIB // size))
        data = memoryview(bytes(range(256)) * (size // 256))
        requests = [put_request(number, data, parity=parity) for number in range(1, operations + 51)]
        await many(width, 50, lambda number: driver.call(requests[operations + number]))
        cpu, wall = await many(width, operations, lambda number: driver.call(requests[number]))
        return Row(name, operations, size, cpu, wall)

    async def _read(self, name: str, driver: Driver, size: int, reads: int, width: int) -> Row:
        data = memoryview(bytes(range(256)) * (size // 256))
        shards = min(256, 256 * MIB // size)
        await many(4, shards, lambda number: driver.call(put_request(number + 1, data)))
        calls = max(50, min(20_000 // reads, int(self._seconds * 8000) // reads, 2048 * MIB // size // reads))
        headers = [
            storage_pb2.ReadShardsRequest(
                reads=[
                    storage_pb2.ShardRange(device=DEVICE, extent=extent_id((at + one) % shards + 1), length=size)
                    for one in range(reads)
                ]
            ).SerializeToString()
            for at in range(shards)
        ]

        async def one(number: int) -> None:
            request = Request(methods.READ_SHARDS, headers[number % shards], (), Deadline(60.0), 0, 0)
            response = await driver.call(request)
            assert sum(map(len, response.payload)) == size * reads
            if response.done is not None:
                response.done()

        await many(width, shards, one)
        cpu, wall = await many(width, calls, one)
        return Row(name, calls * reads, size, cpu, wall)


def extent_id(number: int) -> Id:
    return Id(number.to_bytes(16, "big"))


def put_request(number: int, data: memoryview, *, parity: bool = False) -> Request:
    borders = [min(BLOCK, len(data) - at) for at in range(0, len(data), BLOCK)]
    index = K if parity else 0
    message = storage_pb2.PutShardRequest(
        device=DEVICE,
        extent=extent_id(number),
        index=index,
        k=K,
        m=M,
        pg=number % 256,
        generation=1,
        table=build_table(extent_id(number), index, [data], borders),
        log_term=1,
        log_seq=number,
    )
    if parity:
        message.data_tables.extend(build_table(extent_id(number), shard, [data], borders) for shard in range(K))
    pieces = [data[at : at + MIB] for at in range(0, len(data), MIB)]
    return Request(methods.PUT_SHARD, message.SerializeToString(), pieces, Deadline(60.0), 0, 0)


async def run(rows: list[str], folder: Path, seconds: float, *, as_json: bool) -> None:
    bench = Bench(folder, seconds)
    for name in rows:
        row = await bench.row(name)
        if as_json:
            print(json.dumps({"row": row.name, "us": row.cpu / row.operations * 1e6, "size": row.size}))
        else:
            print(row.line(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long a row may take")
    parser.add_argument("--only", action="append", help="a row, repeatable")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    given.dir.mkdir(parents=True, exist_ok=True)
    work = run(given.only or ROWS, given.dir, given.seconds, as_json=given.json)
    if given.uvloop:
        import uvloop  # type: ignore[import-not-found]

        uvloop.run(work)
    else:
        asyncio.run(work)


if __name__ == "__main__":
    sys.exit(main())
