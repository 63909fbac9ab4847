"""The versions of one object: which is there, which is the latest, and what changes when one comes or goes.

Invariants:
- Unversioned buckets: one object row holds the only version.
- Versioned buckets: each version and delete marker has a version row and a row in the index of version ids; the object
  row names the newest of them and is absent exactly while that is a marker or there is none.
"""

from __future__ import annotations

from collections.abc import Iterator

from reedbed.catalog import keys, records, slices
from reedbed.catalog.buckets import Bucket
from reedbed.catalog.edit import Edit
from reedbed.catalog.engine import Reader
from reedbed.catalog.namers import OfVersion
from reedbed.catalog.records import LatestRow, VersionRow
from reedbed.common.errors import Corrupt, NotFound
from reedbed.common.ids import Id, format_id
from reedbed.protos import catalog_pb2
from reedbed.protos.names import shown


def current(reader: Reader, bucket: Bucket, key: bytes) -> VersionRow | None:
    """The visible version of an object."""
    row_key = keys.objects(bucket.number) + key
    data = reader.get(row_key)
    return None if data is None else from_object_row(reader, bucket, row_key, data)


def from_object_row(reader: Reader, bucket: Bucket, row_key: bytes, data: bytes) -> VersionRow:
    """The visible version that an object row holds or names."""
    if bucket.versioned:
        row_key, data = stored_latest(reader, bucket, row_key, data)
    return records.VERSION.decode(data, row_key)


def stored_latest(reader: Reader, bucket: Bucket, row_key: bytes, data: bytes) -> tuple[bytes, bytes]:
    """Key and record of the version that an object row of a versioned bucket names."""
    seq = records.LATEST.decode(data, row_key).seq
    version_key = keys.version(bucket.number, row_key[5:], seq)
    stored = reader.get(version_key)
    if stored is None:
        raise Corrupt("an object names a version that is missing", where=f"bucket {bucket.name}", hint="Restore it")
    return version_key, stored


def by_id(reader: Reader, bucket: Bucket, key: bytes, version: Id) -> VersionRow | None:
    """One version of an object, perhaps a delete marker."""
    found = locate(reader, OfVersion(version, bucket.number, bucket.versioned, key))
    return None if found is None else found[1]


def locate(reader: Reader, namer: OfVersion) -> tuple[bytes, VersionRow] | None:
    """The row of a version, and its key; None if the version is gone."""
    if namer.versioned:
        index_key = keys.version_index(namer.bucket, namer.version)
        data = reader.get(index_key)
        if data is None:
            return None
        row_key = keys.version(namer.bucket, namer.key, records.LATEST.decode(data, index_key).seq)
    else:
        row_key = keys.objects(namer.bucket) + namer.key
    stored = reader.get(row_key)
    if stored is None:
        return None
    row = records.VERSION.decode(stored, row_key)
    return (row_key, row) if row.version == namer.version else None


def newest(reader: Reader, bucket: Bucket, key: bytes) -> VersionRow | None:
    """The newest version of a versioned bucket's object, perhaps a delete marker."""
    return next(_of_key(reader, bucket, key), None)


def require(reader: Reader, bucket: Bucket, key: bytes, version: Id | None) -> VersionRow:
    """That version, or the visible one; NotFound says whether object or version is missing."""
    row = current(reader, bucket, key) if version is None else by_id(reader, bucket, key, version)
    where = f"reedbed://{bucket.name}/{shown(key)}"
    if row is None and version is None:
        raise NotFound(f"there is no object {shown(key)!r} in bucket {bucket.name!r}", where=where)
    if row is None:
        raise NotFound(
            f"object {shown(key)!r} in bucket {bucket.name!r} has no version {format_id(version or b'')}", where=where
        )
    if row.marker:
        raise NotFound(f"version {format_id(row.version)} of object {shown(key)!r} is a delete marker", where=where)
    return row


def install(edit: Edit, bucket: Bucket, key: bytes, row: VersionRow, before: VersionRow | None) -> None:
    """Make `row`, whose slices are held already, the newest version. `before` is the visible one, if there is one.

    Unversioned: the one before is released.
    """
    rows = edit.rows
    object_key = keys.objects(bucket.number) + key
    if not bucket.versioned:
        rows.put(object_key, records.VERSION.encode(row))
        if before is not None:
            _let_go(edit, before)
    else:
        latest = records.LATEST.encode(LatestRow(row.seq))
        rows.put(keys.version(bucket.number, key, row.seq), records.VERSION.encode(row))
        rows.put(keys.version_index(bucket.number, Id(row.version)), latest)
        if row.marker:
            rows.delete(object_key)
        else:
            rows.put(object_key, latest)
    if row.marker:
        edit.count(objects=-(before is not None))
    else:
        edit.count(objects=before is None, versions=1, bytes=row.size)


def remove(edit: Edit, bucket: Bucket, key: bytes, row: VersionRow, before: VersionRow | None) -> None:
    """Remove a version that is there, and expose the one before if it was the newest. `before` as of `install`."""
    rows = edit.rows
    object_key = keys.objects(bucket.number) + key
    after = False
    if bucket.versioned:
        rows.delete(keys.version(bucket.number, key, row.seq))
        rows.delete(keys.version_index(bucket.number, Id(row.version)))
        exposed = newest(rows, bucket, key)
        if exposed is None or exposed.marker:
            rows.delete(object_key)
        else:
            after = True
            rows.put(object_key, records.LATEST.encode(LatestRow(exposed.seq)))
    else:
        rows.delete(object_key)
    edit.count(objects=after - (before is not None))
    if not row.marker:
        _let_go(edit, row)


def tell(message: catalog_pb2.ObjectInfo, bucket: Bucket, key: bytes, row: VersionRow, latest: bool = True) -> None:
    """Fill in what a version's row tells."""
    message.bucket, message.key, message.version = bucket.name, key, row.version
    message.size, message.checksum, message.content_type = row.size, row.checksum, row.content_type
    if row.metadata:
        message.metadata.update(row.metadata)
    message.modified_us, message.profile = row.modified_us, row.profile
    message.latest, message.delete_marker = latest, row.marker


def _of_key(reader: Reader, bucket: Bucket, key: bytes) -> Iterator[VersionRow]:
    prefix = keys.versions_of(bucket.number, key)
    for row_key, data in reader.scan(prefix, keys.after(prefix)):
        yield records.VERSION.decode(data, row_key)


def _let_go(edit: Edit, row: VersionRow) -> None:
    slices.release(edit, row)
    edit.count(versions=-1, bytes=-row.size)
