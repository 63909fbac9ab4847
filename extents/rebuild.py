"""Making one extent as planned: shards that positions lack are copied from the source or computed, and put.

Invariants:
- Nothing is put that was not verified: copied bytes by their rows, computed data by the rows that a parity shard has of
  it; computed parity comes from verified shards only.
- A shard is put with the block table that it had, so that putting it twice is harmless, whoever does it.
- A shard that its own device has already is put again: that renews it, and whoever counts shards hears of it. It is
  looked for there where the source does not have it, and where the shards that are known of do not suffice: a catalog
  that was restored may not know how far a position had moved.
- In memory are the k shards that it reads and those that it puts, and nothing of it outlives the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from reedbed.common.checksums import Buffer
from reedbed.common.clock import Deadline
from reedbed.common.errors import Corrupt, DataLoss, DiskFull, ReedbedError, Unavailable
from reedbed.ec.codec import codec_for
from reedbed.ec.cut import Layout, block_borders
from reedbed.ec.plan import DecodePlan, rebuild_plan
from reedbed.extents.asking import Asker, RowsWanted
from reedbed.extents.blocks import BlockRows, build_table, pack_table, verify_rows
from reedbed.extents.choose import needed_positions
from reedbed.extents.context import ClusterAccess
from reedbed.extents.offload import off_loop
from reedbed.protos import convert, storage_pb2
from reedbed.protos.methods import PUT_SHARD
from reedbed.protos.types import Ack, Device, Extent

_TRIES: Final = 4  # plans, each without the shards that failed before


@dataclass(slots=True)
class Rebuilt:
    """What came of it: who took which shard, bytes read and written, and why not all were. `full`: who had no room."""

    acks: list[Ack] = field(default_factory=list)
    read: int = 0
    written: int = 0
    error: str = ""
    full: list[int] = field(default_factory=list)


def memory_of(lengths: Sequence[int], positions: int) -> int:
    """Bytes that rebuilding so many positions of an extent with these data shards holds at most."""
    return max(lengths, default=0) * (len(lengths) + positions)


def bytes_to_write(lengths: Sequence[int], positions: Collection[int]) -> int:
    """Bytes that these positions of an extent with these data shards take."""
    layout = Layout(tuple(lengths))
    return sum(layout.length_of(position) for position in positions)


async def rebuild_extent(
    access: ClusterAccess, extent: Extent, positions: Collection[int], deadline: Deadline, *, at_once: bool = True
) -> Rebuilt:
    """Gives the devices of these positions their shards.

    With `at_once` all shards that it needs are read at the same time, else one after the other, in favour of others.
    Never raises for what devices do: the result tells how far it came.
    """
    needed = needed_positions(extent.lengths, extent.m)
    wanted = [one for one in sorted(set(positions)) if one in needed]
    rebuilder = _Rebuilder(access, extent, wanted, deadline, reads=len(extent.lengths) + extent.m if at_once else 1)
    try:
        await rebuilder.run()
    except ReedbedError as error:
        rebuilder.result.error = str(error)
    return rebuilder.result


class _Rebuilder:
    """One extent. `_rows` are the whole tables of data shards as far as they are known."""

    def __init__(
        self, access: ClusterAccess, extent: Extent, positions: list[int], deadline: Deadline, *, reads: int
    ) -> None:
        self._access = access
        self._extent = extent
        self._positions = positions
        self._deadline = deadline
        self._reading = asyncio.Semaphore(reads)
        self._asker = Asker(access, extent, deadline, background=True)
        self._layout = Layout(extent.lengths)
        self._data_rows: dict[int, BlockRows] = {}
        self.result = Rebuilt()

    async def run(self) -> None:
        if not self._positions:
            return
        await self._asker.locate()
        shards = await self._copied([shard for shard in self._positions if self._is_moving(shard)])
        try:
            shards.update(await self._computed(shards))
        except (DataLoss, Unavailable):
            if not await self._look_further(shards):
                raise
            shards.update(await self._computed(shards))
        errors = [str(error) for error in await self._put_all(shards) if error is not None]
        if errors:
            self.result.error = "; ".join(errors)

    def _is_moving(self, shard: int) -> bool:
        return bool(self._extent.present >> shard & 1 and self._asker.place(shard).source)

    async def _copied(self, wanted: Collection[int]) -> dict[int, memoryview]:
        """Those of these shards that the sources of their positions have, or their devices themselves."""

        async def copy(shard: int) -> memoryview | None:
            into = memoryview(bytearray(self._layout.length_of(shard)))
            own: list[BlockRows] = []
            for device in self._holders(shard):
                try:
                    rows = self._rows_of(shard, ())
                    async with self._reading:
                        rows_of = await self._asker.ask_device(device, shard, ((0, len(into)),), into, rows, own)
                except ReedbedError as error:
                    self._asker.bad[shard] = error
                    continue
                self._learn(shard, own, rows_of, len(into))
                self._asker.bad.pop(shard, None)
                return into
            return None

        found = await asyncio.gather(*(copy(shard) for shard in wanted))
        return {shard: data for shard, data in zip(wanted, found, strict=True) if data is not None}

    def _holders(self, shard: int) -> list[Device]:
        """The source of a shard's position, then its device, as far as they can be asked."""
        place = self._asker.place(shard)
        devices = (self._access.map.devices.get(number) for number in (place.source, place.device))
        return [device for device in devices if device is not None and device.state in ("up", "failed")]

    async def _look_further(self, shards: dict[int, memoryview]) -> bool:
        """Adds to `shards` those that lie where they belong though nobody knew; whether any may be had by now."""
        lost = [shard for shard in self._positions if shard not in shards]
        found = await self._copied(lost)
        shards.update(found)
        unasked = [shard for shard in self._asker.bad if shard not in lost and not self._extent.present >> shard & 1]
        for shard in unasked:
            del self._asker.bad[shard]
        return bool(found or unasked)

    async def _computed(self, known: Mapping[int, memoryview]) -> dict[int, memoryview]:
        """The shards that are not `known` and belong to the positions, from those that are, and others."""
        lost = [shard for shard in self._positions if shard not in known]
        if not lost:
            return {}
        held = dict(known)
        for _ in range(_TRIES):
            plan = self._plan(lost, held)
            asked = [part for part in plan.sources if part.shard not in held]
            sources = {part.shard for part in plan.sources}
            got = await asyncio.gather(*(self._fetch(part.shard, part.length, sources) for part in asked))
            self._deadline.check(f"rebuilding {self._asker.where()}")
            held.update({part.shard: data for part, data in zip(asked, got, strict=True) if data is not None})
            if all(part.shard in held for part in plan.sources):
                return await self._decode(plan, held)
        raise self._asker.too_few()

    def _plan(self, lost: list[int], held: Mapping[int, memoryview]) -> DecodePlan:
        asker = self._asker
        parity = list(range(asker.profile.k, asker.profile.n))
        self._access.rng.shuffle(parity)
        usable = [
            shard
            for shard in (*range(asker.profile.k), *parity)
            if shard not in lost and shard not in asker.bad and (shard in held or asker.up(shard))
        ]
        usable.sort(key=lambda shard: shard not in held)
        try:
            return rebuild_plan(self._layout, asker.profile, lost, usable)
        except DataLoss:
            raise asker.too_few() from None

    async def _fetch(self, shard: int, length: int, sources: Collection[int]) -> memoryview | None:
        into = memoryview(bytearray(length))
        own: list[BlockRows] = []
        try:
            async with self._reading:
                rows = await self._asker.ask(shard, ((0, length),), into, self._rows_of(shard, sources, length), own)
        except ReedbedError as error:
            self._asker.bad[shard] = error
            return None
        self._learn(shard, own, rows, length)
        return into

    def _rows_of(self, shard: int, sources: Collection[int], end: int | None = None) -> RowsWanted | None:
        """Of a parity shard, the tables of the data shards that are not read themselves."""
        if shard < self._asker.profile.k:
            return None
        end = self._layout.parity_length if end is None else end
        wanted = tuple(one for one, has in enumerate(self._layout.lengths) if has and one not in sources)
        return RowsWanted(wanted, 0, end) if wanted else None

    def _learn(self, shard: int, own: list[BlockRows], rows: Mapping[int, BlockRows], length: int) -> None:
        self.result.read += length
        if shard < self._asker.profile.k and length == self._layout.length_of(shard):
            self._data_rows[shard] = own[0]
        for one, found in rows.items():
            known = self._data_rows.get(one)
            if known is None or known.end < found.end:
                self._data_rows[one] = found

    async def _decode(self, plan: DecodePlan, held: Mapping[int, memoryview]) -> dict[int, memoryview]:
        have: dict[int, Buffer] = dict.fromkeys(plan.zeros, b"")
        have.update((part.shard, held[part.shard][: part.length]) for part in plan.sources)
        out = {part.shard: memoryview(bytearray(part.length)) for part in plan.want}
        rows = {shard: self._data_rows[shard] for shard in out if shard < self._asker.profile.k}
        codec, extent_id = codec_for(self._asker.profile), self._extent.id

        def decode() -> int | None:
            codec.rebuild(have, out)
            wrong = (shard for shard, found in rows.items() if verify_rows(extent_id, found, out[shard]) is not None)
            return next(wrong, None)

        wrong = await off_loop(sum(map(len, have.values())), decode)
        if wrong is not None:
            raise Corrupt(
                f"shard {wrong}, computed from {sorted(have)}, does not match its table", where=self._asker.where()
            )
        return out

    async def _put_all(self, shards: Mapping[int, Buffer]) -> list[ReedbedError | None]:
        async def put(shard: int, data: Buffer) -> ReedbedError | None:
            try:
                self.result.acks.append(await self._put(shard, data))
            except DiskFull as error:
                self.result.full.append(self._access.map.pgs[self._extent.pg].positions[shard].device)
                return error
            except ReedbedError as error:
                return error
            self.result.written += len(data)
            return None

        return list(await asyncio.gather(*(put(shard, data) for shard, data in shards.items())))

    async def _put(self, shard: int, data: Buffer) -> Ack:
        map_, extent, profile = self._access.map, self._extent, self._asker.profile
        pg = map_.pgs.get(extent.pg)
        device = map_.devices.get(pg.positions[shard].device) if pg is not None else None
        if pg is None or device is None:
            raise Unavailable(f"position {shard} has no device", where=self._asker.where())
        tables: list[bytes] = []
        if shard >= profile.k:
            for one, has in enumerate(self._layout.lengths):
                if has and (one not in self._data_rows or self._data_rows[one].end != has):
                    raise Corrupt(f"the table of data shard {one} is not known", where=self._asker.where())
            tables = [
                pack_table(self._data_rows[one].rows) if has else b"" for one, has in enumerate(self._layout.lengths)
            ]
            borders = block_borders(len(data))
            table = await off_loop(len(data), lambda: build_table(extent.id, shard, (data,), borders))
        else:
            table = pack_table(self._data_rows[shard].rows)
        term, seq = self._access.log_position()
        header = storage_pb2.PutShardRequest(
            device=device.number,
            extent=extent.id,
            index=shard,
            k=profile.k,
            m=profile.m,
            pg=pg.id,
            generation=pg.generation,
            table=table,
            data_tables=tables,
            log_term=term,
            log_seq=seq,
            background=True,
        ).SerializeToString()
        reply = await self._access.call(device, PUT_SHARD, header, (data,), deadline=self._deadline)
        answer = convert.parse(storage_pb2.PutShardReply, reply.header)
        return Ack(shard, device.number, answer.incarnation)
