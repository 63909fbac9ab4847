"""The audit of what recoding and compaction go by: who names what, what is sparse, what is to be recoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from reedbed.catalog import edit, extents, indexing, keys, records, slices, sparse
from reedbed.catalog.engine import Reader
from reedbed.catalog.namers import OfChunk, OfVersion
from reedbed.catalog.records import ExtentRow, SliceRow, SparseRow, VersionRow
from reedbed.catalog.sealed import show_key
from reedbed.common.ids import Id


@dataclass(slots=True)
class IndexAudit:
    """What the audit saw of versions, chunks and extents, to be compared with the indexes in the end."""

    reader: Reader
    named: dict[bytes, bytes] = field(default_factory=dict)  # the rows `n` as they should be
    sparse: dict[bytes, ExtentRow] = field(default_factory=dict)  # the rows `k`
    unfit: dict[bytes, str] = field(default_factory=dict)  # versions that are to be recoded, and why
    lists: Counter[bytes] = field(default_factory=Counter)  # references by rows `r`
    pins: list[Id] = field(default_factory=list)
    recode_versions: int = 0
    recode_bytes: int = 0

    def __post_init__(self) -> None:
        for key, data in _rows(self.reader, keys.RECODE):
            row = records.RECODE.decode(data, key)
            self.recode_versions += 1
            self.recode_bytes += row.size
            if row.twin:
                self.lists[row.twin] += 1
        self.pins = [keys.last_id(key) for key, _ in _rows(self.reader, keys.PINS)]

    def version(self, namer: OfVersion, row: VersionRow) -> None:
        value = records.NAMER.encode(records.NamerRow(namer.bucket, namer.key, namer.versioned))
        for slice_ in row.slices:
            self.named[keys.namers_of_place(slice_.extent, slice_.offset) + namer.suffix] = value
        if row.marker:
            return
        if row.slice_list is not None:
            head = slices.find(self.reader, Id(row.slice_list))
            if head is not None and head.wanted != row.profile:
                self.unfit[namer.version] = f"wants {row.profile}, and its list {head.wanted!r}"
        for slice_ in row.slices:
            extent = extents.get(self.reader, Id(slice_.extent))
            if extent is not None and extents.profile_of(extent) != row.profile:
                self.unfit[namer.version] = f"wants {row.profile}, and has {extents.profile_of(extent)}"

    def chunk(self, place: OfChunk, held: tuple[SliceRow, ...]) -> Iterator[str]:
        head = slices.find(self.reader, place.list)
        for slice_ in held:
            self.named[keys.namers_of_place(slice_.extent, slice_.offset) + place.suffix] = b""
            extent = extents.get(self.reader, Id(slice_.extent))
            if head is not None and extent is not None and extents.profile_of(extent) not in head.profiles:
                yield f"slice list {place.list.hex()} has a slice of {extents.profile_of(extent)}, and does not say so"

    def extent(self, extent_id: Id, row: ExtentRow) -> None:
        at = sparse.place(extent_id, row)
        if at is not None:
            self.sparse[keys.sparse(at, extent_id)] = row

    def problems(self) -> Iterator[str]:
        """Once everything was seen."""
        reader = self.reader
        whole = indexing.whole(reader)
        found = dict(_rows(reader, keys.NAMERS))
        yield from (f"the index of namers has {show_key(key)} wrongly" for key in found if key not in self.named)
        sparse_rows = {key for key, _ in _rows(reader, keys.SPARSE)}
        yield from (f"{show_key(key)} is wrongly queued as sparse" for key in sparse_rows - self.sparse.keys())
        if whole:
            yield from (
                f"the index of namers lacks {show_key(key)}, or has it wrongly"
                for key, value in self.named.items()
                if found.get(key) != value
            )
            yield from (f"{show_key(key)} is not queued as sparse" for key in self.sparse.keys() - sparse_rows)
            for version, why in self.unfit.items():
                if reader.get(keys.recode(version)) is None:
                    yield f"version {version.hex()} {why}, and is not queued"
        numbers, wasted = [0] * sparse.MOST, [0] * sparse.MOST
        for key in sparse_rows & self.sparse.keys():
            numbers[key[1] - 1] += 1
            wasted[key[1] - 1] += sparse.wasted(self.sparse[key])
        if (counted := SparseRow(tuple(numbers), tuple(wasted))) != edit.sparse_counts(reader):
            yield f"counts of sparse extents say {edit.sparse_counts(reader)}, there are {counted}"


def _rows(reader: Reader, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    return reader.scan(prefix, keys.after(prefix))
