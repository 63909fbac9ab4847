"""The demo: a cluster of real processes stores real files, loses two devices and returns every byte.

    python bench/demo.py [--dir FOLDER] [--size 1GiB]

Starts catalogd and six storaged processes under rs-4-2 in a temporary folder, copies in the source of the Python
standard library and of the packages beside it, thousands of small files, and a file of random bytes, kills one
storaged, puts some more, kills a second, copies everything out, compares digests, starts the two again, and prints a
table. Whatever it started is stopped at its end, also when it fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reedbed
from reedbed.bench.local import REEDBED, cluster, disk_bytes, restarted, size_of, wait_for_states
from reedbed.bench.machine import medium
from reedbed.common.limits import GIB, MIB

DEVICES = 6
PROFILE = "rs-4-2"
MORE_FILES, MORE_SIZE = 200, 64 * MIB  # what is put while a device is dead


@dataclass
class Step:
    """One row of the table."""

    what: str
    objects: int
    bytes: int
    seconds: float
    decoded: int

    @property
    def rate(self) -> float:
        """MB/s of 10^6 bytes."""
        return self.bytes / self.seconds / 1e6


def say(text: str) -> None:
    print(f"· {text}", flush=True)


def run(*arguments: str) -> dict[str, Any]:
    """One `reedbed` command that must succeed; what it printed as JSON."""
    done = subprocess.run([*REEDBED, *arguments, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"reedbed {' '.join(arguments)} ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def copy(what: str, *arguments: str) -> Step:
    """One `reedbed cp`, timed as a user would see it."""
    start = time.perf_counter()
    report = run("cp", *arguments)
    seconds = time.perf_counter() - start
    step = Step(what, report["copied"], report["bytes"], seconds, report["reads"]["decoded"])
    say(f"{what}: {step.objects:,} objects, {step.bytes / 1e6:,.0f} MB in {seconds:.1f} s")
    return step


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every regular file below a folder, by its relative name; links are followed."""
    found = {}
    for where, _, names in os.walk(folder, followlinks=True):
        for path in (Path(where, name) for name in names):
            if path.is_file():
                found[str(path.relative_to(folder))] = digest(path)
    return found


def random_file(path: Path, size: int) -> None:
    with path.open("wb") as file:
        while size > 0:
            file.write(os.urandom(min(size, 8 * MIB)))
            size -= 8 * MIB


def compare(what: str, before: dict[str, str], after: dict[str, str]) -> None:
    if before != after:
        wrong = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        raise SystemExit(f"{what}: {len(wrong)} files differ, such as {sorted(wrong)[:3]}")
    say(f"{what}: all {len(before):,} digests are equal")


def kill(device: dict[str, Any]) -> None:
    os.kill(device["pid"], signal.SIGKILL)
    say(f"killed the storaged of device {device['id']} (SIGKILL)")


