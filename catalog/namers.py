"""Who names an extent: the index from a slice's place back to the version, or the chunk of a list, that has it.

    n  extent id, offset u40, version id           bucket, key and kind of bucket of a version with a slice there
    n  extent id, offset u40, list id, index u32   a chunk of a list with a slice there (empty value)

Invariants: exactly one row for each place that the inline slices of a version, or those of a chunk, begin at; written
and removed in the transaction that changes these slices. The extents of pins (swaps.py) have none for the pin.

A scan of a bucket would find the same, but what it costs grows with the bucket and not with the extent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from reedbed.catalog import keys, records
from reedbed.catalog.engine import Reader, Writer
from reedbed.catalog.records import NamerRow, SliceRow
from reedbed.common.errors import Corrupt
from reedbed.common.ids import ID_BYTES, Id
from reedbed.common.limits import K_MAX, SHARD_MAX

_CHUNK_BYTES: Final = ID_BYTES + 4

assert K_MAX * SHARD_MAX < 1 << (8 * keys.OFFSET_BYTES)


@dataclass(frozen=True, slots=True)
class OfVersion:
    """A version of `key` in the bucket of that number."""

    version: Id
    bucket: int
    versioned: bool
    key: bytes

    @property
    def suffix(self) -> bytes:
        return self.version


@dataclass(frozen=True, slots=True)
class OfChunk:
    """Chunk `index` of a list of slices."""

    list: Id
    index: int

    @property
    def suffix(self) -> bytes:
        return self.list + self.index.to_bytes(4, "big")


Namer = OfVersion | OfChunk


def put(writer: Writer, namer: Namer, slices: Sequence[SliceRow]) -> None:
    """The namer holds these slices from now on."""
    _put(writer, namer, _places(slices))


def drop(writer: Writer, suffix: bytes, slices: Sequence[SliceRow]) -> None:
    """Whoever has this suffix (a version's is its id) holds these slices no more."""
    for place in _places(slices):
        writer.delete(place + suffix)


def replace(writer: Writer, namer: Namer, old: Sequence[SliceRow], new: Sequence[SliceRow]) -> None:
    """The namer holds `new` instead of `old`."""
    before, after = _places(old), _places(new)
    for place in before:
        if place not in after:
            writer.delete(place + namer.suffix)
    _put(writer, namer, [place for place in after if place not in before])


def of_extent(reader: Reader, extent: bytes, after: bytes = b"") -> Iterator[tuple[bytes, int, Namer]]:
    """(where to go on after, offset, namer) for all that name the extent."""
    prefix = keys.namers_of(extent)
    for key, data in reader.scan(prefix + after + b"\x00" if after else prefix, keys.after(prefix)):
        rest = key[len(prefix) :]
        offset, suffix = int.from_bytes(rest[: keys.OFFSET_BYTES], "big"), rest[keys.OFFSET_BYTES :]
        yield rest, offset, _namer(key, suffix, data)


def of_slice(reader: Reader, slice_: SliceRow, after: bytes = b"") -> Iterator[Namer]:
    """All that hold a slice which begins where this one does, after the one with the suffix `after`."""
    prefix = keys.namers_of_place(slice_.extent, slice_.offset)
    for key, data in reader.scan(prefix + after + b"\x00" if after else prefix, keys.after(prefix)):
        yield _namer(key, key[len(prefix) :], data)


def _put(writer: Writer, namer: Namer, places: Iterable[bytes]) -> None:
    value = b""
    if isinstance(namer, OfVersion):
        value = records.NAMER.encode(NamerRow(namer.bucket, namer.key, namer.versioned))
    for place in places:
        writer.put(place + namer.suffix, value)


def _places(slices: Sequence[SliceRow]) -> dict[bytes, None]:
    """The places in order, each once."""
    if len(slices) == 1:
        return {keys.namers_of_place(slices[0].extent, slices[0].offset): None}
    return dict.fromkeys(keys.namers_of_place(slice_.extent, slice_.offset) for slice_ in slices)


def _namer(key: bytes, suffix: bytes, data: bytes) -> Namer:
    if len(suffix) == ID_BYTES:
        row = records.NAMER.decode(data, key)
        return OfVersion(Id(suffix), row.bucket, row.versioned, row.key)
    if len(suffix) != _CHUNK_BYTES:
        raise Corrupt(f"not the key of a namer: {key[:64]!r}", where="catalog")
    return OfChunk(Id(suffix[:ID_BYTES]), int.from_bytes(suffix[ID_BYTES:], "big"))
