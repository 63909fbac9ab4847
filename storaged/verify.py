"""Reading a device through: segments with all their records, rows of the index, heads of the shards that it names.

Invariants
- What is read comes from the disk, not from the page cache, and is let go of afterwards.
- Whatever is found is in the damage log before the reading goes on. A shard that was removed or written anew meanwhile
  is not damaged.
- A removal or renewal whose record is damaged is written again from what the index knows, so that a rebuilt index knows
  it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from reedbed.common.checksums import block_sum
from reedbed.common.errors import Corrupt, ResourceExhausted
from reedbed.common.limits import MIB
from reedbed.extents.blocks import unpack_table
from reedbed.storaged import record
from reedbed.storaged.book import Book
from reedbed.storaged.calls import BadRegion
from reedbed.storaged.damage import DamageLog
from reedbed.storaged.disk import NOT_THE_DISK, File, Readable
from reedbed.storaged.entries import LIVE, Entry, Position, shard_key, split_key
from reedbed.storaged.index import Index
from reedbed.storaged.operations import Carry
from reedbed.storaged.record import HEAD, SEGMENT_HEADER, NoteHead, ShardHead
from reedbed.storaged.segments import Found, Gap, ReadAround, SegmentPool, walk
from reedbed.storaged.writer import Writer

PIECE: Final = MIB  # bytes of a payload that are read at once
HEADS: Final = 256  # heads of one page
ROWS: Final = 2000  # rows of one page
HEAD_COST: Final = 4096  # bytes that the disk reads for one head


class Read(NamedTuple):
    """A piece was read: so many bytes, so much damage; in a segment everything below `upto` is done."""

    size: int
    found: int
    upto: int = 0


class Page(NamedTuple):
    """A page of the index was read: where to go on, None at the end."""

    size: int
    found: int
    last: bytes | None


@dataclass(frozen=True, slots=True)
class Parts:
    """What of a device is read, and where damage goes. `checkpoint` puts all notes into the index."""

    pool: SegmentPool
    book: Book
    index: Index
    damage: DamageLog
    salt: bytes
    device: bytes
    writer: Callable[[], Writer]
    checkpoint: Callable[[], bool]


class Verifier:
    """Reads of one device's scrubber; for one thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._whole: set[int] = set()  # segments in which every head was found good

    def begin(self) -> None:
        """A new pass trusts nothing of the one before."""
        self._whole.clear()
        self._parts.damage.begin()

    def segment(self, number: int, start: int, end: int) -> Iterator[Read]:
        """The records of a segment from offset `start` on; 0 for all with the header. OSError not of the disk's making
        comes as ResourceExhausted."""
        try:
            with self._parts.pool.use(number) as file:
                yield from self._records(file, number, start, end)
        except OSError as error:  # it cannot be opened; what cannot be read within it is bad bytes like any others
            _raise_if_not_the_disk(error)
            info = self._parts.book.segments().get(number)
            if info is None:
                return  # unlinked meanwhile
            yield Read(HEAD_COST, int(self._parts.damage.region(number, start, end - start)), end)

    def _records(self, opened: File, number: int, start: int, end: int) -> Iterator[Read]:
        parts, whole = self._parts, start < SEGMENT_HEADER
        file = ReadAround(_Uncached(opened))
        if start < SEGMENT_HEADER:
            found = 0
            try:
                record.check_segment_header(file.read(0, SEGMENT_HEADER), number, parts.device)
            except Corrupt:
                found = int(parts.damage.region(number, 0, SEGMENT_HEADER))
            yield Read(HEAD_COST, found, SEGMENT_HEADER)
        start = max(start, SEGMENT_HEADER)
        for one in walk(file, number, parts.salt, start, end):
            if isinstance(one, Gap):
                whole = False
                hurts = parts.damage.region(number, one.offset, one.end - one.offset)
                yield Read(one.end - one.offset, int(hurts), one.end)
            elif isinstance(one.head, NoteHead):
                yield Read(HEAD, 0, one.end)
            else:
                yield from self._shard(file, number, one, one.head)
        if whole:
            self._whole.add(number)

    def _shard(self, file: Readable, number: int, found: Found, head: ShardHead) -> Iterator[Read]:
        """A shard's tables and blocks, if the shard is live."""
        position = Position(number, found.offset)
        if not self._is_live(head, position):
            yield Read(HEAD, 0, found.end)
            return
        bad = None
        at = found.offset + HEAD
        tables = file.read(at, head.tables)
        try:
            record.check_tables(head, tables)
        except Corrupt:
            bad = -1
        else:
            at += head.tables
            for size, wrong in _blocks(file, head, tables, at):
                if wrong is not None:
                    bad = wrong
                    break
                yield Read(size, 0, found.offset)
        damaged = bad is not None and self._is_live(head, position)
        if damaged and bad is not None:
            self._parts.damage.shard(head.extent, head.index, bad, position)
        yield Read(HEAD + head.tables, int(damaged), found.end)

    def _is_live(self, head: ShardHead, position: Position) -> bool:
        try:
            entry = self._parts.book.get(shard_key(head.extent, head.index))
        except Corrupt:
            return True  # its row is bad, which is told elsewhere; the record is what there is
        return entry is not None and entry.state == LIVE and entry.position == position

    def rows(self, table: str, after: bytes) -> Page:
        """A page of the index, each row's sum verified."""
        checked = self._parts.index.check_rows(table, after, ROWS)
        return Page(checked.size, len(checked.bad), checked.last)

    def heads(self, after: bytes) -> Page:
        """The heads of a page of the shards that the index names, where the segment was not found whole."""
        page = self._parts.book.page(after, HEADS)
        size = found = 0
        for key, entry in page:
            if entry.segment in self._whole:
                continue
            size += HEAD_COST
            if not self._head_is_good(key, entry) and self._still_there(key, entry):
                self._parts.damage.shard(*split_key(key), -1, entry.position)
                found += 1
        return Page(size, found, page[-1][0] if len(page) == HEADS else None)

    def _head_is_good(self, key: bytes, entry: Entry) -> bool:
        try:
            with self._parts.pool.use(entry.segment) as file:
                file.forget(entry.offset, HEAD)
                raw = file.read(entry.offset, HEAD)
            head = record.parse_head(raw, record.place(self._parts.salt, *entry.position))
        except Corrupt:
            return False
        except OSError as error:
            _raise_if_not_the_disk(error)
            return False
        return isinstance(head, ShardHead) and (shard_key(head.extent, head.index), head.payload) == (
            key,
            entry.payload,
        )

    def _still_there(self, key: bytes, entry: Entry) -> bool:
        now = self._parts.book.get(key)
        return now is not None and now.state == LIVE and now.position == entry.position

    def settle(self, region: BadRegion) -> None:
        """After a whole pass: write the notes again that lay in the region, and call it settled. Blocks.

        Raises what the store raises when it takes no writes.
        """
        parts = self._parts
        if not parts.checkpoint():
            return
        targets = []
        for target in parts.index.notes_in(region.segment):
            note = parts.book.note_about(target)
            if note is None or note.home.segment != region.segment:
                continue
            if region.offset <= note.home.offset < region.offset + region.length:
                targets.append(target)
        if targets:
            carry = Carry(targets, region.segment, HEAD * len(targets))
            parts.writer().submit(carry)
            carry.future.result()
        if not parts.damage.overflowed:  # else not all that lay in it is known
            parts.damage.settle(region.segment, region.offset)


