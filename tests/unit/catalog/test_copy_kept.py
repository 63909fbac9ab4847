"""The catalog's copy on the cluster is never gone, and never said to be more than it is: streams that begin anew."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from reedbed.catalog import copying, sysobjects
from reedbed.catalog.copywork import CopyWork, Place
from reedbed.catalog.shipping import Shipping
from reedbed.catalog.snapshots import Snapshots
from reedbed.common.errors import DiskFull, Unavailable
from reedbed.common.ids import NO_ID, STREAM, Id, make_block
from reedbed.ec.profiles import Profile
from reedbed.protos.types import Ack, Extent
from tests.unit.catalog.test_removals import cluster_of_three, written


class Notes:
    """What devices are told."""

    settled = unconfirmed = False

    def __init__(self) -> None:
        self.begin: Id | None = None
        self.settled_at: list[int] = []

    def snapshot_from(self, begin: Id | None) -> None:
        self.begin = begin

    def settle(self, looked_at: int) -> None:
        self.settled_at.append(looked_at)


class Copy:
    """A copy whose pieces go nowhere. error: what the next ones end in."""

    def __init__(self, rack: Any) -> None:
        self.rack = rack
        self.notes = Notes()
        self.error: Exception | None = None
        self.count = 0
        self.start()

    def start(self) -> None:
        async def placing() -> Place:
            nowhere: Any = None
            return Place(nowhere, nowhere, Profile(2, 1))

        one = self.rack
        notes: Any = self.notes
        self.work = CopyWork(one.engine, one.transactor, one.leases, one.needs, notes, b"c" * 16, placing, one.clock)
        self.shipping = Shipping(self.work, 0.0, Random(1))
        self.snapshots = Snapshots(self.work, self.shipping)

    def extent(self, size: int) -> Extent:
        if self.error is not None:
            raise self.error
        self.count += 1
        pg = self.rack.cluster.map.pgs[1]
        acks = tuple(Ack(index, place.device, 1) for index, place in enumerate(pg.positions))
        id_ = Id(make_block(self.rack.leases.id_time_ms(), 7, STREAM) + self.count.to_bytes(4, "big"))
        return Extent(id_, 2, 1, 1, pg.generation, (size - size // 2, size // 2), 0b111, acks)

    async def go(self) -> None:
        for _ in range(3):
            await self.shipping.step()
            await self.snapshots.step()

    def names(self) -> set[bytes]:
        with self.rack.engine.read() as reader:
            return set(sysobjects.names(reader))

    def ends(self) -> list[int]:
        return [number for number in range(20) if sysobjects.end_key(number) in self.names()]


@pytest.fixture
async def copy(rack: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Copy:
    one = Copy(await cluster_of_three(rack))

    async def write(access: Any, profile: Profile, shards: list[list[memoryview]], *_: Any, **__: Any) -> Extent:
        return one.extent(sum(len(part) for shard in shards for part in shard))

    monkeypatch.setattr("reedbed.catalog.copywork.write_extent", write)
    await written(one.rack)
    return one


async def lose_redo(copy: Copy) -> None:
    """More came than the engine keeps, while nothing could be shipped."""
    await written(copy.rack)
    copy.rack.engine.trim_redo(copy.rack.engine.redo_position())


async def test_a_stream_that_begins_anew_keeps_the_snapshot_until_another_is_complete(copy: Copy) -> None:
    await copy.go()
    before, begin = copy.names(), copy.notes.begin
    (number,) = copy.ends()
    await lose_redo(copy)
    await copy.shipping.step()
    assert copy.work.row is not None
    assert copying.snapshot_due(copy.work.row)
    copy.error = Unavailable("devices are away")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await copy.snapshots.step()
        assert before <= copy.names()
        assert copy.notes.begin == begin
        copy.start()  # and so it is after a restart
    assert copy.snapshots.status()["snapshot"] is None, "of this stream there is none"
    copy.error = None
    await copy.go()
    (after,) = copy.ends()
    assert after > number
    assert copy.snapshots.status()["snapshot"] is not None


async def test_a_restored_catalog_keeps_what_it_knows_of_the_old_copy(copy: Copy) -> None:
    await copy.go()
    before = copy.names()
    with copy.rack.engine.write() as writer:
        writer.delete(copying.ROW)  # as restoring does, where the stream does not go on
    copy.start()
    copy.error = Unavailable("devices are away")
    await copy.shipping.step()
    with pytest.raises(Unavailable):
        await copy.snapshots.step()
    assert before <= copy.names()
    assert copy.notes.begin == NO_ID, "whoever rebuilds looks at everything"
    copy.error = None
    await copy.go()
    (after,) = copy.ends()
    assert after > 1


async def test_devices_are_told_that_the_copy_has_all_only_once_it_can_bring_it_back(copy: Copy) -> None:
    for again in (False, True):
        if again:
            await lose_redo(copy)
        copy.notes.settled_at.clear()
        for _ in range(3):
            await copy.shipping.step()
        assert copy.notes.settled_at == []
        assert copy.shipping.covered == 0
        await copy.go()
        assert copy.notes.settled_at
        assert copy.shipping.covered == copy.rack.engine.redo_position()


async def test_want_of_room_is_told_from_other_reasons(copy: Copy) -> None:
    await copy.shipping.step()
    await written(copy.rack)
    copy.error = Unavailable("6 tries")
    await copy.shipping.step()
    assert not copy.work.no_room
    copy.error.__cause__ = DiskFull("no room left for shards")
    await copy.shipping.step()
    assert copy.work.no_room
    copy.error = Unavailable("6 tries")
    await copy.shipping.step()
    assert copy.work.no_room, "until a piece is written"
    copy.error = None
    await copy.shipping.step()
    assert not copy.work.no_room


def test_what_waits_for_the_copy() -> None:
    from reedbed.catalog.survival import Survival

    def copied(**more: Any) -> int | None:
        told: dict[str, Any] = {"_pool": object(), "_work": SimpleNamespace(no_room=False)}
        one: Any = SimpleNamespace(**{**told, "_shipping": SimpleNamespace(covered=7), **more})
        return Survival.copied(one)

    assert copied() == 7
    assert copied(_pool=None) is None
    assert copied(_work=SimpleNamespace(no_room=True)) is None
