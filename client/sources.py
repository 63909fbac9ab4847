"""Where the bytes of a put come from, as one thing: something that fills a buffer.

Foreign code (a file's `read`, an iterator) runs in threads of its own, so that it may block, and may even use the same
store, without keeping the threads from the store's own work.
"""

from __future__ import annotations

import inspect
import os
import stat
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Protocol

from reedbed.client.arguments import flat_view
from reedbed.client.threads import ForeignThreads
from reedbed.common.errors import InvalidArgument

_DATA_HINT = "Pass bytes, another buffer, a file opened in binary mode, or an iterator of bytes"


class Source(Protocol):
    """Bytes of unknown number, read once from front to back."""

    async def fill(self, view: memoryview) -> int:
        """Fills the view from its start; less than its length means that the source has ended.

        Raises what the source does, and InvalidArgument for what is not bytes.
        """
        ...


class FileSource:
    """A file object in binary mode that blocks."""

    def __init__(self, file: Any, threads: ForeignThreads) -> None:
        self._file = file
        self._threads = threads
        self._readinto = getattr(file, "readinto", None)

    async def fill(self, view: memoryview) -> int:
        return await self._threads.run(self._fill, view)

    def _fill(self, view: memoryview) -> int:
        at = 0
        while at < len(view):
            count = self._once(view[at:])
            if not count:
                break
            at += count
        return at

    def _once(self, view: memoryview) -> int:
        if self._readinto is not None:
            count = self._readinto(view)
            if count is None:
                raise InvalidArgument("the file does not block, and has no bytes yet", hint="Open it in blocking mode")
            return int(count)
        return _take_piece(self._file.read(len(view)), view)


class AsyncFileSource:
    """A file object whose `read` is a coroutine, such as those of aiofiles."""

    def __init__(self, file: Any) -> None:
        self._file = file

    async def fill(self, view: memoryview) -> int:
        at = 0
        while at < len(view):
            count = _take_piece(await self._file.read(len(view) - at), view[at:])
            if not count:
                break
            at += count
        return at


class IteratorSource:
    """Pieces of any sizes; empty ones are passed over."""

    def __init__(self, pieces: Iterator[Any], threads: ForeignThreads) -> None:
        self._pieces = pieces
        self._threads = threads
        self._rest = memoryview(b"")

    async def fill(self, view: memoryview) -> int:
        return await self._threads.run(self._fill, view)

    def _fill(self, view: memoryview) -> int:
        at = 0
        while True:
            at, self._rest = _pour(self._rest, view, at)
            if at == len(view):
                return at
            try:
                self._rest = _piece(next(self._pieces))
            except StopIteration:
                return at


class AsyncIteratorSource:
    """The same of an asynchronous iterator."""

    def __init__(self, pieces: AsyncIterator[Any]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    async def fill(self, view: memoryview) -> int:
        at = 0
        while True:
            at, self._rest = _pour(self._rest, view, at)
            if at == len(view):
                return at
            try:
                self._rest = _piece(await anext(self._pieces))
            except StopAsyncIteration:
                return at


class PathSource:
    """A local file, read at positions by threads. `check` tells whether it stayed as it was when it was opened."""

    def __init__(self, path: str | os.PathLike[str], threads: ForeignThreads) -> None:
        self._threads = threads
        self._path = os.fspath(path)
        # a pipe would block in open, and has no positions
        if not stat.S_ISREG(os.stat(self._path).st_mode):
            raise InvalidArgument("not a regular file", where=str(path), hint="Open it, and put the file object")
        self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self._file)  # also when nobody waited for it to be opened
        self._at = 0
        self._seen = _fingerprint(self._file)

    async def fill(self, view: memoryview) -> int:
        return await self._threads.run(self._fill, view)

    def _fill(self, view: memoryview) -> int:
        at = 0
        while at < len(view):
            count = os.preadv(self._file, [view[at:]], self._at)
            if not count:
                break
            at += count
            self._at += count
        return at

    def check(self) -> None:
        """InvalidArgument if size, time of change or identity of the file are not what they were."""
        if _fingerprint(self._file) != self._seen:
            raise InvalidArgument(
                "the file changed during the put", where=self._path, hint="Put it again when nobody writes to it"
            )

    def close(self) -> None:
        self._close()


def source_of(data: object, threads: ForeignThreads) -> Source:
    """The source that suits a file object or an iterator; InvalidArgument for anything else."""
    if isinstance(data, str | Mapping):
        raise InvalidArgument(f"data is {type(data).__name__}, not bytes", hint=_DATA_HINT)
    read = getattr(data, "read", None)
    if callable(read):
        if inspect.iscoroutinefunction(read):
            return AsyncFileSource(data)
        if "b" not in str(getattr(data, "mode", "b")) and hasattr(data, "encoding"):
            raise InvalidArgument("the file is opened in text mode", hint="Open it with 'rb'")
        return FileSource(data, threads)
    if isinstance(data, AsyncIterable):
        return AsyncIteratorSource(aiter(data))
    if isinstance(data, Iterable):
        return IteratorSource(iter(data), threads)
    raise InvalidArgument(f"data of type {type(data).__name__} holds no bytes", hint=_DATA_HINT)


def is_buffer(data: object) -> bool:
    """Whether all bytes are there already, in memory."""
    if isinstance(data, bytes | bytearray | memoryview):
        return True
    if hasattr(data, "is_contiguous") and hasattr(data, "numpy"):  # a tensor of torch
        return True
    if callable(getattr(data, "read", None)):
        return False  # a mapped file is both; as a buffer it would ignore its position
    try:
        memoryview(data)  # type: ignore[arg-type]
    except TypeError:
        return False
    except (ValueError, BufferError):
        return True  # one that was released, or holds what has no bytes: `flat_view` says so
    return True


def _fingerprint(file: int) -> tuple[int, int, int, int]:
    found = os.fstat(file)
    return found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev


def _piece(item: object) -> memoryview:
    if isinstance(item, str):
        raise InvalidArgument("an item of the iterator is text, not bytes", hint="Encode it")
    return flat_view(item, "an item of the iterator")


def _pour(rest: memoryview, view: memoryview, at: int) -> tuple[int, memoryview]:
    count = min(len(rest), len(view) - at)
    view[at : at + count] = rest[:count]
    return at + count, rest[count:]


def _take_piece(piece: object, view: memoryview) -> int:
    """What one `read` returned, into the view."""
    if isinstance(piece, str):
        raise InvalidArgument("the file is opened in text mode", hint="Open it with 'rb'")
    if piece is None:
        raise InvalidArgument("the file does not block, and has no bytes yet", hint="Open it in blocking mode")
    taken = flat_view(piece, "what the file's read returned")
    if len(taken) > len(view):
        raise InvalidArgument(f"the file's read returned {len(taken)} bytes where {len(view)} were asked for")
    view[: len(taken)] = taken
    return len(taken)
