"""Settings from defaults, a file, the environment and flags: which wins, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from reedbed.common.config import load
from reedbed.common.errors import InvalidArgument


@dataclass(frozen=True)
class Settings:
    dir: Path
    port: int = 7300
    wait_s: float = 2.5
    loud: bool = False
    names: tuple[str, ...] = ()
    ca: Path | None = None
    level: str | None = None


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "x.toml"
    file.write_text(text)
    return file


def test_defaults_file_environment_flags_in_that_order(tmp_path: Path) -> None:
    file = write(tmp_path, 'dir = "/file"\nport = 1\nwait-s = 1\nnames = ["a", "b"]\n')
    assert load(Settings, "x", file=file) == Settings(Path("/file"), 1, 1.0, names=("a", "b"))
    environ = {"REEDBED_X_PORT": "2", "REEDBED_X_LOUD": "yes", "PATH": "/bin", "REEDBED_Y_PORT": "9"}
    assert load(Settings, "x", file=file, environ=environ).port == 2
    flags = {"port": 3, "dir": None, "ca": Path("/ca")}
    got = load(Settings, "x", file=file, environ=environ, flags=flags)
    assert got == Settings(Path("/file"), 3, 1.0, True, ("a", "b"), Path("/ca"))


def test_the_environment_may_name_the_file_and_lists(tmp_path: Path) -> None:
    file = write(tmp_path, 'dir = "/file"\n')
    environ = {"REEDBED_X_CONFIG": str(file), "REEDBED_X_NAMES": "a, b,", "REEDBED_X_WAIT_S": "7"}
    assert load(Settings, "x", environ=environ) == Settings(Path("/file"), wait_s=7.0, names=("a", "b"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("prot = 1", "unknown setting 'prot'"),
        ('port = "7300"', "port cannot be"),
        ("port = 1.5", "port cannot be"),
        ("port = true", "port cannot be"),
        ("wait_s = nan", "wait_s cannot be"),
        ("names = 'a'", "names cannot be"),
        ("dir = ''", "dir cannot be"),
        ("loud = 1", "loud cannot be"),
        ("[section]\nport = 1", "unknown setting 'section'"),
        ("port = ", "not TOML"),
    ],
)
def test_what_a_file_cannot_say(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(InvalidArgument, match=match) as caught:
        load(Settings, "x", file=write(tmp_path, text), flags={"dir": "/d"})
    assert "x.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PORT", "many"), ("PORT", ""), ("LOUD", "perhaps"), ("WAIT_S", "inf"), ("UNKNOWN", "1")],
)
def test_what_the_environment_cannot_say(variable: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match=f"REEDBED_X_{variable}"):
        load(Settings, "x", environ={f"REEDBED_X_{variable}": value}, flags={"dir": "/d"})


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"needs the setting dir.*--dir, REEDBED_X_DIR"):
        load(Settings, "x")
    with pytest.raises(InvalidArgument, match="cannot read"):
        load(Settings, "x", file=tmp_path / "none.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidArgument, match="not TOML"):
        load(Settings, "x", file=tmp_path / "x.toml")
