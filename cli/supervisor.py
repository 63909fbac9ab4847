"""A whole local cluster as child processes of this one: catalogd, and one storaged per device.

Invariants: at most one cluster runs on a folder: supervisor and daemons all hold the lock of DIR/up.lock, which is
free again when the last of them has ended; DIR/up.json is there only while the cluster is ready, and names its
processes; children end when this process ends, however it ends, since each watches the pipe that is its standard input.

    DIR/catalog/      catalogd's folder
    DIR/device-N/     folder of the Nth device
    DIR/log/          what the daemons said
    DIR/up.log        what a detached supervisor said
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from reedbed.cli.growing import take_share
from reedbed.common.errors import (
    AlreadyExists,
    Corrupt,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ReedbedError,
    Unavailable,
    rebuild,
)

READY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0
CLAIM_TIMEOUT_S: Final = 5.0  # daemons of a supervisor that was killed may still be ending
POLL_S: Final = 0.05

_OURS: Final = {"catalog", "log", "up.lock", "up.json", "up.json.new", "up.log"}
_DEVICE: Final = "device-"


class DeviceState(msgspec.Struct):
    """One device as `up --json` prints it."""

    id: int
    dir: str
    pid: int


class CatalogState(msgspec.Struct):
    """The catalogd as `up --json` prints it."""

    pid: int


class ClusterState(msgspec.Struct):
    """What `up --json` prints, and DIR/up.json holds."""

    endpoint: str
    catalogd: CatalogState
    devices: list[DeviceState]
    supervisor: int


@dataclass
class Child:
    """A daemon that was started."""

    name: str
    command: list[str]
    process: asyncio.subprocess.Process
    log: Path
    log_start: int  # where this run's words begin
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name, with the devices that it serves by the numbers that `reedbed status` shows."""
        devices = ", ".join(str(device["id"]) for device in self.ready.get("devices", []))
        return f"{self.name} (device {devices})" if devices else self.name


def _lock(folder: Path) -> IO[bytes]:
    """Takes the folder's lock for as long as the file returned is open; AlreadyExists if others keep it."""
    file = (folder / "up.lock").open("ab")
    deadline = time.monotonic() + CLAIM_TIMEOUT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _supervised(folder) or time.monotonic() > deadline:
                file.close()
                raise already_running(folder) from None
            time.sleep(POLL_S)
        else:
            return file


def already_running(folder: Path) -> AlreadyExists:
    """The error for a folder whose cluster runs."""
    return AlreadyExists(f"a cluster is already running on {folder}", hint=f"Stop it with: reedbed down --dir {folder}")


def _locked(folder: Path) -> bool:
    # The lock tells whether a cluster runs, not the pids in up.json: they may be anybody's by now.
    try:
        with (folder / "up.lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False


def _read_state(folder: Path) -> ClusterState | None:
    """What up.json says, None if it is not there; Corrupt for one that nobody can have written."""
    try:
        return msgspec.json.decode((folder / "up.json").read_bytes(), type=ClusterState)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError:
        raise Corrupt(f"{folder / 'up.json'} is damaged", hint="Stop the `reedbed up` process by hand") from None


def _supervised(folder: Path) -> ClusterState | None:
    """The state of a cluster whose supervisor runs; one that was killed leaves up.json behind."""
    state = _read_state(folder)
    return state if state is not None and _runs(state.supervisor) else None


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    # a zombie has ended: only its parent has not looked yet
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def running_state(folder: Path) -> ClusterState:
    """The cluster that runs on this folder; NotFound if none does, Unavailable while it starts or stops."""
    if not _locked(folder):
        raise NotFound(f"no cluster is running on {folder}", hint=f"Start one with: reedbed up --dir {folder}")
    state = _supervised(folder)
    if state is None:
        raise Unavailable(f"the cluster on {folder} is still starting or stopping", hint="Try again")
    return state


def holders(folder: Path) -> dict[int, Path]:
    """Processes that serve a folder of the cluster, by pid: those of a supervisor, and those started by hand."""
    found = {}
    for lock in (folder / "catalog" / "serving.lock", *(device / "lock" for device in device_folders(folder))):
        try:
            with lock.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    pid = file.read(32).strip()
                    if pid.isdigit():
                        found[int(pid)] = lock.parent
        except FileNotFoundError:
            continue
    return found


def device_folders(folder: Path) -> list[Path]:
    """Folders of devices that are there, in order of their numbers."""
    found = [path for path in folder.glob(f"{_DEVICE}*") if path.name.removeprefix(_DEVICE).isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(_DEVICE)))


