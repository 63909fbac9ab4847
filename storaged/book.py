"""What a device holds, as of now: the index and, over it, what is newer than the last checkpoint.

Invariants
- Only what is durable in the segments is in the book. `add`, `note` and `forget` change it one at a time; any thread
  may look.
- A row is looked for in `fresh`, then in `frozen` (being written by a checkpoint), then in the index; None in one of
  the first two hides what the later ones hold. `frozen` is dropped only after the index has it.
- `recent` holds what the last checkpoint wrote, if that is not too much, and `known` other rows as the index has them,
  some of them. A row that was looked up while a checkpoint ended is not taken in: it may be the one before.
- The index holds no shard above `last`: nobody looks for newer ones there.
- A removal counts for the record at its target only, never for another record of the same shard. One that no catalog
  ordered forbids nothing: the shard was damaged and is put anew.
- A segment's `notes` counts the notes in it whose target lies in another segment that still exists: while it is not 0
  the segment must stay, else a removed shard could come back.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from reedbed.common.ids import ID_BYTES, Id, after_block, is_system
from reedbed.storaged import entries
from reedbed.storaged.entries import LIVE, REMOVED, Entry, IndexState, NewShard, Note, Position, SegmentInfo
from reedbed.storaged.index import Changes, Index
from reedbed.storaged.record import HEAD, REPLACED, Kind, NoteHead

KNOWN: Final = 16_384  # rows of the index that are kept in memory, and of the last checkpoint
_LOOK: Final = 64  # shards that are looked at together


@dataclass(slots=True)
class _Layer:
    shards: dict[bytes, Entry | None] = field(default_factory=dict)
    notes: dict[Position, Note | None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.shards) + len(self.notes)


@dataclass(slots=True)
class Totals:
    """Sums over all segments."""

    shards: int = 0
    live_bytes: int = 0
    dead_bytes: int = 0


class Book:
    """The rows of one device."""

    def __init__(self, index: Index, device: bytes) -> None:
        self._index = index
        self._device = device
        self._lock = threading.Lock()
        self.changing = threading.RLock()  # held over changes that belong together
        self._fresh = _Layer()
        self._frozen = _Layer()
        self._recent: dict[bytes, Entry | None] = {}
        self._known: OrderedDict[bytes, Entry] = OrderedDict()
        self._last = index.last()
        self._turn = 0  # checkpoints that have ended
        self._segments = index.segments()
        self._touched: set[int] = set()
        state = index.state()
        self._log = (state.log_term, state.log_seq) if state else (0, 0)
        self.totals = Totals()
        for info in self._segments.values():
            self._count(info, 1)

    # Looking

    def get(self, key: bytes) -> Entry | None:
        """The row of a shard, live or removed."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """The row of each; Corrupt if one of them is bad."""
        with self._lock:
            turn = self._turn
            found, missing = self._in_memory(keys)
        if not missing:
            return found
        rows = self._index.get_many([keys[at] for at in missing])
        with self._lock:
            for at, row in zip(missing, rows, strict=True):
                found[at] = row
                key = keys[at]
                if row is not None and turn == self._turn and not self._is_newer(key):
                    self._known[key] = row
                    if len(self._known) > KNOWN:
                        self._known.popitem(last=False)
        return found

    def known(self, keys: Sequence[bytes]) -> list[Entry | None] | None:
        """As `get_many` of rows that are in memory; None if one of them may be in the index alone."""
        with self._lock:
            found, missing = self._in_memory(keys)
        return None if missing else found

    def _in_memory(self, keys: Sequence[bytes]) -> tuple[list[Entry | None], list[int]]:
        """Rows, and which of them are not in memory."""
        found: list[Entry | None] = []
        missing = []
        fresh, frozen, recent, known = self._fresh.shards, self._frozen.shards, self._recent, self._known
        last = self._last
        for at, key in enumerate(keys):
            if key in fresh:
                found.append(fresh[key])
            elif key in frozen:
                found.append(frozen[key])
            elif key in recent:
                found.append(recent[key])
            else:
                row = known.get(key)
                found.append(row)
                if row is None and key <= last:
                    missing.append(at)
        return found, missing

    def _is_newer(self, key: bytes) -> bool:
        return key in self._fresh.shards or key in self._frozen.shards

    def note_about(self, target: Position) -> Note | None:
        with self._lock:
            for layer in (self._fresh, self._frozen):
                if target in layer.notes:
                    return layer.notes[target]
        return self._index.note(target)

    def page(self, after: bytes, limit: int) -> list[tuple[bytes, Entry]]:
        """Up to `limit` live shards with keys above `after`, in order; not those whose rows in the index are bad."""
        with self._lock:
            newer = {**self._frozen.shards, **self._fresh.shards}
        mine = [(key, entry) for key, entry in newer.items() if key > after and entry is not None]
        upper = heapq.nsmallest(limit, ((key, entry) for key, entry in mine if entry.state == LIVE))
        lower: list[tuple[bytes, Entry]] = []
        while len(lower) < limit:
            rows = self._index.page(after, limit)
            lower.extend(
                (key, entry) for key, entry in rows if key not in newer and entry is not None and entry.state == LIVE
            )
            if len(rows) < limit:
                break
            after = rows[-1][0]
        return heapq.nsmallest(limit, [*upper, *lower])

    def system_page(self, after: bytes, limit: int) -> list[tuple[bytes, Entry]]:
        """As `page`, of the catalog's copy alone; the blocks of clients are passed over, each with one look."""
        found: list[tuple[bytes, Entry]] = []
        while len(found) < limit and (rows := self.page(after, _LOOK)):
            for key, entry in rows:
                after = key
                if not is_system(key):
                    after = after_block(key) + b"\xff\xff"
                    break
                found.append((key, entry))
        return found[:limit]

    def highest(self) -> Id | None:
        """The highest extent id of any shard that is here, or was lately."""
        with self._lock:
            keys = [max(layer.shards) for layer in (self._fresh, self._frozen) if layer.shards]
        highest = max([*keys, self._index.last()])
        return Id(highest[:ID_BYTES]) if highest else None

    def segments(self) -> dict[int, SegmentInfo]:
        with self._lock:
            return dict(self._segments)

    @property
    def log_position(self) -> tuple[int, int]:
        """The highest log position in any record."""
        return self._log

    def waiting(self) -> int:
        """Rows that no checkpoint has begun to write."""
        return len(self._fresh)

    def dirty(self) -> bool:
        return bool(len(self._fresh) or self._touched)

    # Changing

    def add(self, key: bytes, entry: Entry, log: tuple[int, int]) -> None:
        """A shard's record is durable. An older record of the same shard counts as dead from now on."""
        with self.changing:
            self._add(key, entry, log)

    def _add(self, key: bytes, entry: Entry, log: tuple[int, int]) -> None:
        old = self.get(key)
        with self._lock:
            if old is not None and old.position == entry.position:
                return  # recovery saw a record that the index covers
            if old is not None and old.state == LIVE:
                self._bury(old)
            info = self._segments.get(entry.segment, SegmentInfo())
            self._set(
                entry.segment,
                info._replace(
                    end=max(info.end, entry.offset + entry.length),
                    live=info.live + 1,
                    live_bytes=info.live_bytes + entry.length,
                ),
            )
            self._fresh.shards[key] = entry
            self._log = max(self._log, log)

    def append(self, shards: Sequence[NewShard]) -> None:
        """Records that the writer appended to one segment, in order, are durable. None of the shards is here live."""
        last = shards[-1].entry
        with self.changing, self._lock:
            fresh = self._fresh.shards
            size, log = 0, self._log
            for key, entry, of in shards:
                old = fresh.get(key)
                assert old is None or old.state == REMOVED, "a live shard is put once more"
                fresh[key] = entry
                size += entry.length
                if of > log:
                    log = of
            info = self._segments.get(last.segment, SegmentInfo())
            info = info._replace(
                end=max(info.end, last.offset + last.length),
                live=info.live + len(shards),
                live_bytes=info.live_bytes + size,
            )
            self._set(last.segment, info)
            self._log = log

    def note(self, note: Note) -> Entry | None:
        """A removal or renewal is durable. Returns the live shard that a removal ended, if it did."""
        with self.changing:
            return self._note(note)

    def _note(self, note: Note) -> Entry | None:
        head, target = note.head, note.target
        key = entries.shard_key(head.extent, head.index)
        entry = self.get(key)
        old = self.note_about(target)
        with self._lock:
            info = self._segments.get(note.home.segment, SegmentInfo())
            info = info._replace(end=max(info.end, note.home.offset + HEAD), dead_bytes=info.dead_bytes + HEAD)
            self._set(note.home.segment, info)
            if target.segment not in self._segments:
                return None  # its target is gone already
            if old is not None and head.kind == Kind.RENEWAL and _outdoes(old.head, head):
                return None
            if old is not None:
                self._count_note(old, -1)
            self._count_note(note, 1)
            self._fresh.notes[target] = note
            if entry is None or entry.state != LIVE or entry.position != target:
                return None
            if head.kind == Kind.RENEWAL:
                self._fresh.shards[key] = entry._replace(generation=max(entry.generation, head.generation))
                return None
            self._bury(entry)
            if head.term == REPLACED:
                # the new record may have been torn off: then the shard can still be put again
                self._fresh.shards[key] = None
            else:
                generation = max(entry.generation, head.generation)
                self._fresh.shards[key] = entry._replace(state=REMOVED, generation=generation)
            return entry

    def extend(self, segment: int, end: int) -> None:
        """The segment exists and reaches to `end`."""
        with self._lock:
            info = self._segments.get(segment, SegmentInfo())
            self._set(segment, info._replace(end=max(info.end, end)))

    def forget(self, segment: int) -> None:
        """A segment without live shards is gone durably: so are the notes about its records, and its removed shards."""
        with self.changing:
            self._forget(segment)

    def _forget(self, segment: int) -> None:
        stored = self._index.notes_about(segment)
        with self._lock:
            notes = {note.target: note for note in stored}
            for layer in (self._frozen, self._fresh):
                for target, note in layer.notes.items():
                    if target.segment == segment:
                        if note is None:
                            notes.pop(target, None)
                        else:
                            notes[target] = note
            for target, note in notes.items():
                self._count_note(note, -1)
                self._fresh.notes[target] = None
        for target, note in notes.items():
            key = entries.shard_key(note.head.extent, note.head.index)
            entry = self.get(key)
            if entry is not None and entry.state == REMOVED and entry.position == target:
                with self._lock:
                    self._fresh.shards[key] = None
        with self._lock:
            info = self._segments.pop(segment, None)
            if info is not None:
                self._count(info, -1)
                self._touched.add(segment)

    # Checkpoints

    def freeze(self, mark: Position, rebuilding: bool = False) -> Changes:
        """Everything since the last checkpoint. `commit` it to the index, then call `written` or `failed`."""
        with self._lock:
            assert not len(self._frozen)
            self._frozen, self._fresh = self._fresh, _Layer()
            touched, self._touched = self._touched, set()
            return Changes(
                IndexState(self._device, mark, rebuilding, *self._log),
                self._frozen.shards,
                self._frozen.notes,
                {number: self._segments.get(number) for number in touched},
            )

    def written(self) -> None:
        """The index has what was frozen."""
        rows = self._frozen.shards  # which nobody changes
        last = max(rows, default=b"")
        with self._lock:
            self._turn += 1
            self._last = max(self._last, last)
            for key in self._known.keys() & rows.keys():
                del self._known[key]
            self._recent = rows if len(rows) <= KNOWN else {}
            self._frozen = _Layer()

    def failed(self, changes: Changes) -> None:
        """The index does not have what was frozen: it waits for the next checkpoint."""
        with self._lock:
            self._fresh.shards = {**self._frozen.shards, **self._fresh.shards}
            self._fresh.notes = {**self._frozen.notes, **self._fresh.notes}
            self._frozen = _Layer()
            self._touched.update(changes.segments)

    # With the lock held

    def _set(self, number: int, info: SegmentInfo) -> None:
        old = self._segments.get(number)
        if old is not None:
            self._count(old, -1)
        self._count(info, 1)
        self._segments[number] = info
        self._touched.add(number)

    def _count(self, info: SegmentInfo, sign: int) -> None:
        self.totals.shards += sign * info.live
        self.totals.live_bytes += sign * info.live_bytes
        self.totals.dead_bytes += sign * info.dead_bytes

    def _bury(self, entry: Entry) -> None:
        info = self._segments[entry.segment]
        self._set(
            entry.segment,
            info._replace(
                live=info.live - 1,
                live_bytes=info.live_bytes - entry.length,
                dead_bytes=info.dead_bytes + entries.kept_bytes(entry),
            ),
        )

    def _count_note(self, note: Note, sign: int) -> None:
        info = self._segments.get(note.home.segment)
        if info is not None and note.home.segment != note.target.segment:
            self._set(note.home.segment, info._replace(notes=info.notes + sign))


def _outdoes(old: NoteHead, renewal: NoteHead) -> bool:
    """Whether a renewal that comes later says less than what is known of the same record."""
    return old.kind == Kind.REMOVAL or old.generation > renewal.generation
