"""Recoding and compaction as catalogd runs them: orders, tasks, reports, what holds them back, what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from reedbed.catalog import audit, buckets, commits, extents, lookup, recoding
from reedbed.catalog.edit import Edit, editing
from reedbed.catalog.operating import operate
from reedbed.catalog.recode_jobs import Scope
from reedbed.catalog.records import SliceRow
from reedbed.catalog.rewriting import Rewrite, Rewritten
from reedbed.catalog.swaps import Moved
from reedbed.common.checksums import crc32c
from reedbed.common.errors import DiskFull, InvalidArgument, NotFound
from reedbed.common.ids import Id, IdBlock
from reedbed.ec.cut import choose_packing
from reedbed.ec.profiles import parse_profile
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos import convert
from reedbed.protos.types import Ack, Extent

ONE, TWO = "10.0.0.1:7301", "10.0.0.2:7301"


class Site:
    """A catalog with devices, a client that writes to it, and a worker that does as it is told."""

    def __init__(self, rack: Any) -> None:
        self.rack = rack
        self.bytes: dict[bytes, bytes] = {}

    async def begin(self, devices: int = 4) -> None:
        for number in range(1, devices + 1):
            await self.rack.add(number)
        await self.rack.cluster.ensure_profile("rs-2-1")
        self.change(lambda edit: buckets.create(edit, "data", False, "rs-2-1"))
        while await self.rack.rewriting.step():
            pass

    def change(self, fn: Callable[[Edit], Any]) -> Any:
        with self.rack.engine.write() as writer, editing(writer, self.rack.needs) as edit:
            return fn(edit)

    async def extent(self, profile: str, data: bytes) -> Extent:
        code = parse_profile(profile)
        lengths = choose_packing([len(data)], code).layout.lengths
        pg = next(pg for pg in self.rack.cluster.map.pgs.values() if (pg.k, pg.m) == (code.k, code.m))
        acks = tuple(
            Ack(index, place.device, 1) for index, place in enumerate(pg.positions) if index >= code.k or lengths[index]
        )
        extent_id = IdBlock((await self.rack.cluster.lease()).prefix, 1).take()
        self.bytes[extent_id] = data
        return Extent(extent_id, code.k, code.m, pg.id, pg.generation, lengths, 0, acks)

    async def put(self, *objects: tuple[str, bytes]) -> Extent:
        """Objects packed into one extent of rs-2-1."""
        extent = await self.extent("rs-2-1", b"".join(data for _, data in objects))
        ops, at = [], 0
        block = IdBlock((await self.rack.cluster.lease()).prefix, len(objects))
        for key, data in objects:
            held = [pb.Slice(extent=extent.id, offset=at, length=len(data))]
            put = pb.Put(slices=held, size=len(data), checksum=crc32c(data))
            ops.append(pb.CommitOp(id=block.take(), bucket="data", key=key.encode(), put=put))
            at += len(data)
        self.commit(ops, extent)
        return extent

    def commit(self, ops: list[pb.CommitOp], *given: Extent) -> None:
        request = pb.CommitRequest(ops=ops, extents=[convert.extent_to_message(one) for one in given])
        assert not [one for one in self.change(lambda edit: commits.apply(edit, request)).outcomes if one.error.code]

    async def delete(self, *keys: str) -> None:
        block = IdBlock((await self.rack.cluster.lease()).prefix, len(keys))
        self.commit([pb.CommitOp(id=block.take(), bucket="data", key=key.encode(), delete=pb.Delete()) for key in keys])

    def read(self, key: str) -> bytes:
        target = pb.Target(bucket="data", key=key.encode())
        with self.rack.engine.read() as reader:
            (found,) = lookup.lookup(reader, pb.LookupRequest(targets=[target], slices=True)).found
        assert not found.error.code
        return b"".join(self.bytes[one.extent][one.offset : one.offset + one.length] for one in found.slices)

    async def settle(self) -> None:
        """Time goes by, and the planner has looked at everything."""
        for _ in range(100):
            self.rack.clock.advance(10)
            await self.rack.leases.keep(self.rack.transactor)
        await self.steps()

    async def steps(self) -> None:
        self.rack.clock.advance(61)
        for _ in range(50):
            if not await self.rack.rewriting.step():
                return
        raise AssertionError("it goes on for ever")

    def take(self, address: str = ONE, boot: int = 1, room: int = 8, repairing: bool = False) -> list[Rewrite]:
        found: list[Rewrite] = self.rack.rewriting.take(address, boot, room, repairing)
        return found

    async def work(self, task: Rewrite) -> Rewritten:
        packing = choose_packing([piece.length for piece in task.pieces], parse_profile(task.profile))
        data = bytearray(packing.layout.size)
        moved = []
        for piece, place in zip(task.pieces, packing.offsets, strict=True):
            part = self.bytes[piece.extent][piece.offset : piece.offset + piece.length]
            data[place : place + len(part)] = part
            moved.append(Moved(piece, place, crc32c(part)))
        extent = await self.extent(task.profile, bytes(data))
        return Rewritten(task.number, task.profile, extent, tuple(moved))

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.rack.rewriting.status()
        return found

    def problems(self) -> list[str]:
        with self.rack.engine.read() as reader:
            return audit.check(reader)

    def row(self, extent: Extent) -> Any:
        with self.rack.engine.read() as reader:
            return extents.get(reader, extent.id)

    def queued(self) -> int:
        with self.rack.engine.read() as reader:
            return len(list(recoding.queue(reader)))


@pytest.fixture
async def site(rack: Callable[..., Any]) -> Site:
    made = Site(rack())
    await made.begin()
    return made


async def order(site: Site, profile: str, scope: Scope = Scope()) -> None:  # noqa: B008
    await site.rack.rewriting.order("data", scope, profile)


async def test_a_bucket_is_recoded_from_the_order_to_the_last_swap(site: Site) -> None:
    old = await site.put(("a", b"some bytes"), ("b", b"and others"))
    await order(site, "rs-3-1")
    assert site.status()["orders"][0]["profile"] == "rs-3-1"
    await site.steps()
    assert (site.status()["versions_left"], site.status()["bytes_left"]) == (2, 20)
    assert site.rack.rewriting.has_work([ONE], False)
    (task,) = site.take()
    assert (task.profile, len(task.pieces), [one.id for one in task.extents]) == ("rs-3-1", 2, [old.id])
    assert site.take() == []
    await site.rack.rewriting.record(ONE, [await site.work(task)])
    assert (site.read("a"), site.read("b")) == (b"some bytes", b"and others")
    assert site.row(old).dropped_ms is not None
    told = site.status()
    assert (told["versions_left"], told["bytes_left"], told["tasks"], told["bytes_done"]) == (0, 0, 0, 20)
    assert site.problems() == []


async def test_dead_space_comes_back(site: Site) -> None:
    old = await site.put(*((f"k/{number}", b"%05d" % number * 20) for number in range(20)))
    await site.delete(*(f"k/{number}" for number in range(15)))
    await site.steps()
    assert site.take() == [], "commits may still come"
    assert (site.status()["sparse_extents"], site.status()["sparse_bytes"]) == (1, 4000 - 750)
    await site.settle()
    (task,) = site.take()
    assert len(task.pieces) == 5
    await site.rack.rewriting.record(ONE, [await site.work(task)])
    assert site.row(old).dropped_ms is not None
    assert [site.read(f"k/{number}") for number in range(15, 20)] == [b"%05d" % number * 20 for number in range(15, 20)]
    await site.settle()
    assert site.take() == []
    assert site.status()["sparse_extents"] == 0


async def test_compaction_can_be_switched_off(rack: Callable[..., Any]) -> None:
    site = Site(rack(compact_below=0))
    await site.begin()
    await site.put(*((f"k/{number}", b"x" * 100) for number in range(20)))
    await site.delete(*(f"k/{number}" for number in range(19)))
    await site.settle()
    assert site.take() == []


async def test_a_profile_that_cannot_be_held_is_refused_and_changes_nothing(site: Site) -> None:
    await site.put(("a", b"some bytes"))
    for profile in ("rs-10-2", "rs-4-1"):
        with pytest.raises(InvalidArgument, match="there are 4"):
            await order(site, profile)
    with pytest.raises(InvalidArgument):
        await order(site, "rs-0-1")
    assert site.status()["orders"] == []
    with site.rack.engine.read() as reader:
        assert buckets.get(reader, "data").profile == "rs-2-1"


async def test_a_profile_that_is_too_narrow_for_what_others_write_is_refused(rack: Callable[..., Any]) -> None:
    site = Site(rack())
    await site.begin(devices=20)
    await site.rack.cluster.ensure_profile("rs-17-1")
    with pytest.raises(InvalidArgument, match="more data shards"):
        await order(site, "rs-1-1")
    await order(site, "rs-2-2")


async def test_repair_goes_first_except_where_space_is_short(site: Site) -> None:
    await site.put(*((f"k/{number}", b"x" * 100) for number in range(20)))
    await site.delete(*(f"k/{number}" for number in range(7)))
    await site.put(("a", b"some bytes"))
    await order(site, "rs-3-1", Scope(b"a"))
    await site.settle()
    assert not site.rack.rewriting.has_work([ONE], True)
    assert site.take(repairing=True) == []
    await site.rack.beat(3, used=90 << 30)
    assert site.status()["short"]
    await site.steps()
    first, second = site.take(repairing=True)
    assert len(first.pieces) == 13, "fuller extents are worth it now, and compaction comes first"
    assert second.profile == "rs-3-1"


async def test_a_full_cluster_holds_it_back_with_the_reason_until_there_is_room(site: Site) -> None:
    await site.put(("a", b"some bytes"))
    await order(site, "rs-3-1")
    await site.steps()
    (task,) = site.take()
    full = Rewritten(task.number, task.profile, None, (), code="Unavailable", error="no room is left on device 3")
    await site.rack.rewriting.record(ONE, [full])
    assert "no room is left on device 3" in site.status()["stopped"]
    assert site.queued() == 1
    await site.rack.rewriting.step()
    assert site.take() == [], "it is held back"
    await site.steps()
    (task,) = site.take()
    assert "no room" in site.status()["stopped"], "until one has succeeded"
    await site.rack.rewriting.record(ONE, [await site.work(task)])
    assert site.status()["stopped"] == ""
    assert site.queued() == 0
    assert site.read("a") == b"some bytes"


async def test_an_extent_that_cannot_be_read_does_not_hold_up_the_others(site: Site) -> None:
    bad = await site.put(("bad", b"some bytes"))
    await site.put(("good", b"and others"))
    await order(site, "rs-3-1")
    await site.steps()
    (task,) = site.take()
    done = await site.work(Rewrite(task.number, task.profile, task.extents, task.pieces[1:]))
    await site.rack.rewriting.record(
        ONE, [Rewritten(done.number, done.profile, done.extent, done.moved, unread=(bad.id,), error="lost")]
    )
    assert site.queued() == 1
    assert site.status()["stopped"] == ""
    site.rack.clock.advance(4)
    await site.rack.rewriting.step()
    assert site.take() == []
    await site.steps()
    (task,) = site.take()
    assert [one.extent for one in task.pieces] == [bad.id]


async def test_a_new_extent_of_which_a_device_failed_is_not_taken(site: Site) -> None:
    old = await site.put(("a", b"some bytes"))
    await order(site, "rs-2-2")
    await site.steps()
    (task,) = site.take()
    done = await site.work(task)
    assert done.extent is not None
    failed = done.extent.acks[-1].device
    await site.rack.beat(failed, failed=True)
    await site.rack.rewriting.record(ONE, [done])
    assert site.row(done.extent).dropped_ms is not None
    assert site.row(old).refs == 1
    assert "devices failed" in site.status()["stopped"]
    assert site.problems() == []


async def test_a_report_from_before_a_restart_counts(site: Site) -> None:
    await site.put(("a", b"some bytes"))
    await order(site, "rs-3-1")
    await site.steps()
    (task,) = site.take()
    done = await site.work(task)
    site.rack = site.rack.restart()
    assert site.queued() == 1
    await site.rack.rewriting.record(ONE, [done, done])
    assert site.queued() == 0
    assert site.problems() == []
    await site.steps()
    assert site.take() == []


async def test_a_full_catalog_is_told_and_the_report_comes_again(site: Site) -> None:
    await site.put(("a", b"some bytes"))
    await order(site, "rs-3-1")
    await site.steps()
    (task,) = site.take()
    done = await site.work(task)
    site.rack.engine.full = True
    with pytest.raises(DiskFull):
        await site.rack.rewriting.record(ONE, [done])
    with pytest.raises(DiskFull):
        await order(site, "rs-2-2")
    site.rack.engine.full = False
    await site.rack.rewriting.record(ONE, [done])
    assert site.queued() == 0
    assert site.read("a") == b"some bytes"
    assert site.problems() == []


async def test_a_process_that_starts_anew_or_falls_silent_loses_its_tasks(site: Site) -> None:
    await site.put(("a", b"some bytes"))
    await order(site, "rs-3-1")
    await site.steps()
    (first,) = site.take()
    site.rack.clock.advance(5)
    await site.rack.rewriting.step()
    assert site.take(TWO) == []
    assert site.take(boot=2) == []
    await site.steps()
    (second,) = site.take(TWO)
    assert second.pieces == first.pieces
    assert second.number != first.number


async def test_pieces_that_nobody_holds_any_more_are_not_given_out(site: Site) -> None:
    await site.put(("a", b"some bytes"), ("b", b"and others"))
    await order(site, "rs-3-1")
    await site.steps()
    await site.delete("a")
    (task,) = site.take()
    assert [piece.offset for piece in task.pieces] == [10]
    await site.put(("c", b"for ever"))
    await site.steps()
    await site.delete("b", "c")
    assert site.take(TWO) == []
    await site.steps()
    assert site.queued() == 0


async def test_a_profile_whose_devices_are_gone_is_named_in_status(site: Site) -> None:
    await site.put(("a", b"some bytes"))
    site.change(lambda edit: buckets.set_profile(edit, "data", "rs-9-2"))
    block = IdBlock((await site.rack.cluster.lease()).prefix, 1)
    extent = await site.extent("rs-2-1", b"of an older client")
    held = [pb.Slice(extent=extent.id, offset=0, length=18)]
    site.commit([pb.CommitOp(id=block.take(), bucket="data", key=b"b", put=pb.Put(slices=held, size=18))], extent)
    await site.steps()
    assert "rs-9-2 needs 11 devices" in site.status()["stopped"]
    assert site.take() == []


async def test_what_a_plan_tells(site: Site) -> None:
    await site.put(("a", b"x" * 900), ("b", b"y" * 100))
    found = site.rack.rewriting.plan("data", Scope(), "rs-3-1", b"")
    assert (found.versions, found.concerned, found.size, found.stored, found.then, found.after) == (
        2,
        2,
        1000,
        1500,
        1333,
        b"",
    )
    assert site.rack.rewriting.plan("data", Scope(b"b", exact=True), "rs-3-1", b"").size == 100
    with pytest.raises(InvalidArgument):
        site.rack.rewriting.plan("data", Scope(), "rs-10-2", b"")
    assert not any(pg.k == 3 for pg in site.rack.cluster.map.pgs.values()), "a plan makes nothing"


async def test_a_report_with_pieces_that_never_were_changes_nothing(site: Site) -> None:
    old = await site.put(("a", b"some bytes"))
    await site.rack.cluster.ensure_profile("rs-3-1")
    extent = await site.extent("rs-3-1", b"0123456789")
    wild = Rewritten(99, "rs-3-1", extent, (Moved(SliceRow(Id(bytes(16)), 0, 10), 0, 0),))
    await site.rack.rewriting.record(ONE, [wild])
    assert site.row(extent).dropped_ms is not None
    outside = Rewritten(99, "rs-3-1", extent, (Moved(SliceRow(old.id, 0, 10), 1, 0),))
    await site.rack.rewriting.record(ONE, [outside])
    assert site.read("a") == b"some bytes"
    assert site.problems() == []


async def test_orders_as_an_operator_gives_them(site: Site) -> None:
    await site.put(("a", b"some bytes"), ("b/c", b"and others"))

    async def give(**fields: Any) -> dict[str, Any]:
        order = msgspec.json.encode({"do": "recode", "bucket": "data", "profile": "rs-3-1", **fields})
        return await operate(site.rack.keeping, site.rack.rewriting, order)

    for wrong in (
        {"prefix": "a", "key": "a"},
        {"profile": "rs-3"},
        {"profile": "rs-30-1"},
        {"prefix": "x" * 2000},
        {"plan": True, "after": "no digits"},
        {"plan": True, "after": "6f"},
        {"size": 7},
        {"bucket": "no such bucket"},
    ):
        with pytest.raises((InvalidArgument, NotFound)):
            await give(**wrong)
    assert site.status()["orders"] == []
    told = await give(plan=True, prefix="b/")
    assert (told["versions"], told["bytes"], told["after"]) == (1, 10, "")
    assert (await give(key="b/c"))["key"] == "b/c"
    assert (await give(prefix="b/"))["prefix"] == "b/"
    assert [order["exact"] for order in site.status()["orders"]] == [False], "the second concerns all of the first"
