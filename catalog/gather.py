"""What is to be rewritten next: pieces gathered into groups, each of which becomes one extent. Rows in, groups out.

Two laps look for it, some rows at a time: one over the queue of versions to be recoded, one over the queue of sparse
extents. What a lap has gathered goes into lots, by bucket, profile and kind of piece; a full lot is a group. At the end
of a lap every lot is given out that is worth it; a lone small object without company stays where it is.

Invariants:
- A piece is a whole slice, and goes into one group at a time: `busy` holds the places of all that are given out.
- Compaction moves no extent to which commits may still come: those below the horizon only.
- Nothing is compacted that would not free a quarter of what it holds now. So nothing is rewritten for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from reedbed.catalog import extents, namers, recoding, slices, sparse, versions
from reedbed.catalog.engine import Reader
from reedbed.catalog.namers import Namer, OfVersion
from reedbed.catalog.records import SliceRow, VersionRow
from reedbed.common.ids import Id
from reedbed.common.limits import KIB, MIB, PAYLOAD_MAX, SLICES_CHUNK
from reedbed.ec.cut import choose_packing, extent_bytes
from reedbed.ec.profiles import Profile, parse_profile

PIECES_MAX: Final = 4096  # of one group
SMALL: Final = 512 * KIB  # larger pieces are not mixed with smaller ones
SMALL_BYTES: Final = 16 * MIB  # of a group of small pieces, also where the profile would allow more
GAIN: Final = 0.75  # what a compacted group may hold at most of what its pieces held before
LOTS_MAX: Final = 1000
KEPT_MAX: Final = 100_000  # pieces in lots
ROWS: Final = 250  # that one look takes in

Place = tuple[bytes, int]


@dataclass(frozen=True, slots=True)
class Group:
    """Pieces that are to become one extent of `profile`; `compacts`: for their own sake, else for their profile's."""

    profile: str
    pieces: tuple[SliceRow, ...]
    compacts: bool

    @property
    def size(self) -> int:
        return sum(piece.length for piece in self.pieces)


def place_of(piece: SliceRow) -> Place:
    return piece.extent, piece.offset


@dataclass(slots=True)
class _Lot:
    """`held` bytes of devices would be freed by moving the pieces."""

    pieces: list[SliceRow] = field(default_factory=list)
    size: int = 0
    held: int = 0


class Lots:
    """Pieces by bucket, profile and kind, until they are enough for an extent."""

    def __init__(self, compacts: bool) -> None:
        self._compacts = compacts
        self._lots: dict[tuple[int, str, bool], _Lot] = {}
        self._known: set[tuple[str, SliceRow]] = set()

    def add(self, bucket: int, profile: str, piece: SliceRow, held: int) -> Iterator[Group]:
        """Take a piece in, unless it is here already; the groups that are full by now."""
        if (profile, piece) in self._known:
            return
        self._known.add((profile, piece))
        small = piece.length <= SMALL
        code = parse_profile(profile)
        room = min(extent_bytes(code), SMALL_BYTES) if small else extent_bytes(code)
        key = bucket, profile, small
        lot = self._lots.setdefault(key, _Lot())
        if lot.pieces and lot.size + piece.length > room:
            yield from self._give(key)
            lot = self._lots.setdefault(key, _Lot())
        lot.pieces.append(piece)
        lot.size += piece.length
        lot.held += held
        if lot.size >= room or len(lot.pieces) == PIECES_MAX:
            yield from self._give(key)
        elif len(self._lots) > LOTS_MAX or len(self._known) > KEPT_MAX:
            yield from self._give(max(self._lots, key=lambda one: self._lots[one].size))

    def rest(self) -> Iterator[Group]:
        """The groups of what is left, at the end of a lap."""
        for key in list(self._lots):
            yield from self._give(key)

    def _give(self, key: tuple[int, str, bool]) -> Iterator[Group]:
        lot = self._lots.pop(key)
        self._known.difference_update((key[1], piece) for piece in lot.pieces)
        code = parse_profile(key[1])
        if not self._compacts or new_bytes(lot.pieces, code) <= GAIN * lot.held:
            yield Group(key[1], tuple(lot.pieces), self._compacts)


def new_bytes(pieces: Sequence[SliceRow], profile: Profile) -> int:
    """What the shards of an extent with these pieces hold."""
    return choose_packing([piece.length for piece in pieces], profile).layout.stored(profile)


def fits(piece: SliceRow, profile: Profile) -> bool:
    """Whether one extent can hold the piece, with shards that one call takes."""
    return piece.length <= profile.k * PAYLOAD_MAX


@dataclass(slots=True)
class Found:
    """What a look found: groups to rewrite, and versions that only the catalog has something to do for.

    settle: nothing is left to be recoded of them, or they are gone. lists: the same, of their list. prepare: they need
    a list of their own. `ended`: the lap is over.
    """

    groups: list[Group] = field(default_factory=list)
    settle: list[OfVersion] = field(default_factory=list)
    lists: list[tuple[OfVersion, Id]] = field(default_factory=list)
    prepare: list[OfVersion] = field(default_factory=list)
    ended: bool = False

    @property
    def any(self) -> bool:
        return bool(self.groups or self.settle or self.lists or self.prepare)


