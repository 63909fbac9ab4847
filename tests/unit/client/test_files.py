"""Objects as files: against io.BytesIO, and the promise of a writer: all at close, or nothing."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.client.core import Core
from reedbed.client.files import AHEAD_MAX, PIPE_MAX
from reedbed.client.options import Options
from reedbed.client.store import AsyncStore
from reedbed.client.sync_store import Store
from reedbed.common.errors import AlreadyExists, InvalidArgument, NotFound
from reedbed.common.limits import MIB
from reedbed.protos import methods

SIZE = 900_000
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.one_of(st.integers(0, 5), st.integers(0, 400_000), st.just(-1))),
        st.tuples(st.just("readinto"), st.integers(0, 300_000)),
        st.tuples(st.just("seek"), st.integers(0, SIZE + 1000)),
        st.tuples(st.just("skip"), st.integers(-200_000, 200_000)),
        st.tuples(st.just("back"), st.integers(-SIZE, 10)),
        st.tuples(st.just("readline"), st.just(0)),
    ),
    max_size=25,
)


@pytest.fixture(scope="module")
def model(new_cluster: Callable[..., Any], core_of: Callable[..., Core]) -> Any:
    """A store with one object, and its bytes."""
    cluster = new_cluster()
    data = random.Random(7).randbytes(SIZE)
    with Store(Options("127.0.0.1:7300"), lambda _: AsyncStore(core_of(cluster))) as store:
        store.create_bucket("data")
        store.put("data", "k", data)
        yield store, data


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_reading_is_as_of_bytesio(model: Any, steps: list[tuple[str, int]]) -> None:
    store, data = model
    twin = io.BytesIO(data)
    with store.open("data", "k", "rb") as file:
        for step, value in steps:
            if step == "read":
                assert file.read(value) == twin.read(value)
            elif step == "readinto":
                mine, theirs = bytearray(value), bytearray(value)
                assert file.readinto(mine) == twin.readinto(theirs)
                assert mine == theirs
            elif step == "seek":
                assert file.seek(value) == twin.seek(value)
            elif step == "skip":
                target = max(0, twin.tell() + value)
                assert file.seek(target - file.tell(), io.SEEK_CUR) == twin.seek(target)
            elif step == "back":
                assert file.seek(value, io.SEEK_END) == twin.seek(value, io.SEEK_END)
            else:
                assert file.readline(100) == twin.readline(100)
            assert file.tell() == twin.tell()


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_the_asynchronous_reader_too(
    new_cluster: Callable[..., Any], core_of: Callable[..., Core], steps: list[tuple[str, int]]
) -> None:
    data = random.Random(8).randbytes(SIZE)

    async def run() -> None:
        async with AsyncStore(core := core_of(new_cluster())) as store:
            await store.create_bucket("data")
            await store.put("data", "k", data)
            twin = io.BytesIO(data)
            async with store.open("data", "k") as file:
                for step, value in steps:
                    if step == "read":
                        assert await file.read(value) == twin.read(value)
                    elif step == "readinto":
                        mine, theirs = bytearray(value), bytearray(value)
                        assert await file.readinto(mine) == twin.readinto(theirs)
                        assert mine == theirs
                    elif step == "seek":
                        assert file.seek(value) == twin.seek(value)
                    elif step == "skip":
                        assert file.seek(value, io.SEEK_CUR) == twin.seek(value, io.SEEK_CUR)
                    elif step == "back":
                        assert file.seek(value, io.SEEK_END) == twin.seek(value, io.SEEK_END)
                    assert file.tell() == twin.tell()
            assert core.getter.buffered == 0

    asyncio.run(run())


def test_reading_ahead_asks_little_and_holds_little(
    cluster: Any, core_of: Callable[..., Core], some_bytes: Callable[[int], bytes]
) -> None:
    data = some_bytes(40 * MIB)
    core = core_of(cluster)
    with Store(Options("127.0.0.1:7300"), lambda _: AsyncStore(core)) as store:
        store.create_bucket("data")
        store.put("data", "k", data)
        calls = cluster.calls[methods.READ_SHARDS]
        with store.open("data", "k", "rb") as file:
            at = 0
            while piece := file.read(50_000):
                assert piece == data[at : at + len(piece)]
                at += len(piece)
        assert at == len(data)
        assert cluster.calls[methods.READ_SHARDS] - calls < 80
        assert core.getter.buffered_most <= AHEAD_MAX
        core.getter.buffered_most = 0
        with store.open("data", "k", "rb") as file:
            for at in (30 * MIB, 5, 20 * MIB, 7 * MIB):
                file.seek(at)
                assert file.read(10) == data[at : at + 10]
        assert core.getter.buffered_most <= MIB


def test_a_reader_stays_with_its_version(sync_store: Store) -> None:
    sync_store.create_bucket("kept", versioned=True)
    first = sync_store.put("kept", "k", b"first")
    file = sync_store.open("kept", "k")
    sync_store.put("kept", "k", b"second")
    assert file.info.version == first.version
    assert file.read() == b"first"
    file.close()
    with pytest.raises(ValueError):
        file.read()
    with sync_store.open("kept", "k", version=first.version) as again:
        assert again.read() == b"first"
    with pytest.raises(NotFound):
        sync_store.open("kept", "none")


@pytest.mark.parametrize("mode", ["r", "w", "rt", "wt", "x", "a", "ab", "r+b", "wb+", "", "q", "bb", None, 5])
def test_other_modes_are_refused_by_name(sync_store: Store, mode: Any) -> None:
    with pytest.raises(InvalidArgument):
        sync_store.open("data", "k", mode)


def test_text_is_not_advised_where_it_would_commit_on_an_error(sync_store: Store) -> None:
    sync_store.put("data", "k", b"x")
    with pytest.raises(InvalidArgument, match="TextIOWrapper"):
        sync_store.open("data", "k", "r")  # type: ignore[call-overload]
    with pytest.raises(InvalidArgument, match="encode"):
        sync_store.open("data", "k", "w")  # type: ignore[call-overload]
    with pytest.raises(InvalidArgument, match="metadata is a setting of writing"):
        sync_store.open("data", "k", "rb", metadata={})


def test_a_writer_commits_at_close(sync_store: Store, some_bytes: Callable[[int], bytes]) -> None:
    data = some_bytes(10 * MIB + 5)
    with sync_store.open("data", "k", "wb", metadata={"a": "b"}) as file:
        reused = bytearray(70_000)
        for at in range(0, len(data), len(reused)):
            piece = data[at : at + len(reused)]
            reused[: len(piece)] = piece
            assert file.write(memoryview(reused)[: len(piece)]) == len(piece)
        assert file.tell() == len(data)
        assert not sync_store.exists("data", "k")
        with pytest.raises(InvalidArgument):
            file.info  # noqa: B018
    assert file.info.size == len(data)
    assert dict(file.info.metadata) == {"a": "b"}
    assert sync_store.get("data", "k") == data
    file.close()
    with pytest.raises(ValueError):
        file.write(b"more")
    with sync_store.open("data", "empty", "wb"):
        pass
    assert sync_store.get("data", "empty") == b""


def test_libraries_can_write_and_read(sync_store: Store) -> None:
    array = np.arange(100_000, dtype=np.float64)
    with sync_store.open("data", "npy", "wb") as file:
        np.save(file, array)
    with sync_store.open("data", "npy", "rb") as source:
        assert (np.load(source) == array).all()
    with sync_store.open("data", "pickle", "wb") as file:
        pickle.dump({"a": array}, file)
    with sync_store.open("data", "pickle", "rb") as source:
        assert (pickle.load(source)["a"] == array).all()  # noqa: S301
    with io.TextIOWrapper(sync_store.open("data", "json", "wb"), encoding="utf-8") as text:
        json.dump({"a": "é"}, text)
    with io.TextIOWrapper(sync_store.open("data", "json", "rb"), encoding="utf-8") as text:
        assert json.load(text) == {"a": "é"}


def test_a_writer_that_fails_or_is_lost_leaves_nothing(sync_store: Store, cluster: Any) -> None:
    def fail() -> None:
        with sync_store.open("data", "error", "wb") as file:
            file.write(bytes(3 * MIB))
            raise RuntimeError

    def lose() -> None:
        sync_store.open("data", "lost", "wb").write(b"x" * 100)
        gc.collect()

    with pytest.raises(RuntimeError):
        fail()
    with pytest.warns(ResourceWarning, match="not closed"):
        lose()
    given_up = sync_store.open("data", "given up", "wb")
    given_up.write(b"x")
    given_up.abandon()
    assert given_up.closed
    open_at_end = sync_store.open("data", "open", "wb")
    open_at_end.write(b"x")
    sync_store.put("data", "after", b"x")
    sync_store.close()
    assert [key for _, key in cluster.objects] == [b"after"]
    with pytest.raises(ConnectionError):
        open_at_end.close()


def test_exclusive_writers(sync_store: Store) -> None:
    with sync_store.open("data", "k", "xb") as file:
        file.write(b"1")
    with pytest.raises(FileExistsError):
        sync_store.open("data", "k", "xb")
    file = sync_store.open("data", "raced", "xb")
    file.write(b"mine")
    sync_store.put("data", "raced", b"theirs")
    with pytest.raises(AlreadyExists):
        file.close()
    assert sync_store.get("data", "raced") == b"theirs"
    with pytest.raises(NotFound):
        sync_store.open("none", "k", "wb")


async def test_a_writer_is_told_when_its_put_fails(store: AsyncStore, cluster: Any) -> None:
    file = await store.open("data", "k", "wb", checksum="crc32c:AAAAAA==")
    await file.write(b"x")
    with pytest.raises(OSError, match="crc32c"):
        await file.close()
    cluster.down.update(range(1, 9))
    file = await store.open("data", "k", "wb")

    async def write() -> None:
        for _ in range(100):
            await file.write(bytes(MIB))

    with pytest.raises(ConnectionError):
        await write()
    await file.abandon()
    assert not await store.exists("data", "k")


async def test_a_writer_holds_a_bounded_number_of_bytes(cluster: Any, core_of: Callable[..., Core]) -> None:
    async with AsyncStore(core_of(cluster, window=8 * MIB)) as store:
        await store.create_bucket("data")
        cluster.gate[methods.PUT_SHARD] = asyncio.Event()
        file = await store.open("data", "k", "wb")
        taken = 0

        async def write() -> None:
            nonlocal taken
            for _ in range(64):
                await file.write(bytes(MIB))
                taken += MIB

        writing = asyncio.create_task(write())
        done, _ = await asyncio.wait([writing], timeout=0.3)
        assert not done
        assert taken <= 8 * MIB + 8 * MIB + PIPE_MAX + 2 * MIB
        cluster.gate.pop(methods.PUT_SHARD).set()
        await writing
        await file.close()
        assert (await store.stat("data", "k")).size == 64 * MIB


async def test_a_reader_closed_during_a_read_says_so(store: AsyncStore, cluster: Any, until: Any) -> None:
    """It is the file that was closed, not the caller that was cancelled."""
    await store.put("data", "k", bytes(1000))
    reader = await store.open("data", "k")
    cluster.gate[methods.READ_SHARDS] = asyncio.Event()
    calls = cluster.calls[methods.READ_SHARDS]
    read = asyncio.create_task(reader.read())
    await until(lambda: cluster.calls[methods.READ_SHARDS] > calls)
    await reader.close()
    with pytest.raises(ValueError, match="closed file"):
        await read
    with pytest.raises(ValueError, match="closed file"):
        await reader.read()


async def test_a_cancelled_read_is_cancelled(store: AsyncStore, cluster: Any, until: Any) -> None:
    await store.put("data", "k", bytes(1000))
    async with store.open("data", "k") as reader:
        gate = cluster.gate[methods.READ_SHARDS] = asyncio.Event()
        calls = cluster.calls[methods.READ_SHARDS]
        read = asyncio.create_task(reader.read())
        await until(lambda: cluster.calls[methods.READ_SHARDS] > calls)
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
        gate.set()
        assert await reader.read() == bytes(1000)
