"""What a device makes of crashes, damage, lost indexes, full and failing disks."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reedbed.common.errors import AlreadyExists, DamagedShard, DeviceFailed, DiskFull, UnknownShard
from reedbed.storaged import record, recovery
from reedbed.storaged.calls import Removal, RemoveOrder
from reedbed.storaged.damage import DamageLog
from reedbed.storaged.disk_twin import MemoryDisk
from reedbed.storaged.index import Changes, Index
from reedbed.storaged.index_check import find_damage, find_damage_in_child
from reedbed.storaged.index_lmdb import DATA, FOLDER
from reedbed.storaged.record import HEAD, SEGMENT_HEADER
from reedbed.storaged.segments import segment_name, segment_numbers
from reedbed.storaged.store import ShardStore
from tests.unit.storaged.conftest import extent, open_store, shard

Opener = Callable[..., ShardStore]


def put(store: ShardStore, *numbers: int, size: int = 1000) -> dict[int, bytes]:
    made = {number: random.Random(number).randbytes(size) for number in numbers}
    for number, data in made.items():
        store.put(shard(number, data)).result(5)
    return made


def remove(store: ShardStore, *numbers: int) -> list[Removal]:
    return store.remove([RemoveOrder(extent(number), 0, 1, 1) for number in numbers], 1)


def check(store: ShardStore, expected: dict[int, bytes]) -> None:
    assert [info.extent for info in store.list()] == [extent(number) for number in sorted(expected)]
    for number, data in expected.items():
        assert store.read(extent(number), 0, 0, len(data)).data == data


def flip(disk: MemoryDisk, segment: int, offset: int) -> None:
    disk.content(segment_name(segment))[offset] ^= 0x10
    disk.settle()


def record_at(position: int, size: int = 1000) -> int:
    """Offset of the record number `position` of equal shards of one block."""
    return SEGMENT_HEADER + position * record.padded(HEAD + 8 + size)


def index_path(disk: MemoryDisk) -> Path:
    return disk.root / FOLDER / DATA


# Damage


def test_a_flipped_bit_in_a_payload_is_never_returned_and_reported(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, 1, 2, 3)
    flip(disk, 1, record_at(1) + HEAD + 8 + 500)
    with pytest.raises(DamagedShard, match="block 0"):
        store.read(extent(2), 0, 0, 1)
    assert [(one.extent, one.index, one.block) for one in store.damaged()] == [(extent(2), 0, 0)]
    assert store.status().damaged == 1
    for number in (1, 3):
        assert store.read(extent(number), 0, 0, 1000).data == made[number]


def test_a_damaged_shard_is_healed_by_putting_it_again(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, 1, 2)
    flip(disk, 1, record_at(0) + HEAD + 8 + 500)
    with pytest.raises(DamagedShard):
        store.read(extent(1), 0, 0, 1000)
    assert store.put(shard(1, made[1])).result(5) is True
    check(store, made)
    assert store.status().damaged == 0
    store.close(clean=False)
    shutil.rmtree(disk.root / FOLDER)
    store = opened()
    check(store, made)
    assert remove(store, 1) == [Removal.REMOVED]
    store.close(clean=False)
    shutil.rmtree(disk.root / FOLDER)
    check(opened(), {2: made[2]})


@pytest.mark.parametrize("part", ["head", "tables"])
def test_a_flipped_bit_in_a_record_is_damage_of_that_shard_only(opened: Opener, disk: MemoryDisk, part: str) -> None:
    store = opened()
    made = put(store, 1, 2, 3)
    flip(disk, 1, record_at(1) + (20 if part == "head" else HEAD + 3))
    with pytest.raises(DamagedShard, match="record"):
        store.read(extent(2), 0, 0, 1)
    for number in (1, 3):
        assert store.read(extent(number), 0, 0, 1000).data == made[number]


def test_a_bad_head_is_passed_over_when_the_index_is_made_again(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, 1, 2, 3)
    store.close()
    shutil.rmtree(disk.root / FOLDER)
    flip(disk, 1, record_at(1) + 20)
    store = opened()
    check(store, {1: made[1], 3: made[3]})
    assert [(one.segment, one.offset, one.length) for one in store.bad_regions()] == [
        (1, record_at(1), record_at(2) - record_at(1))
    ]
    assert store.status().bad_regions == 1


def test_bytes_of_an_object_that_look_like_a_record_are_none(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    put(store, 1)
    copied = bytes(disk.content(segment_name(1)))
    store.put(shard(2, copied[SEGMENT_HEADER:])).result(5)
    store.close()
    shutil.rmtree(disk.root / FOLDER)
    flip(disk, 1, record_at(1) + 20)  # the head of shard 2: the walk now looks for records within its payload
    store = opened()
    assert [info.extent for info in store.list()] == [extent(1)]
    assert store.status().bad_regions == 1


# Crashes


def test_what_was_acknowledged_survives_a_crash_without_a_checkpoint(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, *range(1, 30))
    remove(store, 5, 6)
    after = disk.crash(random.Random(1))
    store.close(clean=False)
    store = opened(after)
    del made[5], made[6]
    check(store, made)
    assert store.status().shards == 27


def test_torn_bytes_at_the_end_are_cut(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, 1, 2)
    end = record_at(2)
    store.close(clean=False)
    torn = disk.content(segment_name(1))
    assert len(torn) == end
    torn.extend(torn[SEGMENT_HEADER : SEGMENT_HEADER + 700])
    disk.settle()
    store = opened()
    check(store, made)
    assert len(disk.content(segment_name(1))) == end
    assert store.status().bad_regions == 0
    made.update(put(store, 3))
    check(store, made)


def test_a_torn_payload_at_the_end_is_cut(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, 1, 2)
    store.close(clean=False)
    flip(disk, 1, record_at(1) + HEAD + 8 + 900)
    store = opened()
    check(store, {1: made[1]})
    assert len(disk.content(segment_name(1))) == record_at(1)


def test_bad_bytes_with_a_good_record_behind_are_damage_and_stay(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, 1, 2, 3, 4)
    store.close(clean=False)
    flip(disk, 1, record_at(1) + HEAD + 8 + 900)
    flip(disk, 1, record_at(2) + 20)
    before = bytes(disk.content(segment_name(1)))
    store = opened()
    assert bytes(disk.content(segment_name(1))) == before
    assert [info.extent for info in store.list()] == [extent(1), extent(2), extent(4)]
    assert [one.extent for one in store.damaged()] == [extent(2)]
    assert len(store.bad_regions()) == 1
    assert store.read(extent(4), 0, 0, 1000).data == made[4]


def test_bad_bytes_before_the_mark_are_never_cut(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, 1, 2)
    store.checkpoint()
    store.close(clean=False)
    flip(disk, 1, record_at(1) + 20)
    size = len(disk.content(segment_name(1)))
    store = opened()
    assert len(disk.content(segment_name(1))) == size
    with pytest.raises(DamagedShard):
        store.read(extent(2), 0, 0, 1)
    assert store.read(extent(1), 0, 0, 1000).data == made[1]


def test_nothing_is_cut_when_the_index_with_its_mark_is_lost(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, 1, 2)
    store.close(clean=False)
    shutil.rmtree(disk.root / FOLDER)
    flip(disk, 1, record_at(1) + HEAD + 8 + 900)
    size = len(disk.content(segment_name(1)))
    store = opened()
    assert len(disk.content(segment_name(1))) == size
    assert [one.extent for one in store.damaged()] == [extent(2)]
    made.update(put(store, 3))
    assert store.read(extent(3), 0, 0, 1000).data == made[3]


@pytest.mark.parametrize("restarts", [0, 1])
def test_what_follows_a_torn_record_is_found_without_the_index(opened: Opener, disk: MemoryDisk, restarts: int) -> None:
    """Its head tells a length that reaches into what is appended later."""
    store = opened()
    made = put(store, 1, 2)
    store.close(clean=False)
    del disk.content(segment_name(1))[record_at(1) + HEAD + 8 + 500 :]
    disk.settle()
    shutil.rmtree(disk.root / FOLDER)
    store = opened()
    for _ in range(restarts):
        store.close()
        store = opened()
    assert store.status().bad_regions == 1
    put(store, 2)
    made.update(put(store, 3))
    check(store, made)
    store.close()
    shutil.rmtree(disk.root / FOLDER)
    check(opened(), made)


def test_a_segment_shorter_than_its_mark_is_damage(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, 1, 2)
    store.close()
    del disk.content(segment_name(1))[record_at(1) + 50 :]
    disk.settle()
    store = opened()
    assert store.status().bad_regions == 1
    with pytest.raises(DamagedShard):
        store.read(extent(2), 0, 0, 1)
    made.update(put(store, 3))
    assert store.read(extent(3), 0, 0, 1000).data == made[3]
    assert segment_numbers(disk) == [1, 2]


def test_a_half_made_segment_goes(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, 1)
    store.close(clean=False)
    disk.open(segment_name(2), create=True).write([b"RBseg"], 0)
    disk.settle()
    store = opened()
    assert segment_numbers(disk) == [1]
    made.update(put(store, *range(2, 20)))
    check(store, made)
    assert segment_numbers(disk) == [1, 2, 3]


# The index


def test_a_deleted_index_is_made_again(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, *range(1, 40))
    remove(store, *range(1, 40, 3))
    status = store.status()
    store.close()
    shutil.rmtree(disk.root / FOLDER)
    store = opened()
    check(store, {number: data for number, data in made.items() if number % 3 != 1})
    assert store.status().shards == status.shards
    with pytest.raises(UnknownShard):
        store.read(extent(1), 0, 0, 1)
    with pytest.raises(AlreadyExists):
        store.put(shard(1, made[1])).result(5)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("how", ["garbage", "truncated", "middle", "empty", "name"])
def test_a_damaged_index_is_noticed_in_a_child_and_made_again(
    opened: Opener, disk: MemoryDisk, clean: bool, how: str
) -> None:
    store = opened()
    made = put(store, *range(1, 60))
    store.checkpoint()
    store.close(clean=clean)
    raw = bytearray(index_path(disk).read_bytes())
    if how == "garbage":
        raw[:] = os.urandom(len(raw))
    elif how == "truncated":
        del raw[8192:]
    elif how == "empty":
        raw.clear()
    elif how == "name":
        raw = raw.replace(b"shards", b"shardz")
    else:
        raw[8192:] = os.urandom(len(raw) - 8192)
    index_path(disk).write_bytes(raw)
    store = opened(check_index=find_damage_in_child)
    check(store, made)
    assert how == "empty" or store.status().counters["store.index_rebuilt"] == 1


def test_a_good_index_passes_the_check(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    put(store, 1)
    store.close(clean=False)
    assert find_damage(disk.root / FOLDER) == find_damage_in_child(disk.root / FOLDER) == ""


def test_after_a_clean_stop_nothing_is_walked(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, 1, 2)
    store.close()

    def never(folder: Path) -> str:
        raise AssertionError("the index was walked")

    store = opened(check_index=never)
    check(store, made)
    store.close(clean=False)
    with pytest.raises(AssertionError):
        opened(check_index=never)


def test_an_index_of_another_device_is_not_used(opened: Opener, disk: MemoryDisk, tmp_path: Path) -> None:
    store = opened()
    made = put(store, 1, 2)
    store.close()
    (tmp_path / "other").mkdir()
    other = open_store(MemoryDisk(tmp_path / "other"))
    put(other, 7)
    other.close()
    shutil.rmtree(disk.root / FOLDER)
    shutil.copytree(tmp_path / "other" / FOLDER, disk.root / FOLDER)
    check(opened(), made)


def test_the_index_grows_past_its_map(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reedbed.storaged.index_lmdb.LmdbRows.__init__.__defaults__", (128 * 1024,), raising=True)
    store = opened(segment_bytes=1 << 20)
    for one in [store.put(shard(number, b"x")) for number in range(3000)]:
        one.result(10)
    assert store.checkpoint()
    assert store.status().shards == 3000
    assert len(store.list(None, 5000)) == 3000


# Removal


def test_a_removed_shard_never_comes_back(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, *range(1, 40))
    assert segment_numbers(disk)[-1] > 4
    assert remove(store, *range(2, 40)) == [Removal.REMOVED] * 38
    assert remove(store, 2, 99) == [Removal.UNKNOWN] * 2
    for seed in range(3):
        for _ in range(seed):
            store.checkpoint()
        after = disk.crash(random.Random(seed))
        store.close(clean=False)
        shutil.rmtree(disk.root / FOLDER)
        disk = after
        store = opened(disk)
        check(store, {1: made[1]})


def test_a_removal_outlives_the_segment_that_holds_the_shard(opened: Opener, disk: MemoryDisk) -> None:
    """Segment 1 keeps a live shard and a removed one; the segment that holds the removal loses all its shards."""
    store = opened()
    made = put(store, *range(1, 8))
    assert segment_numbers(disk) == [1]
    later = put(store, *range(8, 15))
    remove(store, 3)  # lies in segment 2
    put(store, *range(15, 22))
    assert segment_numbers(disk) == [1, 2, 3]
    remove(store, *later)
    for _ in range(4):
        store.checkpoint()
        remove(store)  # a round through the writer, which carries notes
    assert segment_numbers(disk) == [1, 3]
    store.close(clean=False)
    shutil.rmtree(disk.root / FOLDER)
    store = opened()
    listed = {info.extent for info in store.list()}
    assert extent(3) not in listed
    assert extent(4) in listed
    assert made[4] == store.read(extent(4), 0, 0, 1000).data


def test_a_segment_without_live_shards_is_unlinked(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    put(store, *range(1, 30))
    numbers = segment_numbers(disk)
    remove(store, *range(1, 30))
    for _ in range(3):
        store.checkpoint()
        remove(store)
    assert segment_numbers(disk) == numbers[-1:]
    assert store.status().shards == 0
    assert store.status().segments == 1
    store.close()
    store = opened()
    check(store, {})
    assert store.status().bad_regions == 0


def test_segments_that_go_are_gone_before_the_removals_that_speak_of_them(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    put(store, *range(1, 40))
    remove(store, *range(1, 40))
    calls: list[tuple[str, str]] = []
    disk.fail = lambda operation, name: calls.append((operation, name))
    store.checkpoint()
    steps = [call for call in calls if call[0] == "unlink" or call == ("sync_folder", "segments")]
    assert len(steps) > 4
    assert [name for operation, name in steps if operation == "unlink"] == sorted({name for _, name in steps[::2]})
    assert steps[1::2] == [("sync_folder", "segments")] * (len(steps) // 2)


def test_a_carried_removal_does_not_touch_the_shard_put_anew(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, *range(1, 8))
    later = put(store, *range(8, 15))
    remove(store, 3)  # lies in segment 2, its shard in segment 1
    assert store.put(shard(3, made[3], generation=2)).result(5)
    assert segment_numbers(disk) == [1, 2, 3]
    remove(store, *later)
    for _ in range(4):
        store.checkpoint()
        remove(store)
    assert segment_numbers(disk) == [1, 3]  # the removal now lies behind the new record
    store.close(clean=False)
    shutil.rmtree(disk.root / FOLDER)
    store = opened()
    check(store, made)


def test_holes_give_the_room_back(tmp_path: Path) -> None:
    store = open_store(tmp_path / "d", segment_bytes=64 << 20)
    try:
        made = put(store, 1, 2, size=60_000)
        path = tmp_path / "d" / segment_name(1)
        before = path.stat().st_blocks
        remove(store, 1)
        store.checkpoint()
        if not store.metrics.get("store.holes"):
            pytest.fail("the file system makes no holes: set TMPDIR to one that does (ext4, xfs, btrfs, tmpfs)")
        assert path.stat().st_blocks <= before - 100
        check(store, {2: made[2]})
        assert store.status().used < 75_000
    finally:
        store.close()


def test_a_hole_that_a_crash_prevented_is_punched_after_the_replay(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, 1, 2)
    remove(store, 1)
    store.close(clean=False)
    assert made[1] in bytes(disk.content(segment_name(1)))
    store = opened()
    store.checkpoint()
    assert made[1] not in bytes(disk.content(segment_name(1)))
    check(store, {2: made[2]})


def test_a_removed_shard_is_put_again_only_under_a_later_generation(opened: Opener) -> None:
    store = opened()
    made = put(store, 1, 2)
    store.remove([RemoveOrder(extent(1), 0, 1, 4)], 1)
    store.checkpoint()
    with pytest.raises(AlreadyExists):
        store.put(shard(1, made[1], generation=4)).result(5)
    assert store.put(shard(1, made[1], generation=5)).result(5)
    assert store.remove([RemoveOrder(extent(1), 0, 1, 4)], 1) == [Removal.KEPT]
    store.close(clean=False)
    store = opened()
    check(store, made)


# Full and failing disks


def test_a_full_disk_refuses_puts_serves_reads_and_can_be_emptied(opened: Opener, disk: MemoryDisk) -> None:
    disk.capacity = 400_000
    store = opened(reserve_bytes=20_000)
    assert "reserve" in disk.names()
    made: dict[int, bytes] = {}
    while store.status().free > 5000:
        made.update(put(store, len(made) + 1, size=3000))
    with pytest.raises(DiskFull):
        put(store, 4999, size=6000)
    check(store, made)
    used = store.status().used
    with pytest.raises(DiskFull):
        put(store, 5000, size=30_000)
    assert store.status().used == used
    # somebody else takes what is left
    disk.open("other", create=True).allocate(disk.space().free)
    assert remove(store, *list(made)[:60]) == [Removal.REMOVED] * 60
    assert "reserve" not in disk.names()
    assert store.checkpoint()
    made = dict(list(made.items())[60:])
    check(store, made)
    store.checkpoint()
    assert "reserve" in disk.names()
    made.update(put(store, 9000))
    store.close()
    check(opened(), made)


def test_a_device_has_its_own_capacity(opened: Opener, disk: MemoryDisk) -> None:
    store = opened(capacity=200_000)
    made = put(store, *range(1, 10), size=20_000)
    with pytest.raises(DiskFull):
        put(store, 10, size=20_000)
    assert store.status().capacity == 200_000
    assert 180_000 < store.status().used <= 200_000
    remove(store, 1, 2)
    del made[1], made[2]
    made.update(put(store, 11, size=20_000))
    check(store, made)


def test_an_append_that_meets_a_full_disk_changes_nothing(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    made = put(store, 1)
    size = len(disk.content(segment_name(1)))

    def full(operation: str, name: str) -> None:
        if operation == "write" and name.startswith("segments/"):
            raise OSError(errno.ENOSPC, "full")

    disk.fail = full
    with pytest.raises(DiskFull):
        put(store, 2)
    disk.fail = None
    assert len(disk.content(segment_name(1))) == size
    made.update(put(store, 3))
    check(store, made)
    assert not store.failed


@pytest.mark.parametrize("operation", ["sync", "write"])
def test_a_failed_sync_or_write_fails_the_device_for_good(opened: Opener, disk: MemoryDisk, operation: str) -> None:
    store = opened()
    made = put(store, 1)

    def fail(called: str, name: str) -> None:
        if called == operation and name.startswith("segments/"):
            raise OSError(errno.EIO, "bad disk")

    disk.fail = fail
    waiting = [store.put(shard(number, b"x")) for number in range(2, 6)]
    for one in waiting:
        with pytest.raises(DeviceFailed):
            one.result(5)
    disk.fail = None  # from here on every sync would succeed, which proves nothing
    with pytest.raises(DeviceFailed):
        store.put(shard(7, b"x"))
    with pytest.raises(DeviceFailed):
        remove(store, 1)
    check(store, made)
    assert "bad disk" in store.status().failed
    assert store.status().free == 0
    store.close()
    store = opened(disk)
    assert "bad disk" in store.status().failed
    with pytest.raises(DeviceFailed):
        store.put(shard(7, b"x"))
    assert store.read(extent(1), 0, 0, 1000).data == made[1]


def test_a_disk_that_fails_at_the_start_is_named(tmp_path: Path) -> None:
    disk = MemoryDisk(tmp_path)
    open_store(disk).close()

    def fail(called: str, name: str) -> None:
        if called == "open":
            raise OSError(errno.EIO, "bad disk")

    disk.fail = fail
    with pytest.raises(DeviceFailed, match="bad disk"):
        open_store(disk)
    disk.fail = None
    open_store(disk).close()


def test_a_shard_removed_under_a_read_is_unknown_not_damaged(
    opened: Opener, disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    put(store, 1)

    def while_reading(operation: str, name: str) -> None:
        if operation == "read" and name.startswith("segments/"):
            disk.fail = None
            disk.mutex.release()
            remove(store, 1)
            store.checkpoint()
            disk.mutex.acquire()

    disk.fail = while_reading
    with pytest.raises(UnknownShard):
        store.read(extent(1), 0, 0, 1000)
    assert store.status().damaged == 0


def test_a_segment_filled_during_the_checkpoint_stays(
    opened: Opener, disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing alive lay in the highest segment when the checkpoint began; by its end it holds shards and is full."""
    store = opened(segment_bytes=4096, checkpoint_seconds=1e9)
    put(store, 1)
    remove(store, 1)
    expected: dict[int, bytes] = {}
    commit = Index.commit

    def slow_commit(index: Index, changes: Changes) -> None:
        commit(index, changes)
        expected.update(put(store, *range(2, 9)))

    with monkeypatch.context() as patch:
        patch.setattr(Index, "commit", slow_commit)
        assert store.checkpoint()
    assert len(segment_numbers(disk)) > 1
    check(store, expected)
    store.close(clean=False)
    check(opened(), expected)


