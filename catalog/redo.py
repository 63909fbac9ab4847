"""Redo records as rows: how they are written, read and refused.

A record is one byte that tells how it is packed (0 as it is, 1 deflated by zlib), then msgpack: one flat array of key,
value (nil for a removed key), key, value, ... It is cut into chunks that fit into a page of the store without overflow
pages. Row of one chunk:

    key     a table byte, number of the record u64, number of the chunk u32, big-endian
    value   sealed; byte 0 is 1 in the record's last chunk and 0 before, then the chunk's bytes

The floor (the newest trimmed record) is kept in the row of number 0, chunk 0, as 8 bytes, big-endian.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from reedbed.catalog.engine import RedoRecord
from reedbed.catalog.sealed import SEAL_BYTES, seal, unseal
from reedbed.catalog.transaction import Changes
from reedbed.common.errors import Corrupt, InvalidArgument, LogTrimmed

REDO_TABLE: Final = b"\xf0"
AFTER_REDO: Final = b"\xf1"
FLOOR_ROW: Final = REDO_TABLE + bytes(12)
_ROW: Final = struct.Struct(">cQI")
# Two rows fill a page of 4 KiB: LMDB allows nodes of 2,038 bytes, of which 8 are its own, 13 key, 5 seal and 1 mark
CHUNK_BYTES: Final = 2038 - 8 - _ROW.size - SEAL_BYTES - 1
_DEFLATE_LEVEL: Final = 1


def row_key(number: int, chunk: int = 0) -> bytes:
    """The key of one chunk's row."""
    return _ROW.pack(REDO_TABLE, number, chunk)


def row_number(key: bytes) -> int:
    """The record that a row belongs to."""
    return int(_ROW.unpack(key)[1])


def encode(number: int, changes: Changes) -> Iterator[tuple[bytes, bytes]]:
    """The rows of one record, in order."""
    flat: list[bytes | None] = []
    for key, value in changes.items():
        flat += (key, value)
    data = _pack(msgspec.msgpack.encode(flat))
    last = (len(data) - 1) // CHUNK_BYTES
    for chunk in range(last + 1):
        key = row_key(number, chunk)
        piece = data[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]
        yield key, seal(key, (b"\1" if chunk == last else b"\0") + piece)


def decode(rows: Iterable[tuple[bytes, bytes]], after: int) -> Iterator[RedoRecord]:
    """The records that follow number `after`, from their rows in order. Corrupt if a row is missing or altered."""
    number, chunk = after + 1, 0
    pieces: list[bytes] = []
    for key, stored in rows:
        if key != row_key(number, chunk):
            raise _damaged(number, f"chunk {chunk} is missing")
        value = unseal(key, stored)
        pieces.append(value[1:])
        chunk += 1
        if value[:1] == b"\1":
            yield RedoRecord(number, _changes(number, b"".join(pieces)))
            number, chunk = number + 1, 0
            pieces.clear()
    if pieces:
        raise _damaged(number, f"chunk {chunk} is missing")


def _changes(number: int, data: bytes) -> list[tuple[bytes, bytes | None]]:
    try:
        flat = msgspec.msgpack.decode(_unpack(data), type=list[bytes | None])
    except (msgspec.DecodeError, zlib.error, ValueError) as error:
        raise _damaged(number, str(error)) from error
    changes = [(key, value) for key, value in zip(flat[::2], flat[1::2], strict=False) if key is not None]
    if 2 * len(changes) != len(flat):
        raise _damaged(number, "it is no list of changes")
    return changes


def _pack(data: bytes) -> bytes:
    # Keys and ids repeat within a transaction: even the lightest compression halves most records
    deflated = zlib.compress(data, _DEFLATE_LEVEL)
    return b"\1" + deflated if len(deflated) < len(data) else b"\0" + data


def _unpack(data: bytes) -> bytes:
    if data[:1] == b"\0":
        return data[1:]
    if data[:1] == b"\1":
        return zlib.decompress(data[1:])
    raise ValueError(f"it is packed in the unknown way {data[:1].hex()}")


def encode_floor(floor: int) -> bytes:
    """The stored value of FLOOR_ROW."""
    return seal(FLOOR_ROW, floor.to_bytes(8, "big"))


def decode_floor(stored: bytes | None) -> int:
    """The newest trimmed record; 0 where the row does not exist."""
    return 0 if stored is None else int.from_bytes(unseal(FLOOR_ROW, stored), "big")


def check_range(after: int, limit: int, floor: int, position: int) -> None:
    """Refuse a `read_redo` that no engine can answer."""
    if limit < 1 or not 0 <= after <= position:
        raise InvalidArgument(f"no redo records after {after} (at most {limit}): the newest is {position}")
    if after < floor:
        raise LogTrimmed(
            f"redo records up to {floor} are trimmed, asked after {after}", hint="Start again from a snapshot"
        )


def check_trim(upto: int, position: int) -> None:
    """Refuse to trim what does not exist yet."""
    if not 0 <= upto <= position:
        raise InvalidArgument(f"cannot trim redo records up to {upto}: the newest is {position}")


def check_load(to: int, floor: int, position: int) -> None:
    """Refuse to load what is older than what there is, or a copy over changes of our own."""
    if position != floor or to < position:
        raise InvalidArgument(
            f"a copy as of redo record {to} cannot be loaded where there are records from {floor + 1} to {position}",
            hint="Load it into an empty folder",
        )


def _damaged(number: int, why: str) -> Corrupt:
    return Corrupt(
        f"redo record {number} is damaged: {why}", hint="Take a new snapshot of the catalog and trim the redo stream"
    )
