"""Devices whose files were cut, overwritten, swapped or lost: never wrong bytes, and no harm to what was not touched.

A small device (shards, removals, renewals, three segments) is damaged at every place, opened, and read through.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reedbed_replay.disk import disk_of
from reedbed_replay.model import PG, extent_of, shard_of
from reedbed_replay.platter import Left

from reedbed.common.errors import DamagedShard, ReedbedError, UnknownShard, WrongCluster
from reedbed.storaged import identity
from reedbed.storaged.calls import RemoveOrder
from reedbed.storaged.disk_twin import MemoryDisk
from reedbed.storaged.index_check import find_damage_in_child
from reedbed.storaged.index_lmdb import DATA, FOLDER
from reedbed.storaged.record import SEGMENT_HEADER, NoteHead
from reedbed.storaged.segments import Found, segment_name, segment_numbers, walk
from reedbed.storaged.store import ShardStore, StoreOptions
from tests.unit.storaged.conftest import CLUSTER, open_store, options

SIZES = {1: 700, 2: 1, 3: 1500, 4: 90, 5: 700, 6: 300, 7: 1100, 8: 64, 9: 800, 10: 10, 11: 500, 12: 33}
REMOVED = (2, 5, 9)
RENEWED = (3, 8)
WAYS = ["clean stop", "index lost"]
TORN = range(0, 1 << 20, 17)  # a step that meets every field of every record
SOME = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@contextmanager
def a_root() -> Iterator[Path]:
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="reedbed-damage-", dir=memory if memory.is_dir() else None))
    try:
        yield root
    finally:
        shutil.rmtree(root)


@dataclass(frozen=True, slots=True)
class Device:
    """A device after a clean stop. records: segment, begin and end of what the walk finds, with the number of the
    shard; of a note that of the shard that it is about."""

    left: Left
    contents: Mapping[int, bytes]
    records: list[tuple[int, int, int, int, bool]]

    def touched(self, segment: int, begin: int, end: int) -> tuple[set[int], set[int]]:
        """Numbers whose shards' own records, and whose notes, overlap a range of a segment."""
        hit = [one for one in self.records if one[0] == segment and one[1] < end and one[2] > begin]
        return {one[3] for one in hit if not one[4]}, {one[3] for one in hit if one[4]}

    def segments(self) -> list[int]:
        return sorted({one[0] for one in self.records})


def make(seed: int, cluster: bytes = CLUSTER) -> Device:
    """The same numbers with other bytes for each seed."""
    contents = {number: random.Random(number * 100 + seed).randbytes(size) for number, size in SIZES.items()}
    with a_root() as root:
        disk = MemoryDisk(root, capacity=1 << 30)
        store = ShardStore.open(disk, cluster, options=options(segment_bytes=2500, reserve_bytes=1024))
        for number, data in contents.items():
            store.put(shard_of(number, data, 1)).result(10)
        store.remove([RemoveOrder(extent_of(number), 0, PG, 1) for number in REMOVED], 1)
        for number in RENEWED:
            store.put(shard_of(number, contents[number], 2)).result(10)
        store.close()
        salt = identity.load(disk)
        assert salt is not None
        records = []
        for segment in segment_numbers(disk):
            file = disk.open(segment_name(segment))
            for one in walk(file, segment, salt.seed, SEGMENT_HEADER, file.size()):
                assert isinstance(one, Found)
                number = int.from_bytes(one.head.extent, "big")
                records.append((segment, one.offset, one.end, number, isinstance(one.head, NoteHead)))
        files = {name: bytes(disk.content(name)) for name in disk.all_names()}
        left = Left(files, {"", "segments"}, (root / FOLDER / DATA).read_bytes())
    return Device(left, {number: data for number, data in contents.items() if number not in REMOVED}, records)


@pytest.fixture(scope="module")
def device() -> Device:
    made = make(1)
    assert len(made.segments()) >= 3
    return made


@pytest.fixture(scope="module")
def other() -> Device:
    return make(2)


def changed(left: Left, way: str, **files: bytes) -> Left:
    """With other files; names come as segment_N."""
    after = {**left.files, **{segment_name(int(name.removeprefix("segment_"))): raw for name, raw in files.items()}}
    return replace(left, files=after, image=left.image if way == "clean stop" else None)