def check_folder(folder: Path) -> None:
    """InvalidArgument for a folder that holds something else than a local cluster; none at all is fine."""
    if not folder.is_dir():
        if folder.exists():
            raise InvalidArgument(f"{folder} is not a folder")
        return
    strange = sorted(p.name for p in folder.iterdir() if p.name not in _OURS and not p.name.startswith(_DEVICE))
    if strange:
        raise InvalidArgument(
            f"{folder} holds something that is not Reedbed's: {strange[0]!r}", hint="Choose an empty folder with --dir"
        )


def check_catalog(folder: Path) -> None:
    """NotFound where devices of a cluster are there and its catalog is gone: a new one would be another cluster's."""
    from reedbed.catalog.folder import IDENTITY as CATALOG_IDENTITY
    from reedbed.storaged.identity import NAME as DEVICE_IDENTITY

    if (folder / "catalog" / CATALOG_IDENTITY).exists():
        return
    served = [path for path in device_folders(folder) if (path / DEVICE_IDENTITY).exists()]
    if served:
        raise NotFound(
            f"the catalog is gone, and devices of its cluster are there: {len(served)}",
            where=str(folder / "catalog"),
            hint="Bring the folder back; or start each device (reedbed storaged --dir …), and make the catalog again "
            f"with: reedbed catalog rebuild --dir {folder / 'catalog'} --storage HOST:PORT",
        )


def error_in(words: str) -> ReedbedError | None:
    """The error that a process which was told --json printed as its last line, if that is what it is."""
    last = (words.strip().splitlines() or [""])[-1]
    try:
        fields = msgspec.json.decode(last, type=dict[str, dict[str, str | bool]])["error"]
        return rebuild(
            str(fields["code"]),
            str(fields["what"]),
            str(fields["where"]),
            str(fields["hint"]),
            bool(fields["retryable"]),
        )
    except (msgspec.DecodeError, KeyError):
        return None


