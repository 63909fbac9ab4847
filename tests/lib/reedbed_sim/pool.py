"""Seeds in children of their own: forked, so that what is imported is imported once, and whatever a seed leaves ends
with its process."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from reedbed_sim.actions import ACTIONS
from reedbed_sim.planted import BUGS, planted
from reedbed_sim.scenario import run_seed

CPU_MAX_S: Final = 60.0


def run_seeds(
    first: int,
    count: int,
    at_once: int = 1,
    plant: str = "",
    only: Sequence[str] = (),
    seconds: float = 0.0,
    at_least: int = 0,
) -> Iterator[dict[str, Any]]:
    """The results of up to `count` seeds, as they end. With `seconds` none is begun after that time, but the first
    `at_least`."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        raise SystemExit("run it with PYTHONHASHSEED=0: sets of text iterate in another order in every process else")
    only = only or (BUGS[plant].only if plant else ())
    began = time.monotonic()
    seed = first
    running: dict[int, tuple[int, int, list[bytes]]] = {}
    while True:
        while len(running) < at_once and seed < first + count:
            if seconds and seed >= first + at_least and time.monotonic() - began > seconds:
                break
            pid, pipe = _fork(seed, plant, only)
            running[pipe] = (seed, pid, [])
            seed += 1
        if not running:
            return
        for pipe in select.select(list(running), [], [])[0]:
            piece = os.read(pipe, 1 << 20)
            number, pid, pieces = running[pipe]
            if piece:
                pieces.append(piece)
                continue
            os.close(pipe)
            del running[pipe]
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if status:
                yield {
                    "seed": number,
                    "problems": [f"the simulation ended with code {status}"],
                    "trace": [],
                    "counts": {},
                }
            else:
                yield json.loads(b"".join(pieces))


def _fork(seed: int, plant: str, only: Sequence[str]) -> tuple[int, int]:
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 1
    try:
        os.close(reading)
        logging.getLogger("reedbed").setLevel(os.environ.get("REEDBED_SIM_LOG", "CRITICAL"))
        used = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, CPU_MAX_S)  # a seed that does not end fails
        with planted(plant):
            chosen = [one for one in ACTIONS if not only or one.name in only]
            result = asdict(run_seed(seed, chosen))
        result["cpu_s"] = round(time.process_time() - used, 3)
        result["plant"] = plant
        result["only"] = list(only)
        with os.fdopen(writing, "wb") as out:
            out.write(json.dumps(result).encode())
        code = 0
    except BrokenPipeError:
        pass  # whoever asked has seen enough
    except BaseException:  # noqa: BLE001 - a child must not go on as its parent
        traceback.print_exc()
    finally:
        os._exit(code)


def command(result: dict[str, Any]) -> str:
    """What replays a seed."""
    plant = f" --plant '{result['plant']}'" if result.get("plant") else ""
    if result.get("only"):
        plant += f" --only {','.join(result['only'])}"
    return f"PYTHONHASHSEED=0 PYTHONPATH=tests/lib .venv/bin/python -m reedbed_sim --seed {result['seed']}{plant}"


def show(result: dict[str, Any], *, trace: bool, as_json: bool = False) -> None:
    """Prints it."""
    if as_json:
        if not trace:
            result = {**result, "trace": []}
        sys.stdout.write(json.dumps(result) + "\n")
        return
    told = [*result["trace"]] if trace else []
    told.append(
        f"seed {result['seed']}: {'FAILED' if result['problems'] else 'holds'}, {result.get('virtual_s', 0):.0f} s in "
        f"{result.get('cpu_s', 0)} s, digest {result.get('digest', '')}, {result['counts']}"
    )
    told += [f"  {problem}" for problem in result["problems"][:12]]
    if result["problems"]:
        told.append(f"  again: {command(result)}")
    sys.stdout.write("\n".join(told) + "\n")
    sys.stdout.flush()
