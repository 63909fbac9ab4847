"""What a storaged answers over lanes: put, read and list shards, status. Disk work runs in
threads, not in the loop, but for what waits for no disk.

Reads and lists are answered without a catalog too, for whoever rebuilds one.

Puts need no task (putting.py), nor do small reads of what is in memory: `begin` answers them.

Invariants: nothing here deletes a shard (only the catalog's orders do, see agent.py); a put is answered only after its
shard is durable; while the catalog has not been heard for the time that it granted, puts are refused. Bytes that are
read hold room from before they are read until they have left, so that memory stays bounded however many clients ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any, Final

import msgspec

from reedbed.common import logs
from reedbed.common.errors import ReedbedError, Unavailable
from reedbed.common.ids import check_id
from reedbed.common.limits import CALLS_MAX, MIB, PAGE_MAX, PAYLOAD_MAX, PROTOCOL_VERSION, WINDOW
from reedbed.protos import methods, storage_pb2
from reedbed.protos.convert import parse
from reedbed.storaged.buffers import LARGE, Buffers
from reedbed.storaged.calls import ReadResult, ReadShard
from reedbed.storaged.comparer import Comparison
from reedbed.storaged.politeness import Foreground
from reedbed.storaged.putting import Putting
from reedbed.storaged.reading import Asked, check_index
from reedbed.storaged.readroom import ReadRoom
from reedbed.storaged.remembering import Remembering
from reedbed.storaged.state import CatalogState
from reedbed.storaged.store import ShardStore
from reedbed.transport.greeting import SOFTWARE
from reedbed.transport.lane import Answer, Hello, Request, Response
from reedbed.transport.service import Router

READ_BYTES: Final = 64 * MIB  # that reads hold, of all clients together
KEPT_BYTES: Final = 16 * MIB  # of memory for large reads, while nobody reads
MEMORY: Final = 144 * MIB  # of requests and answers together, for the server's budget
NOW_BYTES: Final = MIB  # of one call that is read in the event loop: less time than a thread takes to begin

assert PAYLOAD_MAX + READ_BYTES < MEMORY
log = logs.get("storaged")


class StorageService:
    """The service of one process, with its devices by their numbers in the cluster map."""

    def __init__(self, state: CatalogState, readers: Callable[[str], Executor], endpoints: Sequence[str] = ()) -> None:
        """`readers` makes the threads, by a name, that read from one device. `endpoints`: where its catalogd is looked
        for."""
        self._state = state
        self.foreground = Foreground(state.clock.monotonic())
        self._make_readers = readers
        self.compared: Callable[[int], Comparison] = lambda _: Comparison()  # how comparisons with the catalog went
        self._stores: dict[int, ShardStore] = {}
        self._readers: dict[int, Executor] = {}
        self._room = ReadRoom(READ_BYTES)
        self._buffers = Buffers(KEPT_BYTES)
        self._putting = Putting(state, self.foreground, self._store)
        self._router = Router(
            {
                methods.PUT_SHARD: self._putting.handle,
                methods.READ_SHARDS: self._read,
                methods.LIST_SHARDS: self._list,
                methods.START_SCRUB: self._scrub,
                methods.STORAGE_STATUS: self._status,
                **Remembering(state, lambda: self._stores, endpoints).handlers(),
            }
        )

    def serve(self, number: int, store: ShardStore) -> None:
        """From now on the device has this number."""
        self._stores[number] = store
        if number not in self._readers:
            self._readers[number] = self._make_readers(f"device-{number}")

    async def withdraw(self, number: int) -> None:
        """The device is not served any more; returns when no call uses its store."""
        self._stores.pop(number, None)
        readers = self._readers.pop(number, None)
        if readers is not None:
            await asyncio.to_thread(readers.shutdown)

    async def renumber(self, old: int, number: int, store: ShardStore) -> None:
        """The device has this number from now on, whatever it was served as before."""
        if old != number and self._stores.get(old) is store:
            await self.withdraw(old)
        self.serve(number, store)

    @property
    def stores(self) -> Mapping[int, ShardStore]:
        return self._stores

    def close(self) -> None:
        """Waits for reads under way. The stores belong to whoever opened them."""
        for readers in self._readers.values():
            readers.shutdown()

    def hello(self) -> Hello:
        epoch, term = self.position()
        return Hello(
            cluster=self._state.cluster,
            epoch=epoch,
            term=term,
            role="storaged",
            software=SOFTWARE,
            protocol=PROTOCOL_VERSION,
            window=WINDOW,
            max_calls=CALLS_MAX,
            max_payload=PAYLOAD_MAX,
        )

    def position(self) -> tuple[int, int]:
        return self._state.epoch, self._state.term

    async def handle(self, request: Request) -> Response:
        return await self._router.handle(request)

    def _store(self, number: int) -> ShardStore:
        store = self._stores.get(number)
        if store is None:
            # an old map, or this process is still registering its devices
            raise Unavailable(f"device {number} is not served here", hint="Refresh the cluster map")
        return store

    def begin(self, request: Request, answer: Answer) -> Callable[[], None] | None:
        """See HotService: puts, and small reads of what is in memory."""
        try:
            if request.method == methods.PUT_SHARD:
                return self._putting.begin(request, answer)
            if request.method == methods.READ_SHARDS:
                return self._read_now(request, answer)
        except ReedbedError:
            raise
        except Exception as bug:
            log.exception("a call of %s failed", request.method)
            raise ReedbedError("the daemon failed at this call", hint="Its log says why") from bug
        return None

    def _read_now(self, request: Request, answer: Answer) -> Callable[[], None] | None:
        asked = Asked(request.header, self._store)
        wanted = asked.wanted
        if wanted > NOW_BYTES or not self._room.try_take(wanted):
            return None
        try:
            for device, reads in asked.by_device.items():
                results = self._stores[device].read_now([read for _, read in reads])
                if results is None:
                    self._room.give(wanted)
                    return None
                asked.put(device, results)
            if not asked.background:
                self.foreground.passed(self._state.clock.monotonic())
            response = Response(*asked.answer(), lambda: self._room.give(wanted))
        except BaseException:
            self._room.give(wanted)
            raise
        answer(response)
        return _nothing

    async def _read(self, request: Request) -> Response:
        asked = Asked(request.header, self._store)
        wanted = asked.wanted
        await self._room.take(wanted)
        running: list[Future[list[ReadResult | ReedbedError]]] = []
        buffers: list[memoryview] = []
        try:
            with self._counted(asked.background):
                await self._read_all(asked, running, buffers)
            answer, payload = asked.answer()
        except BaseException:
            self._give_after(wanted, running, asyncio.get_running_loop())
            raise

        def done() -> None:
            self._room.give(wanted)
            for buffer in buffers:
                self._buffers.give(buffer)

        return Response(answer, payload, done)

    def _give_after(self, count: int, running: Sequence[Future[Any]], loop: asyncio.AbstractEventLoop) -> None:
        """Gives room back once the threads that read into it have ended: they cannot be stopped."""
        left = [one for one in running if not one.done()]
        if not left:
            self._room.give(count)
            return

        def ended(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the room with it
                loop.call_soon_threadsafe(self._give_after, count, left, loop)

        left[0].add_done_callback(ended)

    async def _read_all(
        self, asked: Asked, running: list[Future[list[ReadResult | ReedbedError]]], buffers: list[memoryview]
    ) -> None:
        """Reads what is asked, into `buffers` where it is much. What threads do is put into `running`."""

        async def one_device(number: int, reads: list[ReadShard]) -> None:
            try:
                store = self._store(number)
            except Unavailable as error:  # it was withdrawn a moment ago
                asked.put(number, [error] * len(reads))
                return
            for read in reads:
                if read.length >= LARGE:
                    read.into = self._buffers.take(read.length)
                    buffers.append(read.into)
            future = self._readers[number].submit(store.read_many, reads)
            running.append(future)
            results = await asyncio.wrap_future(future)
            asked.put(number, results)

        calls = [one_device(number, [read for _, read in reads]) for number, reads in asked.by_device.items()]
        if len(calls) == 1:
            await calls[0]
        else:
            await asyncio.gather(*calls)

    @contextlib.contextmanager
    def _counted(self, background: bool) -> Iterator[None]:
        """Tells the worker of calls that it is to yield to."""
        if background:
            yield
            return
        self.foreground.begin(self._state.clock.monotonic())
        try:
            yield
        finally:
            self.foreground.end(self._state.clock.monotonic())

    async def _list(self, request: Request) -> Response:
        message = parse(storage_pb2.ListShardsRequest, request.header)
        store = self._store(message.device)
        limit = min(message.limit or PAGE_MAX, PAGE_MAX)
        after = None
        if message.after_extent:
            after = (check_id(message.after_extent, "extent id"), check_index(message.after_index))
        loop = asyncio.get_running_loop()
        list_ = store.list_system if message.system else store.list
        shards = await loop.run_in_executor(self._readers[message.device], list_, after, limit + 1)
        return Response(
            storage_pb2.ListShardsReply(
                shards=[
                    storage_pb2.ShardEntry(
                        extent=shard.extent,
                        index=shard.index,
                        length=shard.length,
                        pg=shard.pg,
                        generation=shard.generation,
                        k=shard.k,
                        m=shard.m,
                    )
                    for shard in shards[:limit]
                ],
                more=len(shards) > limit,
            ).SerializeToString()
        )

    async def _scrub(self, request: Request) -> Response:
        message = parse(storage_pb2.StartScrubRequest, request.header)
        number = self._store(message.device).scrubber().ask()
        return Response(storage_pb2.StartScrubReply(number=number).SerializeToString())

    async def _status(self, request: Request) -> Response:
        parse(storage_pb2.StorageStatusRequest, request.header)
        devices = {str(number): await asyncio.to_thread(store.status) for number, store in sorted(self._stores.items())}
        times = os.times()
        status = {
            "pid": os.getpid(),
            "epoch": self._state.epoch,
            "term": self._state.term,
            "may_write": self._state.may_write(),
            "cpu_seconds": times.user + times.system,
            "devices": devices,
            "scrubs": {
                str(number): {"scrub": store.scrubber().status(), "compared": self.compared(number)}
                for number, store in sorted(self._stores.items())
            },
        }
        return Response(storage_pb2.StorageStatusReply(json=msgspec.json.encode(status)).SerializeToString())


def _nothing() -> None:
    """Cancels what is done already."""
