"""What moved positions and repaired shards mean for the rows of extents; each function within one transaction.

Invariants:
- A mark is applied to a row at most once: rows carry the PG's generation as of which they are right.
- A shard counts as present only if the device that took it is the position's of this moment, in the same incarnation,
  and in service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from reedbed.catalog import extents, keys, lacks, records
from reedbed.catalog.edit import Edit
from reedbed.catalog.engine import Reader, Writer
from reedbed.catalog.moves import IN_SERVICE
from reedbed.catalog.records import ExtentRow, MarkRow
from reedbed.common.ids import Id
from reedbed.protos.types import Ack, ClusterMap


@dataclass(frozen=True, slots=True)
class Mended:
    """What a worker did: who took which shard of the extent."""

    extent: Id
    acks: tuple[Ack, ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """What of it counts: the extent's PG, and bytes by device."""

    pg: int
    by_device: Mapping[int, int]


def put_mark(writer: Writer, pg: int, mark: MarkRow) -> None:
    """Note that a PG's change is to be noted in its extents; with the map's change, in one transaction."""
    assert get_mark(writer, pg) is None, pg
    writer.put(keys.mark(pg), records.MARK.encode(mark))


def get_mark(reader: Reader, pg: int) -> MarkRow | None:
    data = reader.get(keys.mark(pg))
    return None if data is None else records.MARK.decode(data, keys.mark(pg))


def marks(reader: Reader) -> dict[int, MarkRow]:
    """All marks, by PG."""
    return {
        int.from_bytes(key[1:], "big"): records.MARK.decode(data, key)
        for key, data in reader.scan(keys.MARKS, keys.after(keys.MARKS))
    }


def as_of(row: ExtentRow, mark: MarkRow | None) -> ExtentRow:
    """The row after the PG's change."""
    if mark is None or row.generation >= mark.generation:
        return row
    at_source = row.gone | row.moving
    shifted = (mark.gone | mark.moving) & ~mark.back
    # what lay at the source before has nobody left who holds it, as has what lay at a device that is no source now
    present = row.present & ~(shifted & at_source) & ~(mark.lost & ~shifted & ~at_source)
    # what lay at the source lies at the device again, and the other way round
    away = mark.back & present & ~at_source
    kept = ~shifted & ~mark.back
    return msgspec.structs.replace(
        row,
        generation=mark.generation,
        present=present,
        gone=(row.gone & kept) | (mark.gone & shifted & present) | (mark.gone & away),
        moving=(row.moving & kept) | (mark.moving & shifted & present) | (away & ~mark.gone),
    )


def note(edit: Edit, pg: int, limit: int) -> bool:
    """Apply a PG's mark to up to `limit` of its extents; whether some are left. Forgets the mark with the last one."""
    mark = get_mark(edit.writer, pg)
    if mark is None:
        return False
    last = mark.after
    for done, extent_id in enumerate(lacks.extents_of(edit.writer, pg, mark.after)):
        if done == limit:
            left = msgspec.structs.replace(mark, after=last)
            edit.writer.put(keys.mark(pg), records.MARK.encode(left))
            return True
        row = extents.get(edit.writer, extent_id)
        assert row is not None, extent_id.hex()
        new = as_of(row, mark)
        if new != row:
            lacks.store(edit, extent_id, row, new)
        last = extent_id
    edit.writer.delete(keys.mark(pg))
    return False


def record(edit: Edit, map_: ClusterMap, mended: Iterable[Mended]) -> list[Counted | None]:
    """Record shards that were written; for each what counted, None where that is nothing."""
    return [_record(edit, map_, one) for one in mended]


def _record(edit: Edit, map_: ClusterMap, mended: Mended) -> Counted | None:
    old = extents.get(edit.writer, mended.extent)
    if old is None or old.dropped_ms is not None:
        return None
    row = as_of(old, get_mark(edit.writer, old.pg))
    pg = map_.pgs.get(row.pg)
    bits = 0
    if pg is None:
        return None
    for ack in mended.acks:
        device = map_.devices.get(ack.device)
        if (
            ack.position < len(pg.positions)
            and pg.positions[ack.position].device == ack.device
            and device is not None
            and device.incarnation == ack.incarnation
            and device.state in IN_SERVICE
        ):
            bits |= 1 << ack.position
    bits &= lacks.required(row.lengths, row.m)
    new = msgspec.structs.replace(row, present=row.present | bits, gone=row.gone & ~bits, moving=row.moving & ~bits)
    if new != old:
        lacks.store(edit, mended.extent, old, new)
    done = lacks.masks(row).work & ~lacks.masks(new).work
    by_device = {
        place.device: lacks.shard_length(row, index) for index, place in enumerate(pg.positions) if done >> index & 1
    }
    return Counted(row.pg, by_device) if done else None
