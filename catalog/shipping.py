"""The redo stream on its way to the cluster: about every second the records since the last run, as one object.

Invariants
- Every record after `CopyRow.last` is in the engine, or the stream is begun anew, which makes a snapshot due.
- Commits never wait for a run to be shipped.
- Devices are told that the copy holds everything only while it can bring it back: with a complete snapshot that this
  stream can be applied to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Final

import msgspec

from reedbed.catalog import copying, pieces, sysobjects
from reedbed.catalog.copywork import CopyWork, Place
from reedbed.catalog.engine import RedoRecord
from reedbed.catalog.pieces import REDO, Head
from reedbed.catalog.records import CopyRow
from reedbed.common import logs
from reedbed.common.checksums import crc32c
from reedbed.common.clock import Deadline
from reedbed.common.errors import LogTrimmed, ReedbedError, Unavailable
from reedbed.common.ids import ID_BYTES
from reedbed.protos.types import Extent

STEP_S: Final = 0.25

_log = logs.get("catalog.copy")


class Shipping:
    """See the module's text. Belongs to one event loop."""

    def __init__(self, work: CopyWork, every_s: float, rng: Random) -> None:
        """every_s: from one run to the next, at least."""
        self._work = work
        self._every_s = every_s
        self._rng = rng
        self._shipped_at: float | None = None
        self._covered = 0
        self._alone = asyncio.Lock()
        self._behind = 0  # records that are worth shipping and wait
        self._behind_since: float | None = None
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why nothing can be shipped, or the empty string."""
        return self._problem

    @property
    def covered(self) -> int:
        """The redo record up to which the copy can bring back everything that is worth it; 0 if it can nothing."""
        row = self._work.row
        return max(row.last, self._covered) if row is not None and copying.is_whole(row) else 0

    def status(self) -> dict[str, object]:
        """How far behind the copy is; seconds, records."""
        row, since = self._work.row, self._behind_since
        return {
            "settled": self._work.notes.settled,
            "unconfirmed": self._work.notes.unconfirmed,
            "age_s": round(0.0 if since is None else self._work.clock.monotonic() - since, 1),
            "behind_records": self._behind,
            "redo": self._work.engine.redo_position(),
            "shipped": row.last if row else 0,
            "redo_bytes": row.size if row else 0,
            "runs": row.runs if row else 0,
            "problem": self._problem,
        }

    async def step(self) -> bool:
        """The step of a background loop; whether to go on at once. What keeps it from its work is told by `status`."""
        try:
            again = await self._ship(0)
        except ReedbedError as error:
            if str(error) != self._problem:
                _log.warning("the copy of the catalog cannot go on: %s", error)
            self._problem = str(error)
            self._work.read_again()
            return False
        if self._problem and self._work.row is not None:
            self._problem = ""
            _log.info("the copy of the catalog goes on")
        return again

    async def ship_to(self, position: int, deadline: Deadline) -> CopyRow:
        """Ship everything up to this record, worth it or not; the row after that. DeadlineExceeded, Unavailable."""
        while self._work.row is None or self._work.row.last < position:
            deadline.check("shipping redo records")
            await self._ship(position)
        return self._work.row

    async def _ship(self, force_to: int) -> bool:
        async with self._alone:
            place = await self._work.placing()
            if isinstance(place, str):
                if force_to:
                    raise Unavailable(place)
                self._problem = place
                return False
            row = self._work.row or await self._begin_anew()
            try:
                found = await self._read(row.last)
            except LogTrimmed:
                _log.warning("redo records after %d are gone: the copy begins anew with a snapshot", row.last)
                row = await self._begin_anew()
                found = await self._read(row.last)
            self._count(found)
            if not found or not (self._behind or row.last < force_to or len(found) == copying.RUN_RECORDS):
                self._settle(row, found[-1].number if found else row.last)
                return False
            if not force_to and self._too_soon(len(found)):
                return False
            run = copying.run_of(found)
            await self._write(place, row, run)
            return self._work.engine.redo_position() > run[-1].number

    def _settle(self, row: CopyRow, looked_at: int) -> None:
        """Nothing up to this record is worth shipping; the copy has it all, once there is a snapshot to apply it to."""
        if copying.is_whole(row):
            self._covered = looked_at
            self._work.notes.settle(looked_at)

    def _too_soon(self, records: int) -> bool:
        """Whether more may come into the same run."""
        if self._shipped_at is None or records == copying.RUN_RECORDS:
            return False
        return self._work.clock.monotonic() - self._shipped_at < self._every_s

    async def _read(self, after: int) -> list[RedoRecord]:
        return await asyncio.to_thread(self._work.engine.read_redo, after, copying.RUN_RECORDS)

    async def _begin_anew(self) -> CopyRow:
        return await self._work.begin(self._rng.randbytes(ID_BYTES))

    def _count(self, found: Sequence[RedoRecord]) -> None:
        self._behind = sum(copying.worth_shipping(record) for record in found)
        if not self._behind:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = self._work.clock.monotonic()

    async def _write(self, place: Place, row: CopyRow, run: Sequence[RedoRecord]) -> None:
        work = self._work
        packed = await asyncio.to_thread(pieces.pack_run, run)
        bodies = pieces.cut(packed.body)
        written: list[Extent] = []
        link, checksum = row.link, 0
        for part, body in enumerate(bodies):
            head = Head(
                kind=REDO,
                cluster=work.cluster,
                stream=row.stream,
                term=work.leases.term(),
                number=row.number + part + 1,
                part=part,
                parts=len(bodies),
                first=run[0].number,
                last=run[-1].number,
                time_us=work.now_us(),
                previous=link,
            )
            head, data = pieces.piece(head, body, packed.raw)
            written.append(await work.write(place.stream, place.profile, data))
            link, checksum = head.link, crc32c(data, checksum)
        await work.commit(
            row.stream,
            lambda edit: sysobjects.put(edit, sysobjects.redo_key(run[-1].number), written, checksum),
            lambda now: msgspec.structs.replace(
                now,
                last=run[-1].number,
                number=row.number + len(bodies),
                link=link,
                size=now.size + len(packed.body),
                runs=now.runs + 1,
            ),
        )
        self._behind, self._behind_since = 0, None
        self._shipped_at = work.clock.monotonic()
