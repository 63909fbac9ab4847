"""The SDK's asynchronous core: every operation of a store as a coroutine or an asynchronous iterator."""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Literal, Self, overload

from reedbed.client import arguments
from reedbed.client.catalog import UploadInfo
from reedbed.client.changes import copy_object, delete_many, delete_object
from reedbed.client.core import Core
from reedbed.client.files import ObjectReader, ObjectWriter, check_mode
from reedbed.client.localfile import get_file, local_path
from reedbed.client.many import ManyWriter, Missing, Results
from reedbed.client.opening import Opening, open_object
from reedbed.client.options import Options
from reedbed.client.sources import PathSource, is_buffer, source_of
from reedbed.client.spec import PutSpec, spec_of
from reedbed.client.targets import Target
from reedbed.common.errors import NotFound, ReedbedError
from reedbed.common.ids import parse_id
from reedbed.protos import methods
from reedbed.protos.catalog_pb2 import BackupReply, BackupRequest
from reedbed.protos.types import BucketInfo, CommonPrefix, ObjectInfo

Progress = Callable[[int], None]


def _ignored(count: int) -> None:
    """Where nobody follows the progress."""


class AsyncStore:
    """A cluster's objects. Made by `reedbed.aio.connect`; belongs to the event loop that uses it first, and pickles as
    its options.

    Every operation raises the errors of `reedbed.common.errors`: InvalidArgument for what can never be right, NotFound
    for what is not there, Unavailable and DeadlineExceeded where the cluster does not answer, DataLoss and Corrupt.
    Those of operations that change something say in `maybe_applied` whether their outcome is unknown.
    Ranges count bytes; `end` is exclusive and clipped to the size, a start past the end is InvalidArgument.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def options(self) -> Options:
        return self._core.options

    async def __aenter__(self) -> Self:
        self._core.enter()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __reduce__(self) -> tuple[object, ...]:
        from reedbed.client.connect import open_async  # which imports us

        return open_async, (self.options,)

    async def close(self) -> None:
        """Ends what is under way; open writers are abandoned."""
        await self._core.close()

    # --- buckets ---

    async def create_bucket(self, bucket: str, *, versioned: bool = False, profile: str | None = None) -> BucketInfo:
        """Makes a bucket. AlreadyExists; InvalidArgument for a profile that the cluster has too few devices for."""
        self._core.enter()
        name, code = arguments.bucket_name(bucket), arguments.profile_or_none(profile)
        keep = arguments.flag(versioned, "versioned")
        return await self._core.catalog.create_bucket(name, keep, code, self._core.deadline())

    async def list_buckets(self) -> list[BucketInfo]:
        """All buckets, by name."""
        self._core.enter()
        return [info async for page in self._core.catalog.list_buckets(self._core.deadline) for info in page]

    async def delete_bucket(self, bucket: str) -> None:
        """Removes an empty bucket. NotFound, NotEmpty."""
        self._core.enter()
        await self._core.catalog.delete_bucket(arguments.bucket_name(bucket), self._core.deadline())

    async def stat_bucket(self, bucket: str) -> BucketInfo:
        self._core.enter()
        return await self._core.catalog.stat_bucket(arguments.bucket_name(bucket), self._core.deadline())

    # --- whole objects ---

    async def put(
        self,
        bucket: str,
        key: str,
        data: Any,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        profile: str | None = None,
        if_none_match: bool = False,
        if_match: str | None = None,
        checksum: str | None = None,
    ) -> ObjectInfo:
        """Stores bytes, a buffer, a binary file object (from its position), or an iterator of bytes, of any length.

        PreconditionFailed where the condition does not hold, Corrupt where `checksum` is not that of the bytes; then
        nothing is visible. A buffer must not change until the put returns; one that does is refused.
        """
        self._core.enter()
        target = self._target(bucket, key)
        condition = arguments.condition_of(if_none_match, if_match)
        spec = spec_of(target, metadata, content_type, profile, condition, checksum)
        if is_buffer(data):
            return await self._core.putter.put_buffer(arguments.flat_view(data), not isinstance(data, bytes), spec)
        return await self._core.putter.put_source(source_of(data, self._core.threads), spec)

    async def put_file(
        self,
        bucket: str,
        key: str,
        path: str | os.PathLike[str],
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        profile: str | None = None,
        if_none_match: bool = False,
        if_match: str | None = None,
        checksum: str | None = None,
        progress: Progress | None = None,
    ) -> ObjectInfo:
        """Stores a local file. OSError where it cannot be read, InvalidArgument where it is seen to change meanwhile.

        `progress` is called with the number of bytes each time some have become durable.
        """
        self._core.enter()
        target = self._target(bucket, key)
        condition = arguments.condition_of(if_none_match, if_match)
        spec = spec_of(target, metadata, content_type, profile, condition, checksum)
        source = await self._core.threads.run(PathSource, local_path(path), self._core.threads)
        try:
            return await self._core.putter.put_source(source, spec, source.check, progress or _ignored)
        finally:
            source.close()

    async def get(
        self, bucket: str, key: str, start: int = 0, end: int | None = None, version: str | None = None
    ) -> bytes:
        """The bytes of an object, or of a range of it."""
        self._core.enter()
        first, last = arguments.span(start, end)
        return await self._core.getter.get(self._target(bucket, key, version), first, last)

    async def get_into(self, bucket: str, key: str, buffer: Any, start: int = 0, version: str | None = None) -> int:
        """Fills a writable, C-contiguous buffer (bytearray, numpy array, CPU tensor) with the object's bytes from
        `start`, without a copy; returns how many fitted or were left. After an error the buffer may hold anything."""
        self._core.enter()
        view, first = arguments.writable_view(buffer), arguments.position(start, "start")
        return await self._core.getter.get_into(self._target(bucket, key, version), view, first)

    async def get_iter(
        self, bucket: str, key: str, start: int = 0, end: int | None = None, version: str | None = None
    ) -> AsyncIterator[memoryview]:
        """The bytes of a range in pieces of up to 16 MiB, in order, read ahead in bounded memory."""
        self._core.enter()
        first, last = arguments.span(start, end)
        async for piece in self._core.getter.get_iter(self._target(bucket, key, version), first, last):
            yield piece

    async def get_file(
        self,
        bucket: str,
        key: str,
        path: str | os.PathLike[str],
        *,
        version: str | None = None,
        progress: Progress | None = None,
    ) -> ObjectInfo:
        """Writes an object into a local file, which appears, or changes, only once all bytes are there and checked."""
        self._core.enter()
        target = self._target(bucket, key, version)
        return await get_file(self._core.getter, target, local_path(path), progress or _ignored)

    @overload
    def open(self, bucket: str, key: str, mode: Literal["rb"] = "rb", **settings: Any) -> Opening[ObjectReader]: ...
    @overload
    def open(self, bucket: str, key: str, mode: Literal["wb", "xb"], **settings: Any) -> Opening[ObjectWriter]: ...
    def open(self, bucket: str, key: str, mode: str = "rb", **settings: Any) -> Opening[Any]:
        """An object as a file: `async with store.open(...) as f`, or `f = await store.open(...)`.

        "rb" reads (setting: `version`); "wb" and "xb" (only if there is none) write, commit on close, and abandon on
        an error or when not closed (settings: `metadata`, `content_type`, `profile`, `if_match`, `checksum`).
        Other modes are InvalidArgument.
        """
        known = check_mode(mode)
        return Opening(lambda: open_object(self._core, bucket, key, known, **settings))

    # --- many objects ---

    async def put_many(
        self, bucket: str, items: Mapping[str, Any] | Iterable[tuple[str, Any]], *, profile: str | None = None
    ) -> Results:
        """Puts a mapping, or pairs, of key and data, small ones packed together; {key: its info or its error}."""
        self._core.enter()
        code = arguments.profile_or_none(profile)

        def put_one(key: str, data: object) -> asyncio.Task[ObjectInfo]:
            return asyncio.create_task(self.put(bucket, key, data, profile=profile))

        def plain(target: Target) -> PutSpec:
            return PutSpec(target, {}, "", code, None, None)

        writer = ManyWriter(self._core.putter, bucket, plain, put_one, self._core.options.window)
        return await writer.write(items, self._core.threads)

    async def get_many(
        self, bucket: str, keys: Iterable[str], *, missing: Missing = "raise"
    ) -> AsyncIterator[tuple[str, bytes | None]]:
        """(key, bytes) in the order of the keys, read ahead; with missing="none" None where there is no object."""
        self._core.enter()
        async for pair in self._core.many.read(bucket, keys, missing):
            yield pair

    async def delete_many(self, bucket: str, keys: Iterable[str]) -> dict[str, bool | ReedbedError]:
        """Deletes the latest version of each; {key: whether there was one, or its error}."""
        self._core.enter()
        arguments.bucket_name(bucket)
        return await delete_many(self._core, bucket, keys)

    # --- names ---

    async def stat(self, bucket: str, key: str, version: str | None = None) -> ObjectInfo:
        self._core.enter()
        return await self._core.getter.stat(self._target(bucket, key, version))

    async def exists(self, bucket: str, key: str, version: str | None = None) -> bool:
        """Whether there is such an object; False also where there is no such bucket."""
        try:
            await self.stat(bucket, key, version)
        except NotFound:
            return False
        return True

    async def copy(
        self,
        source_bucket: str,
        source_key: str,
        bucket: str,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
        version: str | None = None,
        if_none_match: bool = False,
        if_match: str | None = None,
    ) -> ObjectInfo:
        """Makes an object of the same bytes; moves none. What is given of metadata and content type replaces the
        source's. The condition is on the object that is made."""
        self._core.enter()
        source = self._target(source_bucket, source_key, version)
        target = self._target(bucket, key)
        condition = arguments.condition_of(if_none_match, if_match)
        arguments.metadata_of(metadata, content_type)
        return await copy_object(self._core, source, target, metadata, content_type, condition)

    async def delete(self, bucket: str, key: str, *, version: str | None = None, if_match: str | None = None) -> bool:
        """Deletes an object, or one version of it. Returns whether there was something; a missing key is no error.

        `if_match` is the etag of the latest version, also where another one is deleted. PreconditionFailed.
        """
        self._core.enter()
        condition = arguments.condition_of(False, if_match)
        wanted = arguments.version_id(version)
        target = self._target(bucket, key)
        return await delete_object(self._core, target, wanted, condition)

    async def list(
        self, bucket: str, prefix: str = "", delimiter: str | None = None, start_after: str | None = None
    ) -> AsyncIterator[ObjectInfo | CommonPrefix]:
        """Objects in the bytewise order of their keys; with a delimiter, what goes on past it is one CommonPrefix."""
        async for page in self.list_pages(bucket, prefix, delimiter, start_after):
            for row in page:
                yield row

    async def list_pages(
        self, bucket: str, prefix: str = "", delimiter: str | None = None, start_after: str | None = None
    ) -> AsyncIterator[builtins.list[ObjectInfo | CommonPrefix]]:
        """`list` by pages of up to 1,000 rows."""
        self._core.enter()
        name, start = arguments.bucket_name(bucket), arguments.text_bytes(prefix, "prefix")
        border, after = arguments.text_bytes(delimiter, "delimiter"), arguments.text_bytes(start_after, "start_after")
        async for page in self._core.catalog.list_objects(name, start, border, after, self._core.deadline):
            yield page

    async def list_versions(self, bucket: str, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """All versions, delete markers too: keys in order, the newest version of each first."""
        async for page in self.version_pages(bucket, prefix):
            for info in page:
                yield info

    async def version_pages(self, bucket: str, prefix: str = "") -> AsyncIterator[builtins.list[ObjectInfo]]:
        """`list_versions` by pages."""
        self._core.enter()
        name, start = arguments.bucket_name(bucket), arguments.text_bytes(prefix, "prefix")
        async for page in self._core.catalog.list_versions(name, start, self._core.deadline):
            yield page

    # --- uploads and the cluster ---

    async def list_uploads(self, bucket: str) -> builtins.list[UploadInfo]:
        """Long uploads into the bucket that have begun and not ended."""
        self._core.enter()
        pages = self._core.catalog.list_uploads(arguments.bucket_name(bucket), self._core.deadline)
        return [info async for page in pages for info in page]

    async def abort_upload(self, upload: str) -> None:
        """Ends an upload by its id; what it has stored is given up. NotFound."""
        self._core.enter()
        id_ = arguments.version_id(upload)
        await self._core.catalog.abort_upload(parse_id("") if id_ is None else id_, self._core.deadline())

    async def status(self) -> dict[str, Any]:
        """What catalogd tells of the cluster: devices, placement groups, capacity and what needs repair."""
        self._core.enter()
        return await self._core.catalog.status(self._core.deadline())

    async def operate(self, order: dict[str, Any]) -> dict[str, Any]:
        """Gives catalogd an operator's order, as `reedbed device` does: {"do": name, ...}; returns what came of it."""
        self._core.enter()
        return await self._core.catalog.operate(order, self._core.deadline())

    async def held(self, order: dict[str, Any]) -> dict[str, Any]:
        """Extents that a catalog which was begun anew keeps for an operator: {"do": "list"} or {"do": "delete"}."""
        self._core.enter()
        return await self._core.catalog.operate(order, self._core.deadline(), methods.HELD)

    async def acknowledge(self) -> dict[str, Any]:
        """Says that what a catalog which was begun anew lacks has been read."""
        self._core.enter()
        return await self._core.catalog.operate({"do": "acknowledge"}, self._core.deadline(), methods.ACKNOWLEDGE)

    async def backup(self, request: BackupRequest) -> BackupReply:
        """One step of a backup of the catalog, as `reedbed catalog backup` takes it."""
        self._core.enter()
        return await self._core.catalog.backup(request, self._core.deadline())

    @property
    def endpoint(self) -> str:
        """Of the catalogd."""
        return self._core.options.endpoint

    def metrics(self) -> dict[str, int]:
        """Counters of this client's own work, by name, such as `reads.decoded`."""
        return self._core.metrics.snapshot()

    # --- inside ---

    def _target(self, bucket: object, key: object, version: object = None) -> Target:
        return Target(arguments.bucket_name(bucket), arguments.key_bytes(key), arguments.version_id(version))
