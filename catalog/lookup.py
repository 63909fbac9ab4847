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

from collections.abc import Sequence
from typing import Final

from reedbed.catalog import buckets, keys, lacks, records, slices, versions
from reedbed.catalog.buckets import Bucket
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
    known: dict[str, Bucket] = {}
    with_slices = request.slices
    for target in request.targets:
        found = reply.found.add()
        try:
            if room < 0:
                raise ResourceExhausted("the answer has no room for this target", hint="Ask for fewer at once")
            name = target.bucket
            bucket = known.get(name)
            if bucket is None:
                bucket = known[name] = buckets.get(reader, name)
            _fill(reader, bucket, target, found, with_slices)
        except ReedbedError as error:
            found.Clear()
            found.error.CopyFrom(convert.error_to_message(error))
        room -= found.ByteSize()
    return reply


def more_slices(reader: Reader, request: catalog_pb2.SlicesRequest, limit: int) -> catalog_pb2.SlicesReply:
    """Up to `limit` further slices of a version. Raises NotFound as lookups do, InvalidArgument without a version."""
    target = request.target
    if not target.version:
        raise InvalidArgument("slices are asked of a version, and none is named")
    _, row, _ = _find(reader, buckets.get(reader, target.bucket), target.key, target.version)
    part, more = slices.page(reader, row, request.first, limit)
    reply = catalog_pb2.SlicesReply(more=more)
    _tell_places(reply, part, _extent_rows(reader, part))
    return reply


def _find(reader: Reader, bucket: Bucket, key: bytes, version_id: bytes) -> tuple[bytes, VersionRow, bool]:
    """What is stored of a version, as bytes and as what they say, and whether it is the visible one."""
    key = check_key(key)
    if not version_id and not bucket.versioned:
        row_key = keys.objects(bucket.number) + key
        data = reader.get(row_key)
        if data is not None:
            return data, records.VERSION.decode(data, row_key), True
    version = optional_id(version_id, "version")
    row = versions.require(reader, bucket, key, version)
    latest = True
    if version is not None and bucket.versioned:
        newest = versions.newest(reader, bucket, key)
        latest = newest is not None and newest.version == row.version
    return records.VERSION.encode(row), row, latest


def _fill(
    reader: Reader, bucket: Bucket, target: catalog_pb2.Target, found: catalog_pb2.Found, with_slices: bool
) -> None:
    key = target.key
    data, row, latest = _find(reader, bucket, key, target.version)
    if not with_slices:
        versions.tell(found.info, bucket, key, row, latest)
        found.info.actual_profiles.extend(slices.profiles(reader, row))
        return
    part, more = (row.slices, False) if row.slice_list is None else slices.page(reader, row, 0, SLICES_CHUNK)
    extent_rows = _extent_rows(reader, part)
    if row.slice_list is None:
        sum_ = crc32c(b"".join((b"\1" if latest else b"\0", data, *extent_rows.values())))
        token = row.version + sum_.to_bytes(4, "big")
        if token == target.known:
            found.unchanged = True
            return
        found.token = token
    versions.tell(found.info, bucket, key, row, latest)
    _tell_places(found, part, extent_rows)
    if more:
        found.more = True


def _extent_rows(reader: Reader, part: Sequence[SliceRow]) -> dict[Id, bytes]:
    """What is stored of the extents of these slices, in the order in which they come first."""
    found: dict[Id, bytes] = {}
    for slice_ in part:
        extent_id = Id(slice_.extent)
        if extent_id not in found:
            data = reader.get(keys.extent(extent_id))
            if data is None:
                raise Corrupt(
                    f"extent {format_id(extent_id)} is not recorded", where="catalog", hint="Restore the catalog"
                )
            found[extent_id] = data
    return found


def _tell_places(
    answer: catalog_pb2.Found | catalog_pb2.SlicesReply, part: Sequence[SliceRow], extent_rows: dict[Id, bytes]
) -> None:
    for slice_ in part:
        told = answer.slices.add()
        told.extent, told.offset, told.length = slice_.extent, slice_.offset, slice_.length
    for extent_id, data in extent_rows.items():
        row = records.EXTENT.decode(data, keys.extent(extent_id))
        message = answer.extents.add()
        message.id, message.k, message.m, message.pg = extent_id, row.k, row.m, row.pg
        message.generation, message.present = row.generation, lacks.visible(row)
        message.lengths.extend(row.lengths)
