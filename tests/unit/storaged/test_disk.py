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


def test_reading_into_memory(any_disk: Disk) -> None:
    file = any_disk.open("a", create=True)
    file.write([b"0123456789"], 0)
    target = memoryview(bytearray(b"..........."))
    assert file.read_into(2, target[1:5]) == 4
    assert bytes(target) == b".2345......"
    assert file.read_into(7, target) == 3
    assert file.read_into(10, target) == 0
    file.close()


def test_a_read_that_would_wait_for_the_disk_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk(tmp_path)
    file = disk.open("a", create=True)
    file.write([b"0123456789"], 0)
    assert file.read_now(2, 3) in (b"234", None), "what was written just now, where the file system can tell"
    if not disk.in_memory:
        assert file.read_now(8, 3) is None, "the file ends before"
    disk._in_memory = False
    file = disk.open("a")
    flags: list[int] = []

    def answers(error: int) -> None:
        def preadv(fd: int, buffers: list[bytearray], offset: int, flag: int) -> int:
            flags.append(flag)
            if error:
                raise OSError(error, "on purpose")
            buffers[0][:1] = b"2"
            return 1

        monkeypatch.setattr(os, "preadv", preadv)

    answers(errno.EAGAIN)
    assert file.read_now(2, 3) is None
    answers(0)
    assert file.read_now(2, 3) is None, "only a part was in memory"
    assert file.read_now(2, 1) == b"2"
    answers(errno.EIO)
    with pytest.raises(OSError, match="on purpose"):
        file.read_now(2, 3)
    assert set(flags) == {os.RWF_NOWAIT}
    answers(errno.EOPNOTSUPP)
    assert file.read_now(2, 3) is None
    calls = len(flags)
    assert file.read_now(2, 3) is None
    assert len(flags) == calls, "it is not asked again"
    file.close()


def test_file_systems_in_memory_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    number = os.stat(tmp_path).st_dev
    place = f"{os.major(number)}:{os.minor(number)}"
    for kind, of, expected in (("tmpfs", place, True), ("ext4", place, False), ("tmpfs", "77:99", False)):
        text = f"9 1 0:0 / / rw - overlay none rw\n24 30 {of} / /x\\040y rw,nosuid shared:1 - {kind} src rw\n"
        monkeypatch.setattr(Path, "read_text", lambda *_, text=text, **__: text)
        assert RealDisk(tmp_path).in_memory is expected


def test_a_file_on_a_disk_in_memory_is_read_at_once(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    disk._in_memory = True
    file = disk.open("a", create=True)
    file.write([b"0123456789"], 0)
    assert file.read_now(2, 3) == b"234"
    file.close()
