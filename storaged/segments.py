"""Segment files: their names, the pool of open ones, and the walk over their records.

Invariants
- A segment's number is never used again while any record names it: numbers rise, and the highest segment is never
  unlinked, nor does a record name a segment above its own.
- A file handle is closed only when nobody reads through it.
- A segment is made, its header synced and its folder synced, before a record is written to it, and all writes to its
  predecessor were synced before. So only the highest segment can end in torn bytes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from reedbed.common.checksums import block_sum
from reedbed.common.errors import Corrupt
from reedbed.common.limits import MIB
from reedbed.extents.blocks import unpack_table
from reedbed.storaged import record
from reedbed.storaged.disk import NOT_THE_DISK, Disk, File, Readable
from reedbed.storaged.record import HEAD, NoteHead, ShardHead

FOLDER: Final = "segments"
SEGMENT_BYTES: Final = 256 * MIB  # a segment that is this long gets no more records
HANDLES: Final = 256  # open files kept for reading
_SUFFIX: Final = ".seg"
_STEP: Final = MIB  # bytes read at once while looking for the next record
_SECTOR: Final = 4096  # that is read alone where more at once could not be


def segment_name(number: int) -> str:
    """Path of a segment below the device's folder."""
    return f"{FOLDER}/{number:016x}{_SUFFIX}"


def segment_numbers(disk: Disk) -> list[int]:
    """The segments that are there, in order. Names that no segment has are passed over."""
    found = []
    for name in disk.names(FOLDER):
        digits = name.removesuffix(_SUFFIX)
        if name.endswith(_SUFFIX) and len(digits) == 16:
            try:
                number = int(digits, 16)
            except ValueError:
                continue
            if segment_name(number) == f"{FOLDER}/{name}":
                found.append(number)
    return sorted(found)


def make_segment(disk: Disk, number: int, device: bytes) -> None:
    """A new segment with nothing but its header, durably. OSError; then it is unlinked again."""
    name = segment_name(number)
    file = disk.open(name, create=True)
    try:
        file.write([record.encode_segment_header(number, device)], 0)
        file.sync()
        disk.sync_folder(FOLDER)
    except OSError:
        disk.unlink(name)
        raise
    finally:
        file.close()


class Handle:
    """An open segment, taken from the pool."""

    __slots__ = ("dropped", "file", "users")

    def __init__(self, file: File) -> None:
        self.file = file
        self.users = 0
        self.dropped = False


class SegmentPool:
    """Open segment files, a bounded number beyond those in use. For many threads."""

    def __init__(self, disk: Disk, limit: int = HANDLES) -> None:
        self._disk = disk
        self._limit = limit
        self._lock = threading.Lock()
        self._handles: OrderedDict[int, Handle] = OrderedDict()

    @contextmanager
    def use(self, number: int) -> Iterator[File]:
        """The file of a segment for the time of the block. FileNotFoundError."""
        handle = self.take(number)
        assert handle is not None
        try:
            yield handle.file
        finally:
            self.give(handle)

    def drop(self, number: int) -> None:
        """Close the file as soon as nobody uses it."""
        with self._lock:
            handle = self._handles.pop(number, None)
            idle = handle is not None and self._retire(handle)
        if handle is not None and idle:
            handle.file.close()

    def close(self) -> None:
        with self._lock:
            idle = [handle for handle in self._handles.values() if self._retire(handle)]
            self._handles.clear()
        for handle in idle:
            handle.file.close()

    def take(self, number: int, *, opening: bool = True) -> Handle | None:
        """The file of a segment, until it is given back. FileNotFoundError; None, not opening, if it is not open."""
        with self._lock:
            handle = self._known(number)
        if handle is not None or not opening:
            return handle
        opened = Handle(self._disk.open(segment_name(number)))
        idle: list[Handle] = []
        with self._lock:
            handle = self._known(number)
            if handle is not None:  # another thread was faster
                idle.append(opened)
            else:
                handle = self._handles[number] = opened
                handle.users += 1
                if len(self._handles) > self._limit:
                    _, oldest = self._handles.popitem(last=False)
                    if self._retire(oldest):
                        idle.append(oldest)
        for one in idle:
            one.file.close()
        return handle

    def give(self, handle: Handle) -> None:
        with self._lock:
            handle.users -= 1
            idle = handle.dropped and handle.users == 0
        if idle:
            handle.file.close()

    def _known(self, number: int) -> Handle | None:
        """An open file, with one user more."""
        handle = self._handles.get(number)
        if handle is not None:
            self._handles.move_to_end(number)
            handle.users += 1
        return handle

    @staticmethod
    def _retire(handle: Handle) -> bool:
        """Whether it is to be closed now, and not by who uses it last."""
        handle.dropped = True
        return handle.users == 0


