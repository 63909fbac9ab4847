"""Bytes of shards that cannot be had, or not in time, computed from others: only the range asked for, in whole blocks.

A decoding asks k shards for the range, parity also for the rows of the lost shards' tables. Where those tell that the
range begins or ends inside a block, what is missing of the whole blocks is asked for too. A shard that fails is
replaced by another, one that is late as well, as long as there are others and, before it counts as failed, budget.

Invariants:

- `held` holds verified bytes only; what is computed is handed on only if it matches the rows of a parity shard.
- What it keeps in memory is at most the window (the range, widened to whole blocks) of k+m shards.
- Every call that it starts has ended when it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reedbed.common.checksums import Buffer
from reedbed.common.errors import Corrupt, DataLoss, ReedbedError
from reedbed.ec.codec import codec_for
from reedbed.ec.plan import DecodePlan, Part, Piece, rebuild_plan
from reedbed.extents import buffers
from reedbed.extents.asking import Asker, RowsWanted
from reedbed.extents.blocks import BlockRows, RowsCheck, content_sum
from reedbed.extents.encoded import COLUMN
from reedbed.extents.offload import off_loop_to_its_end

_STRIKES = 2  # times that a shard's bytes may arrive altered before it is given up


@dataclass(slots=True)
class _Call:
    """A call under way: when it began, and the times from then on at which it is late and counts as failed."""

    shard: int
    size: int
    began: float
    late_at: float
    hung_at: float
    late: bool = False
    hung: bool = False


@dataclass(frozen=True, slots=True)
class Direct:
    """A piece that the same read fetches by itself: where its bytes are to lie, and a future that ends with it, true
    if they do. Decoding uses them instead of asking again."""

    piece: Piece
    view: memoryview
    done: asyncio.Future[bool]

    def covers(self, part: Part) -> bool:
        piece = self.piece
        return piece.start <= part.start and part.start + part.length <= piece.start + piece.length


class Decoding:
    """The decoding of pieces of one extent whose ranges within their shards lie close together."""

    def __init__(
        self,
        asker: Asker,
        pieces: Sequence[Piece],
        directs: Mapping[int, Direct] | None = None,
        *,
        budgeted: bool = False,
        places: Mapping[int, memoryview] | None = None,
    ) -> None:
        """`places`: where the bytes of lost shards belong, for whoever has nothing else that writes there: where a
        whole piece is computed at once, that is done in place, and what `run` returns for it is that view.

        `budgeted`: the spare budget has paid for the range, and pays for what whole blocks need beyond it."""
        self._asker = asker
        self._budgeted = budgeted
        self._pieces = pieces
        self._lost = tuple(piece.shard for piece in pieces)
        self._asked = RowsWanted(
            self._lost,
            min(piece.start for piece in pieces),
            max(piece.start + piece.length for piece in pieces),
        )
        self._start, self._end = self._asked.start, self._asked.end
        self._directs = directs or {}
        self._places = places or {}
        self._taken: list[bytearray] = []  # buffers of calls that have ended well
        self.sums: dict[int, int] = {}  # plain ones of pieces, by shard, where they come of their being verified
        self._held: dict[int, list[tuple[int, memoryview]]] = {}
        self._rows: dict[int, dict[int, BlockRows]] = {}
        self._flying: dict[asyncio.Task[None], _Call] = {}
        self._strikes: dict[int, int] = {}
        self._again: set[int] = set()  # given up by the read, but asked once more by this decoding
        parity = list(range(asker.profile.k, asker.profile.n))
        asker.access.rng.shuffle(parity)  # so that one parity shard does not get all the load
        self._order = [*range(asker.profile.k), *parity]

    async def run(self) -> list[Buffer]:
        """The verified bytes of each piece. Raises DataLoss, Corrupt, Unavailable or DeadlineExceeded."""
        try:
            while True:
                plan = self._plan()
                if not self._complete(plan):
                    self._launch(plan)
                    await self._wait(plan)
                elif not self._widen(plan):
                    found = await self._compute(plan)
                    if found is not None:
                        self._held.clear()
                        for buffer in self._taken:
                            buffers.give(buffer)
                        return found
        finally:
            await self._land()

    def _plan(self) -> DecodePlan:
        while True:
            bad = self._asker.bad.keys() - self._again
            usable = sorted((s for s in self._order if s not in self._lost and s not in bad), key=self._rank)
            try:
                return rebuild_plan(
                    self._asker.layout,
                    self._asker.profile,
                    self._lost,
                    usable,
                    self._start,
                    self._end - self._start,
                )
            except DataLoss:
                if not self._forgive():
                    raise self._asker.too_few() from None

    def _rank(self, shard: int) -> int:
        """What to use first: what is there, then what is on its way, what can be asked, and last what is doubtful."""
        if shard in self._held:
            return 0
        direct = self._directs.get(shard)
        if direct is not None and (not direct.done.done() or direct.done.result()):
            return 1
        call = next((call for call in self._flying.values() if call.shard == shard), None)
        if call is not None:
            return 6 if call.hung else 4 if call.late else 2
        if not self._asker.up(shard):
            return 8
        if shard in self._strikes:
            return 7
        return 5 if self._asker.slow(shard, self._asked.end - self._asked.start) else 3

    def _forgive(self) -> bool:
        """Lets shards be asked again whose bytes may have been altered on the way only."""
        again = [
            shard
            for shard, error in self._asker.bad.items()
            if type(error) is Corrupt and shard not in self._lost and self._strikes.get(shard, 0) < _STRIKES
        ]
        for shard in again:
            self._strikes[shard] = self._strikes.get(shard, 0) + 1
        self._again.update(again)
        return bool(again)

    def _missing(self, part: Part) -> list[tuple[int, int]]:
        """The (start, length) ranges of a part that are not held: none, all of it, or what is before and behind."""
        held = self._held.get(part.shard)
        if not held:
            return [(part.start, part.length)]
        begin, end = held[0][0], held[-1][0] + len(held[-1][1])
        ranges = [(part.start, begin - part.start), (end, part.start + part.length - end)]
        return [(start, length) for start, length in ranges if length > 0]

    def _complete(self, plan: DecodePlan) -> bool:
        for part in plan.sources:
            direct = self._directs.get(part.shard)
            if direct is None or part.shard in self._held or not direct.covers(part):
                continue
            if direct.done.done() and direct.done.result():
                at = part.start - direct.piece.start
                self._held[part.shard] = [(part.start, direct.view[at : at + part.length])]
        return all(not self._missing(part) for part in plan.sources)

    def _launch(self, plan: DecodePlan) -> None:
        asked = {call.shard for call in self._flying.values()}
        now = self._asker.access.clock.monotonic()
        for part in plan.sources:
            if part.shard in asked:
                continue
            direct = self._directs.get(part.shard)
            if direct is not None and part.shard not in self._held and direct.covers(part) and not direct.done.done():
                continue
            ranges = self._missing(part)
            if not ranges:
                continue
            size = sum(length for _, length in ranges)
            if self._budgeted and part.shard in self._held:
                self._asker.access.latency.budget.spend(1, size)
            late = self._asker.patience(part.shard, size)
            call = _Call(part.shard, size, now, now + late, now + self._asker.access.latency.hung_after(late))
            task = asyncio.get_running_loop().create_task(self._fetch(part.shard, ranges, size))
            self._flying[task] = call

    async def _fetch(self, shard: int, ranges: Sequence[tuple[int, int]], size: int) -> None:
        buffer = buffers.take(size)
        into = memoryview(buffer)
        wanted = self._asked if shard >= self._asker.profile.k and shard not in self._rows else None
        rows = await self._asker.ask(shard, ranges, into, wanted)
        self._taken.append(buffer)
        if wanted is not None:
            self._rows[shard] = rows
        at = 0
        held = self._held.setdefault(shard, [])
        for start, length in ranges:
            held.append((start, into[at : at + length]))
            at += length
        held.sort(key=lambda fragment: fragment[0])

    async def _wait(self, plan: DecodePlan) -> None:
        """Until a call that runs ends, or one is late."""
        waiting: set[asyncio.Future[None] | asyncio.Future[bool]] = {*self._flying}
        for part in plan.sources:
            direct = self._directs.get(part.shard)
            if direct is not None and not direct.done.done():
                waiting.add(direct.done)
        now = self._asker.access.clock.monotonic()
        moments = [call.hung_at if call.late else call.late_at for call in self._flying.values() if not call.hung]
        timeout = max(0.0, min(moments) - now) if moments else None
        await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

        now = self._asker.access.clock.monotonic()
        for task, call in list(self._flying.items()):
            if task.done():
                del self._flying[task]
                try:
                    task.result()
                except ReedbedError as error:
                    self._held.pop(call.shard, None)
                    self._again.discard(call.shard)
                    self._asker.give_up(call.shard, error)
            elif not call.late and now >= call.late_at:
                call.late = self._asker.access.latency.budget.take(1, call.size)
                if call.late:
                    self._asker.access.metrics.add("reads.sources_late")
                else:
                    call.late_at = call.hung_at
            if not call.hung and now >= call.hung_at:
                call.late = call.hung = True

    def _widen(self, plan: DecodePlan) -> bool:
        """Whether whole blocks reach further than what is held: then the window is theirs by now."""
        rows = self._rows[self._table_shard(plan)].values()
        start, end = min(found.offset for found in rows), max(found.end for found in rows)
        if self._start <= start and end <= self._end:
            return False
        self._start, self._end = min(start, self._start), max(end, self._end)
        return True

    @staticmethod
    def _table_shard(plan: DecodePlan) -> int:
        # the other data shards are fewer than k, so one parity shard at least is among the sources
        assert plan.table_shard is not None
        return plan.table_shard

    async def _compute(self, plan: DecodePlan) -> list[Buffer] | None:
        """The bytes of the pieces; None if they do not match their rows, which puts the parity shard in doubt."""
        have: dict[int, Buffer] = dict.fromkeys(plan.zeros, b"")
        have.update((part.shard, self._bytes_of(part)) for part in plan.sources)
        out = {part.shard: self._output(part) for part in plan.want}
        table = self._table_shard(plan)
        rows = self._rows[table]
        size = sum(map(len, have.values()))
        good = await off_loop_to_its_end(size, self._decoder(have, out, rows, plan.start))
        if not good:
            self._asker.access.metrics.add("reads.damaged")
            del self._rows[table], self._held[table]
            self._strikes[table] = self._strikes.get(table, 0) + 1
            if self._strikes[table] >= _STRIKES:
                self._again.discard(table)
                error = Corrupt("decoded bytes do not match the rows of its table", where=self._asker.where())
                self._asker.give_up(table, error)
            return None
        found: list[Buffer] = []
        for piece in self._pieces:
            place = out[piece.shard]
            if place is not self._places.get(piece.shard):
                place = place[piece.start - plan.start : piece.start - plan.start + piece.length]
            elif (own := rows[piece.shard]).offset == piece.start and own.end == piece.start + piece.length:
                self.sums[piece.shard] = content_sum(self._asker.extent.id, own, place)
            found.append(place)
        return found

    def _output(self, part: Part) -> memoryview:
        """Where to compute a part: where it belongs, if that is all of what belongs there."""
        place = self._places.get(part.shard)
        piece = next(piece for piece in self._pieces if piece.shard == part.shard)
        if place is not None and (piece.start, piece.length) == (part.start, part.length):
            return place
        return memoryview(bytearray(part.length))

    def _decoder(
        self, have: Mapping[int, Buffer], out: Mapping[int, memoryview], rows: Mapping[int, BlockRows], start: int
    ) -> Callable[[], bool]:
        codec, extent = codec_for(self._asker.profile), self._asker.extent.id

        def decode() -> bool:
            rebuild = codec.rebuilder(have, out)
            checks = [RowsCheck(extent, rows[shard], data, start) for shard, data in out.items()]
            longest = max(map(len, out.values()))
            for begin in range(0, longest, COLUMN):  # each is verified while the processor has it at hand
                end = min(begin + COLUMN, longest)
                rebuild(begin, end)
                if not all(check.upto(start + end) for check in checks):
                    return False
            return all(check.done() for check in checks)

        return decode

    def _bytes_of(self, part: Part) -> Buffer:
        held = self._held[part.shard]
        if len(held) > 1:  # what was read first and what was missing around it
            held[:] = [(held[0][0], memoryview(b"".join(view for _, view in held)))]
        start, view = held[0]
        return view[part.start - start : part.start - start + part.length]

    async def _land(self) -> None:
        """Ends the calls that still run; those that were late have lost."""
        flying, self._flying = self._flying, {}
        if not flying:
            return
        now = self._asker.access.clock.monotonic()
        for task, call in flying.items():
            if call.late and not task.done():
                self._asker.overtaken(call.shard, call.size, now - call.began)
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)
