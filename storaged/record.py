"""The bytes of a segment. All numbers are big-endian; every sum is a CRC32C.

Segment header, 40 bytes at the start of the file:

    0   8s   magic "RBsegmnt"
    8   u8   version, 1
    9   3    zero
    12  u64  number of the segment
    20  16s  id of the device
    36  u32  sum of bytes 0..35

Then records, each at an offset that 8 divides. A record begins with a head of 88 bytes. Bytes 0..47 mean the same in
every kind, so that a reader can walk over kinds that it does not know:

    0   4s   magic "RBrc"
    4   u8   version, 1
    5   u8   kind: 1 shard, 2 removal, 3 renewal
    6   u8   k    7  u8  m      (0 except in a shard)
    8   u64  length of the whole record, filled up to a multiple of 8
    16  16s  extent
    32  u16  shard index
    34  u16  zero
    36  u32  PG
    40  u64  PG generation
    84  u32  sum of bytes 0..83, seeded with (salt of the device 16s, segment u64, offset of the record u64): a copy of
             a record elsewhere, such as within the bytes of an object, is no record

A shard:

    48  u64  term, 56 u64 sequence number: the highest log position that the writer knew
    64  u32  length of the payload
    68  u32  blocks of the payload
    72  u32  length of the tables
    76  u32  sum of the tables
    80  u32  zero
    88       tables: for each block (length u32, sum u32); in a parity shard then k times a number of blocks u32, one
             for each data shard, and the rows (length u32, sum u32) of all data shards in order
    then     payload, and zeros up to the next multiple of 8

A removal says that the shard record at its target is gone, a renewal that it was put again under a newer generation:

    48  u64  term of the catalog that ordered it; 0 in a renewal, and in a removal by the device itself, of a damaged
             record whose shard is put anew behind it
    56  u64  segment, 64 u64 offset of the record that is meant
    72  12   zero

The head of a removed shard stays; what follows it within the record may be a hole.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from reedbed.common.checksums import Buffer, crc32c
from reedbed.common.errors import Corrupt, NewerFormat
from reedbed.common.ids import Id
from reedbed.common.limits import K_MAX, M_MAX, MIB, SHARD_MAX
from reedbed.extents.blocks import ROW_BYTES, split_table

VERSION: Final = 1
ALIGN: Final = 8
MAGIC: Final = b"RBrc"
REPLACED: Final = 0  # term of a removal that makes way for the same shard
TABLES_MAX: Final = 16 * MIB  # bytes of all tables of one record

_SEGMENT: Final = struct.Struct(">8sB3xQ16sI")
_SHARD: Final = struct.Struct(">4sBBBBQ16sHHIQQQIIIIII")
_NOTE: Final = struct.Struct(">4sBBHQ16sHHIQQQQ12sI")
_PLACE: Final = struct.Struct(">16sQQ")
_SUM: Final = struct.Struct(">I")
_SEGMENT_MAGIC: Final = b"RBsegmnt"
_ZEROS: Final = bytes(12)

SEGMENT_HEADER: Final = _SEGMENT.size
HEAD: Final = _SHARD.size
assert SEGMENT_HEADER == 40
assert HEAD == _NOTE.size == 88
assert SEGMENT_HEADER % ALIGN == HEAD % ALIGN == 0
assert array("I").itemsize == 4


class Kind(IntEnum):
    SHARD = 1
    REMOVAL = 2
    RENEWAL = 3


@dataclass(frozen=True, slots=True)
class ShardHead:
    """The head of a shard's record."""

    length: int
    extent: Id
    index: int
    k: int
    m: int
    pg: int
    generation: int
    log_term: int
    log_seq: int
    payload: int
    blocks: int
    tables: int
    tables_sum: int


@dataclass(frozen=True, slots=True)
class NoteHead:
    """A removal or a renewal of the shard record at (segment, offset)."""

    kind: Kind
    extent: Id
    index: int
    pg: int
    generation: int
    term: int
    segment: int
    offset: int

    @property
    def length(self) -> int:
        return HEAD


def padded(length: int) -> int:
    """`length` filled up to a multiple of the alignment."""
    return (length + ALIGN - 1) & -ALIGN


def place(salt: bytes, segment: int, offset: int) -> int:
    """The seed of the sum of the head at an offset of a segment."""
    return crc32c(_PLACE.pack(salt, segment, offset))


def encode_segment_header(number: int, device: bytes) -> bytes:
    body = _SEGMENT.pack(_SEGMENT_MAGIC, VERSION, number, device, 0)[:-4]
    return body + _SUM.pack(crc32c(body))


def check_segment_header(raw: bytes, number: int, device: bytes) -> None:
    """Corrupt unless `raw` is the header of this segment; NewerFormat."""
    if len(raw) < SEGMENT_HEADER or crc32c(raw[: SEGMENT_HEADER - 4]) != _SUM.unpack_from(raw, SEGMENT_HEADER - 4)[0]:
        raise Corrupt("the header of a segment is truncated or altered")
    if raw[:8] == _SEGMENT_MAGIC and raw[8] > VERSION:
        raise NewerFormat(f"a segment of version {raw[8]}")
    if raw[:SEGMENT_HEADER] != encode_segment_header(number, device):
        raise Corrupt("a segment of another device or number")


