"""The command line against real daemons: every command on trees and odd keys, and what it says when refused."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from reedbed_cluster import LocalCluster, local_cluster
from reedbed_cluster.commands import Done, Here, reedbed

from reedbed import NotFound, Store, connect

pytestmark = pytest.mark.cluster

ODD_KEYS = [
    "..",
    "a/../b",
    "n\0l",
    "new\nline",
    "\x1b[2J",
    "/lead",
    "dou//ble",
    "trail/",
    "x" * 256,
    "é" * 200,
    "a",
    "a/b",
]
HELD = {"new\nline", "\x1b[2J", "a"}  # those that a local path can hold


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("cli") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def here(shared: LocalCluster, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setenv("REEDBED_ENDPOINT", shared.endpoint)
    return Here(capfdbinary)


@pytest.fixture
def store(shared: LocalCluster) -> Iterator[Store]:
    with connect(shared.endpoint, timeout=20) as opened:
        yield opened


@pytest.fixture
def bucket(store: Store, request: pytest.FixtureRequest) -> str:
    """A bucket of the test's own."""
    name = "b-" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    store.create_bucket(name)
    return name


def tree(top: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return top


def contents(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def keys(store: Store, bucket: str, prefix: str = "") -> list[str]:
    return [row.key for row in store.list(bucket, prefix=prefix) if hasattr(row, "key")]


FILES = {"a.py": b"print()", "deep/er/b.py": os.urandom(200_000), "deep/c.txt": b"", "z z.txt": b"blank", "é": b"e"}


def ok(done: Done) -> Done:
    assert done.code == 0, done.err
    return done


def test_buckets_come_and_go(here: Here, store: Store) -> None:
    assert ok(here("mb", "reedbed://come")).lines == ["make_bucket: come"]
    assert ok(here("mb", "come-versioned", "--versioned", "--profile", "rs-2-1", "--json")).json == {
        "bucket": "come-versioned"
    }
    assert {line.split()[-1] for line in ok(here("ls")).lines} >= {"come", "come-versioned"}
    shown = {row["bucket"]: row for row in ok(here("ls", "--json")).jsons}
    assert (shown["come-versioned"]["versioned"], shown["come-versioned"]["profile"]) == (True, "rs-2-1")
    ok(here("rb", "reedbed://come"))
    for _ in range(2):
        store.put("come-versioned", "k", b"1")
    store.delete("come-versioned", "k")
    assert here("rb", "come-versioned").code == 13
    ok(here("rb", "come-versioned", "--force"))
    assert not {"come", "come-versioned"} & {known.name for known in store.list_buckets()}


def test_a_tree_goes_up_and_comes_down(here: Here, bucket: str, store: Store, tmp_path: Path) -> None:
    source = tree(tmp_path / "source", FILES)
    up = ok(here("cp", "-r", source, f"reedbed://{bucket}/t", "--json")).json
    assert (up["copied"], up["bytes"], up["skipped"], up["failed"]) == (
        len(FILES),
        sum(map(len, FILES.values())),
        [],
        [],
    )
    assert up["reads"].keys() == {"direct", "decoded"}
    assert keys(store, bucket) == sorted(f"t/{name}" for name in FILES)
    down = ok(here("cp", "-r", f"reedbed://{bucket}/t", tmp_path / "out"))
    assert contents(tmp_path / "out") == FILES
    assert all(line.startswith("download: ") for line in down.lines)
    ok(here("cp", "-r", f"reedbed://{bucket}/t", f"reedbed://{bucket}/copy"))
    assert keys(store, bucket, "copy/") == sorted(f"copy/{name}" for name in FILES)


def test_single_files_keep_their_names_in_folders(here: Here, bucket: str, store: Store, tmp_path: Path) -> None:
    file = tree(tmp_path, {"one.txt": b"one"}) / "one.txt"
    ok(here("cp", file, f"reedbed://{bucket}"))
    ok(here("cp", file, f"reedbed://{bucket}/sub/"))
    ok(here("cp", file, f"reedbed://{bucket}/named"))
    assert keys(store, bucket) == ["named", "one.txt", "sub/one.txt"]
    ok(here("cp", f"reedbed://{bucket}/sub/one.txt", f"{tmp_path}/new/"))
    ok(here("cp", f"reedbed://{bucket}/named", tmp_path / "new"))
    assert contents(tmp_path / "new") == {"one.txt": b"one", "named": b"one"}


def test_keys_that_no_path_can_hold_are_skipped_and_listed(
    here: Here, bucket: str, store: Store, tmp_path: Path
) -> None:
    assert all(not isinstance(r, Exception) for r in store.put_many(bucket, {k: k.encode() for k in ODD_KEYS}).values())
    out = tmp_path / "top" / "out"
    done = here("cp", "-r", f"reedbed://{bucket}", out)
    assert done.code == 1
    assert contents(tmp_path) == {f"top/out/{key}": key.encode() for key in HELD}
    assert done.err.count("skipped: ") == len(ODD_KEYS) - len(HELD)
    assert all(line.isprintable() for line in done.err.splitlines())
    assert all(line.isprintable() for line in done.lines)
    report = here("cp", "-r", f"reedbed://{bucket}", out, "--json")
    assert report.code == 1
    assert {row["what"] for row in report.json["skipped"]} == {f"reedbed://{bucket}/{k}" for k in set(ODD_KEYS) - HELD}
    listed = ok(here("ls", "-r", f"reedbed://{bucket}"))
    assert len(listed.lines) == len(ODD_KEYS)
    assert all(line.isprintable() for line in listed.lines)
    assert [row["key"] for row in ok(here("ls", "-r", "--json", f"reedbed://{bucket}")).jsons] == keys(store, bucket)
    assert sorted(keys(store, bucket)) == sorted(ODD_KEYS)


def test_odd_keys_as_arguments(here: Here, bucket: str, store: Store) -> None:
    # no argument of a process can have a NUL
    for number, key in enumerate(key for key in ODD_KEYS if "\0" not in key):
        store.put(bucket, key, key.encode())
        assert ok(here("cat", f"reedbed://{bucket}/{key}")).out == key.encode()
        assert ok(here("stat", "--json", f"reedbed://{bucket}/{key}")).json["key"] == key
        assert all(line.isprintable() for line in ok(here("stat", f"reedbed://{bucket}/{key}")).lines)
        ok(here("mv", f"reedbed://{bucket}/{key}", f"reedbed://{bucket}/moved/{number}"))
        ok(here("rm", f"reedbed://{bucket}/moved/{number}"))
    assert keys(store, bucket) == []


def test_filters_and_dry_runs(here: Here, bucket: str, store: Store, tmp_path: Path) -> None:
    source = tree(tmp_path / "source", FILES)
    url = f"reedbed://{bucket}"
    dry = ok(here("cp", "-r", source, url, "--exclude", "*", "--include", "*.py", "--dryrun"))
    assert dry.lines == [f"(dryrun) upload: {source}/{name} to {url}/{name}" for name in ("a.py", "deep/er/b.py")]
    assert keys(store, bucket) == []
    rows = ok(here("cp", "-r", source, url, "--exclude", "*.py", "--dryrun", "--json")).jsons
    assert [row["target"] for row in rows[:-1]] == [f"{url}/{name}" for name in ("deep/c.txt", "z z.txt", "é")]
    assert rows[-1]["dryrun"] is True
    ok(here("cp", "-r", source, url, "--exclude", "*", "--include", "*.py"))
    assert keys(store, bucket) == ["a.py", "deep/er/b.py"]
    assert ok(here("rm", "-r", url, "--dryrun")).lines == [
        f"(dryrun) delete: {url}/{name}" for name in ("a.py", "deep/er/b.py")
    ]
    assert ok(here("rm", "-r", url, "--include", "a*", "--exclude", "deep/*", "--json")).json == {
        "dryrun": False,
        "deleted": 1,
        "failed": [],
    }
    assert keys(store, bucket) == ["deep/er/b.py"]


def test_filters_hold_for_a_single_file_too(here: Here, bucket: str, store: Store, tmp_path: Path) -> None:
    source, url = tree(tmp_path / "source", {"f.txt": b"x"}), f"reedbed://{bucket}"
    store.put(bucket, "f.txt", b"there")
    assert ok(here("rm", f"{url}/f.txt", "--exclude", "*.txt", "--json")).json["deleted"] == 0
    assert ok(here("mv", source / "f.txt", f"{url}/moved", "--exclude", "f*", "--json")).json["copied"] == 0
    assert ok(here("cp", source / "f.txt", f"{url}/copied", "--exclude", "*", "--json")).json["copied"] == 0
    assert (contents(source), keys(store, bucket)) == ({"f.txt": b"x"}, ["f.txt"])
    assert ok(here("rm", f"{url}/f.txt", "--exclude", "*", "--include", "f.*", "--json")).json["deleted"] == 1


def test_dry_runs_of_streams(here: Here, bucket: str, store: Store) -> None:
    store.put(bucket, "k", b"12345")
    url = f"reedbed://{bucket}/k"
    assert ok(here("cp", url, "-", "--dryrun")).lines == [f"(dryrun) download: {url} to -"]
    down = {"dryrun": "download", "source": url, "bytes": 5, "target": "-"}
    assert ok(here("cp", url, "-", "--dryrun", "--json")).json == down
    up = {"dryrun": "upload", "source": "-", "bytes": None, "target": f"{url}2"}
    assert ok(here("cp", "-", f"{url}2", "--dryrun", "--json")).json == up
    assert keys(store, bucket) == ["k"]


def test_the_second_sync_copies_nothing(here: Here, bucket: str, store: Store, tmp_path: Path) -> None:
    source, url, out = tree(tmp_path / "source", FILES), f"reedbed://{bucket}/s", tmp_path / "out"
    for start, goal in ((source, url), (url, out), (url, f"reedbed://{bucket}/again")):
        assert ok(here("sync", start, goal, "--json")).json["copied"] == len(FILES)
        second = ok(here("sync", start, goal, "--delete", "--json")).json
        assert (second["copied"], second["deleted"]) == (0, 0)
    assert contents(out) == FILES
    (source / "a.py").write_bytes(b"changed")
    (source / "z z.txt").unlink()
    (source / "new").write_bytes(b"n")
    changed = ok(here("sync", source, url, "--delete", "--json")).json
    assert (changed["copied"], changed["deleted"]) == (2, 1)
    ok(here("sync", url, out, "--delete"))
    assert contents(out) == contents(source)


def test_moving(here: Here, bucket: str, store: Store, tmp_path: Path) -> None:
    source, url = tree(tmp_path / "source", FILES), f"reedbed://{bucket}"
    ok(here("mv", "-r", source, f"{url}/m"))
    assert contents(source) == {}
    ok(here("mv", "-r", f"{url}/m", f"{url}/n"))
    assert keys(store, bucket) == sorted(f"n/{name}" for name in FILES)
    ok(here("mv", f"{url}/n/a.py", tmp_path / "a.py"))
    assert (tmp_path / "a.py").read_bytes() == FILES["a.py"]
    assert here("mv", f"{url}/n/é", f"{url}/n/").code == 2
    assert store.get(bucket, "n/é") == FILES["é"]


def test_streams_both_ways(shared: LocalCluster, bucket: str, store: Store, tmp_path: Path) -> None:
    data, url = os.urandom(9_000_001), f"reedbed://{bucket}/stream"
    up = reedbed("cp", "-", url, "--json", endpoint=shared.endpoint, stdin=data)
    assert (up.code, up.json["bytes"]) == (0, len(data))
    assert store.get(bucket, "stream") == data
    down = reedbed("cp", url, "-", endpoint=shared.endpoint)
    assert (down.code, down.err) == (0, "")
    assert down.out == data
    twice = reedbed("cat", url, url, endpoint=shared.endpoint)
    assert twice.out == data + data
    empty = reedbed("cp", "-", f"reedbed://{bucket}/empty", endpoint=shared.endpoint)
    assert empty.code == 0
    assert store.get(bucket, "empty") == b""


def test_listing_levels(here: Here, bucket: str, store: Store) -> None:
    store.put_many(bucket, {"a": b"1", "d/x": b"22", "d/e/y": b"333"})
    url = f"reedbed://{bucket}"
    assert [line.split()[-1] for line in ok(here("ls", f"{url}/")).lines] == ["a", "d/"]
    assert [line.split()[-1] for line in ok(here("ls", f"{url}/d/")).lines] == ["e/", "x"]
    assert ok(here("ls", f"{url}/d/", "--json")).jsons[0] == {"bucket": bucket, "prefix": "d/e/"}
    total = ok(here("ls", "-r", url, "--summarize", "--json")).json
    assert total == {"count": 3, "size": 6}
    assert ok(here("ls", "-r", url, "--summarize")).lines[-1] == "Total: 3, 6 B"


def test_versions(here: Here, store: Store) -> None:
    store.create_bucket("versions", versioned=True)
    first = store.put("versions", "k", b"1")
    store.put("versions", "k", b"22")
    store.delete("versions", "k")
    url = "reedbed://versions/k"
    rows = ok(here("ls", "--versions", "--json", url)).jsons
    assert [(row["size"], row["delete_marker"], row["latest"]) for row in rows] == [
        (0, True, True),
        (2, False, False),
        (1, False, False),
    ]
    assert here("stat", url).code == 4
    assert ok(here("stat", url, "--version", first.version, "--json")).json["size"] == 1
    assert ok(here("rm", url, "--version", "0" * 32, "--json")).json["deleted"] == 0
    assert ok(here("rm", url, "--version", rows[0]["version"], "--json")).json["deleted"] == 1
    assert ok(here("cat", url)).out == b"22"


def test_removing_what_is_not_there_is_no_error(here: Here, bucket: str) -> None:
    ok(here("rm", f"reedbed://{bucket}/none"))
    assert ok(here("rm", "-r", f"reedbed://{bucket}/none", "--json")).json["deleted"] == 0


def test_uploads(here: Here, bucket: str, store: Store) -> None:
    assert ok(here("upload", "list", f"reedbed://{bucket}")).lines == []
    done = here("upload", "abort", "0" * 32)
    assert (done.code, "NotFound" in done.err) == (4, True)
    assert here("upload", "abort", "nonsense").code == 2


def test_a_long_upload_can_be_seen_and_ended(here: Here, shared: LocalCluster, bucket: str) -> None:
    go = threading.Event()

    def pieces() -> Iterator[bytes]:
        for _ in range(5):
            yield bytes(8 << 20)
        go.wait()

    with connect(shared.endpoint, timeout=20) as store, ThreadPoolExecutor(1) as pool:
        store._store._core.putter._register_after = 0.0  # whatever is written is old
        put = pool.submit(store.put, bucket, "long", pieces())
        try:
            while not (listed := ok(here("upload", "list", f"reedbed://{bucket}", "--json")).jsons):
                assert not put.done(), put.result()
            assert (listed[0]["key"], listed[0]["bytes"] % (16 << 20)) == ("long", 0)
            assert "long" in ok(here("upload", "list", f"reedbed://{bucket}")).out.decode()
            ok(here("upload", "abort", listed[0]["id"]))
            assert ok(here("upload", "list", f"reedbed://{bucket}")).lines == []
        finally:
            go.set()
        with pytest.raises(NotFound):
            put.result(20)
        assert not store.exists(bucket, "long")


def test_status(here: Here) -> None:
    status = ok(here("status", "--json")).json
    assert status["health"] == "healthy"
    assert [(device["id"], device["state"]) for device in status["devices"]] == [(n, "up") for n in range(1, 7)]
    text = ok(here("status")).lines
    assert text[0].startswith("healthy: ")
    assert sum(" up " in line for line in text) == 6


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (["mb", "reedbed://Not_A_Bucket"], 2, "InvalidArgument"),
        (["mb", "taken"], 5, "AlreadyExists"),
        (["mb", "fresh", "--profile", "rs-99-1"], 2, "InvalidArgument"),
        (["mb", "fresh", "--profile", "rs-8-3"], 2, "InvalidArgument"),
        (["rb", "no-such-bucket"], 4, "NotFound"),
        (["rb", "taken"], 13, "NotEmpty"),
        (["ls", "reedbed://no-such-bucket"], 4, "NotFound"),
        (["ls", "reedbed://taken/nothing"], 4, "NotFound"),
        (["cat", "reedbed://taken/none"], 4, "NotFound"),
        (["stat", "reedbed://no-such-bucket/k"], 4, "NotFound"),
        (["cp", "reedbed://taken/none", "/tmp/never-written"], 4, "NotFound"),
        (["cp", "-r", "reedbed://no-such-bucket", "/tmp/never-written"], 4, "NotFound"),
        (["cp", "-r", "reedbed://taken/none", "/tmp/never-written"], 4, "NotFound"),
        (["cp", __file__, "reedbed://no-such-bucket/k"], 4, "NotFound"),
        (["cp", "-r", str(Path(__file__).parent), "reedbed://no-such-bucket/k"], 4, "NotFound"),
        (["cp", "reedbed://taken/k", "reedbed://no-such-bucket/k"], 4, "NotFound"),
        (["sync", "reedbed://taken", "reedbed://no-such-bucket"], 4, "NotFound"),
        (["stat", "reedbed://taken/k", "--version", "xyz"], 2, "InvalidArgument"),
        (["rm", "reedbed://no-such-bucket/k"], 4, "NotFound"),
        (["rm", "reedbed://no-such-bucket/k", "--version", "0" * 32], 4, "NotFound"),
        (["ls", "reedbed://taken/nothing", "--versions"], 4, "NotFound"),
        (["cp", __file__, "reedbed://no-such-bucket/k", "--dryrun"], 4, "NotFound"),
        (["cp", "-", "reedbed://no-such-bucket/k", "--dryrun"], 4, "NotFound"),
        (["cp", "reedbed://taken/none", "-", "--dryrun"], 4, "NotFound"),
        (["cp", "reedbed://taken/k", "-", "--exclude", "*"], 2, "InvalidArgument"),
        (["ls", "--endpoint", "not an endpoint"], 2, "InvalidArgument"),
        (["ls", "--tls-ca", "/nonexistent.pem"], 2, "InvalidArgument"),
    ],
)
def test_what_is_refused_has_its_name_and_exit_code(
    here: Here, store: Store, arguments: list[str], code: int, name: str
) -> None:
    if "taken" not in [known.name for known in store.list_buckets()]:
        store.create_bucket("taken")
        store.put("taken", "k", b"1")
    done = here(*arguments)
    assert (done.code, done.out) == (code, b"")
    assert done.err.startswith(f"reedbed: {name}: ")
    assert done.err.count("\n") == 1
    assert "fresh" not in [known.name for known in store.list_buckets()]
    assert not Path("/tmp/never-written").exists()


