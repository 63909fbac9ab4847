"""What a device remembers of its catalog, for whoever has to rebuild it: two files, each replaced as a whole.

`catalog`, big-endian:

    0   4s   magic "RBcn"
    4   u8   version, 1
    5   3    zero
    8   u32  number of the device in the cluster map
    12  u32  length of the note
    16       the newest note: a CatalogNote message of protos/storage.proto
    end u32  CRC32C of all before

`map`, big-endian:

    0   4s   magic "RBcm"
    4   u8   version, 1
    5   3    zero
    8   u64  term of the catalog that told the map
    16  u32  length of the map
    20       the whole cluster map: a MapDelta message of protos/catalog.proto
    end u32  CRC32C of all before

Invariants
- Notes and maps only get newer: by (term, version), and by (term, epoch).
- What `learn` and `learn_map` were told is durable when they return.
- A file that is damaged counts as absent: other devices remember the same.
"""

from __future__ import annotations

import struct
import threading
from typing import Final

from reedbed.common import logs
from reedbed.common.checksums import crc32c
from reedbed.common.errors import Corrupt, InvalidArgument, NewerFormat
from reedbed.protos import catalog_pb2, storage_pb2
from reedbed.protos.convert import (
    change_from_message,
    change_to_message,
    note_from_message,
    note_to_message,
    parse,
    whole_map,
)
from reedbed.protos.types import CatalogNote, ClusterMap
from reedbed.storaged.disk import Disk, read_whole, replace_whole

NOTE: Final = "catalog"
MAP: Final = "map"
_VERSION: Final = 1
_NOTE_HEAD: Final = struct.Struct(">4sB3xII")
_MAP_HEAD: Final = struct.Struct(">4sB3xQI")

log = logs.get("storaged")


def encode_note(number: int, note: CatalogNote) -> bytes:
    """The content of the file `catalog`."""
    message = note_to_message(note).SerializeToString()
    return _summed(_NOTE_HEAD.pack(b"RBcn", _VERSION, number, len(message)) + message)


def decode_note(raw: bytes) -> tuple[int, CatalogNote]:
    """Number and note; Corrupt or NewerFormat."""
    (number, length), body = _opened(raw, _NOTE_HEAD, b"RBcn", NOTE)
    note = note_from_message(parse(storage_pb2.CatalogNote, body)) if len(body) == length else None
    if note is None:
        raise _damaged(NOTE)
    return number, note


def encode_map(term: int, map_: ClusterMap) -> bytes:
    """The content of the file `map`."""
    message = change_to_message(whole_map(map_)).SerializeToString()
    return _summed(_MAP_HEAD.pack(b"RBcm", _VERSION, term, len(message)) + message)


def decode_map(raw: bytes) -> tuple[int, ClusterMap]:
    """Term and map; Corrupt or NewerFormat."""
    (term, length), body = _opened(raw, _MAP_HEAD, b"RBcm", MAP)
    map_ = change_from_message(parse(catalog_pb2.MapDelta, body)).apply(None) if len(body) == length else None
    if map_ is None:
        raise _damaged(MAP)
    return term, map_


def _summed(body: bytes) -> bytes:
    return body + crc32c(body).to_bytes(4, "big")


def _opened(raw: bytes, head: struct.Struct, magic: bytes, where: str) -> tuple[tuple[int, int], bytes]:
    """The two numbers of a file's head, and what follows it."""
    if len(raw) < head.size + 4 or crc32c(raw[:-4]) != int.from_bytes(raw[-4:], "big"):
        raise _damaged(where)
    found, version, first, second = head.unpack_from(raw)
    if version > _VERSION:
        raise NewerFormat(f"what the device remembers of its catalog has version {version}", where=where)
    if found != magic:
        raise _damaged(where)
    return (first, second), raw[head.size : -4]


def _damaged(where: str) -> Corrupt:
    return Corrupt("what the device remembers of its catalog is truncated or altered", where=where)


class Memory:
    """See the module's text. For many threads."""

    def __init__(self, disk: Disk) -> None:
        """Reads both files. NewerFormat; OSError."""
        self._disk = disk
        self._saving = threading.Lock()
        self._number = 0
        self._note: CatalogNote | None = None
        self._map_term = 0
        self._map: ClusterMap | None = None
        self._read_note()
        self._read_map()

    @property
    def number(self) -> int:
        """Of the device in the cluster map, 0 if it has none yet."""
        return self._number

    @property
    def note(self) -> CatalogNote | None:
        """The newest note."""
        return self._note

    @property
    def map(self) -> tuple[int, ClusterMap | None]:
        """The newest cluster map, and the term of the catalog that told it."""
        with self._saving:
            return self._map_term, self._map

    def learn(self, number: int, note: CatalogNote) -> None:
        """Remember a note, unless a newer one is known. OSError."""
        with self._saving:
            if self._note is not None and note.age < self._note.age:
                note = self._note
            if (number, note) != (self._number, self._note):
                replace_whole(self._disk, NOTE, encode_note(number, note))
                self._number, self._note = number, note

    def learn_map(self, term: int, map_: ClusterMap) -> None:
        """Remember a map, unless a newer one is known. OSError."""
        with self._saving:
            known = (self._map_term, self._map.epoch) if self._map is not None else (-1, 0)
            if (term, map_.epoch) > known:
                replace_whole(self._disk, MAP, encode_map(term, map_))
                self._map_term, self._map = term, map_

    def mend(self) -> int:
        """Write again what the disk has damaged; how many files that were. OSError."""
        with self._saving:
            mended = 0
            if self._note is not None and not self._is_whole(NOTE):
                replace_whole(self._disk, NOTE, encode_note(self._number, self._note))
                mended += 1
            if self._map is not None and not self._is_whole(MAP):
                replace_whole(self._disk, MAP, encode_map(self._map_term, self._map))
                mended += 1
            return mended

    def _is_whole(self, name: str) -> bool:
        try:
            file = self._disk.open(name)
        except FileNotFoundError:
            return False
        try:
            file.forget(0, file.size())
            raw = file.read(0, file.size())
        finally:
            file.close()
        try:
            if name == NOTE:
                decode_note(raw)
            else:
                decode_map(raw)
        except (Corrupt, InvalidArgument):
            return False
        return True

    def _read_note(self) -> None:
        try:
            self._number, self._note = decode_note(read_whole(self._disk, NOTE))
        except FileNotFoundError:
            pass
        except NewerFormat:
            raise
        except (Corrupt, InvalidArgument) as error:
            log.warning("%s: %s", self._disk.root, error)

    def _read_map(self) -> None:
        try:
            self._map_term, self._map = decode_map(read_whole(self._disk, MAP))
        except FileNotFoundError:
            pass
        except NewerFormat:
            raise
        except (Corrupt, InvalidArgument) as error:
            log.warning("%s: %s", self._disk.root, error)
