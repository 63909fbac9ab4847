"""Listings in bytewise order of keys, page by page; each page is one short read transaction.

With a delimiter, keys that have it after the prefix give one row for all that share the part up to and including it;
the scan then goes on after the last of them, so that a page costs as much as it has rows. `start_after` is about rows,
as in S3: of keys and common prefixes, those are listed that sort after it. Going on from page
to page takes the token, which is

    byte 0       version of the format, 1
    byte 1       0: after this key; 1: after all keys that start with this; 2: after this version
    bytes 2..5   CRC32C of what was asked (bucket, prefix, delimiter), big-endian
    bytes 6..    the key or prefix; before it, for a version, its log number u64, big-endian
"""

from __future__ import annotations

from typing import Final

import msgspec

from reedbed.catalog import keys, records, versions
from reedbed.catalog.buckets import Bucket
from reedbed.catalog.engine import Reader
from reedbed.common.checksums import crc32c
from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import KEY_MAX
from reedbed.protos import catalog_pb2, listed
from reedbed.protos.listed import ListedRow

_VERSION: Final = 1
_AFTER_KEY, _AFTER_PREFIX, _AFTER_VERSION = range(3)
_HEAD: Final = 6
_PAGE_BYTES: Final = 2 << 20  # an answer has to fit a call's header
_ROW_BYTES: Final = 160  # of a row's message besides key and record, at most
_RECORD: Final = 1  # version of the records that begin as a listed row does
_AS_IT_IS: Final = 512  # a longer record may hold many slices, which a listing does not tell


def page(
    reader: Reader,
    bucket: Bucket,
    *,
    limit: int,
    prefix: bytes = b"",
    delimiter: bytes = b"",
    start_after: bytes = b"",
    token: bytes = b"",
    packed: bool = False,
) -> catalog_pb2.ListReply:
    """Up to `limit` rows (fewer where they are long) and the token of the next page, empty at the end.

    `packed`: as protos/listed.py has it, which costs much less.
    InvalidArgument for a token of another listing, and for names longer than keys are.
    """
    _check_lengths(prefix=prefix, delimiter=delimiter, start_after=start_after)
    asked = _asked(bucket, prefix, delimiter)
    base = keys.objects(bucket.number)
    end = keys.after(base + prefix)
    start: bytes | None = base + prefix
    if start_after and start_after >= prefix:
        cut = start_after.find(delimiter, len(prefix)) if delimiter and start_after.startswith(prefix) else -1
        start = base + start_after + b"\x00" if cut < 0 else keys.after(base + start_after[: cut + len(delimiter)])
    if token:
        kind, at = _open(token, asked, (_AFTER_KEY, _AFTER_PREFIX))
        start = max(base + at + b"\x00", base + prefix) if kind == _AFTER_KEY else keys.after(base + at)
    names: list[bytes] = []
    rows: list[bytes | None] = []
    room = _PAGE_BYTES
    after = b""
    while start is not None:
        jump: bytes | None = None
        for row_key, data in reader.scan(start, end):
            key = row_key[len(base) :]
            if len(names) == limit or room < 0:
                after = _token(_AFTER_KEY if rows[-1] is not None else _AFTER_PREFIX, asked, names[-1])
                break
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                common = key[: cut + len(delimiter)]
                names.append(common)
                rows.append(None)
                room -= len(common) + _ROW_BYTES
                jump = keys.after(base + common)
                break
            if bucket.versioned:
                data = versions.stored_latest(reader, bucket, row_key, data)[1]
            names.append(key)
            rows.append(data)
            room -= len(key) + len(data) + _ROW_BYTES
        start = jump
    reply = catalog_pb2.ListReply(token=after)
    if packed:
        reply.packed = listed.pack(names, [None if data is None else _listed(data) for data in rows])
        return reply
    for name, record in zip(names, rows, strict=True):
        if record is None:
            reply.rows.add(prefix=name)
        else:
            versions.tell(reply.rows.add().info, bucket, name, records.VERSION.decode(record, base + name))
    return reply


def _listed(data: bytes) -> bytes:
    """A version's record as a packed page has it."""
    if data[0] != _RECORD or len(data) > _AS_IT_IS:
        row = records.VERSION.decode(data, b"")
        told = ListedRow(
            row.version, row.seq, row.modified_us, row.size, row.checksum, row.profile, row.content_type, row.metadata
        )
        return msgspec.msgpack.encode(told)
    return data[1:]


def page_of_versions(
    reader: Reader, bucket: Bucket, *, limit: int, prefix: bytes = b"", token: bytes = b""
) -> catalog_pb2.ListReply:
    """All versions and delete markers, by key and then newest first; otherwise like `page`."""
    if not bucket.versioned:
        return page(reader, bucket, limit=limit, prefix=prefix, token=token)
    _check_lengths(prefix=prefix)
    asked = _asked(bucket, prefix, None)
    base = keys.versions(bucket.number) + keys.escape(prefix)
    start = base
    if token:
        _, at = _open(token, asked, (_AFTER_VERSION,))
        if len(at) < 8:
            raise _bad_token()
        start = keys.version(bucket.number, at[8:], int.from_bytes(at[:8], "big")) + b"\x00"
    reply = catalog_pb2.ListReply()
    room = _PAGE_BYTES
    before: bytes | None = None
    last = b""
    for row_key, data in reader.scan(start, keys.after(base)):
        if len(reply.rows) == limit or room < 0:
            reply.token = last
            break
        key, seq = keys.split_version(row_key)
        row = records.VERSION.decode(data, row_key)
        if before is None and token:
            # Newer versions of this key may be on the page before
            newest = versions.newest(reader, bucket, key)
            latest = newest is not None and newest.seq == seq
        else:
            latest = key != before
        message = reply.rows.add().info
        versions.tell(message, bucket, key, row, latest)
        before = key
        last = _token(_AFTER_VERSION, asked, seq.to_bytes(8, "big") + key)
        room -= message.ByteSize()
    return reply


def _check_lengths(**names: bytes) -> None:
    for name, value in names.items():
        if len(value) > KEY_MAX:
            raise InvalidArgument(f"{name} of {len(value)} bytes is longer than a key can be, {KEY_MAX}")


def _asked(bucket: Bucket, prefix: bytes, delimiter: bytes | None) -> bytes:
    kind = b"versions" if delimiter is None else len(delimiter).to_bytes(2, "big") + delimiter
    return crc32c(b"\x00".join((bucket.name.encode(), kind, prefix))).to_bytes(4, "big")


def _token(kind: int, asked: bytes, at: bytes) -> bytes:
    return bytes((_VERSION, kind)) + asked + at


def _open(token: bytes, asked: bytes, kinds: tuple[int, ...]) -> tuple[int, bytes]:
    at = token[_HEAD:]
    if token[:1] != bytes([_VERSION]) or len(token) <= _HEAD or len(at) > KEY_MAX + 8:
        raise _bad_token()
    if token[1] not in kinds or token[2:_HEAD] != asked:
        raise _bad_token()
    return token[1], at


def _bad_token() -> InvalidArgument:
    return InvalidArgument(
        "not a token of this listing", hint="Give the token of the page before, with the same bucket, prefix, delimiter"
    )
