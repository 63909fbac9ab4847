"""Many objects in one call: results by key or in order, with a bounded number of bytes under way.

Invariants:
- The error of one object is its own; only what is wrong with the call as a whole is raised.
- Of what the caller passes no more is taken than the window has room for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal

from reedbed.client.arguments import bucket_name, flat_view, key_bytes
from reedbed.client.catalog import Catalog
from reedbed.client.get import Getter
from reedbed.client.packer import PACK_MAX, Small
from reedbed.client.put import Putter, worth_repeating
from reedbed.client.sources import is_buffer
from reedbed.client.spec import PutSpec
from reedbed.client.targets import Content, Target
from reedbed.client.threads import ForeignThreads
from reedbed.common.errors import InvalidArgument, NotFound, ReedbedError
from reedbed.common.limits import MIB
from reedbed.ec.profiles import Profile
from reedbed.protos.types import ObjectInfo

Missing = Literal["raise", "none"]

_DRAWN: Final = 64  # items taken from the caller at once; also the keys of one lookup call
_OBJECTS: Final = 8192  # of put_many under way at once


PutOne = Callable[[str, object], asyncio.Task[ObjectInfo]]
Results = dict[str, ObjectInfo | ReedbedError]


class ManyWriter:
    """One `put_many`: small buffers are packed, everything else is put by `put_one`."""

    def __init__(
        self, putter: Putter, bucket: str, spec_of: Callable[[Target], PutSpec], put_one: PutOne, window: int
    ) -> None:
        self._putter = putter
        self._bucket = bucket_name(bucket)
        self._spec_of = spec_of
        self._put_one = put_one
        self._window = window
        self._profile: Profile | None = None
        self._ahead: deque[_Ahead] = deque()
        self._held = 0
        self._results: Results = {}

    async def write(self, items: object, threads: ForeignThreads) -> Results:
        """Puts a mapping, or pairs, of key and data; info or error by key.

        Raises InvalidArgument for items that are no pairs or whose key is no text or comes twice, NotFound for a
        missing bucket: nothing more is begun then, and what was begun is finished.
        """
        if isinstance(items, Mapping):
            items = items.items()
        if isinstance(items, str | bytes) or not isinstance(items, Iterable):
            kind = type(items).__name__
            raise InvalidArgument(f"{kind} holds no objects", hint="Pass a mapping of key to data, or pairs")
        try:
            async for batch in batches(items, threads):
                for item in batch:
                    await self._begin(item)
            await self._settle_all()
        except asyncio.CancelledError:
            await self._give_up()
            raise
        except BaseException:
            await self._settle_all()
            raise
        return self._results

    async def _begin(self, item: object) -> None:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InvalidArgument(f"an item of type {type(item).__name__} is not a pair", hint="Pass pairs (key, data)")
        key, data = item
        if not isinstance(key, str):
            raise InvalidArgument(f"key {key!r} is not text", hint="Keys are str")
        if key in self._results:
            raise InvalidArgument(f"key {key!r} comes twice in one put_many", hint="Put it once")
        self._results[key] = _UNSETTLED
        try:
            spec = self._spec_of(Target(self._bucket, key_bytes(key)))
            view = flat_view(data) if is_buffer(data) else None
        except ReedbedError as error:
            self._results[key] = error
            return
        if self._profile is None:
            self._profile = await self._putter.profile(spec)
        size = len(view) if view is not None else self._window // 2
        while self._ahead and (self._held + size > self._window or len(self._ahead) >= _OBJECTS):
            await self._settle()
        if view is not None and 0 < len(view) <= PACK_MAX:
            small = self._putter.pack(view, not isinstance(data, bytes), spec, self._profile)
            self._ahead.append(_Ahead(key, size, small, spec, None))
        else:
            self._ahead.append(_Ahead(key, size, None, None, self._put_one(key, data)))
        self._held += size

    async def _settle(self) -> None:
        """Waits for the object that was begun first, and keeps its result."""
        entry = self._ahead[0]
        try:
            if entry.small is not None and entry.spec is not None:
                self._results[entry.key] = await self._packed(entry.small, entry.spec)
            elif entry.task is not None:
                self._results[entry.key] = await entry.task
        except ReedbedError as error:
            self._results[entry.key] = error
        except Exception as error:  # noqa: BLE001 - of the caller's file or iterator, and this object's alone
            own = ReedbedError(f"where the bytes come from, {type(error).__name__} was raised: {error}")
            own.__cause__ = error
            self._results[entry.key] = own
        self._ahead.popleft()
        self._held -= entry.size

    async def _packed(self, small: Small, spec: PutSpec) -> ObjectInfo:
        try:
            return await self._putter.packed(small)
        except ReedbedError as error:
            if not worth_repeating(error, small.deadline):
                raise
        return await self._putter.put_buffer(small.data, small.mutable, spec)

    async def _settle_all(self) -> None:
        while self._ahead:
            await self._settle()

    async def _give_up(self) -> None:
        tasks = [entry.task for entry in self._ahead if entry.task is not None]
        for entry in self._ahead:
            if entry.small is not None:
                entry.small.result.cancel()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def batches(items: Iterable[Any], threads: ForeignThreads) -> AsyncIterator[list[Any]]:
    """What the caller passed, in bounded lists: at once if it is there, else drawn by a thread, since it may block."""
    if isinstance(items, Collection):
        whole = iter(items)
        while batch := list(islice(whole, _DRAWN)):
            yield batch
        return
    drawn = _Drawn(items)
    while batch := await threads.run(drawn.batch):
        yield batch


class _Drawn:
    """The caller's iterator; what it raises comes behind the items that it gave before."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items: Iterator[Any] = iter(items)
        self._error: Exception | None = None

    def batch(self) -> list[Any]:
        batch: list[Any] = []
        size = 0
        while len(batch) < _DRAWN and size < MIB and self._error is None:
            try:
                item = next(self._items)
            except StopIteration:
                break
            except Exception as error:  # noqa: BLE001 - the caller's own, raised below
                self._error = error
                break
            batch.append(item)
            if isinstance(item, tuple | list) and item:
                size += _held_by(item[-1])
        if self._error is not None and not batch:
            raise self._error
        return batch


