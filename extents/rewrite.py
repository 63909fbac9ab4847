"""Making one new extent out of pieces of others: read, written elsewhere under another id, and read back.

Invariants:
- What is written was verified block by block when it was read, decoded where need be.
- A piece is said to lie in the new extent only after its bytes were read back from the devices there, verified again,
  and had the sum that they had before.
- The new extent is whole, on devices that are all up, or it is none.
- Pieces that cannot be read are left out; the others go on without them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from reedbed.common.checksums import crc32c
from reedbed.common.clock import Deadline
from reedbed.common.errors import Corrupt, ReedbedError
from reedbed.common.ids import Id, format_id
from reedbed.common.limits import KIB, MIB
from reedbed.ec.cut import choose_packing
from reedbed.ec.profiles import Profile
from reedbed.extents.context import ClusterAccess
from reedbed.extents.offload import off_loop
from reedbed.extents.read import read_extent
from reedbed.extents.write import write_flat
from reedbed.protos.types import Extent

Pace = Callable[[int], Awaitable[None]]  # waited for with the bytes about to be written

GAP: Final = 128 * KIB  # that is read along, rather than to call once more
RUN_MAX: Final = 4 * MIB  # of pieces that are read together
READS_AT_ONCE: Final = 8
BACK: Final = 4 * MIB  # that are read back at once


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` bytes of an extent from `offset`."""

    extent: Extent
    offset: int
    length: int


@dataclass(slots=True)
class Rewritten:
    """What came of it. `places`: by piece its offset in the new extent, and the CRC32C of its bytes.

    An extent without places was written, and does not count. `unread`: extents that could not be read.
    """

    extent: Extent | None = None
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    unread: set[Id] = field(default_factory=set)
    read: int = 0
    written: int = 0
    error: ReedbedError | None = None


@dataclass(slots=True)
class _Run:
    """Pieces of one extent, by their index, that are read together."""

    extent: Extent
    start: int
    end: int
    members: list[int]


def memory_of(pieces: Sequence[Piece], profile: Profile) -> int:
    """About how many bytes rewriting them holds at most."""
    size = sum(piece.length for piece in pieces)
    return sum(run.end - run.start for run in _runs(pieces)) + size + size * profile.n // profile.k


async def rewrite(
    access: ClusterAccess,
    profile: Profile,
    pieces: Sequence[Piece],
    deadlines: Callable[[], Deadline],
    pace: Pace,
    *,
    at_once: bool = True,
) -> Rewritten:
    """Writes the pieces into one extent of `profile`, for which the map must have placement groups. `pace` is waited
    for with the bytes about to be written; reading and writing have a deadline each. Without `at_once` one piece is
    read after the other.

    Never raises for what devices do: the result tells how far it came.
    """
    result = Rewritten()
    try:
        await _Rewriter(access, profile, pieces, deadlines, pace, result, READS_AT_ONCE if at_once else 1).run()
    except ReedbedError as error:
        result.places.clear()
        result.error = error
    return result


class _Rewriter:
    def __init__(
        self,
        access: ClusterAccess,
        profile: Profile,
        pieces: Sequence[Piece],
        deadlines: Callable[[], Deadline],
        pace: Pace,
        result: Rewritten,
        reads: int,
    ) -> None:
        self._access = access
        self._profile = profile
        self._pieces = pieces
        self._deadlines = deadlines
        self._pace = pace
        self._result = result
        self._reading = asyncio.Semaphore(reads)
        self._data: dict[int, memoryview] = {}

    async def run(self) -> None:
        await self._read()
        good = sorted(self._data)
        if not good:
            return
        packing = choose_packing([self._pieces[index].length for index in good], self._profile)
        places = dict(zip(good, packing.offsets, strict=True))
        buffer, sums = await off_loop(packing.layout.size, lambda: self._joined(places, packing.layout.size))
        stored = packing.layout.stored(self._profile)
        await self._pace(stored)
        deadline = self._deadlines()
        starts = sorted(packing.offsets)
        extent = await write_flat(
            self._access, self._profile, buffer, packing.layout.lengths, starts, deadline, keeping=True
        )
        self._result.extent, self._result.written = extent, stored
        await self._check_back(extent, places, sums, deadline)
        self._result.places = {index: (places[index], sums[index]) for index in good}

    async def _read(self) -> None:
        deadline = self._deadlines()

        async def read(run: _Run) -> None:
            async with self._reading:
                data = memoryview(bytearray(run.end - run.start))
                try:
                    await read_extent(self._access, run.extent, run.start, len(data), data, deadline, background=True)
                except ReedbedError as error:
                    self._result.unread.add(run.extent.id)
                    self._result.error = error
                    return
            self._result.read += len(data)
            for index in run.members:
                start = self._pieces[index].offset - run.start
                self._data[index] = data[start : start + self._pieces[index].length]

        async with asyncio.TaskGroup() as group:
            for run in _runs(self._pieces):
                group.create_task(read(run))

    def _joined(self, places: dict[int, int], size: int) -> tuple[memoryview, dict[int, int]]:
        """One buffer with all pieces at their places, and the sum of each as it was read."""
        sums = {index: crc32c(self._data[index]) for index in places}
        if len(places) == 1:
            return next(iter(self._data.values())), sums
        buffer = memoryview(bytearray(size))
        for index, at in places.items():
            buffer[at : at + len(self._data[index])] = self._data[index]
        return buffer, sums

    async def _check_back(
        self, extent: Extent, places: dict[int, int], sums: dict[int, int], deadline: Deadline
    ) -> None:
        """Corrupt if what the devices give is not what was read before."""
        scratch = memoryview(bytearray(min(BACK, extent.size)))
        found = dict.fromkeys(places, 0)
        order = sorted(places, key=places.__getitem__)
        for start in range(0, extent.size, BACK):
            data = scratch[: min(BACK, extent.size - start)]
            await read_extent(self._access, extent, start, len(data), data, deadline, background=True)
            self._result.read += len(data)
            await off_loop(len(data), lambda start=start, data=data: self._sum(found, places, order, start, data))  # type: ignore[misc]
        for index, value in sums.items():
            if found[index] != value:
                raise Corrupt(
                    f"the piece at {places[index]} is not what it was when it was read",
                    where=f"extent {format_id(extent.id)}",
                )

    def _sum(
        self, found: dict[int, int], places: dict[int, int], order: Sequence[int], start: int, data: memoryview
    ) -> None:
        """Adds the bytes from `start` of the extent to the sums of the pieces that they are of."""
        for index in order:
            first = max(0, places[index] - start)
            last = min(len(data), places[index] + self._pieces[index].length - start)
            if first < last:
                found[index] = crc32c(data[first:last], found[index])


def _runs(pieces: Sequence[Piece]) -> Iterator[_Run]:
    """Pieces of the same extent that lie close to each other are read together."""
    run: _Run | None = None
    order = sorted(range(len(pieces)), key=lambda index: (pieces[index].extent.id, pieces[index].offset))
    for index in order:
        piece = pieces[index]
        end = piece.offset + piece.length
        if (
            run is not None
            and run.extent.id == piece.extent.id
            and piece.offset <= run.end + GAP
            and max(end, run.end) - run.start <= RUN_MAX
        ):
            run.end = max(run.end, end)
            run.members.append(index)
            continue
        if run is not None:
            yield run
        run = _Run(piece.extent, piece.offset, end, [index])
    if run is not None:
        yield run
