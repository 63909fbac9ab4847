"""A plan of pieces carried out: a snapshot's pages into an empty engine, then runs of redo records in order.

Invariants
- Nothing is used that does not fit: each piece is the one that the snapshot's end, or the chain, names.
- Runs are applied in order. One that cannot be read ends it: nothing after it is used, though it be there.
- A snapshot counts only with every record up to its last page (chain.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from reedbed.catalog import chain, pieces
from reedbed.catalog.chain import Found, Plan
from reedbed.catalog.engine import Engine, RedoRecord
from reedbed.catalog.pieces import ROWS, Head
from reedbed.common import logs
from reedbed.common.errors import Corrupt, DataLoss, ReedbedError, Unavailable
from reedbed.common.ids import Id
from reedbed.common.limits import MIB

LOAD_BYTES: Final = 16 * MIB  # of redo records that one transaction of the engine loads
RUNS_AT_ONCE: Final = 16  # that are read together
PIECES_AT_ONCE: Final = 4
_TRY_ANOTHER: Final = (DataLoss, Corrupt, Unavailable)

_log = logs.get("catalog.rebuild")


class Source(Protocol):
    """Where pieces come from (gathering.py)."""

    async def find(self, begin: Id | None) -> list[Found]:
        """The pieces of the redo stream, and ends of snapshots, of extents from `begin` on; None: all."""
        ...

    async def body(self, found: Found) -> bytes:
        """The body of a piece. DataLoss, Unavailable, Corrupt."""
        ...

    async def rows_piece(self, extent: Id) -> tuple[Head, bytes]:
        """A piece of a snapshot's rows. Errors as of `body`."""
        ...


@dataclass(slots=True)
class Loaded:
    """What an engine was filled with: by which plan, how many of its runs, up to which record; `notes` tell what could
    not be read."""

    plan: Plan
    applied: int = 0
    rows: int = 0
    records: int = 0
    last: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether all runs of the plan were applied."""
        return self.applied == len(self.plan.runs)

    @property
    def newest(self) -> Head:
        """Of the newest piece that was used."""
        return self.plan.runs[self.applied - 1][-1].head if self.applied else self.plan.end.head


async def load_best(
    source: Source, found: Sequence[Found], begin: Id | None, fresh: Callable[[], Engine]
) -> tuple[Engine, Loaded] | None:
    """An engine filled by the best plan that can be carried out; None if there is none. `fresh` makes an empty one,
    and lets go of the one before.

    found: the pieces from `begin` on; all others are looked for when those do not suffice.
    """
    tried: set[bytes] = set()
    while True:
        plan = next((one for one in chain.plans(found) if _name(one) not in tried), None)
        if plan is None and begin is not None:
            begin = None
            found = await source.find(None)
            continue
        if plan is None:
            return None
        tried.add(_name(plan))
        engine = await asyncio.to_thread(fresh)
        try:
            return engine, await load(engine, source, plan)
        except _TRY_ANOTHER as error:
            _log.warning("the snapshot as of redo record %d cannot be used: %s", plan.end.head.first, error)


async def load(engine: Engine, source: Source, plan: Plan) -> Loaded:
    """Fill an empty engine. DataLoss, Corrupt, Unavailable if the snapshot, or a run that it needs, cannot be read."""
    loaded = Loaded(plan, last=plan.end.head.first)
    await _load_snapshot(engine, source, loaded)
    await _apply(engine, source, loaded)
    if loaded.last < plan.end.head.last:
        raise DataLoss(f"the redo records up to {plan.end.head.last}, which the snapshot needs, cannot be read")
    return loaded


async def load_more(engine: Engine, source: Source, loaded: Loaded, found: Sequence[Found]) -> None:
    """Apply what `found` has of runs that follow those which were applied."""
    if not loaded.whole:
        return
    for plan in chain.plans(found):
        if plan.end.head == loaded.plan.end.head and _follows(plan, loaded.plan):
            loaded.plan = plan
            await _apply(engine, source, loaded)
            return


async def _load_snapshot(engine: Engine, source: Source, loaded: Loaded) -> None:
    end = loaded.plan.end
    where = f"snapshot {end.head.number}"
    contents = pieces.unpack_contents(await source.body(end), end.head.raw, where)
    link, part = pieces.NO_LINK, 0
    page: list[bytes] = []
    for at in range(0, len(contents.pieces), PIECES_AT_ONCE):
        ids = contents.pieces[at : at + PIECES_AT_ONCE]
        for head, body in await asyncio.gather(*(source.rows_piece(Id(extent)) for extent in ids)):
            told = (head.kind, head.stream, head.number, head.part, head.previous, head.first)
            if told != (ROWS, end.head.stream, end.head.number, part, link, len(page)):
                raise Corrupt(f"piece {part} is not that of this snapshot", where=where)
            link, part = head.link, part + 1
            page.append(body)
            if len(page) == head.last:
                rows = pieces.unpack_rows(b"".join(page), head.raw, where)
                await asyncio.to_thread(engine.load, rows, end.head.first)
                loaded.rows += len(rows)
                page = []
    if link != contents.link or page or loaded.rows != contents.rows:
        raise Corrupt("the pieces are not those that its end names", where=where)


async def _apply(engine: Engine, source: Source, loaded: Loaded) -> None:
    """Apply the runs of the plan that were not applied yet, as far as they can be read."""
    while not loaded.whole:
        window = loaded.plan.runs[loaded.applied : loaded.applied + RUNS_AT_ONCE]
        for run in await asyncio.gather(*(_read(source, parts) for parts in window)):
            if isinstance(run, ReedbedError):
                loaded.notes.append(str(run))
                _log.warning("%s; nothing after it is used", run)
                return
            new = [record for record in run if record.number > loaded.last]
            await asyncio.to_thread(load_records, engine, new)
            loaded.records += len(new)
            loaded.last = max(loaded.last, run[-1].number)
            loaded.applied += 1


async def _read(source: Source, parts: Sequence[Found]) -> list[RedoRecord] | ReedbedError:
    """The records of a run, or why they cannot be had."""
    head = parts[-1].head
    where = f"redo records {head.first} to {head.last}"
    try:
        body = b"".join([await source.body(part) for part in parts])
        records = list(pieces.unpack_run(body, head.raw, where))
        if [record.number for record in records] != list(range(head.first, head.last + 1)):
            raise Corrupt("a run does not hold the records that its head names", where=where)
    except _TRY_ANOTHER as error:
        return DataLoss(f"{where} cannot be read: {error}")
    return records


def load_records(engine: Engine, records: Iterable[RedoRecord]) -> None:
    """Apply records in order, many in one transaction."""
    changes: list[tuple[bytes, bytes | None]] = []
    size = last = 0
    for record in records:
        changes += record.changes
        last = record.number
        size += sum(len(key) + len(value or b"") for key, value in record.changes)
        if size >= LOAD_BYTES:
            engine.load(changes, last)
            changes, size = [], 0
    if changes:
        engine.load(changes, last)


def _follows(plan: Plan, before: Plan) -> bool:
    """Whether the plan is the same as one before, with more runs at its end."""
    count = len(before.runs)
    old = [run[-1].head.link for run in before.runs]
    return len(plan.runs) > count and [run[-1].head.link for run in plan.runs[:count]] == old


def _name(plan: Plan) -> bytes:
    return plan.end.head.link + plan.link
