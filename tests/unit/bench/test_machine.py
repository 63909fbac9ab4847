"""What is told of a machine, and where media are found."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from reedbed.bench import machine as module
from reedbed.bench.machine import (
    check_space,
    disk_folder,
    in_memory,
    kind_of,
    machine,
    medium,
    mounts,
    optimised,
    ram_folder,
)
from reedbed.common.errors import InvalidArgument, ResourceExhausted


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A table of mounts with a disk, and something in memory in it."""
    table = tmp_path / "mounts"
    table.write_text(f"/dev/sda / ext4 rw 0 0\ntmpfs {tmp_path}/in\\040ram tmpfs rw 0 0\nbroken\n")
    (tmp_path / "in ram").mkdir()
    monkeypatch.setattr(module, "_MOUNTS", table)
    return tmp_path


def test_the_innermost_mount_counts(mounted: Path) -> None:
    assert len(mounts()) == 2
    assert kind_of(mounted) == ("ext4", "/")
    assert kind_of(mounted / "in ram") == ("tmpfs", f"{mounted}/in ram")
    assert kind_of(mounted / "in ram-not")[0] == "ext4"
    assert medium(mounted / "in ram").endswith("(in memory)")
    assert (in_memory(mounted), in_memory(mounted / "in ram")) == (False, True)


def test_media_are_found(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ram_folder() == mounted / "in ram"
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(mounted / "in ram"))
    monkeypatch.chdir(mounted)
    assert disk_folder() == Path("/var/tmp")


def test_no_memory_and_no_disk_have_names(mounted: Path) -> None:
    (mounted / "mounts").write_text("/dev/sda / ext4 rw 0 0\n")
    with pytest.raises(InvalidArgument, match=r"no file system in memory.*--ram-dir"):
        ram_folder()
    (mounted / "mounts").write_text("tmpfs / tmpfs rw 0 0\n")
    with pytest.raises(InvalidArgument, match=r"no folder on a disk.*--disk-dir"):
        disk_folder()
    (mounted / "mounts").unlink()
    assert kind_of(mounted) == ("unknown", "")


def test_too_little_room(tmp_path: Path) -> None:
    check_space(tmp_path, 1)
    with pytest.raises(ResourceExhausted, match="are free, and the benchmark may need"):
        check_space(tmp_path, 1 << 60)


def test_facts() -> None:
    facts = machine()
    assert facts.python == ".".join(map(str, sys.version_info[:3]))
    assert facts.cores >= 1
    assert facts.memory > 1 << 28
    assert facts.kernel.startswith("Linux")
    assert facts.processor


@pytest.mark.parametrize(
    ("arguments", "executable", "start"),
    [
        ("'--enable-optimizations' '--with-lto'", "/opt/python3", "built with --enable-optimizations"),
        ("'--prefix=/x'", "/opt/python3", "built without"),
        ("", "/usr/bin/python3.11", "Debian's build"),
    ],
)
def test_how_the_interpreter_was_built(
    arguments: str, executable: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: arguments)
    monkeypatch.setattr(module.os.path, "realpath", lambda path: executable)
    monkeypatch.setattr(module.Path, "exists", lambda path: True)
    assert optimised().startswith(start)