class RecodeLap:
    """One lap after the other over the queue of versions to be recoded. `skip` tells of pieces to be left alone."""

    def __init__(self, skip: Callable[[SliceRow], bool]) -> None:
        self._skip = skip
        self._after = b""  # version
        self._inside: tuple[Id, int, bool] | None = None  # a version whose list was seen up to there; whether it fits
        self._lots = Lots(compacts=False)
        self._large = 0
        self.too_large = 0  # pieces that no extent of their profile can hold, in the last lap

    def look(self, reader: Reader) -> Found:
        """Look at some more."""
        found = Found()
        left = ROWS
        for namer in recoding.queue(reader, self._after):
            if left <= 0:
                return found
            left -= 1 + self._version(reader, namer, left, found)
            if self._inside is not None:
                return found
            self._after = namer.version
        found.groups.extend(self._lots.rest())
        found.ended = True
        self.too_large, self._large = self._large, 0
        self._after, self._lots = b"", Lots(compacts=False)
        return found

    def _version(self, reader: Reader, namer: OfVersion, room: int, found: Found) -> int:
        """Returns how many slices were looked at; `_inside` is set while the version's list was not seen whole."""
        inside, self._inside = self._inside, None
        located = versions.locate(reader, namer)
        if located is None or located[1].marker:
            found.settle.append(namer)
            return 0
        row = located[1]
        if row.slice_list is not None:
            chunk, fit = inside[1:] if inside is not None and inside[0] == namer.version else (0, True)
            return self._list(reader, namer, row, room, found, chunk, fit)
        if self._gather(reader, namer.bucket, row.profile, row.slices, found):
            found.settle.append(namer)
        return len(row.slices)

    def _list(
        self, reader: Reader, namer: OfVersion, row: VersionRow, room: int, found: Found, chunk: int, fit: bool
    ) -> int:
        list_id = Id(row.slice_list or b"")
        head = slices.head(reader, list_id)
        if head.wanted != row.profile:
            found.prepare.append(namer)
            return 0
        count = 0
        while chunk * SLICES_CHUNK < head.count:
            if count and count >= room:
                self._inside = namer.version, chunk, fit
                return count
            part = slices.chunk(reader, list_id, chunk)
            fit &= self._gather(reader, namer.bucket, row.profile, part, found)
            count += len(part)
            chunk += 1
        if fit:
            found.lists.append((namer, list_id))
        return count

    def _gather(self, reader: Reader, bucket: int, profile: str, held: Sequence[SliceRow], found: Found) -> bool:
        """Whether all these slices have the profile already."""
        code, fit = parse_profile(profile), True
        known: dict[bytes, bool] = {}
        for piece in dict.fromkeys(held):
            if piece.extent not in known:
                extent = extents.get(reader, Id(piece.extent))
                known[piece.extent] = extent is None or (extent.k, extent.m) == (code.k, code.m)
            if known[piece.extent]:
                continue
            fit = False
            if not fits(piece, code):
                self._large += 1
            elif not self._skip(piece):
                found.groups.extend(self._lots.add(bucket, profile, piece, 0))
        return fit


class SparseLap:
    """One lap after the other over the queue of sparse extents."""

    def __init__(self, skip: Callable[[SliceRow], bool]) -> None:
        self._skip = skip
        self._after: tuple[int, bytes] | None = None
        self._inside: tuple[Id, bytes] | None = None  # an extent whose namers were seen up to there
        self._lots = Lots(compacts=True)

    def look(self, reader: Reader, most: int, below: Id) -> Found:
        """Look at some more, up to the fill `most`, of extents below the horizon."""
        found = Found()
        left = ROWS
        for at, extent_id in sparse.queue(reader, most, below, self._after):
            if left <= 0:
                return found
            left -= 1 + self._extent(reader, extent_id, left, found)
            if self._inside is not None:
                return found
            self._after = at, extent_id
        found.groups.extend(self._lots.rest())
        found.ended = True
        self._after, self._lots = None, Lots(compacts=True)
        return found

    def _extent(self, reader: Reader, extent_id: Id, room: int, found: Found) -> int:
        """Returns how many namers were looked at; `_inside` is set while there are more."""
        inside, self._inside = self._inside, None
        extent = extents.get(reader, extent_id)
        if extent is None or not extent.live:
            return 0
        last = inside[1] if inside is not None and inside[0] == extent_id else b""
        count = 0
        for after, offset, namer in namers.of_extent(reader, extent_id, last):
            if count and count >= room:
                self._inside = extent_id, last
                return count
            count, last = count + 1, after
            bucket, profile, held = _held(reader, namer)
            for piece in dict.fromkeys(held):
                if place_of(piece) != (extent_id, offset):
                    continue
                if fits(piece, parse_profile(profile)) and not self._skip(piece):
                    share = sparse.stored(extent) * piece.length // extent.live
                    found.groups.extend(self._lots.add(bucket, profile, piece, share))
        return count


def _held(reader: Reader, namer: Namer) -> tuple[int, str, Sequence[SliceRow]]:
    """Bucket (0 for a list), profile that is wanted, and slices of whoever names an extent; none if it has no wish."""
    if isinstance(namer, OfVersion):
        located = versions.locate(reader, namer)
        return (0, "", ()) if located is None else (namer.bucket, located[1].profile, located[1].slices)
    head = slices.find(reader, namer.list)
    if head is None or not head.refs or not head.wanted:  # loose, or an upload's
        return 0, "", ()
    return 0, head.wanted, slices.chunk(reader, namer.list, namer.index)
