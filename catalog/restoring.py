"""A catalog is begun anew on what a copy has: the steps that make it safe to serve, in an engine that nobody serves.

What the copy cannot know is not guessed: it is named (log positions), held (extents), or taken from devices (the map).
The order matters where a crash may come between: the last transaction makes the rest count, and until then nothing is
served, or the catalog notices again that it is older than its devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec

from reedbed.catalog import copying, extents, hold, keys, lacks, leases, mending
from reedbed.catalog.balancing import forget_order
from reedbed.catalog.drains import read_leaving, write_leaving
from reedbed.catalog.edit import editing, log_state
from reedbed.catalog.engine import Engine, Writer
from reedbed.catalog.judge import AckJudge, ProfileJudge
from reedbed.catalog.mapstate import read_map, read_starts, write_change
from reedbed.catalog.needs import Needs
from reedbed.catalog.records import BegunRow, CopyRow, MissingRow
from reedbed.catalog.remap import Copied, Remapped, change_to, realigned, remap
from reedbed.catalog.removed import write_removed
from reedbed.catalog.witness import Witness
from reedbed.common import logs
from reedbed.common.clock import Clock
from reedbed.common.errors import Corrupt
from reedbed.common.ids import NO_ID, Id
from reedbed.protos.types import PlacementGroup

REBUILT: Final = "rebuilt from the cluster"
RESTORED: Final = "restored from a backup"
NOTICED: Final = "older than its devices"
_ROWS: Final = 2000  # of one transaction

_log = logs.get("catalog.rebuild")


@dataclass(frozen=True, slots=True)
class Begun:
    """A catalog that may be served. held: the range of ids of which unknown extents are kept."""

    term: int
    row: BegunRow
    held: tuple[Id, Id]
    log: tuple[int, int]
    forgotten: tuple[str, ...] = ()  # orders of operators: what was lost may have carried them out, or taken them back


class _Still:
    """Leases of a catalog that does not run: its clock stands, and nothing is below its horizon."""

    def __init__(self, term: int, now_ms: int) -> None:
        self._term = term
        self._now_ms = now_ms

    def horizon(self) -> Id:
        return NO_ID

    def id_time_ms(self) -> int:
        return self._now_ms

    def term(self) -> int:
        return self._term

    def shown_before(self, seconds: float) -> int:
        return 0


def missing_of(log: tuple[int, int], base: int, witness: Witness) -> MissingRow | None:
    """The log entries after position `log` that are lost, as far as anybody can tell; None if there are none.

    base: the term with which the copy was last begun anew; positions of earlier terms are accounted for.
    """
    heard = witness.log if witness.log[0] >= base else (0, 0)
    note = witness.note
    open_ = not (witness.complete and note is not None and note.settled)
    newest = max(heard[1], log[1])
    if not open_ and newest == log[1]:
        return None
    term = max(heard[0], note.term if note is not None else 0, log[0])
    return MissingRow(term, log[1], newest, open_)


def begin(engine: Engine, witness: Witness, term: int, how: str, clock: Clock, stream: CopyRow | None = None) -> Begun:
    """Make the catalog in `engine` one that may be served, its next start in the term after `term`.

    `term` is above all that devices remember, and claimed with them where they are to follow nobody else. stream: what
    the copy goes on with, None to begin another one. Errors as of the engine's; Corrupt for a copy without a map.
    """
    wall_ms = int(clock.wall() * 1000)
    with engine.read() as reader:
        stored = read_map(reader)
        if stored is None:
            raise Corrupt("the copy holds no cluster map", hint="Use another copy")
        map_, counters = stored
        bound, base, starts = leases.read_bound_ms(reader), hold.base_term(reader), read_starts(reader)
        state = log_state(reader)
    log = (state.term, state.seq)
    new = remap(Copied(map_, counters, starts, strayed=how == NOTICED), witness.heard)
    needs = Needs(_Still(term, max(bound, wall_ms)), AckJudge(lambda: new.map), ProfileJudge(lambda: new.map), clock)
    for pg in sorted(new.changed):
        _realign(engine, needs, map_.pgs[pg], new)
    start = leases.start_above(wall_ms, [bound, witness.id_ms])
    row = BegunRow(how, wall_ms * 1000, engine.redo_position(), missing_of(log, base, witness))

    def settle(writer: Writer) -> tuple[tuple[Id, Id], tuple[str, ...]]:
        for pg in new.changed:
            writer.delete(keys.mark(pg))
        write_change(writer, change_to(map_, new.map), new.counters)
        for device in new.removed:
            write_removed(writer, device)
        low, high = leases.begin_anew(writer, term, start)
        # an old folder may have been served for a while: then its horizon has risen, and says nothing
        held = (NO_ID if how == NOTICED else low), high
        hold.hold(writer, *held)
        hold.write_begun(writer, term, row)
        if stream is None:
            writer.delete(copying.ROW)
        else:
            copying.write(writer, stream)
        return held, _forget_orders(writer)

    with engine.write(urgent=True) as writer:
        held, forgotten = settle(writer)
    for order in forgotten:
        _log.warning("%s is not carried out any more: order it again if you still want it", order)
    return Begun(term, row, held, log, forgotten)


def _forget_orders(writer: Writer) -> tuple[str, ...]:
    leaving = sorted(read_leaving(writer))
    told: list[str] = []
    if leaving:
        write_leaving(writer, frozenset())
        told.append(f"the drain of devices {', '.join(map(str, leaving))}")
    if forget_order(writer):
        told.append("giving devices their share")
    return tuple(told)


def _realign(engine: Engine, needs: Needs, before: PlacementGroup, new: Remapped) -> None:
    """Rows of the live extents of a PG, as of its new positions; some in each transaction."""
    pg = new.map.pgs[before.id]
    after = b""
    while True:
        with engine.read() as reader:
            page = list(islice(lacks.extents_of(reader, pg.id, after), _ROWS))
            mark = mending.get_mark(reader, pg.id)
        if not page:
            return
        with engine.write(urgent=True) as writer, editing(writer, needs) as edit:
            for extent_id in page:
                old = extents.get(writer, extent_id)
                assert old is not None, extent_id.hex()
                row = realigned(mending.as_of(old, mark), before, pg, new.map)
                if row != old:
                    lacks.store(edit, extent_id, old, row)
        after = page[-1]


def stream_after(row: CopyRow | None, stream: bytes, number: int, link: bytes, last: int) -> CopyRow:
    """The row of a copy that goes on after the piece of that number and link; a snapshot is taken at once."""
    old = row or CopyRow(stream=stream, last=last)
    return msgspec.structs.replace(old, stream=stream, number=number, link=link, last=last, size=0, runs=0, wanted=True)
