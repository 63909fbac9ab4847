"""Reading a range of one extent: from its data shards, and decoded from others where one is gone, wrong or too slow.

Invariants:

- A piece's bytes are verified before the read ends; until then the caller's memory holds nothing to rely on.
- Two calls never write to the same memory: spare bytes are decoded elsewhere, and put into the caller's memory after
  the call that they overtook has been cancelled and has ended.
- In the healthy case each data shard is asked exactly once, and one shard is asked without any task being made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from reedbed.common.checksums import Buffer
from reedbed.common.clock import Deadline
from reedbed.common.errors import Corrupt, DataLoss, InvalidArgument, ReedbedError, Unavailable
from reedbed.ec.plan import Piece, pieces
from reedbed.extents.asking import Asker
from reedbed.extents.blocks import BlockRows, content_sum
from reedbed.extents.context import ClusterAccess
from reedbed.extents.decoding import Decoding, Direct
from reedbed.protos.types import Extent

RunSums = dict[int, tuple[int, int]]  # of runs of the bytes that were read: where each begins, its length, its CRC32C


async def read_extent(
    access: ClusterAccess,
    extent: Extent,
    offset: int,
    length: int,
    into: memoryview,
    deadline: Deadline,
    *,
    background: bool = False,
    sums: RunSums | None = None,
) -> None:
    """Fills `into`, `length` writable bytes, with the extent's bytes from `offset`.

    What is read in the `background`, for keeping, gives way to everything else on the devices. `sums` gets those of
    runs of the bytes that come of their being verified; not of what was decoded.

    Raises InvalidArgument (a range outside the extent, other memory), Unavailable (too few of its devices answer; says
    which), DataLoss (too few good shards are left; retryable where looking the object up again may help), Corrupt (too
    many shards arrive altered) and DeadlineExceeded. After an error the memory may hold anything, and no call writes to
    it any more.
    """
    if into.readonly or into.nbytes != length:
        raise InvalidArgument(f"{into.nbytes} bytes of memory for a read of {length} bytes", hint="It must be writable")
    asker = Asker(access, extent, deadline, background=background)
    found = pieces(asker.layout, offset, length)
    if not found:
        return
    await asker.locate()
    await _Reader(asker, into if into.format == "B" and into.ndim == 1 else into.cast("B"), sums).read(found)


async def read_around(asker: Asker, piece: Piece) -> bytes:
    """The bytes of one piece of an extent that was located, computed from other shards; from its own if that cannot be.

    Raises what `read_extent` does.
    """
    into = bytearray(piece.length)
    await _Reader(asker, memoryview(into)).around(piece)
    return bytes(into)


class _Reader:
    """One read."""

    __slots__ = ("_into", "_sums", "asker")

    def __init__(self, asker: Asker, into: memoryview, sums: RunSums | None = None) -> None:
        self.asker = asker
        self._into = into
        self._sums = sums

    async def read(self, found: Sequence[Piece]) -> None:
        if len(found) == 1:
            await (self._decoded(found) if self._around(found[0]) else self._direct(found[0]))
            return
        lost: list[Piece] = []
        direct: list[Piece] = []
        for piece in found:
            (lost if self._around(piece) else direct).append(piece)
        futures: dict[int, Direct] = {}
        if lost:
            make = asyncio.get_running_loop().create_future
            futures = {piece.shard: Direct(piece, self._place(piece), make()) for piece in direct}
        try:
            async with asyncio.TaskGroup() as group:
                for run in _runs(lost):
                    group.create_task(self._decoded(run, futures))
                for piece in direct:
                    group.create_task(self._direct(piece, futures.get(piece.shard)))
        except BaseExceptionGroup as errors:
            raise _first(errors) from None

    async def around(self, piece: Piece) -> None:
        """A piece that begins the memory, without its own shard."""
        await self._decoded((Piece(piece.shard, piece.start, piece.length, 0),))

    def _place(self, piece: Piece) -> memoryview:
        return self._into[piece.at : piece.at + piece.length]

    def _around(self, piece: Piece) -> bool:
        """Whether the plan is to leave the piece's device out."""
        asker = self.asker
        if not asker.up(piece.shard):
            return True
        access = asker.access
        device = asker.devices(piece.shard)[0]
        if access.latency.avoid(device.number, piece.length, asker.peers, access.clock.monotonic()):
            access.metrics.add("reads.avoided")
            return True
        return False

    async def _direct(self, piece: Piece, direct: Direct | None = None) -> None:
        """A piece from its own shard, or, if that fails or is late and loses, decoded."""
        good = False
        try:
            good = await self._raced(piece)
        finally:
            if direct is not None:
                direct.done.set_result(good)

    async def _raced(self, piece: Piece) -> bool:
        asker, add = self.asker, self.asker.access.metrics.add
        asker.access.latency.budget.earn(piece.length)
        failed: ReedbedError | None = None
        race = _Race(asker, piece)
        try:
            try:
                await self._ask(piece)
            except asyncio.CancelledError:
                if not race.overtaken:
                    raise
            except ReedbedError as error:
                failed = error
            finally:
                race.close()
            if race.overtaken:
                self._put(((piece, race.take_over()[0]),))
                add("reads.decoded")
                add("reads.spare_won")
            elif failed is None:
                add("reads.direct")
            else:
                asker.give_up(piece.shard, failed)
                found = await race.rest()
                if found is None:
                    return await self._decoded((piece,))
                self._put(((piece, found[0]),))
                add("reads.decoded")
            return True
        finally:
            await race.drop()

    async def _ask(self, piece: Piece) -> None:
        place = self._place(piece)
        if self._sums is None:
            await self.asker.ask(piece.shard, ((piece.start, piece.length),), place)
            return
        rows: list[BlockRows] = []
        await self.asker.ask(piece.shard, ((piece.start, piece.length),), place, own=rows)
        self._sums[piece.at] = (piece.length, content_sum(self.asker.extent.id, rows[0], place))

    async def _decoded(self, lost: Sequence[Piece], directs: dict[int, Direct] | None = None) -> bool:
        """Pieces computed from other shards; if that cannot be, as a last resort asked for after all."""
        places = {piece.shard: self._place(piece) for piece in lost}
        decoding = Decoding(self.asker, lost, directs, places=places)
        try:
            found = await decoding.run()
            self._put([(p, data) for p, data in zip(lost, found, strict=True) if data is not places[p.shard]])
            if self._sums is not None:
                self._sums.update({p.at: (p.length, decoding.sums[p.shard]) for p in lost if p.shard in decoding.sums})
            self.asker.access.metrics.add("reads.decoded", len(lost))
        except (Corrupt, DataLoss, Unavailable):
            bad = self.asker.bad
            if any(piece.shard in bad and type(bad[piece.shard]) is not Corrupt for piece in lost):
                raise
            for piece in lost:  # not asked yet, or altered on the way
                await self._last_resort(piece)
        return True

    async def _last_resort(self, piece: Piece) -> None:
        try:
            await self._ask(piece)
        except ReedbedError as error:
            self.asker.give_up(piece.shard, error)
            raise self.asker.too_few() from error
        self.asker.access.metrics.add("reads.direct")

    def _put(self, found: Sequence[tuple[Piece, Buffer]]) -> None:
        for piece, data in found:
            self._place(piece)[:] = data
            if self._sums is not None:
                self._sums.pop(piece.at, None)


