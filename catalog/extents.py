"""Extents as the catalog knows them: who names them, which positions hold their shards, and when they are garbage.

Invariants:
- `refs` of an extent is the number of slices that name it, `live` the sum of their lengths: over the inline slices of
  all versions, and over all chunks (a shared chunk counts once; slices of an upload lie in chunks as well).
- `refs` is above 0 exactly while the extent is live. At 0 it is dropped at once: it moves from the queue of degraded
  extents to that of dropped ones.
- A dropped extent is revived by a request that brings it along as a new one, with the same layout and an id that is
  not below the horizon: objects that were packed into one extent are committed one after the other, and the end of
  the first must not be felt by the next. Below the horizon, where its shards may be gone, it is never named again.
- A revived extent's row is that of a new one: where its shards lie is the map's judgement of this moment on what the
  request acknowledges, not what the row said when it was dropped, since no move is noted in a dropped extent's row.
- A dropped extent is forgotten, and its shards are ordered to go, only below the horizon, which never falls: so no
  order exists for what is revived.
- What a live extent lacks is queued (lacks.py).

`acquire` and `release` leave the rows that they change to the Edit, which writes each once (edit.py): many objects of
one extent come in one commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import msgspec

from reedbed.catalog import keys, lacks, records
from reedbed.catalog.edit import Edit, Waiting
from reedbed.catalog.engine import Reader
from reedbed.catalog.needs import AckJudge, check_new_id
from reedbed.catalog.records import ExtentRow, SliceRow
from reedbed.common.errors import InvalidArgument, Unavailable
from reedbed.common.ids import Id, format_id, is_system
from reedbed.ec.profiles import Profile
from reedbed.protos.types import Extent


class Offers:
    """The extents that one request brings along, each judged at most once."""

    def __init__(self, judge: AckJudge, extents: Iterable[Extent] = (), *, system: bool = False) -> None:
        """`system`: they are the catalog's own. InvalidArgument for one whose id says otherwise."""
        self._judge = judge
        self._extents: dict[bytes, Extent] = {}
        self._present: dict[bytes, int] = {}
        for extent in extents:
            if is_system(extent.id) != system:
                raise InvalidArgument(f"extent {format_id(extent.id)} was never leased to you")
            if self._extents.setdefault(extent.id, extent) != extent:
                raise InvalidArgument(f"extent {format_id(extent.id)} is given twice, differently")

    def get(self, extent_id: bytes) -> Extent | None:
        return self._extents.get(extent_id)

    def present(self, extent: Extent) -> int:
        """The positions that hold a shard by the cluster map's judgement; StaleGeneration as of AckJudge."""
        if extent.id not in self._present:
            self._present[extent.id] = self._judge.judge(extent) & lacks.required(extent.lengths, extent.m)
        return self._present[extent.id]

    def moving(self, extent: Extent) -> tuple[int, int]:
        """The positions that only their source has a shard of, and the PG's generation; after `present`."""
        held, generation = self._judge.at_sources(extent)
        return held & lacks.required(extent.lengths, extent.m) & ~self.present(extent), generation


@dataclass(frozen=True, slots=True)
class DroppedExtent:
    """An entry of the removal queue."""

    id: Id
    dropped_ms: int
    row: ExtentRow


def profile_of(row: ExtentRow) -> str:
    return _profile_name(row.k, row.m)


@lru_cache(256)
def _profile_name(k: int, m: int) -> str:
    return Profile(k, m).name


def get(reader: Reader, extent_id: Id) -> ExtentRow | None:
    """The row of a live or dropped extent."""
    key = keys.extent(extent_id)
    data = reader.get(key)
    return None if data is None else records.EXTENT.decode(data, key)


def to_type(extent_id: Id, row: ExtentRow) -> Extent:
    """The extent as readers should see it."""
    return Extent(extent_id, row.k, row.m, row.pg, row.generation, row.lengths, lacks.visible(row))


