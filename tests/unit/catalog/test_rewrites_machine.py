"""Recode and compaction against a model that holds every extent's bytes: whatever comes when, contents stay right.

The model is the devices: extents with their bytes. Rewrites are planned, carried out and swapped as in life, but late,
twice, cut short by a crash, or never; between them objects are put, overwritten, copied, deleted, and orders given.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from reedbed.catalog import buckets, extents, recode_jobs, recoding, slices, swaps, sweep, uploads, versions
from reedbed.catalog.buckets import Bucket
from reedbed.catalog.edit import Edit
from reedbed.catalog.engine import Reader
from reedbed.catalog.extents import Offers
from reedbed.catalog.gather import Found, RecodeLap, SparseLap
from reedbed.catalog.memory import MemoryEngine
from reedbed.catalog.records import SliceRow
from reedbed.catalog.rewrite_board import RewriteBoard
from reedbed.catalog.swaps import PIN_IDLE_S, Moved, Swap
from reedbed.common.checksums import crc32c
from reedbed.common.errors import BelowHorizon, Unavailable
from reedbed.common.ids import Id
from reedbed.common.limits import SLICES_CHUNK
from reedbed.ec.cut import choose_packing
from reedbed.ec.profiles import parse_profile
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos import convert
from reedbed.protos.types import Ack, Extent

PROFILES = ("rs-2-1", "rs-3-1", "rs-4-2")
BUCKETS = {"plain": "rs-2-1", "other": "rs-3-1", "kept": "rs-2-1"}
KEYS = (b"a", b"a/1", b"a/2", b"b")
ONE = "one process"

names = st.sampled_from(list(BUCKETS))
key_names = st.sampled_from(KEYS)
profile_names = st.sampled_from(PROFILES)


class Rewrites(RuleBasedStateMachine):
    """`disk` holds the bytes of extents; `state` maps bucket, key and version to what it must read as."""

    make_world: Any

    def __init__(self) -> None:
        super().__init__()
        self.world = self.make_world(MemoryEngine())
        for name, profile in BUCKETS.items():
            self.world.bucket(name, versioned=name == "kept", profile=profile)
        self.disk: dict[bytes, bytes] = {}
        self.state: dict[tuple[str, bytes], dict[bytes, bytes]] = {}
        self.byte = 0
        self.packed: list[tuple[pb.Extent, list[bytes]]] = []  # an extent whose objects are not all committed yet
        self.results: list[tuple[Extent, str, list[Moved]]] = []
        self.uploads: list[tuple[bytes, str, bytes, bytes, tuple[list[pb.Slice], list[pb.Extent]]]] = []
        self.restart_planner()

    def restart_planner(self) -> None:
        self.board = RewriteBoard(first=1)
        self.board.heard(ONE, 1, 0.0)
        self.laps = RecodeLap(self.skips), SparseLap(self.skips)

    def skips(self, piece: SliceRow) -> bool:
        return self.board.skips(piece, 0.0)

    def fresh(self, size: int) -> bytes:
        """Bytes that no other object has."""
        self.byte += 1
        return (self.byte.to_bytes(4, "big") * (size // 4 + 1))[:size]

    def written(self, profile: str, data: bytes) -> pb.Extent:
        """An extent that a client has written."""
        code = parse_profile(profile)
        lengths = choose_packing([len(data)], code).layout.lengths
        acks = [
            pb.Ack(position=place, device=place + 1, incarnation=1)
            for place in range(code.n)
            if place >= code.k or lengths[place]
        ]
        extent = pb.Extent(
            id=self.world.leases.take(), k=code.k, m=code.m, pg=1, generation=1, lengths=lengths, acks=acks
        )
        self.disk[extent.id] = data
        return extent

    def install(self, bucket: str, key: bytes, version: bytes, data: bytes) -> None:
        if bucket != "kept":
            self.state.pop((bucket, key), None)
        self.state.setdefault((bucket, key), {})[version] = data

    def commit(
        self, bucket: str, key: bytes, held: list[pb.Slice], given: list[pb.Extent], data: bytes, **more: Any
    ) -> bool:
        op = self.world.put_op(key, held, bucket, checksum=crc32c(data), size=len(data), **more)
        (outcome,) = self.world.commit(op, extents=given)
        if outcome.error.code:
            assert outcome.error.code in ("Unavailable", "BelowHorizon"), outcome
            return False
        self.install(bucket, key, op.id, data)
        return True

    # --- what clients do ---

    @rule(
        bucket=names,
        key=key_names,
        count=st.sampled_from([1, 1, 2, 3, 70, 270]),
        actual=profile_names,
        again=st.booleans(),
    )
    def put(self, bucket: str, key: bytes, count: int, actual: str, again: bool) -> None:
        """An object of several slices, perhaps written under a profile that the bucket had a moment ago; perhaps its
        first slice comes once more at its end, whole and in part."""
        parts = [self.fresh(8) for _ in range(count)]
        given = [self.written(actual, b"".join(parts[at : at + 60])) for at in range(0, count, 60)]
        held = [pb.Slice(extent=given[at // 60].id, offset=at % 60 * 8, length=8) for at in range(count)]
        if again:
            held += [held[0], pb.Slice(extent=held[0].extent, offset=0, length=5)]
            parts += [parts[0], parts[0][:5]]
        assert self.commit(bucket, key, held, given, b"".join(parts))

    @rule(bucket=names, keys=st.lists(key_names, min_size=2, max_size=4), actual=profile_names)
    def pack(self, bucket: str, keys: list[bytes], actual: str) -> None:
        """Small objects in one extent, of which the last is committed later, or never."""
        parts = [self.fresh(20 + 7 * at) for at in range(len(keys))]
        extent = self.written(actual, b"".join(parts))
        at = 0
        for key, part in list(zip(keys, parts, strict=True))[:-1]:
            assert self.commit(bucket, key, [pb.Slice(extent=extent.id, offset=at, length=len(part))], [extent], part)
            at += len(part)
        self.packed.append((extent, parts))

    @rule(bucket=names, key=key_names)
    def commit_the_last_of_a_pack(self, bucket: str, key: bytes) -> None:
        if self.packed:
            extent, parts = self.packed.pop()
            at = sum(map(len, parts[:-1]))
            self.commit(
                bucket, key, [pb.Slice(extent=extent.id, offset=at, length=len(parts[-1]))], [extent], parts[-1]
            )

    @rule(bucket=names, key=key_names, data=st.data())
    def copy(self, bucket: str, key: bytes, data: st.DataObject) -> None:
        sources = [place for place, there in sorted(self.state.items()) if there and place != (bucket, key)]
        if sources:
            source = data.draw(st.sampled_from(sources))
            version = data.draw(st.sampled_from(sorted(self.state[source])))
            op = self.world.copy_op(source[1], key, source[0], bucket=bucket, source_version=version)
            assert not self.world.one(op).error.code
            self.install(bucket, key, op.id, self.state[source][version])

    @rule(bucket=names, key=key_names, data=st.data())
    def delete(self, bucket: str, key: bytes, data: st.DataObject) -> None:
        there = self.state.get((bucket, key), {})
        if bucket == "kept" and there:
            version = data.draw(st.sampled_from(sorted(there)))
            assert self.world.one(self.world.delete_op(key, bucket, version)).removed
            del there[version]
        elif bucket != "kept":
            self.world.one(self.world.delete_op(key, bucket))
            self.state.pop((bucket, key), None)

    @rule(bucket=names, key=key_names, count=st.sampled_from([3, 80]), actual=profile_names)
    def begin_upload(self, bucket: str, key: bytes, count: int, actual: str) -> None:
        upload = self.world.leases.take()
        data = self.fresh(count * 4)
        extent = self.written(actual, data)
        held = [pb.Slice(extent=extent.id, offset=at * 4, length=4) for at in range(count)]
        self.world.change(lambda edit: uploads.begin(edit, upload, bucket, key))
        self.register(upload, held, [extent])
        self.uploads.append((upload, bucket, key, data, (held, [extent])))

    def register(self, upload: Id, held: list[pb.Slice], given: list[pb.Extent]) -> None:
        rows = [SliceRow(one.extent, one.offset, one.length) for one in held]
        offers = Offers(self.world.judge, [convert.extent_from_message(one) for one in given])
        self.world.change(lambda edit: uploads.register(edit, upload, 0, rows, offers))

    @rule()
    def end_upload(self) -> None:
        if self.uploads:
            upload, bucket, key, data, registered = self.uploads.pop()
            self.register(Id(upload), *registered)  # once more: it is still known
            assert self.commit(bucket, key, [], [], data, upload=upload)

    # --- what an operator orders ---

    @rule(bucket=names, prefix=st.sampled_from([b"", b"a", b"a/", b"b"]), exact=st.booleans(), profile=profile_names)
    def order(self, bucket: str, prefix: bytes, exact: bool, profile: str) -> None:
        scope = recode_jobs.Scope(prefix, exact and bool(prefix))
        if not scope.exact or self.state.get((bucket, prefix)):
            self.world.change(lambda edit: recode_jobs.order(edit, bucket, scope, profile))

    @rule(limit=st.sampled_from([1, 2, 100]))
    def walk(self, limit: int) -> None:
        self.world.change(lambda edit: recode_jobs.walk(edit, limit))

    # --- what keeping does ---

    @rule()
    def plan(self) -> None:
        for lap in self.laps:
            if isinstance(lap, RecodeLap):
                found = self.world.look(lap.look)
            else:
                found = self.world.look(lambda reader, lap=lap: lap.look(reader, 8, self.world.leases.horizon()))  # type: ignore[misc]
            self.tidy(found)
            for group in found.groups:
                self.board.add(group, 0.0)

    def tidy(self, found: Found) -> None:
        for namer in found.settle:
            self.world.change(lambda edit, namer=namer: recoding.settle(edit, namer))
        for namer, list_id in found.lists:
            self.world.change(lambda edit, namer=namer, list_id=list_id: recoding.settle_list(edit, namer, list_id))
        for namer in found.prepare:
            fresh = self.world.leases.take()
            self.world.change(lambda edit, namer=namer, fresh=fresh: recoding.prepare(edit, namer, fresh))

    @rule(late=st.booleans())
    def work(self, late: bool) -> None:
        """A worker takes a group and writes its extent; what it says of it comes at once, or late."""
        taken = self.board.take(ONE, 0.0, compact_first=False)
        if taken is None:
            return
        number, group = taken
        there = [piece for piece in group.pieces if piece.extent in self.disk]
        if there:
            code = parse_profile(group.profile)
            packing = choose_packing([piece.length for piece in there], code)
            data = bytearray(packing.layout.size)
            moved = []
            for piece, place in zip(there, packing.offsets, strict=True):
                part = self.disk[piece.extent][piece.offset : piece.offset + piece.length]
                data[place : place + piece.length] = part
                moved.append(Moved(piece, place, crc32c(part)))
            acks = tuple(
                Ack(place, place + 1, 1) for place in range(code.n) if place >= code.k or packing.layout.lengths[place]
            )
            extent = Extent(self.world.leases.take(), code.k, code.m, 1, 1, packing.layout.lengths, 0, acks)
            self.disk[extent.id] = bytes(data)
            self.results.append((extent, group.profile, moved))
        self.board.done(ONE, number)
        if not late and self.results:
            self.swap(*self.results[-1])

    @rule(again=st.booleans())
    def deliver(self, again: bool) -> None:
        """The oldest report arrives; perhaps the worker does not hear that it did, and sends it again later."""
        if self.results:
            result = self.results.pop(0)
            self.swap(*result)
            if again:
                self.results.append(result)

    @rule(steps=st.integers(0, 3))
    def crash_amid_a_swap(self, steps: int) -> None:
        if self.results:
            self.swap(*self.results[-1], steps=steps)
        self.world.engine = self.world.engine.crash()
        self.restart_planner()

    def swap(self, extent: Extent, profile: str, moved: list[Moved], steps: int | None = None) -> None:
        swap = Swap(extent, profile, moved)
        try:
            assert self.world.change(lambda edit: swaps.begin(edit, swap))
            while steps is None or steps > 0:
                if steps is not None:
                    steps -= 1
                if not self.world.change(lambda edit: swaps.step(edit, swap, 2)):
                    assert not swap.wrong
                    self.world.change(lambda edit: swaps.end(edit, extent.id))
                    return
        except (BelowHorizon, Unavailable):
            assert extent.id < self.world.leases.horizon()

    @rule()
    def settle(self) -> None:
        """Time goes by: the horizon rises, pins without progress end, and what was dropped is removed from devices."""
        self.world.leases.raise_horizon()
        self.world.change(lambda edit: sweep.step(edit, sweep.Retention()))
        self.world.change(self.collect)
        self.packed.clear()

    @rule()
    def let_pins_go(self) -> None:
        self.world.leases.time_ms += round(PIN_IDLE_S * 1000)
        self.world.change(lambda edit: swaps.end_idle(edit, 100))

    def collect(self, edit: Edit) -> None:
        for gone in extents.dropped(edit.writer, edit.needs.leases.id_time_ms() + 1, 1000):
            if gone.id < edit.needs.leases.horizon():
                extents.forget_dropped(edit, gone.id)
                del self.disk[gone.id]

    # --- what holds ---

    def content(self, reader: Reader, bucket: str, key: bytes, version: bytes) -> bytes:
        found = versions.by_id(reader, self.bucket(bucket), key, Id(version))
        assert found is not None
        data = b""
        first, more = 0, True
        while more:
            part, more = slices.page(reader, found, first, SLICES_CHUNK)
            first += len(part)
            for slice_ in part:
                row = extents.get(reader, Id(slice_.extent))
                assert row is not None
                assert row.dropped_ms is None
                data += self.disk[slice_.extent][slice_.offset : slice_.offset + slice_.length]
        return data

    def bucket(self, name: str) -> Bucket:
        found: Bucket = self.world.look(lambda reader: buckets.get(reader, name))
        return found

    @invariant()
    def every_version_has_its_bytes(self) -> None:
        with self.world.engine.read() as reader:
            for (bucket, key), there in self.state.items():
                for version, data in there.items():
                    assert self.content(reader, bucket, key, version) == data

    @invariant()
    def everything_agrees_with_a_recount(self) -> None:
        assert self.world.problems() == []

    def teardown(self) -> None:
        """Left alone, it comes to an end: every version has the profile that it wants, and what is dead is gone."""
        self.results.clear()
        self.let_pins_go()
        while self.world.change(lambda edit: recode_jobs.walk(edit, 100)):
            pass
        self.settle()
        for _ in range(60):
            self.plan()
            while self.board.waiting:
                self.work(late=False)
            self.results.clear()
            self.settle()
            if not list(self.world.look(lambda reader: list(recoding.queue(reader)))) and not self.board.waiting:
                break
        with self.world.engine.read() as reader:
            for (bucket, key), there in self.state.items():
                for version in there:
                    row = versions.by_id(reader, self.bucket(bucket), key, Id(version))
                    assert row is not None
                    assert set(slices.profiles(reader, row)) <= {row.profile}
            assert swaps.pins(reader) == 0
        self.every_version_has_its_bytes()
        self.everything_agrees_with_a_recount()
        self.world.engine.close()


def test_whatever_is_rewritten_when_contents_stay_right(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recoding, "TWIN_SLICES", 50)
    Rewrites.make_world = staticmethod(make_world)
    run_state_machine_as_test(
        Rewrites,
        settings=settings(
            max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