def _held_by(data: object) -> int:
    """Bytes of memory that the data of an object holds; 0 for what gives its bytes only later."""
    if isinstance(data, bytes | bytearray):
        return len(data)
    count = getattr(data, "nbytes", None)  # of arrays, tensors and memoryviews
    if isinstance(count, int):
        return count
    try:
        return memoryview(data).nbytes  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):
        return 0


@dataclass(slots=True)
class _Ahead:
    """An object under way."""

    key: str
    size: int
    small: Small | None
    spec: PutSpec | None
    task: asyncio.Task[ObjectInfo] | None


_UNSETTLED: Final = ReedbedError("not settled yet")


class ManyReader:
    """`get_many`: keys in order, read ahead within the window."""

    def __init__(self, getter: Getter, catalog: Catalog, threads: ForeignThreads, concurrency: int) -> None:
        self._getter = getter
        self._threads = threads
        self._catalog = catalog
        self._concurrency = concurrency

    async def read(self, bucket: str, keys: object, missing: Missing) -> AsyncIterator[tuple[str, bytes | None]]:
        """(key, bytes) in the order of the keys, which may repeat; None for a missing object if so asked.

        Raises the first error in that order. NotFound for a missing bucket in any case.
        """
        bucket_name(bucket)
        if missing not in ("raise", "none"):
            raise InvalidArgument(f"missing={missing!r} is not known", hint="It is 'raise' or 'none'")
        if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
            raise InvalidArgument(
                f"keys of type {type(keys).__name__}", hint="Pass a list, or another iterable, of str"
            )
        await self._catalog.stat_bucket(bucket, self._getter.deadline())
        window = _Window(self, bucket, batches(keys, self._threads), missing)
        try:
            async for pair in window.results():
                yield pair
        finally:
            await window.close()


@dataclass(slots=True)
class _Found:
    key: str
    target: Target
    content: Content | ReedbedError

    @property
    def size(self) -> int:
        return 0 if isinstance(self.content, ReedbedError) else self.content.size


class _Window:
    """What one `get_many` has under way: one lookup, and reads up to the window's bytes."""

    def __init__(self, reader: ManyReader, bucket: str, keys: AsyncIterator[list[Any]], missing: Missing) -> None:
        self._getter = reader._getter
        self._catalog = reader._catalog
        self._concurrency = reader._concurrency
        self._bucket = bucket
        self._keys = keys
        self._missing = missing
        self._found: deque[_Found] = deque()
        self._looking: asyncio.Task[list[_Found]] | None = None
        self._reads: deque[tuple[_Found, asyncio.Task[bytes | None]]] = deque()
        self._held = 0
        self._error: Exception | None = None  # of the keys, or of looking them up; raised behind what came before

    async def results(self) -> AsyncIterator[tuple[str, bytes | None]]:
        more = True
        while True:
            if more and self._looking is None and len(self._found) < self._concurrency:
                self._looking = asyncio.create_task(self._look())
            while self._found and self._room(self._found[0]):
                self._start(self._found.popleft())
            if self._looking is not None and (not self._found or self._looking.done()):
                batch = await self._looked()
                self._looking = None
                more = bool(batch)
                self._found.extend(batch)
            elif self._reads:
                found, task = self._reads[0]
                data = await task
                self._reads.popleft()
                self._hold(-found.size)
                yield found.key, data
            elif self._error is not None:
                raise self._error
            else:
                return

    async def _looked(self) -> list[_Found]:
        assert self._looking is not None
        try:
            return await self._looking
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised in its turn
            self._error = error
            return []

    async def close(self) -> None:
        tasks: list[asyncio.Task[object]] = [task for _, task in self._reads]
        if self._looking is not None:
            tasks.append(self._looking)
        self._hold(-self._held)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # the first error in order is the one that was raised

    async def _look(self) -> list[_Found]:
        """Looks the next keys up; an empty list means that there are no more."""
        keys: list[Any] = await anext(self._keys, [])
        targets: list[Target] = []
        contents: list[Content | ReedbedError] = []
        wrong: InvalidArgument | None = None
        for key in keys:
            try:
                targets.append(Target(self._bucket, key_bytes(key)))
            except InvalidArgument as error:
                wrong = error
                break
        if targets:
            contents += await self._catalog.lookup(targets, True, self._getter.deadline())
        if wrong is not None:  # raised in its turn, and nothing behind it is read
            targets.append(Target(self._bucket, b""))
            contents.append(wrong)
        return [_Found(key, target, content) for key, target, content in zip(keys, targets, contents, strict=False)]

    def _room(self, found: _Found) -> bool:
        if not self._reads:
            return True
        return len(self._reads) < self._concurrency and self._held + found.size <= self._getter.window

    def _start(self, found: _Found) -> None:
        self._hold(found.size)
        self._reads.append((found, asyncio.create_task(self._read(found))))

    async def _read(self, found: _Found) -> bytes | None:
        if isinstance(found.content, ReedbedError):
            if self._missing == "none" and isinstance(found.content, NotFound):
                return None
            raise found.content
        return await self._getter.read(found.target, found.content, 0, found.size, self._getter.deadline())

    def _hold(self, size: int) -> None:
        self._held += size
        self._getter.hold(size)
