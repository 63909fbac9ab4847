"""The whole cluster on a virtual clock, seed by seed (docs/durability.md). A seed that fails is told with its trace and
the command that replays it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from reedbed_sim.planted import BUGS, Planted
from reedbed_sim.pool import command

ROOT = Path(__file__).parents[2]
PARTS = 8  # of the seeds, so that they spread over the cores
AT_LEAST = 13  # seeds of a part
SECONDS = 25.0  # that a part goes on for while there is time
STRIDE = 10_000
TRACE = 150  # lines of a trace that are shown

assert PARTS * AT_LEAST > 100


def simulate(*arguments: str) -> list[dict[str, Any]]:
    """What so many seeds came to, in a process of its own."""
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT / "tests" / "lib")}
    done = subprocess.run(
        [sys.executable, "-m", "reedbed_sim", "--json", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        check=False,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(results: list[dict[str, Any]]) -> None:
    for result in results:
        if result["problems"]:
            trace = "\n".join(result["trace"][-TRACE:])
            problems = "\n".join(result["problems"][:10])
            pytest.fail(f"{trace}\n\nseed {result['seed']}:\n{problems}\nAgain: {command(result)}", pytrace=False)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_that_was_acknowledged_is_lost(part: int) -> None:
    results = simulate(
        "--seed", str(part * STRIDE), "--count", str(STRIDE), "--at-least", str(AT_LEAST), "--seconds", str(SECONDS)
    )
    check(results)
    assert len(results) >= AT_LEAST


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [3, 40_001])
def test_a_seed_is_the_same_run_in_every_process(seed: int) -> None:
    first, second = (simulate("--seed", str(seed), "--trace")[0] for _ in range(2))
    assert first["trace"] == second["trace"]
    assert first["digest"] == second["digest"]
    assert simulate("--seed", str(seed + 1))[0]["digest"] != first["digest"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", list(BUGS))
def test_a_planted_bug_is_found(name: str) -> None:
    bug: Planted = BUGS[name]
    (*_, last) = simulate("--seed", str(bug.seed), "--count", str(bug.seeds), "--plant", name, "--stop")
    assert last.get("digest"), f"the bug was not planted: {last}"
    assert last["problems"], f"{bug.seeds} seeds from {bug.seed} do not find it"
