"""Put and get of all sizes and kinds, ranges, conditions, checksums, copies, deletes, listings."""

from __future__ import annotations

import asyncio
import gc
import io
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiofiles
import numpy as np
import pytest

from reedbed.client import put as put_module
from reedbed.client.core import Core
from reedbed.client.packer import PACK_MAX
from reedbed.client.sources import PathSource
from reedbed.client.store import AsyncStore
from reedbed.client.threads import ForeignThreads
from reedbed.common.checksums import crc32c, format_checksum
from reedbed.common.errors import (
    AlreadyExists,
    Corrupt,
    DataLoss,
    InvalidArgument,
    NotEmpty,
    NotFound,
    PreconditionFailed,
    StaleGeneration,
    Unavailable,
)
from reedbed.common.limits import MIB
from reedbed.ec.cut import extent_bytes
from reedbed.ec.profiles import Profile
from reedbed.protos import methods
from reedbed.protos.types import CommonPrefix, ObjectInfo

FULL = extent_bytes(Profile(2, 1))
SIZES = [0, 1, 65535, 65537, PACK_MAX, PACK_MAX + 1, FULL - 1, FULL, FULL + 1, 2 * FULL + 12345]


@pytest.mark.parametrize("size", SIZES)
async def test_every_size_round_trips(store: AsyncStore, some_bytes: Callable[[int], bytes], size: int) -> None:
    data = some_bytes(size)
    info = await store.put(
        "data", "k", data, metadata={"a": "b"}, content_type="text/x", checksum=format_checksum(crc32c(data))
    )
    assert (info.size, info.checksum) == (size, format_checksum(crc32c(data)))
    assert (dict(info.metadata), info.content_type, info.profile) == ({"a": "b"}, "text/x", "rs-2-1")
    assert await store.get("data", "k") == data
    assert b"".join([bytes(piece) async for piece in store.get_iter("data", "k")]) == data


async def test_all_kinds_of_data(store: AsyncStore, some_bytes: Callable[[int], bytes], tmp_path: Path) -> None:
    data = some_bytes(FULL + 777)

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(data), 100_003):
            yield data[at : at + 100_003]
            yield b""

    async def async_pieces() -> AsyncIterator[bytearray]:
        for piece in pieces():
            yield bytearray(piece)

    class OnlyRead:
        def __init__(self) -> None:
            self.file = io.BytesIO(data)

        def read(self, size: int) -> bytes:
            return self.file.read(min(size, 50_000))

    path = tmp_path / "file"
    path.write_bytes(data)
    array = np.frombuffer(data[: FULL + 776], dtype=np.uint16).reshape(2, -1)
    kinds: dict[str, Any] = {
        "bytearray": bytearray(data),
        "view": memoryview(data),
        "file": io.BytesIO(data),
        "read": OnlyRead(),
        "iterator": pieces(),
        "async": async_pieces(),
        "list": list(pieces()),
    }
    for key, kind in kinds.items():
        await store.put("data", key, kind)
        assert await store.get("data", key) == data, key
    await store.put("data", "array", array)
    assert await store.get("data", "array") == array.tobytes()
    async with aiofiles.open(path, "rb") as file:
        await store.put("data", "aiofiles", file)
    assert await store.get("data", "aiofiles") == data
    moved: list[int] = []
    await store.put_file("data", "path", path, progress=moved.append)
    assert sum(moved) == len(data)
    moved.clear()
    assert (await store.get_file("data", "path", tmp_path / "out", progress=moved.append)).size == len(data)
    assert (tmp_path / "out").read_bytes() == data
    assert sum(moved) == len(data)
    assert sorted(os.listdir(tmp_path)) == ["file", "out"]


