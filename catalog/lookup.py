"""Lookups: what is known of objects, and where their bytes are. One read transaction each.

An answer with slices carries a token, which a later question for the same object may bring along: if the answer is
still the same (version, information, slices, and what their extents' rows say), nothing but that is told. A token is

    bytes 0..15    id of the version
    bytes 16..19   CRC32C, big-endian, of whether it is the visible one, its row, and the rows of its extents in order

So rebuilding, moving and recoding give another token, and so do other objects of the same extents when they come and
go, which costs a whole answer and nothing else. Two states of one version that have the same sum hold the same bytes in
places that differ: who fails to read what a token stands for asks again without it. Lists of slices have no token.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from reedbed.catalog import buckets, extents, keys, records, slices, versions
from reedbed.catalog.engine import Reader
from reedbed.catalog.operations import optional_id
from reedbed.catalog.records import SliceRow, VersionRow
from reedbed.common.checksums import crc32c
from reedbed.common.errors import Corrupt, InvalidArgument, ReedbedError, ResourceExhausted
from reedbed.common.ids import Id, format_id
from reedbed.common.limits import SLICES_CHUNK
from reedbed.protos import catalog_pb2, convert
from reedbed.protos.names import check_key

_REPLY_BYTES: Final = 3 << 20  # an answer has to fit a call's header


def lookup(reader: Reader, request: catalog_pb2.LookupRequest) -> catalog_pb2.LookupReply:
    """An answer or an error for each target. ResourceExhausted for those that the answer has no room for."""
    reply = catalog_pb2.LookupReply()
    room = _REPLY_BYTES
    for target in request.targets:
        found = reply.found.add()
        try:
            if room < 0:
                raise ResourceExhausted("the answer has no room for this target", hint="Ask for fewer at once")
            _fill(reader, target, found, request.slices)
        except ReedbedError as error:
            found.Clear()
            found.error.CopyFrom(convert.error_to_message(error))
        room -= found.ByteSize()
    return reply


def more_slices(reader: Reader, request: catalog_pb2.SlicesRequest, limit: int) -> catalog_pb2.SlicesReply:
    """Up to `limit` further slices of a version. Raises NotFound as lookups do, InvalidArgument without a version."""
    if not request.target.version:
        raise InvalidArgument("slices are asked of a version, and none is named")
    _, row, _ = _find(reader, request.target)
    part, more = slices.page(reader, row, request.first, limit)
    return catalog_pb2.SlicesReply(slices=_slice_messages(part), extents=_extent_messages(reader, part), more=more)


def _find(reader: Reader, target: catalog_pb2.Target) -> tuple[buckets.Bucket, VersionRow, bool]:
    """Bucket, version, and whether it is the visible one."""
    bucket = buckets.get(reader, target.bucket)
    key = check_key(target.key)
    version = optional_id(target.version, "version")
    row = versions.require(reader, bucket, key, version)
    if version is None or not bucket.versioned:
        return bucket, row, True
    newest = versions.newest(reader, bucket, key)
    return bucket, row, newest is not None and newest.version == row.version


def _fill(reader: Reader, target: catalog_pb2.Target, found: catalog_pb2.Found, with_slices: bool) -> None:
    bucket, row, latest = _find(reader, target)
    token = _token(reader, row, latest) if with_slices and row.slice_list is None else b""
    if token and token == target.known:
        found.unchanged = True
        return
    found.token = token
    found.info.CopyFrom(versions.info(bucket, target.key, row, latest=latest))
    if not with_slices:
        found.info.actual_profiles.extend(slices.profiles(reader, row))
        return
    part, more = slices.page(reader, row, 0, SLICES_CHUNK)
    found.slices.extend(_slice_messages(part))
    found.extents.extend(_extent_messages(reader, part))
    found.more = more


def _token(reader: Reader, row: VersionRow, latest: bool) -> bytes:
    parts = [b"\1" if latest else b"\0", records.VERSION.encode(row)]
    for extent_id in dict.fromkeys(slice_.extent for slice_ in row.slices):
        parts.append(reader.get(keys.extent(Id(extent_id))) or b"")
    return row.version + crc32c(b"".join(parts)).to_bytes(4, "big")


def _slice_messages(part: Iterable[SliceRow]) -> list[catalog_pb2.Slice]:
    return [catalog_pb2.Slice(extent=row.extent, offset=row.offset, length=row.length) for row in part]


def _extent_messages(reader: Reader, part: Iterable[SliceRow]) -> list[catalog_pb2.Extent]:
    messages = []
    for extent_id in dict.fromkeys(Id(row.extent) for row in part):
        row = extents.get(reader, extent_id)
        if row is None:
            raise Corrupt(f"extent {format_id(extent_id)} is not recorded", where="catalog", hint="Restore the catalog")
        messages.append(convert.extent_to_message(extents.to_type(extent_id, row)))
    return messages
