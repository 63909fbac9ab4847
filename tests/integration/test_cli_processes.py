"""`reedbed up` and `down`, and commands as processes: signals, pipes, terminals, clusters that are not there."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from reedbed_cluster.commands import REEDBED, environment, reedbed, until

from reedbed import NotFound, Store, connect

pytestmark = pytest.mark.cluster

LARGE = 400 * 1024 * 1024


class Up:
    """A detached cluster on a folder, and what `up --json` printed."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        done = reedbed("up", "--dir", folder, "--port", "0", "--detach", "--json", *options)
        assert done.code == 0, done.err
        self.state: dict[str, Any] = done.json

    @property
    def endpoint(self) -> str:
        return str(self.state["endpoint"])

    @property
    def pids(self) -> list[int]:
        """Of all daemons."""
        return [self.state["catalogd"]["pid"], *(device["pid"] for device in self.state["devices"])]

    @property
    def supervisor(self) -> int:
        return int(json.loads((self.folder / "up.json").read_text())["supervisor"])

    def connect(self) -> Store:
        return connect(self.endpoint, timeout=20)


@contextmanager
def up(folder: Path, *options: str) -> Iterator[Up]:
    cluster = Up(folder, *options)
    try:
        yield cluster
    finally:
        reedbed("down", "--dir", folder)


def ended(pids: Sequence[int]) -> bool:
    """Whether none of these processes runs any more."""
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("cli") / "cluster", "--profile", "rs-2-1", "--devices", "3") as cluster:
        with cluster.connect() as store:
            store.create_bucket("data")
            store.put("data", "many", os.urandom(40_000_000))
        yield cluster