def demo(folder: Path, size: int) -> None:
    tree, only_sources = python_tree(folder)
    big, more, out = folder / "random.bin", folder / "more", folder / "out"
    say(f"folder: {folder}, {medium(folder)}")
    random_file(big, size)
    more.mkdir()
    for number in range(MORE_FILES):
        random_file(more / f"small-{number:03}", 1 + number * 97)
    random_file(more / "large", min(MORE_SIZE, size))
    with cluster(folder / "cluster", devices=DEVICES, profile=PROFILE) as state:
        at = ["--endpoint", state["endpoint"]]
        quiet = ["--quiet", "--no-progress", *at]
        devices = state["devices"]
        folders = [Path(device["dir"]) for device in devices]
        say(f"{len(devices)} storaged and a catalogd are up at {state['endpoint']}")
        run("mb", "reedbed://demo", *at)
        empty = disk_bytes(folders)
        steps = [
            copy("PUT tree, healthy", "-r", str(tree), "reedbed://demo/tree", *only_sources, *quiet),
            copy("PUT large file, healthy", str(big), "reedbed://demo/random.bin", *quiet),
        ]
        stored = disk_bytes(folders) - empty
        user_bytes = sum(step.bytes for step in steps)
        steps.append(copy("GET tree, healthy", "-r", "reedbed://demo/tree", str(out / "tree"), *quiet))
        steps.append(copy("GET large file, healthy", "reedbed://demo/random.bin", str(out / "random.bin"), *quiet))
        kill(devices[0])
        steps.append(copy("PUT more, 1 of 6 dead", "-r", str(more), "reedbed://demo/more", *quiet))
        kill(devices[1])
        again = out / "again"
        steps.append(copy("GET tree, 2 of 6 dead", "-r", "reedbed://demo/tree", str(again / "tree"), *quiet))
        steps.append(copy("GET large file, 2 dead", "reedbed://demo/random.bin", str(again / "random.bin"), *quiet))
        steps.append(copy("GET more, 2 of 6 dead", "-r", "reedbed://demo/more", str(again / "more"), *quiet))
        first = digests(out / "tree")
        compare("tree, read healthy", sources(tree), first)
        compare("tree, read with two dead", first, digests(again / "tree"))
        compare("put and read while dead", digests(more), digests(again / "more"))
        large = {"random.bin": digest(big)}
        compare("large file, read healthy", large, {"random.bin": digest(out / "random.bin")})
        compare("large file, read with two dead", large, {"random.bin": digest(again / "random.bin")})
        with restarted(devices[:2], state["endpoint"]):
            wait_for_states(state["endpoint"], "up", DEVICES)
            say("the two are started again; all six devices are up")
            print_table(folder, steps, user_bytes, stored)


def python_tree(folder: Path) -> tuple[Path, list[str]]:
    """A folder with links to what this Python has of source files, and the filters that take only those."""
    tree = folder / "tree"
    tree.mkdir()
    for name, path in (("stdlib", "stdlib"), ("packages", "purelib")):
        (tree / name).symlink_to(sysconfig.get_paths()[path])
    return tree, ["--exclude", "*", "--include", "*.py", "--exclude", "stdlib/*-packages/*"]


def sources(tree: Path) -> dict[str, str]:
    """Digests of what the filters of `python_tree` take."""
    return {
        name: value
        for name, value in digests(tree).items()
        if name.endswith(".py") and not re.match("stdlib/.*-packages/", name)
    }


def print_table(folder: Path, steps: list[Step], user_bytes: int, stored: int) -> None:
    print()
    print(f"{'':<26}{'objects':>9}{'MB':>10}{'seconds':>10}{'MB/s':>9}{'decoded reads':>15}")
    for step in steps:
        print(
            f"{step.what:<26}{step.objects:>9,}{step.bytes / 1e6:>10,.1f}{step.seconds:>10.2f}{step.rate:>9,.0f}"
            f"{step.decoded:>15,}"
        )
    print()
    print(f"medium         {medium(folder)}")
    print(f"objects        {steps[0].objects + steps[1].objects:,} with {user_bytes / 1e6:,.1f} MB")
    print(f"bytes on disk  {stored / 1e6:,.1f} MB, {stored / user_bytes:.3f} times ({PROFILE}: at least 1.5)")
    print("every byte came back with two of six devices dead")


def main() -> None:
    parser = argparse.ArgumentParser(description="Store real files, lose two devices, read every byte back.")
    parser.add_argument("--dir", type=Path, help="where to make the temporary folder [default: the system's]")
    parser.add_argument("--size", type=size_of, default=GIB, help="of the large file [default: 1GiB]")
    arguments = parser.parse_args()
    print(f"Reedbed {reedbed.__version__}")
    with tempfile.TemporaryDirectory(prefix="reedbed-demo-", dir=arguments.dir) as folder:
        demo(Path(folder), arguments.size)


if __name__ == "__main__":
    main()