def look(
    left: Left, device: Device, *, hit: set[int], notes: set[int], way: str, store_options: StoreOptions | None = None
) -> str:
    """What is wrong with a damaged device, or nothing. hit, notes: shards whose records, or notes, were touched."""
    with a_root() as root:
        try:
            disk = disk_of(left, root)
            chosen = store_options or options(segment_bytes=2500, reserve_bytes=1024)
            store = ShardStore.open(disk, CLUSTER, options=chosen)
        except ReedbedError as error:
            return f"it does not open: {error}"
        try:
            return _read_through(store, device, hit, notes, way) or _write_more(store, device, hit)
        finally:
            store.close()


def _read_through(store: ShardStore, device: Device, hit: set[int], notes: set[int], way: str) -> str:
    damaged = set()
    absent = set()
    for number, data in device.contents.items():
        try:
            found = bytes(store.read(extent_of(number), 0, 0, len(data)).data)
        except DamagedShard:
            damaged.add(number)
        except UnknownShard:
            absent.add(number)
        else:
            if found != data:
                return f"wrong bytes of shard {number}"
    if (damaged | absent) - hit:
        return f"shards {(damaged | absent) - hit} were not touched and are gone"
    if damaged - {int.from_bytes(one.extent, "big") for one in store.damaged()}:
        return "damage was met and not reported"
    if absent and way == "clean stop":
        return f"shards {absent} are unknown, not damaged"
    back = {int.from_bytes(info.extent, "big") for info in store.list(limit=1000)} & set(REMOVED)
    if back and (way == "clean stop" or back - notes):
        return f"removed shards {back} came back"
    if back and not store.bad_regions():
        return f"removed shards {back} came back in silence"
    return ""


def _write_more(store: ShardStore, device: Device, hit: set[int]) -> str:
    """What was damaged can be put again, and something new too."""
    for number in [*sorted(hit & device.contents.keys()), 99]:
        data = device.contents.get(number, b"new")
        try:
            store.put(shard_of(number, data, 2)).result(10)
            if store.read(extent_of(number), 0, 0, len(data)).data != data:
                return f"wrong bytes of shard {number} after it was put again"
        except ReedbedError as error:
            return f"shard {number} cannot be put: {error}"
    return ""


@pytest.mark.parametrize("way", WAYS)
def test_a_segment_cut_anywhere(device: Device, way: str) -> None:
    for segment in device.segments():
        whole = device.left.files[segment_name(segment)]
        for length in [at for at in TORN if at < len(whole)]:
            left = changed(device.left, way, **{f"segment_{segment}": whole[:length]})
            hit, notes = device.touched(segment, length, len(whole))
            lost_end = way == "index lost" and segment == device.segments()[-1]
            # with the index, all that told of records behind the end is gone: nobody here can report them
            if lost_end and set(REMOVED) & notes:
                continue
            fault = look(left, device, hit=hit, notes=notes, way=way)
            assert not fault, f"segment {segment} cut to {length}, {way}: {fault}"


@pytest.mark.parametrize("way", WAYS)
def test_a_byte_changed_anywhere(device: Device, way: str) -> None:
    for segment in device.segments():
        whole = device.left.files[segment_name(segment)]
        for at in [at for at in TORN if at < len(whole)]:
            raw = bytearray(whole)
            raw[at] ^= 1 << at % 8
            left = changed(device.left, way, **{f"segment_{segment}": bytes(raw)})
            hit, notes = device.touched(segment, at, at + 1)
            fault = look(left, device, hit=hit, notes=notes, way=way)
            assert not fault, f"segment {segment}, byte {at}, {way}: {fault}"


