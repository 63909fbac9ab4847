"""Versions whose bytes have another profile than is wanted: their queue, and lists of slices that want two at once.

Invariants:
- A version with a slice in an extent of another profile than its own, or with a list that wants another, has a row `r`
  from the transaction that made it so until none has. A row whose version is gone is removed when its turn comes.
- Counters `recode_versions` and `recode_bytes` are the rows, and the sizes of their versions.
- A list wants one profile. A version that wants another gets a list of its own, with the same slices: `prepare` makes
  it in bounded steps, held by the row until it is whole. Versions that want the same share it, since `twin` of the
  old list tells which it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

import msgspec

from reedbed.catalog import keys, records, slices, versions
from reedbed.catalog.edit import Edit
from reedbed.catalog.engine import Reader
from reedbed.catalog.namers import OfVersion
from reedbed.catalog.records import RecodeRow, SliceListRow, VersionRow
from reedbed.common.ids import Id
from reedbed.common.limits import SLICES_CHUNK

TWIN_SLICES: Final = 4 * SLICES_CHUNK  # that one step of `prepare` copies


def check(edit: Edit, namer: OfVersion, row: VersionRow, actual: Collection[str]) -> bool:
    """Queue the version if its bytes, with these profiles, are not as it wants them; whether it is queued."""
    if all(profile == row.profile for profile in actual) and _list_fits(edit.rows, row):
        return False
    if get(edit.writer, namer.version) is None:
        _put(edit, namer, RecodeRow(namer.bucket, namer.key, namer.versioned, row.size))
        edit.count(recode_versions=1, recode_bytes=row.size)
    return True


def remove(edit: Edit, version: Id) -> None:
    """The version is as it should be, or gone: it leaves the queue, if it was there."""
    row = get(edit.writer, version)
    if row is not None:
        if row.twin:
            slices.release_list(edit, Id(row.twin))
        edit.writer.delete(keys.recode(version))
        edit.count(recode_versions=-1, recode_bytes=-row.size)


def get(reader: Reader, version: Id) -> RecodeRow | None:
    key = keys.recode(version)
    data = reader.get(key)
    return None if data is None else records.RECODE.decode(data, key)


def queue(reader: Reader, after: bytes = b"") -> Iterator[OfVersion]:
    """The versions in the order of their ids, so that those of one extent come together; from behind `after` on."""
    start = keys.recode(after) + b"\x00" if after else keys.RECODE
    for key, data in reader.scan(start, keys.after(keys.RECODE)):
        row = records.RECODE.decode(data, key)
        yield OfVersion(keys.last_id(key), row.bucket, row.versioned, row.key)


def settle(edit: Edit, namer: OfVersion) -> bool:
    """Take a version with inline slices, or one that is gone, off the queue if nothing is left to do for it."""
    if get(edit.writer, namer.version) is None:
        return True
    found = versions.locate(edit.writer, namer)
    if found is not None and not found[1].marker:
        row = found[1]
        if row.slice_list is not None or any(one != row.profile for one in slices.profiles(edit.writer, row)):
            return False
    remove(edit, namer.version)
    return True


def settle_list(edit: Edit, namer: OfVersion, list_id: Id) -> bool:
    """All slices of a version's list were found to have the profile that is wanted of the list: so says the list."""
    found = versions.locate(edit.writer, namer)
    if found is None or found[1].slice_list != list_id:
        return False
    row, head = found[1], slices.head(edit.writer, list_id)
    if head.wanted != row.profile:
        return False
    slices.put_head(edit, list_id, msgspec.structs.replace(head, profiles=(head.wanted,)))
    remove(edit, namer.version)
    return True


def prepare(edit: Edit, namer: OfVersion, fresh: Id) -> bool:
    """Give a queued version a list that wants what it wants; whether another step is needed. `fresh`: an unused id."""
    queued = get(edit.writer, namer.version)
    found = versions.locate(edit.writer, namer)
    if queued is None or found is None or found[1].slice_list is None:
        return False
    row_key, row = found
    list_id = Id(found[1].slice_list)
    head = slices.head(edit.writer, list_id)
    if head.wanted == row.profile:
        return False
    twin = slices.find(edit.writer, Id(head.twin)) if head.twin else None
    if twin is not None and twin.refs and twin.wanted == row.profile:
        slices.share_list(edit, Id(head.twin))
        _switch(edit, row_key, row, list_id, Id(head.twin))
    elif head.refs == 1:
        slices.put_head(edit, list_id, msgspec.structs.replace(head, wanted=row.profile, twin=b""))
    else:
        return _copy(edit, namer, queued, row_key, row, head, fresh)
    if queued.twin:  # begun before another version had one made
        slices.release_list(edit, Id(queued.twin))
        _put(edit, namer, msgspec.structs.replace(queued, twin=b""))
    return False


def _copy(
    edit: Edit, namer: OfVersion, queued: RecodeRow, row_key: bytes, row: VersionRow, head: SliceListRow, fresh: Id
) -> bool:
    list_id, twin_id = Id(row.slice_list or b""), Id(queued.twin or fresh)
    old = slices.find(edit.writer, twin_id)
    part = slices.page_of_list(edit.writer, list_id, old.count if old else 0, TWIN_SLICES)
    slices.append(edit, twin_id, part, None)
    twin = slices.head(edit.writer, twin_id)
    whole = twin.count == head.count
    _put(edit, namer, msgspec.structs.replace(queued, twin=b"" if whole else twin_id))
    if whole:  # what held it, the row, hands it over to the version
        slices.put_head(edit, twin_id, msgspec.structs.replace(twin, wanted=row.profile))
        slices.put_head(edit, list_id, msgspec.structs.replace(head, twin=twin_id))
        _switch(edit, row_key, row, list_id, twin_id)
    return not whole


def _put(edit: Edit, namer: OfVersion, row: RecodeRow) -> None:
    edit.writer.put(keys.recode(namer.version), records.RECODE.encode(row))


def _switch(edit: Edit, row_key: bytes, row: VersionRow, old: Id, new: Id) -> None:
    edit.writer.put(row_key, records.VERSION.encode(msgspec.structs.replace(row, slice_list=new)))
    slices.release_list(edit, old)


def _list_fits(reader: Reader, row: VersionRow) -> bool:
    return row.slice_list is None or slices.head(reader, Id(row.slice_list)).wanted == row.profile