def test_a_file_that_fails_does_not_stop_the_others(here: Here, bucket: str, store: Store, tmp_path: Path) -> None:
    store.put_many(bucket, {"a": b"1", "b": b"2", "c": b"3"})
    (tmp_path / "b").mkdir()
    done = here("cp", "-r", f"reedbed://{bucket}", tmp_path)
    assert done.code == 1
    assert f"failed: download: reedbed://{bucket}/b" in done.err
    assert contents(tmp_path) == {"a": b"1", "c": b"3"}
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


FORKS = """
import os, sys, reedbed

store = reedbed.connect(sys.argv[1], timeout=20)
store.put(sys.argv[2], "k", b"parent")

def child(work):
    number = os.fork()
    if not number:
        try:
            work()
        except reedbed.ReedbedError as error:
            os._exit(7 if type(error).__name__ == "ForkedStore" else 8)
        os._exit(0)
    store_get = store.get(sys.argv[2], "k") if open_now else b"parent"
    assert store_get == b"parent"
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])

def anew():
    with reedbed.connect(sys.argv[1], timeout=20) as other:
        other.list_buckets()

open_now = True
print(*[child(lambda: None) for _ in range(20)])
print(*[child(lambda: store.get(sys.argv[2], "k")) for _ in range(10)])
print(*[child(anew) for _ in range(5)])
store.close()
open_now = False
print(*[child(anew) for _ in range(5)])
"""


def test_a_fork_of_a_process_that_uses_a_store(shared: LocalCluster, bucket: str) -> None:
    """Over gRPC itself: children live, and what uses a store in them is told so at once."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, shared.endpoint, bucket], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    told = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    assert told == [[0] * 20, [7] * 10, [7] * 5, [7] * 5], done.stderr
