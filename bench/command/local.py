"""A whole local cluster for a benchmark: started by `reedbed up`, its daemons killed and started again by their ids."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from reedbed.common.errors import Unavailable
from reedbed.common.limits import GIB, KIB, MIB

REEDBED: Final = [sys.executable, "-m", "reedbed.cli"]
STOP_S: Final = 60.0


@contextmanager
def cluster(folder: Path, *, devices: int = 6, profile: str = "rs-4-2") -> Iterator[dict[str, Any]]:
    """What `reedbed up --json` tells of a cluster that runs while in the context. Unavailable if it does not start."""
    command = [*REEDBED, "up", "--dir", str(folder), "--devices", str(devices), "--profile", profile]
    log = folder.with_name(folder.name + ".log")
    with log.open("wb") as words:
        # a session of its own: Ctrl-C is for us, who end it in order
        process = subprocess.Popen(
            [*command, "--port", "0", "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            process.wait()
            said = (log.read_text("utf-8", "replace").strip().splitlines() or [""])[-1]
            raise Unavailable(f"the cluster did not start: {said}", where=str(folder), retryable=False)
        yield json.loads(line)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()  # its daemons end with it
            process.wait()


@contextmanager
def restarted(devices: list[dict[str, Any]], endpoint: str) -> Iterator[None]:
    """Storaged processes for devices that were killed, while in the context."""
    processes = []
    try:
        for device in devices:
            command = [*REEDBED, "storaged", "--dir", device["dir"], "--catalog", endpoint, "--log-level", "error"]
            processes.append(subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE))
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()


def kill(pid: int) -> None:
    """SIGKILL to one process."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_for_states(endpoint: str, state: str, count: int, seconds: float = 60.0) -> None:
    """Until the cluster says that so many devices are in that state. Unavailable after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        done = subprocess.run(
            [*REEDBED, "status", "--endpoint", endpoint, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode == 0:
            states = [device["state"] for device in json.loads(done.stdout)["devices"]]
            if states.count(state) == count:
                return
        if time.monotonic() > deadline:
            raise Unavailable(f"after {seconds:g} s there are not {count} devices {state}", where=endpoint)
        time.sleep(0.2)


def disk_bytes(folders: Iterable[Path]) -> int:
    """Bytes that files below the folders take on disk, without the reserves that devices keep."""
    total = 0
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                if path.is_file() and path.name != "reserve":
                    total += path.stat().st_blocks * 512
            except FileNotFoundError:
                continue  # gone meanwhile
    return total


def size_of(text: str) -> int:
    """Bytes that a size such as 256MiB means, for argparse."""
    match = re.fullmatch(r"([0-9]+)\s*(KiB|MiB|GiB|)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"not a size: {text!r}; write such as 256MiB")
    return int(match[1]) * {"": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}[match[2]]
