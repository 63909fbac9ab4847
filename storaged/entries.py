"""Rows of a device's index, and their bytes. The index can always be made again from the segments.

Every value begins with a version byte and ends with a CRC32C (u32) that is seeded with the CRC32C of its key. Numbers
are big-endian. Four tables:

    shards    key: extent 16s, index u16
              value: version u8, state u8 (1 live, 2 removed), k u8, m u8, segment u64, offset u64, record length u64,
              tables u32, payload u32, pg u32, generation u64, sum u32
    notes     key: segment u64, offset u64 of the record that a removal or renewal speaks of
              value: version u8, kind u8, extent 16s, index u16, pg u32, generation u64, term u64,
              segment u64, offset u64 where the note itself lies, sum u32
    homes     key: segment u64, offset u64 where a note lies; value: version u8, key in `notes` 16s, sum u32
    segments  key: number u64
              value: version u8, end u64, live shards u32, live bytes u64, dead bytes u64, notes u32, sum u32
    meta      key "state"; value: version u8, device 16s, mark segment u64, mark offset u64, rebuilding u8,
              log term u64, log sequence number u64, sum u32
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from reedbed.common.checksums import Buffer, crc32c
from reedbed.common.errors import Corrupt, NewerFormat
from reedbed.common.ids import Id
from reedbed.storaged.record import HEAD, Kind, NoteHead, ShardHead

VERSION: Final = 1
LIVE: Final = 1
REMOVED: Final = 2
TABLES: Final = ("shards", "notes", "homes", "segments", "meta")
STATE_KEY: Final = b"state"

_KEY: Final = struct.Struct(">16sH")
_POSITION: Final = struct.Struct(">QQ")
_NUMBER: Final = struct.Struct(">Q")
_ENTRY: Final = struct.Struct(">BBBBQQQIIIQ")
_NOTE: Final = struct.Struct(">BB16sHIQQQQ")
_HOME: Final = struct.Struct(">B16s")
_INFO: Final = struct.Struct(">BQIQQI")
_STATE: Final = struct.Struct(">B16sQQBQQ")
_SIZES: Final = {
    "shards": _ENTRY.size,
    "notes": _NOTE.size,
    "homes": _HOME.size,
    "segments": _INFO.size,
    "meta": _STATE.size,
}


class Position(NamedTuple):
    """A place in the segments: everything below it comes earlier in the order of arrival."""

    segment: int
    offset: int


class Entry(NamedTuple):
    """Where a shard lies, or where a removed one lay that must not be put again under its generation."""

    state: int
    k: int
    m: int
    segment: int
    offset: int
    length: int
    tables: int
    payload: int
    pg: int
    generation: int

    @property
    def position(self) -> Position:
        return Position(self.segment, self.offset)


class NewShard(NamedTuple):
    """A shard that was put now; `log`: the log position that its writer knew."""

    key: bytes
    entry: Entry
    log: tuple[int, int]


class Note(NamedTuple):
    """A removal or renewal, with where it lies."""

    head: NoteHead
    home: Position

    @property
    def target(self) -> Position:
        return Position(self.head.segment, self.head.offset)


class SegmentInfo(NamedTuple):
    """What is in a segment. dead_bytes: of all but live shards. notes: those in it that speak of other segments."""

    end: int = 0
    live: int = 0
    live_bytes: int = 0
    dead_bytes: int = 0
    notes: int = 0


class IndexState(NamedTuple):
    """mark: the index covers all records below it, which are durable. rebuilding: a rebuild has not come to its end."""

    device: bytes
    mark: Position
    rebuilding: bool
    log_term: int
    log_seq: int


def shard_key(extent: bytes, index: int) -> bytes:
    return _KEY.pack(extent, index)


def split_key(key: bytes) -> tuple[Id, int]:
    extent, index = _KEY.unpack(key)
    return Id(extent), index


def position_key(position: Position) -> bytes:
    return _POSITION.pack(*position)


def split_position(key: bytes) -> Position:
    return Position(*_POSITION.unpack(key))


def segment_key(number: int) -> bytes:
    return _NUMBER.pack(number)


def split_segment(key: bytes) -> int:
    number: int = _NUMBER.unpack(key)[0]
    return number


def entry_of(head: ShardHead, position: Position) -> Entry:
    """The row of a live shard."""
    return Entry(LIVE, head.k, head.m, *position, head.length, head.tables, head.payload, head.pg, head.generation)


def kept_bytes(entry: Entry) -> int:
    """Bytes that a removed shard's record still takes: its head and the broken pages around the hole."""
    page = 4096
    begin = entry.offset + HEAD
    end = entry.offset + entry.length
    return entry.length - max(0, end // page * page - -(-begin // page) * page)


def seal(key: bytes, body: bytes) -> bytes:
    """A value with its sum."""
    return body + crc32c(body, crc32c(key)).to_bytes(4, "big")


def check(table: str, key: Buffer, value: Buffer) -> bytes:
    """The body of a value; Corrupt if its sum or length is wrong, NewerFormat."""
    key, raw = bytes(key), bytes(value)
    body = raw[:-4]
    if len(raw) < 5 or crc32c(body, crc32c(key)) != int.from_bytes(raw[-4:], "big"):
        raise Corrupt(f"a row of the index table {table!r} is altered", hint="Start again: the index is rebuilt")
    if body[0] > VERSION:
        raise NewerFormat(f"a row of the index table {table!r} has version {body[0]}")
    if len(body) != _SIZES[table]:
        raise Corrupt(f"a row of the index table {table!r} is altered", hint="Start again: the index is rebuilt")
    return body


def encode_entry(key: bytes, entry: Entry) -> bytes:
    return seal(key, _ENTRY.pack(VERSION, *entry))


def decode_entry(key: bytes, value: Buffer) -> Entry:
    return Entry(*_ENTRY.unpack(check("shards", key, value))[1:])


def encode_note(key: bytes, note: Note) -> bytes:
    head = note.head
    body = _NOTE.pack(VERSION, head.kind, head.extent, head.index, head.pg, head.generation, head.term, *note.home)
    return seal(key, body)


def decode_note(key: bytes, value: Buffer) -> Note:
    _, kind, extent, index, pg, generation, term, segment, offset = _NOTE.unpack(check("notes", key, value))
    target = split_position(bytes(key))
    return Note(NoteHead(Kind(kind), Id(extent), index, pg, generation, term, *target), Position(segment, offset))


def encode_home(key: bytes, target: Position) -> bytes:
    return seal(key, _HOME.pack(VERSION, position_key(target)))


def decode_home(key: bytes, value: Buffer) -> Position:
    return split_position(_HOME.unpack(check("homes", key, value))[1])


def encode_info(key: bytes, info: SegmentInfo) -> bytes:
    return seal(key, _INFO.pack(VERSION, *info))


def decode_info(key: bytes, value: Buffer) -> SegmentInfo:
    return SegmentInfo(*_INFO.unpack(check("segments", key, value))[1:])


def encode_state(state: IndexState) -> bytes:
    body = _STATE.pack(VERSION, state.device, *state.mark, state.rebuilding, state.log_term, state.log_seq)
    return seal(STATE_KEY, body)


def decode_state(value: Buffer) -> IndexState:
    _, device, segment, offset, rebuilding, log_term, log_seq = _STATE.unpack(check("meta", STATE_KEY, value))
    return IndexState(device, Position(segment, offset), bool(rebuilding), log_term, log_seq)
