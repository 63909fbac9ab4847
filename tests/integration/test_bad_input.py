"""Bad input through the SDK, on real daemons: each gets its named error by its deadline, and changes nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from reedbed_cluster import Daemon, LocalCluster, local_cluster

import reedbed
from reedbed.common.errors import NewerFormat, WrongCluster, WrongProtocol


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("bad") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def store(shared: LocalCluster) -> Iterator[reedbed.Store]:
    with reedbed.connect(shared.endpoint, timeout=10) as opened:
        yield opened


BAD_BUCKETS = ["", "ab", "A-b-c", "a_b", "-abc", "abc-", "a..b", "1.2.3.4", "x" * 64, "xn--abc", "a/b", "a\0b", "ключ"]


@pytest.mark.parametrize("name", BAD_BUCKETS)
def test_bucket_names_outside_the_rules(store: reedbed.Store, name: str) -> None:
    with pytest.raises(reedbed.InvalidArgument):
        store.create_bucket(name)


@pytest.mark.parametrize("key", ["", "k" * 1025, "\ud800", "é" * 513])
def test_keys_that_cannot_be(store: reedbed.Store, key: str) -> None:
    bucket = "bad-keys"
    if bucket not in [known.name for known in store.list_buckets()]:
        store.create_bucket(bucket)
    with pytest.raises(reedbed.InvalidArgument):
        store.put(bucket, key, b"x")
    assert list(store.list(bucket)) == []


@pytest.mark.parametrize(
    "key", ["..", "../../etc/passwd", "a\0b", "a\nb", "\x1b[31m", "/", "//", "a//b/", "%2e", "?#", "k" * 1024]
)
def test_odd_keys_round_trip(store: reedbed.Store, shared: LocalCluster, key: str) -> None:
    bucket = "odd-keys"
    if bucket not in [known.name for known in store.list_buckets()]:
        store.create_bucket(bucket)
    before = {str(path) for path in shared.folder.rglob("*")}
    store.put(bucket, key, key.encode())
    assert store.get(bucket, key) == key.encode()
    assert key in [row.key for row in store.list(bucket) if isinstance(row, reedbed.ObjectInfo)]
    fresh = {str(path) for path in shared.folder.rglob("*")} - before
    traces = [key.strip("/") or "//", "passwd"]  # of a key of slashes nothing else could be told from a path
    assert not any(trace in path for path in fresh for trace in traces), fresh
    store.delete(bucket, key)
    assert not store.exists(bucket, key)


def test_buckets_missing_existing_and_full(store: reedbed.Store) -> None:
    with pytest.raises(reedbed.NotFound, match="no-such-bucket"):
        store.get("no-such-bucket", "k")
    with pytest.raises(reedbed.NotFound):
        store.put("no-such-bucket", "k", b"x")
    with pytest.raises(reedbed.NotFound):
        list(store.list("no-such-bucket"))
    with pytest.raises(reedbed.NotFound):
        store.delete_bucket("no-such-bucket")
    store.create_bucket("full")
    with pytest.raises(reedbed.AlreadyExists):
        store.create_bucket("full")
    store.put("full", "k", b"x")
    with pytest.raises(reedbed.NotEmpty):
        store.delete_bucket("full")
    assert store.get("full", "k") == b"x"


@pytest.mark.parametrize("profile", ["rs-0-2", "rs-4-9", "rs-33-1", "rs-4", "lrc-4-2", "RS-4-2", "rs-04-2"])
def test_profiles_that_do_not_exist(store: reedbed.Store, profile: str) -> None:
    with pytest.raises(reedbed.InvalidArgument, match="profile"):
        store.create_bucket("profiles", profile=profile)


def test_a_profile_with_more_positions_than_devices(store: reedbed.Store) -> None:
    with pytest.raises(reedbed.InvalidArgument, match="7"):
        store.create_bucket("wide", profile="rs-5-2")
    assert "wide" not in [known.name for known in store.list_buckets()]


def test_ranges(store: reedbed.Store) -> None:
    store.create_bucket("ranges")
    store.put("ranges", "k", b"0123456789")
    assert store.get("ranges", "k", start=10) == b""
    assert store.get("ranges", "k", start=3, end=99) == b"3456789"
    for start, end in ((11, None), (-1, None), (0, -1), (5, 4)):
        with pytest.raises(reedbed.InvalidArgument):
            store.get("ranges", "k", start=start, end=end)
    with pytest.raises(reedbed.InvalidArgument):
        store.get_into("ranges", "k", bytes(10))  # type: ignore[arg-type]


def test_checksums_of_the_caller(store: reedbed.Store) -> None:
    store.create_bucket("sums")
    info = store.put("sums", "right", b"123456789", checksum="crc32c:4waSgw==")
    assert info.checksum == "crc32c:4waSgw=="
    for wrong in ("crc32c:AAAAAA==", "md5:abc", "crc32c:zz"):
        with pytest.raises((reedbed.InvalidArgument, reedbed.Corrupt)):
            store.put("sums", "wrong", b"123456789", checksum=wrong)
    assert not store.exists("sums", "wrong")


def test_a_buffer_that_changes_during_put(store: reedbed.Store) -> None:
    store.create_bucket("changing")
    buffer = bytearray(32 * 1024 * 1024)
    stop = threading.Event()

    def change() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            for at in range(0, len(buffer), 1024 * 1024):
                buffer[at] = count & 0xFF

    thread = threading.Thread(target=change)
    thread.start()
    try:
        with pytest.raises((reedbed.InvalidArgument, reedbed.Corrupt)):
            store.put("changing", "k", buffer)
    finally:
        stop.set()
        thread.join()
    assert not store.exists("changing", "k")


def test_nobody_at_the_endpoint() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with (
        pytest.raises(reedbed.Unavailable, match=str(port)),
        reedbed.connect(f"127.0.0.1:{port}", timeout=2) as store,
    ):
        list(store.list_buckets())


@contextmanager
def other_server(answer: bytes | None) -> Iterator[int]:
    """Something on a port that is not ours: it answers so, or never."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        stop = threading.Event()

        def serve() -> None:
            held = []
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                held.append(connection)
                if answer is not None:
                    connection.sendall(answer)
                    connection.close()
            for connection in held:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown command\r\n", b"\0" * 100])
