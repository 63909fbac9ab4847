"""The slices of versions and uploads: a few within the version's record, many in lists of chunk rows.

Invariants:
- A list's chunks are numbered from 0 and all hold SLICES_CHUNK slices but the last, which holds at least one.
- `refs` of a list is the number of versions that name it, plus one while it is an upload's.
- A list without references has a row in the queue of loose lists, and is taken apart from its end, in bounded steps.
  Its chunks keep their extents live until then.
- Whoever takes or gives up slices here says so in the index of namers (namers.py), in the same transaction.
- A slice may be replaced by one of the same length elsewhere (swaps.py); number, order and lengths of slices stay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import msgspec

from reedbed.catalog import extents, keys, namers, records
from reedbed.catalog.edit import Edit
from reedbed.catalog.engine import Reader
from reedbed.catalog.extents import Offers
from reedbed.catalog.namers import OfChunk, OfVersion
from reedbed.catalog.records import ChunkRow, SliceListRow, SliceRow, VersionRow
from reedbed.common.errors import Corrupt
from reedbed.common.ids import Id, format_id
from reedbed.common.limits import SLICES_CHUNK, SLICES_INLINE_MAX

_AT_ONCE = 4  # chunks that a release takes apart by itself; a longer list waits for the sweep


class Held(NamedTuple):
    """What a version's record holds: inline slices, or a list's id. `profiles` are those that its bytes have."""

    slices: tuple[SliceRow, ...] = ()
    slice_list: Id | None = None
    profiles: Collection[str] = ()


def head(reader: Reader, list_id: Id) -> SliceListRow:
    """The head of a list that something names."""
    row = find(reader, list_id)
    if row is None:
        raise Corrupt(f"slice list {format_id(list_id)} is missing", where="catalog", hint="Restore the catalog")
    return row


def find(reader: Reader, list_id: Id) -> SliceListRow | None:
    key = keys.slice_list(list_id)
    data = reader.get(key)
    return None if data is None else records.SLICE_LIST.decode(data, key)


def hold(edit: Edit, namer: OfVersion, slices: Sequence[SliceRow], offers: Offers, wanted: str) -> Held:
    """Take references for a new version's slices; errors as of extents.acquire. A list gets the version's id."""
    if len(slices) <= SLICES_INLINE_MAX:
        profiles = extents.acquire(edit, slices, offers)
        namers.put(edit.rows, namer, slices)
        return Held(tuple(slices), None, profiles)
    return Held((), namer.version, append(edit, namer.version, slices, offers, wanted))


def append(
    edit: Edit, list_id: Id, slices: Sequence[SliceRow], offers: Offers | None, wanted: str = ""
) -> Collection[str]:
    """Add slices to the end of a list, which is made with one reference if there is none; errors as of acquire.

    Returns the profiles of all its slices.
    """
    old = find(edit.writer, list_id) or SliceListRow(1, 0, 0, (), wanted)
    profiles = extents.acquire(edit, slices, offers).union(old.profiles)
    index, filled = divmod(old.count, SLICES_CHUNK)
    before = chunk(edit.writer, list_id, index) if filled else ()
    pending = [*before, *slices]
    for at in range(0, len(pending), SLICES_CHUNK):
        put_chunk(edit, OfChunk(list_id, index + at // SLICES_CHUNK), before, pending[at : at + SLICES_CHUNK])
        before = ()
    new = msgspec.structs.replace(
        old,
        count=old.count + len(slices),
        size=old.size + sum(slice_.length for slice_ in slices),
        profiles=tuple(sorted(profiles)),
    )
    put_head(edit, list_id, new)
    return profiles


def settle(edit: Edit, namer: OfVersion, list_id: Id, wanted: str) -> Held:
    """Turn an upload's list into what the version's record holds; references stay as they are."""
    row = head(edit.writer, list_id)
    if row.count > SLICES_INLINE_MAX:
        put_head(edit, list_id, msgspec.structs.replace(row, wanted=wanted))
        return Held((), list_id, row.profiles)
    slices = tuple(_walk(edit.writer, list_id, row.count, 0, row.count))
    if row.count:
        namers.drop(edit.writer, OfChunk(list_id, 0).suffix, slices)
        namers.put(edit.writer, namer, slices)
        edit.writer.delete(keys.chunk(list_id, 0))
    edit.writer.delete(keys.slice_list(list_id))
    return Held(slices, None, row.profiles)


def share(edit: Edit, namer: OfVersion, row: VersionRow) -> Held:
    """References for one more version with this one's content."""
    if row.slice_list is None:
        profiles = extents.acquire(edit, row.slices)
        namers.put(edit.rows, namer, row.slices)
        return Held(row.slices, None, profiles)
    list_id = Id(row.slice_list)
    return Held((), list_id, share_list(edit, list_id).profiles)


