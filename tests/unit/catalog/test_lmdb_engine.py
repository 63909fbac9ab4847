"""What only the embedded engine has: a folder, a lock, a disk that fills and fails, a process that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.common.checksums import crc32c, format_checksum
from reedbed.common.errors import (
    AlreadyExists,
    Corrupt,
    DiskFull,
    ForkedStore,
    InvalidArgument,
    NewerFormat,
    NotFound,
    ReedbedError,
    Unavailable,
    WrongCluster,
)
from reedbed.common.ids import Id
from reedbed.common.limits import MIB

CLUSTER = Id(b"the test cluster")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a" / "catalog"


def fill(path: Path, count: int = 200) -> None:
    engine = LmdbEngine(path, cluster=CLUSTER)
    with engine.write() as w:
        for number in range(count):
            w.put(b"key%06d" % number + b"x" * (number % 3 * 300), bytes(100))
    engine.close()


def tree(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def test_a_folder_knows_its_cluster(path: Path) -> None:
    fill(path)
    before = tree(path)
    with pytest.raises(WrongCluster):
        LmdbEngine(path, cluster=Id(b"another cluster!"))
    assert {**tree(path), "serving.lock": b""} == {**before, "serving.lock": b""}
    engine = LmdbEngine(path)
    assert engine.cluster == CLUSTER
    engine.close()


def test_nothing_is_made_without_a_cluster(path: Path) -> None:
    with pytest.raises(NotFound):
        LmdbEngine(path)
    assert not path.exists()


def test_foreign_folders_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for content in ("thesis.txt", "data.mdb"):
        folder = tmp_path / content.partition(".")[0]
        folder.mkdir()
        (folder / content).write_text("mine")
        with pytest.raises(InvalidArgument, match="not a catalog"):
            LmdbEngine(folder, cluster=CLUSTER)
        assert tree(folder) == {content: b"mine"}
    with pytest.raises(InvalidArgument, match="is a file"):
        LmdbEngine(tmp_path / "thesis.txt", cluster=CLUSTER)


def rewrite_identity(path: Path, **changes: object) -> None:
    body = json.loads((path / "identity.json").read_text())
    del body["sum"]
    body.update(changes)
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    (path / "identity.json").write_text(json.dumps({**body, "sum": format_checksum(crc32c(text))}))


def test_a_newer_folder_is_refused(path: Path) -> None:
    fill(path)
    rewrite_identity(path, format=2)
    with pytest.raises(NewerFormat):
        LmdbEngine(path, cluster=CLUSTER)


@pytest.mark.parametrize("left", [None, b"", b"torn"])
def test_making_a_folder_starts_again_after_a_crash(path: Path, left: bytes | None) -> None:
    fill(path, 0)
    rewrite_identity(path, state="creating")
    (path / "data.mdb").unlink()
    if left is not None:
        (path / "data.mdb").write_bytes(left)
    fill(path)
    rewrite_identity(path, state="ready")
    (path / "data.mdb").unlink()
    with pytest.raises(Corrupt, match="missing"):
        LmdbEngine(path, cluster=CLUSTER)


def altered(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: (path / name).write_bytes(change((path / name).read_bytes())) and None


@pytest.mark.parametrize(
    "damage",
    [
        altered("identity.json", lambda data: b"garbage"),
        altered("identity.json", lambda data: data.replace(b"74", b"75", 1)),
        altered("identity.json", lambda data: b"[]"),
        altered("data.mdb", lambda data: b""),
        altered("data.mdb", lambda data: os.urandom(len(data))),
        altered("data.mdb", lambda data: data[: len(data) // 2]),
        altered("data.mdb", lambda data: data[:9000]),
        altered("data.mdb", lambda data: data[:8192] + b"\xff" * (len(data) - 8192)),
        altered("data.mdb", lambda data: data[:8192] + bytes(len(data) - 8192)),
        altered("data.mdb", lambda data: data.replace(b"key000007", b"key000008")),
    ],
)
@pytest.mark.parametrize("closed_in_order", [True, False])
def test_garbage_on_disk_is_named(path: Path, damage: Callable[[Path], None], closed_in_order: bool) -> None:
    fill(path)
    if not closed_in_order:
        (path / "clean.txt").unlink()
    damage(path)
    with pytest.raises(Corrupt) as raised:
        LmdbEngine(path, cluster=CLUSTER)
    assert raised.value.hint
    # The lock is free again
    with pytest.raises(Corrupt):
        LmdbEngine(path, cluster=CLUSTER)


def test_a_second_engine_on_the_folder_is_told_the_pid(path: Path) -> None:
    engine = LmdbEngine(path, cluster=CLUSTER)
    with pytest.raises(Unavailable, match=f"process {os.getpid()}") as raised:
        LmdbEngine(path, cluster=CLUSTER)
    assert not raised.value.retryable
    code = (
        "import sys; from pathlib import Path; from reedbed.catalog.lmdb_engine import LmdbEngine; "
        "LmdbEngine(Path(sys.argv[1]))"
    )
    child = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=False, timeout=60)
    assert child.returncode == 1
    assert f"process {os.getpid()}".encode() in child.stderr
    engine.close()
    LmdbEngine(path).close()


def test_the_reserve_is_for_urgent_transactions(path: Path) -> None:
    left = 10 * MIB
    engine = LmdbEngine(path, cluster=CLUSTER, reserve=5 * MIB, free=lambda _: left)
    with engine.write() as w:
        w.put(b"a", b"1")
    left = 5 * MIB - 1
    with pytest.raises(DiskFull), engine.write() as w:
        w.put(b"b", b"2")
    with engine.write(urgent=True) as w:
        assert w.delete(b"a")
    with engine.read() as r:
        assert list(r.scan(b"")) == []
    left = 5 * MIB
    with engine.write() as w:
        w.put(b"b", b"2")
    engine.close()


def test_the_map_grows_between_transactions(path: Path) -> None:
    engine = LmdbEngine(path, cluster=CLUSTER, map_first=2 * MIB, map_room=2 * MIB)
    for number in range(20):
        with engine.write() as w:
            w.put(b"%d" % number, os.urandom(400_000))
    engine.close()
    engine = LmdbEngine(path, map_first=2 * MIB, map_room=2 * MIB)
    with engine.read() as r:
        assert sum(len(value) for _, value in r.scan(b"")) == 20 * 400_000
    engine.close()


def test_a_transaction_larger_than_the_map_is_refused_whole_and_passes_later(path: Path) -> None:
    engine = LmdbEngine(path, cluster=CLUSTER, map_first=MIB, map_room=MIB)

    def store() -> None:
        with engine.write() as w:
            w.put(b"small", b"1")
            try:
                with w.savepoint():
                    for number in range(8):
                        w.put(b"%d" % number, os.urandom(MIB))
            except DiskFull:
                pass  # swallowed, as by a batch that goes on with its next operation

    refused = 0
    while True:
        try:
            store()
            break
        except DiskFull:
            refused += 1
        with engine.read() as r:
            assert list(r.scan(b"")) == []
        assert engine.redo_position() == 0
    assert 0 < refused < 10
    engine.close()


def test_growing_waits_for_readers_only_so_long(path: Path) -> None:
    engine = LmdbEngine(path, cluster=CLUSTER, map_first=4 * MIB, map_room=2 * MIB)
    with engine.write() as w:
        w.put(b"a", os.urandom(2 * MIB - 300_000))
    with engine.read() as r:
        assert r.get(b"b") is None
        with engine.write() as w:  # the map cannot grow now, but there is room enough
            w.put(b"b", b"1")
        assert r.get(b"b") is None
    engine.close()


FAILING = """
import resource, sys
from pathlib import Path
from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.common.errors import DeviceFailed, ReedbedError

