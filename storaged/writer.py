"""What alone appends to a device, in a thread of its own: it takes all that waits, writes it at once, syncs once, and
answers.

Invariants
- An operation is answered with success only after the fdatasync that covers its record; only then the book has it.
- One thread at a time is in a step: that of the runner, or one that calls `step_here`.
- A batch lies in one segment. Before a segment is made, everything in its predecessor is synced.
- After a failed write or sync of the disk (other than a full one) nothing is written any more by this process, and what
  waited is answered with DeviceFailed: a second sync that succeeds would prove nothing.
- A full disk changes nothing: what was written of the batch is cut off, durably. Nor does a lack of memory or of file
  descriptors, which says nothing of the disk: what waited is refused, and may be tried again.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from reedbed.common.errors import (
    Corrupt,
    DeadlineExceeded,
    DeviceFailed,
    ReedbedError,
    ResourceExhausted,
    Unavailable,
)
from reedbed.common.limits import KIB, MIB
from reedbed.common.metrics import Metrics
from reedbed.common.runner import WHEN_WOKEN, Runner, Running
from reedbed.storaged.batch import Batch, View, disk_full
from reedbed.storaged.book import Book
from reedbed.storaged.calls import Removal, RemoveOrder
from reedbed.storaged.damage import DamageLog
from reedbed.storaged.disk import NOT_THE_DISK, Disk
from reedbed.storaged.entries import Entry, NewShard, Position, split_key
from reedbed.storaged.generations import Generations
from reedbed.storaged.operations import Operation, Put, Remove, begin, refuse, tell
from reedbed.storaged.record import SEGMENT_HEADER, padded
from reedbed.storaged.reserve import NO_ROOM
from reedbed.storaged.segments import SegmentPool, make_segment

BATCH_BYTES: Final = 32 * MIB  # a batch takes no further operation from here on
BATCH_OPERATIONS: Final = 4096
HERE_BYTES: Final = 256 * KIB  # that `step_here` writes: more takes longer than an event loop should stand still


@dataclass(frozen=True, slots=True)
class Tools:
    """What the writer works with. `room`: bytes that puts may take now. `release_reserve`: gives room back. `crowded`:
    `on_batch` would wait."""

    disk: Disk
    pool: SegmentPool
    book: Book
    view: View
    generations: Generations
    damage: DamageLog
    metrics: Metrics
    device: bytes
    salt: bytes
    room: Callable[[], int]
    release_reserve: Callable[[], None]
    on_failed: Callable[[str], None]
    on_removed: Callable[[list[Entry]], None]
    on_batch: Callable[[], None]
    crowded: Callable[[], bool]


class Writer:
    """The queue of one device, and the step that empties it."""

    def __init__(
        self, tools: Tools, end: Position, *, sealed: bool, failed: str, segment_bytes: int, queue_bytes: int
    ) -> None:
        """`end` is where the next record goes, `sealed`: in a new segment; `failed` is why it never writes."""
        self._tools = tools
        self._end = end
        self._sealed = sealed
        self._segment_bytes = segment_bytes
        self._queue_bytes = queue_bytes
        self._changed = threading.Lock()
        self._stepping = threading.Lock()
        self._queue: deque[Operation] = deque()
        self._queued = 0
        self._closing = False
        self._failed = failed
        self._runs: Running | None = None

    def start(self, runner: Runner) -> None:
        self._runs = runner.start("shard-writer", self.step, WHEN_WOKEN)

    @property
    def failed(self) -> str:
        """Why the device takes no more writes, or the empty string."""
        return self._failed

    @property
    def queued_bytes(self) -> int:
        return self._queued

    @property
    def end(self) -> Position:
        """Everything below is durable, and in the book as seen while `book.changing` is held."""
        return self._end

    def submit(self, operation: Operation, *, wake: bool = True) -> None:
        """Queue an operation. DeviceFailed, Unavailable when closing, ResourceExhausted when too much waits.

        With wake=False `step_here` is called soon.
        """
        with self._changed:
            if self._failed:
                raise self._device_failed()
            if self._closing:
                raise Unavailable("the device is being closed")
            if self._queued and self._queued + operation.size > self._queue_bytes and isinstance(operation, Put):
                raise ResourceExhausted(
                    "too many bytes wait to be written to the device", hint="Try again, or write less at once"
                )
            self._queue.append(operation)
            self._queued += operation.size
        if wake:
            self._wake()

    def forget_cancelled(self, future: Future[bool]) -> None:
        """Lets go of the operation of this future, if it was cancelled."""
        if future.cancelled():
            with self._changed:
                found = next((one for one in self._queue if one.future is future), None)
            if found is not None:
                self.drop(found)

    def drop(self, operation: Operation) -> bool:
        """Let go of an operation that is not begun, and tell nobody; whether it was not."""
        with self._changed:
            try:
                self._queue.remove(operation)
            except ValueError:
                return False
            self._queued -= operation.size
            return True

    def stop(self, *, drain: bool = True) -> None:
        """Write what waits, or with drain=False refuse it, and end."""
        with self._changed:
            self._closing = True
            dropped = [] if drain else self._take_all()
        self._wake()
        self._refuse(dropped, Unavailable("the device was closed"))
        if self._runs is not None:
            self._runs.join()

    def fail(self, reason: str) -> None:
        """Take no more writes, ever; what waits is answered with DeviceFailed."""
        with self._changed:
            if self._failed:
                return
            self._failed = reason
            dropped = self._take_all()
        self._wake()
        self._refuse(dropped, self._device_failed())
        self._tools.on_failed(reason)

    def step(self) -> float | None:
        """One batch of what waits; None when closed and done. For the runner."""
        with self._stepping:
            return self._step()

    def step_here(self) -> None:
        """A batch of what waits in the caller's thread, for a disk that nothing waits for; where that would still take
        long, or another thread is at it, the runner is woken instead."""
        if self._queued <= HERE_BYTES and not self._tools.crowded() and self._stepping.acquire(blocking=False):
            try:
                self._step()
            finally:
                self._stepping.release()
        if self._queue:
            self._wake()

    def _step(self) -> float | None:
        with self._changed:
            if not self._queue:
                return None if self._closing else WHEN_WOKEN
            batch: list[Operation] = []
            size = 0
            while self._queue and size < BATCH_BYTES and len(batch) < BATCH_OPERATIONS:
                operation = self._queue.popleft()
                batch.append(operation)
                size += operation.size
            self._queued -= size
        operations = [one for one in batch if begin(one)]
        del batch
        if operations:
            try:
                self._commit(operations)
            except BaseException:
                # a bug of ours: nobody may wait for a thread that is gone
                self._fail_with(operations, "its writer ended unexpectedly")
                tell(operations)
                raise
            tell(operations)
        self._tools.on_batch()
        return 0.0

    def _wake(self) -> None:
        if self._runs is not None:
            self._runs.wake()

    def _commit(self, operations: list[Operation]) -> None:
        """Every operation has its outcome on return."""
        if self._failed:
            refuse(operations, self._device_failed())
            return
        for one in operations:
            if isinstance(one, Put) and one.shard.deadline is not None and one.shard.deadline.left() == 0.0:
                one.outcome = DeadlineExceeded("the put waited for longer than its deadline")
        try:
            self._write([one for one in operations if one.outcome is None])
        except OSError as error:
            if error.errno in NOT_THE_DISK:
                self._tools.metrics.add("store.refused")
                refuse(operations, _not_now(error))
                return
            if error.errno not in NO_ROOM:
                self._fail_with(operations, f"writing failed: {error.strerror or error}")
                return
            self._tools.metrics.add("store.disk_full")
            refuse([one for one in operations if isinstance(one, Put)], disk_full(str(self._tools.disk.root)))
            self._retry([one for one in operations if one.outcome is None])

    def _retry(self, operations: list[Operation]) -> None:
        """Removals on a full disk: the reserve is for them."""
        if not operations:
            return
        try:
            self._tools.release_reserve()
            self._write(operations)
        except OSError as error:
            if error.errno in NO_ROOM:
                refuse(operations, disk_full(str(self._tools.disk.root)))
            else:
                self._fail_with(operations, f"writing failed: {error.strerror or error}")

    def _write(self, operations: Sequence[Operation]) -> None:
        """Plan, append, sync and apply; what fails by itself has its outcome then, the others once all are durable."""
        puts = [one.shard for one in operations if isinstance(one, Put)]
        size = sum(one.size for one in operations)
        if self._sealed or (
            puts and self._end.offset > SEGMENT_HEADER and self._end.offset + size > self._segment_bytes
        ):
            number = self._end.segment + 1
            make_segment(self._tools.disk, number, self._tools.device)
            self._tools.book.extend(number, SEGMENT_HEADER)
            self._end, self._sealed = Position(number, SEGMENT_HEADER), False
        room = self._tools.room() if puts else 0
        batch = Batch(self._tools.view, self._tools.salt, self._end, room)
        with contextlib.suppress(Corrupt):
            batch.look_up(puts)
        planned: list[tuple[Operation, Any]] = []
        for one in operations:
            try:
                planned.append((one, _plan(batch, one)))
            except ReedbedError as error:
                # its traceback knows all operations of the batch: a cycle would keep their bytes
                one.outcome = error.with_traceback(None)
        if batch.buffers:
            self._append(batch)
        for one, outcome in planned:
            one.outcome = outcome

    def _append(self, batch: Batch) -> None:
        tools = self._tools
        with tools.pool.use(self._end.segment) as file:
            try:
                file.write(batch.buffers, self._end.offset)
            except OSError as error:
                if error.errno in NO_ROOM or error.errno in NOT_THE_DISK:
                    file.truncate(self._end.offset)
                    file.sync()  # what was refused must not be there after a power cut
                raise
            try:
                file.sync()
            except OSError as error:
                # even a full disk: what a failed sync leaves behind is unknown
                raise OSError(errno.EIO, f"fdatasync: {error.strerror}") from error
        tools.metrics.add("store.syncs")
        with tools.book.changing:
            holes = self._apply(batch)
            self._end = Position(self._end.segment, padded(batch.end))
        if holes:
            tools.on_removed(holes)

    def _apply(self, batch: Batch) -> list[Entry]:
        """The batch is durable: the book learns it. Returns what was removed."""
        tools = self._tools
        holes: list[Entry] = []
        new: list[NewShard] = []
        for change in batch.changes:
            if isinstance(change, NewShard):
                new.append(change)
                continue
            self._apply_new(new)
            new = []
            gone = tools.book.note(change)
            if gone is not None:
                holes.append(gone)
                tools.damage.healed(change.head.extent, change.head.index)
                tools.metrics.add("store.removed")
        self._apply_new(new)
        for pg, generation in batch.generations:
            tools.generations.raise_to(pg, generation)
        return holes

    def _apply_new(self, shards: list[NewShard]) -> None:
        if not shards:
            return
        tools = self._tools
        tools.book.append(shards)
        if tools.damage.known:
            for shard in shards:
                tools.damage.healed(*split_key(shard.key))
        tools.metrics.add("store.put", len(shards))
        tools.metrics.add("store.put_bytes", sum(shard.entry.payload for shard in shards))

    def _fail_with(self, operations: list[Operation], reason: str) -> None:
        self.fail(reason)
        refuse(operations, self._device_failed())

    def _refuse(self, dropped: list[Operation], error: ReedbedError) -> None:
        """For what never got into a batch."""
        waiting = [one for one in dropped if begin(one)]
        refuse(waiting, error)
        tell(waiting)

    def _device_failed(self) -> DeviceFailed:
        return DeviceFailed(
            f"the device takes no more writes: {self._failed}",
            where=str(self._tools.disk.root),
            hint="Check the disk; its shards are rebuilt on other devices",
            retryable=True,
            maybe_applied=True,
        )

    def _take_all(self) -> list[Operation]:
        dropped = list(self._queue)
        self._queue.clear()
        self._queued = 0
        return dropped


def _remove(batch: Batch, order: RemoveOrder, term: int) -> Removal:
    try:
        return batch.remove(order, term)
    except Corrupt:
        return Removal.UNREADABLE  # of one bad row, which says nothing of the other orders


def _not_now(error: OSError) -> ResourceExhausted:
    return ResourceExhausted(f"the device cannot write at present: {error.strerror or error}", hint="Try again")


def _plan(batch: Batch, one: Operation) -> bool | list[Removal]:
    """Plan one operation; its outcome once that is durable."""
    if isinstance(one, Put):
        return batch.put(one.shard)
    if isinstance(one, Remove):
        return [_remove(batch, order, one.term) for order in one.orders]
    batch.carry(one.targets, one.home)
    return True
