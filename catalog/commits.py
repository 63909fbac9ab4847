"""Commits: each operation is decided and applied in the write transaction, and succeeds or fails alone.

Invariants:
- An operation leaves its version, its log entry, its references and its outcome in the same transaction, or nothing but
  the outcome of a refusal.
- References of what comes are taken before those of what goes are given up, so that nothing shared is dropped between.

Choices where S3 leaves room: `if_match` on a missing object fails (PreconditionFailed); a delete without version in a
versioned bucket always writes a marker; a copy of the visible version onto itself needs `replace_metadata`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from reedbed.catalog import buckets, log, outcomes, recode_jobs, recoding, slices, uploads, versions
from reedbed.catalog.buckets import Bucket
from reedbed.catalog.edit import Edit
from reedbed.catalog.extents import Offers
from reedbed.catalog.namers import OfVersion
from reedbed.catalog.needs import check_new_id
from reedbed.catalog.operations import CopyWork, DeleteWork, Operation, PutWork, operation_from_message
from reedbed.catalog.records import OutcomeRow, VersionRow
from reedbed.common.errors import InvalidArgument, PreconditionFailed, ReedbedError, ResourceExhausted
from reedbed.common.ids import format_id
from reedbed.protos import catalog_pb2, convert
from reedbed.protos.names import shown
from reedbed.protos.types import etag_of

_REPLY_BYTES: Final = 3 << 20  # an answer has to fit a call's header


def apply(edit: Edit, request: catalog_pb2.CommitRequest) -> catalog_pb2.CommitReply:
    """Apply all operations in order. Raises InvalidArgument only if the extents of the request are malformed."""
    offers = Offers(edit.needs.judge, [convert.extent_from_message(message) for message in request.extents])
    reply = catalog_pb2.CommitReply()
    room = _REPLY_BYTES
    for message in request.ops:
        outcome = reply.outcomes.add()
        try:
            if room < 0:
                raise ResourceExhausted("the answers to this call are too long", hint="Commit fewer operations at once")
            operation = operation_from_message(message)
            outcome.CopyFrom(apply_one(edit, operation, offers))
        except ReedbedError as error:
            outcome.error.CopyFrom(convert.error_to_message(error))
        room -= outcome.ByteSize()
    return reply


def apply_one(edit: Edit, operation: Operation, offers: Offers) -> catalog_pb2.Outcome:
    """Apply one operation, or repeat its outcome.

    Raises InvalidArgument, PreconditionFailed, NotFound, BelowHorizon, StaleGeneration, Unavailable.
    """
    check_new_id(edit.needs.leases, operation.id, "operation id")
    known = outcomes.recall(edit, operation.id, operation.digest)
    if known is None:
        try:
            with edit.savepoint():
                known = _decide(edit, operation, offers)
                outcomes.remember(edit, operation.id, known)
        except ReedbedError as error:
            outcomes.remember_refusal(edit, operation.id, operation.digest, error)
            raise
    refusal = outcomes.refusal(known)
    if refusal is not None:
        raise refusal
    return _answer(operation, known)


def _decide(edit: Edit, operation: Operation, offers: Offers) -> OutcomeRow:
    bucket = buckets.get(edit.writer, operation.bucket)
    current = versions.current(edit.writer, bucket, operation.key)
    _check_condition(operation, current)
    work = operation.work
    if isinstance(work, PutWork):
        return _put(edit, bucket, operation, work, offers)
    if isinstance(work, CopyWork):
        return _copy(edit, bucket, operation, work, current)
    return _delete(edit, bucket, operation, work, current)


def _check_condition(operation: Operation, current: VersionRow | None) -> None:
    where = f"reedbed://{operation.bucket}/{shown(operation.key)}"
    if operation.if_none_match and current is not None:
        raise PreconditionFailed("if_none_match: the object exists", where=where)
    if not operation.if_match:
        return
    if current is None:
        raise PreconditionFailed(f"if_match {operation.if_match[:64]}: there is no object", where=where)
    etag = etag_of(format_id(current.version))
    if etag != operation.if_match:
        raise PreconditionFailed(f"if_match {operation.if_match[:64]}: the object's etag is {etag}", where=where)


def _put(edit: Edit, bucket: Bucket, operation: Operation, work: PutWork, offers: Offers) -> OutcomeRow:
    profile = edit.needs.profiles.resolve(work.profile) if work.profile else bucket.profile
    size = sum(slice_.length for slice_ in work.slices)
    if work.upload is not None:
        size += uploads.size(edit.writer, work.upload, bucket, operation.key)
    if size != work.size:
        raise InvalidArgument(f"slices of {size} bytes in all for an object of {work.size} bytes")
    namer = _namer(bucket, operation)
    if work.upload is None:
        held = slices.hold(edit, namer, work.slices, offers, profile)
    else:
        held = uploads.finish(edit, namer, work.upload, work.slices, offers, profile)
    entry = edit.append(log.PUT, operation.id, bucket.name, operation.key, operation.id, work.size)
    row = VersionRow(
        version=operation.id,
        seq=edit.log.seq,
        modified_us=entry.time_us,
        size=work.size,
        checksum=work.checksum,
        profile=profile,
        content_type=work.content_type,
        metadata=work.metadata,
        slices=held.slices,
        slice_list=held.slice_list,
    )
    versions.install(edit, bucket, operation.key, row)
    recoding.check(edit, namer, row, held.profiles)
    return _made(edit, operation, row, keep_metadata=False)


def _copy(edit: Edit, bucket: Bucket, operation: Operation, work: CopyWork, current: VersionRow | None) -> OutcomeRow:
    source_bucket = buckets.get(edit.writer, work.source_bucket)
    source = versions.require(edit.writer, source_bucket, work.source_key, work.source_version)
    same = source_bucket.number == bucket.number
    itself = same and work.source_key == operation.key
    if itself and current is not None and source.version == current.version and not work.replace_metadata:
        raise InvalidArgument(
            "a copy of an object onto itself changes nothing", hint="Replace its metadata, or copy another version"
        )
    namer = _namer(bucket, operation)
    held = slices.share(edit, namer, source)
    entry = edit.append(log.COPY, operation.id, bucket.name, operation.key, operation.id, source.size)
    row = VersionRow(
        version=operation.id,
        seq=edit.log.seq,
        modified_us=entry.time_us,
        size=source.size,
        checksum=source.checksum,
        profile=recode_jobs.wanted(edit.writer, bucket, work.source_key, source) if same else bucket.profile,
        content_type=work.content_type if work.replace_metadata else source.content_type,
        metadata=work.metadata if work.replace_metadata else source.metadata,
        slices=held.slices,
        slice_list=held.slice_list,
    )
    versions.install(edit, bucket, operation.key, row)
    recoding.check(edit, namer, row, held.profiles)
    return _made(edit, operation, row, keep_metadata=True)


def _delete(
    edit: Edit, bucket: Bucket, operation: Operation, work: DeleteWork, current: VersionRow | None
) -> OutcomeRow:
    if bucket.versioned and work.version is None:
        entry = edit.append(log.MARKER, operation.id, bucket.name, operation.key, operation.id)
        marker = VersionRow(
            version=operation.id,
            seq=edit.log.seq,
            modified_us=entry.time_us,
            size=0,
            checksum=0,
            profile=bucket.profile,
            marker=True,
        )
        versions.install(edit, bucket, operation.key, marker)
        made = _made(edit, operation, marker, keep_metadata=True)
        return msgspec.structs.replace(made, removed=current is not None)
    if work.version is None:
        row = current
    else:
        row = versions.by_id(edit.writer, bucket, operation.key, work.version)
    if row is None:
        return OutcomeRow(operation.digest)
    versions.remove(edit, bucket, operation.key, row)
    kind = log.DELETE_VERSION if bucket.versioned else log.DELETE
    edit.append(kind, operation.id, bucket.name, operation.key, row.version, row.size)
    return OutcomeRow(operation.digest, edit.log.term, edit.log.seq, removed=True)


def _namer(bucket: Bucket, operation: Operation) -> OfVersion:
    return OfVersion(operation.id, bucket.number, bucket.versioned, operation.key)


def _made(edit: Edit, operation: Operation, row: VersionRow, *, keep_metadata: bool) -> OutcomeRow:
    info = outcomes.bare(row, keep_metadata=keep_metadata)
    return OutcomeRow(operation.digest, edit.log.term, edit.log.seq, info=info)


def _answer(operation: Operation, known: OutcomeRow) -> catalog_pb2.Outcome:
    answer = catalog_pb2.Outcome(removed=known.removed, log_term=known.term, log_seq=known.seq)
    row = known.info
    if row is not None:
        if isinstance(operation.work, PutWork):
            work = operation.work
            row = msgspec.structs.replace(row, content_type=work.content_type, metadata=work.metadata)
        message = catalog_pb2.ObjectInfo(
            bucket=operation.bucket,
            key=operation.key,
            version=row.version,
            size=row.size,
            checksum=row.checksum,
            content_type=row.content_type,
            metadata=row.metadata,
            modified_us=row.modified_us,
            profile=row.profile,
            latest=True,
            delete_marker=row.marker,
        )
        answer.info.CopyFrom(message)
    return answer
