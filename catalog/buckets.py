"""Buckets: numbered when made, and a number is never given twice, so that no row of a deleted bucket can come back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import msgspec

from reedbed.catalog import keys, log, records
from reedbed.catalog.edit import Edit
from reedbed.catalog.engine import Reader
from reedbed.catalog.records import BucketRow, NumberRow
from reedbed.common.errors import AlreadyExists, InvalidArgument, NotEmpty, NotFound
from reedbed.common.ids import NO_ID
from reedbed.protos import catalog_pb2
from reedbed.protos.names import check_bucket, shown


@dataclass(frozen=True, slots=True)
class Bucket:
    name: str
    number: int
    versioned: bool
    profile: str
    created_us: int

    def to_message(self) -> catalog_pb2.Bucket:
        return catalog_pb2.Bucket(
            name=self.name, versioned=self.versioned, profile=self.profile, created_us=self.created_us
        )


def create(edit: Edit, name: str, versioned: bool, profile: str) -> Bucket:
    """Make a bucket. Raises InvalidArgument (name, profile) and AlreadyExists."""
    check_bucket(name)
    resolved = edit.needs.profiles.resolve(profile)
    key = keys.bucket(name)
    if edit.writer.get(key) is not None:
        raise AlreadyExists(f"bucket {name!r} exists already", where=f"reedbed://{name}")
    data = edit.writer.get(keys.NEXT_BUCKET)
    number = 1 if data is None else records.NUMBER.decode(data, keys.NEXT_BUCKET).value
    if number >= 1 << 32:
        raise InvalidArgument("this catalog has made 2^32 buckets, which is all that it can number")
    edit.writer.put(keys.NEXT_BUCKET, records.NUMBER.encode(NumberRow(number + 1)))
    entry = edit.append(log.CREATE_BUCKET, NO_ID, name)
    row = BucketRow(number, versioned, resolved, entry.time_us)
    edit.buckets.clear()
    edit.writer.put(key, records.BUCKET.encode(row))
    edit.count(buckets=1)
    return _bucket(name, row)


def delete(edit: Edit, name: str) -> None:
    """Remove an empty bucket. Raises NotFound, and NotEmpty while an object, a version or an upload is left."""
    bucket = get(edit.writer, name)
    for prefix, what, hint in (
        (keys.objects(bucket.number), "objects", "Remove them first"),
        (keys.versions(bucket.number), "versions or delete markers", "Remove them by version first"),
        (keys.uploads_of(bucket.number), "uploads under way", "Wait for them or abort them"),
    ):
        if next(iter(edit.writer.scan(prefix, keys.after(prefix))), None) is not None:
            raise NotEmpty(f"bucket {name!r} still has {what}", where=f"reedbed://{name}", hint=hint)
    edit.buckets.clear()
    edit.writer.delete(keys.bucket(name))
    edit.append(log.DELETE_BUCKET, NO_ID, name)
    edit.count(buckets=-1)


def get(reader: Reader, name: str) -> Bucket:
    """The bucket of that name; NotFound, and InvalidArgument for what cannot be a bucket's name."""
    key = keys.bucket(name)
    data = reader.get(key) if len(name) < 256 else None
    if data is None:
        check_bucket(name)
        raise NotFound(
            f"there is no bucket {shown(name)!r}", where=f"reedbed://{shown(name)}", hint="Make it with `reedbed mb`"
        )
    return _decoded(name, data)


def of(edit: Edit, name: str) -> Bucket:
    """As `get`, and looked up once for all operations of an Edit."""
    bucket = edit.buckets.get(name)
    if bucket is None:
        bucket = edit.buckets[name] = get(edit.rows, name)
    return bucket


@lru_cache(1024)
def _decoded(name: str, data: bytes) -> Bucket:
    """By what the row says, so that it need not be found out again by every operation."""
    return _bucket(name, records.BUCKET.decode(data, keys.bucket(name)))


def set_profile(edit: Edit, name: str, profile: str) -> None:
    """The profile of what comes into the bucket from now on, unless a put says otherwise. NotFound."""
    get(edit.writer, name)
    key = keys.bucket(name)
    row = records.BUCKET.decode(edit.writer.get(key) or b"", key)
    edit.buckets.clear()
    edit.writer.put(key, records.BUCKET.encode(msgspec.structs.replace(row, profile=profile)))


def page(reader: Reader, start_after: str, limit: int) -> tuple[list[Bucket], bool]:
    """Up to `limit` buckets by name, after that name, and whether there are more."""
    if len(start_after) > 256:
        raise InvalidArgument(f"start_after of {len(start_after)} characters is no bucket's name")
    found: list[Bucket] = []
    for key, data in reader.scan(keys.bucket(start_after) + b"\x00", keys.after(keys.BUCKETS)):
        if len(found) == limit:
            return found, True
        found.append(_bucket(key[1:].decode("utf-8"), records.BUCKET.decode(data, key)))
    return found, False


def _bucket(name: str, row: BucketRow) -> Bucket:
    return Bucket(name, row.number, row.versioned, row.profile, row.created_us)
