"""Runs seeds, each in a child of its own: `python -m reedbed_sim --seed 17` replays one with its trace."""

from __future__ import annotations

import argparse
import sys

from reedbed_sim.pool import run_seeds, show


def main() -> int:
    parser = argparse.ArgumentParser(prog="reedbed_sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="print the trace of seeds that hold, too")
    parser.add_argument("--plant", default="", help="switch on a planted bug, by name")
    parser.add_argument("--only", default="", help="actions that may happen, by name, with commas; all without")
    parser.add_argument("--seconds", type=float, default=0.0, help="begin no further seed after so many")
    parser.add_argument("--at-least", type=int, default=0, help="but so many are begun")
    parser.add_argument("--stop", action="store_true", help="after the first seed that fails")
    parser.add_argument("--json", action="store_true", help="one JSON object for each seed")
    given = parser.parse_args()
    failed = 0
    only = tuple(filter(None, given.only.split(",")))
    results = run_seeds(given.seed, given.count, given.at_once, given.plant, only, given.seconds, given.at_least)
    for result in results:
        bad = bool(result["problems"])
        failed += bad
        show(result, trace=given.trace or (bad and (given.json or given.count == 1)), as_json=given.json)
        if bad and given.stop:
            break
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