def share_list(edit: Edit, list_id: Id) -> SliceListRow:
    """One reference of a list more."""
    old = head(edit.writer, list_id)
    new = msgspec.structs.replace(old, refs=old.refs + 1)
    put_head(edit, list_id, new)
    return new


def release(edit: Edit, row: VersionRow) -> None:
    """Give up what a version held."""
    if row.slice_list is None:
        namers.drop(edit.rows, row.version, row.slices)
        extents.release(edit, row.slices)
    else:
        release_list(edit, Id(row.slice_list))


def release_list(edit: Edit, list_id: Id) -> None:
    """One reference of a list less; without any it is taken apart, here or by the sweep."""
    old = head(edit.writer, list_id)
    new = msgspec.structs.replace(old, refs=old.refs - 1)
    assert new.refs >= 0, list_id.hex()
    put_head(edit, list_id, new)
    if not new.refs:
        edit.writer.put(keys.loose_list(list_id), b"")
        if new.count <= _AT_ONCE * SLICES_CHUNK:
            take_apart(edit, list_id, _AT_ONCE)


def take_apart(edit: Edit, list_id: Id, chunks: int) -> int:
    """Remove up to that many chunks from the end of a loose list, and the list with its last one; how many it were."""
    row = head(edit.writer, list_id)
    assert not row.refs, list_id.hex()
    done = 0
    while row.count and done < chunks:
        index = (row.count - 1) // SLICES_CHUNK
        slices = chunk(edit.writer, list_id, index)
        namers.drop(edit.writer, OfChunk(list_id, index).suffix, slices)
        extents.release(edit, slices)
        edit.writer.delete(keys.chunk(list_id, index))
        size = row.size - sum(slice_.length for slice_ in slices)
        row = msgspec.structs.replace(row, count=index * SLICES_CHUNK, size=size)
        done += 1
    if row.count:
        put_head(edit, list_id, row)
    else:
        edit.writer.delete(keys.slice_list(list_id))
        edit.writer.delete(keys.loose_list(list_id))
    return done


def loose(reader: Reader, limit: int) -> list[Id]:
    """Lists that wait to be taken apart."""
    found: list[Id] = []
    for key, _ in reader.scan(keys.LOOSE_LISTS, keys.after(keys.LOOSE_LISTS)):
        if len(found) == limit:
            break
        found.append(keys.last_id(key))
    return found


def page(reader: Reader, row: VersionRow, first: int, limit: int) -> tuple[list[SliceRow], bool]:
    """Up to `limit` slices of a version from number `first` on, and whether there are more."""
    if row.slice_list is None:
        return list(row.slices[first : first + limit]), first + limit < len(row.slices)
    list_id = Id(row.slice_list)
    count = head(reader, list_id).count
    return list(_walk(reader, list_id, count, first, limit)), first + limit < count


def page_of_list(reader: Reader, list_id: Id, first: int, limit: int) -> list[SliceRow]:
    """Up to `limit` slices of a list from number `first` on."""
    return list(_walk(reader, list_id, head(reader, list_id).count, first, limit))


def profiles(reader: Reader, row: VersionRow) -> tuple[str, ...]:
    """The profiles that a version's bytes have now."""
    if row.slice_list is not None:
        return head(reader, Id(row.slice_list)).profiles
    found = set()
    for slice_ in row.slices:
        extent = extents.get(reader, Id(slice_.extent))
        if extent is not None:
            found.add(extents.profile_of(extent))
    return tuple(sorted(found))


def _walk(reader: Reader, list_id: Id, count: int, first: int, limit: int) -> Iterator[SliceRow]:
    last = min(count, first + limit)
    while first < last:
        index, skip = divmod(first, SLICES_CHUNK)
        part = chunk(reader, list_id, index)[skip : skip + last - first]
        if not part:
            raise Corrupt(f"slice list {format_id(list_id)} is shorter than it says", where="catalog")
        yield from part
        first += len(part)


def chunk(reader: Reader, list_id: Id, index: int) -> tuple[SliceRow, ...]:
    """The slices of one chunk of a list."""
    key = keys.chunk(list_id, index)
    data = reader.get(key)
    if data is None:
        raise Corrupt(f"chunk {index} of slice list {format_id(list_id)} is missing", where="catalog")
    return records.CHUNK.decode(data, key).slices


def put_chunk(edit: Edit, place: OfChunk, before: Sequence[SliceRow], slices: Sequence[SliceRow]) -> None:
    """Write a chunk that held `before`; references are the caller's."""
    edit.writer.put(keys.chunk(place.list, place.index), records.CHUNK.encode(ChunkRow(tuple(slices))))
    namers.replace(edit.writer, place, before, slices)


def put_head(edit: Edit, list_id: Id, row: SliceListRow) -> None:
    edit.writer.put(keys.slice_list(list_id), records.SLICE_LIST.encode(row))
