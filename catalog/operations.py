"""Commit operations as they come from outside: checked as far as they can be without looking at the catalog."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import msgspec

from reedbed.catalog.records import SliceRow
from reedbed.common.errors import InvalidArgument
from reedbed.common.ids import Id, check_id, format_id
from reedbed.common.limits import OBJECT_MAX, SLICES_PER_COMMIT
from reedbed.ec.profiles import parse_profile
from reedbed.protos import catalog_pb2, convert
from reedbed.protos.names import check_bucket, check_key, check_metadata

_DIGEST_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class PutWork:
    slices: tuple[SliceRow, ...]
    size: int
    checksum: int
    content_type: str
    metadata: dict[str, str]
    profile: str
    upload: Id | None


@dataclass(frozen=True, slots=True)
class DeleteWork:
    version: Id | None


@dataclass(frozen=True, slots=True)
class CopyWork:
    source_bucket: str
    source_key: bytes
    source_version: Id | None
    replace_metadata: bool
    metadata: dict[str, str]
    content_type: str


@dataclass(frozen=True, slots=True)
class Operation:
    """`digest` tells whether a repeated id comes with the same request."""

    id: Id
    bucket: str
    key: bytes
    if_none_match: bool
    if_match: str
    work: PutWork | DeleteWork | CopyWork
    digest: bytes


def operation_from_message(message: catalog_pb2.CommitOp) -> Operation:
    """The operation in a message; InvalidArgument for whatever is wrong in itself."""
    id_ = check_id(message.id, "operation id")
    check_bucket(message.bucket)
    check_key(message.key)
    condition = message.condition
    if condition.if_none_match and condition.if_match:
        raise InvalidArgument("if_none_match and if_match exclude each other")
    kind = message.WhichOneof("what")
    work: PutWork | DeleteWork | CopyWork
    if kind == "put":
        work = _put(message.put)
    elif kind == "delete":
        work = DeleteWork(optional_id(message.delete.version, "version"))
    elif kind == "copy":
        work = _copy(message.copy)
    else:
        raise InvalidArgument(f"operation {format_id(id_)} is neither put, delete nor copy")
    return Operation(
        id=id_,
        bucket=message.bucket,
        key=message.key,
        if_none_match=condition.if_none_match,
        if_match=condition.if_match,
        work=work,
        digest=_digest(message.bucket, message.key, condition.if_none_match, condition.if_match, kind, work),
    )


def slice_rows(messages: list[catalog_pb2.Slice]) -> tuple[SliceRow, ...]:
    """Slices of a message; InvalidArgument for an impossible one or too many."""
    if len(messages) > SLICES_PER_COMMIT:
        raise InvalidArgument(
            f"{len(messages)} slices in one call are more than {SLICES_PER_COMMIT}",
            hint="Register the slices of a large object with an upload, some at a time",
        )
    checked = [convert.slice_from_message(message) for message in messages]
    return tuple(SliceRow(slice_.extent, slice_.offset, slice_.length) for slice_ in checked)


def optional_id(raw: bytes, what: str) -> Id | None:
    return check_id(raw, what) if raw else None


def digest_of(*values: object) -> bytes:
    """A short digest of plain values."""
    return blake2b(msgspec.msgpack.encode(values), digest_size=_DIGEST_BYTES).digest()


def _digest(
    bucket: str, key: bytes, if_none_match: bool, if_match: str, kind: str, work: PutWork | DeleteWork | CopyWork
) -> bytes:
    fields = [getattr(work, name) for name in work.__slots__]
    plain = [sorted(value.items()) if isinstance(value, dict) else value for value in fields]
    return digest_of(bucket, key, if_none_match, if_match, kind, plain)


def _put(message: catalog_pb2.Put) -> PutWork:
    metadata = dict(message.metadata)
    check_metadata(metadata, message.content_type)
    if message.size > OBJECT_MAX:
        raise InvalidArgument(f"an object of {message.size} bytes is over the limit of {OBJECT_MAX}")
    if message.profile:
        parse_profile(message.profile)
    return PutWork(
        slices=slice_rows(list(message.slices)),
        size=message.size,
        checksum=message.checksum,
        content_type=message.content_type,
        metadata=metadata,
        profile=message.profile,
        upload=optional_id(message.upload, "upload id"),
    )


def _copy(message: catalog_pb2.Copy) -> CopyWork:
    check_bucket(message.source_bucket)
    check_key(message.source_key)
    metadata = dict(message.metadata)
    check_metadata(metadata, message.content_type)
    return CopyWork(
        source_bucket=message.source_bucket,
        source_key=message.source_key,
        source_version=optional_id(message.source_version, "source version"),
        replace_metadata=message.replace_metadata,
        metadata=metadata,
        content_type=message.content_type,
    )