class _Uncached:
    """A file whose reads come from the disk, and leave nothing in the page cache."""

    def __init__(self, file: File) -> None:
        self._file = file

    def read(self, offset: int, length: int) -> bytes:
        self._file.forget(offset, length)
        data = self._file.read(offset, length)
        self._file.forget(offset, length)
        return data


def _blocks(file: Readable, head: ShardHead, tables: bytes, at: int) -> Iterator[tuple[int, int | None]]:
    """Pieces of the payload: bytes read, and the first bad block of the piece, None if all are good."""
    rows = unpack_table(record.own_table(head, tables))
    block = 0
    while block < len(rows):
        first, size = block, 0
        while block < len(rows) and (not size or size + rows[block][0] <= PIECE):
            size += rows[block][0]
            block += 1
        raw = memoryview(file.read(at, size))
        begin = 0
        for number in range(first, block):
            length, wanted = rows[number]
            piece = raw[begin : begin + length]
            if len(piece) != length or block_sum(head.extent, head.index, number, piece) != wanted:
                yield size, number
                return
            begin += length
        at += size
        yield size, None


def _raise_if_not_the_disk(error: OSError) -> None:
    if error.errno in NOT_THE_DISK:
        raise ResourceExhausted(f"cannot read: {error.strerror}") from error
