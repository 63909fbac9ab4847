"""Where a device's scrubber stands: the file `scrub`, replaced as a whole, big-endian.

    0   4s   magic "RBsb"
    4   u8   version, 1
    5   u8   phase: 0 segments, 1 rows of the index, 2 heads of the shards that the index names, 3 between passes
    6   u8   1 if somebody asked for this pass
    7   u8   table of the index, in the order of entries.TABLES
    8   u64  passes completed
    16  u64  segment, 24 u64 offset: everything below is read in this pass
    32  u64  the last segment of this pass
    40  u64  bytes read in this pass, 48 u64 milliseconds since its begin in which the device was served
    56  u32  damage found in this pass
    60  u32  damage found in the last completed pass
    64  u64  bytes read in that, 72 u64 its milliseconds, 80 f64 wall time of its end
    88  u16  length of the key, then 32s the key of the index up to which rows, or heads, are read
    end u32  CRC32C of all before

A file that is damaged or absent means that a pass begins anew.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from reedbed.common import logs
from reedbed.common.checksums import crc32c
from reedbed.common.errors import Corrupt, NewerFormat
from reedbed.storaged.disk import Disk, read_whole, replace_whole
from reedbed.storaged.entries import TABLES, Position

NAME: Final = "scrub"
SEGMENTS, ROWS, HEADS, RESTING = range(4)
PHASES: Final = ("segments", "index", "heads", "resting")
_VERSION: Final = 1
_FORM: Final = struct.Struct(">4sBBBBQQQQQQIIQQdH32s")
_MAGIC: Final = b"RBsb"
_START: Final = Position(0, 0)
log = logs.get("storaged")


@dataclass(frozen=True, slots=True)
class Standing:
    """See the module's text."""

    phase: int = RESTING
    hurried: bool = False
    table: int = 0
    passes: int = 0
    at: Position = _START
    last_segment: int = 0
    read: int = 0
    age_ms: int = 0
    found: int = 0
    last_found: int = 0
    last_read: int = 0
    last_ms: int = 0
    last_end: float = 0.0
    key: bytes = b""

    def encode(self) -> bytes:
        body = _FORM.pack(
            _MAGIC,
            _VERSION,
            self.phase,
            self.hurried,
            self.table,
            self.passes,
            *self.at,
            self.last_segment,
            self.read,
            self.age_ms,
            self.found,
            self.last_found,
            self.last_read,
            self.last_ms,
            self.last_end,
            len(self.key),
            self.key,
        )
        return body + crc32c(body).to_bytes(4, "big")

    @classmethod
    def decode(cls, raw: bytes) -> Standing:
        """Corrupt, or NewerFormat."""
        if len(raw) != _FORM.size + 4 or crc32c(raw[:-4]) != int.from_bytes(raw[-4:], "big"):
            raise Corrupt("the scrubber's file is truncated or altered", where=NAME)
        magic, version, phase, hurried, table, done, *numbers, end, length, key = _FORM.unpack(raw[:-4])
        if version > _VERSION:
            raise NewerFormat(f"the scrubber's file has version {version}", where=NAME)
        if magic != _MAGIC or phase > RESTING or table >= len(TABLES) or length > len(key):
            raise Corrupt("the scrubber's file is truncated or altered", where=NAME)
        segment, offset, last, read, age, found, last_found, last_read, last_ms = numbers
        return cls(
            phase=phase,
            hurried=bool(hurried),
            table=table,
            passes=done,
            at=Position(segment, offset),
            last_segment=last,
            read=read,
            age_ms=age,
            found=found,
            last_found=last_found,
            last_read=last_read,
            last_ms=last_ms,
            last_end=end,
            key=key[:length],
        )


def load(disk: Disk) -> Standing:
    """Where the scrubber stood. NewerFormat; OSError of a failing disk."""
    try:
        return Standing.decode(read_whole(disk, NAME))
    except FileNotFoundError:
        return Standing()
    except Corrupt as error:
        log.warning("%s: %s", disk.root, error)
        return Standing()


def save(disk: Disk, standing: Standing) -> None:
    """Durable on return. OSError."""
    replace_whole(disk, NAME, standing.encode())
