"""The PG generations that a device knows: the file `generations`, replaced as a whole.

Layout, big-endian:

    0   4s   magic "RBgn"
    4   u8   version, 1
    5   3    zero
    8   u32  count
    12       count times: pg u32, generation u64, in order of pg
    end u32  CRC32C of all before

Invariants
- A generation only rises.
- What a write's record raised is durable with the record; the file holds it before that record's segment may go.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Mapping
from typing import Final

from reedbed.common import logs
from reedbed.common.checksums import crc32c
from reedbed.common.errors import Corrupt, NewerFormat
from reedbed.storaged.disk import Disk, read_whole, replace_whole

NAME: Final = "generations"
_VERSION: Final = 1
log = logs.get("storaged")
_HEAD: Final = struct.Struct(">4sB3xI")
_ROW: Final = struct.Struct(">IQ")


def encode(known: Mapping[int, int]) -> bytes:
    body = _HEAD.pack(b"RBgn", _VERSION, len(known)) + b"".join(_ROW.pack(*row) for row in sorted(known.items()))
    return body + crc32c(body).to_bytes(4, "big")


def decode(raw: bytes, where: str = NAME) -> dict[int, int]:
    """pg -> generation; Corrupt or NewerFormat."""
    if len(raw) < _HEAD.size + 4 or crc32c(raw[:-4]) != int.from_bytes(raw[-4:], "big"):
        raise Corrupt("the file of PG generations is truncated or altered", where=where)
    magic, version, count = _HEAD.unpack_from(raw)
    if version > _VERSION:
        raise NewerFormat(f"the file of PG generations has version {version}", where=where)
    if magic != b"RBgn" or len(raw) != _HEAD.size + count * _ROW.size + 4:
        raise Corrupt("the file of PG generations is truncated or altered", where=where)
    return dict(_ROW.iter_unpack(raw[_HEAD.size : -4]))


class Generations:
    """What is known, with what of it is in the file. For many threads."""

    def __init__(self, disk: Disk) -> None:
        """Reads the file; Corrupt if it is damaged, NewerFormat."""
        self._disk = disk
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._known: dict[int, int] = {}
        self._changed = False
        with contextlib.suppress(FileNotFoundError):
            self._known = decode(read_whole(disk, NAME), str(disk.root / NAME))

    @classmethod
    def load(cls, disk: Disk) -> tuple[Generations, bool]:
        """What the file says, and whether it was whole: shards' records and the map name them again. NewerFormat."""
        try:
            return cls(disk), True
        except Corrupt as error:
            log.warning("%s: %s", disk.root, error)
            return cls.empty(disk), False

    def mend(self) -> bool:
        """Have the file written anew by the next `save` if it is damaged or gone; whether it is. OSError."""
        try:
            file = self._disk.open(NAME)
        except FileNotFoundError:
            with self._lock:
                gone = bool(self._known) and not self._changed
                self._changed = self._changed or gone
            return gone
        try:
            file.forget(0, file.size())
            decode(file.read(0, file.size()))
        except Corrupt:
            with self._lock:
                self._changed = True
            return True
        finally:
            file.close()
        return False

    @classmethod
    def empty(cls, disk: Disk) -> Generations:
        """Nothing known, whatever the file says; the next `save` replaces it."""
        made = cls.__new__(cls)
        made._disk, made._lock, made._saving = disk, threading.Lock(), threading.Lock()
        made._known, made._changed = {}, True
        return made

    def get(self, pg: int) -> int:
        """The newest generation known, 0 if none is."""
        return self._known.get(pg, 0)

    def snapshot(self) -> dict[int, int]:
        with self._lock:
            return dict(self._known)

    def raise_to(self, pg: int, generation: int) -> bool:
        """Remember a newer generation in memory; an older one changes nothing. Returns whether it was newer."""
        if generation <= self._known.get(pg, 0):
            return False
        with self._lock:
            if generation <= self._known.get(pg, 0):
                return False
            self._known[pg] = generation
            self._changed = True
            return True

    def save(self) -> None:
        """Make what is known durable, if something changed. OSError."""
        with self._saving:
            with self._lock:
                if not self._changed:
                    return
                self._changed = False
                raw = encode(self._known)
            try:
                replace_whole(self._disk, NAME, raw)
            except OSError:
                with self._lock:
                    self._changed = True
                raise
