"""Extents that cost more than their live bytes are worth, by how much: what compaction gathers.

An extent's fill is what its live bytes would cost in a full extent of its profile, by what its shards hold now. Dead
space lowers it, and so does a small object that is alone in its extent: one data shard and m parity shards.

Rows `k` name the live extents with a fill of at most MOST sixteenths, the emptiest first, then by age. Row `ms` counts
them, and the bytes that they hold beyond what their live bytes are worth, by sixteenths.

Invariants, kept by `moved`, which `lacks.store` calls with each change of an extent's row:
- An extent has a row exactly while it is live and its fill is at most MOST; an extent of a catalog from before there
  was this index gets it with its next change, or from indexing.py.
- What is counted are the rows that are there.
- The catalog's own extents have none: devices remember where its copy begins by their ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from reedbed.catalog import keys
from reedbed.catalog.edit import Edit
from reedbed.catalog.engine import Reader
from reedbed.catalog.records import SPARSE_STEPS, ExtentRow
from reedbed.common.ids import Id, is_system

STEPS: Final = 16
MOST: Final = SPARSE_STEPS


def stored(row: ExtentRow) -> int:
    """Bytes of all shards of the extent."""
    return sum(row.lengths) + row.m * max(row.lengths)


def worth(row: ExtentRow, size: int) -> int:
    """What so many bytes cost in a full extent of the same profile."""
    return size * (row.k + row.m) // row.k


def fill(row: ExtentRow) -> int:
    """In sixteenths, rounded up; above STEPS only while live bytes are counted more than once."""
    return -(-row.live * (row.k + row.m) * STEPS // (row.k * stored(row)))


def place(extent_id: Id, row: ExtentRow | None) -> int | None:
    """The extent's place in the queue; None if it has none."""
    if row is None or row.dropped_ms is not None or is_system(extent_id):
        return None
    found = fill(row)
    return found if found <= MOST else None


def wasted(row: ExtentRow) -> int:
    """Bytes beyond what the live ones are worth."""
    return max(0, stored(row) - worth(row, row.live))


def moved(edit: Edit, extent_id: Id, old: ExtentRow | None, new: ExtentRow) -> None:
    """Keep queue and counts in step with an extent's row."""
    before, after = place(extent_id, old), place(extent_id, new)
    if before is None and after is None:
        return
    if before is not None and before == after:
        assert old is not None
        if wasted(old) != wasted(new) and edit.rows.get(keys.sparse(before, extent_id)) is not None:
            edit.count_sparse(before, 0, wasted(new) - wasted(old))
        return
    if before is not None and edit.rows.delete(keys.sparse(before, extent_id)):
        assert old is not None
        edit.count_sparse(before, -1, -wasted(old))
    if after is not None:
        add(edit, extent_id, new, after)


def add(edit: Edit, extent_id: Id, row: ExtentRow, at: int) -> None:
    """The extent enters the queue at this place."""
    edit.rows.put(keys.sparse(at, extent_id), b"")
    edit.count_sparse(at, 1, wasted(row))


def queue(reader: Reader, most: int, below: Id, after: tuple[int, bytes] | None = None) -> Iterator[tuple[int, Id]]:
    """(fill, extent) of extents with ids below that one and a fill of at most `most`, from behind `after` on."""
    first, last = after or (0, b"")
    for at in range(first, most + 1):
        start = keys.sparse_at(at) + (last + b"\x00" if at == first and last else b"")
        for key, _ in reader.scan(start, keys.sparse(at, below)):
            yield at, keys.last_id(key)
