"""Opening a device: the index is trusted, checked or made again, and what is newer is replayed from the segments.

What is decided here
- After a clean stop the file `clean` holds size and CRC32C of the index's file; where they match, the index is trusted.
  Else a child process walks it, and if that dies or reports damage the index is made again from all segments.
- Torn bytes are cut only at the end of the highest segment, past the mark that the index names, with no good record
  behind them. An index that is made again knows no mark: then nothing is cut, and the next record goes into a new
  segment.
- Payloads are verified only where they may never have been synced: in the highest segment, past the mark. All that is
  older was synced before its successor was made; reads and the scrubber verify it.

Layout of `clean`: magic "RBcl", version u8, 3 zeros, size u64, CRC32C of the index's file u32, CRC32C of all before
u32.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from reedbed.common import logs
from reedbed.common.checksums import crc32c
from reedbed.common.errors import Corrupt
from reedbed.storaged import record
from reedbed.storaged.book import Book
from reedbed.storaged.calls import Damage
from reedbed.storaged.damage import DamageLog
from reedbed.storaged.disk import Disk, File, Readable, read_whole, replace_whole
from reedbed.storaged.entries import LIVE, Entry, Note, Position, entry_of, shard_key, split_key
from reedbed.storaged.generations import Generations
from reedbed.storaged.identity import Identity
from reedbed.storaged.index import Index, IndexHome
from reedbed.storaged.index_lmdb import FOLDER
from reedbed.storaged.record import SEGMENT_HEADER, Kind, NoteHead, padded
from reedbed.storaged.reserve import Reserve
from reedbed.storaged.segments import FOLDER as SEGMENTS
from reedbed.storaged.segments import Found, Gap, ReadAround, first_bad_block, segment_name, segment_numbers, walk

CLEAN: Final = "clean"
ROWS: Final = 50_000  # replayed rows that are kept in memory at most
_CLEAN: Final = struct.Struct(">4sB3xQI")
log = logs.get("storaged")


@dataclass(slots=True)
class Recovered:
    """end: where the next record goes. sealed: in a new segment. removed: shards that may not be punched yet."""

    end: Position
    sealed: bool
    replayed: int = 0
    cut: int = 0
    removed: list[Entry] = field(default_factory=list)


def write_clean(disk: Disk, home: IndexHome) -> None:
    """The index is closed and covers all segments."""
    size, value = home.sum()
    body = _CLEAN.pack(b"RBcl", 1, size, value)
    replace_whole(disk, CLEAN, body + crc32c(body).to_bytes(4, "big"))


def take_clean(disk: Disk, home: IndexHome) -> bool:
    """Whether the stop was clean and the index is as it was then. The mark is gone afterwards."""
    try:
        raw = read_whole(disk, CLEAN)
    except FileNotFoundError:
        return False
    disk.unlink(CLEAN)
    disk.sync_folder()
    body = raw[:-4]
    if len(body) != _CLEAN.size or crc32c(body) != int.from_bytes(raw[-4:], "big"):
        return False
    magic, version, size, value = _CLEAN.unpack(body)
    return magic == b"RBcl" and version == 1 and home.exists() and home.sum() == (size, value)


def open_index(disk: Disk, device: bytes, home: IndexHome) -> tuple[Index, Book, str]:
    """Index and book, and why the index is made again (the empty string if it is not). OSError."""
    reason = ""
    if not take_clean(disk, home) and home.exists():
        reason = home.check()
    if not reason:
        try:
            index = home.open()
        except (Corrupt, FileExistsError, NotADirectoryError) as error:
            reason = str(error)
        else:
            try:
                state = index.state()
                if state is None or state.device == device:
                    return index, Book(index, device), ""
                reason = "it is that of another device"
            except Corrupt as error:
                reason = str(error)
            index.close()
    log.warning("%s: the index is made again: %s", disk.root, reason)
    home.remove()
    index = home.open()
    return index, Book(index, device), reason


class Recovery:
    """One replay of what the index does not cover."""

    def __init__(
        self,
        disk: Disk,
        index: Index,
        book: Book,
        generations: Generations,
        damage: DamageLog,
        identity: Identity,
        reserve: Reserve,
    ) -> None:
        self._disk = disk
        self._index = index
        self._book = book
        self._generations = generations
        self._damage = damage
        self._identity = identity
        self._reserve = reserve
        state = index.state()
        self._known = state is not None and not state.rebuilding
        self._mark = state.mark if state is not None else Position(0, 0)
        self._suspects: list[tuple[int, Found, int]] = []  # segment, record, bad block
        self._gone: set[int] = set()  # segments that held live shards
        self._done = Recovered(self._mark, sealed=False)

    def run(self) -> Recovered:
        """Replay, cut what is torn, make the rest durable, and write a checkpoint. OSError, NewerFormat."""
        self._disk.make_folder(SEGMENTS)
        numbers = segment_numbers(self._disk)
        self._miss(set(numbers))
        numbers = self._without_half_made(numbers)
        for number in numbers:
            if number >= self._mark.segment:
                self._replay(number, last=number == numbers[-1])
        if not numbers or numbers[-1] < self._mark.segment:
            self._done.end, self._done.sealed = self._mark, True
        self._damage.keep(self._is_there)
        self._damage_missing()
        for segment, found, block in self._suspects:
            assert not isinstance(found.head, NoteHead)
            entry = self._book.get(shard_key(found.head.extent, found.head.index))
            if entry is not None and entry.state == LIVE and entry.position == (segment, found.offset):
                self._damage.shard(found.head.extent, found.head.index, block, entry.position)
        if self._writable:
            # names may be in the page cache only, of a process that was killed; LMDB syncs no folder of its own
            for folder in (SEGMENTS, FOLDER, ""):
                self._disk.sync_folder(folder)
        self._checkpoint(self._done.end, rebuilding=False)
        return self._done

    def _damage_missing(self) -> None:
        """All shards of the segments that are gone are lost, and known to be."""
        after = b""
        while self._gone and (page := self._book.page(after, ROWS)):
            for key, entry in page:
                if entry.segment in self._gone:
                    self._damage.shard(*split_key(key), -1, entry.position)
            after = page[-1][0]

    def _is_there(self, damage: Damage) -> bool:
        """Whether the damaged record is still that of its shard."""
        entry = self._book.get(shard_key(damage.extent, damage.index))
        return entry is not None and entry.state == LIVE and entry.position == (damage.segment, damage.offset)

    @property
    def _writable(self) -> bool:
        return not self._identity.failed

    def _miss(self, present: set[int]) -> None:
        """Segments that the index knows and the disk does not have."""
        for number, info in self._book.segments().items():
            if number in present:
                continue
            if info.live:
                self._gone.add(number)
                self._damage.region(number, 0, info.end)
            else:
                self._book.forget(number)  # unlinked just before the process ended

    def _without_half_made(self, numbers: list[int]) -> list[int]:
        """A highest segment past the mark with nothing but a header that is not good was never used: it goes."""
        if not numbers or not self._known or numbers[-1] <= self._mark.segment or not self._writable:
            return numbers
        number = numbers[-1]
        file = self._disk.open(segment_name(number))
        try:
            # a record is written only after the header is durable: longer, and without either, it was overwritten
            if file.size() > SEGMENT_HEADER or self._header_is_good(ReadAround(file), number):
                return numbers
        finally:
            file.close()
        self._disk.unlink(segment_name(number))
        self._disk.sync_folder(SEGMENTS)
        self._done.cut += 1
        # its predecessor was synced to its end, so nothing there is torn
        self._known = False
        return numbers[:-1]

    def _header_is_good(self, file: Readable, number: int) -> bool:
        try:
            record.check_segment_header(file.read(0, SEGMENT_HEADER), number, bytes.fromhex(self._identity.device))
        except Corrupt:
            return False
        return True

    def _replay(self, number: int, *, last: bool) -> None:
        file = self._disk.open(segment_name(number))
        try:
            size = file.size()
            start = self._mark.offset if number == self._mark.segment else SEGMENT_HEADER
            if not self._header_is_good(ReadAround(file), number):
                self._damage.region(number, 0, SEGMENT_HEADER)
            if last and self._writable:
                file.sync()  # what is found below counts as durable from here on
            if size < start:
                self._book.extend(number, size)
                self._damage.region(number, size, start - size)
                self._done.end, self._done.sealed = Position(number, start), True
                return
            if not last:
                self._replay_older(file, number, start, size)
            elif (end := self._replay_last(file, number, start, size)) is not None:
                self._done.end, self._done.sealed = Position(number, padded(end)), False
                size = end  # what was cut off is no place to look for records
            else:
                self._done.end, self._done.sealed = Position(number + 1, 0), True
            self._book.extend(number, size)
        finally:
            file.close()

    def _replay_older(self, file: File, number: int, start: int, size: int) -> None:
        for one in walk(ReadAround(file), number, self._identity.seed, start, size):
            if isinstance(one, Gap):
                self._damage.region(number, one.offset, one.end - one.offset)
            else:
                self._apply(number, one)

    def _replay_last(self, file: File, number: int, start: int, size: int) -> int | None:
        """Replays with payloads verified; what is bad at the end is cut where that is allowed. Returns the end.

        None where bad bytes stay at the end. A torn record's head tells the length that it was to have, and once the
        segment grew that far a walk would pass over what was appended since: so nothing may follow them.
        """
        bad: list[tuple[Found | Gap, int]] = []
        around = ReadAround(file)
        for one in walk(around, number, self._identity.seed, start, size):
            block = None if isinstance(one, Gap) else first_bad_block(around, one)
            if isinstance(one, Gap) or block is not None:
                bad.append((one, -1 if block is None else block))
                continue
            self._keep(number, bad)
            bad = []
            self._apply(number, one)
        if bad and self._known and self._writable and not around.unreadable:  # a torn write can be read
            end = bad[0][0].offset
            log.warning("%s: %d torn bytes cut off segment %x", self._disk.root, size - end, number)
            file.truncate(end)
            file.sync()
            self._done.cut += size - end
            return end
        self._keep(number, bad)
        return None if bad else size

    def _keep(self, number: int, bad: list[tuple[Found | Gap, int]]) -> None:
        """Bad bytes that are damage: regions are reported, shards with a good head stay known."""
        for one, block in bad:
            if isinstance(one, Gap):
                self._damage.region(number, one.offset, one.end - one.offset)
            else:
                self._suspects.append((number, one, block))
                self._apply(number, one)

    def _apply(self, number: int, found: Found) -> None:
        head, position = found.head, Position(number, found.offset)
        self._done.replayed += 1
        if isinstance(head, NoteHead):
            gone = self._book.note(Note(head, position))
            if gone is not None:
                self._done.removed.append(gone)
        else:
            key = shard_key(head.extent, head.index)
            self._book.add(key, entry_of(head, position), (head.log_term, head.log_seq))
        if not (isinstance(head, NoteHead) and head.kind == Kind.REMOVAL):
            self._generations.raise_to(head.pg, head.generation)
        if self._book.waiting() >= ROWS:
            self._checkpoint(Position(number, found.end), rebuilding=not self._known)

    def _checkpoint(self, mark: Position, *, rebuilding: bool) -> None:
        changes = self._book.freeze(mark, rebuilding)
        try:
            if self._writable:
                # what the index covers is not replayed again, so what its records tell of generations must be kept
                self._reserve.helping(self._generations.save)
            self._reserve.helping(lambda: self._index.commit(changes))
        except OSError:
            self._book.failed(changes)
            if self._writable:
                raise
            log.warning("%s: the index of a failed device cannot be written", self._disk.root)
        else:
            self._book.written()