class _Race:
    """Watches a call of the current task: starts a spare read when it is late, and ends it when that has won.

    As asyncio.timeout does, it ends the call by cancelling the task that waits for it, which then takes that
    cancellation back; so the healthy case costs one timer and no task.
    """

    __slots__ = (
        "_asker",
        "_began",
        "_cancelling",
        "_closed",
        "_hung_s",
        "_piece",
        "_spare",
        "_task",
        "_timer",
        "overtaken",
    )

    def __init__(self, asker: Asker, piece: Piece) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._asker = asker
        self._piece = piece
        self._task = task
        self._cancelling = task.cancelling()
        self._spare: asyncio.Task[list[Buffer]] | None = None
        self._closed = False
        self.overtaken = False
        self._began = asker.access.clock.monotonic()
        late = asker.patience(piece.shard, piece.length)
        self._hung_s = asker.access.latency.hung_after(late) - late
        self._timer = asyncio.get_running_loop().call_later(late, self._late)

    def close(self) -> None:
        """The call has ended: it cannot be overtaken any more."""
        self._closed = True
        self._timer.cancel()

    def take_over(self) -> list[Buffer]:
        """The bytes that overtook the call. Raises CancelledError where the task was cancelled from outside too."""
        assert self._spare is not None
        if self._task.uncancel() > self._cancelling:
            raise asyncio.CancelledError
        return self._spare.result()

    async def rest(self) -> list[Buffer] | None:
        """After the call failed: what a spare read gives that is under way; None if there is none, or it fails."""
        if self._spare is None:
            return None
        try:
            return await self._spare
        except (Corrupt, DataLoss, Unavailable):
            return None

    async def drop(self) -> None:
        """Ends a spare read that is not needed."""
        if self._spare is not None and not self._spare.done():
            self._spare.cancel()
            await asyncio.wait((self._spare,))

    def _late(self) -> None:
        asker, size = self._asker, self._piece.length
        calls = sum(1 for length in asker.layout.lengths if length > self._piece.start)
        if asker.slow(self._piece.shard, size):  # this one probes it; reads around slow devices need no budget
            self._start()
        elif asker.access.latency.budget.take(calls, calls * size):
            self._start(budgeted=True)
        else:  # an answer that does not come at all is an error, and what follows from it outside the budget
            self._timer = asyncio.get_running_loop().call_later(self._hung_s, self._start)

    def _start(self, budgeted: bool = False) -> None:
        self._asker.access.metrics.add("reads.spare_asked")
        decoding = Decoding(self._asker, (self._piece,), budgeted=budgeted)
        self._spare = asyncio.get_running_loop().create_task(decoding.run())
        self._spare.add_done_callback(self._spare_ended)

    def _spare_ended(self, spare: asyncio.Task[list[Buffer]]) -> None:
        if spare.cancelled() or spare.exception() is not None or self._closed:
            return  # then the call itself is still the best hope, or has ended
        self.overtaken = True
        now = self._asker.access.clock.monotonic()
        self._asker.overtaken(self._piece.shard, self._piece.length, now - self._began)
        self._task.cancel()


def _runs(lost: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces to decode together, since they ask for much the same range of the other shards."""
    runs: list[list[Piece]] = []
    for piece in lost:
        for run in runs:
            together = [*run, piece]
            reach = max(p.start + p.length for p in together) - min(p.start for p in together)
            if reach <= max(p.length for p in together) + piece.length // 2:
                run.append(piece)
                break
        else:
            runs.append([piece])
    return runs


def _first(errors: BaseExceptionGroup) -> BaseException:
    """Of the errors of several pieces the one to tell: a loss before what may pass."""
    flat: list[BaseException] = []
    rest: list[BaseException] = [errors]
    while rest:
        error = rest.pop()
        if isinstance(error, BaseExceptionGroup):
            rest.extend(error.exceptions)
        else:
            flat.append(error)
    return min(
        flat, key=lambda error: 0 if not isinstance(error, ReedbedError) else 1 if isinstance(error, DataLoss) else 2
    )
