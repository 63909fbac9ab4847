"""What the client itself costs: CPU per small operation and per byte, against twins of the daemons that answer at once.

    python bench/client_cpu.py [--seconds 2] [--only TEXT] [--profile FILE] [--json FILE]

The twins run in the same process and thread. Their work is timed and taken off, so that what is printed is the SDK's
own: everything from `store.put` to the lane's `call`, and back from its answer. What a real lane adds is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from reedbed.client.core import Core
from reedbed.client.options import Options
from reedbed.client.store import AsyncStore
from reedbed.common.checksums import block_sum
from reedbed.common.clock import Deadline
from reedbed.common.ids import Id, make_block
from reedbed.common.limits import KIB, MIB
from reedbed.extents.blocks import pack_table, unpack_table
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos import methods, storage_pb2
from reedbed.protos.convert import change_to_message, whole_map
from reedbed.protos.types import ClusterMap, Device, PlacementGroup, Position
from reedbed.transport.lane import Hello, Reply

DEVICES = 6
SMALL = 256 * KIB  # payloads up to that are copied by the twins, larger ones are the caller's own bytes

Answer = tuple[bytes, "bytes | memoryview"]


class Twins:
    """A catalog and six devices that keep what they are sent."""

    def __init__(self) -> None:
        devices = {n: Device(n, bytes([n]) * 16, f"device:{n}", "up") for n in range(1, DEVICES + 1)}
        pgs = {
            n: PlacementGroup(n, 4, 2, 1, tuple(Position(1 + (n + i) % DEVICES) for i in range(DEVICES)))
            for n in range(1, 101)
        }
        self.map = ClusterMap(b"c" * 16, 7, devices, pgs, "rs-4-2")
        self.found: dict[bytes, tuple[bytes, bytes]] = {}  # token and Found message by key
        self.shards: dict[tuple[bytes, int], tuple[bytes | memoryview, bytes, tuple[bytes, ...]]] = {}
        self.rows: dict[bytes, bytes] = {}
        self.dead: frozenset[int] = frozenset()
        self.spent = 0.0
        self.calls = 0
        self.blocks = 0
        self._waiting: list[tuple[asyncio.Future[Reply], Callable[[], Reply]]] = []

    async def open(self, address: str, *, cluster: bytes, deadline: Deadline) -> TwinLane:
        role = "storaged" if address.startswith("device:") else "catalogd"
        return TwinLane(self, address, Hello(self.map.cluster, 7, 5, role, "twin", 1, 1 << 26, 1024, 1 << 26))

    def later(self, future: asyncio.Future[Reply], work: Callable[[], Reply]) -> None:
        """Answers in the loop's next turn, with all others that were asked in this one, as a socket does."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._answer)
        self._waiting.append((future, work))

    def _answer(self) -> None:
        began = time.thread_time()
        waiting, self._waiting = self._waiting, []
        for future, work in waiting:
            if not future.cancelled():
                future.set_result(work())
        self.spent += time.thread_time() - began

    def serve(self, address: str, method: str, header: bytes, payload: Sequence[Any]) -> Answer:
        self.calls += 1
        if method == methods.PUT_SHARD:
            return self.put(header, payload)
        if method == methods.READ_SHARDS:
            return self.read(header)
        kind, handler = {
            methods.COMMIT: (pb.CommitRequest, self.commit),
            methods.LOOKUP: (pb.LookupRequest, self.lookup),
            methods.STAT_BUCKET: (pb.BucketRequest, lambda request: pb.Bucket(name=request.name, profile="rs-4-2")),
            methods.LEASE_IDS: (pb.LeaseRequest, self.lease),
            methods.GET_MAP: (pb.MapRequest, lambda request: change_to_message(whole_map(self.map))),
        }[method]
        reply: Any = handler(kind.FromString(header))  # type: ignore[attr-defined]
        return (reply if isinstance(reply, bytes) else reply.SerializeToString()), b""

    def lease(self, request: pb.LeaseRequest) -> pb.LeaseReply:
        self.blocks += 1
        return pb.LeaseReply(prefix=make_block(self.blocks, self.blocks), count=1 << 20, good_for_ms=600_000)

    def commit(self, request: pb.CommitRequest) -> pb.CommitReply:
        extents = {extent.id: extent for extent in request.extents}
        for extent in request.extents:
            del extent.acks[:]
        reply = pb.CommitReply()
        for op in request.ops:
            outcome = reply.outcomes.add(log_term=1, log_seq=1)
            if op.HasField("delete"):
                outcome.removed = self.found.pop(op.key, None) is not None
                continue
            put, info = op.put, outcome.info
            info.bucket, info.key, info.version, info.size = op.bucket, op.key, op.id, put.size
            info.checksum, info.profile, info.latest, info.modified_us = put.checksum, "rs-4-2", True, 1
            found = pb.Found(info=info, slices=put.slices, token=op.id)
            found.extents.extend(extents[id_] for id_ in dict.fromkeys(slice_.extent for slice_ in put.slices))
            self.found[op.key] = (op.id, found.SerializeToString())
        return reply

    def lookup(self, request: pb.LookupRequest) -> bytes:
        out = bytearray()
        for target in request.targets:
            token, found = self.found[target.key]
            if target.known == token:
                found = b"\x30\x01"  # unchanged
            out += b"\x0a" + _varint(len(found)) + found  # LookupReply.found
        return bytes(out)

    def put(self, header: bytes, payload: Sequence[Any]) -> Answer:
        request = storage_pb2.PutShardRequest.FromString(header)
        size = sum(map(len, payload))
        small = size <= SMALL or len(payload) != 1 or (request.index >= request.k and self.dead)
        data = b"".join(payload) if small else payload[0]
        self.shards[request.extent, request.index] = (data, request.table, tuple(request.data_tables))
        return b"\x08\x01", b""

    def read(self, header: bytes) -> Answer:
        request, payload = storage_pb2.ReadShardsRequest.FromString(header), []
        reply = storage_pb2.ReadShardsReply()
        for asked in request.reads:
            data, table, tables = self.shards[asked.extent, asked.index]
            end = asked.offset + asked.length
            first, offset, rows = self._rows(asked, data, table)
            result = reply.results.add(length=asked.length, shard_length=len(data))
            result.rows.shard, result.rows.first_block, result.rows.offset = asked.index, first, offset
            result.rows.table = rows
            payload.append(memoryview(data)[asked.offset : end])
            for of in asked.rows_of:
                result.data_rows.add(shard=of, first_block=0, offset=0, table=tables[of])
        return reply.SerializeToString(), payload[0] if len(payload) == 1 else b"".join(payload)

    def _rows(self, asked: storage_pb2.ShardRange, data: Any, table: bytes) -> tuple[int, int, bytes]:
        if asked.offset == 0 and asked.length == len(data):
            return 0, 0, table
        end = asked.offset + asked.length
        rows, first, at = [], 0, 0
        for block, (length, value) in enumerate(unpack_table(table)):
            lo, hi = max(at, asked.offset), min(at + length, end)
            if lo < hi:
                first = first if rows else block
                whole = hi - lo == length
                rows.append((hi - lo, value if whole else block_sum(Id(asked.extent), asked.index, block, data[lo:hi])))
            at += length
        return first, asked.offset, pack_table(rows)


