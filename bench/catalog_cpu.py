"""What one operation costs catalogd: CPU microseconds, bytes written and bytes kept, without any transport.

    python bench/catalog_cpu.py [--dir FOLDER] [--seconds 1.0] [--only TEXT] [--json FILE] [--profile ROW]

A whole catalog on an LMDB engine, in a RAM-backed folder unless told otherwise, with six devices that have registered
and a map of its own; every call goes through `Catalog.handle` with bytes as they come from a lane. For each row and one
operation (one put, one delete, one target, one page): CPU microseconds of the process, all threads, scaled by what a
fixed loop took beside it, since the same work costs more while other cores are busy; bytes of the redo stream, bytes
written, and bytes that the data file grew by. `decode` rows are the client's half of a listing; `ship` rows are what
the copy on the cluster costs for each put. With --profile the row's functions by their own time.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import random
import re
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from reedbed.catalog import copying, pieces, redo
from reedbed.catalog.catalogd import Catalog
from reedbed.catalog.config import CatalogdSettings
from reedbed.catalog.leases import Leases
from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.catalog.mapstate import Registration
from reedbed.client import catalog as client_catalog
from reedbed.common.clock import Deadline, SystemClock
from reedbed.common.ids import Id, IdBlock
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos import methods
from reedbed.protos.types import Labels, PlacementGroup
from reedbed.transport.lane import Request

BUCKET = "bench"
SIZE = 4096
DEVICES = 6
KEYS = 10_000
STRETCHES = 10  # of each row, whose median counts
SPIN_S = 0.0012  # CPU seconds that `spin` takes on the machine kind of the issue when nobody else uses it
FEW = 4  # steps of a row that nobody asked for


@dataclass
class Row:
    """`cpu` in microseconds, `redo`, `written` and `kept` in bytes; each for one operation."""

    work: str
    operations: int
    cpu: float
    redo: float
    written: float
    kept: float


class Bench:
    """A catalog to be measured, and what a client would say to it."""

    def __init__(self, catalog: Catalog, engine: LmdbEngine, block: IdBlock, pgs: list[PlacementGroup]) -> None:
        self.catalog = catalog
        self.engine = engine
        self._block = block
        self._pgs = pgs
        self._clock = SystemClock()
        self._made = 0

    def new_id(self) -> Id:
        return self._block.take()

    async def call(self, method: str, header: bytes) -> bytes:
        request = Request(method, header, (), Deadline(60.0, self._clock), 1, 1)
        return (await self.catalog.handle(request)).header

    def extent(self, lengths: tuple[int, ...]) -> pb.Extent:
        """An extent of rs-4-2, acknowledged by all that it names."""
        self._made += 1
        pg = self._pgs[self._made % len(self._pgs)]
        acks = [
            pb.Ack(position=at, device=position.device, incarnation=1)
            for at, position in enumerate(pg.positions)
            if at >= pg.k or lengths[at]
        ]
        return pb.Extent(
            id=self.new_id(), k=pg.k, m=pg.m, pg=pg.id, generation=pg.generation, lengths=lengths, acks=acks
        )

    def put_op(self, key: bytes, extent: bytes, offset: int) -> pb.CommitOp:
        put = pb.Put(
            slices=[pb.Slice(extent=extent, offset=offset, length=SIZE)], size=SIZE, checksum=random.getrandbits(32)
        )
        return pb.CommitOp(id=self.new_id(), bucket=BUCKET, key=key, put=put)

    def packed(self, keys: list[bytes]) -> bytes:
        """Puts into one extent."""
        per = -(-len(keys) // 4) * SIZE
        lengths = tuple(max(0, min(per, len(keys) * SIZE - at * per)) for at in range(4))
        extent = self.extent(lengths)
        ops = [self.put_op(key, extent.id, at * SIZE) for at, key in enumerate(keys)]
        return pb.CommitRequest(ops=ops, extents=[extent]).SerializeToString()

    def alone(self, keys: list[bytes]) -> bytes:
        """Puts into an extent each."""
        extents = [self.extent((SIZE, 0, 0, 0)) for _ in keys]
        ops = [self.put_op(key, extent.id, 0) for key, extent in zip(keys, extents, strict=True)]
        return pb.CommitRequest(ops=ops, extents=extents).SerializeToString()

    def deletes(self, keys: list[bytes]) -> bytes:
        ops = [pb.CommitOp(id=self.new_id(), bucket=BUCKET, key=key, delete=pb.Delete()) for key in keys]
        return pb.CommitRequest(ops=ops).SerializeToString()

    async def commit(self, header: bytes) -> None:
        reply = pb.CommitReply.FromString(await self.call(methods.COMMIT, header))
        for outcome in reply.outcomes:
            assert not outcome.HasField("error"), outcome.error

    def redo_bytes(self, after: int) -> int:
        """Of the redo stream's rows behind that record."""
        size = 0
        while found := self.engine.read_redo(after, 1000):
            after = found[-1].number
            for record in found:
                rows = redo.encode(record.number, dict(record.changes))
                size += sum(len(key) + len(stored) for key, stored in rows)
        return size