class Supervisor:
    """Starts the daemons, tells when they are ready, and stops them."""

    def __init__(self, folder: Path, lock: IO[bytes], say: Callable[[str], None]) -> None:
        """The daemons inherit `lock`, so that it is kept until the last of them has ended."""
        self._folder = folder
        self._lock = lock
        self._say = say
        self._children: list[Child] = []

    async def _start(self, name: str, arguments: Sequence[str]) -> Child:
        command = [sys.executable, "-m", "reedbed.cli", *arguments]
        log_file = self._folder / "log" / f"{name}.log"
        log_file.parent.mkdir(exist_ok=True)
        with log_file.open("ab") as log:
            log_start = log.tell()
            process = await asyncio.create_subprocess_exec(
                *command,
                "--json",
                "--stop-with-stdin",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops them in order
                pass_fds=[self._lock.fileno()],
            )
        child = Child(name, ["reedbed", *arguments], process, log_file, log_start)
        self._children.append(child)
        return child

    async def _ready(self, child: Child) -> dict[str, Any]:
        assert child.process.stdout is not None
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                line = await child.process.stdout.readline()
        except TimeoutError:
            raise DeadlineExceeded(
                f"{child.name} was not ready within {READY_TIMEOUT_S:g} s", where=str(child.log)
            ) from None
        if not line:
            await child.process.wait()
            words = child.log.read_bytes()[child.log_start :].decode("utf-8", "replace")
            raise error_in(words) or Unavailable(
                f"{child.name} ended with {_ending(child.process.returncode)} before it was ready",
                where=str(child.log),
                retryable=False,
            )
        child.ready = msgspec.json.decode(line, type=dict[str, Any])
        return child.ready

    async def start(self, devices: int, profile: str | None, host: str, port: int) -> ClusterState:
        """Starts everything; returns when catalogd serves and every device is registered."""
        default = ["--default-profile", profile] if profile else []
        catalog_dir = self._folder / "catalog"
        catalogd = await self._start(
            "catalogd", ["catalogd", "--dir", str(catalog_dir), "--host", host, "--port", str(port), *default]
        )
        endpoint = str((await self._ready(catalogd))["endpoint"])
        chosen = catalogd.command.index("--port") + 1  # so that who starts it again does so where all others look
        catalogd.command[chosen] = endpoint.rpartition(":")[2]
        for number in range(1, devices + 1):
            await self._start(
                f"storaged-{number}",
                ["storaged", "--dir", str(self._folder / f"{_DEVICE}{number}"), "--catalog", endpoint, "--host", host],
            )
        storaged = self._children[1:]
        # several may fail for the same reason; the first says it
        await asyncio.gather(*(self._ready(child) for child in storaged))
        state = ClusterState(
            endpoint=endpoint,
            catalogd=CatalogState(catalogd.process.pid),
            devices=[
                DeviceState(child.ready["devices"][0]["id"], child.ready["devices"][0]["dir"], child.process.pid)
                for child in storaged
            ],
            supervisor=os.getpid(),
        )
        temporary = self._folder / "up.json.new"
        temporary.write_bytes(msgspec.json.encode(state))
        temporary.replace(self._folder / "up.json")
        return state

    async def watch(self, stop: asyncio.Event) -> None:
        """Waits for `stop`; says so when a daemon ends before, with the command that starts it again."""
        waiting = {asyncio.create_task(child.process.wait()): child for child in self._children}
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                done, _ = await asyncio.wait({*waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                for task in done & set(waiting):
                    child = waiting.pop(task)
                    how = _ending(child.process.returncode)
                    self._say(f"{child.label} ended with {how}. Start it again with: {shlex.join(child.command)}")
        finally:
            for task in (*waiting, stopping):
                task.cancel()

    async def stop(self) -> None:
        """Ends all daemons, storage first so that catalogd still hears them; kills what does not end in time."""
        (self._folder / "up.json").unlink(missing_ok=True)
        for group in (self._children[1:], self._children[:1]):
            for child in group:
                if child.process.returncode is None:
                    child.process.terminate()
            await asyncio.gather(*(self._end(child) for child in group))

    async def _end(self, child: Child) -> None:
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await child.process.wait()
        except TimeoutError:
            self._say(f"{child.name} did not stop within {STOP_TIMEOUT_S:g} s and is killed")
            child.process.kill()
            await child.process.wait()


def _ending(code: int | None) -> str:
    return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"


def _claim(folder: Path) -> IO[bytes]:
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    (folder / "up.json").unlink(missing_ok=True)  # of a supervisor that was killed
    return lock


async def run_cluster(
    folder: Path,
    *,
    devices: int,
    profile: str | None,
    host: str,
    port: int,
    ready: Callable[[ClusterState], None],
    say: Callable[[str], None],
) -> None:
    """Runs a local cluster until SIGINT or SIGTERM. Raises the error of the daemon that does not start.

    Devices that come to a cluster which was there before take their share.
    """
    with _claim(folder) as lock:
        before = {str(path) for path in device_folders(folder)}
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        supervisor = Supervisor(folder, lock, say)
        try:
            starting = asyncio.create_task(supervisor.start(devices, profile, host, port))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                return
            stopping.cancel()
            state = starting.result()
            new = [device.id for device in state.devices if device.dir not in before]
            if before and new:
                await take_share(state.endpoint, new, say)
            ready(state)
            await supervisor.watch(stop)
        finally:
            await supervisor.stop()
