"""What is known to be bad on a device: shards and regions, remembered for reports until they are rebuilt or gone.

The file `damage`, replaced as a whole, big-endian; without it, or when it is itself damaged, the scrubber finds it all
again:

    0   4s   magic "RBdm"
    4   u8   version, 1
    5   3    zero
    8   u32  shards   12  u32 regions
    16       shards: extent 16s, index u16, block i32 (-1: the record), segment u64, offset u64, wall time f64
             regions: segment u64, offset u64, length u64, settled u8, wall time f64
    end u32  CRC32C of all before

Invariants
- A damaged shard stays known until it is written anew or removed, over restarts too once `save` has returned.
- A settled region is one that hurts nobody any more: what lay in it is known as damaged shards, or was written again.
- What is too much to be remembered is noticed: `overflowed` says so until a new pass of the scrubber has found room.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from reedbed.common import logs
from reedbed.common.checksums import crc32c
from reedbed.common.clock import Clock
from reedbed.common.errors import Corrupt, NewerFormat
from reedbed.common.ids import Id, format_id
from reedbed.storaged.calls import BadRegion, Damage
from reedbed.storaged.disk import Disk, read_whole, replace_whole
from reedbed.storaged.entries import Position

NAME: Final = "damage"
REMEMBERED: Final = 10_000  # shards, and regions; more are only counted
_VERSION: Final = 1
_HEAD: Final = struct.Struct(">4sB3xII")
_SHARD: Final = struct.Struct(">16sHiQQd")
_REGION: Final = struct.Struct(">QQQBd")
log = logs.get("storaged")

Shards = dict[tuple[Id, int], Damage]
Regions = dict[tuple[int, int], BadRegion]


def encode(shards: Shards, regions: Regions) -> bytes:
    """The whole file."""
    body = _HEAD.pack(b"RBdm", _VERSION, len(shards), len(regions))
    body += b"".join(
        _SHARD.pack(one.extent, one.index, one.block, one.segment, one.offset, one.when) for one in shards.values()
    )
    body += b"".join(
        _REGION.pack(one.segment, one.offset, one.length, one.settled, one.when) for one in regions.values()
    )
    return body + crc32c(body).to_bytes(4, "big")


def decode(raw: bytes) -> tuple[Shards, Regions]:
    """Corrupt, or NewerFormat."""
    if len(raw) < _HEAD.size + 4 or crc32c(raw[:-4]) != int.from_bytes(raw[-4:], "big"):
        raise Corrupt("the file of known damage is truncated or altered", where=NAME)
    magic, version, shards, regions = _HEAD.unpack_from(raw)
    if version > _VERSION:
        raise NewerFormat(f"the file of known damage has version {version}", where=NAME)
    middle = _HEAD.size + shards * _SHARD.size
    if magic != b"RBdm" or len(raw) != middle + regions * _REGION.size + 4:
        raise Corrupt("the file of known damage is truncated or altered", where=NAME)
    found: Shards = {}
    for extent, index, block, segment, offset, when in _SHARD.iter_unpack(raw[_HEAD.size : middle]):
        found[Id(extent), index] = Damage(Id(extent), index, block, when, segment, offset)
    places: Regions = {}
    for segment, offset, length, settled, when in _REGION.iter_unpack(raw[middle:-4]):
        places[segment, offset] = BadRegion(segment, offset, length, when, bool(settled))
    return found, places


class DamageLog:
    """Damage that was seen and not mended. For many threads; `save` from one at a time."""

    def __init__(self, clock: Clock, disk: Disk) -> None:
        """Reads the file. NewerFormat; OSError of a failing disk."""
        self._clock = clock
        self._disk = disk
        self._where = str(disk.root)
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._shards: Shards = {}
        self._regions: Regions = {}
        self._changes = 0
        self._saved = 0
        self.seen = 0
        self.overflowed = False
        try:
            self._shards, self._regions = decode(read_whole(disk, NAME))
        except FileNotFoundError:
            pass
        except Corrupt as error:
            log.warning("%s: %s", self._where, error)
            self._changes += 1

    def keep(self, right: Callable[[Damage], bool]) -> None:
        """Forget the shards that are not damaged any more; for a start, after the replay."""
        with self._lock:
            for key in [key for key, one in self._shards.items() if not right(one)]:
                del self._shards[key]
                self._changes += 1

    def save(self) -> None:
        """What is known is durable on return. OSError."""
        with self._saving:
            with self._lock:
                if self._changes == self._saved:
                    return
                changes, content = self._changes, encode(self._shards, self._regions)
            replace_whole(self._disk, NAME, content)
            with self._lock:
                self._saved = changes

    @property
    def dirty(self) -> bool:
        """There is something to save."""
        return self._changes != self._saved

    def shard(self, extent: Id, index: int, block: int, position: Position) -> None:
        """A block of the shard whose record lies at `position` is bad, or with block -1 the record itself."""
        with self._lock:
            self.seen += 1
            known = self._shards.get((extent, index))
            fresh = known is None or (known.segment, known.offset) != position
            if fresh and (known is not None or len(self._shards) < REMEMBERED):
                self._shards[extent, index] = Damage(extent, index, block, self._clock.wall(), *position)
                self._changes += 1
            elif fresh:
                self.overflowed = True
        if fresh:
            log.warning("%s: shard %d of extent %s is damaged, block %d", self._where, index, format_id(extent), block)

    def region(self, segment: int, offset: int, length: int) -> bool:
        """Bytes of a segment are no record. Whether they may hurt: False for a region that is settled."""
        with self._lock:
            known = self._regions.get((segment, offset))
            if known is not None and known.length == length:
                return not known.settled
            if known is not None or len(self._regions) < REMEMBERED:
                self._regions[segment, offset] = BadRegion(segment, offset, length, self._clock.wall())
                self._changes += 1
            else:
                self.overflowed = True
        log.warning("%s: %d bytes of segment %x at %d are damaged", self._where, length, segment, offset)
        return True

    def begin(self) -> None:
        """A pass of the scrubber begins, which finds everything again."""
        self.overflowed = False

    @property
    def has_room(self) -> bool:
        """Whether what overflowed may be looked for again."""
        return 2 * len(self._shards) < REMEMBERED and 2 * len(self._regions) < REMEMBERED

    def settle(self, segment: int, offset: int) -> None:
        """The region that begins there hurts nobody any more."""
        with self._lock:
            known = self._regions.get((segment, offset))
            if known is not None and not known.settled:
                self._regions[segment, offset] = replace(known, settled=True)
                self._changes += 1

    @property
    def known(self) -> bool:
        """Whether any shard is known to be damaged."""
        return bool(self._shards)

    def is_damaged(self, extent: Id, index: int) -> bool:
        return (extent, index) in self._shards

    def healed(self, extent: Id, index: int) -> None:
        """The shard was written anew or removed."""
        if (extent, index) in self._shards:
            with self._lock:
                if self._shards.pop((extent, index), None) is not None:
                    self._changes += 1

    def segment_gone(self, segment: int) -> None:
        with self._lock:
            for key in [key for key in self._regions if key[0] == segment]:
                del self._regions[key]
                self._changes += 1

    def shards(self) -> list[Damage]:
        with self._lock:
            return list(self._shards.values())

    def regions(self) -> list[BadRegion]:
        """Those that are not settled."""
        with self._lock:
            return [region for region in self._regions.values() if not region.settled]
