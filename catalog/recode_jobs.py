"""Orders to recode a bucket, or a part of it: they are walked through in the background, and queue what has to change.

Invariants:
- Orders are carried out one after the other, in the order in which they were given: where two concern the same object,
  the last one wins. A new one ends those before it that concern nothing else.
- An order concerns what was committed when it was given. What is committed later has the profile that the bucket, or
  the put, says; a copy within the bucket that of its source, as orders that have not reached it yet will have it.
- What an order has done is durable with how far it is, in one transaction for each step. A bucket that is removed
  leaves nothing to look at, and its number comes never again: so it ends its orders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from reedbed.catalog import buckets, extents, keys, recoding, records, slices
from reedbed.catalog.buckets import Bucket
from reedbed.catalog.edit import Edit
from reedbed.catalog.engine import Reader
from reedbed.catalog.namers import OfVersion
from reedbed.catalog.records import RecodeJobRow, VersionRow
from reedbed.common.errors import InvalidArgument, NotFound, ResourceExhausted
from reedbed.common.ids import Id
from reedbed.common.limits import SLICES_CHUNK
from reedbed.ec.profiles import Profile, parse_profile
from reedbed.protos.names import shown

JOBS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Scope:
    """What of a bucket is meant: keys with this prefix, or just this key if `exact`."""

    prefix: bytes = b""
    exact: bool = False

    def has(self, key: bytes) -> bool:
        return key == self.prefix if self.exact else key.startswith(self.prefix)

    def covers(self, other: Scope) -> bool:
        """Whether all that is meant by `other` is meant by this one."""
        return self == other if self.exact else other.prefix.startswith(self.prefix)


def order(edit: Edit, name: str, scope: Scope, profile: str) -> None:
    """Give an order. NotFound (no such bucket, or nothing under the exact key), ResourceExhausted."""
    bucket = buckets.get(edit.writer, name)
    if scope.exact and next(_rows(edit.writer, bucket.number, bucket.versioned, scope), None) is None:
        raise NotFound(f"there is no object {shown(scope.prefix)!r} in bucket {name!r}", where=f"reedbed://{name}")
    if scope == Scope():
        buckets.set_profile(edit, name, profile)
    number, open_ = 0, 0
    for number, job in jobs(edit.writer):
        open_ += 1
        if job.bucket == bucket.number and scope.covers(_scope(job)):
            edit.writer.delete(keys.recode_job(number))
            open_ -= 1
    if open_ >= JOBS_MAX:
        raise ResourceExhausted(
            f"{open_} orders to recode are open already",
            hint="Wait until some are carried out, or recode whole buckets",
        )
    job = RecodeJobRow(
        bucket=bucket.number,
        name=name,
        versioned=bucket.versioned,
        prefix=scope.prefix,
        exact=scope.exact,
        profile=profile,
        upto=edit.log.seq,
    )
    edit.writer.put(keys.recode_job(number + 1), records.RECODE_JOB.encode(job))


def jobs(reader: Reader) -> Iterator[tuple[int, RecodeJobRow]]:
    """The open orders with their numbers, the oldest first."""
    for key, data in reader.scan(keys.RECODE_JOBS, keys.after(keys.RECODE_JOBS)):
        yield int.from_bytes(key[1:], "big"), records.RECODE_JOB.decode(data, key)


def wanted(reader: Reader, bucket: Bucket, key: bytes, row: VersionRow) -> str:
    """The profile that a version is to have once all orders are carried out."""
    profile = row.profile
    for _, job in jobs(reader):
        if job.bucket == bucket.number and row.seq <= job.upto and _scope(job).has(key):
            profile = job.profile
    return profile


def walk(edit: Edit, limit: int) -> bool:
    """Carry out some of the oldest order, up to `limit` versions of it; whether any order is left."""
    number, job = next(jobs(edit.writer), (0, None))
    if job is None:
        return False
    for done, (row_key, key, row) in enumerate(_rows(edit.writer, job.bucket, job.versioned, _scope(job), job.after)):
        if done == limit:
            edit.writer.put(keys.recode_job(number), records.RECODE_JOB.encode(job))
            return True
        queued = not row.marker and row.seq <= job.upto and _want(edit, job, row_key, key, row)
        job = msgspec.structs.replace(job, after=row_key, seen=job.seen + 1, queued=job.queued + queued)
    edit.writer.delete(keys.recode_job(number))
    return True


def _want(edit: Edit, job: RecodeJobRow, row_key: bytes, key: bytes, row: VersionRow) -> bool:
    """The version is to have the order's profile; whether that takes recoding."""
    if row.profile != job.profile:
        row = msgspec.structs.replace(row, profile=job.profile)
        edit.writer.put(row_key, records.VERSION.encode(row))
    namer = OfVersion(Id(row.version), job.bucket, job.versioned, key)
    if recoding.check(edit, namer, row, slices.profiles(edit.writer, row)):
        return True
    recoding.remove(edit, namer.version)
    return False


