"""The synchronous face of the SDK: the asynchronous core in a background thread, usable from many threads."""

from __future__ import annotations

import builtins
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Self, overload

from reedbed.client.catalog import UploadInfo
from reedbed.client.files import ObjectReader, ObjectWriter, check_mode
from reedbed.client.loop_thread import LoopThread
from reedbed.client.many import Missing, Results
from reedbed.client.options import Options
from reedbed.client.store import AsyncStore
from reedbed.client.sync_files import ObjectFileReader, ObjectFileWriter
from reedbed.common.errors import ReedbedError
from reedbed.protos.types import BucketInfo, CommonPrefix, ObjectInfo


class Store:
    """A cluster's objects, for code that is not asynchronous. Made by `reedbed.connect`.

    Usable from many threads at once. After a fork it raises ForkedStore in the child. It pickles as its options, and
    connects anew where it is unpickled. The operations, and what they raise, are those of AsyncStore.
    """

    def __init__(self, options: Options, make: Callable[[Options], AsyncStore]) -> None:
        self._options = options
        self._make = make
        self._pid = os.getpid()
        self._thread = LoopThread()
        self._store = make(options)
        self._finalizer = weakref.finalize(self, _end, self._thread, self._store)

    @property
    def options(self) -> Options:
        return self._options

    def close(self) -> None:
        """Ends what is under way; open writers are abandoned. May be called twice, and in a forked child, where the
        parent's store is left alone."""
        if os.getpid() == self._pid:
            self._finalizer()

    def __enter__(self) -> Self:
        self._thread.check()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return Store, (self._options, self._make)

    # --- buckets ---

    def create_bucket(self, bucket: str, *, versioned: bool = False, profile: str | None = None) -> BucketInfo:
        """Makes a bucket. AlreadyExists; InvalidArgument for a profile that the cluster has too few devices for."""
        return self._thread.run(lambda: self._store.create_bucket(bucket, versioned=versioned, profile=profile))

    def list_buckets(self) -> builtins.list[BucketInfo]:
        """All buckets, by name."""
        return self._thread.run(self._store.list_buckets)

    def delete_bucket(self, bucket: str) -> None:
        """Removes an empty bucket. NotFound, NotEmpty."""
        self._thread.run(lambda: self._store.delete_bucket(bucket))

    def stat_bucket(self, bucket: str) -> BucketInfo:
        return self._thread.run(lambda: self._store.stat_bucket(bucket))

    # --- whole objects ---

    def put(
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

        Files and iterators are read in another thread than the caller's.
        """
        return self._thread.run(
            lambda: self._store.put(
                bucket,
                key,
                data,
                metadata=metadata,
                content_type=content_type,
                profile=profile,
                if_none_match=if_none_match,
                if_match=if_match,
                checksum=checksum,
            )
        )

    def put_file(self, bucket: str, key: str, path: str | os.PathLike[str], **settings: Any) -> ObjectInfo:
        """Stores a local file. Settings as of `put`, and `progress`, which is called in another thread."""
        return self._thread.run(lambda: self._store.put_file(bucket, key, path, **settings))

    def get(self, bucket: str, key: str, start: int = 0, end: int | None = None, version: str | None = None) -> bytes:
        """The bytes of an object, or of a range of it."""
        return self._thread.run(lambda: self._store.get(bucket, key, start, end, version))

    def get_into(self, bucket: str, key: str, buffer: Any, start: int = 0, version: str | None = None) -> int:
        """Fills a writable, C-contiguous buffer from `start` of the object; returns the number of bytes."""
        return self._thread.run(lambda: self._store.get_into(bucket, key, buffer, start, version))

    def get_iter(
        self, bucket: str, key: str, start: int = 0, end: int | None = None, version: str | None = None
    ) -> Iterator[memoryview]:
        """The bytes of a range in pieces of up to 16 MiB, in order, read ahead in bounded memory."""
        return self._thread.iterate(lambda: self._store.get_iter(bucket, key, start, end, version))

    def get_file(self, bucket: str, key: str, path: str | os.PathLike[str], **settings: Any) -> ObjectInfo:
        """Writes an object into a local file, which changes only once all bytes are there. Settings: `version` and
        `progress`."""
        return self._thread.run(lambda: self._store.get_file(bucket, key, path, **settings))

    @overload
    def open(self, bucket: str, key: str, mode: Literal["rb"] = "rb", **settings: Any) -> ObjectFileReader: ...
    @overload
    def open(self, bucket: str, key: str, mode: Literal["wb", "xb"], **settings: Any) -> ObjectFileWriter: ...
    def open(self, bucket: str, key: str, mode: str = "rb", **settings: Any) -> ObjectFileReader | ObjectFileWriter:
        """An object as a file: "rb" reads; "wb" and "xb" commit on close, abandon on error or when not closed."""
        known = check_mode(mode)

        async def begin() -> ObjectReader | ObjectWriter:
            file: ObjectReader | ObjectWriter = await self._store.open(bucket, key, known, **settings)  # type: ignore[call-overload]
            return file

        file = self._thread.run(begin)
        if isinstance(file, ObjectReader):
            return ObjectFileReader(self._thread, file, self)
        return ObjectFileWriter(self._thread, file, self)

    # --- many objects ---

    def put_many(
        self, bucket: str, items: Mapping[str, Any] | Iterable[tuple[str, Any]], *, profile: str | None = None
    ) -> Results:
        """Puts a mapping, or pairs, of key and data, small ones packed together; {key: its info or its error}."""
        return self._thread.run(lambda: self._store.put_many(bucket, items, profile=profile))

    def get_many(
        self, bucket: str, keys: Iterable[str], *, missing: Missing = "raise"
    ) -> Iterator[tuple[str, bytes | None]]:
        """(key, bytes) in the order of the keys, read ahead; with missing="none" None where there is no object."""
        return self._thread.iterate(lambda: self._store.get_many(bucket, keys, missing=missing))

    def delete_many(self, bucket: str, keys: Iterable[str]) -> dict[str, bool | ReedbedError]:
        """Deletes the latest version of each; {key: whether there was one, or its error}."""
        # drawn here: an iterator of the caller's may block, or use this store
        names = builtins.list(keys) if isinstance(keys, Iterable) and not isinstance(keys, str | bytes) else keys
        return self._thread.run(lambda: self._store.delete_many(bucket, names))

    # --- names ---

    def stat(self, bucket: str, key: str, version: str | None = None) -> ObjectInfo:
        return self._thread.run(lambda: self._store.stat(bucket, key, version))

    def exists(self, bucket: str, key: str, version: str | None = None) -> bool:
        """Whether there is such an object; False also where there is no such bucket."""
        return self._thread.run(lambda: self._store.exists(bucket, key, version))

    def copy(self, source_bucket: str, source_key: str, bucket: str, key: str, **settings: Any) -> ObjectInfo:
        """Makes an object of the same bytes; moves none. Settings: `metadata`, `content_type`, `version` (of the
        source), `if_none_match`, `if_match`."""
        return self._thread.run(lambda: self._store.copy(source_bucket, source_key, bucket, key, **settings))

    def delete(self, bucket: str, key: str, *, version: str | None = None, if_match: str | None = None) -> bool:
        """Deletes an object, or one version of it. Returns whether there was something; a missing key is no error."""
        return self._thread.run(lambda: self._store.delete(bucket, key, version=version, if_match=if_match))

    def list(
        self, bucket: str, prefix: str = "", delimiter: str | None = None, start_after: str | None = None
    ) -> Iterator[ObjectInfo | CommonPrefix]:
        """Objects in the bytewise order of their keys; with a delimiter, what goes on past it is one CommonPrefix."""
        for page in self._thread.iterate(lambda: self._store.list_pages(bucket, prefix, delimiter, start_after)):
            yield from page

    def list_versions(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        """All versions, delete markers too: keys in order, the newest version of each first."""
        for page in self._thread.iterate(lambda: self._store.version_pages(bucket, prefix)):
            yield from page

    # --- uploads and the cluster ---

    def list_uploads(self, bucket: str) -> builtins.list[UploadInfo]:
        """Long uploads into the bucket that have begun and not ended."""
        return self._thread.run(lambda: self._store.list_uploads(bucket))

    def abort_upload(self, upload: str) -> None:
        """Ends an upload by its id; what it has stored is given up. NotFound."""
        self._thread.run(lambda: self._store.abort_upload(upload))

    def status(self) -> dict[str, Any]:
        """What catalogd tells of the cluster: devices, placement groups, capacity and what needs repair."""
        return self._thread.run(self._store.status)

    def operate(self, order: dict[str, Any]) -> dict[str, Any]:
        """Gives catalogd an operator's order, as `reedbed device` does: {"do": name, ...}; returns what came of it."""
        return self._thread.run(lambda: self._store.operate(order))

    def held(self, order: dict[str, Any]) -> dict[str, Any]:
        """Extents that a catalog which was begun anew keeps for an operator: {"do": "list"} or {"do": "delete"}."""
        return self._thread.run(lambda: self._store.held(order))

    def acknowledge(self) -> dict[str, Any]:
        """Says that what a catalog which was begun anew lacks has been read."""
        return self._thread.run(self._store.acknowledge)

    def metrics(self) -> dict[str, int]:
        """Counters of this client's own work, by name, such as `reads.decoded`."""
        return self._store.metrics()


def _end(thread: LoopThread, store: AsyncStore) -> None:
    """Closes a store that is closed, collected, or left open at the end of the process."""
    if thread.forked:
        return
    try:
        thread.last(store.close)  # the garbage collector may call from anywhere
    finally:
        thread.stop()
