"""One group commit, planned: which records a batch of waiting operations needs, where each lies, what comes of each.

Pure but for looking shards up: nothing is written here, and the book changes only in `apply`, after the sync.

What is decided here
- A shard that is there with equal tables is not written again; under a newer generation a renewal is written, so that
  an older removal order does not touch it any more. With other tables it is refused.
- A shard that is known to be damaged and is put again is written anew, with a removal of the damaged record before it.
- A shard that was removed is refused under the generation of its removal or an older one, for as long as the device
  remembers the removal: ids of extents are never used again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reedbed.common.checksums import Buffer, block_sum_parts, block_sums
from reedbed.common.errors import (
    AlreadyExists,
    Corrupt,
    DiskFull,
    InvalidArgument,
    ResourceExhausted,
    StaleGeneration,
)
from reedbed.common.ids import ID_BYTES, format_id
from reedbed.common.limits import K_MAX, M_MAX, SHARD_MAX
from reedbed.extents.blocks import ROW_BYTES, split_table
from reedbed.storaged import record
from reedbed.storaged.calls import PutShard, Removal, RemoveOrder
from reedbed.storaged.disk import NOT_THE_DISK
from reedbed.storaged.entries import LIVE, REMOVED, Entry, NewShard, Note, Position, shard_key
from reedbed.storaged.record import ALIGN, HEAD, REPLACED, Kind, NoteHead

_PADDING = [bytes(count) for count in range(ALIGN)]


@dataclass(frozen=True, slots=True)
class View:
    """What planning may look at. `get_many` raises Corrupt if one row of many is bad."""

    get: Callable[[bytes], Entry | None]
    get_many: Callable[[Sequence[bytes]], list[Entry | None]]
    note_about: Callable[[Position], Note | None]
    tables: Callable[[Entry, bytes, int], bytes]
    generation: Callable[[int], int]
    is_damaged: Callable[[PutShard], bool]


class Batch:
    """A batch that begins at `start`; `room` is how many bytes puts may take."""

    def __init__(self, view: View, salt: bytes, start: Position, room: int) -> None:
        self._view = view
        self._salt = salt
        self._segment = start.segment
        self._room = room
        self._planned: dict[bytes, tuple[Entry, bytes]] = {}  # with its tables, empty for a removed shard
        self._looked_up: dict[bytes, Entry | None] = {}
        self.end = start.offset
        self.buffers: list[Buffer] = []
        self.changes: list[NewShard | Note] = []
        self.generations: list[tuple[int, int]] = []
        self._noted: set[Position] = set()  # records that this batch writes notes about

    def look_up(self, shards: Sequence[PutShard]) -> None:
        """Look for many shards that are going to be put, at once. Corrupt if a row is bad: then each is looked for by
        itself."""
        keys = [shard_key(one.extent, one.index) for one in shards if len(one.extent) == ID_BYTES and one.index >= 0]
        self._looked_up = dict(zip(keys, self._view.get_many(keys), strict=True))

    def put(self, shard: PutShard) -> bool:
        """Plan a put; False if the shard is there. Raises the put's named error, and plans nothing then."""
        lengths, sums = check_put(shard)
        payload = sum(lengths)
        known = self._view.generation(shard.pg)
        if shard.generation < known:
            raise StaleGeneration(
                f"PG {shard.pg} has generation {known}, the put names {shard.generation}", where=_name(shard)
            )
        tables = record.pack_tables(shard.table, shard.data_tables)
        if len(tables) > record.TABLES_MAX:
            raise InvalidArgument("the block tables of a shard are too long", where=_name(shard))
        check_blocks(shard, lengths, sums)
        key = shard_key(shard.extent, shard.index)
        old = self._row(key)
        if old is not None:
            if old.state == REMOVED:
                if shard.generation <= old.generation:
                    raise AlreadyExists("the shard was removed and must not be put again", where=_name(shard))
            elif not self._replaces(shard, key, old, tables, payload):
                self._renew(shard, key, old)
                return False
        length = record.padded(HEAD + len(tables) + payload)
        if length > self._room:
            raise disk_full(_name(shard))
        if old is not None and old.state == LIVE:
            self._note(
                NoteHead(Kind.REMOVAL, shard.extent, shard.index, old.pg, old.generation, REPLACED, *old.position)
            )
        self._append(shard, key, tables, payload, length)
        return True

    def remove(self, order: RemoveOrder, term: int) -> Removal:
        """Plan a removal."""
        key = shard_key(order.extent, order.index)
        entry = self._row(key)
        if entry is None or entry.state == REMOVED:
            return Removal.UNKNOWN
        if entry.pg != order.pg or entry.generation > order.generation:
            return Removal.KEPT
        self._note(NoteHead(Kind.REMOVAL, order.extent, order.index, order.pg, order.generation, term, *entry.position))
        self._planned[key] = (entry._replace(state=REMOVED, generation=order.generation), b"")
        return Removal.REMOVED

    def carry(self, targets: Sequence[Position], home: int) -> None:
        """Plan to write the notes again that still lie in segment `home`, but those that this batch replaces."""
        for target in targets:
            note = self._view.note_about(target)
            if note is not None and note.home.segment == home and target not in self._noted:
                self._note(note.head)

    def _row(self, key: bytes) -> Entry | None:
        """What the device holds, with what this batch does to it. Corrupt."""
        planned = self._planned.get(key)
        if planned is not None:
            return planned[0]
        return self._looked_up[key] if key in self._looked_up else self._view.get(key)

    def _replaces(self, shard: PutShard, key: bytes, old: Entry, tables: bytes, payload: int) -> bool:
        """Whether a shard that is there must be written anew, being damaged; AlreadyExists if it has other content."""
        damaged = self._view.is_damaged(shard)
        same = old.payload == payload and old.tables == len(tables) and (old.k, old.m) == (shard.k, shard.m)
        if old.pg != shard.pg:
            raise AlreadyExists(f"the device holds the shard for PG {old.pg}, not {shard.pg}", where=_name(shard))
        if same and key in self._planned:
            same, damaged = self._planned[key][1] == tables, False
        elif same:
            try:
                same = self._view.tables(old, shard.extent, shard.index) == tables
            except OSError as error:
                if error.errno in NOT_THE_DISK:  # nothing is known of what lies there
                    raise ResourceExhausted(f"cannot read: {error.strerror}", where=_name(shard)) from error
                damaged = True  # Corrupt is an OSError as well
        if not same:
            raise AlreadyExists("the device holds the shard with other checksums", where=_name(shard))
        return damaged

    def _renew(self, shard: PutShard, key: bytes, old: Entry) -> None:
        if shard.generation <= old.generation:
            return
        tables = self._planned[key][1] if key in self._planned else record.pack_tables(shard.table, shard.data_tables)
        self._note(NoteHead(Kind.RENEWAL, shard.extent, shard.index, shard.pg, shard.generation, 0, *old.position))
        self._planned[key] = (old._replace(generation=shard.generation), tables)
        self.generations.append((shard.pg, shard.generation))

    def _append(self, shard: PutShard, key: bytes, tables: bytes, payload: int, length: int) -> None:
        offset = self.end
        head = record.encode_shard_head(
            record.place(self._salt, self._segment, offset),
            extent=shard.extent,
            index=shard.index,
            k=shard.k,
            m=shard.m,
            pg=shard.pg,
            generation=shard.generation,
            log_term=shard.log_term,
            log_seq=shard.log_seq,
            payload=payload,
            blocks=len(shard.table) // ROW_BYTES,
            tables=tables,
        )
        self.buffers.append(head + tables)
        self.buffers.extend(shard.payload)
        padding = length - HEAD - len(tables) - payload
        if padding:
            self.buffers.append(_PADDING[padding])
        entry = Entry(
            LIVE,
            shard.k,
            shard.m,
            self._segment,
            offset,
            length,
            len(tables),
            payload,
            shard.pg,
            shard.generation,
        )
        self.end += length
        self._room -= length
        self.changes.append(NewShard(key, entry, (shard.log_term, shard.log_seq)))
        self.generations.append((shard.pg, shard.generation))
        self._planned[key] = (entry, tables)

    def _note(self, head: NoteHead) -> None:
        # whatever is to be changed in the book can be read: told now, and not once it is on disk
        self._view.note_about(Position(head.segment, head.offset))
        offset = self.end
        self.buffers.append(record.encode_note(record.place(self._salt, self._segment, offset), head))
        self.changes.append(Note(head, Position(self._segment, offset)))
        self._noted.add(Position(head.segment, head.offset))
        self.end += HEAD