# Generations


def test_a_generation_that_came_during_the_checkpoint_is_kept(
    opened: Opener, disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the index covers is not replayed, so the index must not cover a put whose generation is not written down."""
    store = opened(checkpoint_seconds=1e9)
    put(store, 1)
    save = DamageLog.save

    def slow_save(log: DamageLog) -> None:
        store.put(shard(2, b"moved", generation=7)).result(5)
        save(log)

    with monkeypatch.context() as patch:
        patch.setattr(DamageLog, "save", slow_save)
        assert store.checkpoint()
    store.close(clean=False)
    assert opened(disk.crash(random.Random(1))).generation(1) == 7


def test_a_generation_in_a_replay_that_is_cut_short_is_kept(
    opened: Opener, disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long replay writes checkpoints of its own; each is a point from which the next one may begin."""
    store = opened(checkpoint_seconds=1e9)
    put(store, 1)
    store.put(shard(2, b"moved", generation=7)).result(5)
    store.close(clean=False)
    commit = Index.commit

    def last_commit(index: Index, changes: Changes) -> None:
        commit(index, changes)
        raise OSError(errno.EIO, "power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(recovery, "ROWS", 2)
        patch.setattr(Index, "commit", last_commit)
        with pytest.raises(DeviceFailed):
            opened()
    assert opened(disk.crash(random.Random(1))).generation(1) == 7
