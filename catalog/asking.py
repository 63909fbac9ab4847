"""What a catalogd, or who rebuilds one, asks storaged processes about the catalog itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from reedbed.common.clock import Clock, Deadline
from reedbed.common.errors import InvalidArgument, ReedbedError
from reedbed.common.ids import Id, check_id
from reedbed.common.limits import ADDRESS_MAX, PAGE_MAX
from reedbed.protos import catalog_pb2, methods, storage_pb2
from reedbed.protos.convert import change_from_message, note_from_message, note_to_message, parse
from reedbed.protos.types import CatalogNote, ClusterMap
from reedbed.transport.pool import LanePool

ASK_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Recalled:
    """What one device tells. highest: extent id of its shards; log: the newest position in its records."""

    number: int
    uuid: bytes
    highest: Id | None
    log: tuple[int, int]
    note: CatalogNote | None
    generations: Mapping[int, int] = field(default_factory=dict)
    shards: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one process tells; `map_term` is that of the catalog that told it the map."""

    address: str
    cluster: bytes
    term: int
    devices: Sequence[Recalled]
    map_term: int = 0
    map: ClusterMap | None = None
    endpoints: Sequence[str] = ()  # where the process looks for its catalogd


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """A shard of the catalog's copy, or of any extent, where it was found."""

    extent: Id
    index: int
    k: int
    m: int
    pg: int
    generation: int
    length: int
    device: int


class Asking:
    """Calls to storaged processes by address. All raise what the transport and the process raise."""

    def __init__(self, pool: LanePool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def recall(self, address: str, seconds: float = ASK_S) -> Answer:
        """What the process remembers of the catalog. InvalidArgument for one that is no storaged."""
        deadline = Deadline(seconds, self._clock)
        lane = await self._pool.lane(address, deadline=deadline)
        if lane.hello.role != "storaged":
            raise InvalidArgument(f"a {lane.hello.role} answers there, not a storaged", where=address)
        request = storage_pb2.RecallRequest().SerializeToString()
        reply = await self._pool.call(address, methods.RECALL, request, deadline=deadline)
        message = parse(storage_pb2.RecallReply, reply.header)
        map_ = change_from_message(parse(catalog_pb2.MapDelta, bytes(reply.payload))).apply(None)
        return Answer(
            address,
            message.cluster,
            message.term,
            [_recalled(device) for device in message.devices],
            message.map_term,
            map_ if len(reply.payload) else None,
            [endpoint for endpoint in message.endpoints if len(endpoint) <= ADDRESS_MAX],
        )

    async def remember(
        self, address: str, note: CatalogNote, seconds: float = ASK_S
    ) -> tuple[list[int], CatalogNote | None]:
        """Have the process remember a note: its devices that do, and the newest note it knew before. StaleTerm."""
        request = storage_pb2.RememberRequest(note=note_to_message(note)).SerializeToString()
        deadline = Deadline(seconds, self._clock)
        reply = await self._pool.call(address, methods.REMEMBER, request, deadline=deadline)
        message = parse(storage_pb2.RememberReply, reply.header)
        return list(message.devices), note_from_message(message.before)

    async def claim(self, address: str, term: int) -> list[int]:
        """Have the process follow no catalog of a lower term any more; its devices that remember that. StaleTerm."""
        request = storage_pb2.ClaimRequest(term=term).SerializeToString()
        reply = await self._pool.call(address, methods.CLAIM, request, deadline=Deadline(ASK_S, self._clock))
        return list(parse(storage_pb2.ClaimReply, reply.header).devices)

    async def shards(
        self, address: str, device: int, after: tuple[Id, int] | None, *, system: bool, limit: int = PAGE_MAX
    ) -> tuple[list[ShardPlace], bool]:
        """Shards of a device behind (extent, index), in order, of the catalog's copy only if asked so; and if more."""
        request = storage_pb2.ListShardsRequest(
            device=device,
            after_extent=after[0] if after else b"",
            after_index=after[1] if after else 0,
            limit=limit,
            system=system,
        )
        deadline = Deadline(ASK_S, self._clock)
        reply = await self._pool.call(address, methods.LIST_SHARDS, request.SerializeToString(), deadline=deadline)
        message = parse(storage_pb2.ListShardsReply, reply.header)
        found = [
            ShardPlace(
                check_id(one.extent, "extent id"),
                one.index,
                one.k,
                one.m,
                one.pg,
                one.generation,
                one.length,
                device,
            )
            for one in message.shards
        ]
        return found, message.more


async def ask_all(
    asking: Asking, addresses: Iterable[str], seconds: float = ASK_S
) -> tuple[list[Answer], dict[str, ReedbedError]]:
    """What all of these processes remember, and why some did not answer."""

    async def one(address: str) -> Answer | ReedbedError:
        try:
            return await asking.recall(address, seconds)
        except ReedbedError as error:
            return error

    asked = sorted(set(addresses))
    answers = await asyncio.gather(*(one(address) for address in asked))
    good = [answer for answer in answers if isinstance(answer, Answer)]
    bad = {address: answer for address, answer in zip(asked, answers, strict=True) if isinstance(answer, ReedbedError)}
    return good, bad


def _recalled(message: storage_pb2.RecalledDevice) -> Recalled:
    return Recalled(
        message.number,
        message.uuid,
        check_id(message.highest, "extent id") if message.highest else None,
        (message.log_term, message.log_seq),
        note_from_message(message.note),
        {one.pg: one.generation for one in message.generations},
        message.shards,
    )
