"""Which row of the engine holds what: the key of every row of the namespace, to the byte.

Numbers are big-endian, ids have 16 bytes. The first byte names the kind; `c` and `i` belong to the cluster map and to
leases and are never used here.

    b  name                                bucket
    o  bucket u32, key                     unversioned: the object's version; versioned: number of its latest version,
                                           and no row while that is a delete marker. Bucket 0, which has no row of its
                                           own, is `.system`: the catalog's copy (sysobjects.py)
    v  bucket u32, escaped key, 2^64-1-n   versioned buckets: a version, made by log entry n (so newest first)
    w  bucket u32, version id              versioned buckets: n of that version
    e  extent id                           extent, also a dropped one until it is forgotten
    y  pg u32, extent id                   live extent by its PG (empty value)
    d  redundancy u8, extent id            live extent that lacks shards, by how many more it may lose
    p  pg u32, missing, gone, moving u64   how many extents of the PG lack just that
    g  pg u32                              what a change of the PG did, not noted in all of its extents yet
    k  fill u8, extent id                  live extent that holds much more than its live bytes are worth (sparse.py)
    n  extent id, offset u40, version id   version with an inline slice that begins there (namers.py); or, with
                                           list id and index u32 at the end, a chunk of a list (empty value)
    f  extent id                           extent that a rewrite has written and that is pinned (swaps.py)
    x  time u64, extent id                 dropped extent, by the id clock's milliseconds when it was dropped
    s  list id                             head of a slice list; its id is that of the put or upload that made it
    s  list id, index u32                  chunk of that list
    z  list id                             slice list without references that waits to be taken apart
    u  upload id                           upload under way
    t  bucket u32, upload id               the same by bucket (empty value)
    r  version id                          version whose content has another profile than is wanted (bucket, key, ...)
    j  n u64                               order to recode a bucket or a part of it
    l  n u64                               log entry number n
    q  id                                  outcome of a commit operation or of an upload's begin
    m  one letter                          b: next bucket number, c: counters, l: state of the log, s: counts of sparse
                                           extents, n: whether the rows k and n are there for all that is older

Escaping keeps the order where something follows a key: 00 becomes 00 FF, and the end of the key is 00 01.
Without an end, the escaped form of a prefix is a prefix of the escaped forms of all keys that start with it.
"""

from __future__ import annotations

import struct
from typing import Final

from reedbed.common.errors import Corrupt
from reedbed.common.ids import ID_BYTES, Id

NEXT_BUCKET: Final = b"mb"
COUNTERS: Final = b"mc"
LOG_STATE: Final = b"ml"
SPARSE_COUNTS: Final = b"ms"
INDEXING: Final = b"mn"

BUCKETS: Final = b"b"
EXTENTS: Final = b"e"
EXTENTS_OF_PGS: Final = b"y"
DEGRADED: Final = b"d"
LACKS: Final = b"p"
MARKS: Final = b"g"
DROPPED: Final = b"x"
SLICE_LISTS: Final = b"s"
LOOSE_LISTS: Final = b"z"
UPLOADS: Final = b"u"
RECODE: Final = b"r"
RECODE_JOBS: Final = b"j"
SPARSE: Final = b"k"
NAMERS: Final = b"n"
PINS: Final = b"f"
LOG: Final = b"l"
OUTCOMES: Final = b"q"

OFFSET_BYTES: Final = 5
_LACK: Final = struct.Struct(">IQQQ")
_END: Final = b"\x00\x01"
_U64_MAX: Final = (1 << 64) - 1


def escape(raw: bytes) -> bytes:
    """`raw` without the mark of its end."""
    return raw.replace(b"\x00", b"\x00\xff")


def after(prefix: bytes) -> bytes | None:
    """The first key above all that start with `prefix`; None if there is none."""
    cut = prefix.rstrip(b"\xff")
    return cut[:-1] + bytes([cut[-1] + 1]) if cut else None


def bucket(name: str) -> bytes:
    return BUCKETS + name.encode("utf-8")


def objects(number: int) -> bytes:
    """What the keys of all object rows of a bucket start with; the object's key follows as it is."""
    return b"o" + number.to_bytes(4, "big")