def spin() -> float:
    """CPU seconds of a fixed piece of work."""
    start = time.process_time()
    table: dict[int, bytes] = {}
    for at in range(14_000):
        table[at & 255] = b"%d" % at
    return time.process_time() - start


def written() -> int:
    """Bytes that the process has handed to write calls so far: on a RAM-backed folder the disk's are not counted."""
    return int(re.search(r"wchar: ([0-9]+)", Path("/proc/self/io").read_text())[1])  # type: ignore[index]


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    """A catalog with a bucket in it."""
    clock = SystemClock()
    engine = LmdbEngine(folder, cluster=Id(b"catalog cpu test"), reserve=0)
    leases = Leases(engine, clock)
    catalog = Catalog(engine, engine.cluster, CatalogdSettings(folder), clock, leases)
    try:
        for number in range(1, DEVICES + 1):
            await catalog.cluster.register(
                Registration(bytes([number]) * 16, b"", 1, f"127.0.0.1:{7300 + number}", Labels(), 1 << 40)
            )
        await catalog.cluster.ensure_profile("rs-4-2")
        lease = await catalog.cluster.lease()
        pgs = list(catalog.cluster.map.pgs.values())
        made = Bench(catalog, engine, IdBlock(lease.prefix, lease.count), pgs)
        await made.call(methods.CREATE_BUCKET, pb.CreateBucketRequest(name=BUCKET).SerializeToString())
        yield made
    finally:
        await catalog.close()
        engine.close()


class Meter:
    """Runs rows for some seconds each."""

    def __init__(self, bench: Bench, seconds: float, only: str, profile: str) -> None:
        self.bench = bench
        self.seconds = seconds
        self.only = only
        self.profile = profile
        self.rows: list[Row] = []

    def skips(self, work: str) -> bool:
        """Whether this row is only wanted for what it leaves."""
        return bool(self.only) and self.only not in work

    async def row(self, work: str, weight: int, step: Callable[[], Awaitable[None]], steps: int = 1 << 30) -> None:
        """`step` does `weight` operations; it is done `steps` times at most."""
        if self.skips(work):
            for _ in range(min(steps, FEW)):
                await step()
            return
        first = self.bench.engine.redo_position()
        kept, wrote = self.bench.engine.usage().used, written()
        profile = cProfile.Profile() if self.profile and self.profile in work else None
        done = 0
        costs = []
        if profile is not None:
            profile.enable()
        while done < steps and len(costs) < STRETCHES:
            before = spin()
            begun, until = done, time.monotonic() + self.seconds / STRETCHES
            start = time.process_time()
            while done < steps and (time.monotonic() < until or done == begun):
                await step()
                done += 1
            cost = (time.process_time() - start) / (done - begun) / weight
            costs.append(cost * SPIN_S / min(before, spin()))
        if profile is not None:
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(45)
        count = done * weight
        wrote = written() - wrote
        kept = self.bench.engine.usage().used - kept
        stream = self.bench.redo_bytes(first)
        row = Row(work, count, statistics.median(costs) * 1e6, stream / count, wrote / count, kept / count)
        self.rows.append(row)
        print(
            f"{work:32} {row.cpu:9.1f} us   redo {row.redo:6.0f} B   "
            f"written {row.written:7.0f} B   kept {row.kept:6.0f} B",
            flush=True,
        )


