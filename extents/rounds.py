"""Rounds of small reads: those of one device that wait at the same time share a call.

A read is sent at the end of the loop's turn in which it came, or, while ROUNDS calls to its device are under way, when
one of them ends. So an idle client adds no wait, and a busy one asks for many ranges at once.

Invariants:
- Each read has its own outcome: the error of one is not another's.
- Bytes are handed on only after their rows have matched, with the seed of their place.
- A call writes into no caller's memory. It is cancelled once nobody who shares it wants its answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Final

from reedbed.common.checksums import crc32c, place_sum
from reedbed.common.clock import Deadline
from reedbed.common.errors import Corrupt, InvalidArgument, ReedbedError, Unavailable, rebuild
from reedbed.common.ids import Id, format_id
from reedbed.common.limits import KIB, MIB
from reedbed.extents.blocks import ROW_BYTES, BlockRows, unpack_row, unpack_table, verify_rows
from reedbed.extents.context import ClusterAccess
from reedbed.protos import convert, storage_pb2
from reedbed.protos.methods import READ_SHARDS
from reedbed.protos.types import Device
from reedbed.protos.wire import field, varint

ROUNDS: Final = 2  # calls to one device under way, and a round gathers meanwhile
ROUND_READS: Final = 64  # of one call
ROUND_BYTES: Final = MIB
READ_MAX: Final = 64 * KIB  # longer ones are received into their place, which takes a call for each

Outcome = bytes | ReedbedError


class SmallRead:
    """`length` bytes from `start` of a shard, asked of one device. `done` ends with the verified bytes or the error."""

    __slots__ = ("call", "device", "done", "extent", "length", "shard", "since", "start")

    def __init__(
        self,
        device: Device,
        extent: Id,
        shard: int,
        start: int,
        length: int,
        since: float,
        done: asyncio.Future[Outcome | None],
    ) -> None:
        self.device = device
        self.extent = extent
        self.shard = shard
        self.start = start
        self.length = length
        self.since = since  # by the clock of the access
        self.done = done
        self.call: _Call | None = None  # once it is sent

    def late(self) -> None:
        """Wakes whoever waits with None; from then on another future is `done`."""
        waiting = self.done
        self.done = waiting.get_loop().create_future()
        waiting.set_result(None)

    def where(self) -> str:
        device = self.device
        return f"shard {self.shard} of extent {format_id(self.extent)}, from device {device.number} at {device.address}"

    def take(self, result: storage_pb2.ShardBytes, data: bytes) -> Outcome:
        """The outcome that an answer means: `data`, or what is wrong."""
        rows = result.rows
        if result.length != self.length or rows.shard != self.shard or rows.offset != self.start:
            return Corrupt("the answer is for another range", where=self.where())
        table = rows.table
        if len(table) == ROW_BYTES:
            length, value = unpack_row(table)
            if length != self.length:
                return Corrupt("the rows do not add up to the range", where=self.where())
            if crc32c(data, place_sum(self.extent, self.shard, rows.first_block)) == value:
                return data
            wrong: int | None = rows.first_block
        else:
            try:
                found = BlockRows(self.shard, rows.first_block, self.start, unpack_table(table))
            except Corrupt as error:
                return Corrupt(error.what, where=self.where())
            if found.end != self.start + self.length:
                return Corrupt("the rows do not add up to the range", where=self.where())
            wrong = verify_rows(self.extent, found, data)
            if wrong is None:
                return data
        return Corrupt(f"block {wrong} does not match its checksum", where=self.where())


class _Call:
    """One call under way, and how many still want its answer."""

    __slots__ = ("task", "wanted")

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.task: asyncio.Task[None] | None = None


class _Line:
    """What waits for one device."""

    __slots__ = ("calls", "device", "queue", "ready")

    def __init__(self, device: Device) -> None:
        self.device = device
        self.queue: deque[tuple[SmallRead, Deadline]] = deque()
        self.calls = 0
        self.ready = False  # to be looked at when the loop's turn ends


class ReadRounds:
    """All small reads of one client. Only within its event loop."""

    def __init__(self, access: ClusterAccess) -> None:
        self._access = access
        self._lines: dict[int, _Line] = {}
        self._ready: list[_Line] = []
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._closed = False

    def ask(self, device: Device, extent: Id, shard: int, start: int, length: int, deadline: Deadline) -> SmallRead:
        """Begins a read of 1 to READ_MAX bytes. Whoever gives it up says so by `drop`. Unavailable once closed."""
        if self._closed:
            raise Unavailable("the store is closed", retryable=False)
        loop = asyncio.get_running_loop()
        read = SmallRead(device, extent, shard, start, length, self._access.clock.monotonic(), loop.create_future())
        line = self._lines.get(device.number)
        if line is None:
            line = self._lines[device.number] = _Line(device)
        line.device = device  # the newest that is known of it
        line.queue.append((read, deadline))
        if not line.ready and line.calls < ROUNDS:
            line.ready = True
            if not self._ready:
                loop.call_soon(self._flush)
            self._ready.append(line)
        return read

    def drop(self, read: SmallRead) -> None:
        """Nobody waits for this read any more. It may have ended."""
        if not read.done.done():
            read.done.cancel()
        call = read.call
        if call is not None:
            read.call = None
            call.wanted -= 1
            if not call.wanted and call.task is not None:
                call.task.cancel()

    async def close(self) -> None:
        """Ends all calls; whoever waits gets Unavailable."""
        self._closed = True
        for line in self._lines.values():
            for read, _ in line.queue:
                _fail(read, Unavailable("the store was closed during the read", retryable=False))
            line.queue.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _flush(self) -> None:
        ready, self._ready = self._ready, []
        for line in ready:
            line.ready = False
            self._send(line)

    def _send(self, line: _Line) -> None:
        while line.queue and line.calls < ROUNDS and not self._closed:
            reads: list[SmallRead] = []
            size = 0
            longest: Deadline | None = None
            left_most = -1.0
            while line.queue and len(reads) < ROUND_READS and size < ROUND_BYTES:
                read, deadline = line.queue.popleft()
                if read.done.done():
                    continue
                reads.append(read)
                size += read.length
                if deadline is not longest:  # many share one
                    left = deadline.left()
                    if left is None or left > left_most:
                        longest, left_most = deadline, float("inf") if left is None else left
            if longest is None:
                return
            call = _Call(len(reads))
            for read in reads:
                read.call = call
            line.calls += 1
            call.task = asyncio.get_running_loop().create_task(self._call(line, reads, size, longest))
            self._tasks[call.task] = None
            call.task.add_done_callback(partial(self._ended, line, reads))

    async def _call(self, line: _Line, reads: Sequence[SmallRead], size: int, deadline: Deadline) -> None:
        access, device = self._access, reads[0].device
        try:
            reply = await access.call(device, READ_SHARDS, _request(reads), deadline=deadline)
            self._record(device.number, reads)
            self._settle(reads, size, reply.header, reply.payload)
        except ReedbedError as error:
            for read in reads:
                # each gets an error of its own: a shared one would collect the tracebacks of all
                _fail(
                    read,
                    rebuild(error.code, error.what, error.where, error.hint, error.retryable, error.maybe_applied),
                )
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            for read in reads:
                _fail(read, ReedbedError(f"the read failed unexpectedly: {error!r}"))
            raise

    def _ended(self, line: _Line, reads: Sequence[SmallRead], task: asyncio.Task[None]) -> None:
        """A call has ended, or was cancelled before it had its first turn."""
        self._tasks.pop(task, None)
        line.calls -= 1
        for read in reads:
            _fail(read, Unavailable("the store was closed during the read", retryable=False))
        self._send(line)

    def _record(self, device: int, reads: Sequence[SmallRead]) -> None:
        """How long the read that waited longest took, once for each size."""
        now = self._access.clock.monotonic()
        longest: dict[int, float] = {}
        for read in reads:
            size = read.length.bit_length()
            if size not in longest:  # in the order they came
                longest[size] = read.since
                self._access.latency.record(device, read.length, now - read.since)

    def _settle(self, reads: Sequence[SmallRead], size: int, header: bytes, payload: memoryview) -> None:
        first = reads[0]
        try:
            results = convert.parse(storage_pb2.ReadShardsReply, header).results
        except InvalidArgument as error:
            raise Corrupt(f"the answer does not parse: {error.what}", where=first.where()) from error
        if len(results) != len(reads):
            raise Corrupt(f"{len(results)} results for {len(reads)} reads", where=first.where())
        at = 0
        failed = 0
        for read, result in zip(reads, results, strict=True):
            if result.failed:
                failed += read.length
                _fail(read, rebuild(result.code, result.what, where=read.where()))
                continue
            end = at + result.length
            if not read.done.done():
                data = bytes(payload[at:end])
                outcome: Outcome
                if len(data) != read.length:
                    outcome = Corrupt(f"{len(payload)} bytes came instead of {size - failed}", where=read.where())
                else:
                    outcome = read.take(result, data)
                read.done.set_result(outcome)
            at = end


def _fail(read: SmallRead, error: ReedbedError) -> None:
    if not read.done.done():
        read.done.set_result(error)


def _request(reads: Sequence[SmallRead]) -> bytes:
    """A ReadShardsRequest: put together by hand, which takes a third of the time of messages for each range."""
    parts: list[bytes] = []
    for read in reads:
        body = b"\x08%b\x12\x10%b\x18%b\x20%b\x28%b" % (
            varint(read.device.number),
            read.extent,
            varint(read.shard),
            varint(read.start),
            varint(read.length),
        )
        parts.append(field(1, body))
    return b"".join(parts)
