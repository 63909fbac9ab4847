"""What the catalog's copy on the cluster needs when: which redo records to ship, whether a snapshot is due. Pure.

Row `c/copy` (records.CopyRow) tells how far the copy is; whoever changes it reads it in the same transaction.

A record is worth shipping for itself unless all that it did is one of these, which ships with the next that is:

- what writing and removing pieces of the copy itself does: else the copy would follow itself for ever;
- the row of terms and ids, which a running catalog writes every few seconds: whoever rebuilds begins above all of it;
- orders to remove shards, and what is counted anew each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from reedbed.catalog import keys, leases, records, sysobjects
from reedbed.catalog.engine import Reader, RedoRecord, Writer
from reedbed.catalog.records import CopyRow, SnapshotRow
from reedbed.catalog.removals import NUMBER_ROW, OPEN_ROWS, ORDER_ROWS
from reedbed.common.ids import ID_BYTES, is_system
from reedbed.common.limits import MIB

ROW: Final = b"c/copy"
RUN_BYTES: Final = 16 * MIB  # of records that are packed together, before they are packed
RUN_RECORDS: Final = 4096
SNAPSHOT_FLOOR: Final = 16 * MIB  # packed redo that a snapshot is not taken for, however small the last one was
RUNS_MAX: Final = 3600  # since the newest snapshot

_NEVER: Final = frozenset({keys.COUNTERS, leases.ROW, ROW, NUMBER_ROW})
_OF_EXTENTS: Final = (keys.EXTENTS, keys.EXTENTS_OF_PGS, keys.DEGRADED, keys.DROPPED)
_NEUTRAL: Final = (keys.LACKS, ORDER_ROWS, OPEN_ROWS, keys.objects(sysobjects.BUCKET))


def read(reader: Reader) -> CopyRow | None:
    """How far the copy is; None before there is one."""
    data = reader.get(ROW)
    return None if data is None else records.COPY.decode(data, ROW)


def write(writer: Writer, row: CopyRow) -> None:
    writer.put(ROW, records.COPY.encode(row))


def worth_shipping(record: RedoRecord) -> bool:
    """See the module's text."""
    return any(_matters(key) for key, _ in record.changes)


def _matters(key: bytes) -> bool:
    if key in _NEVER or key.startswith(_NEUTRAL):
        return False
    of_an_extent = key[:1] in _OF_EXTENTS and len(key) > ID_BYTES
    return not (of_an_extent and is_system(key[-ID_BYTES:]))


def run_of(found: Iterable[RedoRecord]) -> list[RedoRecord]:
    """The first of these records that are shipped together: at least one, if there is any."""
    run: list[RedoRecord] = []
    size = 0
    for record in found:
        size += sum(len(key) + len(value or b"") for key, value in record.changes)
        if run and (size > RUN_BYTES or len(run) == RUN_RECORDS):
            break
        run.append(record)
    return run


def is_whole(row: CopyRow) -> bool:
    """Whether the present stream can be applied to a complete snapshot: else an older stream's is what there is."""
    return row.snapshot is not None and row.snapshot.stream in (b"", row.stream)


def begun_anew(old: CopyRow | None, found: SnapshotRow | None, stream: bytes, last: int) -> CopyRow:
    """The row of another stream, of the records after `last`. What was there stays until a snapshot of it is complete.

    found: the newest complete snapshot on the cluster that the engine knows of, for where there is no old row.
    """
    kept = found
    if old is not None and old.snapshot is not None:
        kept = msgspec.structs.replace(old.snapshot, stream=old.snapshot.stream or old.stream)
    number = max(old.snapshots if old is not None else 0, kept.number if kept is not None else 0)
    return CopyRow(stream=stream, last=last, snapshots=number, snapshot=kept, wanted=True)


def snapshot_due(row: CopyRow) -> bool:
    """Whether to take one now."""
    if row.snapshot is None or row.wanted:
        return True
    return row.size > max(SNAPSHOT_FLOOR, row.snapshot.size) or row.runs > RUNS_MAX


def keep_from(row: CopyRow | None, position: int, most: int, pinned: Iterable[int]) -> int:
    """Up to which record the engine may forget: all that is in the copy, and what exceeds `most` in any case.

    `pinned`: records that backups under way still need those after of.
    """
    wanted = position - most if row is None else min([row.last, *pinned])
    return max(wanted, position - most)
