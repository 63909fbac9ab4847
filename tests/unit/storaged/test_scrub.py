"""The scrubber: every altered byte of what is live is found by one pass, at a bounded rate, and a restart goes on."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from reedbed.common.clock import ManualClock
from reedbed.common.errors import Corrupt, DamagedShard, InvalidArgument, NewerFormat
from reedbed.common.limits import KIB, MIB
from reedbed.storaged import damage, passes
from reedbed.storaged.calls import RemoveOrder
from reedbed.storaged.disk import RealDisk
from reedbed.storaged.disk_twin import MemoryDisk
from reedbed.storaged.entries import TABLES, Position
from reedbed.storaged.index_check import find_damage
from reedbed.storaged.index_lmdb import FOLDER
from reedbed.storaged.pace import POLITE_MAX, RATE_MIN, SPREAD, Manners, Pace
from reedbed.storaged.passes import HEADS, Standing
from reedbed.storaged.record import HEAD, SEGMENT_HEADER, padded
from reedbed.storaged.scrub import STEP, Scrubber
from reedbed.storaged.segments import segment_name
from reedbed.storaged.store import ShardStore
from tests.unit.storaged.conftest import extent, open_store, shard

Opener = Callable[..., ShardStore]


def put(store: ShardStore, *numbers: int, size: int = 300) -> dict[int, bytes]:
    made = {number: random.Random(number).randbytes(size) for number in numbers}
    for number, data in made.items():
        store.put(shard(number, data)).result(5)
    return made


def remove(store: ShardStore, *numbers: int) -> None:
    store.remove([RemoveOrder(extent(number), 0, 1, 1) for number in numbers], 1)


def whole_pass(store: ShardStore) -> Scrubber:
    """A pass from its begin to its end, without waiting between steps."""
    scrubber = store.scrubber(Pace())
    number = scrubber.ask()
    while scrubber.status().passes < number:
        scrubber.step()
    return scrubber


def damaged(store: ShardStore) -> list[tuple[int, int]]:
    return sorted((int.from_bytes(one.extent, "big"), one.block) for one in store.damaged())


def record_at(position: int, size: int = 300) -> int:
    return SEGMENT_HEADER + position * padded(HEAD + 8 + size)


def flip(disk: MemoryDisk, at: int, segment: int = 1) -> None:
    disk.content(segment_name(segment))[at] ^= 0x20


# Finding


def test_every_byte_of_a_segment_that_matters_is_verified_by_one_pass(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    put(store, 1, 2, 3)
    remove(store, 2)
    store.checkpoint()
    assert whole_pass(store).status().last_found == 0
    size = len(disk.content(segment_name(1)))
    dead = range(record_at(1) + HEAD, record_at(2))
    padding = {at for place in (0, 2) for at in range(record_at(place) + HEAD + 8 + 300, record_at(place + 1))}
    for at in range(size):
        flip(disk, at)
        store._damage.segment_gone(1)  # where it is known and settled, it is not told again
        found = whole_pass(store).status().last_found
        flip(disk, at)
        assert bool(found) == (at not in dead and at not in padding), at


def test_damage_is_told_by_shard_and_block_and_outlives_a_restart(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    put(store, 1, 2, 3, 4)
    flip(disk, record_at(0) + HEAD + 8 + 250)  # payload
    flip(disk, record_at(1) + HEAD + 3)  # table
    flip(disk, record_at(2) + 20)  # head
    disk.settle()
    scrubber = whole_pass(store)
    assert damaged(store) == [(1, 0), (2, -1), (3, -1)]
    assert scrubber.status().last_found == 4  # the bad head is a region too
    assert whole_pass(store).status().last_found == 3  # which is settled by now
    assert store.bad_regions() == []  # which is settled: what lay in it is known
    store.close(clean=False)
    again = opened()
    assert damaged(again) == [(1, 0), (2, -1), (3, -1)]
    for number in (1, 2, 3):
        assert again.put(shard(number, random.Random(number).randbytes(300))).result(5) is True
    assert damaged(again) == []
    assert whole_pass(again).status().last_found == 0  # the old head hurts nobody
    assert damaged(again) == []
    again.close()
    assert damaged(opened()) == []


def test_a_segment_that_is_gone_or_cut_short_is_found(opened: Opener, disk: MemoryDisk) -> None:
    store = opened(segment_bytes=1000)
    put(store, *range(1, 10))
    places = {entry.segment for entry in _entries(store)}
    assert len(places) > 2
    store.checkpoint()
    store.close(clean=False)
    disk.unlink(segment_name(1))
    disk.sync_folder("segments")
    del disk.content(segment_name(2))[SEGMENT_HEADER + HEAD + 8 :]
    disk.settle()
    again = opened(segment_bytes=1000)
    lost = {int.from_bytes(key[:16], "big") for key, entry in _rows(again) if entry.segment == 1}
    short = {int.from_bytes(key[:16], "big") for key, entry in _rows(again) if entry.segment == 2}
    whole_pass(again)
    assert {number for number, _ in damaged(again)} == lost | short
    for number in lost | short:
        assert again.put(shard(number, random.Random(number).randbytes(300))).result(5) is True
    assert damaged(again) == []
    assert again.checkpoint()
    assert again.checkpoint()  # what is left of both segments goes
    assert again.failed == ""
    assert {entry.segment for entry in _entries(again)}.isdisjoint({1, 2})
    assert not {1, 2} & set(again._book.segments())


def _rows(store: ShardStore) -> list[tuple[bytes, Any]]:
    return store._book.page(b"", 1000)


def _entries(store: ShardStore) -> list[Any]:
    return [entry for _, entry in _rows(store)]


def test_a_damaged_removal_record_is_written_again(opened: Opener, disk: MemoryDisk) -> None:
    """Else an index that is made anew would bring the shard back."""
    store = opened(segment_bytes=4000)
    put(store, 1, 2)
    at = len(disk.content(segment_name(1)))
    remove(store, 1)
    put(store, 3)
    flip(disk, at + 30)
    disk.settle()
    assert whole_pass(store).status().last_found == 1
    assert store.bad_regions() == []
    store.close(clean=False)
    again = opened(check_index=lambda _: "lost")
    assert again.status().counters["store.index_rebuilt"] == 1
    assert [int.from_bytes(info.extent, "big") for info in again.list()] == [2, 3]


def test_damaged_small_files_are_written_anew(opened: Opener, disk: MemoryDisk) -> None:
    """Else the next start would lose the whole device for a flipped bit."""
    store = opened()
    put(store, 1)
    store.note_generation(5, 9)
    for name in ("device.json", "generations"):
        disk.content(name)[30] ^= 1
    assert whole_pass(store).status().last_found == 2
    assert store.checkpoint()
    assert whole_pass(store).status().last_found == 0
    store.close(clean=False)
    again = opened()
    assert again.generation(5) == 9
    assert again.status().counters.get("store.generations_damaged", 0) == 0


def test_good_blocks_of_a_damaged_shard_stay_readable(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    data = random.Random(1).randbytes(3000)
    store.put(shard(1, data, block=1000)).result(5)
    flip(disk, SEGMENT_HEADER + HEAD + 3 * 8 + 1500)
    whole_pass(store)
    assert damaged(store) == [(1, 1)]
    assert store.read(extent(1), 0, 0, 1000).data == data[:1000]
    assert store.read(extent(1), 0, 2000, 1000).data == data[2000:]
    with pytest.raises(DamagedShard):
        store.read(extent(1), 0, 999, 2)
    assert store.put(shard(1, data, block=1000)).result(5) is True
    assert store.read(extent(1), 0, 0, 3000).data == data


def test_removed_shards_and_holes_are_no_damage(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    put(store, 1, 2, 3, size=2000)
    remove(store, 2)
    store.checkpoint()
    assert whole_pass(store).status().last_found == 0


def test_a_shard_removed_while_it_is_read_is_no_damage(opened: Opener, disk: MemoryDisk) -> None:
    store = opened(segment_bytes=MIB * 4)
    put(store, 1, size=3 * MIB)
    scrubber = store.scrubber(Pace())
    scrubber.ask()
    scrubber.step()  # begins
    position = _entries(store)[0]
    flip(disk, position.offset + position.length - 100)
    remove(store, 1)
    while scrubber.status().passes < 1:
        scrubber.step()
    assert scrubber.status().last_found == 0
    assert damaged(store) == []


@pytest.mark.parametrize("table", ["shards", "segments", "meta", "notes", "homes"])
def test_altered_values_of_the_index_are_found_and_the_next_start_makes_it_anew(tmp_path: Path, table: str) -> None:
    folder = tmp_path / "device"
    store = open_store(folder)
    made = put(store, 1, 2, 3)
    remove(store, 3)
    del made[3]
    store.close()
    with lmdb.open(str(folder / FOLDER), max_dbs=len(TABLES)) as env:
        rows: Any = env.open_db(table.encode())
        with env.begin(write=True, db=rows) as txn:
            key, value = next(iter(txn.cursor()))
            txn.put(key, value[:-6] + bytes([value[-6] ^ 1]) + value[-5:])
    if table in ("segments", "meta"):
        assert find_damage(folder / FOLDER)
        return  # met before a scrubber runs: the index is made anew at once
    store = open_store(folder, check_index=lambda _: "")
    try:
        status = whole_pass(store).status()
        assert (status.index_bad, status.last_found) == (1, 1)
    finally:
        store.close()
    again = open_store(folder)
    try:
        assert again.status().counters["store.index_rebuilt"] == 1
        assert whole_pass(again).status().last_found == 0
        assert [info.extent for info in again.list()] == [extent(number) for number in made]
    finally:
        again.close()


def test_a_real_device_is_read_past_the_page_cache(tmp_path: Path) -> None:
    store = open_store(tmp_path / "device", segment_bytes=MIB)
    try:
        put(store, 1, 2, size=200 * KIB)
        assert whole_pass(store).status().last_found == 0
        with (tmp_path / "device" / segment_name(1)).open("r+b") as file:
            file.seek(100_000)
            byte = file.read(1)
            file.seek(100_000)
            file.write(bytes([byte[0] ^ 1]))
        whole_pass(store)
        assert damaged(store) == [(1, 1)]
    finally:
        store.close()


def test_all_that_is_read_was_dropped_from_the_page_cache_before(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    put(store, 1, 2)
    before = dict(disk.counts)
    whole_pass(store)
    name = segment_name(1)
    reads = disk.counts[f"read {name}"] - before.get(f"read {name}", 0)
    assert disk.counts[f"forget {name}"] >= reads > 0


def test_forgetting_keeps_the_bytes(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    file = disk.open("x", create=True)
    file.write([bytes(range(256)) * 100], 0)
    file.sync()
    file.forget(5, 10_000)
    assert file.read(0, 25600) == bytes(range(256)) * 100
    file.close()


# Pacing


def test_the_rate_is_kept_by_counted_bytes(opened: Opener, disk: MemoryDisk) -> None:
    clock = ManualClock()
    store = opened(segment_bytes=8 * MIB, clock=clock)
    put(store, *range(1, 30), size=MIB)
    scrubber = store.scrubber(Pace(period_s=3600.0, rate_max=2 * MIB))
    scrubber.ask()
    begun = clock.monotonic()
    while scrubber.status().passes < 1:
        pause = scrubber.step()
        status = scrubber.status()
        if status.phase == "segments":
            assert status.read <= 2 * MIB * (clock.monotonic() - begun) + STEP + MIB
        clock.advance(pause)
    took = clock.monotonic() - begun
    assert scrubber.status().last_read / took <= 2.2 * MIB
    assert took >= 29 / 2 - 3


def test_a_pass_takes_its_period_and_the_next_one_begins_when_it_is_over(opened: Opener) -> None:
    clock = ManualClock()
    store = opened(segment_bytes=8 * MIB, clock=clock)
    put(store, *range(1, 60), size=MIB)
    scrubber = store.scrubber(Pace(period_s=100.0))
    ends = []
    while len(ends) < 3:
        pause = scrubber.step()
        if scrubber.status().passes > len(ends):
            ends.append(clock.monotonic() - 1000.0)
        clock.advance(max(0.001, min(pause, 10.0)))
    assert SPREAD * 80 < ends[0] <= 100
    assert 95 < ends[1] - ends[0] < 105
    assert 95 < ends[2] - ends[1] < 105


def test_without_a_period_nothing_is_read_until_asked(opened: Opener) -> None:
    store = opened()
    put(store, 1)
    scrubber = store.scrubber(Pace(period_s=0.0))
    assert scrubber.step() > 0
    assert scrubber.status().phase == "resting"
    assert scrubber.ask() == 1
    while not scrubber.status().passes:
        scrubber.step()


def test_what_must_be_read_in_time_sets_the_rate() -> None:
    pace = Pace(period_s=1000.0, rate_max=10.0 * MIB)
    assert pace.rate(0, 0.0, hurried=False) == RATE_MIN
    assert pace.rate(900 * MIB, 0.0, hurried=False) == pytest.approx(MIB)
    assert pace.rate(900 * MIB, 450.0, hurried=False) == pytest.approx(2 * MIB)
    assert pace.rate(900 * MIB, 5000.0, hurried=False) == 10 * MIB
    assert pace.rate(0, 0.0, hurried=True) == 10 * MIB
    for wrong in ((-1.0, 1.0), (1.0, 0.0)):
        with pytest.raises(InvalidArgument):
            Pace(*wrong)


def test_a_step_that_met_others_waits_longer_but_the_period_is_kept() -> None:
    pace = Pace(period_s=1000.0, rate_max=1000.0 * MIB)
    manners = Manners()
    assert manners.after(MIB, 0.01, foreground=False) == 0
    late = manners.after(MIB, 0.03, foreground=False)
    assert late == pytest.approx(2.0, rel=0.05)
    assert manners.after(MIB, 0.01, foreground=True) == pytest.approx(2.0, rel=0.1)
    assert manners.after(MIB, 10.0, foreground=True) == POLITE_MAX
    free = pace.pause(MIB, 0.03, 1000.0 * MIB, RATE_MIN, 0.0)
    assert free == 0
    assert pace.pause(MIB, 0.03, 1000.0 * MIB, RATE_MIN, late) == pytest.approx(0.06, rel=0.05)
    # what has to be read by then comes before politeness
    assert pace.pause(MIB, 0.03, 1000.0 * MIB, MIB / 0.05, late) == pytest.approx(0.02)
    assert pace.pause(MIB, 0.0, MIB, MIB, 0.0) == 1.0


# Going on


def test_a_pass_goes_on_where_it_stood(opened: Opener, disk: MemoryDisk) -> None:
    clock = ManualClock()
    store = opened(segment_bytes=8 * MIB, clock=clock)
    put(store, *range(1, 41), size=MIB)
    store.checkpoint()
    scrubber = store.scrubber(Pace(period_s=3600.0))
    while scrubber.status().read < 20 * MIB:
        clock.advance(scrubber.step())
    read = scrubber.status().read
    store.close(clean=False)
    again = opened(segment_bytes=8 * MIB, clock=clock)
    scrubber = again.scrubber(Pace(period_s=3600.0))
    before = scrubber.status()
    assert read - 2 * STEP <= before.read <= read
    assert before.phase == "segments"
    begun = disk.counts["read"]
    while not scrubber.status().passes:
        clock.advance(scrubber.step())
    assert scrubber.status().last_read < 42 * MIB
    assert disk.counts["read"] > begun


def test_a_cursor_is_told_to_the_bit_and_a_damaged_one_begins_anew(tmp_path: Path) -> None:
    disk = MemoryDisk(tmp_path)
    standing = Standing(HEADS, True, 3, 7, Position(5, 1 << 40), 9, 1, 2, 3, 4, 5, 6, 7.5, b"k" * 18)
    passes.save(disk, standing)
    assert passes.load(disk) == standing
    raw = disk.content(passes.NAME)
    for at in range(len(raw)):
        raw[at] ^= 1
        assert passes.load(disk) == Standing()
        raw[at] ^= 1
    newer = bytearray(standing.encode()[:-4])
    newer[4] = 2
    with pytest.raises(NewerFormat):
        Standing.decode(bytes(newer) + damage.crc32c(bytes(newer)).to_bytes(4, "big"))


def test_known_damage_is_told_to_the_bit_and_a_damaged_file_is_no_failure(tmp_path: Path) -> None:
    disk = MemoryDisk(tmp_path)
    log = damage.DamageLog(ManualClock(), disk)
    log.shard(extent(1), 3, -1, Position(4, 5))
    log.region(9, 10, 11)
    log.region(9, 50, 1)
    log.settle(9, 50)
    log.save()
    again = damage.DamageLog(ManualClock(), disk)
    assert (again.shards(), again.regions()) == (log.shards(), log.regions())
    assert [region.offset for region in again.regions()] == [10]
    raw = bytes(disk.content(damage.NAME))
    for at in range(len(raw)):
        with pytest.raises((Corrupt, NewerFormat)):
            damage.decode(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    disk.content(damage.NAME)[20] ^= 1
    assert damage.DamageLog(ManualClock(), disk).shards() == []


def test_an_error_is_told_and_the_pass_goes_on_after_it(opened: Opener, disk: MemoryDisk) -> None:
    store = opened()
    put(store, 1, 2)
    scrubber = store.scrubber(Pace())
    scrubber.ask()

    def fail(operation: str, name: str) -> None:
        if operation == "open" and name.startswith("scrub"):
            raise OSError(5, "no disk")

    disk.fail = fail
    with pytest.raises(OSError, match="no disk"):
        scrubber.step()
    disk.fail = None
    while not scrubber.status().passes:
        scrubber.step()
    assert scrubber.status().error == ""


def test_the_worker_runs_by_itself_and_ends_with_the_store(tmp_path: Path) -> None:
    store = open_store(tmp_path / "device")
    put(store, 1, 2)
    scrubber = store.scrubber(Pace())
    scrubber.start()
    number = scrubber.ask()
    scrubber.wait_for(number, 20.0)
    assert scrubber.status().passes >= number
    store.close()
    assert not scrubber.running