def put_size(shard: PutShard) -> int:
    """Bytes that a put holds while it waits, and about as many as its record takes."""
    tables = len(shard.table) + sum(map(len, shard.data_tables)) + 4 * len(shard.data_tables)
    return 2 * HEAD + tables + sum(map(len, shard.payload)) + ALIGN


def check_put(shard: PutShard) -> tuple[Sequence[int], Sequence[int]]:
    """Lengths and sums of the blocks, which add up to the payload.

    InvalidArgument for numbers out of range, Corrupt for tables that do not fit the payload.
    """
    payload = sum(map(len, shard.payload))
    if len(shard.extent) != ID_BYTES:
        raise InvalidArgument(f"an extent id has {ID_BYTES} bytes, not {len(shard.extent)}")
    if not (1 <= shard.k <= K_MAX and 0 <= shard.m <= M_MAX and 0 <= shard.index < shard.k + shard.m):
        raise InvalidArgument(f"no shard {shard.index} in a profile of {shard.k}+{shard.m}", where=_name(shard))
    if payload > SHARD_MAX:
        raise InvalidArgument(f"a shard has at most {SHARD_MAX} bytes, not {payload}", where=_name(shard))
    if not (0 <= shard.pg < 1 << 32 and 0 <= shard.generation < 1 << 64):
        raise InvalidArgument("a PG or generation is out of range", where=_name(shard))
    if not (0 <= shard.log_term < 1 << 64 and 0 <= shard.log_seq < 1 << 64):
        raise InvalidArgument("a log position is out of range", where=_name(shard))
    if len(shard.data_tables) != (shard.k if shard.index >= shard.k else 0):
        raise InvalidArgument(
            "a parity shard comes with the tables of all data shards, a data shard with none", where=_name(shard)
        )
    lengths, sums = split_table(shard.table)
    if sum(lengths) != payload:
        raise Corrupt("the block table does not add up to the payload", where=_name(shard))
    if any(sum(split_table(table)[0]) > payload for table in shard.data_tables):
        raise Corrupt("a data shard is longer than its parity", where=_name(shard))
    return lengths, sums


