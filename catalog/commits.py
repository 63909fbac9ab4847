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
            _tell(outcome, operation, apply_one(edit, operation, offers))
        except ReedbedError as error:
            outcome.error.CopyFrom(convert.error_to_message(error))
        room -= outcome.ByteSize()
    return reply


def apply_one(edit: Edit, operation: Operation, offers: Offers) -> OutcomeRow:
    """Apply one operation, or repeat its outcome.

    Raises InvalidArgument, PreconditionFailed, NotFound, BelowHorizon, StaleGeneration, Unavailable.
    """
    check_new_id(edit.needs.leases, operation.id, "operation id")
    known = outcomes.recall(edit, operation.id, operation.digest)
    if known is None:
        mark = edit.mark()
        try:
            known = _decide(edit, operation, offers)
            outcomes.remember(edit, operation.id, known)
        except BaseException as error:
            edit.undo_to(mark)
            if isinstance(error, ReedbedError):
                outcomes.remember_refusal(edit, operation.id, operation.digest, error)
            raise
    refusal = outcomes.refusal(known)
    if refusal is not None:
        raise refusal
    return known


def _decide(edit: Edit, operation: Operation, offers: Offers) -> OutcomeRow:
    bucket = buckets.of(edit, operation.bucket)
    current = versions.current(edit.rows, bucket, operation.key)
    _check_condition(operation, current)
    work = operation.work
    if isinstance(work, PutWork):
        return _put(edit, bucket, operation, work, current, offers)
    if isinstance(work, CopyWork):
        return _copy(edit, bucket, operation, work, current)
    return _delete(edit, bucket, operation, work, current)


def _check_condition(operation: Operation, current: VersionRow | None) -> None:
    if operation.if_none_match and current is not None:
        where = f"reedbed://{operation.bucket}/{shown(operation.key)}"
        raise PreconditionFailed("if_none_match: the object exists", where=where)
    if not operation.if_match:
        return
    where = f"reedbed://{operation.bucket}/{shown(operation.key)}"
    if current is None:
        raise PreconditionFailed(f"if_match {operation.if_match[:64]}: there is no object", where=where)
    etag = etag_of(format_id(current.version))
    if etag != operation.if_match:
        raise PreconditionFailed(f"if_match {operation.if_match[:64]}: the object's etag is {etag}", where=where)


def _put(
    edit: Edit, bucket: Bucket, operation: Operation, work: PutWork, current: VersionRow | None, offers: Offers
) -> OutcomeRow:
    profile = edit.needs.profiles.resolve(work.profile) if work.profile else bucket.profile
    size = work.slices[0].length if len(work.slices) == 1 else sum([slice_.length for slice_ in work.slices])
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
    log_now = edit.log
    row = VersionRow(
        operation.id,
        log_now.seq,
        entry.time_us,
        work.size,
        work.checksum,
        profile,
        work.content_type,
        work.metadata,
        held.slices,
        held.slice_list,
    )
    versions.install(edit, bucket, operation.key, row, current)
    recoding.check(edit, namer, row, held.profiles)
    return OutcomeRow(operation.digest, log_now.term, log_now.seq, modified_us=entry.time_us, profile=profile)


def _copy(edit: Edit, bucket: Bucket, operation: Operation, work: CopyWork, current: VersionRow | None) -> OutcomeRow:
    source_bucket = buckets.of(edit, work.source_bucket)
    source = versions.require(edit.rows, source_bucket, work.source_key, work.source_version)
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
    versions.install(edit, bucket, operation.key, row, current)
    recoding.check(edit, namer, row, held.profiles)
    return _made(edit, operation, row)


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
        versions.install(edit, bucket, operation.key, marker, current)
        made = _made(edit, operation, marker)
        return msgspec.structs.replace(made, removed=current is not None)
    if work.version is None:
        row = current
    else:
        row = versions.by_id(edit.rows, bucket, operation.key, work.version)
    if row is None:
        return OutcomeRow(operation.digest)
    versions.remove(edit, bucket, operation.key, row, current)
    kind = log.DELETE_VERSION if bucket.versioned else log.DELETE
    edit.append(kind, operation.id, bucket.name, operation.key, row.version, row.size)
    return OutcomeRow(operation.digest, edit.log.term, edit.log.seq, removed=True)


def _namer(bucket: Bucket, operation: Operation) -> OfVersion:
    return OfVersion(operation.id, bucket.number, bucket.versioned, operation.key)


def _made(edit: Edit, operation: Operation, row: VersionRow) -> OutcomeRow:
    bare = msgspec.structs.replace(row, slices=(), slice_list=None)
    return OutcomeRow(operation.digest, edit.log.term, edit.log.seq, info=bare)


def _tell(outcome: catalog_pb2.Outcome, operation: Operation, known: OutcomeRow) -> None:
    """Fill in the answer to an operation."""
    outcome.log_term, outcome.log_seq = known.term, known.seq
    if known.removed:
        outcome.removed = True
    work, row, told = operation.work, known.info, outcome.info
    if isinstance(work, PutWork):
        told.version = operation.id
        told.size, told.checksum, told.content_type = work.size, work.checksum, work.content_type
        if work.metadata:
            told.metadata.update(work.metadata)
        told.modified_us, told.profile = (row or known).modified_us, (row or known).profile
    elif row is not None:
        told.version = row.version
        told.size, told.checksum, told.content_type = row.size, row.checksum, row.content_type
        told.metadata.update(row.metadata)
        told.modified_us, told.profile, told.delete_marker = row.modified_us, row.profile, row.marker
    else:
        return
    told.bucket, told.key, told.latest = operation.bucket, operation.key, True
