"""`reedbed bench`: what it is asked for, refused by name before anything is started."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from reedbed.bench import nginx
from reedbed.cli.main import run


def refused(capture: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The error of a command that must fail at once."""
    assert run(["bench", *arguments, "--json"]) != 0
    captured = capture.readouterr()
    assert captured.out == ""
    error: dict[str, Any] = json.loads(captured.err)["error"]
    return error


@pytest.fixture
def report(tmp_path: Path) -> str:
    path = tmp_path / "objects.json"
    path.write_text("{}")
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--rows", "nothing"], "no row is called 'nothing'"),
        (["--quick", "--rows", "*dead"], "no row is called '*dead'"),
        (["--endpoint", "127.0.0.1:1", "--medium", "ram"], "--endpoint names a cluster that is there"),
        (["--endpoint", "127.0.0.1:1", "--rows", "*dead"], "devices of a cluster that was there before are not killed"),
        (["--endpoint", "127.0.0.1:99999"], "99999"),
        (["--tls-ca", "/nowhere"], "a fresh cluster speaks no TLS"),
        (["--repetitions", "0"], "0 is not in the range"),
        (["--seconds", "nan"], "nan is no time"),
        (["--seconds", "-1"], "-1"),
        (["--medium", "tape"], "'tape' is not one of"),
        (["--peer", "apache"], "'apache' is not one of"),
        (["--against", "/nowhere/objects.json"], "cannot read the earlier report"),
        (["--ram-dir", "/nowhere"], "/nowhere"),
        (["--medium", "ram", "--disk-dir", "/"], "does not use the other medium's folder"),
        (["--output", "/dev/null/x"], "/dev/null/x"),
        (["extra"], "extra"),
    ],
)
def test_what_cannot_be_is_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], what: str) -> None:
    error = refused(capsys, "objects", *arguments)
    assert what in error["what"] + error["where"]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--only", "everything"], "'everything' is not one of"),
        (["--objects", "10"], "10 is not in the range"),
        (["--fill-minutes", "nan"], "nan is no time"),
        (["--output", "/dev/null/x"], "/dev/null/x"),
        (["--disk-dir", "/nowhere"], "/nowhere"),
    ],
)
def test_a_scale_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], what: str) -> None:
    error = refused(capsys, "scale", *arguments)
    assert what in error["what"] + error["where"]


def test_folders_on_the_wrong_medium(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from reedbed.bench import machine

    monkeypatch.setattr(machine, "in_memory", lambda folder: False)
    assert "does not lie in memory" in refused(capsys, "objects", "--ram-dir", "/")["what"]
    monkeypatch.setattr(machine, "in_memory", lambda folder: True)
    assert "lies in memory" in refused(capsys, "objects", "--disk-dir", "/")["what"]


def test_no_report_to_compare_with(capsys: pytest.CaptureFixture[str], report: str) -> None:
    assert "no report of this benchmark" in refused(capsys, "objects", "--against", report)["what"]


def test_a_peer_that_is_demanded_must_be_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nginx, "find_nginx", lambda: None)
    error = refused(capsys, "objects", "--peer", "nginx")
    assert (error["code"], error["hint"]) == ("NotFound", f"Install it with: {nginx.INSTALL}")


def test_without_its_packages(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdrh.histogram", None)
    assert "reedbed[bench]" in refused(capsys, "objects")["hint"]


def test_limits_of_this_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["bench", "limits", "--seconds", "0.05", "--dir", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {limit["unit"] for limit in found["limits"].values()} == {"MB/s", "ms"}
    assert all(limit["value"] > 0 for limit in found["limits"].values())
    assert list(tmp_path.iterdir()) == []