@dataclass(slots=True)
class Plan:
    """What recoding would take, of some of the versions; `after` is where to go on, empty at the end.

    `size` is that of the bytes with another profile, `stored` what they take on devices now and `then` afterwards, both
    as if extents were full.
    """

    versions: int = 0
    concerned: int = 0
    size: int = 0
    stored: int = 0
    then: int = 0
    after: bytes = b""


def plan(reader: Reader, name: str, scope: Scope, profile: str, after: bytes, limit: int) -> Plan:
    """What an order would take, of up to `limit` slices or versions behind the row `after`.

    NotFound (the bucket), InvalidArgument (`after` is no row that is meant).
    """
    bucket = buckets.get(reader, name)
    start, end = _range(bucket.number, bucket.versioned, scope)
    if after and not (start <= after and (end is None or after < end)):
        raise InvalidArgument("not a place to go on from", hint="Give `after` as the last plan told it")
    found, target = Plan(), parse_profile(profile)
    left = limit
    for row_key, _, row in _rows(reader, bucket.number, bucket.versioned, scope, after):
        if left <= 0:
            return found
        left -= 1
        found.versions += 1
        size = 0
        for length, code in _coded(reader, row):
            left -= 1
            if code != target:
                size += length
                found.stored += length * code.n // code.k
        found.size += size
        found.then += size * target.n // target.k
        found.concerned += size > 0
        found.after = row_key
    found.after = b""
    return found


def _coded(reader: Reader, row: VersionRow) -> Iterator[tuple[int, Profile]]:
    """Length and profile of each slice; of a list with one profile, of all of it."""
    if row.slice_list is not None:
        head = slices.head(reader, Id(row.slice_list))
        if len(head.profiles) == 1:
            yield head.size, parse_profile(head.profiles[0])
            return
    first, more = 0, not row.marker
    while more:
        part, more = slices.page(reader, row, first, SLICES_CHUNK)
        first += len(part)
        for slice_ in part:
            extent = extents.get(reader, Id(slice_.extent))
            if extent is not None:
                yield slice_.length, Profile(extent.k, extent.m)


def _scope(job: RecodeJobRow) -> Scope:
    return Scope(job.prefix, job.exact)


def _range(number: int, versioned: bool, scope: Scope) -> tuple[bytes, bytes | None]:
    """The keys of the rows that are meant."""
    if versioned:
        start = keys.versions_of(number, scope.prefix) if scope.exact else keys.versions_under(number, scope.prefix)
        return start, keys.after(start)
    start = keys.objects(number) + scope.prefix
    return start, start + b"\x00" if scope.exact else keys.after(start)


def _rows(
    reader: Reader, number: int, versioned: bool, scope: Scope, after: bytes = b""
) -> Iterator[tuple[bytes, bytes, VersionRow]]:
    """(key of the row, object's key, row) of all versions that are meant, in order, from behind the row `after` on."""
    start, end = _range(number, versioned, scope)
    for row_key, data in reader.scan(after + b"\x00" if after else start, end):
        key = keys.split_version(row_key)[0] if versioned else row_key[len(keys.objects(number)) :]
        yield row_key, key, records.VERSION.decode(data, row_key)
