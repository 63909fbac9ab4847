"""The `reedbed` command as tests run it: in a process of its own, or within the test's, which is faster."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reedbed.cli.main import run

REEDBED = [sys.executable, "-m", "reedbed.cli"]


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()

    @property
    def json(self) -> Any:
        """The last line of standard output."""
        return json.loads(self.lines[-1])

    @property
    def jsons(self) -> list[Any]:
        """Every line of standard output."""
        return [json.loads(line) for line in self.lines]


def reedbed(*arguments: str | Path, endpoint: str = "", stdin: bytes = b"") -> Done:
    """One command in a process of its own."""
    done = subprocess.run(
        [*REEDBED, *map(str, arguments)], input=stdin, capture_output=True, env=environment(endpoint), check=False
    )
    return _checked(Done(done.returncode, done.stdout, done.stderr.decode()))


def environment(endpoint: str) -> dict[str, str]:
    """This process's, with the endpoint of a cluster."""
    rest = {name: value for name, value in os.environ.items() if name != "REEDBED_ENDPOINT"}
    return rest | ({"REEDBED_ENDPOINT": endpoint} if endpoint else {})


class Here:
    """Commands within this process, whose output goes through pytest."""

    def __init__(self, capture: pytest.CaptureFixture[bytes]) -> None:
        self._capture = capture

    def __call__(self, *arguments: str | Path) -> Done:
        self._capture.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = self._capture.readouterr()
        return _checked(Done(code, out, err.decode()))


def _checked(done: Done) -> Done:
    assert "Traceback" not in done.err, done.err
    assert "never retrieved" not in done.err, done.err
    return done


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Returns once the condition holds; AssertionError if it takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        select.select([], [], [], 0.01)
