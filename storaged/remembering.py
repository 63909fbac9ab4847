"""The calls about the catalog itself: what is remembered of it, told again to whoever rebuilds it, and its replacement.

They are answered without a catalog, to anybody who knows the cluster. Nothing here trusts the caller with more than a
catalog is trusted with: a term only rises, and shards are not touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from reedbed.common import logs
from reedbed.common.errors import DeviceFailed, InvalidArgument, ReedbedError, StaleTerm
from reedbed.common.ids import Id
from reedbed.protos import methods, storage_pb2
from reedbed.protos.convert import change_to_message, note_from_message, note_to_message, parse, whole_map
from reedbed.protos.types import CatalogNote, ClusterMap
from reedbed.storaged.state import CatalogState
from reedbed.storaged.store import ShardStore
from reedbed.transport.lane import Request, Response

Handler = Callable[[Request], Awaitable[Response]]

log = logs.get("storaged")


class Remembering:
    """Handlers for the devices of one process. `stores` gives them by their numbers in the cluster map."""

    def __init__(
        self, state: CatalogState, stores: Callable[[], Mapping[int, ShardStore]], endpoints: Sequence[str] = ()
    ) -> None:
        """`endpoints`: where the process looks for its catalogd."""
        self._state = state
        self._endpoints = endpoints
        self._stores = stores

    def handlers(self) -> dict[str, Handler]:
        """By method name."""
        return {methods.REMEMBER: self._remember, methods.RECALL: self._recall, methods.CLAIM: self._claim}

    async def _remember(self, request: Request) -> Response:
        note = note_from_message(parse(storage_pb2.RememberRequest, request.header).note)
        if note is None:
            raise InvalidArgument("no note to remember")
        self._check_term(note.term)
        before = self._newest_note()
        await self._follow(note.term)
        reply = storage_pb2.RememberReply(devices=await self._each(lambda number, store: store.remember(number, note)))
        if before is not None:
            reply.before.CopyFrom(note_to_message(before))
        return Response(reply.SerializeToString())

    async def _recall(self, request: Request) -> Response:
        parse(storage_pb2.RecallRequest, request.header)
        reply = storage_pb2.RecallReply(cluster=self._state.cluster, term=self._term(), endpoints=self._endpoints)
        newest: tuple[int, ClusterMap | None] = (0, None)
        for number, store in sorted(self._stores().items()):
            reply.devices.append(await asyncio.to_thread(_recalled, number, store))
            term, map_ = store.memory.map
            if map_ is not None and (newest[1] is None or (term, map_.epoch) > (newest[0], newest[1].epoch)):
                newest = term, map_
        reply.map_term = newest[0]
        payload = [] if newest[1] is None else [change_to_message(whole_map(newest[1])).SerializeToString()]
        return Response(reply.SerializeToString(), payload)

    async def _claim(self, request: Request) -> Response:
        term = parse(storage_pb2.ClaimRequest, request.header).term
        self._check_term(term)
        if term == self._term():
            raise StaleTerm(f"term {term} is taken", hint="Ask again what is remembered, and claim a higher one")
        log.warning("term %d is claimed: a catalog of a lower one is not followed any more", term)
        devices = await self._follow(term)
        return Response(storage_pb2.ClaimReply(devices=devices).SerializeToString())

    def _term(self) -> int:
        """The highest that was heard of by the process, or that one of its devices remembers."""
        return max((self._state.term, *(store.term for store in self._stores().values())))

    def _check_term(self, term: int) -> None:
        known = self._term()
        if term < known:
            raise StaleTerm(
                f"a catalog of term {term}, but one of term {known} was seen",
                hint="It has been replaced: stop it",
            )

    async def _follow(self, term: int) -> list[int]:
        """Take a term over; the devices that remember it durably."""
        self._state.saw(0, term)

        def note(_: int, store: ShardStore) -> bool:
            if store.term < term:
                store.note_term(term)
            return not store.failed

        return await self._each(note)

    async def _each(self, act: Callable[[int, ShardStore], bool]) -> list[int]:
        """The devices for which `act`, in a thread, came true; one that fails does not keep back the others."""

        async def one(number: int, store: ShardStore) -> int:
            try:
                return number if await asyncio.to_thread(act, number, store) else 0
            except (DeviceFailed, StaleTerm) as error:
                log.warning("device %d: %s", number, error)
                return 0

        done = await asyncio.gather(*(one(number, store) for number, store in sorted(self._stores().items())))
        return [number for number in done if number]

    def _newest_note(self) -> CatalogNote | None:
        notes = [store.memory.note for store in self._stores().values()]
        return max((note for note in notes if note is not None), key=lambda note: note.age, default=None)


def _recalled(number: int, store: ShardStore) -> storage_pb2.RecalledDevice:
    status = store.status()
    told = storage_pb2.RecalledDevice(
        number=number,
        uuid=bytes.fromhex(status.device),
        incarnation=status.incarnation,
        shards=status.shards,
        highest=_highest(store) or b"",
        log_term=status.log_position[0],
        log_seq=status.log_position[1],
        generations=[
            storage_pb2.PgGeneration(pg=pg, generation=generation)
            for pg, generation in sorted(store.generations().items())
        ],
    )
    if store.memory.note is not None:
        told.note.CopyFrom(note_to_message(store.memory.note))
    return told


def _highest(store: ShardStore) -> Id | None:
    try:
        return store.highest()
    except (OSError, ReedbedError) as error:
        log.warning("%s: its highest shard cannot be told: %s", store.folder, error)
        return None
