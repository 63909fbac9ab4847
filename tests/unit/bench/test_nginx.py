"""nginx is started from our own configuration, and its absence has a name."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from reedbed.bench import nginx
from reedbed.bench.nginx import Nginx, configuration, find_nginx, free_port, version_of
from reedbed.common.errors import Unavailable


def program(folder: Path, text: str) -> Path:
    path = folder / "nginx"
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_configuration_stays_in_our_folder() -> None:
    text = configuration(1234, 2, root=True)
    assert "listen 127.0.0.1:1234 " in text
    assert "user root;" in text
    assert "user " not in configuration(1234, 2, root=False)
    assert text.count("{") == text.count("}")
    paths = [line.split()[1].rstrip(";") for line in text.splitlines() if "_path " in line or "root " in line.strip()]
    assert len(paths) >= 6
    assert not any(path.startswith("/") for path in paths)


def test_where_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nginx, "find_nginx", lambda: None)
    with pytest.raises(Unavailable, match=r"nginx is not installed.*apt-get install"):
        Nginx(tmp_path)


def test_it_is_found_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = program(tmp_path, "import sys; print('nginx version: nginx/9.9', file=sys.stderr)")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_nginx() == str(path)
    assert version_of(str(path)) == "nginx/9.9"


def test_one_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = program(
        tmp_path, "import sys; open(sys.argv[sys.argv.index('-e') + 1], 'w').write('first\\n[emerg] no way')"
    )
    monkeypatch.setattr(nginx, "find_nginx", lambda: str(path))
    with pytest.raises(Unavailable, match=r"nginx did not start: \[emerg\] no way"), Nginx(tmp_path / "server"):
        pass


def test_it_is_stopped_with_its_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (
        "import re, signal, socket, subprocess, sys\n"
        "port = int(re.search(r'listen [0-9.]+:([0-9]+)', open(sys.argv[-1]).read())[1])\n"
        "server = socket.create_server(('127.0.0.1', port))\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "signal.sigwait([signal.SIGTERM])\n"
        "child.communicate(b'\\n')\n"
    )
    text = text.replace("server =", "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\nserver =")
    path = program(tmp_path, text)
    monkeypatch.setattr(nginx, "find_nginx", lambda: str(path))
    with Nginx(tmp_path / "server", workers=1) as server:
        pids = server.pids
        assert len(pids) == 2
        assert (tmp_path / "server" / "files").is_dir()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_a_port_that_is_free() -> None:
    assert 1024 < free_port() < 65536
