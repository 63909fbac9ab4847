"""nginx as the yardstick: Debian's package, one plain copy by WebDAV, started and stopped here.

It runs from its own configuration in a folder of ours, never from /etc/nginx, and its files, temporary ones too, lie in
that folder, so that a PUT ends with a rename. It does not sync.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from reedbed.bench.measured import children_of
from reedbed.common.errors import ReedbedError, Unavailable

WORKER_PATH: Final = "/.worker"  # answers with the worker's number, for an even spread of connections
INSTALL: Final = "apt-get install -y --no-install-recommends nginx"

_READY_S: Final = 10.0
_POLL_S: Final = 0.02
_TRIES: Final = 5  # another process may take the port that we were given
_NO_PEER: Final = "nginx is not installed"

_CONFIGURATION: Final = """\
daemon off;
{user}worker_processes {workers};
pid nginx.pid;
error_log error.log error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    keepalive_requests 1000000000;
    keepalive_timeout 3600;
    client_max_body_size 0;
    client_body_timeout 600;
    client_body_temp_path tmp;
    fastcgi_temp_path tmp;
    proxy_temp_path tmp;
    scgi_temp_path tmp;
    uwsgi_temp_path tmp;
    server {{
        listen 127.0.0.1:{port} reuseport;
        root files;
        location = {worker_path} {{ add_header X-Worker $pid always; return 204; }}
        location / {{ dav_methods PUT DELETE; }}
    }}
}}
"""


def find_nginx() -> str | None:
    """The program, where a package puts it also for those whose path has no sbin."""
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def version_of(program: str) -> str:
    """Such as "nginx/1.22.1"."""
    done = subprocess.run([program, "-v"], capture_output=True, text=True, check=False)
    return done.stderr.strip().rpartition(" ")[2]


def configuration(port: int, workers: int, *, root: bool) -> str:
    """What nginx is told. Started by root, its workers stay root, since the folder is ours alone."""
    return _CONFIGURATION.format(
        port=port, workers=workers, user="user root;\n" if root else "", worker_path=WORKER_PATH
    )


def free_port() -> int:
    """A port of loopback that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Nginx:
    """A running nginx while in the context; Unavailable if there is none or it does not start."""

    def __init__(self, folder: Path, workers: int | None = None) -> None:
        program = find_nginx()
        if program is None:
            raise Unavailable(_NO_PEER, hint=f"Install it with: {INSTALL}", retryable=False)
        self.workers = workers or os.cpu_count() or 1
        self.folder = folder
        self.files = folder / "files"
        self.port = 0
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        for name in ("files", "tmp"):
            (self.folder / name).mkdir(parents=True)
        try:
            for last in (*[False] * (_TRIES - 1), True):
                if self._start(last):
                    break
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pids(self) -> list[int]:
        """Master and workers."""
        assert self._process is not None
        return [self._process.pid, *children_of(self._process.pid)]

    def _start(self, last: bool) -> bool:
        """One try, with a port of its own."""
        self.port = free_port()
        settings = self.folder / "nginx.conf"
        settings.write_text(configuration(self.port, self.workers, root=os.geteuid() == 0))
        errors = self.folder / "error.log"
        command = [self._program, "-p", str(self.folder), "-e", str(errors), "-c", str(settings)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + _READY_S
        while self._process.poll() is None and time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
            except OSError:
                time.sleep(_POLL_S)
            else:
                if len(self.pids) > self.workers:
                    return True
        if last:
            said = errors.read_text("utf-8", "replace").strip() if errors.exists() else ""
            raise Unavailable(f"nginx did not start: {said.splitlines()[-1] if said else 'it said nothing'}")
        self._stop()
        return False

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_READY_S)
        except subprocess.TimeoutExpired:
            for pid in self.pids:  # workers first would be started again
                os.kill(pid, signal.SIGKILL)
            process.wait()


class WrongAnswer(ReedbedError):
    """nginx answered something else than what was asked for."""

    code = "WrongAnswer"