engine = LmdbEngine(Path(sys.argv[1]))
size = (Path(sys.argv[1]) / "data.mdb").stat().st_size
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
try:
    with engine.write() as w:
        for number in range(200):
            w.put(b"new%d" % number, bytes(3000))
except DeviceFailed as error:
    assert not error.retryable
else:
    sys.exit("a failed write was not seen")
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
try:
    with engine.write() as w:
        w.put(b"later", b"1")
except DeviceFailed as error:
    assert "takes no more writes" in str(error)
else:
    sys.exit("a write after a failed one went through")
with engine.read() as r:
    assert r.get(b"new0") is None and r.get(b"key000000") is not None
assert engine.redo_position() == 1
engine.close()
engine = LmdbEngine(Path(sys.argv[1]))
with engine.write() as w:
    w.put(b"later", b"1")
assert engine.redo_position() == 2
engine.close()
"""


def test_after_a_failed_write_nothing_is_written_until_reopened(path: Path) -> None:
    """The kernel itself refuses the write, by a limit on the size of files."""
    fill(path)
    child = subprocess.run([sys.executable, "-c", FAILING, str(path)], capture_output=True, check=False, timeout=60)
    assert child.returncode == 0, child.stderr.decode()


FULL = """
import sys
from pathlib import Path
from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.common.errors import DiskFull

engine = LmdbEngine(Path(sys.argv[1]) / "catalog", cluster=b"the test cluster", reserve=0)
stored = 0
try:
    while True:
        with engine.write() as w:
            w.put(b"%06d" % stored, b"x" * 100_000)
        stored += 1
except DiskFull as error:
    assert not error.maybe_applied
