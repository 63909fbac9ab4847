"""Snapshots of the catalog on the cluster: page by page while it goes on changing, each page its own short transaction.

With the redo records since before its first page a snapshot becomes the state as of any record after its last page
(chain.py). Its pages are objects of their own; its end, which names them all, makes it count.

Invariants
- An end is written only after the stream holds every record up to the last page.
- A complete one, and the redo that goes with it, stay until the next one is complete, also where that is of another
  stream.
- What an unfinished snapshot left is removed before the next is begun; what a complete one covers (older snapshots,
  and runs that end before its first page) is removed after it, as anything else is: with grace.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from reedbed.catalog import copying, pieces, sysobjects
from reedbed.catalog.copywork import CopyWork, Place
from reedbed.catalog.edit import Edit
from reedbed.catalog.engine import Engine
from reedbed.catalog.pieces import END, NO_LINK, ROWS, Contents, Head
from reedbed.catalog.records import CopyRow, SnapshotRow
from reedbed.catalog.shipping import Shipping
from reedbed.common import logs
from reedbed.common.checksums import crc32c
from reedbed.common.clock import Deadline
from reedbed.common.errors import Unavailable
from reedbed.common.ids import Id, make_block
from reedbed.common.limits import MIB
from reedbed.protos.types import Extent

STEP_S: Final = 1.0
PAGE_BYTES: Final = 3 * MIB  # of rows, before they are packed
PAGE_ROWS: Final = 20_000
SHIP_S: Final = 60.0  # that an end waits for the redo up to its last page
REST_MAX_S: Final = 1.0
REMOVED_PER_STEP: Final = 200
BEGIN_BEFORE_MS: Final = 2 * 60_000  # blocks of ids are used up to so long after they were leased

_log = logs.get("catalog.copy")


class Snapshots:
    """See the module's text. Belongs to one event loop."""

    def __init__(self, work: CopyWork, shipping: Shipping) -> None:
        self._work = work
        self._shipping = shipping
        self._under_way: int | None = None  # bytes so far

    def status(self) -> dict[str, object]:
        """The newest snapshot, and the one that is being taken; bytes, seconds."""
        row = self._work.row
        newest = row.snapshot if row is not None and copying.is_whole(row) else None
        told: dict[str, object] | None = None
        if newest is not None:
            age = self._work.clock.wall() - newest.time_us / 1e6
            told = {"bytes": newest.size, "age_s": round(max(0.0, age), 1), "redo": newest.first}
        return {"snapshot": told, "taking_bytes": self._under_way}

    async def step(self) -> bool:
        """The step of a background loop: takes a snapshot that is due, or removes some of what the newest covers."""
        row = self._work.row
        if row is None:
            return False
        if copying.snapshot_due(row):
            place = await self._work.placing()
            if isinstance(place, str):
                return False
            await self._take(place, row)
            return True
        return await self._remove_covered(row)

    async def want(self) -> None:
        """Have one taken soon, due or not."""
        row = self._work.row
        if row is not None:
            await self._work.commit(row.stream, _nothing, lambda now: msgspec.structs.replace(now, wanted=True))

    async def _take(self, place: Place, before: CopyRow) -> None:
        work, stream = self._work, before.stream
        begin = Id(make_block(max(0, work.leases.id_time_ms() - BEGIN_BEFORE_MS), 0) + bytes(4))
        await work.commit(stream, _nothing, lambda now: msgspec.structs.replace(now, snapshots=now.snapshots + 1))
        assert work.row is not None
        number = work.row.snapshots
        try:
            self._under_way = 0
            await self._remove_unfinished(before, number)
            first = work.engine.redo_position()
            contents = await self._write_pages(place, stream, number)
            last = work.engine.redo_position()
            now = await self._shipping.ship_to(last, Deadline(SHIP_S, work.clock))
            if now.stream != stream:
                raise Unavailable("the copy of the catalog began another stream while a snapshot was taken")
            snapshot = SnapshotRow(number, first, last, contents.size, work.now_us(), begin, stream)
            await self._write_end(place, now, snapshot, contents, before)
        finally:
            self._under_way = None
        _log.info("snapshot %d of the catalog: %d rows, %d bytes", number, contents.rows, contents.size)

    async def _write_pages(self, place: Place, stream: bytes, number: int) -> Contents:
        work = self._work
        written: list[bytes] = []
        link, rows, size, after = NO_LINK, 0, 0, b""
        while True:
            began = work.clock.monotonic()
            page, after = await asyncio.to_thread(read_page, work.engine, after)
            packed = await asyncio.to_thread(pieces.pack_rows, page)
            bodies = pieces.cut(packed.body)
            for index, body in enumerate(bodies):
                head = Head(
                    kind=ROWS,
                    cluster=work.cluster,
                    stream=stream,
                    term=work.leases.term(),
                    number=number,
                    part=len(written),
                    first=index,
                    last=len(bodies),
                    time_us=work.now_us(),
                    previous=link,
                )
                head, data = pieces.piece(head, body, packed.raw)
                extent = await work.write(place.snapshots, place.profile, data)
                await self._put(stream, sysobjects.rows_key(number, len(written)), extent, data)
                written.append(extent.id)
                link = head.link
            rows, size = rows + len(page), size + len(packed.body)
            self._under_way = size
            if not after:
                return Contents(tuple(written), link, rows, size)
            # as much rest as work: whoever commits meanwhile should not feel it
            await asyncio.sleep(min(REST_MAX_S, work.clock.monotonic() - began))

    async def _put(self, stream: bytes, key: bytes, extent: Extent, data: bytes) -> None:
        await self._work.commit(stream, lambda edit: sysobjects.put(edit, key, [extent], crc32c(data)))

    async def _write_end(
        self, place: Place, now: CopyRow, snapshot: SnapshotRow, contents: Contents, before: CopyRow
    ) -> None:
        work = self._work
        packed = pieces.pack_contents(contents)
        head = Head(
            kind=END,
            cluster=work.cluster,
            stream=now.stream,
            term=work.leases.term(),
            number=snapshot.number,
            parts=len(contents.pieces),
            first=snapshot.first,
            last=snapshot.last,
            time_us=snapshot.time_us,
            previous=now.link,
        )
        _, data = pieces.piece(head, packed.body, packed.raw)
        extent = await work.write(place.stream, place.profile, data)
        await work.commit(
            now.stream,
            lambda edit: sysobjects.put(edit, sysobjects.end_key(snapshot.number), [extent], crc32c(data)),
            lambda row: msgspec.structs.replace(
                row,
                snapshot=snapshot,
                wanted=False,
                size=max(0, row.size - before.size),
                runs=max(0, row.runs - before.runs),
            ),
        )

    async def _remove_unfinished(self, row: CopyRow, number: int) -> None:
        complete = row.snapshot.number if row.snapshot else 0
        begin = sysobjects.snapshot_prefix(complete + 1)
        while await self._remove(begin, sysobjects.snapshot_prefix(number)):
            pass

    async def _remove_covered(self, row: CopyRow) -> bool:
        if row.snapshot is None:
            return False
        older = await self._remove(sysobjects.SNAPSHOTS, sysobjects.snapshot_prefix(row.snapshot.number))
        return await self._remove(sysobjects.REDO, sysobjects.redo_key(row.snapshot.first + 1)) or older

    async def _remove(self, begin: bytes, end: bytes) -> bool:
        """Remove some of the objects with keys from `begin` on, below `end`; whether more may be left."""
        doomed: list[bytes] = []
        with self._work.engine.read() as reader:
            for key in sysobjects.names(reader, begin, end):
                doomed.append(key)
                if len(doomed) == REMOVED_PER_STEP:
                    break
        row = self._work.row
        if not doomed or row is None:
            return False

        def remove(edit: Edit) -> None:
            for key in doomed:
                sysobjects.remove(edit, key)

        await self._work.commit(row.stream, remove)
        return len(doomed) == REMOVED_PER_STEP


def read_page(engine: Engine, after: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The rows behind key `after`, some of them, in one short read transaction; and where to go on, b"" at the end."""
    page: list[tuple[bytes, bytes]] = []
    size = 0
    with engine.read() as reader:
        for key, value in reader.scan(after + b"\0" if after else b""):
            page.append((key, value))
            size += len(key) + len(value)
            if size >= PAGE_BYTES or len(page) == PAGE_ROWS:
                return page, key
    return page, b""


def _nothing(edit: Edit) -> None:
    """Where only the row changes."""