def check_blocks(shard: PutShard, lengths: Sequence[int], sums: Sequence[int]) -> None:
    """Corrupt unless every block's sum is right. The lengths add up to the payload."""
    extent, index = shard.extent, shard.index
    block = 0
    rest: Sequence[Buffer] = ()  # parts of a block that began in earlier buffers
    for buffer in shard.payload:
        view, at = memoryview(buffer), 0
        if rest:
            missing = lengths[block] - sum(map(len, rest))
            rest = [*rest, view[:missing]]
            if len(view) < missing:
                continue
            if block_sum_parts(extent, index, block, rest) != sums[block]:
                raise _bad_block(shard, block)
            rest, at = (), missing
            block += 1
        whole, end = block, at
        while whole < len(lengths) and end + lengths[whole] <= len(view):
            end += lengths[whole]
            whole += 1
        if whole > block:
            found = block_sums(extent, index, block, lengths[block:whole], view[at:end] if at else buffer)
            if found != list(sums[block:whole]):
                raise _bad_block(shard, block + _first_difference(found, sums[block:whole]))
            block = whole
        if end < len(view):
            rest = [view[end:]]


def disk_full(where: str) -> DiskFull:
    return DiskFull("the device has no room left for shards", where=where, hint="Add devices, or delete objects")


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    return next(at for at, (left, right) in enumerate(zip(one, other, strict=True)) if left != right)


def _bad_block(shard: PutShard, block: int) -> Corrupt:
    return Corrupt(
        f"block {block} does not match its checksum",
        where=_name(shard),
        hint="It was altered on the way: send it again",
    )


def _name(shard: PutShard) -> str:
    return f"shard {shard.index} of extent {format_id(shard.extent)}"
