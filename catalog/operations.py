"""Commit operations as they come from outside: checked as far as they can be without looking at the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import msgspec
from msgspec import Struct

from reedbed.catalog.records import SliceRow
from reedbed.common.errors import InvalidArgument
from reedbed.common.ids import ID_BYTES, Id, check_id, format_id
from reedbed.common.limits import K_MAX, OBJECT_MAX, SHARD_MAX, SLICES_PER_COMMIT
from reedbed.ec.profiles import parse_profile
from reedbed.protos import catalog_pb2, convert
from reedbed.protos.names import check_bucket, check_key, check_metadata

_DIGEST_BYTES: Final = 12
_EXTENT_MAX: Final = K_MAX * SHARD_MAX
_ENCODER: Final = msgspec.msgpack.Encoder()


class PutWork(Struct, frozen=True):
    slices: tuple[SliceRow, ...]
    size: int
    checksum: int
    content_type: str
    metadata: dict[str, str]
    profile: str
    upload: Id | None


class DeleteWork(Struct, frozen=True):
    version: Id | None


class CopyWork(Struct, frozen=True):
    source_bucket: str
    source_key: bytes
    source_version: Id | None
    replace_metadata: bool
    metadata: dict[str, str]
    content_type: str


class Operation(Struct, frozen=True):
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
    bucket = _checked_bucket(message.bucket)
    key = check_key(message.key)
    none, match = False, ""
    if message.HasField("condition"):
        none, match = message.condition.if_none_match, message.condition.if_match
    if none and match:
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
    return Operation(id_, bucket, key, none, match, work, _digest(bucket, key, none, match, kind, work))


# remembers the names that are right, so that not every operation is compared with the rules
_checked_bucket = lru_cache(1024)(check_bucket)


def slice_row(message: catalog_pb2.Slice) -> SliceRow:
    """The slice of a message; InvalidArgument for an impossible one."""
    extent, offset, length = message.extent, message.offset, message.length
    if not 0 < length <= _EXTENT_MAX - offset or len(extent) != ID_BYTES:
        convert.slice_from_message(message)  # says what is wrong
    return SliceRow(extent, offset, length)


def slice_rows(messages: Sequence[catalog_pb2.Slice]) -> tuple[SliceRow, ...]:
    """Slices of a message; InvalidArgument for an impossible one or too many."""
    if len(messages) > SLICES_PER_COMMIT:
        raise InvalidArgument(
            f"{len(messages)} slices in one call are more than {SLICES_PER_COMMIT}",
            hint="Register the slices of a large object with an upload, some at a time",
        )
    return tuple([slice_row(message) for message in messages])


def optional_id(raw: bytes, what: str) -> Id | None:
    return check_id(raw, what) if raw else None


def digest_of(*values: object) -> bytes:
    """A short digest of plain values."""
    return blake2b(_ENCODER.encode(values), digest_size=_DIGEST_BYTES).digest()


def _digest(
    bucket: str, key: bytes, if_none_match: bool, if_match: str, kind: str, work: PutWork | DeleteWork | CopyWork
) -> bytes:
    fields = msgspec.structs.astuple(work)
    plain = [sorted(value.items()) if isinstance(value, dict) else value for value in fields]
    return digest_of(bucket, key, if_none_match, if_match, kind, plain)


def _put(message: catalog_pb2.Put) -> PutWork:
    metadata, content_type = dict(message.metadata), message.content_type
    if metadata or content_type:
        check_metadata(metadata, content_type)
    size, profile = message.size, message.profile
    if size > OBJECT_MAX:
        raise InvalidArgument(f"an object of {size} bytes is over the limit of {OBJECT_MAX}")
    if profile:
        parse_profile(profile)
    return PutWork(
        slice_rows(message.slices),
        size,
        message.checksum,
        content_type,
        metadata,
        profile,
        optional_id(message.upload, "upload id"),
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
