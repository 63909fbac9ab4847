"""Cleaning a device: nothing of before is left, it is a new incarnation, and a crash at any point changes neither."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from reedbed.common.errors import InvalidArgument, Unavailable, UnknownShard
from reedbed.storaged import identity
from reedbed.storaged.disk import RealDisk
from reedbed.storaged.disk_twin import MemoryDisk
from tests.unit.storaged.conftest import extent, open_store, shard


def filled(disk: MemoryDisk | Path) -> None:
    store = open_store(disk)
    for number in range(20):
        store.put(shard(number, bytes([number]) * 1000)).result(10)
    store.note_generation(1, 7)
    store.note_term(4)
    store.close()


@pytest.mark.parametrize("real", [False, True])
def test_a_cleaned_device_holds_nothing_and_is_a_new_incarnation(disk: MemoryDisk, tmp_path: Path, real: bool) -> None:
    where: MemoryDisk | Path = tmp_path / "device" if real else disk
    filled(where)
    before = identity.load(RealDisk(where) if isinstance(where, Path) else where)
    if isinstance(where, Path):
        identity.clean_folder(where, 2)
    else:
        identity.clean(where, 2)
    after = identity.load(RealDisk(where) if isinstance(where, Path) else where)
    assert before is not None
    assert after is not None
    assert before.salt != after.salt, "no record that some block still holds is taken for one of this incarnation"
    store = open_store(where)
    assert (store.incarnation, store.status().shards, store.term, store.generation(1)) == (2, 0, 4, 7)
    with pytest.raises(UnknownShard):
        store.read(extent(3), 0, 0, 10)
    store.put(shard(3, b"other bytes", generation=7)).result(10)
    assert bytes(store.read(extent(3), 0, 0, 11).data) == b"other bytes"
    store.close()
    again = open_store(where)
    assert (again.incarnation, again.status().shards) == (2, 1)
    again.close()


def test_a_crash_during_cleaning_is_made_good_at_the_next_start(tmp_path: Path) -> None:
    for calls in range(400):
        disk = MemoryDisk(tmp_path / str(calls), capacity=1 << 30)
        disk.root.mkdir()
        filled(disk)
        seen = 0

        def stop(*_: object) -> None:
            nonlocal seen
            seen += 1
            if seen > calls:  # noqa: B023 - used within this turn only
                raise OSError(5, "the power is off")

        checked, disk.check = disk.check, stop  # type: ignore[method-assign]
        try:
            identity.clean(disk, 2)
        except OSError:
            whole = False
        else:
            whole = True
        disk.check = checked  # type: ignore[method-assign]
        disk = disk.crash(random.Random(calls))
        store = open_store(disk)
        assert (store.incarnation, store.status().shards) in {(1, 20), (2, 0)}
        if whole:
            assert store.incarnation == 2
        store.close()
        if whole:
            return
    raise AssertionError("the cleaning never came to an end")


def test_only_a_newer_incarnation_of_a_device_that_nobody_serves_is_cleaned_for(tmp_path: Path) -> None:
    folder = tmp_path / "device"
    filled(folder)
    for incarnation in (0, 1):
        with pytest.raises(InvalidArgument, match="incarnation"):
            identity.clean_folder(folder, incarnation)
    store = open_store(folder)
    with pytest.raises(Unavailable):
        identity.clean_folder(folder, 2)
    assert store.status().shards == 20
    store.close()
    with pytest.raises(InvalidArgument, match="no device"):
        identity.clean(MemoryDisk(tmp_path / "none"), 2)
