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
    parser.add_argument("--json", action="store_true", help="one JSON object for each seed")
    given = parser.parse_args()
    failed = 0
    for result in run_seeds(given.seed, given.count, given.at_once, given.plant):
        failed += bool(result["problems"])
        show(result, trace=given.trace or (given.count == 1 and bool(result["problems"])), as_json=given.json)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
