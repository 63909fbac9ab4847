"""Making the indexes of a catalog that was written before there were any: who names what, and what is sparse.

Row `mn` tells how far it is. Rows that change meanwhile get their part of the indexes by that change itself.

Invariants: a step looks at so many rows and no more, and what it did is durable with how far it is; looking at a row
twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from reedbed.catalog import keys, namers, recoding, records, slices, sparse
from reedbed.catalog.edit import Edit
from reedbed.catalog.engine import Reader
from reedbed.catalog.namers import OfChunk, OfVersion
from reedbed.catalog.records import IndexingRow, VersionRow
from reedbed.common.ids import ID_BYTES, Id

_ROW_TABLES = (keys.RECODE, keys.EXTENTS, keys.SLICE_LISTS, b"o", b"v")  # lists before the versions that name them


def whole(reader: Reader) -> bool:
    """Whether everything is indexed."""
    return _state(reader).whole


def step(edit: Edit, limit: int) -> bool:
    """Index up to `limit` rows; whether there are more."""
    state = _state(edit.writer)
    if state.whole:
        return False
    versioned = {row.number: row.versioned for row in _buckets(edit.writer)}
    last = state.after
    for done, (key, data) in enumerate(_rows(edit.writer, state.after)):
        if done == limit:
            _put(edit, IndexingRow(False, last))
            return True
        _index(edit, versioned, key, data)
        last = key
    _put(edit, IndexingRow(True))
    return False


def _index(edit: Edit, versioned: dict[int, bool], key: bytes, data: bytes) -> None:
    table = key[:1]
    if table == keys.RECODE:  # made by a version that kept no count of them; they are found again with their versions
        if not records.RECODE.decode(data, key).size:
            edit.writer.delete(key)
    elif table == keys.EXTENTS:
        row = records.EXTENT.decode(data, key)
        extent_id = keys.last_id(key)
        at = sparse.place(extent_id, row)
        if at is not None and edit.writer.get(keys.sparse(at, extent_id)) is None:
            sparse.add(edit, extent_id, row, at)
    elif table == keys.SLICE_LISTS:
        if len(key) > 1 + ID_BYTES:
            place = OfChunk(Id(key[1:17]), int.from_bytes(key[17:], "big"))
            namers.put(edit.writer, place, records.CHUNK.decode(data, key).slices)
    else:
        number = int.from_bytes(key[1:5], "big")
        if versioned.get(number) is (table == b"v"):
            version = records.VERSION.decode(data, key)
            name = keys.split_version(key)[0] if table == b"v" else key[5:]
            _version(edit, OfVersion(Id(version.version), number, table == b"v", name), version)


def _version(edit: Edit, namer: OfVersion, row: VersionRow) -> None:
    if row.marker:
        return
    namers.put(edit.writer, namer, row.slices)
    if row.slice_list is not None:
        head = slices.head(edit.writer, Id(row.slice_list))
        if not head.wanted:
            slices.put_head(edit, Id(row.slice_list), msgspec.structs.replace(head, wanted=row.profile))
    recoding.check(edit, namer, row, slices.profiles(edit.writer, row))


def _rows(reader: Reader, after: bytes) -> Iterator[tuple[bytes, bytes]]:
    reached = _ROW_TABLES.index(after[:1]) if after else 0
    for table in _ROW_TABLES[reached:]:
        start = after + b"\x00" if after[:1] == table else table
        yield from reader.scan(start, keys.after(table))


def _buckets(reader: Reader) -> Iterator[records.BucketRow]:
    for key, data in reader.scan(keys.BUCKETS, keys.after(keys.BUCKETS)):
        yield records.BUCKET.decode(data, key)


def _state(reader: Reader) -> IndexingRow:
    data = reader.get(keys.INDEXING)
    return IndexingRow(False) if data is None else records.INDEXING.decode(data, keys.INDEXING)


def _put(edit: Edit, row: IndexingRow) -> None:
    edit.writer.put(keys.INDEXING, records.INDEXING.encode(row))
