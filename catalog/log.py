"""The log: one entry per visible change, read from a position, trimmed from its beginning.

A position is (term, number). Numbers rise by one from 1 on and are given in commit order within the transaction that
makes the change, so whoever has seen entry n never sees one below n appear. Position (0, 0) is before the first entry.
The floor is the newest trimmed position: what is read after it is complete.

A catalog that was restored or rebuilt may lack entries that somebody has seen, and gives their numbers again, under a
higher term. So a position is that of this log only if its term is the entry's: whoever comes with another one has seen
what is lost, and is told so, whatever numbers the log has reached since.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from reedbed.catalog import keys, records
from reedbed.catalog.edit import Edit, log_state
from reedbed.catalog.engine import Reader
from reedbed.catalog.records import LogRow, LogStateRow
from reedbed.common.errors import Corrupt, LogLost, LogTrimmed
from reedbed.protos import catalog_pb2

# Stored by index: add at the end only
KINDS: Final = ("put", "copy", "delete", "marker", "delete-version", "create-bucket", "delete-bucket")
PUT, COPY, DELETE, MARKER, DELETE_VERSION, CREATE_BUCKET, DELETE_BUCKET = range(len(KINDS))

_PAGE_BYTES: Final = 2 << 20  # of keys and names in one answer


def read(reader: Reader, term: int, seq: int, limit: int) -> catalog_pb2.ReadLogReply:
    """Up to `limit` entries after that position, with the floor and the end of the log.

    Raises LogTrimmed below the floor, LogLost for a position that this log never had.
    """
    state = log_state(reader)
    _check_position(reader, state, term, seq)
    entries: list[catalog_pb2.LogEntry] = []
    room = _PAGE_BYTES
    for at, row in scan(reader, seq):
        if len(entries) == limit or room < 0:
            break
        entries.append(to_message(at, row))
        room -= len(row.key) + len(row.bucket) + 64
    return catalog_pb2.ReadLogReply(
        entries=entries,
        floor=catalog_pb2.LogPosition(term=state.floor_term, seq=state.floor_seq),
        end=catalog_pb2.LogPosition(term=state.term, seq=state.seq),
    )


def scan(reader: Reader, after: int) -> Iterator[tuple[int, LogRow]]:
    """Numbers and rows of all entries after number `after`."""
    for key, data in reader.scan(keys.log(after + 1), keys.after(keys.LOG)):
        yield int.from_bytes(key[1:], "big"), records.LOG.decode(data, key)


def to_message(seq: int, row: LogRow) -> catalog_pb2.LogEntry:
    if row.kind >= len(KINDS):
        raise Corrupt(f"log entry {seq} is of an unknown kind", where="catalog")
    named = row.kind not in (CREATE_BUCKET, DELETE_BUCKET)
    return catalog_pb2.LogEntry(
        position=catalog_pb2.LogPosition(term=row.term, seq=seq),
        kind=KINDS[row.kind],
        id=row.id,
        bucket=row.bucket,
        key=row.key,
        version=(row.version or row.id) if named else b"",
        size=row.size,
        time_us=row.time_us,
    )


def trim(edit: Edit, keep: int, before_us: int, limit: int) -> int:
    """Remove up to `limit` of the oldest entries, but none of the newest `keep` nor any made at `before_us` or later.

    Returns how many were removed; the floor moves with them in the same transaction.
    """
    done = 0
    floor = edit.log.floor_seq
    for seq, row in scan(edit.writer, floor):
        if done == limit or seq + keep > edit.log.seq or row.time_us >= before_us:
            break
        edit.writer.delete(keys.log(seq))
        edit.trimmed(row.term, seq)
        done += 1
    return done


def _check_position(reader: Reader, state: LogStateRow, term: int, seq: int) -> None:
    if seq > state.seq:
        raise LogLost(
            f"log position ({term}, {seq}) is after the end of the log ({state.term}, {state.seq}): the catalog was "
            "restored since, and lacks what you have seen",
            hint="Start again from a full listing",
        )
    if seq < state.floor_seq:
        raise LogTrimmed(
            f"log position ({term}, {seq}) is below the log's floor ({state.floor_term}, {state.floor_seq})",
            hint="Start again from a full listing",
        )
    if seq == state.floor_seq:
        there = state.floor_term
    else:
        data = reader.get(keys.log(seq))
        if data is None:
            raise Corrupt(f"log entry {seq} is missing", where="catalog", hint="Restore the catalog")
        there = records.LOG.decode(data, keys.log(seq)).term
    if term != there:
        raise LogLost(
            f"log position ({term}, {seq}) is not of this log, where entry {seq} has term {there}: the catalog was "
            "restored since, and lacks what you have seen",
            hint="Start again from a full listing",
        )
