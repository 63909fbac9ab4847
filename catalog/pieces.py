"""Pieces of the catalog's copy: what one extent of its redo stream or its snapshots holds. Each tells what it is.

A piece is a head and a body. The head, big-endian:

    0    4s    magic "RBcp"
    4    u8    version, 1
    5    u8    kind: 1 redo, 2 rows of a snapshot, 3 end of a snapshot
    6    u16   zero
    8    16s   cluster
    24   16s   stream: a number by chance, another one for each stream
    40   u64   term of the catalog that wrote it
    48   u64   number: redo: of the piece in its stream, from 1; else of the snapshot in its stream, from 1
    56   u32   part: redo: of the run, from 0; rows: of the snapshot, from 0; end: 0
    60   u32   parts: redo: of the run; rows: 0; end: rows pieces of the snapshot
    64   u64   first, 72 u64 last: redo: the records of the run; rows: number of the piece in its page, from 0, and
               pieces of the page; end: the newest record before the first page was read, and after the last one
    80   i64   microseconds since 1970 when it was written, by the catalog's wall clock
    88   32s   link: redo, rows: of the piece before it in the stream, in the snapshot; end: of a redo piece whose run
               reaches to `last` at least; zeros for none
    120  u64   bytes that the run, page or end has before it was packed
    128  u64   length of the body
    136  32s   BLAKE2b-256 of the body
    168  u32   CRC32C of all before

A link is the BLAKE2b-256 of a head. So each piece vouches for all before it: a stream is a chain, and what does not fit
into it is seen.

Bodies, packed by zlib. A run: msgpack array of arrays: number of the record, key, value or nil, key, value, ... A page
of rows: msgpack array of key, value, key, value, ... in order. The packed bytes of either are cut into pieces of
BODY_MAX. End: msgpack map with `pieces`, the extent ids of the rows pieces in order, `link`, that of the last of them,
`rows` and `size` (packed bytes), how much they hold.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeVar

import msgspec

from reedbed.catalog.engine import RedoRecord
from reedbed.common.checksums import Buffer, crc32c
from reedbed.common.errors import Corrupt, NewerFormat
from reedbed.common.ids import ID_BYTES
from reedbed.common.limits import KIB, MIB

T = TypeVar("T")

REDO: Final = 1
ROWS: Final = 2
END: Final = 3
LINK_BYTES: Final = 32
NO_LINK: Final = bytes(LINK_BYTES)
VERSION: Final = 1
BODY_MAX: Final = 4 * MIB - KIB  # with its head it fits one extent of any profile
RAW_MAX: Final = 512 * MIB  # of one run: a transaction is far smaller
_LEVEL: Final = 1
_HEAD: Final = struct.Struct(">4sBBH16s16sQQIIQQq32sQQ32s")
HEAD_BYTES: Final = _HEAD.size + 4
_MAGIC: Final = b"RBcp"

assert HEAD_BYTES < KIB


@dataclass(frozen=True, slots=True)
class Head:
    """See the module's text."""

    kind: int
    cluster: bytes
    stream: bytes
    term: int
    number: int
    part: int = 0
    parts: int = 0
    first: int = 0
    last: int = 0
    time_us: int = 0
    previous: bytes = NO_LINK
    raw: int = 0
    length: int = 0
    digest: bytes = NO_LINK

    def encode(self) -> bytes:
        body = _HEAD.pack(
            _MAGIC,
            VERSION,
            self.kind,
            0,
            self.cluster,
            self.stream,
            self.term,
            self.number,
            self.part,
            self.parts,
            self.first,
            self.last,
            self.time_us,
            self.previous,
            self.raw,
            self.length,
            self.digest,
        )
        return body + crc32c(body).to_bytes(4, "big")

    @property
    def link(self) -> bytes:
        return hashlib.blake2b(self.encode(), digest_size=LINK_BYTES).digest()