def versions(number: int) -> bytes:
    """What the keys of all version rows of a bucket start with."""
    return b"v" + number.to_bytes(4, "big")


def versions_under(number: int, prefix: bytes) -> bytes:
    """What the keys of all version rows of objects whose keys have this prefix start with."""
    return versions(number) + escape(prefix)


def versions_of(number: int, key: bytes) -> bytes:
    """What the keys of all version rows of one object start with."""
    return versions(number) + escape(key) + _END


def version(number: int, key: bytes, seq: int) -> bytes:
    return versions_of(number, key) + (_U64_MAX - seq).to_bytes(8, "big")


def split_version(row: bytes) -> tuple[bytes, int]:
    """Object key and log number in the key of a version row."""
    body, number = row[5:-8], row[-8:]
    if len(row) < 15 or not body.endswith(_END):
        raise Corrupt(f"not the key of a version row: {row[:64]!r}", where="catalog")
    return body[:-2].replace(b"\x00\xff", b"\x00"), _U64_MAX - int.from_bytes(number, "big")


def version_index(number: int, version_id: Id) -> bytes:
    return b"w" + number.to_bytes(4, "big") + version_id


def extent(extent_id: Id) -> bytes:
    return EXTENTS + extent_id


def degraded(redundancy: int, extent_id: Id) -> bytes:
    return DEGRADED + bytes([redundancy]) + extent_id


def extents_of_pg(pg: int) -> bytes:
    """What the keys of the index of a PG's extents start with; the extent's id follows."""
    return EXTENTS_OF_PGS + pg.to_bytes(4, "big")


def extent_of_pg(pg: int, extent_id: Id) -> bytes:
    return extents_of_pg(pg) + extent_id


def lack(pg: int, missing: int, gone: int, moving: int) -> bytes:
    return LACKS + _LACK.pack(pg, missing, gone, moving)


def split_lack(row: bytes) -> tuple[int, int, int, int]:
    """PG and masks in the key of a count of lacks."""
    if len(row) != 1 + _LACK.size:
        raise Corrupt(f"not the key of a count of lacks: {row[:64]!r}", where="catalog")
    pg, missing, gone, moving = _LACK.unpack(row[1:])
    return pg, missing, gone, moving


def mark(pg: int) -> bytes:
    return MARKS + pg.to_bytes(4, "big")


def dropped(time_ms: int, extent_id: Id) -> bytes:
    return DROPPED + time_ms.to_bytes(8, "big") + extent_id


def slice_list(list_id: Id) -> bytes:
    return SLICE_LISTS + list_id


def chunk(list_id: Id, index: int) -> bytes:
    return SLICE_LISTS + list_id + index.to_bytes(4, "big")


def loose_list(list_id: Id) -> bytes:
    return LOOSE_LISTS + list_id


def upload(upload_id: Id) -> bytes:
    return UPLOADS + upload_id


def uploads_of(number: int) -> bytes:
    """What the keys of a bucket's upload index start with; the upload's id follows."""
    return b"t" + number.to_bytes(4, "big")


def recode(version_id: bytes) -> bytes:
    return RECODE + version_id


def recode_job(number: int) -> bytes:
    return RECODE_JOBS + number.to_bytes(8, "big")


def sparse_at(fill: int) -> bytes:
    """What the keys of all extents with this fill start with; the extent's id follows."""
    return SPARSE + bytes([fill])


def sparse(fill: int, extent_id: Id) -> bytes:
    return sparse_at(fill) + extent_id


def namers_of(extent_id: bytes) -> bytes:
    """What the keys of all that name an extent start with."""
    return NAMERS + extent_id


def namers_of_place(extent_id: bytes, offset: int) -> bytes:
    """What the keys of all that hold a slice from there on start with."""
    return NAMERS + extent_id + offset.to_bytes(OFFSET_BYTES, "big")


def pin(extent_id: bytes) -> bytes:
    return PINS + extent_id


def log(seq: int) -> bytes:
    return LOG + seq.to_bytes(8, "big")


def outcome(op_id: Id) -> bytes:
    return OUTCOMES + op_id


def last_id(row: bytes) -> Id:
    """The id that a key ends with."""
    return Id(row[-ID_BYTES:])