def acquire(edit: Edit, slices: Sequence[SliceRow], offers: Offers | None = None) -> set[str]:
    """One more reference for each slice; extents that are new come from `offers`. Returns the extents' profiles.

    Raises InvalidArgument (unknown extent, slice outside it, layout other than recorded), BelowHorizon (a new extent's
    id), StaleGeneration (of the judge), Unavailable (fewer than k+1 positions present, or dropped for good).
    """
    profiles = set()
    for extent_id, group in _by_extent(slices):
        stored, row = _newest(edit, extent_id)
        offer = offers.get(extent_id) if offers else None
        if row is None:
            if offers is None or offer is None:
                raise InvalidArgument(
                    f"slice of extent {format_id(extent_id)}, which is neither recorded nor given",
                    hint="Give each new extent with the request that names it",
                )
            new = _admitted(edit, offer, offers)
            edit.count(live_extents=1)
        else:
            if row.dropped_ms is not None:
                new = _revived(edit, row, extent_id, offers)
            else:
                new = row if offer is None or offers is None else _confirmed(edit, row, offer, offers)
        size = sum(new.lengths)
        live = new.live
        for slice_ in group:
            if slice_.length < 1 or slice_.offset + slice_.length > size:
                raise InvalidArgument(
                    f"slice of {slice_.length} bytes at {slice_.offset} is outside extent {format_id(extent_id)} "
                    f"of {size} bytes"
                )
            live += slice_.length
        edit.wait(extent_id, stored, _counted(new, new.refs + len(group), live), _write)
        profiles.add(profile_of(new))
    return profiles


def release(edit: Edit, slices: Sequence[SliceRow]) -> None:
    """One reference less for each slice; an extent without any is dropped."""
    for extent_id, group in _by_extent(slices):
        stored, row = _newest(edit, extent_id)
        assert row is not None, extent_id.hex()
        assert row.dropped_ms is None, extent_id.hex()
        assert row.refs >= len(group), extent_id.hex()
        refs, live = row.refs - len(group), row.live - sum(slice_.length for slice_ in group)
        dropped_ms = None
        if not refs:
            live, dropped_ms = 0, edit.needs.leases.id_time_ms()
            edit.count(live_extents=-1, dropped_extents=1)
        edit.wait(extent_id, stored, _counted(row, refs, live, dropped_ms), _write)


def _newest(edit: Edit, extent_id: Id) -> Waiting | tuple[None, None]:
    """The row of an extent as it was written last, and as it is now."""
    waiting = edit.waiting.get(extent_id)
    if waiting is not None:
        return waiting
    row = get(edit.rows, extent_id)
    return (None, None) if row is None else (row, row)


def _counted(row: ExtentRow, refs: int, live: int, dropped_ms: int | None = None) -> ExtentRow:
    return ExtentRow(
        row.k,
        row.m,
        row.pg,
        row.generation,
        row.lengths,
        row.present,
        refs,
        live,
        dropped_ms,
        row.gone,
        row.moving,
    )


def _write(edit: Edit, extent_id: Id, old: ExtentRow | None, new: ExtentRow) -> None:
    """Write a row that waited: it, what follows from it, and the removal queue."""
    before = None if old is None else old.dropped_ms
    if before != new.dropped_ms:
        if before is not None:
            edit.rows.delete(keys.dropped(before, extent_id))
        if new.dropped_ms is not None:
            edit.rows.put(keys.dropped(new.dropped_ms, extent_id), b"")
    lacks.store(edit, extent_id, old, new)


def set_present(edit: Edit, extent_id: Id, present: int, generation: int | None = None) -> bool:
    """Record which positions hold their shard now, after loss or rebuilding; False if the extent is not live."""
    row = get(edit.writer, extent_id)
    if row is None or row.dropped_ms is not None:
        return False
    here = present & lacks.required(row.lengths, row.m)
    new = msgspec.structs.replace(
        row,
        present=here,
        gone=row.gone & here,
        moving=row.moving & here,
        generation=row.generation if generation is None else generation,
    )
    if new != row:
        lacks.store(edit, extent_id, row, new)
    return True


def live(reader: Reader, after: Id | None = None) -> Iterator[tuple[Id, ExtentRow]]:
    """The live extents in order of their ids, from the one after `after` on."""
    start = keys.EXTENTS if after is None else keys.extent(after) + b"\x00"
    for key, data in reader.scan(start, keys.after(keys.EXTENTS)):
        row = records.EXTENT.decode(data, key)
        if row.dropped_ms is None:
            yield keys.last_id(key), row


