"""What shipping redo records and taking snapshots share: the copy's row, and how a piece gets onto the cluster.

A piece is one extent of a system object, written through the extents room and committed like any other, so that repair,
scrub and moves keep it.

Invariants
- The row changes only in the transaction that commits what it tells of.
- What a rebuild would start from is not let go before there is a newer one: a stream that is begun anew keeps the
  snapshot of the one before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from reedbed.catalog import copying, sysobjects
from reedbed.catalog.access import CatalogAccess
from reedbed.catalog.edit import Edit, editing
from reedbed.catalog.engine import Engine, Writer
from reedbed.catalog.leases import Leases, Transactor
from reedbed.catalog.needs import Needs
from reedbed.catalog.notes import Notes
from reedbed.catalog.records import CopyRow
from reedbed.common.clock import Clock, Deadline
from reedbed.common.errors import DiskFull, ReedbedError, Unavailable
from reedbed.common.ids import Id
from reedbed.ec.cut import block_borders, layout_for
from reedbed.ec.profiles import Profile
from reedbed.extents.write import write_extent
from reedbed.protos.types import Extent

WRITE_S: Final = 30.0  # for one piece


@dataclass(frozen=True, slots=True)
class Place:
    """Where pieces go: the way there for each kind, and their profile."""

    stream: CatalogAccess
    snapshots: CatalogAccess
    profile: Profile


Placing = Callable[[], Awaitable[Place | str]]  # a text: why there is no place yet


class CopyWork:
    """See the module's text. Belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        transactor: Transactor,
        leases: Leases,
        needs: Needs,
        notes: Notes,
        cluster: bytes,
        placing: Placing,
        clock: Clock,
    ) -> None:
        self.engine = engine
        self.transactor = transactor
        self.leases = leases
        self.notes = notes
        self.cluster = cluster
        self.placing = placing
        self.clock = clock
        self._needs = needs
        self.no_room = False  # the last piece found no device with room for it
        self._row: CopyRow | None = None
        self.read_again()

    @property
    def row(self) -> CopyRow | None:
        """How far the copy is, as committed; None before there is one."""
        return self._row

    def read_again(self) -> None:
        """After an error that leaves open whether a commit was done."""
        with self.engine.read() as reader:
            self._took(copying.read(reader))

    def _took(self, row: CopyRow | None) -> None:
        self._row = row
        snapshot = row.snapshot if row is not None else None
        self.notes.snapshot_from(Id(snapshot.begin) if snapshot is not None else None)

    def now_us(self) -> int:
        return int(self.clock.wall() * 1e6)

    async def write(self, access: CatalogAccess, profile: Profile, data: bytes) -> Extent:
        """One piece onto the cluster; nobody knows of it before a commit."""
        layout = layout_for(len(data), profile)
        view = memoryview(data)
        shards = [
            [view[start : start + length]] if length else []
            for start, length in zip(layout.starts, layout.lengths, strict=True)
        ]
        borders = [block_borders(length) for length in layout.lengths]
        try:
            deadline = Deadline(WRITE_S, self.clock)
            # not foreground: repair, which changes rows all the time, would yield to the copy of its own changes
            extent = await write_extent(access, profile, shards, borders, deadline, background=True)
        except ReedbedError as error:
            self.no_room = self.no_room or lacks_room(error)
            raise
        self.no_room = False
        return extent

    async def commit(
        self, stream: bytes, change: Callable[[Edit], None], renew: Callable[[CopyRow], CopyRow] | None = None
    ) -> None:
        """`change`, and the row that `renew` makes of the present one, in one transaction.

        Unavailable if the copy has begun another stream meanwhile; errors of `change` and of the engine.
        """

        def apply(writer: Writer) -> CopyRow:
            row = copying.read(writer)
            if row is None or row.stream != stream:
                raise Unavailable("the copy of the catalog began another stream meanwhile")
            with editing(writer, self._needs) as edit:
                change(edit)
            if renew is not None:
                row = renew(row)
                copying.write(writer, row)
            return row

        # pieces make room in the engine, which forgets what they hold
        self._took(await self.transactor.run(apply, urgent=True))

    async def begin(self, stream: bytes) -> CopyRow:
        """A new stream, of the records that follow the newest one now."""
        last = self.engine.redo_position()

        def apply(writer: Writer) -> CopyRow:
            row = copying.begun_anew(copying.read(writer), sysobjects.newest_snapshot(writer), stream, last)
            copying.write(writer, row)
            return row

        row = await self.transactor.run(apply, urgent=True)
        self._took(row)
        return row


def lacks_room(error: BaseException | None) -> bool:
    """Whether a write failed because a device has no room left."""
    while error is not None and not isinstance(error, DiskFull):
        error = error.__cause__
    return error is not None