def test_another_protocol_at_the_endpoint(answer: bytes) -> None:
    start = time.monotonic()
    with (
        other_server(answer) as port,
        pytest.raises((WrongProtocol, reedbed.Unavailable, reedbed.DeadlineExceeded)),
        reedbed.connect(f"127.0.0.1:{port}", timeout=3) as store,
    ):
        list(store.list_buckets())
    assert time.monotonic() - start < 30


def test_an_endpoint_that_never_answers() -> None:
    with (
        other_server(None) as port,
        pytest.raises((reedbed.DeadlineExceeded, reedbed.Unavailable)),
        reedbed.connect(f"127.0.0.1:{port}", timeout=2) as store,
    ):
        list(store.list_buckets())


def test_a_storaged_is_not_a_catalogd(shared: LocalCluster) -> None:
    address = shared.storaged[0].ready["address"]
    with (
        pytest.raises((WrongProtocol, reedbed.InvalidArgument)),
        reedbed.connect(address, timeout=3) as store,
    ):
        list(store.list_buckets())


def refused(daemon: Daemon) -> str:
    """Starts a daemon that must refuse to serve; returns what it said."""
    daemon.start(wait=False)
    assert daemon._process is not None
    assert daemon._process.wait(30) != 0
    assert daemon._process.stdout is not None
    daemon._process.stdout.close()
    said = daemon.log()
    assert "Traceback" not in said, said
    return said


def test_folders_that_must_not_be_served(shared: LocalCluster, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    arguments = ["storaged", "--catalog", shared.endpoint, "--dir"]
    assert "InvalidArgument" in refused(Daemon("foreign", [*arguments, str(foreign)], tmp_path / "foreign.log"))
    assert [path.name for path in foreign.iterdir()] in (["thesis.tex"], ["thesis.tex", "lock"], ["lock", "thesis.tex"])

    twice = str(shared.device_folder(1))
    assert str(shared.storaged[0].pid) in refused(Daemon("twice", [*arguments, twice], tmp_path / "twice.log"))

    with local_cluster(tmp_path / "other", 1, profile="rs-1-1") as other:
        stopped = other.device_folder(1)
        other.storaged[0].stop()
        said = refused(Daemon("other", [*arguments, str(stopped)], tmp_path / "other.log"))
        assert WrongCluster.code in said
        identity = stopped / "device.json"
        identity.write_text(identity.read_text().replace('"format": 1', '"format": 99'))
        said = refused(Daemon("newer", [*arguments, str(stopped)], tmp_path / "newer.log"))
        assert NewerFormat.code in said
        identity.write_text("garbage")
        said = refused(Daemon("garbage", [*arguments, str(stopped)], tmp_path / "garbage.log"))
        assert "Corrupt" in said


def test_garbage_in_the_index_is_mended_and_reported(tmp_path: Path) -> None:
    blob = bytes(range(256)) * 5000
    with local_cluster(tmp_path / "cluster") as cluster, reedbed.connect(cluster.endpoint, timeout=20) as store:
        store.create_bucket("data")
        store.put("data", "k", blob)
        for place, daemon in enumerate(cluster.storaged, 1):
            daemon.kill()
            index = cluster.device_folder(place) / "index" / "data.mdb"
            if index.exists():
                raw = bytearray(index.read_bytes())
                for at in range(0, len(raw), 97):
                    raw[at] ^= 0x5A
                index.write_bytes(raw)
        cluster.start_storage(cluster.storaged)
        assert store.get("data", "k") == blob


def test_garbage_in_segments_is_survived(tmp_path: Path) -> None:
    blob = bytes(range(256)) * 50_000
    with local_cluster(tmp_path / "cluster") as cluster, reedbed.connect(cluster.endpoint, timeout=20) as store:
        store.create_bucket("data")
        store.put("data", "k", blob)
        for place in (1, 2):
            cluster.storaged[place - 1].kill()
            for segment in (cluster.device_folder(place) / "segments").iterdir():
                raw = bytearray(segment.read_bytes())
                for at in range(0, len(raw), 1009):
                    raw[at] ^= 0xFF
                segment.write_bytes(raw)
        cluster.start_storage(cluster.storaged[:2])
        assert store.get("data", "k") == blob


def test_a_damaged_catalog_refuses_to_serve(tmp_path: Path) -> None:
    with local_cluster(tmp_path / "cluster", 1, profile="rs-1-1") as cluster:
        cluster.catalogd.kill()
        data = cluster.folder / "catalog" / "data.mdb"
        raw = bytearray(data.read_bytes())
        for at in range(0, len(raw), 61):
            raw[at] ^= 0x5A
        data.write_bytes(raw)
        said = refused(Daemon("catalogd", cluster.catalogd._arguments, tmp_path / "damaged.log"))
        assert "Corrupt" in said
        assert data.read_bytes() == bytes(raw)