class TwinLane:
    """A lane to one of them."""

    broken = False

    def __init__(self, twins: Twins, address: str, hello: Hello) -> None:
        self._twins = twins
        self._address = address
        self.hello = hello

    async def close(self) -> None:
        """Nothing is open."""

    async def call(
        self,
        method: str,
        header: bytes,
        payload: Sequence[Any] = (),
        *,
        deadline: Deadline,
        into: memoryview | None = None,
        epoch: int = 0,
    ) -> Reply:
        twins = self._twins

        def work() -> Reply:
            reply, answer = twins.serve(self._address, method, header, payload)
            if into is None:
                return Reply(reply, memoryview(answer), 7, 5)
            into[: len(answer)] = answer
            return Reply(reply, into[: len(answer)], 7, 5)

        future = asyncio.get_running_loop().create_future()
        twins.later(future, work)
        return await future


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


async def drive(operation: Callable[[int], Awaitable[Any]], tasks: int, seconds: float, most: int) -> int:
    """Runs the operation in so many tasks; how often."""
    count = 0
    end = time.perf_counter() + seconds

    async def task() -> None:
        nonlocal count
        while count < most and time.perf_counter() < end:
            number = count
            count += 1
            await operation(number)

    await asyncio.gather(*(task() for _ in range(tasks)))
    return count


