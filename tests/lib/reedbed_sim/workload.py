"""What clients do in a simulation, and what they write down of it.

The same operations run against real processes (see tests/integration/test_scenarios.py): a `Driver` needs a store of
the SDK, a clock and a source of randomness.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from reedbed.client.arguments import clip, key_bytes, version_id
from reedbed.client.store import AsyncStore
from reedbed.client.targets import Target
from reedbed.common.errors import Corrupt, DataLoss, NotFound, PreconditionFailed, ReedbedError
from reedbed.common.ids import format_id
from reedbed.protos import catalog_pb2, methods
from reedbed.protos.types import ObjectInfo, etag_of
from reedbed_sim.history import Entry, History, Op, Ranged, digest

PLAIN: Final = "plain"
KEPT: Final = "kept"  # keeps versions
KEYS: Final = {PLAIN: ("a", "b", "c", "d/e", "d/f", "lock"), KEPT: ("x", "y/z")}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bounds of contents in bytes: small ones are packed, large ones have extents of their own, huge ones several."""

    small: tuple[int, int] = (16, 3000)
    packed: tuple[int, int] = (3000, 20_000)
    large: tuple[int, int] = (30_000, 150_000)
    huge: tuple[int, int] = (250_000, 800_000)


class Driver:
    """One client's operations, at random."""

    def __init__(
        self,
        name: str,
        store: AsyncStore,
        history: History,
        rng: Random,
        now: Callable[[], float],
        sizes: Sizes | None = None,
        pause_s: float = 0.6,
    ) -> None:
        self.name = name
        self._store = store
        self._history = history
        self._rng = rng
        self._now = now
        self._sizes = sizes or Sizes()
        self._pause_s = pause_s
        self._known: dict[tuple[str, str], list[str]] = {}  # versions that this client has seen
        self.slowness = 1.0
        self.stopping = False

    async def run(self) -> None:
        """Until `stopping`."""
        actions: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._put, 20),
            (self._put_if, 14),
            (self._put_many, 6),
            (self._put_slowly, 3),
            (self._copy, 7),
            (self._delete, 8),
            (self._delete_version, 4),
            (self._get, 22),
            (self._range, 10),
            (self._stat, 6),
            (self._list, 6),
        ]
        kinds, weights = [action for action, _ in actions], [weight for _, weight in actions]
        while not self.stopping:
            await self._rng.choices(kinds, weights)[0]()
            await asyncio.sleep(self._rng.random() * self._pause_s * self.slowness)

    # What is asked for

    def _place(self) -> tuple[str, str]:
        bucket = PLAIN if self._rng.random() < 0.7 else KEPT
        return bucket, self._rng.choice(KEYS[bucket])

    def _content(self) -> bytes:
        sizes = self._sizes
        low, high = self._rng.choices((sizes.small, sizes.packed, sizes.large, sizes.huge), (10, 6, 4, 1))[0]
        return self._rng.randbytes(self._rng.randint(low, high))

    async def _put(self, condition: str = "", source: Callable[[bytes], Any] = bytes) -> None:
        bucket, key = self._place()
        await self._put_at(bucket, key, condition, source)

    async def _put_at(self, bucket: str, key: str, condition: str, source: Callable[[bytes], Any] = bytes) -> None:
        blob = self._content()
        op = self._begin("put", bucket, key, content=self._history.stores(blob), condition=condition)

        async def put() -> ObjectInfo:
            return await self._store.put(
                bucket,
                key,
                source(blob),
                if_none_match=condition == "absent",
                if_match=etag_of(condition) if condition not in ("", "absent") else None,
            )

        await self._made(op, put)

    async def _put_if(self) -> None:
        bucket, key = (PLAIN, "lock") if self._rng.random() < 0.4 else self._place()
        seen = self._known.get((bucket, key), [])
        await self._put_at(bucket, key, seen[-1] if seen and self._rng.random() < 0.7 else "absent")

    async def _put_slowly(self) -> None:
        """A stream whose bytes take longer than an upload may wait before it is registered."""

        async def pieces(blob: bytes) -> AsyncIterator[bytes]:
            step = max(1, len(blob) // 5)
            for at in range(0, len(blob), step):
                await asyncio.sleep(self._rng.random() * 2.5)
                yield blob[at : at + step]

        await self._put(source=pieces)

    async def _put_many(self) -> None:
        bucket = self._rng.choice((PLAIN, KEPT))
        keys = self._rng.sample(KEYS[bucket], self._rng.randint(1, len(KEYS[bucket])))
        blobs = {key: self._content() for key in keys}
        ops = {key: self._begin("put", bucket, key, content=self._history.stores(blob)) for key, blob in blobs.items()}
        try:
            results = await self._store.put_many(bucket, blobs)
        except ReedbedError as error:
            for op in ops.values():
                self._failed(op, error)
            return
        for key, result in results.items():
            if isinstance(result, ReedbedError):
                self._failed(ops[key], result)
            else:
                self._done(ops[key], version=result.version)

    async def _copy(self) -> None:
        source, target = self._place(), self._place()
        if source == target:
            return
        op = self._begin("copy", *target, source=source)
        await self._made(op, lambda: self._store.copy(*source, *target))

    async def _delete(self) -> None:
        bucket, key = self._place()
        seen = self._known.get((bucket, key), [])
        condition = seen[-1] if seen and self._rng.random() < 0.3 else ""
        op = self._begin("delete", bucket, key, condition=condition)
        try:
            removed = await self._store.delete(bucket, key, if_match=etag_of(condition) if condition else None)
        except ReedbedError as error:
            self._failed(op, error)
        else:
            self._done(op, removed=removed)

    async def _delete_version(self) -> None:
        key = self._rng.choice(KEYS[KEPT])
        seen = self._known.get((KEPT, key), [])
        if not seen:
            return
        version = self._rng.choice(seen)
        op = self._begin("delete-version", KEPT, key, version=version)
        try:
            removed = await self._store.delete(KEPT, key, version=version)
        except ReedbedError as error:
            self._failed(op, error)
        else:
            self._done(op, removed=removed)

    async def _get(self) -> None:
        await self._get_at(*self._place())

    async def _get_at(self, bucket: str, key: str) -> None:
        op = self._begin("read", bucket, key)
        try:
            info, blob = await read_whole(self._store, bucket, key)
        except ReedbedError as error:
            self._unread(op, error)
            return
        self._done(op, version=info.version, content=digest(blob))

    async def _range(self) -> None:
        bucket, key = self._place()
        op = self._begin("read", bucket, key)
        getter = self._store._core.getter
        try:
            deadline = getter.deadline()
            handle = await getter.open(Target(bucket, key_bytes(key)), deadline)
            size = handle.info.size
            start = self._rng.randrange(size + 1)
            first, last = clip(start, start + self._rng.randint(1, 70_000), size, "")
            got = await getter.get_range(handle, first, last, deadline)
        except ReedbedError as error:
            self._unread(op, error)
            return
        self._history.ranges.append(Ranged(handle.info.version, first, last, got))
        self._done(op, version=handle.info.version)

    async def _stat(self) -> None:
        bucket, key = self._place()
        op = self._begin("read", bucket, key)
        try:
            info = await self._store.stat(bucket, key)
        except ReedbedError as error:
            self._unread(op, error)
        else:
            self._done(op, version=info.version)

    async def _list(self) -> None:
        """A page is of one instant: a read of each key."""
        bucket = self._rng.choice((PLAIN, KEPT))
        ops = {key: self._begin("read", bucket, key) for key in KEYS[bucket]}
        try:
            rows = [row async for row in self._store.list(bucket)]
        except ReedbedError as error:
            for op in ops.values():
                self._unread(op, error)
            return
        found = {row.key: row.version for row in rows if isinstance(row, ObjectInfo)}
        for key, op in ops.items():
            self._done(op, version=found.pop(key, None))
        if found:
            self._history.problems.append(f"a listing of {bucket} has {sorted(found)}, which nobody put")

    async def put_must(self, bucket: str, key: str) -> None:
        """A small put, whose error is raised."""
        blob = self._rng.randbytes(500)
        op = self._begin("put", bucket, key, content=self._history.stores(blob))
        try:
            info = await self._store.put(bucket, key, blob)
        except ReedbedError as error:
            self._failed(op, error)
            raise
        self._done(op, version=info.version)

    async def read_everything(self) -> None:
        """The latest version of each key."""
        for bucket, keys in KEYS.items():
            for key in keys:
                await self._get_at(bucket, key)

    # What is written down

    def _begin(self, kind: Any, bucket: str, key: str, **more: Any) -> Op:
        return self._history.begin(self.name, kind, bucket, key, self._now(), **more)

    def _done(self, op: Op, **more: Any) -> None:
        op.end, op.outcome = self._now(), "ok"
        for name, value in more.items():
            setattr(op, name, value)
        if op.version is not None and op.kind != "delete-version":
            seen = self._known.setdefault((op.bucket, op.key), [])
            if op.version not in seen:
                seen.append(op.version)

    async def _made(self, op: Op, work: Callable[[], Awaitable[ObjectInfo]]) -> None:
        try:
            info = await work()
        except ReedbedError as error:
            self._failed(op, error)
        else:
            self._done(op, version=info.version)

    def _failed(self, op: Op, error: ReedbedError) -> None:
        op.error = f"{type(error).__name__}: {error}"[:200]
        if error.maybe_applied:
            op.outcome = "unknown"  # its end stays open: what was sent may take effect later
            return
        op.end = self._now()
        op.outcome = "refused" if type(error) is PreconditionFailed and op.condition else "failed"

    def _unread(self, op: Op, error: ReedbedError) -> None:
        op.end = self._now()
        op.error = f"{type(error).__name__}: {error}"[:200]
        # that its version went while it was read says nothing of the key
        if isinstance(error, NotFound) and "has no version" not in str(error):
            op.outcome, op.version = "ok", None
            return
        op.outcome = "failed"
        if isinstance(error, DataLoss) or (type(error) is Corrupt and "report this as a bug" in str(error)):
            self._history.problems.append(f"a read said that bytes are lost: {op}")


async def read_whole(store: AsyncStore, bucket: str, key: str, version: str | None = None) -> tuple[ObjectInfo, bytes]:
    """A version, and all its bytes."""
    getter = store._core.getter
    deadline = getter.deadline()
    handle = await getter.open(Target(bucket, key_bytes(key), version_id(version)), deadline)
    return handle.info, await getter.get_range(handle, 0, handle.info.size, deadline)


async def read_log(store: AsyncStore, after: tuple[int, int], wait_ms: int = 0) -> list[Entry]:
    """The entries of the log after a position, up to a page."""
    request = catalog_pb2.ReadLogRequest(
        after=catalog_pb2.LogPosition(term=after[0], seq=after[1]), limit=500, wait_ms=wait_ms
    )
    core = store._core
    reply = await core._link.call(methods.READ_LOG, request, catalog_pb2.ReadLogReply, core.deadline())
    return [
        Entry(
            entry.position.term,
            entry.position.seq,
            entry.kind,
            format_id(entry.id),
            entry.bucket,
            entry.key.decode(),
            format_id(entry.version) if entry.version else "",
            entry.size,
        )
        for entry in reply.entries
    ]


class Follower:
    """Follows the log from its beginning."""

    def __init__(self, store: AsyncStore) -> None:
        self._store = store
        self.seen: list[Entry] = []
        self.stopping = False

    async def run(self) -> None:
        while not self.stopping:
            try:
                self.seen += await read_log(self._store, self._position(), 2000)
            except ReedbedError:
                await asyncio.sleep(0.5)

    def _position(self) -> tuple[int, int]:
        return (self.seen[-1].term, self.seen[-1].seq) if self.seen else (0, 0)