def pack_tables(own: Buffer, data: Sequence[Buffer]) -> bytes:
    """The tables of a record, out of block tables as they travel (extents/blocks.py): the shard's own and, in a parity
    shard, those of all data shards."""
    if not data:
        return _swapped(own)
    counts = struct.pack(f">{len(data)}I", *(len(table) // ROW_BYTES for table in data))
    return b"".join([_swapped(own), counts, _swapped(b"".join(data))])


def own_table(head: ShardHead, tables: Buffer) -> bytes:
    """The block table of the shard as it travels, out of tables that `check_tables` passed."""
    return _swapped(memoryview(tables)[: head.blocks * ROW_BYTES])


def data_table(head: ShardHead, tables: Buffer, shard: int) -> bytes:
    """A data shard's block table as it travels, out of a parity shard's tables that `check_tables` passed."""
    assert head.index >= head.k > shard >= 0
    begin = head.blocks * ROW_BYTES
    counts = struct.unpack_from(f">{head.k}I", tables, begin)
    begin += 4 * head.k + ROW_BYTES * sum(counts[:shard])
    return _swapped(memoryview(tables)[begin : begin + ROW_BYTES * counts[shard]])


def check_tables(head: ShardHead, tables: Buffer) -> None:
    """Corrupt unless these are the tables that the head speaks of."""
    if len(tables) != head.tables or crc32c(tables) != head.tables_sum:
        raise Corrupt("the tables of a shard's record are altered")
    wanted = head.blocks * ROW_BYTES
    if head.index >= head.k and len(tables) >= wanted + 4 * head.k:
        wanted += 4 * head.k + ROW_BYTES * sum(struct.unpack_from(f">{head.k}I", tables, wanted))
    if len(tables) != wanted or sum(split_table(own_table(head, tables))[0]) != head.payload:
        raise Corrupt("the tables of a shard's record do not fit its head")


def _swapped(rows: Buffer) -> bytes:
    """Rows with the bytes of each number turned round: they travel little-endian and lie on disk big-endian."""
    numbers = array("I")
    numbers.frombytes(rows)
    numbers.byteswap()
    return numbers.tobytes()


def encode_shard_head(
    seed: int,
    *,
    extent: bytes,
    index: int,
    k: int,
    m: int,
    pg: int,
    generation: int,
    log_term: int,
    log_seq: int,
    payload: int,
    blocks: int,
    tables: bytes,
) -> bytes:
    """The 88 bytes before the tables. `seed` is the `place` where they will lie."""
    body = _SHARD.pack(
        MAGIC,
        VERSION,
        Kind.SHARD,
        k,
        m,
        padded(HEAD + len(tables) + payload),
        extent,
        index,
        0,
        pg,
        generation,
        log_term,
        log_seq,
        payload,
        blocks,
        len(tables),
        crc32c(tables),
        0,
        0,
    )[:-4]
    return body + _SUM.pack(crc32c(body, seed))


def encode_note(seed: int, note: NoteHead) -> bytes:
    """A removal or renewal, whole. `seed` is the `place` where it will lie."""
    body = _NOTE.pack(
        MAGIC,
        VERSION,
        note.kind,
        0,
        HEAD,
        note.extent,
        note.index,
        0,
        note.pg,
        note.generation,
        note.term,
        note.segment,
        note.offset,
        _ZEROS,
        0,
    )[:-4]
    return body + _SUM.pack(crc32c(body, seed))


def parse_head(raw: bytes, seed: int) -> ShardHead | NoteHead:
    """The head in these 88 bytes; Corrupt for anything else, NewerFormat for that of a newer Reedbed."""
    if len(raw) != HEAD or raw[:4] != MAGIC or crc32c(raw[:-4], seed) != _SUM.unpack_from(raw, HEAD - 4)[0]:
        raise Corrupt("the head of a record is truncated or altered")
    if raw[4] != VERSION or raw[5] not in (Kind.SHARD, Kind.REMOVAL, Kind.RENEWAL):
        raise NewerFormat(
            f"a record of version {raw[4]}, kind {raw[5]}", hint="Use the Reedbed that wrote it, or a newer one"
        )
    if raw[5] == Kind.SHARD:
        _, _, _, k, m, length, extent, index, _, *rest, _, _ = _SHARD.unpack(raw)
        head = ShardHead(length, Id(extent), index, k, m, *rest)
        if not plausible(head):
            raise Corrupt("the head of a shard's record contradicts itself")
        return head
    _, _, kind, _, length, extent, index, _, pg, generation, term, segment, offset, _, _ = _NOTE.unpack(raw)
    if length != HEAD:
        raise Corrupt("the head of a record contradicts itself")
    return NoteHead(Kind(kind), Id(extent), index, pg, generation, term, segment, offset)


def plausible(head: ShardHead) -> bool:
    """Whether the numbers of a shard's head agree with each other and with the limits."""
    return (
        1 <= head.k <= K_MAX
        and head.m <= M_MAX
        and head.index < head.k + head.m
        and head.payload <= SHARD_MAX
        and head.blocks * ROW_BYTES <= head.tables <= TABLES_MAX
        and head.length == padded(HEAD + head.tables + head.payload)
    )
