"""Hardships that are not a crash: no file descriptors, sectors that cannot be read, bad rows, impossible orders."""

from __future__ import annotations

import errno
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from reedbed.common.errors import (
    AlreadyExists,
    Corrupt,
    DamagedShard,
    DeviceFailed,
    DiskFull,
    InvalidArgument,
    ReedbedError,
    ResourceExhausted,
)
from reedbed.common.ids import Id
from reedbed.storaged import damage as damage_module
from reedbed.storaged import entries, identity
from reedbed.storaged.calls import ReadShard, Removal, RemoveOrder
from reedbed.storaged.disk_twin import MemoryDisk
from reedbed.storaged.entries import position_key, shard_key
from reedbed.storaged.index import Changes, Index
from reedbed.storaged.index_check import find_damage
from reedbed.storaged.index_lmdb import DATA, FOLDER, LmdbHome
from reedbed.storaged.record import HEAD, SEGMENT_HEADER, padded
from reedbed.storaged.segments import segment_name
from reedbed.storaged.store import ShardStore
from tests.unit.storaged.conftest import extent, forget_rows, shard
from tests.unit.storaged.test_scrub import damaged, put, record_at, whole_pass

Opener = Callable[..., ShardStore]


def failing(number: int, operation: str, part: str) -> Callable[[str, str], None]:
    """For MemoryDisk.fail: this operation on files whose name has that part fails so."""

    def fail(asked: str, name: str) -> None:
        if asked == operation and part in name:
            raise OSError(number, os.strerror(number))

    return fail


# What the system lacks, and not the disk


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize(("operation", "part"), [("open", "segments/"), ("write", "segments/"), ("sync_folder", "")])
def test_a_lack_of_descriptors_or_memory_refuses_and_fails_no_device(
    opened: Opener, disk: MemoryDisk, number: int, operation: str, part: str
) -> None:
    store = opened(segment_bytes=1500)
    kept = put(store, 1, 2, 3)
    disk.fail = failing(number, operation, part)
    large = shard(9, bytes(1400))  # needs a segment of its own
    with pytest.raises(ResourceExhausted) as refused:
        store.put(large).result(5)
    assert refused.value.retryable
    assert not isinstance(refused.value, DiskFull)
    assert not store.failed
    disk.fail = None
    assert store.put(large).result(5)
    store.close(clean=False)
    again = opened()
    assert not again.failed
    assert {info.extent for info in again.list()} == {extent(one) for one in (*kept, 9)}