@SOME
@given(
    way=st.sampled_from(WAYS),
    wounds=st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1), st.integers(1, 900)), min_size=1, max_size=4),
    fill=st.sampled_from(["zeros", "random", "another record", "ones"]),
)
def test_garbage_anywhere(device: Device, way: str, wounds: list[tuple[int, float, int]], fill: str) -> None:
    files = dict(device.left.files)
    hit: set[int] = set()
    notes: set[int] = set()
    for place, where, length in wounds:
        segment = device.segments()[place % len(device.segments())]
        raw = bytearray(files[segment_name(segment)])
        begin = int(where * (len(raw) - 1))
        end = min(len(raw), begin + length)
        record = raw[SEGMENT_HEADER:] * (length // max(1, len(raw) - SEGMENT_HEADER) + 1)
        filling = {"zeros": bytes(length), "ones": b"\xff" * length, "random": random.Random(begin).randbytes(length)}
        raw[begin:end] = filling.get(fill, bytes(record))[: end - begin]
        files[segment_name(segment)] = bytes(raw)
        own, about = device.touched(segment, begin, end)
        hit |= own
        notes |= about
    left = replace(device.left, files=files, image=device.left.image if way == "clean stop" else None)
    assert look(left, device, hit=hit, notes=notes, way=way) == ""


def everything_of(device: Device, segment: int) -> tuple[set[int], set[int]]:
    return device.touched(segment, 0, 1 << 40)


@pytest.mark.parametrize("way", WAYS)
def test_segments_swapped_between_devices(device: Device, other: Device, way: str) -> None:
    """The other device holds other bytes under the same names: none of them may ever be returned."""
    for segment in device.segments():
        left = changed(device.left, way, **{f"segment_{segment}": other.left.files[segment_name(segment)]})
        hit, notes = everything_of(device, segment)
        assert look(left, device, hit=hit, notes=notes, way=way) == ""


@pytest.mark.parametrize("way", WAYS)
def test_segments_of_another_cluster(device: Device, way: str) -> None:
    foreign = make(3, cluster=bytes(range(1, 17)))
    for segment in device.segments():
        left = changed(device.left, way, **{f"segment_{segment}": foreign.left.files[segment_name(segment)]})
        hit, notes = everything_of(device, segment)
        assert look(left, device, hit=hit, notes=notes, way=way) == ""
    with a_root() as root, pytest.raises(WrongCluster):
        open_store(disk_of(foreign.left, root))


@pytest.mark.parametrize("way", WAYS)
def test_segments_swapped_within_a_device(device: Device, way: str) -> None:
    first, second = device.segments()[:2]
    one, two = (device.left.files[segment_name(segment)] for segment in (first, second))
    left = changed(device.left, way, **{f"segment_{first}": two, f"segment_{second}": one})
    hit, notes = (a | b for a, b in zip(everything_of(device, first), everything_of(device, second), strict=True))
    assert look(left, device, hit=hit, notes=notes, way=way) == ""


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_a_segment_under_a_higher_number_adds_nothing(device: Device, way: str) -> None:
    number = device.segments()[-1] + 1
    left = changed(device.left, way, **{f"segment_{number}": device.left.files[segment_name(device.segments()[0])]})
    assert look(left, device, hit=set(), notes=set(), way=way) == ""


@pytest.mark.parametrize("way", WAYS)
def test_a_deleted_segment_harms_no_other(device: Device, way: str) -> None:
    for segment in device.segments():
        left = changed(device.left, way)
        del left.files[segment_name(segment)]
        hit, notes = everything_of(device, segment)
        if way == "index lost" and notes & set(REMOVED):
            continue  # nothing is left that tells of the removals: the catalog orders them again
        assert look(left, device, hit=hit, notes=notes, way=way) == ""


def test_an_index_cut_anywhere_is_made_again(device: Device) -> None:
    assert device.left.image is not None
    checked = options(segment_bytes=2500, reserve_bytes=1024, check_index=find_damage_in_child)
    for length in range(0, len(device.left.image), 4096):
        left = replace(device.left, image=device.left.image[:length])
        assert look(left, device, hit=set(), notes=set(), way="clean stop", store_options=checked) == ""


def test_garbage_in_the_index_is_noticed(device: Device) -> None:
    assert device.left.image is not None
    checked = options(segment_bytes=2500, reserve_bytes=1024, check_index=find_damage_in_child)
    for page in range(0, len(device.left.image), 4096):
        raw = bytearray(device.left.image)
        raw[page : page + 4096] = os.urandom(4096)
        left = replace(device.left, image=bytes(raw))
        assert look(left, device, hit=set(), notes=set(), way="clean stop", store_options=checked) == ""


def test_an_index_of_another_device_or_of_yesterday(device: Device, other: Device) -> None:
    assert look(replace(device.left, image=other.left.image), device, hit=set(), notes=set(), way="clean stop") == ""
    with a_root() as root:
        disk = disk_of(device.left, root)
        store = open_store(disk, segment_bytes=2500, reserve_bytes=1024)
        store.remove([RemoveOrder(extent_of(number), 0, PG, 2) for number in (1, 3)], 1)
        store.put(shard_of(40, b"new", 2)).result(10)
        for _ in range(3):
            store.checkpoint()
            store.remove([], 1)
        store.close()
        files = {name: bytes(disk.content(name)) for name in disk.all_names()}
    left = Left(files, {"", "segments"}, device.left.image)
    with a_root() as root:
        store = open_store(disk_of(left, root), segment_bytes=2500, reserve_bytes=1024)
        found = {int.from_bytes(info.extent, "big") for info in store.list(limit=1000)}
        assert found == {*device.contents, 40} - {1, 3}
        for number in found - {40}:
            data = device.contents[number]
            assert store.read(extent_of(number), 0, 0, len(data)).data == data
        store.close()
