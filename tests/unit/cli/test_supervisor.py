from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec
import pytest

from reedbed.cli import supervisor
from reedbed.cli.supervisor import (
    CatalogState,
    ClusterState,
    DeviceState,
    check_catalog,
    check_folder,
    device_folders,
    error_in,
    running_state,
)
from reedbed.common.errors import AlreadyExists, Corrupt, InvalidArgument, NewerFormat, NotFound, Unavailable

STATE = ClusterState("127.0.0.1:1", CatalogState(2), [DeviceState(1, "/d", 3)], os.getpid())


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    check_folder(tmp_path)
    check_folder(tmp_path / "not-there-yet")
    for name in ("catalog", "device-1", "device-12", "log", "up.lock", "up.json", "up.json.new", "up.log"):
        (tmp_path / name).mkdir()
    check_folder(tmp_path)
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(InvalidArgument, match=r"holiday\.jpg"):
        check_folder(tmp_path)
    with pytest.raises(InvalidArgument, match="not a folder"):
        check_folder(tmp_path / "holiday.jpg")


def test_no_new_catalog_is_begun_where_devices_have_lost_theirs(tmp_path: Path) -> None:
    check_catalog(tmp_path / "not-there-yet")
    device = tmp_path / "device-1"
    device.mkdir()
    check_catalog(tmp_path)  # its first start was cut short
    (device / "device.json").write_bytes(b"{}")
    for lost in (False, True):
        if lost:
            (tmp_path / "catalog").mkdir()
        with pytest.raises(NotFound, match=r"the catalog is gone.*reedbed catalog rebuild"):
            check_catalog(tmp_path)
    (tmp_path / "catalog" / "identity.json").write_bytes(b"{}")
    check_catalog(tmp_path)


def test_device_folders_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("device-10", "device-2", "device-x", "device-1"):
        (tmp_path / name).mkdir()
    assert [path.name for path in device_folders(tmp_path)] == ["device-1", "device-2", "device-10"]


def test_the_lock_tells_whether_a_cluster_runs(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        running_state(tmp_path / "none")
    with pytest.raises(NotFound):
        running_state(tmp_path)
    assert not list(tmp_path.iterdir()), "asking must not leave anything behind"
    with (tmp_path / "up.lock").open("wb") as lock:
        (tmp_path / "up.json").write_bytes(msgspec.json.encode(STATE))
        with pytest.raises(NotFound):
            running_state(tmp_path)  # the file of a supervisor that was killed
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert running_state(tmp_path) == STATE
        (tmp_path / "up.json").write_bytes(b"{")
        with pytest.raises(Corrupt):
            running_state(tmp_path)
        (tmp_path / "up.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(STATE, supervisor=1 << 30)))
        with pytest.raises(Unavailable):
            running_state(tmp_path)  # its supervisor was killed, and its daemons are ending
        (tmp_path / "up.json").unlink()
        with pytest.raises(Unavailable):
            running_state(tmp_path)


async def test_a_second_supervisor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "CLAIM_TIMEOUT_S", 0.1)
    with (tmp_path / "up.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(AlreadyExists, match="down"):
            await supervisor.run_cluster(
                tmp_path,
                devices=6,
                profile=None,
                host="127.0.0.1",
                port=0,
                ready=lambda state: None,
                say=lambda text: None,
            )
    assert os.listdir(tmp_path) == ["up.lock"]


def test_the_error_that_a_daemon_ended_with_is_raised_again() -> None:
    line = '{"error":{"code":"NewerFormat","what":"w","where":"d","hint":"h","retryable":false,"maybe_applied":false}}'
    error = error_in(f"2026 INFO reedbed: starting\n{line}\n")
    assert isinstance(error, NewerFormat)
    assert (error.what, error.where, error.hint, error.retryable) == ("w", "d", "h", False)
    for words in ("", "\n", "Killed", "{}", '{"error": 5}', "[1]", '{"error":{"code":"NotFound"}}'):
        assert error_in(words) is None
