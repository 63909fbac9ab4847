"""A page of a listing, packed: what costs least to make and to read, since pages have a thousand rows.

A page is a msgpack array of two arrays of the same length: keys, or common prefixes, as bin; and for each key its row
as bin, for a common prefix nil. A row is a msgpack array that begins with the fields of ListedRow; what follows is to
be passed over. So a catalog whose own records begin like that hands them on as they are.

Who reads a page decodes a row when it is asked for what is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from reedbed.common.checksums import format_checksum
from reedbed.common.errors import Corrupt
from reedbed.common.ids import ID_BYTES, format_id
from reedbed.protos.types import CommonPrefix, ObjectInfo, from_us, told_later


class ListedRow(Struct, array_like=True, frozen=True):
    """What a listing tells of the latest version of an object; `modified_us` microseconds since 1970."""

    version: Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
    seq: int
    modified_us: int
    size: int
    checksum: int
    profile: str
    content_type: str = ""
    metadata: dict[str, str] = {}


_ENCODER: Final = msgspec.msgpack.Encoder()
_PAGE: Final = msgspec.msgpack.Decoder(tuple[list[bytes], list[bytes | None]])
_ROW: Final = msgspec.msgpack.Decoder(ListedRow)


def pack(keys: Sequence[bytes], rows: Sequence[bytes | None]) -> bytes:
    """A page of these keys and rows."""
    return _ENCODER.encode((keys, rows))


def unpack(bucket: str, page: bytes) -> list[ObjectInfo | CommonPrefix]:
    """The rows of a page; Corrupt for bytes that are none."""
    try:
        keys, rows = _PAGE.decode(page)
    except msgspec.DecodeError:
        raise _corrupt(bucket) from None
    if len(keys) != len(rows):
        raise _corrupt(bucket)
    names = [key.decode("utf-8", "surrogateescape") for key in keys]
    return [
        told_later(name, _field, [bucket, row]) if row is not None else CommonPrefix(bucket, name)
        for name, row in zip(names, rows, strict=True)
    ]


def _field(told: list[Any], name: str) -> Any:
    """One field of the ObjectInfo of a row; `told` is bucket and row, which is decoded once. Corrupt."""
    bucket, row = told
    if name == "bucket":
        return bucket
    if type(row) is bytes:
        try:
            row = told[1] = _ROW.decode(row)
        except msgspec.DecodeError:
            raise _corrupt(bucket) from None
    return _FIELDS[name](row)


_FIELDS: Final[dict[str, Any]] = {
    "size": lambda row: row.size,
    "version": lambda row: format_id(row.version),
    "checksum": lambda row: format_checksum(row.checksum),
    "content_type": lambda row: row.content_type or None,
    "metadata": lambda row: row.metadata,
    "last_modified": lambda row: from_us(row.modified_us),
    "profile": lambda row: row.profile,
    "latest": lambda _: True,
    "delete_marker": lambda _: False,
    "actual_profiles": lambda _: (),
}


def _corrupt(bucket: str) -> Corrupt:
    return Corrupt("a page of a listing does not parse", where=f"bucket {bucket}")