@contextmanager
def started(cluster: Up, *arguments: str | Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command that may be interrupted; killed if the test forgets it."""
    process = subprocess.Popen(
        [*REEDBED, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(cluster.endpoint),
        start_new_session=True,
        **options,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def interrupted(process: subprocess.Popen[bytes], number: int = signal.SIGINT) -> None:
    """Ctrl-C or another signal, and how a command must end then."""
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number, err
    assert err.decode().strip() == ("reedbed: interrupted" if number == signal.SIGINT else "")


# --- up and down ---


def test_a_cluster_stopped_and_started_serves_the_same_data(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cluster"
    with up(folder, "--devices", "3", "--profile", "rs-2-1") as first:
        assert [Path(device["dir"]).parent for device in first.state["devices"]] == [folder] * 3
        assert {device["id"] for device in first.state["devices"]} == {1, 2, 3}
        with first.connect() as store:
            store.create_bucket("data")
            store.put("data", "k", b"kept")
        again = reedbed("up", "--dir", folder, "--port", "0")
        assert (again.code, "AlreadyExists" in again.err, "reedbed down" in again.err) == (5, True, True)
        down = reedbed("down", "--dir", folder, "--json")
        assert (down.code, down.json) == (0, {"stopped": first.endpoint})
        assert ended(first.pids)
    assert reedbed("down", "--dir", folder).code == 4
    fewer = reedbed("up", "--dir", folder, "--devices", "2", "--profile", "rs-1-1")
    assert (fewer.code, "3 devices" in fewer.err) == (2, True)
    with up(folder, "--devices", "4") as second, second.connect() as store:
        assert store.get("data", "k") == b"kept"
        assert len(second.state["devices"]) == 4
        assert store.status()["keeping"]["idle"] == [], "the new device takes no share"
        assert "new devices 4 take their share" in (folder / "up.log").read_text()
        assert store.status()["default_profile"] == "rs-2-1"
    other = reedbed("up", "--dir", folder, "--port", "0", "--profile", "rs-1-1")
    assert (other.code, "rs-2-1, not rs-1-1" in other.err) == (2, True), other.err


def test_in_the_foreground_until_ctrl_c_or_a_signal(tmp_path: Path) -> None:
    command = [*REEDBED, "up", "--dir", str(tmp_path), "--port", "0", "--devices", "2", "--profile", "rs-1-1", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        state = json.loads(process.stdout.readline())
        assert reedbed("status", endpoint=state["endpoint"]).lines[0].startswith("healthy")
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, b"")
        assert ended([state["catalogd"]["pid"], *(device["pid"] for device in state["devices"])])
    finally:
        process.kill()
        process.wait()


def test_daemons_end_with_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    options = ("--devices", "2", "--profile", "rs-1-1")
    with up(tmp_path, *options) as cluster:
        os.kill(cluster.supervisor, signal.SIGKILL)
        # started at once, while the old daemons may still be ending
        with up(tmp_path, *options) as next_one:
            assert ended(cluster.pids)
            assert not set(cluster.pids) & set(next_one.pids)


def test_a_daemon_that_dies_is_told_and_does_not_end_the_others(tmp_path: Path) -> None:
    with up(tmp_path, "--devices", "2", "--profile", "rs-1-1") as cluster:
        data = os.urandom(3_000_000)
        ends = {"endpoint": cluster.endpoint}
        assert reedbed("mb", "data", **ends).code == 0
        assert reedbed("cp", "-", "reedbed://data/k", stdin=data, **ends).code == 0
        os.kill(cluster.state["devices"][0]["pid"], signal.SIGKILL)
        assert reedbed("cat", "reedbed://data/k", **ends).out == data
        os.kill(cluster.state["devices"][1]["pid"], signal.SIGKILL)
        lost = reedbed("cp", "reedbed://data/k", tmp_path.parent / "never", "--timeout", "3", **ends)
        assert (lost.code in (7, 8), lost.err.count("\n")) == (True, 1), lost.err
        assert not (tmp_path.parent / "never").exists()
        log = tmp_path / "up.log"
        until(lambda: log.read_text().count("SIGKILL") == 2)
        assert "Start it again with: reedbed storaged --dir" in log.read_text()
        assert reedbed("ls", "reedbed://data", **ends).lines[0].endswith(" k")
        os.kill(cluster.state["catalogd"]["pid"], signal.SIGKILL)
        until(lambda: log.read_text().count("SIGKILL") == 3)
        # what is said there works as it stands, and `down` ends also what was started by hand
        commands = [line.partition("Start it again with: ")[2] for line in log.read_text().splitlines()]
        again = [subprocess.Popen([*REEDBED, *shlex.split(command)[1:]]) for command in commands if command]
        try:
            assert len(again) == 3
            until(lambda: reedbed("cat", "reedbed://data/k", "--timeout", "5", **ends).out == data, 40)
            assert reedbed("down", "--dir", tmp_path).code == 0
            assert [process.wait(20) for process in again] == [0, 0, 0]
        finally:
            for process in again:
                process.kill()
                process.wait()


def test_what_keeps_a_cluster_from_starting_is_named(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    for more in ((), ("--detach",)):
        done = reedbed("up", "--dir", foreign, "--port", "0", *more)
        assert (done.code, done.err.startswith("reedbed: InvalidArgument")) == (2, True)
    assert os.listdir(foreign) == ["thesis.tex"]
    busy = tmp_path / "busy"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        for more in ((), ("--detach",)):
            done = reedbed("up", "--dir", busy, "--port", port, *more)
            assert done.code not in (0, 1), done.err
            assert port in done.err
        assert not (busy / "catalog").exists()
    away = reedbed("catalogd", "--dir", busy / "catalog", "--host", "192.0.2.1", "--port", "0")
    assert (away.code, "no address of this machine" in away.err) == (2, True), away.err
    assert not (busy / "catalog").exists()
    few = reedbed("up", "--dir", tmp_path / "few", "--devices", "3")
    assert (few.code, "rs-4-2 needs 6 devices" in few.err) == (2, True)


def test_a_folder_of_another_cluster_or_a_newer_format(tmp_path: Path) -> None:
    options = ("--devices", "1", "--profile", "rs-1-1")
    small = tmp_path / "small"
    assert reedbed("up", "--dir", small, "--port", "0", *options).code == 2, "rs-1-1 needs two devices"
    options = ("--devices", "2", "--profile", "rs-1-1")
    for name in ("one", "other"):
        with up(tmp_path / name, *options):
            pass
    shutil.rmtree(tmp_path / "one" / "device-1")
    shutil.move(tmp_path / "other" / "device-1", tmp_path / "one" / "device-1")
    for more in ((), ("--detach",)):
        done = reedbed("up", "--dir", tmp_path / "one", "--port", "0", *more)
        assert (done.code, done.err.startswith("reedbed: WrongCluster: ")) == (2, True), done.err
        assert done.err.count("\n") == 1
    identity = tmp_path / "one" / "device-1" / "device.json"
    identity.write_text(identity.read_text().replace('"format": 1', '"format": 99'))
    done = reedbed("up", "--dir", tmp_path / "one", "--port", "0")
    assert (done.code, done.err.startswith("reedbed: NewerFormat: ")) == (2, True), done.err


# --- clusters that are not there ---


@contextmanager
def stranger(answer: bytes) -> Iterator[str]:
    """Something else on a port: answers so to whoever comes, until the context ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_catalogd_that_is_down(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
    (tmp_path / "file").write_bytes(b"x")
    for arguments in (
        ["ls"],
        ["status"],
        ["rm", "reedbed://data/k"],
        ["cp", str(tmp_path / "file"), "reedbed://data/k"],
    ):
        done = reedbed(*arguments, "--timeout", "1", endpoint=endpoint)
        assert done.code in (7, 8), done.err
        assert endpoint in done.err
        assert not done.out
    as_json = reedbed("ls", "--json", "--timeout", "1", endpoint=endpoint)
    assert json.loads(as_json.err)["error"]["retryable"] is True


def test_another_protocol_on_that_port() -> None:
    with stranger(b"HTTP/1.1 400 Bad Request\r\n\r\n") as endpoint:
        done = reedbed("ls", "--timeout", "3", endpoint=endpoint)
    assert done.code in (2, 7, 8), done.err
    assert done.err.count("\n") == 1


# --- signals, pipes, terminals ---


def test_ctrl_c_while_a_file_goes_up(shared: Up, tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as sparse:
        sparse.truncate(LARGE)
    before = shared_bytes(shared)
    with started(shared, "cp", file, "reedbed://data/up") as process:
        until(lambda: shared_bytes(shared) > before + 8_000_000)
        interrupted(process)
    with shared.connect() as store, pytest.raises(NotFound):
        store.stat("data", "up")


def shared_bytes(cluster: Up) -> int:
    """Bytes that the devices' segments hold."""
    files = (path for device in cluster.state["devices"] for path in Path(device["dir"]).rglob("*"))
    return sum(path.stat().st_blocks * 512 for path in files if path.is_file())


def test_ctrl_c_while_standard_input_still_comes(shared: Up) -> None:
    with started(shared, "cp", "-", "reedbed://data/stdin", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        before = shared_bytes(shared)
        for _ in range(64):
            process.stdin.write(bytes(1 << 20))
        process.stdin.flush()
        until(lambda: shared_bytes(shared) > before)
        interrupted(process)
    with shared.connect() as store, pytest.raises(NotFound):
        store.stat("data", "stdin")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_tree_comes_down(shared: Up, tmp_path: Path, number: int) -> None:
    with shared.connect() as store:
        for copy in range(12):
            store.copy("data", "many", "data", f"tree/{copy}")
    out = tmp_path / "out"
    with started(shared, "cp", "-r", "reedbed://data/tree", out) as process:
        until(lambda: out.is_dir() and any(name.startswith(".reedbed-") for name in os.listdir(out)))
        interrupted(process, number)
    whole = [name for name in os.listdir(out) if (out / name).stat().st_size == 40_000_000]
    assert sorted(os.listdir(out)) == sorted(whole), "a file is there whole or not at all"
    assert len(whole) < 12


def test_ctrl_c_while_nobody_reads_standard_output(shared: Up) -> None:
    with started(shared, "cat", "reedbed://data/many") as process:
        assert process.stdout is not None
        process.stdout.read(1)
        interrupted(process)


def test_a_reader_that_leaves_ends_a_command_quietly(shared: Up, tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"name-of-a-file-that-is-quite-long-{number:04}").touch()
    for arguments in (
        ["cat", "reedbed://data/many"],
        ["cp", "-r", str(tmp_path), "reedbed://data/x", "--dryrun"],
    ):
        with started(shared, *arguments) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert len(process.stdout.read(10)) == 10
            process.stdout.close()
            err = process.stderr.read()
            assert (process.wait(20), err) == (141, b"")


def test_a_reader_that_pauses_delays_and_fails_nothing(shared: Up, tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{number:04}-{'long' * 40}").touch()
    url = "reedbed://data/paused"
    with started(shared, "cp", "-r", tmp_path, url, "--timeout", "2") as process:
        assert process.stdout is not None
        process.stdout.read(1)
        paused = time.monotonic() + 4  # for longer than the timeout nobody reads, and its pipe is full
        until(lambda: time.monotonic() > paused)
        assert process.stdout.read().count(b"\n") == 2000
        assert process.wait(20) == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed(shared: Up, tmp_path: Path, closed: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    reedbed_ = shlex.join(REEDBED)
    for command in ("--version", f"cp {tmp_path}/file reedbed://data/closed", "ls reedbed://data/closed"):
        script = f"{reedbed_} {command} {closed}"
        done = subprocess.run(["sh", "-c", script], env=environment(shared.endpoint), capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b""), command


def test_content_on_a_terminal_is_not_torn_by_a_bar(shared: Up) -> None:
    with shared.connect() as store:
        store.put("data", "line", b"content without an end of line")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*REEDBED, "cp", "reedbed://data/line", "-"], stdout=theirs, stderr=theirs, env=environment(shared.endpoint)
    )
    os.close(theirs)
    assert drain(ours) == "content without an end of line"
    assert process.wait(20) == 0


def test_ctrl_c_while_a_source_of_the_sdk_blocks(shared: Up) -> None:
    # not sys.stdin.buffer: CPython aborts when it ends while a thread reads that
    script = """
import io, sys, reedbed

class Source(io.FileIO):
    def readinto(self, buffer):
        print("reads", flush=True)
        return super().readinto(buffer)

with reedbed.connect(sys.argv[1]) as store:
    store.put("data", "x", Source(0))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, shared.endpoint],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 20)[0]
        assert process.stdout.readline() == b"reads\n"
        process.stdin.write(b"x" * 100)
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT
    finally:
        process.kill()
        process.communicate()


def test_progress_is_shown_on_a_terminal_only(shared: Up, tmp_path: Path) -> None:
    quiet = reedbed("cp", "reedbed://data/many", tmp_path / "a", endpoint=shared.endpoint)
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.lines == [f"download: reedbed://data/many to {tmp_path}/a"]
    ours, theirs = pty.openpty()
    size = {"COLUMNS": "120", "LINES": "40", "TERM": "xterm"}
    command = [*REEDBED, "cp", "reedbed://data/many", str(tmp_path / "b")]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment(shared.endpoint) | size)
    os.close(theirs)
    shown = drain(ours)
    assert process.wait(20) == 0
    assert "\x1b[" in shown
    assert "40.0/40.0 MB" in shown or "38.1/38.1 MiB" in shown
    assert "1/1 files" in shown
    assert f"download: reedbed://data/many to {tmp_path}/b" in shown


def drain(descriptor: int) -> str:
    """All that comes out of a pseudo-terminal until its other side is closed."""
    parts = []
    while select.select([descriptor], [], [], 20)[0]:
        try:
            part = os.read(descriptor, 65536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    os.close(descriptor)
    return b"".join(parts).decode("utf-8", "replace")


def test_watching_the_status_ends_with_ctrl_c(shared: Up) -> None:
    with started(shared, "status", "--watch", "--json") as process:
        assert process.stdout is not None
        for _ in range(2):
            assert json.loads(process.stdout.readline())["health"] == "healthy"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, b"")
