"""What a put was asked for, checked, and the operation that commits it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from reedbed.client import arguments
from reedbed.client.targets import Target
from reedbed.common.ids import Id
from reedbed.ec.profiles import Profile
from reedbed.protos import catalog_pb2
from reedbed.protos.types import Slice

_NONE: Final[dict[str, str]] = {}


class PutSpec(NamedTuple):
    """What a put was asked for, checked. `expected` is the caller's own CRC32C."""

    target: Target
    metadata: dict[str, str]
    content_type: str
    profile: Profile | None
    condition: catalog_pb2.Condition | None
    expected: int | None


def spec_of(
    target: Target,
    metadata: object,
    content_type: object,
    profile: object,
    condition: catalog_pb2.Condition | None,
    checksum: object,
) -> PutSpec:
    """The checked form of what a caller passed; InvalidArgument."""
    if metadata is None and content_type is None:
        new, kind = _NONE, ""
    else:
        new, kind = arguments.metadata_of(metadata, content_type)
    expected = None if checksum is None else arguments.checksum_value(checksum)
    return PutSpec(target, new, kind, arguments.profile_or_none(profile), condition, expected)


def put_operation(
    spec: PutSpec, id_: Id, slices: Sequence[Slice], size: int, value: int, upload: Id | None = None
) -> catalog_pb2.CommitOp:
    """The commit of a version of `size` bytes with this CRC32C."""
    op = catalog_pb2.CommitOp()
    op.id, op.bucket, op.key = id_, spec.target.bucket, spec.target.key
    if spec.condition is not None:
        op.condition.CopyFrom(spec.condition)
    put = op.put
    put.size, put.checksum = size, value
    for slice_ in slices:
        put.slices.add(extent=slice_.extent, offset=slice_.offset, length=slice_.length)
    if spec.content_type:
        put.content_type = spec.content_type
    if spec.metadata:
        put.metadata.update(spec.metadata)
    if spec.profile is not None:
        put.profile = spec.profile.name
    if upload is not None:
        put.upload = upload
    op.put.SetInParent()  # an empty object's has no field that is set
    return op