assert 5 < stored < 40, stored
with engine.read() as r:
    assert len(list(r.scan(b""))) == stored
assert engine.redo_position() == stored
engine.trim_redo(1)
with engine.write(urgent=True) as w:
    assert w.delete(b"%06d" % (stored - 1))
with engine.write() as w:
    w.put(b"%06d" % (stored - 1), b"y")
engine.close()
engine = LmdbEngine(Path(sys.argv[1]) / "catalog", reserve=0)
with engine.read() as r:
    assert r.get(b"%06d" % (stored - 1)) == b"y" and len(list(r.scan(b""))) == stored
engine.close()
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A small file system of its own, where the machine lets a user mount one."""
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = 'mount -t tmpfs -o size=4m none "$1"'
    if (
        shutil.which("unshare") is None
        or subprocess.run([*inside, mount, "sh", str(tmp_path)], capture_output=True, check=False).returncode
    ):
        pytest.fail("no file system of our own can be mounted here: allow user namespaces, or run the tests as root")
    child = subprocess.run(
        [*inside, f'{mount} && exec "$2" -c "$3" "$1"', "sh", str(tmp_path), sys.executable, FULL],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert child.returncode == 0, child.stderr.decode()


def test_lmdb_runs_with_its_safe_settings(path: Path) -> None:
    engine = LmdbEngine(path, cluster=CLUSTER)
    flags = engine._env.flags()
    assert flags["sync"]
    assert flags["metasync"]
    assert not flags["writemap"]
    assert not flags["map_async"]
    engine.close()


STORM = """
import os, sys, threading
from pathlib import Path
from reedbed.catalog.lmdb_engine import LmdbEngine

engine = LmdbEngine(Path(sys.argv[1]))

def commit(thread):
    number = 0
    while True:
        with engine.write() as w:
            for part in range(3):
                w.put(b"%d/%06d/%d" % (thread, number, part) + b"x" * (500 * part), os.urandom(100))
            w.delete(b"%d/%06d/0" % (thread, number - 1))
        os.write(1, b"%d %d\\n" % (thread, number))
        number += 1

for thread in range(3):
    threading.Thread(target=commit, args=(thread,), daemon=True).start()
