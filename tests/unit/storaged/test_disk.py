"""The disk and its twin behave alike; the twin's faults are those of a real disk."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from reedbed.common.errors import Unavailable
from reedbed.storaged.disk import IOV_MAX, Disk, RealDisk, read_whole, replace_whole
from reedbed.storaged.disk_twin import MemoryDisk


@pytest.fixture(params=["real", "memory"])
def any_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    made: Disk = RealDisk(tmp_path / "d") if request.param == "real" else MemoryDisk(tmp_path)
    made.make_folder()
    return made


def test_what_is_written_is_read(any_disk: Disk) -> None:
    file = any_disk.open("a", create=True)
    file.write([b"abc", bytearray(b"def"), memoryview(b"ghi")], 2)
    file.sync()
    assert file.read(0, 100) == b"\0\0abcdefghi"
    assert file.read(4, 2) == b"cd"
    assert file.size() == 11
    file.truncate(5)
    assert file.read(0, 100) == b"\0\0abc"
    file.close()
    with pytest.raises(FileExistsError):
        any_disk.open("a", create=True)
    with pytest.raises(FileNotFoundError):
        any_disk.open("b")


def test_more_buffers_than_one_call_takes(any_disk: Disk) -> None:
    file = any_disk.open("a", create=True)
    buffers = [bytes([number % 251]) * 3 for number in range(2 * IOV_MAX + 7)]
    file.write(buffers, 5)
    assert file.read(5, 1 << 20) == b"".join(buffers)
    file.close()


def test_a_write_that_the_system_cuts_short_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, group, offset: real(fd, [b"".join(group)[:4]], offset))
    disk = RealDisk(tmp_path)
    file = disk.open("a", create=True)
    file.write([b"abc", b"defg", b"hi"], 0)
    assert file.read(0, 100) == b"abcdefghi"
    file.close()


def test_a_hole_reads_as_zeros_and_gives_room_back(any_disk: Disk) -> None:
    file = any_disk.open("a", create=True)
    file.write([b"x" * (1 << 20)], 0)
    file.sync()
    before = file.allocated()
    if not file.punch(65536, 524288):
        pytest.fail("the file system makes no holes: set TMPDIR to one that does (ext4, xfs, btrfs, tmpfs)")
    assert file.allocated() <= before - 524288
    assert file.size() == 1 << 20
    assert file.read(65535, 524290) == b"x" + bytes(524288) + b"x"
    file.close()


def test_names_renaming_and_replacing(any_disk: Disk) -> None:
    replace_whole(any_disk, "a", b"one")
    replace_whole(any_disk, "a", b"two")
    assert read_whole(any_disk, "a") == b"two"
    any_disk.make_folder("sub")
    any_disk.open("sub/x", create=True).close()
    assert any_disk.names() == ["a", "sub"]
    assert any_disk.names("sub") == ["x"]
    assert any_disk.names("absent") == []
    any_disk.unlink("sub/x")
    any_disk.sync_folder("sub")
    assert any_disk.names("sub") == []
    with pytest.raises(FileNotFoundError):
        any_disk.unlink("sub/x")
    assert any_disk.space().free <= any_disk.space().total


def test_a_lock_is_held_once_and_names_its_holder(any_disk: Disk) -> None:
    release = any_disk.lock("lock")
    with pytest.raises(Unavailable, match=str(os.getpid())):
        any_disk.lock("lock")
    release()
    any_disk.lock("lock")()


def test_a_crash_of_the_twin_keeps_what_was_synced(tmp_path: Path) -> None:
    outcomes = set()
    for seed in range(60):
        disk = MemoryDisk(tmp_path)
        file = disk.open("a", create=True)
        file.write([b"synced"], 0)
        file.sync()
        disk.sync_folder()
        file.write([b"later"], 6)
        disk.open("unsynced", create=True)
        after = disk.crash(random.Random(seed))
        found = read_whole(after, "a")
        assert found.startswith(b"synced")
        outcomes.add((len(found), "unsynced" in after.names()))
        with pytest.raises(OSError, match="gone"):
            file.read(0, 1)
    assert {length for length, _ in outcomes} >= {6, 11}
    assert {name for _, name in outcomes} == {True, False}


def test_a_failed_sync_of_the_twin_loses_the_bytes_though_the_next_one_succeeds(tmp_path: Path) -> None:
    disk = MemoryDisk(tmp_path)
    file = disk.open("a", create=True)
    disk.sync_folder()

    def fail(operation: str, name: str) -> None:
        if operation == "sync":
            raise OSError(errno.EIO, "bad disk")

    file.write([b"lost"], 0)
    disk.fail = fail
    with pytest.raises(OSError, match="bad disk"):
        file.sync()
    disk.fail = None
    file.sync()
    assert file.read(0, 10) == b"lost"
    assert read_whole(disk.crash(random.Random(1)), "a") == b""


def test_a_full_twin_says_so_after_a_part(tmp_path: Path) -> None:
    disk = MemoryDisk(tmp_path, capacity=100)
    file = disk.open("a", create=True)
    file.write([b"x" * 90], 0)
    with pytest.raises(OSError) as caught:
        file.write([b"y" * 20], 90)
    assert caught.value.errno == errno.ENOSPC
    assert 90 <= file.size() <= 100