class ReadAround:
    """A file in which what cannot be read reads as zeros: bad bytes like any others, which sums tell."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.unreadable = False  # some place was met that could not be read

    def read(self, offset: int, length: int) -> bytes:
        """As of Readable. OSError only for what is not the disk's fault."""
        try:
            return self._file.read(offset, length)
        except OSError as error:
            if error.errno in NOT_THE_DISK:
                raise
        self.unreadable = True
        parts = []
        at = offset
        while at < offset + length:
            size = min(_SECTOR - at % _SECTOR, offset + length - at)
            try:
                part = self._file.read(at, size)
            except OSError as error:
                if error.errno in NOT_THE_DISK:
                    raise
                part = bytes(size)
            parts.append(part)
            at += size
            if len(part) < size:
                break
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Found:
    """A record with a good head that lies whole within the file; its tables and payload are not checked."""

    offset: int
    head: ShardHead | NoteHead

    @property
    def end(self) -> int:
        return self.offset + self.head.length


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes that are no record, up to the next good one or the end."""

    offset: int
    end: int


def walk(file: Readable, segment: int, salt: bytes, start: int, end: int) -> Iterator[Found | Gap]:
    """The records from `start`, where one must begin, to `end`, reading heads only. NewerFormat.

    After bad bytes it goes on at the next head with a right sum; a record that runs past `end` counts as bad bytes.
    """
    offset = start
    while offset < end:
        head = _head_at(file, segment, salt, offset, end)
        if head is not None:
            found = Found(offset, head)
            yield found
            offset = found.end
            continue
        following = _next_record(file, segment, salt, offset + record.ALIGN, end)
        yield Gap(offset, following)
        offset = following


def first_bad_block(file: Readable, found: Found) -> int | None:
    """None if a shard's record is whole, else its first bad block, -1 for its tables. Reads it in pieces."""
    head = found.head
    if isinstance(head, NoteHead):
        return None
    tables = file.read(found.offset + HEAD, head.tables)
    try:
        record.check_tables(head, tables)
    except Corrupt:
        return -1
    offset = found.offset + HEAD + head.tables
    for block, (length, expected) in enumerate(unpack_table(record.own_table(head, tables))):
        data = file.read(offset, length)
        if len(data) != length or block_sum(head.extent, head.index, block, data) != expected:
            return block
        offset += length
    return None


def _head_at(file: Readable, segment: int, salt: bytes, offset: int, end: int) -> ShardHead | NoteHead | None:
    if end - offset < HEAD:
        return None
    return _parse(file.read(offset, HEAD), segment, salt, offset, end)


def _parse(raw: bytes, segment: int, salt: bytes, offset: int, end: int) -> ShardHead | NoteHead | None:
    try:
        head = record.parse_head(raw, record.place(salt, segment, offset))
    except Corrupt:
        return None
    return head if offset + head.length <= end else None


def _next_record(file: Readable, segment: int, salt: bytes, start: int, end: int) -> int:
    """The offset of the first good head at or behind `start`, `end` if there is none."""
    base = start
    while base < end:
        window = file.read(base, min(_STEP + HEAD, end - base))
        at = window.find(record.MAGIC)
        while 0 <= at < _STEP:
            offset = base + at
            raw = window[at : at + HEAD]
            if offset % record.ALIGN == 0 and _parse(raw, segment, salt, offset, end) is not None:
                return offset
            at = window.find(record.MAGIC, at + 1)
        base += _STEP
    return end