threading.Event().wait()
"""


@pytest.mark.parametrize("lines", [1, 40, 150])
def test_what_was_acknowledged_survives_kill_9(path: Path, lines: int) -> None:
    fill(path, 5)
    child = subprocess.Popen([sys.executable, "-c", STORM, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        heard = [child.stdout.readline() for _ in range(lines)]
    finally:
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read()
        child.stdout.close()
        child.wait()
    acknowledged: dict[int, int] = {}
    for line in b"".join([*heard, rest]).split(b"\n")[:-1]:
        thread, number = map(int, line.split())
        acknowledged[thread] = max(number, acknowledged.get(thread, 0))
    engine = LmdbEngine(path, cluster=CLUSTER)
    with engine.read() as r:
        state = dict(r.scan(b""))
    replayed: dict[bytes, bytes] = {}
    after = 0
    while records := engine.read_redo(after, 100):
        for record in records:
            for key, value in record.changes:
                if value is None:
                    replayed.pop(key, None)
                else:
                    replayed[key] = value
        after = records[-1].number
    assert after == engine.redo_position()
    assert replayed == state
    for thread, newest in acknowledged.items():
        numbers = {int(key[2:8]) for key in state if key.startswith(b"%d/" % thread)}
        assert numbers == set(range(max(numbers) + 1))
        assert max(numbers) in (newest, newest + 1)  # one may have been durable without an answer
        for number in numbers:
            parts = [key for key in state if key.startswith(b"%d/%06d/" % (thread, number))]
            assert len(parts) == (3 if number == max(numbers) else 2), "half a transaction is there"
    engine.close()


def test_a_forked_child_is_refused(path: Path) -> None:
    engine = LmdbEngine(path, cluster=CLUSTER)
    child = os.fork()
    if not child:
        refused = 0
        for begin in (engine.read, engine.write):
            try:
                with begin():
                    pass
            except ForkedStore:
                refused += 1
        os._exit(refused)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 2
    with engine.write() as w:
        w.put(b"k", b"the parent goes on")
    engine.close()


def test_closing_waits_for_the_writer(path: Path) -> None:
    engine = LmdbEngine(path, cluster=CLUSTER)
    inside, go = threading.Event(), threading.Event()
    errors: list[ReedbedError] = []

    def work() -> None:
        try:
            with engine.write() as w:
                inside.set()
                go.wait(30)
                w.put(b"a", b"1")
        except ReedbedError as error:
            errors.append(error)

    writer = threading.Thread(target=work)
    writer.start()
    assert inside.wait(30)
    closer = threading.Thread(target=engine.close)
    closer.start()
    go.set()
    writer.join(30)
    closer.join(30)
    assert not errors
    engine = LmdbEngine(path)
    with engine.read() as r:
        assert r.get(b"a") == b"1"
    engine.close()


def test_small_commits_cost_little_disk(path: Path) -> None:
    """The shape of small objects: a row in random order, a log entry, an outcome, nothing of it compressible."""
    engine = LmdbEngine(path, cluster=CLUSTER)
    count, batch = 10_000, 100
    for first in range(0, count, batch):
        with engine.write() as w:
            for number in range(first, first + batch):
                w.put(b"O/bucket/folder/%06d" % (number * 7919 % count), os.urandom(150))
                w.put(b"L" + number.to_bytes(16, "big"), os.urandom(80))
                w.put(b"C" + number.to_bytes(16, "big"), os.urandom(30))
    engine.close()
    assert (path / "data.mdb").stat().st_size / count < 1024


# A folder that fills


def fill_up(engine: LmdbEngine, prefix: bytes) -> int:
    """Stores rows until the catalog refuses them; how many it took."""
    for count in range(20_000):
        try:
            with engine.write() as w:
                w.put(prefix + b"%06d" % count, os.urandom(3000))
        except DiskFull:
            return count
    raise AssertionError("it never fills")


@pytest.mark.parametrize("by", ["capacity", "disk"])
def test_a_full_catalog_refuses_writes_serves_reads_and_can_be_emptied(path: Path, by: str) -> None:
    """The file never shrinks, so room must come back from within it."""
    size, reserve = 16 * MIB, 4 * MIB

    def left(folder: Path) -> int:
        return size - (folder / "data.mdb").stat().st_size

    engine = LmdbEngine(
        path, cluster=CLUSTER, reserve=reserve, **{"free": left} if by == "disk" else {"capacity": size}
    )
    first = fill_up(engine, b"a")
    assert engine.usage().room < 0
    with engine.read() as r:
        assert sum(1 for _ in r.scan(b"a", b"b")) == first
    # deletes are taken, from the reserve, and their redo records are what has to go as well
    for number in range(first):
        with engine.write(urgent=True) as w:
            assert w.delete(b"a%06d" % number)
        if number % 100 == 0:
            engine.trim_redo(engine.redo_position())
    engine.trim_redo(engine.redo_position())
    assert engine.usage().room > 4 * MIB
    assert fill_up(engine, b"b") > first // 2
    assert (path / "data.mdb").stat().st_size <= size
    engine.close()


def test_a_little_that_is_free_again_is_no_room(path: Path) -> None:
    """Every transaction takes pages and gives others back."""
    engine = LmdbEngine(path, cluster=CLUSTER, reserve=5 * MIB, free=lambda _: 5 * MIB - 1)
    for number in range(50):
        with engine.write(urgent=True) as w:
            w.put(b"%d" % number, bytes(500))
    with pytest.raises(DiskFull), engine.write() as w:
        w.put(b"x", b"1")
    engine.close()


# A folder that is restored into


def test_an_unfinished_restore_is_never_served_and_is_done_again_from_the_start(path: Path) -> None:
    engine = LmdbEngine(path, cluster=CLUSTER, restoring=True)
    engine.load([(b"half", b"1")], 7)
    engine.close()
    for cluster in (None, CLUSTER):
        with pytest.raises(InvalidArgument, match="not restored to its end"):
            LmdbEngine(path, cluster=cluster)
    engine = LmdbEngine(path, cluster=CLUSTER, restoring=True)
    assert engine.redo_position() == 0
    with engine.read() as r:
        assert list(r.scan(b"")) == []
    engine.load([(b"whole", b"1")], 9)
    engine.finish_restoring()
    engine.close()
    engine = LmdbEngine(path)
    with engine.read() as r:
        assert list(r.scan(b"")) == [(b"whole", b"1")]
    assert (engine.cluster, engine.redo_position()) == (CLUSTER, 9)
    engine.close()


def test_nothing_is_restored_over_a_catalog_or_into_something_else(path: Path, tmp_path: Path) -> None:
    fill(path, 3)
    before = tree(path)
    with pytest.raises(AlreadyExists, match="empty folder"):
        LmdbEngine(path, cluster=CLUSTER, restoring=True)
    assert {**tree(path), "serving.lock": b""} == {**before, "serving.lock": b""}
    engine = LmdbEngine(path)
    with pytest.raises(Unavailable, match="already served"):
        LmdbEngine(path, cluster=CLUSTER, restoring=True)
    engine.close()
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidArgument, match="not a catalog"):
        LmdbEngine(tmp_path, cluster=CLUSTER, restoring=True)