class Bench:
    """The rows."""

    def __init__(self, seconds: float, only: str, profile: Path | None) -> None:
        self._seconds = seconds
        self._only = only
        self._profile = profile
        self.rows: list[dict[str, Any]] = []

    async def measure(
        self, twins: Twins, name: str, tasks: int, size: int, most: int, operation: Callable[[int], Awaitable[Any]]
    ) -> int:
        """One row; how many operations."""
        wanted = self._only in name
        profiler = cProfile.Profile() if self._profile and wanted else None
        spent, calls, cpu, began = twins.spent, twins.calls, time.process_time(), time.perf_counter()
        if profiler:
            profiler.enable()
        count = await drive(operation, tasks, self._seconds if wanted else 0.2, most)
        if profiler:
            profiler.disable()
        wall = time.perf_counter() - began
        own = time.process_time() - cpu - (twins.spent - spent)
        if not wanted:
            return count
        row = {
            "name": name,
            "tasks": tasks,
            "operations": count,
            "us": own / count * 1e6,
            "ns_per_byte": own / count / size * 1e9,
            "calls": (twins.calls - calls) / count,
            "wall_us": wall / count * 1e6,
        }
        self.rows.append(row)
        print(
            f"{name:<16}{tasks:>4} tasks{count:>9} ops{row['us']:>12.1f} us/op{row['ns_per_byte']:>9.3f} ns/B"
            f"{row['calls']:>8.2f} calls/op{row['wall_us']:>12.1f} us wall",
            flush=True,
        )
        if profiler and self._profile:
            stats = pstats.Stats(profiler)
            stats.dump_stats(self._profile.with_suffix(f".{name.replace(' ', '-')}"))
            stats.sort_stats("tottime").print_stats(32)
        return count

    async def run(self) -> None:
        for tasks in (32, 1):
            await self._small(tasks)
        for size, tasks in ((MIB, 8), (64 * MIB, 2)):
            await self._large(size, tasks)

    async def _small(self, tasks: int) -> None:
        if not any(self._only in f"{work} 4K x{tasks}" for work in ("put", "get", "delete")):
            return
        twins, data = Twins(), os.urandom(4 * KIB)
        async with AsyncStore(Core(Options("twin:1", timeout=60.0), twins)) as store:
            await store.put("data", "warm", data)
            keys = 20_000
            put = await self.measure(
                twins, f"put 4K x{tasks}", tasks, 4096, keys, lambda n: store.put("data", f"key/{n:08}", data)
            )

            async def get(number: int) -> None:
                assert await store.get("data", f"key/{number % put:08}") == data

            await self.measure(twins, f"get 4K x{tasks}", tasks, 4096, 1 << 60, get)
            await self.measure(
                twins, f"delete 4K x{tasks}", tasks, 4096, put, lambda n: store.delete("data", f"key/{n:08}")
            )

    async def _large(self, size: int, tasks: int) -> None:
        name = f"{size // MIB}M x{tasks}"
        works = (f"put {name}", f"put mut {name}", f"get {name}", f"into {name}", f"degraded {name}")
        if not any(self._only in work for work in works):
            return
        twins, data = Twins(), os.urandom(size)
        twins.dead = frozenset({1})  # so that parity is kept
        mutable = bytearray(data)
        keys = max(2, 256 * MIB // size)
        async with AsyncStore(Core(Options("twin:1", timeout=60.0), twins)) as store:
            for number in range(keys):
                await store.put("data", f"key/{number}", data)
            twins.dead = frozenset()
            for work, what in ((works[0], data), (works[1], mutable)):
                await self.measure(
                    twins, work, tasks, size, 1 << 60, lambda n, what=what: store.put("data", f"new/{n % 4}", what)
                )

            async def get(number: int) -> None:
                assert len(await store.get("data", f"key/{number % keys}")) == size

            assert await store.get("data", "key/0") == data
            await self.measure(twins, works[2], tasks, size, 1 << 60, get)
            buffers = [bytearray(size) for _ in range(tasks)]

            async def into(number: int) -> None:
                buffer = buffers.pop()
                await store.get_into("data", f"key/{number % keys}", buffer)
                buffers.append(buffer)

            await self.measure(twins, works[3], tasks, size, 1 << 60, into)
            down = {n: Device(n, d.uuid, d.address, "down") for n, d in twins.map.devices.items() if n in (1, 2)}
            twins.map = ClusterMap(b"c" * 16, 8, {**twins.map.devices, **down}, twins.map.pgs, "rs-4-2")
            await store._core.cluster.refresh(7, store._core.deadline())
            assert await store.get("data", "key/1") == data
            await self.measure(twins, works[4], tasks, size, 1 << 60, get)


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU of the client alone.")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    parser.add_argument("--only", default="", help="rows whose name has this text")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="run under cProfile, print and dump")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    bench = Bench(arguments.seconds, arguments.only, arguments.profile)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bench.run())
    if arguments.json:
        arguments.json.write_text(json.dumps(bench.rows, indent=1))


if __name__ == "__main__":
    main()
