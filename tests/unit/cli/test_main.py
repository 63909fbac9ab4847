from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable

import click
import pytest

from reedbed.cli.main import COMMANDS, reedbed_command, run
from reedbed.common.errors import BY_CODE, NotFound, ReedbedError

Outcome = BaseException | int | None


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> Callable[[Outcome], None]:
    """Makes `reedbed probe` end in a certain way."""

    def become(result: Outcome) -> None:
        @click.command()
        @click.option("--json", is_flag=True)
        def probe(json: bool) -> int | None:
            if isinstance(result, BaseException):
                raise result
            return result

        module = types.ModuleType("reedbed_probe")
        module.probe = probe  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "reedbed_probe", module)
        monkeypatch.setitem(COMMANDS, "probe", "reedbed_probe")  # type: ignore[arg-type]

    return become


@pytest.mark.parametrize("error", sorted(BY_CODE.values(), key=lambda cls: cls.code))
def test_each_error_has_its_exit_code_and_line(
    error: type[ReedbedError], outcome: Callable[[Outcome], None], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome(error("it broke", where="here", hint="Mend it"))
    assert run(["probe"]) == error.exit_code
    out, err = capsys.readouterr()
    assert not out
    assert err == f"reedbed: {error.code}: it broke (here). Mend it\n"
    assert run(["probe", "--json"]) == error.exit_code
    assert json.loads(capsys.readouterr().err)["error"]["code"] == error.code


def test_exit_codes_do_not_collide() -> None:
    codes = {cls.exit_code for cls in BY_CODE.values()}
    assert not codes & {0, 130, 141}
    # classes that share a code derive from each other, but for those that have none of their own
    for code in codes - {ReedbedError.exit_code}:
        sharing = [cls for cls in BY_CODE.values() if cls.exit_code == code]
        assert any(all(issubclass(cls, top) for cls in sharing) for top in sharing)


def test_results_become_exit_codes(outcome: Callable[[Outcome], None]) -> None:
    for result, code in ((None, 0), (0, 0), (1, 1), (7, 7)):
        outcome(result)
        assert run(["probe"]) == code


def test_interrupts(outcome: Callable[[Outcome], None], capsys: pytest.CaptureFixture[str]) -> None:
    outcome(KeyboardInterrupt())
    assert run(["probe"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_what_the_system_refuses_has_no_traceback(
    outcome: Callable[[Outcome], None], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome(PermissionError(13, "Permission denied", "/secret\n"))
    assert run(["probe"]) == 1
    assert capsys.readouterr().err == "reedbed: Error: Permission denied (/secret\\n)\n"
    assert run(["probe", "--json"]) == 1
    assert json.loads(capsys.readouterr().err)["error"]["where"] == "/secret\n"


def test_bad_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["no-such-command"]) == 2
    assert run(["ls", "--no-such-option"]) == 2
    assert "No such option" in capsys.readouterr().err
    assert run(["cp", "--json", "only-one"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "InvalidArgument"


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "s3://data"],
        ["ls", "reedbed://No_Bucket"],
        ["ls", "/local"],
        ["mb", "reedbed://data/key"],
        ["mb", "ab"],
        ["cat", "reedbed://data"],
        ["stat", "local"],
        ["rm", "reedbed://data"],
        ["rm", "-r", "local"],
        ["rm", "-r", "--version", "0" * 32, "reedbed://data/a"],
        ["cp", "a", "b"],
        ["cp", "-", "-"],
        ["cp", "-r", "-", "reedbed://data"],
        ["cp", "-", "reedbed://data/"],
        ["cp", "reedbed://data", "x"],
        ["cp", "reedbed://data/a", "reedbed://data/a"],
        ["mv", "reedbed://data/d/a", "reedbed://data/d/"],
        ["mv", "-", "reedbed://data/a"],
        ["mv", "-r", "reedbed://data/a", "reedbed://data/a/b"],
        ["cp", "-r", "reedbed://data/a/b", "reedbed://data/a"],
        ["sync", "reedbed://data", "reedbed://data/copy", "--delete"],
        ["sync", "-", "reedbed://data"],
        ["cp", "/", "reedbed://data"],
        ["cp", "-r", "/dev/null", "reedbed://data"],
        ["cp", "-r", "reedbed://data", "/dev/null"],
        ["up", "--profile", "rs-0-1"],
        ["up", "--profile", "rs-4-2", "--devices", "5", "--dir", "/nonexistent/here"],
        ["up", "--dir", "/dev/null"],
        ["catalogd", "--dir", "x", "--port", "70000"],
    ],
)
def test_bad_input_is_refused_before_anything_is_asked(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("reedbed: InvalidArgument: ")
    assert err.count("\n") == 1


def test_a_source_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cp", "-r", "/nonexistent/here", "reedbed://data"]) == NotFound.exit_code
    assert run(["down", "--dir", "/nonexistent/here"]) == NotFound.exit_code
    assert "reedbed up --dir /nonexistent/here" in capsys.readouterr().err


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        found.append(((*path, name), command))
    return found


def test_every_command_and_option_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    for path, command in commands(reedbed_command):
        assert command.help, path
        assert run([*path, "--help"]) == 0
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.help, (path, option.name)


def test_help_and_listing_load_little() -> None:
    """`reedbed --help` is what a newcomer types first: neither the SDK nor the daemons, nor rich, are loaded for it."""
    code = "import sys; from reedbed.cli.main import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"grpc", "rich", "lmdb", "google.protobuf", "uvloop", "cffi", "reedbed.client.store", "reedbed.catalog"}
    assert not heavy & set(done.stderr.split())
