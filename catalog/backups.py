"""A backup: one file that holds a whole catalog as it was at one redo record.

    0   4s   magic "RBcb"
    4   u8   version, 1
    5   3    zero
    8   u32  length of what it says of itself, a JSON object: cluster (hexadecimal), term, redo (the newest record
             before the first page), created_us (microseconds since 1970), endpoint, software, grace_s (how long what is
             deleted stays on devices, by the catalog's settings; absent: a day)
    12       that object
        u32  CRC32C of all before

Then frames, each:

    0   u8   kind: 1 page of rows, 2 run of redo records, 3 end
    1   3    zero
    4   u64  bytes of the body before it was packed
    12  u32  length of the body
    16  u32  CRC32C of the 16 bytes before and the body
    20       body: pages and runs as pieces.py packs them; end: msgpack map with `last`, the record that the file is as
             of, `rows` and `records`, how many they are, and `digest`, BLAKE2b-256 of all bytes before this frame

All numbers are big-endian. Pages come first, keys ascending throughout; then runs, records without a gap after `redo`.
A file without its end is cut short. It is written beside its name, synced, and renamed: what has the name already is
replaced, so it has to be a file (a device node, say, would be gone).
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

import msgspec

from reedbed.catalog import pieces
from reedbed.catalog.engine import RedoRecord
from reedbed.catalog.pieces import Packed
from reedbed.common.checksums import crc32c
from reedbed.common.errors import Corrupt, InvalidArgument, NewerFormat, NotFound, PermissionDenied, ResourceExhausted
from reedbed.common.limits import DELETE_GRACE_S, MIB

VERSION: Final = 1
ROWS: Final = 1
RUN: Final = 2
END: Final = 3
BODY_MAX: Final = 256 * MIB
_MAGIC: Final = b"RBcb"
_FIRST: Final = struct.Struct(">4sB3xI")
_FRAME: Final = struct.Struct(">B3xQI")
_ABOUT_MAX: Final = 64 * 1024
_DIGEST: Final = 32


class About(msgspec.Struct, frozen=True):
    """What a backup says of itself."""

    cluster: str
    term: int
    redo: int
    created_us: int
    endpoint: str = ""
    software: str = ""
    grace_s: float = DELETE_GRACE_S


class _End(msgspec.Struct, frozen=True):
    last: int
    rows: int
    records: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Summary:
    """A backup that was read from begin to end."""

    about: About
    last: int
    rows: int
    records: int
    size: int


Part = list[tuple[bytes, bytes]] | list[RedoRecord]


def check_target(path: Path) -> None:
    """InvalidArgument for a path that a backup cannot have: what is there is no file, or there is no name."""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except OSError:
        is_file = True  # it is not there, or opening tells why
    if not path.name or not is_file:
        raise InvalidArgument(
            "a backup has to be a file, and this is none", where=str(path), hint="Name a file or a new path"
        )


class BackupWriter:
    """Writes a backup; what was begun and not finished is removed."""

    def __init__(self, path: Path, about: About) -> None:
        """InvalidArgument for a path that cannot be written, or as of `check_target`."""
        check_target(path)
        self._path = path
        self._new = path.with_name(path.name + ".new")
        self._hash = hashlib.blake2b(digest_size=_DIGEST)
        self._last = about.redo
        self._rows = self._records = 0
        self.size = 0
        try:
            self._file: BinaryIO = self._new.open("wb")
        except OSError as error:
            raise InvalidArgument(f"the backup cannot be written: {error.strerror}", where=str(path)) from None
        told = msgspec.json.encode(about)
        first = _FIRST.pack(_MAGIC, VERSION, len(told)) + told
        self._write(first + crc32c(first).to_bytes(4, "big"))

    def rows(self, packed: Packed, count: int) -> None:
        """A page; keys are above those of all pages before."""
        self._rows += count
        self._frame(ROWS, packed)

    def run(self, packed: Packed, last: int) -> None:
        """A run, up to this record, which follows those before."""
        self._records += last - self._last
        self._last = last
        self._frame(RUN, packed)

    def finish(self) -> Summary:
        """The end; the file is there under its name, durably. ResourceExhausted where it cannot be written."""
        end = msgspec.msgpack.encode(_End(self._last, self._rows, self._records, self._hash.digest()))
        self._frame(END, Packed(end, len(end)))
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._new.replace(self._path)
            folder = os.open(self._path.absolute().parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._full(error) from error
        return Summary(About("", 0, 0, 0), self._last, self._rows, self._records, self.size)

    def _frame(self, kind: int, packed: Packed) -> None:
        head = _FRAME.pack(kind, packed.raw, len(packed.body))
        self._write(head + crc32c(packed.body, crc32c(head)).to_bytes(4, "big") + packed.body)

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise self._full(error) from error

    def _full(self, error: OSError) -> ResourceExhausted:
        return ResourceExhausted(
            f"the backup cannot be written: {error.strerror}", where=str(self._path), retryable=False
        )

    def __enter__(self) -> BackupWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            self._file.close()
        self._new.unlink(missing_ok=True)


def about(path: Path) -> About:
    """What a backup says of itself; errors as of `parts`."""
    with _opened(path) as file:
        return _read_about(file, path, hashlib.blake2b(digest_size=_DIGEST))


def check(path: Path) -> Summary:
    """Reads the whole file. Errors as of `parts`."""
    reader = BackupReader(path)
    for _ in reader.parts():
        pass
    return reader.summary()


class BackupReader:
    """Reads a backup from begin to end; each part is checked before it is given, the whole file after the last one."""

    def __init__(self, path: Path) -> None:
        """Errors as of `parts`."""
        self._path = path
        self.about = about(path)
        self._summary: Summary | None = None

    def summary(self) -> Summary:
        """After all parts were read."""
        assert self._summary is not None, "the backup was not read to its end"
        return self._summary

    def parts(self) -> Iterator[Part]:
        """Pages of rows, then runs of redo records.

        Raises NotFound, PermissionDenied, InvalidArgument (no backup), NewerFormat, Corrupt (cut short or altered).
        """
        where = str(self._path)
        digest = hashlib.blake2b(digest_size=_DIGEST)
        rows = records = 0
        with _opened(self._path) as file:
            told = _read_about(file, self._path, digest)
            last, key, in_runs = told.redo, b"", False
            while True:
                so_far = digest.digest()
                kind, packed = _read_frame(file, where, digest)
                if kind == END:
                    break
                if kind == ROWS and not in_runs:
                    page = pieces.unpack_rows(packed.body, packed.raw, where)
                    for one, _ in page:
                        if one <= key:
                            raise Corrupt("pages of the backup are out of order", where=where)
                        key = one
                    rows += len(page)
                    yield page
                elif kind == RUN:
                    in_runs = True
                    run = list(pieces.unpack_run(packed.body, packed.raw, where))
                    for record in run:
                        if record.number != last + 1:
                            raise Corrupt(f"redo record {last + 1} is missing in the backup", where=where)
                        last = record.number
                    records += len(run)
                    yield run
                else:
                    raise Corrupt("parts of the backup are out of order", where=where)
            end = _end_of(packed.body, where)
            if (end.digest, end.last, end.rows, end.records) != (so_far, last, rows, records) or file.read(1):
                raise Corrupt("the backup does not match its own end: it was altered", where=where)
            self._summary = Summary(told, last, rows, records, file.tell())


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise NotFound("there is no such backup", where=str(path)) from None
    except PermissionError:
        raise PermissionDenied("the backup may not be read", where=str(path)) from None
    except OSError as error:
        raise InvalidArgument(f"the backup cannot be read: {error.strerror}", where=str(path)) from None


def _take(file: BinaryIO, length: int, where: str, digest: hashlib.blake2b) -> bytes:
    try:
        data = file.read(length)
    except OSError as error:
        raise Corrupt(f"the backup cannot be read: {error.strerror}", where=where) from None
    if len(data) != length:
        raise Corrupt("the backup is cut short", where=where, hint="Take another one")
    digest.update(data)
    return data


def _read_about(file: BinaryIO, path: Path, digest: hashlib.blake2b) -> About:
    where = str(path)
    try:
        raw = file.read(_FIRST.size)
    except OSError as error:
        raise InvalidArgument(f"the backup cannot be read: {error.strerror}", where=where) from None
    if len(raw) < _FIRST.size or raw[:4] != _MAGIC:
        raise InvalidArgument("not a backup of a catalog", where=where)
    _, version, length = _FIRST.unpack(raw)
    if version > VERSION:
        raise NewerFormat(
            f"the backup has version {version}, this Reedbed knows {VERSION}",
            where=where,
            hint="Use the Reedbed that wrote it, or a newer one",
        )
    if version < 1 or length > _ABOUT_MAX:
        raise Corrupt("the begin of the backup is altered", where=where)
    digest.update(raw)
    told = _take(file, length, where, digest)
    if crc32c(raw + told) != int.from_bytes(_take(file, 4, where, digest), "big"):
        raise Corrupt("the begin of the backup is altered", where=where)
    try:
        found = msgspec.json.decode(told, type=About)
        if len(bytes.fromhex(found.cluster)) == 16:
            return found
    except (msgspec.DecodeError, ValueError):
        pass
    raise Corrupt("the begin of the backup does not parse", where=where)


def _read_frame(file: BinaryIO, where: str, digest: hashlib.blake2b) -> tuple[int, Packed]:
    head = _take(file, _FRAME.size, where, digest)
    kind, raw, length = _FRAME.unpack(head)
    if length > BODY_MAX or raw > pieces.RAW_MAX:
        raise Corrupt("a part of the backup is altered", where=where)
    sum_ = _take(file, 4, where, digest)
    body = _take(file, length, where, digest)
    if crc32c(body, crc32c(head)) != int.from_bytes(sum_, "big"):
        raise Corrupt("a part of the backup is altered", where=where, hint="Take another one")
    return kind, Packed(body, raw)


def _end_of(body: bytes, where: str) -> _End:
    try:
        return msgspec.msgpack.decode(body, type=_End)
    except msgspec.DecodeError:
        raise Corrupt("the end of the backup does not parse", where=where) from None