async def test_what_is_not_bytes_is_refused(store: AsyncStore, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    with (tmp_path / "text").open() as text:
        for data in ("text", 5, None, {"a": b""}, [1], ["a"], io.StringIO("a"), text, np.zeros((4, 4))[:, 1]):
            with pytest.raises(InvalidArgument):
                await store.put("data", "k", data)
    with pytest.raises(InvalidArgument):
        await store.put_file("data", "k", tmp_path)
    with pytest.raises(FileNotFoundError):
        await store.put_file("data", "k", tmp_path / "none")
    assert not await store.exists("data", "k")


async def test_arguments_are_checked_by_name(store: AsyncStore) -> None:
    put: dict[str, Any] = {}
    for put in (
        {"metadata": {"a": 1}},
        {"metadata": 5},
        {"content_type": 5},
        {"profile": "rs-0-1"},
        {"profile": 4},
        {"if_none_match": 1},
        {"if_match": 1},
        {"if_none_match": True, "if_match": '"x"'},
        {"checksum": "md5:abc"},
        {"checksum": 7},
    ):
        with pytest.raises(InvalidArgument):
            await store.put("data", "k", b"x", **put)
    for bucket, key in (("NO", "k"), (5, "k"), ("data", ""), ("data", b"k"), ("data", "x" * 1025), ("data", "\ud800")):
        with pytest.raises(InvalidArgument):
            await store.put(bucket, key, b"x")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        await store.get("data", "k", version="xyz")


async def test_ranges(store: AsyncStore, some_bytes: Callable[[int], bytes]) -> None:
    data = some_bytes(2 * FULL + 100)
    await store.put("data", "k", data)
    for start, end in ((0, 0), (0, 1), (FULL - 1, FULL + 1), (5, None), (len(data), None), (10, 1 << 60), (7, 7)):
        assert await store.get("data", "k", start, end) == data[start:end]
    for start, end in ((len(data) + 1, None), (-1, None), (5, 4), (True, None), ("0", None), (0, -1)):
        with pytest.raises(InvalidArgument):
            await store.get("data", "k", start, end)  # type: ignore[arg-type]
    assert await store.get("data", "k", np.int64(3), np.int64(9)) == data[3:9]  # type: ignore[arg-type]


async def test_get_into(store: AsyncStore, some_bytes: Callable[[int], bytes]) -> None:
    data = some_bytes(FULL + 8)
    await store.put("data", "k", data)
    array = np.zeros((FULL + 8) // 4, dtype=np.float32).reshape(2, -1)
    assert await store.get_into("data", "k", array) == len(data)
    assert array.tobytes() == data
    small = bytearray(10)
    assert await store.get_into("data", "k", small, start=3) == 10
    assert small == data[3:13]
    large = bytearray(b"\xff" * 20)
    assert await store.get_into("data", "k", large, start=len(data) - 5) == 5
    assert large == data[-5:] + b"\xff" * 15
    assert await store.get_into("data", "k", bytearray()) == 0
    for buffer in (b"read only", np.zeros((4, 4))[:, 1], 5, "text"):
        with pytest.raises(InvalidArgument):
            await store.get_into("data", "k", buffer)


@pytest.mark.parametrize("size", [100, FULL + 5])
async def test_a_wrong_checksum_makes_nothing_visible(
    store: AsyncStore, some_bytes: Callable[[int], bytes], size: int
) -> None:
    data = some_bytes(size)
    for source in (data, io.BytesIO(data)):
        with pytest.raises(Corrupt):
            await store.put("data", "k", source, checksum="crc32c:AAAAAA==")
    assert not await store.exists("data", "k")


@pytest.mark.parametrize("size", [100, FULL, FULL + 5])
async def test_a_buffer_that_changes_is_refused(store: AsyncStore, cluster: Any, size: int) -> None:
    data = bytearray(size)
    cluster.gate[methods.PUT_SHARD] = asyncio.Event()
    cluster.entered[methods.PUT_SHARD] = asyncio.Event()
    put = asyncio.create_task(store.put("data", "k", data))
    await cluster.entered[methods.PUT_SHARD].wait()
    data[-1] ^= 1
    cluster.gate.pop(methods.PUT_SHARD).set()
    with pytest.raises(InvalidArgument, match="changed"):
        await put
    assert not await store.exists("data", "k")


async def test_a_file_that_changes_is_refused(store: AsyncStore, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(FULL + 5))

    def change(_: int) -> None:
        with open(path, "ab") as file:
            file.write(b"more")

    # appended to while it is read: after the first extent
    path.write_bytes(bytes(8 * FULL))
    with pytest.raises(InvalidArgument, match="changed"):
        await store.put_file("data", "k", path, progress=change)
    assert not await store.exists("data", "k")


async def test_conditions(store: AsyncStore) -> None:
    first = await store.put("data", "k", b"1", if_none_match=True)
    with pytest.raises(PreconditionFailed):
        await store.put("data", "k", b"2", if_none_match=True)
    second = await store.put("data", "k", b"2", if_match=first.etag)
    with pytest.raises(PreconditionFailed):
        await store.put("data", "k", b"3", if_match=first.etag)
    with pytest.raises(PreconditionFailed):
        await store.delete("data", "k", if_match=first.etag)
    assert await store.delete("data", "k", if_match=second.etag)
    assert not await store.delete("data", "k")


async def test_buckets(store: AsyncStore) -> None:
    with pytest.raises(AlreadyExists):
        await store.create_bucket("data")
    for name in ("aaa", "bbb", "ccc", "zzz"):
        await store.create_bucket(name, versioned=True, profile="rs-4-2")
    assert [bucket.name for bucket in await store.list_buckets()] == ["aaa", "bbb", "ccc", "data", "zzz"]
    assert (await store.stat_bucket("aaa")).versioned
    await store.put("aaa", "k", b"x" * 100_000)
    assert (await store.stat("aaa", "k")).profile == "rs-4-2"
    with pytest.raises(NotEmpty):
        await store.delete_bucket("aaa")
    await store.delete_bucket("bbb")
    for call in (
        store.stat_bucket("bbb"),
        store.put("bbb", "k", b"x"),
        store.get("bbb", "k"),
        store.delete("bbb", "k"),
    ):
        with pytest.raises(NotFound):
            await call
    assert not await store.exists("bbb", "k")


async def test_list_and_versions(store: AsyncStore) -> None:
    await store.create_bucket("kept", versioned=True)
    keys = ["a/1", "a/2", "a/3", "b", "c//d", "c/e?#%", "é", "z\n\0"]
    await store.put_many("data", {key: key.encode() for key in keys})
    rows = [row async for row in store.list("data")]
    assert [row.key for row in rows if isinstance(row, ObjectInfo)] == sorted(keys, key=lambda key: key.encode())
    folders = [row async for row in store.list("data", delimiter="/")]
    assert [row.prefix for row in folders if isinstance(row, CommonPrefix)] == ["a/", "c/"]
    later = [row async for row in store.list("data", prefix="a/", start_after="a/1")]
    assert [row.key for row in later if isinstance(row, ObjectInfo)] == ["a/2", "a/3"]
    old = await store.put("kept", "k", b"old")
    await store.put("kept", "k", b"new")
    await store.delete("kept", "k")
    versions = [info async for info in store.list_versions("kept")]
    assert [info.delete_marker for info in versions] == [True, False, False]
    assert await store.get("kept", "k", version=old.version) == b"old"
    assert await store.delete("kept", "k", version=versions[0].version)
    assert await store.get("kept", "k") == b"new"
    for keys_bad in ("abc", 5, None):
        with pytest.raises(InvalidArgument):
            await store.delete_many("data", keys_bad)  # type: ignore[arg-type]
    results = await store.delete_many("data", [*keys, "none", "x" * 2000])
    assert [results[key] for key in keys] == [True] * len(keys)
    assert results["none"] is False
    assert isinstance(results["x" * 2000], InvalidArgument)


async def test_copy(store: AsyncStore, cluster: Any, some_bytes: Callable[[int], bytes]) -> None:
    data = some_bytes(FULL + 3)
    await store.put("data", "k", data, metadata={"a": "b"}, content_type="x/y")
    puts = cluster.calls[methods.PUT_SHARD]
    info = await store.copy("data", "k", "data", "k2")
    assert (dict(info.metadata), info.content_type) == ({"a": "b"}, "x/y")
    info = await store.copy("data", "k", "data", "k3", metadata={"c": "d"})
    assert (dict(info.metadata), info.content_type) == ({"c": "d"}, "x/y")
    info = await store.copy("data", "k", "data", "k4", content_type="z")
    assert (dict(info.metadata), info.content_type) == ({"a": "b"}, "z")
    assert await store.get("data", "k2") == data
    assert cluster.calls[methods.PUT_SHARD] == puts
    with pytest.raises(NotFound):
        await store.copy("data", "none", "data", "k5")
    with pytest.raises(PreconditionFailed):
        await store.copy("data", "k", "data", "k2", if_none_match=True)


async def test_a_version_that_is_gone_is_not_found(
    store: AsyncStore, cluster: Any, some_bytes: Callable[[int], bytes]
) -> None:
    """Its shards are gone and it is not there on second look: then nothing of another version may be returned."""
    await store.put("data", "k", some_bytes(FULL))
    cluster.gate[methods.READ_SHARDS] = asyncio.Event()
    cluster.entered[methods.READ_SHARDS] = asyncio.Event()
    get = asyncio.create_task(store.get("data", "k"))
    await cluster.entered[methods.READ_SHARDS].wait()
    cluster.drop_shards()
    await store.put("data", "k", b"another")
    cluster.gate.pop(methods.READ_SHARDS).set()
    with pytest.raises(NotFound):
        await get


async def test_replaced_slices_are_looked_up_again(
    store: AsyncStore, cluster: Any, some_bytes: Callable[[int], bytes]
) -> None:
    data = some_bytes(FULL)
    await store.put("data", "old", data)
    await store.put("data", "new", data)
    cluster.gate[methods.READ_SHARDS] = asyncio.Event()
    cluster.entered[methods.READ_SHARDS] = asyncio.Event()
    get = asyncio.create_task(store.get("data", "old"))
    await cluster.entered[methods.READ_SHARDS].wait()
    old, new = cluster.content("data", "old"), cluster.content("data", "new")
    for place in [place for place in cluster.shards if place[1] == old.slices[0].extent]:
        del cluster.shards[place]
    old.slices[:] = new.slices
    cluster.gate.pop(methods.READ_SHARDS).set()
    assert await get == data


async def test_an_unchanged_answer_is_loss(store: AsyncStore, cluster: Any, some_bytes: Callable[[int], bytes]) -> None:
    await store.put("data", "k", some_bytes(FULL))
    cluster.drop_shards()
    with pytest.raises(DataLoss):
        await store.get("data", "k")


async def test_wrong_content_is_never_returned(store: AsyncStore, cluster: Any, tmp_path: Path) -> None:
    """Blocks that match while the whole does not: the version's own checksum is what tells."""
    for size in (1000, FULL + 1000):
        await store.put("data", "k", bytes(size))
        cluster.content("data", "k").info.checksum ^= 1
        with pytest.raises(Corrupt):
            await store.get("data", "k")
        with pytest.raises(Corrupt):
            await store.get_into("data", "k", bytearray(size))
        with pytest.raises(Corrupt):
            await store.get_file("data", "k", tmp_path / "out")
        with pytest.raises(Corrupt):
            [piece async for piece in store.get_iter("data", "k")]
    assert os.listdir(tmp_path) == []


async def test_slices_come_page_by_page(store: AsyncStore, cluster: Any, some_bytes: Callable[[int], bytes]) -> None:
    cluster.slices_page = 2
    data = some_bytes(3000)
    infos = [await store.put("data", str(at), data[at : at + 300]) for at in range(0, 3000, 300)]
    whole = cluster.content("data", "0")
    for at in range(300, 3000, 300):
        whole.slices.extend(cluster.content("data", str(at)).slices)
    whole.info.size, whole.info.checksum = 3000, crc32c(data)
    assert len(infos) == 10
    assert await store.get("data", "0") == data
    assert await store.get("data", "0", 2950, 2960) == data[2950:2960]


@pytest.mark.parametrize("size", [100, FULL])
async def test_a_commit_refused_for_a_changed_cluster_is_done_anew(store: AsyncStore, cluster: Any, size: int) -> None:
    cluster.outcome_errors += [StaleGeneration("the PG moved"), Unavailable("the extent was dropped")]
    await store.put("data", "k", bytes(size))
    assert await store.get("data", "k") == bytes(size)
    cluster.outcome_errors += [StaleGeneration("the PG moved")]
    results = await store.put_many("data", {"m": bytes(100)})
    assert isinstance(results["m"], ObjectInfo)


async def test_long_puts_register_their_extents(
    cluster: Any, core_of: Callable[..., Core], some_bytes: Callable[[int], bytes], until: Any
) -> None:
    data = some_bytes(3 * FULL + 5)
    core = core_of(cluster)
    core.putter._register_after = 0.0
    async with AsyncStore(core) as store:
        await store.create_bucket("data")
        ready = asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            yield data[: 2 * FULL + 1]
            await ready.wait()
            yield data[2 * FULL + 1 :]

        put = asyncio.create_task(store.put("data", "k", pieces()))
        # both full parts, whose ids need not be in the order of the parts
        await until(lambda: cluster.uploads and len(next(iter(cluster.uploads.values()))[1]) == 2)
        (upload,) = await store.list_uploads("data")
        assert (upload.key, upload.bucket) == ("k", "data")
        assert upload.bytes == 2 * FULL
        # the horizon passes what is registered: the put must not fail for it
        first = next(iter(cluster.uploads.values()))[1]
        cluster.horizon = max(slice_.extent for slice_ in first)
        ready.set()
        await put
        assert await store.get("data", "k") == data
        assert not cluster.uploads

        async def breaks() -> AsyncIterator[bytes]:
            yield data[: 2 * FULL + 1]
            await until(lambda: cluster.uploads)
            raise OSError("the source broke")

        with pytest.raises(OSError, match="the source broke"):
            await store.put("data", "broken", breaks())
        assert not cluster.uploads
        assert not await store.exists("data", "broken")


async def test_a_cancelled_put_is_not_visible(store: AsyncStore, cluster: Any) -> None:
    for size in (100, FULL, 2 * FULL):
        cluster.gate[methods.PUT_SHARD] = asyncio.Event()
        cluster.entered[methods.PUT_SHARD] = asyncio.Event()
        put = asyncio.create_task(store.put("data", "k", bytes(size)))
        await cluster.entered[methods.PUT_SHARD].wait()
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        cluster.gate.pop(methods.PUT_SHARD).set()
        await store.put("data", "other", b"after")
        assert not await store.exists("data", "k")


async def test_streams_hold_a_bounded_number_of_bytes(
    cluster: Any, core_of: Callable[..., Core], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A put takes no more of its source than window and one extent more than has become durable; reads likewise."""
    window, total = 2 * FULL, 12 * FULL
    held = most = 0
    write = put_module.write_summed

    async def counted(*arguments: Any, **settings: Any) -> Any:
        nonlocal held
        written = await write(*arguments, **settings)
        held -= len(arguments[2])
        return written

    monkeypatch.setattr(put_module, "write_summed", counted)

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal held, most
        for _ in range(total // MIB):
            held += MIB
            most = max(most, held)
            yield bytes(MIB)

    core = core_of(cluster, window=window)
    async with AsyncStore(core) as store:
        await store.create_bucket("data")
        await store.put("data", "k", pieces())
        assert most <= window + FULL + MIB
        await store.get_file("data", "k", tmp_path / "out")
        assert (tmp_path / "out").stat().st_size == total
        assert core.getter.buffered == 0
        assert core.getter.buffered_most <= max(window, 16 * MIB)


async def test_get_file_replaces_only_files(store: AsyncStore, tmp_path: Path) -> None:
    await store.put("data", "k", b"new")
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    await store.get_file("data", "k", tmp_path / "link")
    assert (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()
    for path in (tmp_path, "/dev/null", "", "a\0b", 5):
        with pytest.raises(InvalidArgument):
            await store.get_file("data", "k", path)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        await store.get_file("data", "none", tmp_path / "none")
    assert not (tmp_path / "none").exists()


async def test_get_file_keeps_the_mode_and_takes_no_folder(store: AsyncStore, tmp_path: Path) -> None:
    await store.put("data", "k", b"new")
    (tmp_path / "private").touch(0o600)
    await store.get_file("data", "k", tmp_path / "private")
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
    with pytest.raises(InvalidArgument):
        await store.get_file("data", "k", f"{tmp_path}/folder/")
    assert os.listdir(tmp_path) == ["private"]


def test_a_file_that_nobody_waited_for_is_closed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    source = PathSource(tmp_path / "file", ForeignThreads())
    file = source._file
    del source
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


async def test_objects_of_python_are_no_bytes(store: AsyncStore) -> None:
    for data in (np.zeros(4, object), np.zeros(2, [("a", "f8"), ("b", "O")]), np.zeros(2, "M8[s]")):
        with pytest.raises(InvalidArgument):
            await store.put("data", "k", data)
        with pytest.raises(InvalidArgument):
            await store.get_into("data", "k", data)
    released = memoryview(b"gone")
    released.release()
    with pytest.raises(InvalidArgument):
        await store.put("data", "k", released)
    fields = np.zeros(2, [("Open", "f8"), ("O", "i4")])
    await store.put("data", "k", fields)
    assert await store.get("data", "k") == fields.tobytes()


async def test_status_and_metrics(store: AsyncStore) -> None:
    assert await store.status() == {"devices": 8}
    await store.put("data", "k", b"x")
    await store.get("data", "k")
    counts = store.metrics()
    assert (counts["puts.objects"], counts["gets.bytes"], counts["reads.direct"]) == (1, 1, 1)
