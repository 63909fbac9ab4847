"""That the catalog was begun anew on an older copy: what it lacks, and which extents it must not judge.

Rows (numbers big-endian):

    c/h                  ranges of ids, each from 16 bytes to 16 bytes (exclusive); 16 bytes alone: from the first id on
    c/b/<term u64>       records.BegunRow: begun anew under this term

Invariants
- The shards of an extent in a held range that nobody knows are kept, and so is a dropped extent in it: what was lost
  may have named it. Only an operator's order removes them, by name.
- A shard of a known extent from before the newest range is kept wherever it lies: it may have been dropped, and its
  position moved without it, in what was lost, and be live again in what the catalog was begun anew on.
- An operator ends it (held.py), once nothing is there that it keeps and every live extent is whole where it should be.
- Below a range nothing was committed since the copy: its begin is the horizon that the copy had.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from reedbed.catalog import records
from reedbed.catalog.engine import Reader, Writer
from reedbed.catalog.records import BegunRow
from reedbed.common.errors import Corrupt
from reedbed.common.ids import ID_BYTES, NO_ID, Id

HELD_ROW: Final = b"c/h"
BEGUN_ROWS: Final = b"c/b/"
_AFTER: Final = b"\xff"


@dataclass(slots=True)
class Hold:
    """Ranges of ids, from the first (inclusive) to the second (exclusive). Shared by all who ask; `end` ends it."""

    ranges: tuple[tuple[Id, Id], ...] = ()

    def end(self) -> None:
        """Nothing is held any more."""
        self.ranges = ()

    def covers(self, extent: bytes) -> bool:
        return any(begin <= extent < end for begin, end in self.ranges)

    def predates(self, extent: bytes) -> bool:
        """Whether the extent may be from before the catalog was last begun anew."""
        return any(extent < end for _, end in self.ranges)


NO_HOLD: Final = Hold()


def read_hold(reader: Reader) -> Hold:
    """What is held."""
    raw = reader.get(HELD_ROW) or b""
    if len(raw) == ID_BYTES:
        return Hold(((NO_ID, Id(raw)),))
    if len(raw) % (2 * ID_BYTES):
        raise Corrupt("the row of held ids is cut short", where=f"key {HELD_ROW.decode()}")
    ids = [Id(raw[at : at + ID_BYTES]) for at in range(0, len(raw), ID_BYTES)]
    return Hold(tuple(zip(ids[::2], ids[1::2], strict=True)))


def hold(writer: Writer, begin: Id, end: Id) -> None:
    """Hold this range too."""
    ranges = [*read_hold(writer).ranges, (begin, end)]
    joined: list[tuple[Id, Id]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(high, joined[-1][1])
        else:
            joined.append((low, high))
    writer.put(HELD_ROW, b"".join(low + high for low, high in joined))


def release(writer: Writer) -> None:
    """Hold nothing any more."""
    writer.delete(HELD_ROW)


def write_begun(writer: Writer, term: int, row: BegunRow) -> None:
    writer.put(_key(term), records.BEGUN.encode(row))


def begun(reader: Reader) -> Iterator[tuple[int, BegunRow]]:
    """Each time that the catalog was begun anew, with its term, in order."""
    for key, value in reader.scan(BEGUN_ROWS, BEGUN_ROWS + _AFTER * 9):
        yield int.from_bytes(key[len(BEGUN_ROWS) :], "big"), records.BEGUN.decode(value, key)


def base_term(reader: Reader) -> int:
    """The term with which the catalog was last begun anew; 0 if it never was."""
    for key, _ in reader.scan(BEGUN_ROWS, BEGUN_ROWS + _AFTER * 9, reverse=True):
        return int.from_bytes(key[len(BEGUN_ROWS) :], "big")
    return 0


def acknowledge(writer: Writer) -> int:
    """The operator has read what is missing: it is not shown as a fault any more. How much that was."""
    open_ = [(term, row) for term, row in begun(writer) if not row.acknowledged]
    for term, row in open_:
        write_begun(writer, term, msgspec.structs.replace(row, acknowledged=True))
    return len(open_)


def describe(reader: Reader) -> list[dict[str, object]]:
    """For status reports: what was begun anew and is not acknowledged yet."""
    return [
        {
            "term": term,
            "how": row.how,
            "time_us": row.time_us,
            "redo": row.redo,
            "missing": missing_as_json(row),
        }
        for term, row in begun(reader)
        if not row.acknowledged
    ]


def missing_as_json(row: BegunRow) -> dict[str, object] | None:
    """Log positions that are missing: of term, from, to (as far as known), and whether there may be more."""
    if row.missing is None:
        return None
    lost = row.missing
    known = lost.heard > lost.after
    return {
        "term": lost.term,
        "from": lost.after + 1,
        "to": lost.heard if known else None,
        "open": lost.open,
    }


def _key(term: int) -> bytes:
    return BEGUN_ROWS + term.to_bytes(8, "big")