def decode_head(raw: bytes, where: str) -> Head:
    """The head of a piece; Corrupt for anything else, NewerFormat for that of a newer Reedbed."""
    body, sum_ = raw[: _HEAD.size], raw[_HEAD.size : HEAD_BYTES]
    if len(raw) < HEAD_BYTES or raw[:4] != _MAGIC or crc32c(body) != int.from_bytes(sum_, "big"):
        raise Corrupt("not a piece of a catalog's copy", where=where)
    _, version, kind, _, cluster, stream, *numbers, raw_size, length, digest = _HEAD.unpack(body)
    if version > VERSION:
        raise NewerFormat(
            f"a piece of the catalog's copy has version {version}, this Reedbed knows {VERSION}",
            where=where,
            hint="Use the Reedbed that wrote it, or a newer one",
        )
    if kind not in (REDO, ROWS, END) or length > BODY_MAX or raw_size > RAW_MAX:
        raise Corrupt("the head of a piece says what none can say", where=where)
    term, number, part, parts, first, last, time_us, previous = numbers
    return Head(
        kind, cluster, stream, term, number, part, parts, first, last, time_us, previous, raw_size, length, digest
    )


def check_body(head: Head, body: Buffer, where: str) -> None:
    """Corrupt unless these are the bytes that the head was written for."""
    if len(body) != head.length or _digest(body) != head.digest:
        raise Corrupt("a piece of the catalog's copy is altered", where=where)


def _digest(body: Buffer) -> bytes:
    return hashlib.blake2b(body, digest_size=LINK_BYTES).digest()


def piece(head: Head, body: bytes, raw: int) -> tuple[Head, bytes]:
    """A piece with this body, which has `raw` bytes before it is packed: its whole head, and all its bytes."""
    whole = replace(head, raw=raw, length=len(body), digest=_digest(body))
    return whole, whole.encode() + body


# Bodies


class Packed(NamedTuple):
    """Packed bytes, and how many they were before."""

    body: bytes
    raw: int


class Contents(msgspec.Struct, frozen=True):
    """What the end of a snapshot tells."""

    pieces: tuple[bytes, ...]
    link: bytes
    rows: int
    size: int


def pack_run(records: Iterable[RedoRecord]) -> Packed:
    """Redo records in order."""
    return _pack([[record.number, *_flat(record.changes)] for record in records])


def unpack_run(body: Buffer, raw: int, where: str) -> Iterator[RedoRecord]:
    """The records of a run. Corrupt."""
    for record in _unpack(body, raw, list[list[int | bytes | None]], where):
        number, *flat = record or [None]
        keys, values = flat[::2], flat[1::2]
        if not isinstance(number, int) or len(keys) != len(values) or not all(isinstance(key, bytes) for key in keys):
            raise Corrupt("a run of redo records does not parse", where=where)
        yield RedoRecord(number, list(zip(keys, values, strict=True)))  # type: ignore[arg-type]


def pack_rows(rows: Iterable[tuple[bytes, bytes]]) -> Packed:
    """Rows in order."""
    return _pack(_flat(rows))


def unpack_rows(body: Buffer, raw: int, where: str) -> list[tuple[bytes, bytes]]:
    """The rows of a page. Corrupt."""
    flat = _unpack(body, raw, list[bytes], where)
    if len(flat) % 2:
        raise Corrupt("a page of rows does not parse", where=where)
    return list(zip(flat[::2], flat[1::2], strict=True))


def pack_contents(contents: Contents) -> Packed:
    return _pack(contents)


def unpack_contents(body: Buffer, raw: int, where: str) -> Contents:
    """Corrupt."""
    contents = _unpack(body, raw, Contents, where)
    if any(len(one) != ID_BYTES for one in contents.pieces):
        raise Corrupt("the end of a snapshot does not parse", where=where)
    return contents


def cut(body: bytes) -> list[bytes]:
    """The parts of a packed run."""
    return [body[at : at + BODY_MAX] for at in range(0, len(body), BODY_MAX)]


def _flat(changes: Iterable[tuple[bytes, bytes | None]]) -> list[bytes | None]:
    flat: list[bytes | None] = []
    for key, value in changes:
        flat += (key, value)
    return flat


def _pack(value: object) -> Packed:
    data = msgspec.msgpack.encode(value)
    return Packed(zlib.compress(data, _LEVEL), len(data))


def _unpack(body: Buffer, raw: int, kind: type[T], where: str) -> T:
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(body, raw + 1)  # never more than was promised
        if len(data) == raw and unpacking.eof:
            return msgspec.msgpack.decode(data, type=kind)
    except (zlib.error, msgspec.DecodeError) as error:
        raise Corrupt(f"a part of the catalog's copy does not parse: {error}", where=where) from None
    raise Corrupt("a part of the catalog's copy is not as long as it says", where=where)
