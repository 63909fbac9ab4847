"""Uploads: slices registered before the commit that names them, which pins their extents.

Invariants:
- The slices of an upload are a slice list with the upload's id and one reference; the list is there once a slice is.
- An upload has one row by id and one by bucket until a commit takes its list over, it is aborted or idle for too long.
- Its slices stay as they were registered: none is swapped (swaps.py), so that a repeated registration is known again.
- The upload's begin is remembered like an operation's outcome, so that a late repetition cannot begin it anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from reedbed.catalog import buckets, keys, outcomes, records, slices
from reedbed.catalog.buckets import Bucket
from reedbed.catalog.edit import Edit
from reedbed.catalog.engine import Reader
from reedbed.catalog.extents import Offers
from reedbed.catalog.namers import OfVersion
from reedbed.catalog.needs import check_new_id
from reedbed.catalog.operations import digest_of
from reedbed.catalog.records import OutcomeRow, SliceRow, UploadRow
from reedbed.common.errors import InvalidArgument, NotFound
from reedbed.common.ids import Id, format_id
from reedbed.protos import catalog_pb2
from reedbed.protos.names import check_key


def begin(edit: Edit, upload_id: Id, bucket_name: str, key: bytes) -> None:
    """Begin an upload of that fresh id; a repeated call is harmless.

    Raises NotFound (bucket), BelowHorizon, InvalidArgument (key, or the id was used otherwise).
    """
    check_key(key)
    check_new_id(edit.needs.leases, upload_id, "upload id")
    digest = digest_of("upload", bucket_name, key)
    if outcomes.recall(edit, upload_id, digest) is not None:
        return
    bucket = buckets.get(edit.writer, bucket_name)
    wall_us = max(int(edit.needs.clock.wall() * 1e6), edit.log.time_us)
    _put(edit, upload_id, UploadRow(bucket.number, key, wall_us, edit.needs.leases.id_time_ms()))
    edit.writer.put(keys.uploads_of(bucket.number) + upload_id, b"")
    edit.count(uploads=1)
    outcomes.remember(edit, upload_id, OutcomeRow(digest))


def register(edit: Edit, upload_id: Id, first: int, new: Sequence[SliceRow], offers: Offers) -> None:
    """Add slices to an upload that has `first` of them. What is there already, the same, is left as it is.

    Raises NotFound, InvalidArgument (a gap, other slices than before), and what extents.acquire raises.
    """
    row = get(edit.writer, upload_id)
    head = slices.find(edit.writer, upload_id)
    count = head.count if head else 0
    if first > count:
        raise InvalidArgument(f"upload {format_id(upload_id)} has {count} slices, not {first}")
    if first < count:
        there = slices.page_of_list(edit.writer, upload_id, first, len(new))
        if list(new) != there:
            raise InvalidArgument(
                f"upload {format_id(upload_id)} has other slices from number {first} on",
                hint="A repeated registration has to repeat its slices",
            )
    elif new:
        slices.append(edit, upload_id, new, offers)
    _put(edit, upload_id, msgspec.structs.replace(row, touched_ms=edit.needs.leases.id_time_ms()))


def size(reader: Reader, upload_id: Id, bucket: Bucket, key: bytes) -> int:
    """Bytes registered so far. NotFound; InvalidArgument if the upload is for another object."""
    row = get(reader, upload_id)
    if (row.bucket, row.key) != (bucket.number, key):
        raise InvalidArgument(f"upload {format_id(upload_id)} was begun for another object")
    head = slices.find(reader, upload_id)
    return head.size if head else 0


def finish(
    edit: Edit, namer: OfVersion, upload_id: Id, more: Sequence[SliceRow], offers: Offers, wanted: str
) -> slices.Held:
    """End an upload and hand its slices and `more` after them to a version that wants this profile."""
    row = get(edit.writer, upload_id)
    if more:
        slices.append(edit, upload_id, more, offers)
    held = slices.Held()
    if slices.find(edit.writer, upload_id) is not None:
        held = slices.settle(edit, namer, upload_id, wanted)
    _remove(edit, upload_id, row)
    return held


def abort(edit: Edit, upload_id: Id) -> None:
    """End an upload and let its extents go. NotFound if it is not under way."""
    row = get(edit.writer, upload_id)
    if slices.find(edit.writer, upload_id) is not None:
        slices.release_list(edit, upload_id)
    _remove(edit, upload_id, row)


def get(reader: Reader, upload_id: Id) -> UploadRow:
    key = keys.upload(upload_id)
    data = reader.get(key)
    if data is None:
        raise NotFound(
            f"there is no upload {format_id(upload_id)}", hint="It was completed, aborted, or idle for too long"
        )
    return records.UPLOAD.decode(data, key)


def page(reader: Reader, bucket: Bucket, after: bytes, limit: int) -> catalog_pb2.ListUploadsReply:
    """Up to `limit` uploads of a bucket in order of their ids, after that id."""
    reply = catalog_pb2.ListUploadsReply()
    prefix = keys.uploads_of(bucket.number)
    start = prefix + after + b"\x00" if after else prefix
    for key, _ in reader.scan(start, keys.after(prefix)):
        if len(reply.uploads) == limit:
            reply.more = True
            break
        upload_id = keys.last_id(key)
        row = get(reader, upload_id)
        head = slices.find(reader, upload_id)
        reply.uploads.add(
            id=upload_id,
            bucket=bucket.name,
            key=row.key,
            started_us=row.started_us,
            slices=head.count if head else 0,
            bytes=head.size if head else 0,
        )
    return reply


def end_idle(edit: Edit, idle_s: float, after: Id | None, limit: int) -> Id | None:
    """Look at up to `limit` uploads after that id and end those without progress for `idle_s`.

    Only time in which a catalog ran counts: neither an outage nor a leap of the wall clock ends an upload.
    Returns the id to go on after, None when all were seen.
    """
    before = edit.needs.leases.shown_before(idle_s)
    start = keys.UPLOADS if after is None else keys.upload(after) + b"\x00"
    last = after
    for seen, (key, data) in enumerate(edit.writer.scan(start, keys.after(keys.UPLOADS))):
        if seen == limit:
            return last
        last = keys.last_id(key)
        if records.UPLOAD.decode(data, key).touched_ms <= before:
            abort(edit, last)
    return None


def _put(edit: Edit, upload_id: Id, row: UploadRow) -> None:
    edit.writer.put(keys.upload(upload_id), records.UPLOAD.encode(row))


def _remove(edit: Edit, upload_id: Id, row: UploadRow) -> None:
    edit.writer.delete(keys.upload(upload_id))
    edit.writer.delete(keys.uploads_of(row.bucket) + upload_id)
    edit.count(uploads=-1)
