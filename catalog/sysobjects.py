"""System objects: what the catalog keeps on the cluster of itself, in the bucket `.system`, which only it can name.

They are objects with extents like all others, so that repair, scrub, moves and collection care for them. What they lack
is being seen: the bucket has number 0 and no row, so no call of a client finds, lists, counts or removes it; the log,
which is for clients, does not tell of them; and the counters of objects and bytes leave them out. They are neither
recoded nor compacted: their slices are not in the index of namers (namers.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from reedbed.catalog import extents, keys, records
from reedbed.catalog.edit import Edit
from reedbed.catalog.engine import Reader
from reedbed.catalog.extents import Offers
from reedbed.catalog.records import SliceRow, SnapshotRow, VersionRow
from reedbed.common.ids import ID_BYTES, NO_ID
from reedbed.protos.types import Extent

BUCKET: Final = 0
NAME: Final = ".system"
REDO: Final = b"redo/"
SNAPSHOTS: Final = b"snapshot/"
UNKNOWN_STREAM: Final = bytes(ID_BYTES)  # of a snapshot that the copy's row does not tell of


def redo_key(last: int) -> bytes:
    """Of the run that ends with this record."""
    return REDO + b"%016x" % last


def last_of(key: bytes) -> int:
    """The last record of the run with that key."""
    return int(key.removeprefix(REDO), 16)


def rows_key(number: int, part: int) -> bytes:
    """Of one piece of a snapshot's rows."""
    return snapshot_prefix(number) + b"rows/%08x" % part


def end_key(number: int) -> bytes:
    """Of a snapshot's end."""
    return snapshot_prefix(number) + b"end"


def snapshot_prefix(number: int) -> bytes:
    return SNAPSHOTS + b"%016x/" % number


def newest_snapshot(reader: Reader) -> SnapshotRow | None:
    """The newest complete one, as far as its objects tell: nothing that it needs may be taken for older than it."""
    base = keys.objects(BUCKET)
    for row_key, _ in reader.scan(base + SNAPSHOTS, keys.after(base + SNAPSHOTS), reverse=True):
        key = row_key[len(base) :]
        number = int(key[len(SNAPSHOTS) : len(SNAPSHOTS) + 16], 16)
        if key == end_key(number):
            return SnapshotRow(number, 0, 0, 0, 0, NO_ID, UNKNOWN_STREAM)
    return None


def put(edit: Edit, key: bytes, written: Sequence[Extent], checksum: int) -> None:
    """An object of these whole extents, which were just written. What was there before goes.

    Raises StaleGeneration, BelowHorizon, Unavailable as a client's commit does.
    """
    remove(edit, key)
    rows = [SliceRow(extent.id, 0, extent.size) for extent in written]
    extents.acquire(edit, rows, Offers(edit.needs.judge, written, system=True))
    row = VersionRow(
        version=written[0].id,
        seq=0,
        modified_us=int(edit.needs.clock.wall() * 1e6),
        size=sum(extent.size for extent in written),
        checksum=checksum,
        profile=f"rs-{written[0].k}-{written[0].m}",
        slices=tuple(rows),
    )
    edit.writer.put(keys.objects(BUCKET) + key, records.VERSION.encode(row))


def remove(edit: Edit, key: bytes) -> bool:
    """Let an object go; False if there was none."""
    row_key = keys.objects(BUCKET) + key
    data = edit.writer.get(row_key)
    if data is None:
        return False
    extents.release(edit, records.VERSION.decode(data, row_key).slices)
    edit.writer.delete(row_key)
    return True


def names(reader: Reader, prefix: bytes = b"", end: bytes | None = None) -> Iterator[bytes]:
    """Keys of the objects that start with `prefix`, below `end`, in order."""
    base = keys.objects(BUCKET)
    last = keys.after(base + prefix) if end is None else base + end
    for row_key, _ in reader.scan(base + prefix, last):
        yield row_key[len(base) :]