def dropped(reader: Reader, before_ms: int, limit: int, after: tuple[int, Id] | None = None) -> list[DroppedExtent]:
    """The removal queue: extents dropped before that time of the id clock, oldest first, after (time, id) `after`."""
    found: list[DroppedExtent] = []
    for _, extent_id in islice(dropped_ids(reader, before_ms, after), limit):
        row = get(reader, extent_id)
        assert row is not None, extent_id.hex()
        assert row.dropped_ms is not None, extent_id.hex()
        found.append(DroppedExtent(extent_id, row.dropped_ms, row))
    return found


def dropped_ids(reader: Reader, before_ms: int, after: tuple[int, Id] | None = None) -> Iterator[tuple[int, Id]]:
    """The same without their rows: (time, id)."""
    start = keys.DROPPED if after is None else keys.dropped(*after) + b"\x00"
    for key, _ in reader.scan(start, keys.DROPPED + before_ms.to_bytes(8, "big")):
        yield int.from_bytes(key[len(keys.DROPPED) : len(keys.DROPPED) + 8], "big"), keys.last_id(key)


def forget_dropped(edit: Edit, extent_id: Id) -> bool:
    """Remove a dropped extent's last trace, once its shards are gone; False if there is none.

    InvalidArgument for a live extent and for an id that is not below the horizon yet.
    """
    row = get(edit.writer, extent_id)
    if row is None:
        return False
    if row.dropped_ms is None or not edit.below_horizon(extent_id):
        raise InvalidArgument(f"extent {format_id(extent_id)} is live or not below the horizon", where="catalog")
    edit.writer.delete(keys.extent(extent_id))
    edit.writer.delete(keys.dropped(row.dropped_ms, extent_id))
    edit.count(dropped_extents=-1)
    return True


def _by_extent(slices: Sequence[SliceRow]) -> Iterable[tuple[Id, Sequence[SliceRow]]]:
    if len(slices) == 1:
        return ((Id(slices[0].extent), slices),)
    groups: dict[Id, list[SliceRow]] = {}
    for slice_ in slices:
        groups.setdefault(Id(slice_.extent), []).append(slice_)
    return groups.items()


def _admitted(edit: Edit, offer: Extent, offers: Offers) -> ExtentRow:
    """The row of a new extent, still without references."""
    check_new_id(edit.needs.leases, offer.id, "extent")
    if not any(offer.lengths):
        raise InvalidArgument(f"extent {format_id(offer.id)} has only empty data shards")
    here = offers.present(offer)
    moving, generation = offers.moving(offer)
    present = here | moving
    there = present.bit_count() + sum(1 for length in offer.lengths if not length)
    if there < offer.k + 1:
        raise Unavailable(
            f"extent {format_id(offer.id)} has {there} of {offer.k + offer.m} positions, at least {offer.k + 1} "
            "are needed",
            where=f"PG {offer.pg}",
            hint="Write it again to a healthy PG",
        )
    return ExtentRow(offer.k, offer.m, offer.pg, generation, offer.lengths, present, 0, 0, moving=moving)


def _revived(edit: Edit, row: ExtentRow, extent_id: Id, offers: Offers | None) -> ExtentRow:
    """The row of a dropped extent that is given once more, still without references and out of the removal queue."""
    offer = offers.get(extent_id) if offers else None
    if offers is None or offer is None or edit.below_horizon(extent_id):
        raise Unavailable(
            f"extent {format_id(extent_id)} was dropped when nothing named it any more",
            hint="Write the bytes again to a new extent",
        )
    _check_layout(row, offer)
    new = _admitted(edit, offer, offers)
    edit.count(live_extents=1, dropped_extents=-1)
    return new


def _check_layout(row: ExtentRow, offer: Extent) -> None:
    if (row.k, row.m, row.pg, row.lengths) != (offer.k, offer.m, offer.pg, offer.lengths):
        raise InvalidArgument(
            f"extent {format_id(offer.id)} is recorded with another layout", hint="An extent never changes once written"
        )


def _confirmed(edit: Edit, row: ExtentRow, offer: Extent, offers: Offers) -> ExtentRow:
    """The row of an extent that is given once more: the same layout, perhaps further acknowledgements.

    Those count only above the horizon: until then devices tell of shards that they have lost since (comparing.py).
    """
    _check_layout(row, offer)
    if not lacks.missing(row) or row.generation != offer.generation or edit.below_horizon(offer.id):
        return row
    return msgspec.structs.replace(row, present=row.present | offers.present(offer))
