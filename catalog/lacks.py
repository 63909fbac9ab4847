"""What extents lack: which shards are missing, or lie elsewhere than their positions say, and the queue of that work.

A shard of a live extent is in one of these states, by the masks of its row:

    present                     on the device that its position names
    present and `gone`          on the position's source, which was not in service when the position was given away
    present and `moving`        on the position's source, which was
    not present, but required   missing

Invariants, kept by `store` alone:
- An extent has a row in the queue exactly while it is live and a shard is missing, gone or moving; the queue's order is
  that of redundancy left, then age. A moving shard costs no redundancy.
- Rows `p` count, for each PG and combination of masks, the queued extents of that PG and the bytes of their work.
- Rows `y` name the live extents of each PG, rows `k` those that are sparse (sparse.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from reedbed.catalog import keys, records, sparse
from reedbed.catalog.edit import Edit
from reedbed.catalog.engine import Reader
from reedbed.catalog.records import DegradedRow, ExtentRow, LackRow
from reedbed.common.ids import Id


@dataclass(frozen=True, slots=True)
class Masks:
    """Bit i: of position i."""

    missing: int = 0
    gone: int = 0
    moving: int = 0

    @property
    def work(self) -> int:
        """The positions whose device is to get its shard."""
        return self.missing | self.gone | self.moving


@dataclass(frozen=True, slots=True)
class Lack:
    """The queued extents of one PG with the same masks; `bytes` of shards to be written, `since_ms` of the id clock."""

    pg: int
    masks: Masks
    extents: int
    bytes: int
    since_ms: int


@lru_cache(4096)
def required(lengths: tuple[int, ...], m: int) -> int:
    """The bitmap of positions that have a shard at all: data shards that are not empty, and parity."""
    bits = ((1 << m) - 1) << len(lengths)
    for position, length in enumerate(lengths):
        if length:
            bits |= 1 << position
    return bits


def missing(row: ExtentRow) -> int:
    """The bitmap of positions whose shard is nowhere."""
    return required(row.lengths, row.m) & ~row.present


def masks(row: ExtentRow) -> Masks:
    """What a live extent lacks."""
    return Masks(missing(row), row.gone, row.moving)


def redundancy(row: ExtentRow) -> int:
    """How many more shards the extent may lose, never below 0."""
    return max(0, row.m - (missing(row) | row.gone).bit_count())


def visible(row: ExtentRow) -> int:
    """The positions that a reader should ask: without those whose source has left, as long as others suffice.

    Where all that are whole do not suffice, every position: a damaged shard still gives its good blocks.
    """
    sure = row.present & ~row.gone
    if sure.bit_count() >= row.k:
        return sure
    needed = row.k - sum(1 for length in row.lengths if not length)
    for chosen in (sure, row.present):
        if chosen.bit_count() >= needed:
            return chosen
    return required(row.lengths, row.m)


def shard_length(row: ExtentRow, position: int) -> int:
    """Parity is as long as the longest data shard."""
    return row.lengths[position] if position < row.k else max(row.lengths)


def work_bytes(row: ExtentRow) -> int:
    """Bytes of the shards that are to be written."""
    work = masks(row).work
    return sum(shard_length(row, position) for position in range(row.k + row.m) if work >> position & 1)


def queued(row: ExtentRow) -> tuple[int, DegradedRow] | None:
    """The extent's place and row in the queue; None if it has none."""
    if row.dropped_ms is not None:
        return None
    work = masks(row).work
    return (redundancy(row), DegradedRow(work, row.pg)) if work else None


def store(edit: Edit, extent_id: Id, old: ExtentRow | None, new: ExtentRow) -> None:
    """Write the extent's row, and keep all that follows from it in step. `old` is the row that was written last."""
    assert extent_id not in edit.waiting, extent_id.hex()
    edit.rows.put(keys.extent(extent_id), records.EXTENT.encode(new))
    sparse.moved(edit, extent_id, old, new)
    was_live = old is not None and old.dropped_ms is None
    if new.dropped_ms is None and not was_live:
        edit.rows.put(keys.extent_of_pg(new.pg, extent_id), b"")
    elif new.dropped_ms is not None and was_live:
        edit.rows.delete(keys.extent_of_pg(new.pg, extent_id))
    before = queued(old) if old is not None else None
    after = queued(new)
    if before == after and (old is None or masks(old) == masks(new)):
        return
    if before is not None and old is not None:
        if after is None or after[0] != before[0]:
            edit.rows.delete(keys.degraded(before[0], extent_id))
        _count(edit, old, -1)
    if after is not None:
        if before != after:
            edit.rows.put(keys.degraded(after[0], extent_id), records.DEGRADED.encode(after[1]))
        _count(edit, new, 1)


def _count(edit: Edit, row: ExtentRow, by: int) -> None:
    lacks = masks(row)
    if lacks.missing | lacks.gone:
        edit.count(degraded_extents=by)
    else:
        edit.count(moving_extents=by)
    key = keys.lack(row.pg, lacks.missing, lacks.gone, lacks.moving)
    data = edit.rows.get(key)
    known = LackRow(0, 0, edit.needs.leases.id_time_ms()) if data is None else records.LACK.decode(data, key)
    known = LackRow(known.extents + by, known.bytes + by * work_bytes(row), known.since_ms)
    assert known.extents >= 0, key
    if known.extents:
        edit.rows.put(key, records.LACK.encode(known))
    else:
        edit.rows.delete(key)


def degraded(reader: Reader, limit: int) -> list[tuple[Id, int, int]]:
    """(extent, redundancy left, bitmap of positions to be filled) of the extents most in danger."""
    return [(extent_id, left, row.missing) for extent_id, left, row in queue(reader, limit)]


def queue(reader: Reader, limit: int, after: tuple[int, Id] | None = None) -> list[tuple[Id, int, DegradedRow]]:
    """(extent, redundancy left, row) of the queue, from behind (redundancy, extent) `after`."""
    start = keys.DEGRADED if after is None else keys.degraded(*after) + b"\x00"
    found: list[tuple[Id, int, DegradedRow]] = []
    for key, data in reader.scan(start, keys.after(keys.DEGRADED)):
        found.append((keys.last_id(key), key[1], records.DEGRADED.decode(data, key)))
        if len(found) == limit:
            break
    return found


def lacks(reader: Reader) -> list[Lack]:
    """All counts, in order of PGs."""
    found = []
    for key, data in reader.scan(keys.LACKS, keys.after(keys.LACKS)):
        pg, *given = keys.split_lack(key)
        row = records.LACK.decode(data, key)
        found.append(Lack(pg, Masks(*given), row.extents, row.bytes, row.since_ms))
    return found


def extents_of(reader: Reader, pg: int, after: bytes = b"") -> Iterator[Id]:
    """The live extents of a PG, from the one behind id `after` on."""
    prefix = keys.extents_of_pg(pg)
    for key, _ in reader.scan(prefix + after + b"\x00" if after else prefix, keys.after(prefix)):
        yield keys.last_id(key)