def test_a_lack_of_descriptors_only_delays_checkpoints_and_state(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    put(store, 1)
    store.put(shard(2, b"x", generation=4)).result(5)
    disk.fail = failing(errno.EMFILE, "open", "generations")
    assert not store.checkpoint()
    with pytest.raises(ResourceExhausted):
        store.note_generation(1, 5)
    assert not store.failed
    disk.fail = None
    assert store.checkpoint()
    store.note_generation(1, 6)
    assert store.put(shard(3, b"x", generation=6)).result(5)


def test_a_read_without_descriptors_is_no_damage(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    put(store, 1)
    store.close()
    store = opened()
    disk.fail = failing(errno.EMFILE, "open", "segments/")
    with pytest.raises(ResourceExhausted):
        store.read(extent(1), 0, 0, 10)
    disk.fail = None
    assert store.damaged() == []
    assert store.read(extent(1), 0, 0, 10).data


def test_a_shard_that_cannot_be_compared_is_not_replaced(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    put(store, 1)
    store.close()
    store = opened()
    disk.fail = failing(errno.EMFILE, "open", "segments/")
    with pytest.raises(ResourceExhausted):
        store.put(shard(1, bytes(300))).result(5)
    disk.fail = None
    with pytest.raises(AlreadyExists):
        store.put(shard(1, bytes(300))).result(5)
    assert store.put(shard(1, random.Random(1).randbytes(300))).result(5) is False


def test_a_file_system_without_holes_only_keeps_the_room(opened: Opener, disk: MemoryDisk) -> None:
    disk.can_punch = False
    store = opened(segment_bytes=1000)
    made = put(store, 1, 2, 3, 4, 5)
    store.remove([RemoveOrder(extent(number), 0, 1, 1) for number in (1, 2)], 1)
    assert store.checkpoint()
    assert store.metrics.get("store.holes") == 0
    store.remove([], 1)
    assert store.checkpoint()
    assert segment_name(1) not in disk.all_names(), "room comes back with the segment"
    store.close()
    again = opened()
    assert [info.extent for info in again.list()] == [extent(number) for number in (3, 4, 5)]
    assert again.read(extent(4), 0, 0, 300).data == made[4]


def test_no_room_even_for_the_name_of_the_reserve_fails_nothing(opened: Opener, disk: MemoryDisk) -> None:
    disk.fail = failing(errno.ENOSPC, "open", "reserve")
    store = opened()
    put(store, 1)
    assert store.checkpoint()
    disk.fail = None
    assert store.checkpoint()
    assert "reserve" in disk.all_names()


def test_what_a_full_disk_refused_is_not_there_after_a_power_cut(opened: Opener, disk: MemoryDisk) -> None:
    for seed in range(30):
        disk = MemoryDisk(disk.root, capacity=1 << 30)
        shutil.rmtree(disk.root / FOLDER, ignore_errors=True)
        store = opened(disk, segment_bytes=1 << 20)
        put(store, 1, 2)
        disk.capacity = disk.space().total - disk.space().free + 900
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store._reserve, "room", lambda: 1 << 20)
            with pytest.raises(DiskFull):
                store.put(shard(3, random.Random(seed).randbytes(1800))).result(5)
        disk.capacity = 1 << 30
        after = disk.crash(random.Random(seed))
        store.close(clean=False)
        again = opened(after)
        assert [info.extent for info in again.list()] == [extent(1), extent(2)]
        assert (again.damaged(), again.bad_regions()) == ([], [])


def test_a_failed_sync_of_a_full_disk_fails_the_device(opened: Opener, disk: MemoryDisk) -> None:
    """What it leaves behind is unknown, whatever its reason was."""
    store = opened()
    put(store, 1)
    disk.fail = failing(errno.ENOSPC, "sync", "segments/")
    with pytest.raises(DeviceFailed):
        store.put(shard(2, b"x")).result(5)
    disk.fail = None
    with pytest.raises(DeviceFailed):
        store.put(shard(3, b"x"))


def test_generations_that_could_not_be_saved_are_saved_later(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    store.put(shard(1, b"x", generation=3)).result(5)
    disk.fail = failing(errno.ENOSPC, "write", "generations")
    assert not store.checkpoint()
    disk.fail = None
    assert store.checkpoint()
    store.close(clean=False)
    after = disk.crash(random.Random(1))
    assert opened(after).generation(1) == 3


def test_puts_are_refused_while_no_checkpoint_can_be_written(
    opened: Opener, disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reedbed.storaged.keeper.ROWS_MAX", 2)
    store = opened()

    def no_room(index: Index, changes: Changes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Index, "commit", no_room)
        put(store, 1, 2)
        assert not store.checkpoint()
        with pytest.raises(DiskFull):
            store.put(shard(3, b"x"))
    assert store.checkpoint()
    put(store, 3)


def test_a_segment_with_a_bad_region_stays_until_it_is_settled(opened: Opener, disk: MemoryDisk) -> None:
    """What lay there is not known yet: it may be a removal that is still needed."""
    store = opened(segment_bytes=1000)
    put(store, 1, 2, 3, 4, 5)
    store._damage.region(1, SEGMENT_HEADER, 80)
    store.remove([RemoveOrder(extent(number), 0, 1, 1) for number in (1, 2)], 1)
    assert store.checkpoint()
    assert store.checkpoint()
    assert segment_name(1) in disk.all_names()
    whole_pass(store)
    assert store.checkpoint()
    store.remove([], 1)
    assert store.checkpoint()
    assert segment_name(1) not in disk.all_names()


# Places that cannot be read


def test_a_sector_that_cannot_be_read_costs_one_shard(opened: Opener, disk: MemoryDisk) -> None:
    store = opened(segment_bytes=1 << 20)
    made = put(store, *range(1, 9))
    disk.unreadable[segment_name(1)] = [(record_at(2) + HEAD + 8 + 100, record_at(2) + HEAD + 8 + 110)]
    disk.content(segment_name(1))[record_at(5) + HEAD + 8 + 250] ^= 1
    disk.settle()
    whole_pass(store)
    assert damaged(store) == [(3, 0), (6, 0)]
    for number, data in made.items():
        if number not in (3, 6):
            assert store.read(extent(number), 0, 0, 300).data == data
    with pytest.raises(DamagedShard):
        store.read(extent(3), 0, 0, 300)


@pytest.mark.parametrize("index", ["kept", "lost"])
@pytest.mark.parametrize("part", ["head", "payload", "last"])
def test_a_device_opens_around_what_cannot_be_read(opened: Opener, disk: MemoryDisk, index: str, part: str) -> None:
    size = 20_000
    store = opened(segment_bytes=1 << 20)
    made = put(store, *range(1, 9), size=size)
    store.close(clean=False)
    if index == "lost":
        shutil.rmtree(disk.root / FOLDER)
    place = 7 if part == "last" else 2
    at = record_at(place, size) + (10 if part == "head" else HEAD + 8 + 9000)
    disk.unreadable[segment_name(1)] = [(at, at + 4)]
    store = opened(segment_bytes=1 << 20)
    assert store.status().bad_regions == (1 if part == "head" else 0)
    whole_pass(store)
    bad = {number for number, _ in damaged(store)}
    listed = {int.from_bytes(info.extent, "big") for info in store.list()}
    if part == "head":  # the end of the one before lies in the same sector
        assert listed - bad >= set(range(1, 9)) - {place, place + 1}
    else:
        assert (listed, bad) == (set(range(1, 9)), {place + 1}), "an unreadable place is no torn write"
    assert store.put(shard(place + 1, made[place + 1])).result(5)
    assert store.read(extent(place + 1), 0, 0, size).data == made[place + 1]


def test_a_highest_segment_that_was_overwritten_is_damage(opened: Opener, disk: MemoryDisk) -> None:
    store = opened(segment_bytes=1000)
    put(store, 1, 2, 3)
    store.checkpoint()
    put(store, 4, 5)
    number = max(store._book.segments())
    store.close(clean=False)
    content = disk.content(segment_name(number))
    content[:] = random.Random(1).randbytes(len(content))
    disk.settle()
    store = opened()
    assert segment_name(number) in disk.all_names()
    assert store.status().bad_regions


def test_more_damage_than_is_remembered_is_not_called_whole(
    opened: Opener, disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage_module, "REMEMBERED", 5)
    store = opened(segment_bytes=1 << 20)
    numbers = range(1, 13)
    put(store, *numbers)
    store.close()
    disk.unlink(segment_name(1))
    disk.settle()
    store = opened()
    rounds = 0
    while store.damaged() or store.forgot_damage:
        whole_pass(store)
        assert store.status().damaged or rounds
        assert store.status().bad_regions or not store.forgot_damage
        for one in store.damaged():
            number = int.from_bytes(one.extent, "big")
            assert store.put(shard(number, random.Random(number).randbytes(300))).result(5)
        rounds += 1
        assert rounds < 10
    for number in numbers:
        assert store.read(extent(number), 0, 0, 300).data == random.Random(number).randbytes(300)


def test_a_new_pass_begins_when_what_was_forgotten_has_room(
    opened: Opener, disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage_module, "REMEMBERED", 5)
    store = opened(segment_bytes=1 << 20)
    put(store, *range(1, 13))
    for place in range(12):
        disk.content(segment_name(1))[record_at(place) + HEAD + 8] ^= 1
    disk.settle()
    scrubber = whole_pass(store)
    assert store.forgot_damage
    passes = scrubber.status().passes
    for one in store.damaged():
        number = int.from_bytes(one.extent, "big")
        store.put(shard(number, random.Random(number).randbytes(300))).result(5)
    scrubber.step()
    while scrubber.status().phase != "resting":
        scrubber.step()
    assert scrubber.status().passes == passes + 1, "without being asked for"


# Bad rows in the index that is open


def spoil(store: ShardStore, table: str, key: bytes) -> None:
    store._index._rows.write(lambda writer: writer.put(table, key, b"garbage"))
    forget_rows(store)


def test_a_bad_row_is_the_matter_of_its_shard_alone(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, 1, 2, 3, 4)
    store.checkpoint()
    spoil(store, "shards", shard_key(extent(2), 0))
    found = store.read_many([ReadShard(extent(number), 0, 0, 300) for number in made])
    assert [isinstance(one, ReedbedError) for one in found] == [False, True, False, False]
    assert isinstance(found[1], Corrupt)
    assert [info.extent for info in store.list()] == [extent(number) for number in (1, 3, 4)]
    orders = [RemoveOrder(extent(number), 0, 1, 1) for number in (1, 2, 3)]
    assert store.remove(orders, 1) == [Removal.REMOVED, Removal.UNREADABLE, Removal.REMOVED]
    assert not store.failed
    assert store.checkpoint()
    store.close()
    again = opened()
    assert not again.failed
    assert [info.extent for info in again.list()] == [extent(2), extent(4)], "the index was made again"


def test_a_bad_row_of_a_note_fails_nothing(opened: Opener, disk: MemoryDisk) -> None:
    store = opened(segment_bytes=1 << 20)
    put(store, 1, 2)
    store.put(shard(1, random.Random(1).randbytes(300), generation=2)).result(5)
    store.checkpoint()
    entry = store._book.get(shard_key(extent(1), 0))
    assert entry is not None
    spoil(store, "notes", position_key(entry.position))
    assert store.remove([RemoveOrder(extent(1), 0, 1, 2)], 1) == [Removal.UNREADABLE]
    assert store.checkpoint()
    store._book.forget(1)
    assert store.checkpoint()
    assert not store.failed
    assert store.put(shard(5, b"x", generation=2)).result(5)


def test_an_index_with_a_page_in_anothers_place_is_made_again(tmp_path: Path) -> None:
    """Pages have no sums: where a branch names a wrong leaf, all rows that are found are good."""
    home = LmdbHome(tmp_path / FOLDER, find_damage)
    (tmp_path / FOLDER).mkdir()
    index = home.open()
    segments: dict[int, entries.SegmentInfo] = {}
    rows = {}
    for number in range(3000):
        segment = number // 500
        rows[shard_key(extent(number), 0)] = entries.Entry(entries.LIVE, 4, 2, segment, 40 + number, 96, 8, 0, 1, 1)
        old = segments.get(segment, entries.SegmentInfo())
        segments[segment] = old._replace(live=old.live + 1, live_bytes=old.live_bytes + 96)
    index.commit(Changes(entries.IndexState(bytes(16), entries.Position(9, 0), False, 0, 0), rows, {}, segments))
    index.close()
    assert find_damage(tmp_path / FOLDER) == ""
    path = tmp_path / FOLDER / DATA
    whole = path.read_bytes()
    tried = 0
    for at, leaves in branches(whole):
        for node in leaves:
            (low,) = struct.unpack_from("<H", whole, at + node)
            for bit in (1, 2, 4):
                if (low ^ bit) * PAGE < len(whole) and is_leaf(whole, low ^ bit):
                    damaged_file = bytearray(whole)
                    struct.pack_into("<H", damaged_file, at + node, low ^ bit)
                    path.write_bytes(damaged_file)
                    assert find_damage(tmp_path / FOLDER), (at, node, bit)
                    tried += 1
    assert tried > 10


PAGE = 4096


def is_leaf(whole: bytes, page: int) -> bool:
    """LMDB's page header: number u64, 2 bytes, flags u16, lower u16, upper u16."""
    return bool(struct.unpack_from("<H", whole, page * PAGE + 10)[0] & 0x02)


def branches(whole: bytes) -> list[tuple[int, list[int]]]:
    """The branch pages, with the offsets of their nodes; a node begins with the low 16 bits of its page's number."""
    found = []
    for at in range(2 * PAGE, len(whole), PAGE):
        flags, lower = struct.unpack_from("<HH", whole, at + 10)
        if flags & 0x01 and not flags & 0x02:
            count = (lower - 16) // 2
            found.append((at, list(struct.unpack_from(f"<{count}H", whole, at + 16))))
    return found


# Orders and puts that can be none


@pytest.mark.parametrize(
    "order",
    [
        RemoveOrder(extent(1), 70_000, 1, 1),
        RemoveOrder(extent(1), -1, 1, 1),
        RemoveOrder(extent(1), 0, 1 << 32, 1),
        RemoveOrder(extent(1), 0, 1, 1 << 64),
        RemoveOrder(Id(b"short"), 0, 1, 1),
    ],
)
def test_impossible_orders_are_refused_and_fail_nothing(opened: Opener, order: RemoveOrder) -> None:
    store = opened()
    put(store, 1)
    with pytest.raises(InvalidArgument):
        store.remove([order], 1)
    assert not store.failed
    assert store.remove([RemoveOrder(extent(1), 0, 1, 1)], 1) == [Removal.REMOVED]


def test_a_shard_is_of_one_placement_group(opened: Opener) -> None:
    store = opened()
    data = put(store, 1)[1]
    with pytest.raises(AlreadyExists, match="for PG 1, not 2"):
        store.put(shard(1, data, pg=2, generation=5)).result(5)
    assert store.remove([RemoveOrder(extent(1), 0, 1, 1)], 1) == [Removal.REMOVED]


def test_a_record_of_another_shard_is_not_read(opened: Opener, disk: MemoryDisk) -> None:
    """The index names the place of a good record that is not the one asked for."""
    store = opened()
    put(store, 1, 2)
    store.checkpoint()
    one, two = (store._book.get(shard_key(extent(number), 0)) for number in (1, 2))
    assert one is not None
    assert two is not None
    key = shard_key(extent(1), 0)
    wrong = one._replace(offset=two.offset)
    store._index._rows.write(lambda writer: writer.put("shards", key, entries.encode_entry(key, wrong)))
    forget_rows(store)
    with pytest.raises(DamagedShard):
        store.read(extent(1), 0, 0, 10)


def test_a_small_read_does_not_keep_its_block(opened: Opener) -> None:
    store = opened(segment_bytes=1 << 20)
    store.put(shard(1, bytes(65536))).result(5)
    held = store.read(extent(1), 0, 100, 1).data
    assert len(memoryview(held).obj) == 1
    assert len(memoryview(store.read(extent(1), 0, 0, 60_000).data.obj)) == 65536


def test_rows_of_one_call_are_bounded(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reedbed.storaged.reader.ROWS_OF_CALL", 10)
    store = opened()
    store.put(shard(1, bytes(600), block=100)).result(5)
    found = store.read_many([ReadShard(extent(1), 0, 0, 600)] * 4)
    assert [isinstance(one, ResourceExhausted) for one in found] == [False, False, True, True]


# What is told, and small files


def test_damage_is_durable_before_it_is_told(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    data = put(store, 1)[1]
    disk.content(segment_name(1))[SEGMENT_HEADER + HEAD + 8 + 10] ^= 1
    disk.settle()
    with pytest.raises(DamagedShard):
        store.read(extent(1), 0, 0, 300)
    store.note_damage()
    after = disk.crash(random.Random(1))
    store.close(clean=False)
    again = opened(after)
    assert again.put(shard(1, data)).result(5) is True, "put anew, not taken for what is there"
    assert again.read(extent(1), 0, 0, 300).data == data


@pytest.mark.parametrize("name", [identity.NAME, "generations"])
def test_a_small_file_that_is_gone_is_written_anew(opened: Opener, disk: MemoryDisk, name: str) -> None:
    store = opened()
    put(store, 1)
    store.note_generation(1, 7)
    disk.unlink(name)
    disk.sync_folder()
    whole_pass(store)
    store.checkpoint()
    assert name in disk.all_names()
    store.close(clean=False)
    assert opened().generation(1) == 7


def test_the_length_of_a_record() -> None:
    """What `record_at` of these tests rests on."""
    assert record_at(1) - record_at(0) == padded(HEAD + 8 + 300)
