"""A cluster of real processes for tests: each daemon can be killed, stopped and started again by itself.

Ports are the system's choice, everything is on loopback, and every process that was started is ended by its id when the
context ends, also when the test failed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY_S = 30.0
STOP_S = 20.0
REEDBED = [sys.executable, "-m", "reedbed.cli"]


class Daemon:
    """One catalogd or storaged; `ready` is what it printed once it served."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self._arguments = list(arguments)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Starts it; with `wait`, returns once it serves."""
        assert not self.running, f"{self.name} runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                # it ends with the pipe, so that none outlives a test run that is itself killed
                [*REEDBED, *self._arguments, "--json", "--stop-with-stdin"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Returns once it serves; AssertionError with its log otherwise."""
        assert self._process is not None
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], READY_S)
        line = self._process.stdout.readline() if readable else b""
        assert line, f"{self.name} did not start:\n{self.log()}"
        self.ready = json.loads(line)

    def log(self) -> str:
        """What it said so far."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def signal(self, number: int) -> None:
        if self.running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and waits for its end."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def wait_end(self) -> int:
        """Waits until it has ended by itself; its exit code. AssertionError if it does not."""
        assert self._process is not None
        try:
            return self._process.wait(READY_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end:\n{self.log()}") from None

    def stop(self) -> int:
        """SIGTERM, and waits for its end; SIGKILL if that takes too long. Returns the exit code."""
        if self._process is None:
            return 0
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.returncode
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return code


class LocalCluster:
    """catalogd and storaged processes in a folder."""

    def __init__(
        self,
        folder: Path,
        devices: int = 6,
        *,
        profile: str = "rs-4-2",
        catalog_options: Sequence[str] = (),
        storage_options: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.catalog_folder = folder / "catalog"
        self._storage_options = list(storage_options)
        self._port = 0
        self._profile = profile
        self._catalog_options = list(catalog_options)
        self.catalogd = self._catalog_daemon()
        self.storaged: list[Daemon] = []
        self._count = devices

    def _catalog_daemon(self) -> Daemon:
        arguments = ["catalogd", "--dir", str(self.catalog_folder), "--port", str(self._port)]
        arguments += ["--default-profile", self._profile, *self._catalog_options]
        return Daemon("catalogd", arguments, self.folder / "catalogd.log")

    @property
    def endpoint(self) -> str:
        return str(self.catalogd.ready["endpoint"])

    @property
    def daemons(self) -> list[Daemon]:
        return [self.catalogd, *self.storaged]

    def device_folder(self, place: int) -> Path:
        return self.folder / f"device-{place}"

    def storage_daemon(self, place: int, options: Sequence[str] = ()) -> Daemon:
        """A storaged for the folder of this place, not started yet."""
        arguments = ["storaged", "--dir", str(self.device_folder(place)), "--catalog", self.endpoint]
        return Daemon(
            f"storaged-{place}", [*arguments, *self._storage_options, *options], self.folder / f"storaged-{place}.log"
        )

    def start(self) -> None:
        """Starts all daemons; returns when every device is registered."""
        self.start_catalog()
        self.storaged = [self.storage_daemon(place) for place in range(1, self._count + 1)]
        self.start_storage(self.storaged)

    def start_catalog(self) -> None:
        """Starts catalogd, on the port that it had before if it ran before, since clients know that one."""
        if self.catalogd.ready:
            self._port = int(self.endpoint.rpartition(":")[2])
            self.catalogd = self._catalog_daemon()
        self.catalogd.start()

    @staticmethod
    def start_storage(daemons: Sequence[Daemon]) -> None:
        """Starts storaged processes at the same time; returns when all serve."""
        for daemon in daemons:
            daemon.start(wait=False)
        for daemon in daemons:
            daemon.wait_ready()

    def kill_all(self) -> None:
        """SIGKILL to every daemon at once."""
        for daemon in self.daemons:
            daemon.signal(signal.SIGKILL)
        for daemon in self.daemons:
            daemon.kill()

    def restart(self) -> None:
        """Starts every daemon that does not run."""
        if not self.catalogd.running:
            self.start_catalog()
        self.start_storage([daemon for daemon in self.storaged if not daemon.running])

    def stop(self) -> None:
        """Ends everything."""
        for daemon in reversed(self.daemons):
            daemon.stop()

    def logs(self) -> str:
        """Everything that the daemons said."""
        return "\n".join(f"--- {daemon.name}\n{daemon.log()}" for daemon in self.daemons)

    def states(self) -> dict[int, str]:
        """Device states as `reedbed status` tells them, by number."""
        done = subprocess.run(
            [*REEDBED, "status", "--json", "--endpoint", self.endpoint], stdout=subprocess.PIPE, check=True
        )
        return {int(device["id"]): str(device["state"]) for device in json.loads(done.stdout)["devices"]}

    def wait_states(self, wanted: dict[int, str], seconds: float = 30.0) -> None:
        """Until these devices are in these states; AssertionError after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            states = self.states()
            if all(states.get(number) == state for number, state in wanted.items()):
                return
            assert time.monotonic() < deadline, f"{wanted} expected, the cluster says {states}"


@contextmanager
def local_cluster(folder: Path, devices: int = 6, **options: Any) -> Iterator[LocalCluster]:
    """A started cluster while in the context."""
    cluster = LocalCluster(folder, devices, **options)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
