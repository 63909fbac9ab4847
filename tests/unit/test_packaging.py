"""What is installed: every room under one name, nothing bare, nothing of the machine that built it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import reedbed

ROOT = Path(__file__).resolve().parents[2]
ROOMS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
PACKAGE = ROOT / "src" / "reedbed"


def tracked(*patterns: str) -> list[str]:
    """Files that belong to the repository; in an sdist, that has none, those that are there."""
    done = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    return [name for name in done.stdout.split("\0") if name]


def test_the_rooms_of_the_design_are_all_there() -> None:
    assert (
        sorted(
            [
                "common",
                "protos",
                "ec",
                "transport",
                "rdma",
                "extents",
                "cache",
                "catalog",
                "storaged",
                "client",
                "sync",
                "cli",
            ]
        )
        == ROOMS
    )


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_one_name(room: str) -> None:
    link = PACKAGE / room
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{room}"
    assert importlib.util.find_spec(f"reedbed.{room}") is not None
    done = subprocess.run(
        [sys.executable, "-c", f"import {room}"], cwd="/", capture_output=True, text=True, check=False
    )
    assert f"No module named '{room}'" in done.stderr


def test_the_benchmark_is_installed_and_its_scripts_are_not() -> None:
    assert os.readlink(PACKAGE / "bench") == "../../bench/command"
    assert importlib.util.find_spec("reedbed.bench.objects") is not None
    assert importlib.util.find_spec("reedbed.bench.demo") is None


def test_importing_the_package_costs_neither_sdk_nor_daemons() -> None:
    code = "import sys, reedbed; print([name for name in sys.modules if name.startswith(('reedbed.', 'grpc', 'lmdb'))])"
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for name in reedbed.__all__:
        assert getattr(reedbed, name) is not None


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, and beside it what setuptools makes of them."""
    folder = tmp_path_factory.mktemp("built")
    names = tracked()
    if not names:
        pytest.fail("the sources are no git repository: run the tests in a clone")
    for name in names:
        source, target = ROOT / name, folder / "source" / name
        if not source.exists() and not source.is_symlink():
            continue  # removed, not committed yet
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        else:
            target.write_bytes(source.read_bytes())
    for kind in ("bdist_wheel", "sdist"):
        subprocess.run(
            [sys.executable, "setup.py", "-q", kind, "--dist-dir", str(folder / "dist")],
            cwd=folder / "source",
            capture_output=True,
            check=True,
            timeout=100,
        )
    return folder


def modules() -> set[str]:
    return set(tracked(*(f"{room}/*.py" for room in ROOMS)))


def test_the_wheel_holds_the_package_and_no_bare_names(built: Path) -> None:
    (wheel,) = (built / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "reedbed = reedbed.cli.main:main" in archive.read(entry_points).decode()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert {name.partition("/")[0] for name in names} == {"reedbed", f"reedbed-{reedbed.__version__}.dist-info"}
    assert {f"reedbed/{name}" for name in modules()} <= set(names)
    bench = {name.replace("bench/command/", "reedbed/bench/") for name in tracked("bench/command/*.py")}
    assert {name for name in names if name.startswith("reedbed/bench/")} == bench
    assert {"reedbed/__init__.py", "reedbed/aio.py", "reedbed/py.typed", "reedbed/protos/lane.proto"} <= set(names)
    assert f"\nVersion: {reedbed.__version__}\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata


def test_the_sdist_makes_the_same_wheel(built: Path) -> None:
    (sdist,) = (built / "dist").glob("*.tar.gz")
    (wheel,) = (built / "dist").glob("*.whl")
    unpacked = built / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "xzf", str(sdist), "-C", str(unpacked), "--strip-components=1"], check=True)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(built / "again")],
        cwd=unpacked,
        capture_output=True,
        check=True,
        timeout=100,
    )
    (again,) = (built / "again").glob("*.whl")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        ours = {name: first.read(name) for name in first.namelist() if name.startswith("reedbed/")}
        assert {name: second.read(name) for name in second.namelist() if name.startswith("reedbed/")} == ours


def test_nothing_names_a_place_of_one_machine() -> None:
    place = re.compile(rb"(?<![\w.$}/-])/(?:root|work|home/(?!\w*\.)\w+)/")
    for name in tracked("*.py", "*.toml", "*.sh", "*.md", "*.cfg", "Makefile", ".ci/*", "tools/*", "deploy/*"):
        path = ROOT / name
        if path.is_file() and path != Path(__file__).resolve():
            found = place.search(path.read_bytes())
            assert found is None, f"{name}: {found.group()!r}"


def test_links_lead_nowhere_outside() -> None:
    for name in tracked():
        path = ROOT / name
        if path.is_symlink():
            assert not os.path.isabs(os.readlink(path)), name
            assert path.resolve().is_relative_to(ROOT), name


def test_the_requirements_are_locked_with_hashes() -> None:
    setup = (ROOT / "setup.py").read_text("utf-8")
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    entries = re.split(r"\n(?=[a-z0-9])", lock)
    locked = {re.split(r"[=;\s]", entry, maxsplit=1)[0].lower() for entry in entries}
    wanted = re.findall(r'"([A-Za-z0-9-]+)>=', setup.partition("install_requires")[2])
    assert "hdrhistogram" in wanted
    assert len(wanted) >= 8
    assert {name.lower() for name in wanted} <= locked
    assert all("--hash=sha256:" in entry for entry in entries if "==" in entry)
