"""The namespace counted again from its rows: what must agree, does it? For tests and for an operator's check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from reedbed.catalog import edit, extents, keys, lacks, records, sysobjects, versions
from reedbed.catalog.audit_index import IndexAudit
from reedbed.catalog.buckets import Bucket
from reedbed.catalog.engine import Reader
from reedbed.catalog.namers import OfChunk, OfVersion
from reedbed.catalog.records import CountersRow, ExtentRow, SliceRow, VersionRow
from reedbed.catalog.sealed import show_key
from reedbed.common.ids import ID_BYTES, Id, format_id


def check(reader: Reader) -> list[str]:
    """What is wrong, one sentence each; empty when every count, queue and reference agrees."""
    problems: list[str] = []
    refs: Counter[bytes] = Counter()
    live: Counter[bytes] = Counter()
    list_refs: Counter[bytes] = Counter()
    count: Counter[str] = Counter()
    index = IndexAudit(reader)
    list_refs.update(index.lists)

    def named(slices: tuple[SliceRow, ...]) -> None:
        for slice_ in slices:
            refs[slice_.extent] += 1
            live[slice_.extent] += slice_.length

    for key, data in _rows(reader, keys.objects(sysobjects.BUCKET)):
        version: VersionRow = records.VERSION.decode(data, key)
        named(version.slices)
    for bucket_versioned, number in _buckets(reader):
        count["buckets"] += 1
        bucket = Bucket("", number, bucket_versioned, "", 0)
        for key, data in _rows(reader, keys.objects(number)):
            count["objects"] += 1
            if versions.from_object_row(reader, bucket, key, data).marker:
                problems.append(f"the object row {show_key(key)} names a delete marker")
        prefix = keys.versions(number) if bucket_versioned else keys.objects(number)
        for key, data in _rows(reader, prefix):
            version = records.VERSION.decode(data, key)
            name = keys.split_version(key)[0] if bucket_versioned else key[len(prefix) :]
            index.version(OfVersion(Id(version.version), number, bucket_versioned, name), version)
            count["versions"] += not version.marker
            count["bytes"] += version.size
            named(version.slices)
            if version.slice_list is not None:
                list_refs[version.slice_list] += 1
    for key, _ in _rows(reader, keys.UPLOADS):
        count["uploads"] += 1
        if reader.get(keys.slice_list(keys.last_id(key))) is not None:
            list_refs[keys.last_id(key)] += 1
    for key, data in _rows(reader, keys.SLICE_LISTS):
        if len(key) == len(keys.slice_list(keys.last_id(key))):
            head = records.SLICE_LIST.decode(data, key)
            if head.refs != list_refs[key[1:]]:
                problems.append(f"slice list {key[1:].hex()} says {head.refs} references, has {list_refs[key[1:]]}")
            if (head.refs == 0) != (reader.get(keys.loose_list(keys.last_id(key))) is not None):
                problems.append(f"slice list {key[1:].hex()} is wrongly queued or not queued")
        else:
            chunk = records.CHUNK.decode(data, key).slices
            named(chunk)
            place = OfChunk(Id(key[1 : 1 + ID_BYTES]), int.from_bytes(key[1 + ID_BYTES :], "big"))
            problems.extend(index.chunk(place, chunk))
    for extent_id in index.pins:
        pinned = extents.get(reader, extent_id)
        if pinned is not None:
            named((SliceRow(extent_id, 0, sum(pinned.lengths)),))
    degraded = {keys.last_id(key): (key[1], data) for key, data in _rows(reader, keys.DEGRADED)}
    dropped = {key[9:] for key, _ in _rows(reader, keys.DROPPED)}
    count["dropped_extents"] = len(dropped)
    by_pg = {(int.from_bytes(key[1:5], "big"), keys.last_id(key)) for key, _ in _rows(reader, keys.EXTENTS_OF_PGS)}
    lacking: Counter[tuple[int, lacks.Masks]] = Counter()
    lacking_bytes: Counter[tuple[int, lacks.Masks]] = Counter()
    for key, data in _rows(reader, keys.EXTENTS):
        extent_id = keys.last_id(key)
        row = records.EXTENT.decode(data, key)
        index.extent(extent_id, row)
        if row.dropped_ms is None:
            count["live_extents"] += 1
            if (row.pg, extent_id) not in by_pg:
                problems.append(f"extent {format_id(extent_id)} is not in the index of PG {row.pg}")
            by_pg.discard((row.pg, extent_id))
            masks = lacks.masks(row)
            if masks.work:
                count["degraded_extents" if masks.missing | masks.gone else "moving_extents"] += 1
                lacking[row.pg, masks] += 1
                lacking_bytes[row.pg, masks] += lacks.work_bytes(row)
        problems.extend(
            f"extent {format_id(extent_id)} {problem}"
            for problem in _extent_problems(
                row, refs.pop(extent_id, 0), live[extent_id], degraded.pop(extent_id, None), extent_id in dropped
            )
        )
        dropped.discard(extent_id)
    problems.extend(index.problems())
    count["recode_versions"], count["recode_bytes"] = index.recode_versions, index.recode_bytes
    problems.extend(f"extent {extent_id.hex()} is named but not recorded" for extent_id in refs)
    problems.extend(f"extent {extent_id.hex()} is queued but not recorded" for extent_id in {*degraded, *dropped})
    problems.extend(f"extent {extent_id.hex()} is wrongly in the index of PG {pg}" for pg, extent_id in by_pg)
    counted_lacks = {(lack.pg, lack.masks): (lack.extents, lack.bytes) for lack in lacks.lacks(reader)}
    if counted_lacks != {which: (number, lacking_bytes[which]) for which, number in lacking.items()}:
        problems.append("the counts of what PGs lack are wrong")
    if (counted := CountersRow(**count)) != edit.counters(reader):
        problems.append(f"counters say {edit.counters(reader)}, there are {counted}")
    return problems


def _extent_problems(
    row: ExtentRow, refs: int, live: int, queued: tuple[int, bytes] | None, dropped: bool
) -> Iterator[str]:
    if (row.refs, row.live) != (refs, live):
        yield f"says {row.refs} references of {row.live} bytes, has {refs} of {live}"
    if (row.refs == 0) != (row.dropped_ms is not None) or dropped != (row.dropped_ms is not None):
        yield "is wrongly dropped or not dropped"
    place = lacks.queued(row)
    if queued != (None if place is None else (place[0], records.DEGRADED.encode(place[1]))):
        yield "is wrongly in the degraded queue or not in it"


def _buckets(reader: Reader) -> Iterator[tuple[bool, int]]:
    for key, data in _rows(reader, keys.BUCKETS):
        row = records.BUCKET.decode(data, key)
        yield row.versioned, row.number


def _rows(reader: Reader, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    return reader.scan(prefix, keys.after(prefix))