async def measure(meter: Meter) -> None:
    """All rows."""
    made = 0

    def fresh(count: int) -> list[bytes]:
        nonlocal made
        made += count
        return [b"object/%09d" % at for at in range(made - count, made)]

    one = meter.bench
    prepared: list[bytes] = []

    async def commit() -> None:
        await one.commit(prepared.pop())

    async def commits(work: str, weight: int, make: Callable[[], bytes], count: int) -> None:
        """What clients do is made before the clock runs."""
        prepared[:] = [make() for _ in range(FEW if meter.skips(work) else count)][::-1]
        await meter.row(work, weight, commit, count)

    count = max(8, int(400 * meter.seconds))
    for size in (1, 16, 32):
        await commits(f"put, {size} packed", size, lambda size=size: one.packed(fresh(size)), count)  # type: ignore[misc]
    await commits("put, 32 with an extent each", 32, lambda: one.alone(fresh(32)), count // 2)
    while made < KEYS + 1000:
        await one.commit(one.packed(fresh(100)))
    keys = [b"object/%09d" % at for at in range(made)]
    at = 0

    def turn(size: int) -> list[bytes]:
        nonlocal at
        at = 0 if at + size > len(keys) else at
        at += size
        return keys[at - size : at]

    await commits("overwrite, 32 packed", 32, lambda: one.packed(turn(32)), count // 2)
    at = 0

    async def concurrent() -> None:
        await asyncio.gather(*(one.commit(prepared.pop()) for _ in range(8)))

    prepared[:] = [one.packed(turn(4)) for _ in range(count * 2)]
    await meter.row("overwrite, 8 calls of 4 at once", 32, concurrent, count // 4)

    async def many() -> None:
        await asyncio.gather(*(one.commit(prepared.pop()) for _ in range(32)))

    prepared[:] = [one.alone(fresh(1)) for _ in range(count * 8)]
    await meter.row("put, 32 calls of 1 at once", 32, many, count // 4)

    for size in (1, 16, 64):
        targets = [pb.Target(bucket=BUCKET, key=key) for key in keys[: size * 7 : 7]]
        header = pb.LookupRequest(targets=targets, slices=True).SerializeToString()
        await meter.row(f"lookup of {size}, slices", size, lambda header=header: _ask(one, header, False))  # type: ignore[misc]
        found = pb.LookupReply.FromString(await one.call(methods.LOOKUP, header))
        for target, answer in zip(targets, found.found, strict=True):
            target.known = answer.token
        header = pb.LookupRequest(targets=targets, slices=True).SerializeToString()
        await meter.row(f"lookup of {size}, known", size, lambda header=header: _ask(one, header, True))  # type: ignore[misc]

    token = b""
    reply = b""

    async def page() -> None:
        nonlocal token, reply
        reply = await one.call(
            methods.LIST, pb.ListRequest(bucket=BUCKET, limit=1000, token=token, packed=True).SerializeToString()
        )
        token = b""

    await meter.row("list, a page of 1,000", 1, page)

    async def decode() -> None:
        client_catalog.page_of(BUCKET, pb.ListReply.FromString(reply))

    async def decode_and_use() -> None:
        rows, _ = client_catalog.page_of(BUCKET, pb.ListReply.FromString(reply))
        assert len({(row.key, row.size) for row in rows}) == 1000

    await meter.row("decode, a page of 1,000", 1, decode)
    await meter.row("decode and use, a page of 1,000", 1, decode_and_use)

    first = one.engine.redo_position()
    for _ in range(100):
        await one.commit(one.packed(fresh(32)))

    async def ship() -> None:
        found = one.engine.read_redo(first, copying.RUN_RECORDS)
        assert all(copying.worth_shipping(record) for record in found)
        packed = pieces.pack_run(copying.run_of(found))
        assert packed.body

    await meter.row("ship, 32 packed", 3200, ship)
    last = min(made, len(keys))
    prepared[:] = [one.deletes(keys[low : low + 32]) for low in range(0, last - 32, 32)]
    await meter.row("delete, 32 at once", 32, commit, len(prepared))


async def _ask(one: Bench, header: bytes, unchanged: bool) -> None:
    await one.call(methods.LOOKUP, header)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--profile", default="")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    async def run(folder: Path) -> list[Row]:
        async with bench(folder) as made:
            meter = Meter(made, options.seconds, options.only or options.profile, options.profile)
            await measure(meter)
            return meter.rows

    with tempfile.TemporaryDirectory(dir=options.dir, prefix="catalog-cpu-") as name:
        rows = uvloop.run(run(Path(name) / "catalog"))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
