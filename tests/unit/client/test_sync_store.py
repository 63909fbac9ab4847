"""The synchronous face: threads, forks, interrupts, pickles, and the end of a store."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import reedbed
from reedbed.client.core import Core
from reedbed.client.options import Options
from reedbed.client.store import AsyncStore
from reedbed.client.sync_store import Store
from reedbed.common.errors import ForkedStore, InvalidArgument, NotFound, ReedbedError, Unavailable
from reedbed.common.limits import MIB
from reedbed.protos import methods
from reedbed.protos.types import CommonPrefix, ObjectInfo


def test_every_operation(sync_store: Store, tmp_path: Any) -> None:
    store = sync_store
    store.create_bucket("more", versioned=True)
    assert [bucket.name for bucket in store.list_buckets()] == ["data", "more"]
    assert store.stat_bucket("more").versioned
    info = store.put("data", "k", b"hello", metadata={"a": "b"})
    assert store.stat("data", "k") == info
    assert store.get("data", "k", 1, 3) == b"el"
    buffer = bytearray(5)
    assert store.get_into("data", "k", buffer) == 5
    assert buffer == b"hello"
    assert b"".join(store.get_iter("data", "k")) == b"hello"
    assert store.exists("data", "k")
    assert not store.exists("data", "none")
    store.copy("data", "k", "data", "d/k2")
    rows = list(store.list("data", delimiter="/"))
    assert [row.prefix if isinstance(row, CommonPrefix) else row.key for row in rows] == ["d/", "k"]
    results = store.put_many("data", {"m1": b"1", "m2": b"2"})
    assert all(isinstance(result, ObjectInfo) for result in results.values())
    assert list(store.get_many("data", ["m2", "none", "m1"], missing="none")) == [
        ("m2", b"2"),
        ("none", None),
        ("m1", b"1"),
    ]
    (tmp_path / "in").write_bytes(b"file")
    store.put_file("data", "file", tmp_path / "in")
    store.get_file("data", "file", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"file"
    store.put("more", "v", b"1")
    assert len(list(store.list_versions("more"))) == 1
    assert store.delete("data", "k")
    assert store.delete_many("data", ["m1", "none"]) == {"m1": True, "none": False}
    assert store.delete_many("data", iter(["m2"])) == {"m2": True}
    assert store.list_uploads("data") == []
    with pytest.raises(NotFound):
        store.abort_upload("0" * 32)
    assert store.status()["devices"] == 8
    assert store.metrics()["puts.objects"] >= 5
    with pytest.raises(reedbed.NotEmpty):
        store.delete_bucket("data")
    with pytest.raises(InvalidArgument):
        list(store.list("NO"))


def test_sixteen_threads(sync_store: Store) -> None:
    def work(number: int) -> None:
        for turn in range(20):
            key, data = f"{number}/{turn}", os.urandom(1 + 997 * turn)
            sync_store.put("data", key, data)
            assert sync_store.get("data", key) == data
            with sync_store.open("data", key) as file:
                assert file.read() == data

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert len(list(sync_store.list("data"))) == 320


def test_iterators_may_use_the_store(sync_store: Store) -> None:
    """The caller's own code runs in other threads than the store's, so that it may call the store."""
    source = os.urandom(3 * MIB)
    sync_store.put("data", "source", source)

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(source), MIB):
            yield sync_store.get("data", "source", at, at + MIB)

    def pairs() -> Iterator[tuple[str, bytes]]:
        for number in range(100):
            yield f"pair{number}", sync_store.get("data", "source", number, number + 5)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: sync_store.put("data", f"copy{number}", pieces()), range(16)))
    assert all(sync_store.get("data", f"copy{number}") == source for number in range(16))
    assert len(sync_store.put_many("data", pairs())) == 100
    keys = (info.key for info in sync_store.list("data", prefix="pair") if isinstance(info, ObjectInfo))
    assert len(list(sync_store.get_many("data", keys))) == 100


def test_an_iterator_may_be_left_early(sync_store: Store, cluster: Any) -> None:
    sync_store.put_many("data", {f"{number:03}": bytes(1000) for number in range(200)})
    for _ in sync_store.get_many("data", (f"{number:03}" for number in range(200))):
        break
    for _ in sync_store.list("data"):
        break
    rows = iter(sync_store.list("data"))
    next(rows)
    sync_store.close()
    with pytest.raises(Unavailable, match="closed"):
        list(rows)
    with pytest.raises(Unavailable, match="closed"):
        sync_store.get("data", "000")
    sync_store.close()


def test_an_interrupt_gives_the_work_up(sync_store: Store, cluster: Any) -> None:
    """Ctrl-C during a put: KeyboardInterrupt comes out, nothing becomes visible, and the store still works."""
    entered = threading.Event()

    def interrupt() -> None:
        entered.wait()
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    class Told:
        def set(self) -> None:
            entered.set()

    for size in (100, 3 * MIB):
        entered.clear()
        cluster.gate[methods.PUT_SHARD] = asyncio.Event()
        cluster.entered[methods.PUT_SHARD] = Told()
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            sync_store.put("data", "k", bytes(size))
        interrupter.join()
        del cluster.entered[methods.PUT_SHARD]
        gate = cluster.gate.pop(methods.PUT_SHARD)
        sync_store._thread.soon(gate.set)
        sync_store.put("data", "after", b"x")
        assert not sync_store.exists("data", "k")


def test_a_fork_is_refused_and_harms_nobody(sync_store: Store) -> None:
    sync_store.put("data", "k", b"parent")
    writer = sync_store.open("data", "open", "wb")
    reader = sync_store.open("data", "k")
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        told = []
        for call in (
            lambda: sync_store.get("data", "k"),
            lambda: list(sync_store.list("data")),
            lambda: sync_store.__enter__(),
            lambda: writer.write(bytes(2 * MIB)),
            lambda: reader.read(1),
        ):
            try:
                call()
                told.append("worked")
            except ForkedStore as error:
                told.append("refused" if "process" in str(error) else "odd")
            except Exception as error:  # noqa: BLE001 - the child tells all
                told.append(repr(error))
        sync_store.close()
        os.write(send, ",".join(told).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        assert pipe.read() == ",".join(["refused"] * 5)
    os.waitpid(child, 0)
    assert sync_store.get("data", "k") == b"parent"
    writer.abandon()
    reader.close()


def test_a_store_pickles_as_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    with reedbed.connect("127.0.0.1:1", timeout=7, concurrency=3) as store:
        copy = pickle.loads(pickle.dumps(store))  # noqa: S301
        assert copy.options == store.options == Options("127.0.0.1:1", 7, 3)
        assert copy is not store
        with pytest.raises(Unavailable):
            copy.get("data", "k")
        copy.close()
        plain = pickle.loads(pickle.dumps(reedbed.aio.connect("127.0.0.1:1", window=5)))  # noqa: S301
        assert plain.options == Options("127.0.0.1:1", window=5)
    monkeypatch.setenv("REEDBED_ENDPOINT", "elsewhere:5")
    with reedbed.connect() as store:
        assert store.options.endpoint == "elsewhere:5"


def test_nobody_listens_there() -> None:
    with reedbed.connect("127.0.0.1:1", timeout=0.5) as store, pytest.raises(Unavailable) as gone:
        store.put("data", "k", b"x")
    assert not gone.value.maybe_applied
    assert isinstance(gone.value, ConnectionError)


def test_a_call_within_the_loop_would_wait_for_itself(sync_store: Store) -> None:
    seen: list[BaseException] = []
    done = threading.Event()

    def call() -> None:
        try:
            sync_store.get("data", "k")
        except ReedbedError as error:
            seen.append(error)
        done.set()

    sync_store._thread.soon(call)
    assert done.wait(5)
    assert isinstance(seen[0], InvalidArgument)


def test_a_lost_store_is_closed(cluster: Any, core_of: Callable[..., Core]) -> None:
    store = Store(Options("127.0.0.1:7300"), lambda _: AsyncStore(core_of(cluster)))
    store.create_bucket("data")
    core = store._store._core
    del store
    gc.collect()
    assert core._closed


def test_all_stores_share_one_thread(cluster: Any, core_of: Callable[..., Core]) -> None:
    before = threading.active_count()
    stores = [Store(Options("127.0.0.1:7300"), lambda _: AsyncStore(core_of(cluster))) for _ in range(20)]
    for number, store in enumerate(stores):
        store.create_bucket(f"bucket-{number}")
    assert threading.active_count() <= before + 1
    for store in stores[1:]:
        store.close()
    assert stores[0].stat_bucket("bucket-7").name == "bucket-7"
    stores[0].close()


def test_calls_under_way_end_with_the_store(sync_store: Store, cluster: Any) -> None:
    cluster.hang.add(methods.LOOKUP)
    with ThreadPoolExecutor(4) as pool:
        gets = [pool.submit(sync_store.get, "data", "k") for _ in range(4)]
        while cluster.calls[methods.LOOKUP] < 4:
            threading.Event().wait(0.001)
        sync_store.close()
        for get in gets:
            with pytest.raises(Unavailable):
                get.result(5)


def test_an_unknown_setting_is_the_callers_error(sync_store: Store, tmp_path: Any) -> None:
    sync_store.put("data", "k", b"x")
    with pytest.raises(TypeError, match="wrong"):
        sync_store.get_file("data", "k", tmp_path / "file", wrong=1)
    with pytest.raises(TypeError, match="wrong"):
        sync_store.open("data", "k", "rb", wrong=1)
    assert sync_store.get("data", "k") == b"x"


def test_an_interrupt_at_any_moment_leaves_the_store_usable(sync_store: Store) -> None:
    """Interrupts at many different instructions of a call: it returns, or raises KeyboardInterrupt, and never hangs."""
    seen = set()
    for count in range(1, 120):
        left = count

        def trace(frame: Any, event: str, argument: Any) -> Any:
            nonlocal left
            if frame.f_code.co_filename.endswith("loop_thread.py"):
                left -= 1
                if not left:
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            sync_store.put("data", "k", b"x")
            seen.add("returned")
        except KeyboardInterrupt:
            seen.add("interrupted")
        finally:
            sys.settrace(None)
    assert seen == {"returned", "interrupted"}
    assert sync_store.get("data", "k") == b"x"


def test_a_collection_within_a_call_may_use_the_store(sync_store: Store) -> None:
    """What the garbage collector finalises in the midst of a call (an iterator left early) calls the store itself."""
    sync_store.put_many("data", {f"k{number}": b"x" for number in range(9)})
    rows = sync_store.list("data")
    next(rows)
    check = sync_store._thread.check

    def collecting() -> None:
        nonlocal rows
        rows = iter(())  # type: ignore[assignment]
        check()

    sync_store._thread.check = collecting  # type: ignore[method-assign]
    sync_store.put("data", "k", b"y")
    assert sync_store.get("data", "k") == b"y"


def in_child(work: Callable[[], None]) -> str:
    """Forks; returns the name of the error that `work` ends with in the child, empty for none."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told to the parent
            os.write(into, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(into)
    os.waitpid(child, 0)
    with open(out, "rb") as told:
        return told.read().decode()


def test_a_new_store_after_a_fork_says_why_it_cannot_work(sync_store: Store) -> None:
    """gRPC in a process forked while it was in use would be silent until the deadline."""

    def connect() -> None:
        with reedbed.connect("127.0.0.1:1", timeout=20) as store:
            store.list_buckets()

    sync_store.put("data", "k", b"x")
    assert in_child(connect) == "ForkedStore"
    sync_store.close()
    assert in_child(connect) == "ForkedStore", "gRPC's threads are there until the process ends"


def test_a_file_keeps_its_store(cluster: Any, core_of: Callable[..., Core]) -> None:
    def made() -> Store:
        return Store(Options("127.0.0.1:7300"), lambda _: AsyncStore(core_of(cluster)))

    with made() as store:
        store.create_bucket("data")
        store.put("data", "k", b"kept")
    reader = made().open("data", "k")
    writer = made().open("data", "new", "wb")
    gc.collect()
    assert reader.read() == b"kept"
    writer.write(b"kept too")
    writer.close()
    with made() as store:
        assert store.get("data", "new") == b"kept too"


BLOCKED = """
import asyncio, threading
from reedbed.client.threads import ForeignThreads

async def main():
    threads, begun = ForeignThreads(), threading.Event()
    def block():
        begun.set()
        threading.Event().wait()
    call = asyncio.create_task(threads.run(block))
    while not begun.is_set():
        await asyncio.sleep(0.01)
    call.cancel()
    threads.close()

asyncio.run(main())
print("ended")
"""


def test_a_source_that_blocks_does_not_keep_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"ended\n"
