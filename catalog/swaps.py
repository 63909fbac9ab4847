"""Slices replaced by others with the same bytes: what a rewrite has written takes the place of what it has read.

A rewrite reads pieces (slices as versions and lists hold them), writes them into one new extent, reads that back and
reports where each piece lies now. A swap of several transactions follows: `begin` pins the new extent, `step` gives the
pieces to all who hold them and want their new profile, `end` lets the pin go.

Invariants:
- A piece replaces a slice only where a version or chunk holds just that slice at this moment, and wants the profile of
  the new extent; what was overwritten, deleted or ordered otherwise meanwhile stays as it is. Number, lengths and order
  of slices never change, so that a reader who pages through them is not disturbed.
- Where a version is one piece, the sum of the bytes read back has to be the version's checksum.
- The new extent is whole by the cluster map's judgement of the transaction that takes it in, so that nothing gets less
  redundancy than its profile promises. One that is not is dropped, as is one that nobody takes a piece of.
- Slices of an upload under way are left alone, and so are lists that no version has taken over yet.
- A pin is a reference on the whole extent, with a row `f`. It ends with the swap, or when it had no progress for
  PIN_IDLE_S, for a swap that a crash cut short; what was reported is then reported again.
- All of it may be done again, or late: what is done changes nothing any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from reedbed.catalog import extents, keys, lacks, namers, recoding, records, slices, versions
from reedbed.catalog.edit import Edit
from reedbed.catalog.engine import Reader
from reedbed.catalog.extents import Offers
from reedbed.catalog.namers import Namer, OfChunk, OfVersion
from reedbed.catalog.records import PinRow, SliceRow
from reedbed.common import logs
from reedbed.common.errors import InvalidArgument, Unavailable
from reedbed.common.ids import Id, format_id
from reedbed.protos.types import Extent

PIN_IDLE_S: Final = 600.0
NAMERS_PER_STEP: Final = 256  # that one transaction looks at

_log = logs.get("catalog.swaps")


@dataclass(frozen=True, slots=True)
class Moved:
    """A piece, where it lies in the new extent, and the CRC32C of its bytes as they were read back."""

    piece: SliceRow
    offset: int
    sum: int


class Swap:
    """One swap under way: the new extent, its pieces, and how far it is. `done` bytes and `wrong` pieces so far."""

    def __init__(self, extent: Extent, profile: str, moved: Sequence[Moved]) -> None:
        """InvalidArgument for pieces that do not lie within the extent."""
        self.extent = extent
        self.profile = profile
        self.moved = moved
        self.next = 0
        self.after = b""
        self.done = 0
        self.wrong = 0
        for one in moved:
            if one.piece.length < 1 or one.offset + one.piece.length > extent.size:
                raise InvalidArgument(
                    f"a piece of {one.piece.length} bytes at {one.offset} is outside of extent {format_id(extent.id)}"
                )


def begin(edit: Edit, swap: Swap) -> bool:
    """Take the new extent in and pin it; False if it is not whole: then it is dropped, and nothing is to be swapped.

    Raises what extents.acquire does: BelowHorizon, StaleGeneration, Unavailable, InvalidArgument.
    """
    extent = swap.extent
    whole = (_whole(extent),)
    if edit.writer.get(keys.pin(extent.id)) is not None:
        _touch(edit, extent.id)
        return True
    extents.acquire(edit, whole, Offers(edit.needs.judge, (extent,)))
    row = extents.get(edit.writer, extent.id)
    assert row is not None, extent.id.hex()
    if lacks.missing(row) | row.gone:
        extents.release(edit, whole)
        return False
    _touch(edit, extent.id)
    return True


def step(edit: Edit, swap: Swap, limit: int = NAMERS_PER_STEP) -> bool:
    """Give some of the pieces to those who hold them; whether there are more. Unavailable if the pin was ended."""
    if edit.writer.get(keys.pin(swap.extent.id)) is None:
        raise Unavailable(f"the pin of extent {format_id(swap.extent.id)} was ended", retryable=False)
    while swap.next < len(swap.moved):
        moved = swap.moved[swap.next]
        for namer in namers.of_slice(edit.writer, moved.piece, swap.after):
            if limit == 0:
                _touch(edit, swap.extent.id)
                return True
            limit -= 1
            swap.after = namer.suffix
            _swap_one(edit, swap, moved, namer)
        swap.next += 1
        swap.after = b""
    return False


def end(edit: Edit, extent_id: Id) -> None:
    """Let the pin go, if there is one; an extent that nobody has taken a piece of is dropped."""
    if not edit.writer.delete(keys.pin(extent_id)):
        return
    row = extents.get(edit.writer, extent_id)
    assert row is not None, extent_id.hex()
    extents.release(edit, (SliceRow(extent_id, 0, sum(row.lengths)),))


def end_idle(edit: Edit, limit: int) -> int:
    """End up to `limit` pins without progress for PIN_IDLE_S; how many it were. There are never many pins."""
    before = edit.needs.leases.shown_before(PIN_IDLE_S)
    done = 0
    for key, data in edit.writer.scan(keys.PINS, keys.after(keys.PINS)):
        if done == limit:
            break
        if records.PIN.decode(data, key).touched_ms <= before:
            end(edit, keys.last_id(key))
            done += 1
    return done


def pins(reader: Reader) -> int:
    """How many extents are pinned."""
    return sum(1 for _ in reader.scan(keys.PINS, keys.after(keys.PINS)))


def _swap_one(edit: Edit, swap: Swap, moved: Moved, namer: Namer) -> None:
    if isinstance(namer, OfVersion):
        _swap_in_version(edit, swap, moved, namer)
    else:
        _swap_in_chunk(edit, swap, moved, namer)


def _swap_in_version(edit: Edit, swap: Swap, moved: Moved, namer: OfVersion) -> None:
    found = versions.locate(edit.writer, namer)
    if found is None or found[1].profile != swap.profile or moved.piece not in found[1].slices:
        return
    row_key, row = found
    if len(row.slices) == 1 and row.checksum != moved.sum:
        _log.error(
            "extent %s does not have the bytes of version %s: it keeps its own",
            format_id(swap.extent.id),
            format_id(row.version),
        )
        swap.wrong += 1
        return
    after = _exchange(edit, swap, moved, row.slices)
    namers.replace(edit.writer, namer, row.slices, after)
    edit.writer.put(row_key, records.VERSION.encode(msgspec.structs.replace(row, slices=after)))
    recoding.settle(edit, namer)


def _swap_in_chunk(edit: Edit, swap: Swap, moved: Moved, place: OfChunk) -> None:
    head = slices.find(edit.writer, place.list)
    if head is None or head.wanted != swap.profile or not head.refs:
        return
    before = slices.chunk(edit.writer, place.list, place.index)
    if moved.piece not in before:
        return
    after = _exchange(edit, swap, moved, before)
    slices.put_chunk(edit, place, before, after)
    if swap.profile not in head.profiles:
        profiles = tuple(sorted({*head.profiles, swap.profile}))
        slices.put_head(edit, place.list, msgspec.structs.replace(head, profiles=profiles))


def _exchange(edit: Edit, swap: Swap, moved: Moved, held: tuple[SliceRow, ...]) -> tuple[SliceRow, ...]:
    """The slices with the piece in its new place; references follow, those of what comes first."""
    new = SliceRow(swap.extent.id, moved.offset, moved.piece.length)
    count = held.count(moved.piece)
    extents.acquire(edit, (new,) * count)
    extents.release(edit, (moved.piece,) * count)
    swap.done += count * moved.piece.length
    return tuple(new if slice_ == moved.piece else slice_ for slice_ in held)


def _whole(extent: Extent) -> SliceRow:
    return SliceRow(extent.id, 0, extent.size)


def _touch(edit: Edit, extent_id: Id) -> None:
    edit.writer.put(keys.pin(extent_id), records.PIN.encode(PinRow(edit.needs.leases.id_time_ms())))
