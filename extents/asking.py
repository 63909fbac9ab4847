"""Asking the positions of one extent for bytes of their shards, verified on receipt.

Invariants while one extent is read:

- Bytes are handed on only after every row of their shard's table has matched, with the seed of their place.
- A position that moves is asked at its target and then at its source, in the same try.
- An unknown shard or an old generation counts as a loss only when it is still the answer after the map was refreshed.
- `bad` holds the shards that are given up for this read, each with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from reedbed.common.clock import Deadline
from reedbed.common.errors import (
    Corrupt,
    DataLoss,
    DeadlineExceeded,
    ForkedStore,
    InvalidArgument,
    ReedbedError,
    StaleGeneration,
    Unavailable,
    UnknownShard,
    rebuild,
)
from reedbed.common.ids import format_id
from reedbed.ec.cut import Layout
from reedbed.ec.profiles import Profile
from reedbed.extents.blocks import BlockRows, unpack_table, verify_rows
from reedbed.extents.choose import needed_positions
from reedbed.extents.context import ClusterAccess
from reedbed.extents.offload import SUMS_AS_CODING, off_loop
from reedbed.protos import convert, storage_pb2
from reedbed.protos.methods import READ_SHARDS
from reedbed.protos.types import Device, Extent, PlacementGroup, Position

# Of one shard, these say that its bytes are gone; every other error, that they cannot be had at present.
_LOSSES = (UnknownShard, StaleGeneration, Corrupt)


@dataclass(frozen=True, slots=True)
class RowsWanted:
    """Of a parity shard: the rows of these data shards for the blocks that touch [start, end)."""

    shards: tuple[int, ...]
    start: int
    end: int


@lru_cache(1024)
def layout_of(lengths: tuple[int, ...]) -> Layout:
    return Layout(lengths)


@lru_cache(64)
def profile_of(k: int, m: int) -> Profile:
    return Profile(k, m)


@lru_cache(1024)
def _filled(lengths: tuple[int, ...], m: int) -> int:
    """A bit for each position whose shard has bytes."""
    return sum(1 << shard for shard in needed_positions(lengths, m))


class Asker:
    """The positions of one extent, for one read."""

    __slots__ = ("_background", "_map", "_pg", "access", "bad", "deadline", "extent", "layout", "peers", "profile")

    def __init__(self, access: ClusterAccess, extent: Extent, deadline: Deadline, *, background: bool = False) -> None:
        self.access = access
        self._background = background
        self.extent = extent
        self.deadline = deadline
        self.layout = layout_of(extent.lengths)
        self.profile = profile_of(extent.k, extent.m)
        self.bad: dict[int, ReedbedError] = {}
        self._pg: PlacementGroup | None = None
        self.peers: tuple[int, ...] = ()
        self._use_map()
        missing = _filled(extent.lengths, extent.m) & ~extent.present
        for shard in range(self.profile.n) if missing else ():
            if missing >> shard & 1:
                self.bad[shard] = UnknownShard(f"shard {shard} was not written", where=self.where())

    async def locate(self) -> None:
        """Finds the extent's PG, in a newer map if need be. Raises Unavailable where there is none."""
        if self._pg is None:
            await self._refresh()
        if self._pg is None:
            raise Unavailable(
                f"placement group {self.extent.pg} is not in the cluster map",
                where=f"{self.where()}, map epoch {self._map.epoch}",
                hint="Look the object up again: its bytes may have moved to another extent",
            )

    def where(self) -> str:
        return f"extent {format_id(self.extent.id)} on PG {self.extent.pg}"

    def place(self, shard: int) -> Position:
        """The shard's position, by the map in which the extent was located."""
        assert self._pg is not None
        return self._pg.positions[shard]

    def devices(self, shard: int) -> list[Device]:
        """Whom to ask for a shard, in order: the target, then the source; those that are up first."""
        place = self.place(shard)
        target = self._map.devices.get(place.device)
        if not place.source:
            return [target] if target is not None else []
        both = [device for device in (target, self._map.devices.get(place.source)) if device is not None]
        return sorted(both, key=lambda device: device.state != "up")

    def up(self, shard: int) -> bool:
        """Whether the shard was written and a device that should hold it is up."""
        return shard not in self.bad and any(device.state == "up" for device in self.devices(shard))

    def slow(self, shard: int, size: int) -> bool:
        """Whether the device that would be asked is known to be slow."""
        devices = self.devices(shard)
        return bool(devices) and self.access.latency.is_slow(devices[0].number, size, self.peers)

    def patience(self, shard: int, size: int) -> float:
        """Seconds after which an answer of the shard's device is late."""
        devices = self.devices(shard)
        return self.access.latency.patience(devices[0].number if devices else 0, size, self.peers)

    def overtaken(self, shard: int, size: int, seconds: float) -> None:
        """Notes that a shard's device was given up after so long, since others came first."""
        for device in self.devices(shard)[:1]:
            self.access.latency.record(device.number, size, seconds, overtaken=True)

    def give_up(self, shard: int, error: ReedbedError) -> None:
        """Counts a shard as not to be had in this read. Raises DeadlineExceeded if the whole read's time is up, and
        errors that are the caller's own."""
        if isinstance(error, ForkedStore):
            raise error
        self.deadline.check(f"reading {self.where()}")
        self.bad[shard] = error

    async def ask(
        self,
        shard: int,
        ranges: Sequence[tuple[int, int]],
        into: memoryview,
        rows: RowsWanted | None = None,
        own: list[BlockRows] | None = None,
    ) -> dict[int, BlockRows]:
        """Fills `into` with the (start, length) ranges of a shard, one after the other, in one call to one device.

        Returns the rows asked for, by data shard; `own` gets the rows of each range itself. Raises what the device
        raised: UnknownShard and StaleGeneration only as an unchanged answer, Corrupt also for bytes that do not match
        their sums.
        """
        try:
            return await self._ask_position(shard, ranges, into, rows, own)
        except (UnknownShard, StaleGeneration):
            await self._refresh()
        if self._pg is None:
            raise Unavailable(f"placement group {self.extent.pg} has left the cluster map", where=self.where())
        return await self._ask_position(shard, ranges, into, rows, own)

    def too_few(self) -> ReedbedError:
        """The error for a read that cannot be served: DataLoss if good shards are too few, Corrupt if too many of them
        arrived altered, Unavailable if they are merely out of reach.

        DataLoss is retryable where a shard was unknown: looked up again, the object may have other slices by now. Only
        the device itself can tell that a shard is damaged; what does not match its sums here may be whole there.
        """
        lost = {shard: error for shard, error in self.bad.items() if isinstance(error, _LOSSES)}
        away = {shard: error for shard, error in self.bad.items() if shard not in lost}
        altered = {shard: error for shard, error in lost.items() if type(error) is Corrupt}
        if self.deadline.left() == 0.0:
            return DeadlineExceeded("the deadline passed before enough shards answered", where=self.where())
        left = self.profile.n - len(lost)
        if left + len(altered) < self.profile.k:
            return DataLoss(
                f"{left} good shards are left and {self.profile} needs {self.profile.k}: {_reasons(lost)}",
                where=self.where(),
                hint="Bring back devices that hold its shards, or restore the object from elsewhere",
                retryable=any(not isinstance(error, Corrupt) for error in lost.values()),
            )
        if left < self.profile.k:
            return Corrupt(
                f"{len(altered)} shards arrived altered, {left} are left and {self.profile} needs {self.profile.k}: "
                f"{_reasons(lost)}",
                where=self.where(),
                hint="Look for what alters bytes between here and the devices",
                retryable=True,
            )
        for shard in range(self.profile.n):
            if shard not in self.bad and self.layout.length_of(shard) and not self.up(shard):
                away[shard] = Unavailable("its device is down")
        names = ", ".join(sorted({self._name(shard) for shard in away}))
        return Unavailable(
            f"too few devices answer to read {self.profile}: no bytes from {names} ({_reasons(self.bad | away)})",
            where=self.where(),
            hint="Bring the devices back; nothing is lost yet",
        )

    def _name(self, shard: int) -> str:
        return " or ".join(f"device {device.number} at {device.address}" for device in self.devices(shard)) or (
            f"the missing device of position {shard}"
        )

    def _use_map(self) -> None:
        self._map = self.access.map
        pg = self._map.pgs.get(self.extent.pg)
        if pg is not None and (pg.k, pg.m) != (self.extent.k, self.extent.m):
            pg = None
        self._pg = pg
        self.peers = () if pg is None else tuple([place.device for place in pg.positions])

    async def _refresh(self) -> None:
        await self.access.refresh(self._map.epoch, self.deadline)
        self._use_map()

    async def _ask_position(
        self,
        shard: int,
        ranges: Sequence[tuple[int, int]],
        into: memoryview,
        rows: RowsWanted | None,
        own: list[BlockRows] | None,
    ) -> dict[int, BlockRows]:
        errors: list[ReedbedError] = []
        for device in self.devices(shard):
            try:
                return await self.ask_device(device, shard, ranges, into, rows, own)
            except ReedbedError as error:
                if isinstance(error, Corrupt):
                    self.access.metrics.add("reads.damaged")
                errors.append(error)
        # one that cannot be had may yet hold it; and a newer map may know who does
        raise next(
            (error for error in errors if not isinstance(error, _LOSSES)),
            next(
                (error for error in errors if isinstance(error, UnknownShard | StaleGeneration)),
                errors[0] if errors else Unavailable(f"position {shard} has no device", where=self.where()),
            ),
        )

    async def ask_device(
        self,
        device: Device,
        shard: int,
        ranges: Sequence[tuple[int, int]],
        into: memoryview,
        rows: RowsWanted | None = None,
        own: list[BlockRows] | None = None,
    ) -> dict[int, BlockRows]:
        """As `ask`, of one device, whatever the map says."""
        extent_id = self.extent.id
        request = storage_pb2.ReadShardsRequest(
            background=self._background,
            reads=[
                storage_pb2.ShardRange(device=device.number, extent=extent_id, index=shard, offset=start, length=length)
                for start, length in ranges
            ],
        )
        if rows is not None:
            first = request.reads[0]
            first.rows_of.extend(rows.shards)
            first.rows_start, first.rows_end = rows.start, rows.end
        access = self.access
        began = access.clock.monotonic()
        reply = await access.call(device, READ_SHARDS, request.SerializeToString(), deadline=self.deadline, into=into)
        access.latency.record(device.number, len(into), access.clock.monotonic() - began)

        where = f"shard {shard} of {self.where()}, from device {device.number} at {device.address}"
        try:
            message = convert.parse(storage_pb2.ReadShardsReply, reply.header)
        except InvalidArgument as error:
            raise Corrupt(f"the answer does not parse: {error.what}", where=where) from error
        if len(message.results) != len(ranges):
            raise Corrupt(f"{len(message.results)} results for {len(ranges)} reads", where=where)
        for result in message.results:
            if result.failed:
                raise rebuild(result.code, result.what, where=where)
        if len(reply.payload) != len(into):
            raise Corrupt(f"{len(reply.payload)} bytes came instead of {len(into)}", where=where)
        found = await self._verify(shard, ranges, into, message, where)
        if own is not None:
            own[:] = found
        return {} if rows is None else _rows_given(message.results[0], rows, self.extent.lengths, where)

    async def _verify(
        self,
        shard: int,
        ranges: Sequence[tuple[int, int]],
        into: memoryview,
        message: storage_pb2.ReadShardsReply,
        where: str,
    ) -> list[BlockRows]:
        verified = []
        at = 0
        for (start, length), result in zip(ranges, message.results, strict=True):
            given = result.rows
            found = BlockRows(shard, given.first_block, start, unpack_table(given.table))
            if result.length != length or given.shard != shard or given.offset != start:
                raise Corrupt("the answer is for another range", where=where)
            if found.end != start + length:
                raise Corrupt("the rows do not add up to the range", where=where)
            data = into[at : at + length]
            wrong = await off_loop(
                length // SUMS_AS_CODING,
                lambda found=found, data=data: verify_rows(self.extent.id, found, data),  # type: ignore[misc]
            )
            if wrong is not None:
                raise Corrupt(f"block {wrong} does not match its checksum", where=where)
            verified.append(found)
            at += length
        return verified


def _rows_given(
    result: storage_pb2.ShardBytes, wanted: RowsWanted, lengths: Sequence[int], where: str
) -> dict[int, BlockRows]:
    """The rows of an answer by data shard; Corrupt unless they are those of the blocks that touch the range."""
    given: dict[int, BlockRows] = {}
    for message in result.data_rows:
        given[message.shard] = BlockRows(
            message.shard, message.first_block, message.offset, unpack_table(message.table)
        )
    for shard in wanted.shards:
        rows = given.get(shard)
        last = min(wanted.end, lengths[shard])
        if (
            rows is None
            or not rows.rows
            or not rows.offset <= wanted.start < rows.offset + rows.rows[0][0]
            or not rows.end - rows.rows[-1][0] < last <= rows.end <= lengths[shard]
        ):
            raise Corrupt(f"the rows given for shard {shard} do not cover the range asked for", where=where)
    return given


def _reasons(errors: Mapping[int, ReedbedError]) -> str:
    return "; ".join(f"shard {shard}: {error.what}" for shard, error in sorted(errors.items()))
