"""What a storaged answers over lanes: put, read and list shards, status. Disk work runs in threads, never in the loop.

Reads and lists are answered without a catalog too, for whoever rebuilds one.

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

from reedbed.common.checksums import Buffer
from reedbed.common.errors import DeviceFailed, InvalidArgument, ReedbedError, ResourceExhausted, Unavailable
from reedbed.common.ids import check_id
from reedbed.common.limits import (
    CALLS_MAX,
    HEADER_MAX,
    K_MAX,
    KIB,
    M_MAX,
    MIB,
    PAGE_MAX,
    PAYLOAD_MAX,
    POSITIONS_MAX,
    PROTOCOL_VERSION,
    WINDOW,
)
from reedbed.extents.blocks import pack_table, unpack_table
from reedbed.protos import methods, storage_pb2
from reedbed.protos.convert import parse
from reedbed.storaged.calls import DataRow, PutShard, ReadResult, ReadShard
from reedbed.storaged.comparer import Comparison
from reedbed.storaged.politeness import Foreground
from reedbed.storaged.readroom import ReadRoom
from reedbed.storaged.record import Table
from reedbed.storaged.remembering import Remembering
from reedbed.storaged.state import CatalogState
from reedbed.storaged.store import ShardStore
from reedbed.transport.greeting import SOFTWARE
from reedbed.transport.lane import Hello, Request, Response
from reedbed.transport.service import Router

READS_PER_CALL: Final = 1024
READ_BYTES: Final = 64 * MIB  # that reads hold, of all clients together
MEMORY: Final = 144 * MIB  # of requests and answers together, for the server's budget
_ROWS_MAX: Final = HEADER_MAX // 2  # bytes of tables in one answer
_TEXT_MAX: Final = KIB  # characters of an error in an answer

assert READS_PER_CALL * _TEXT_MAX + _ROWS_MAX < HEADER_MAX
assert PAYLOAD_MAX + READ_BYTES < MEMORY


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
        self._router = Router(
            {
                methods.PUT_SHARD: self._put,
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

    async def _put(self, request: Request) -> Response:
        message = parse(storage_pb2.PutShardRequest, request.header)
        store = self._store(message.device)
        if not self._state.may_write():
            raise DeviceFailed(
                f"device {message.device} takes no writes: catalogd has not answered it for too long",
                hint="Check that catalogd runs and that this node reaches it",
                retryable=True,
            )
        put = PutShard(
            extent=check_id(message.extent, "extent id"),
            index=message.index,
            k=message.k,
            m=message.m,
            pg=message.pg,
            generation=message.generation,
            table=unpack_table(message.table),
            payload=request.payload,
            data_tables=[unpack_table(table) for table in message.data_tables],
            log_term=message.log_term,
            log_seq=message.log_seq,
            deadline=request.deadline,
        )
        if not (1 <= put.k <= K_MAX and 1 <= put.m <= M_MAX and put.index < put.k + put.m):
            raise InvalidArgument(f"no shard {put.index} in a profile of {put.k}+{put.m}")
        with self._counted(message.background):
            await asyncio.wrap_future(store.put(put))
        return Response(storage_pb2.PutShardReply(incarnation=store.incarnation).SerializeToString())

    async def _read(self, request: Request) -> Response:
        message = parse(storage_pb2.ReadShardsRequest, request.header)
        reads = message.reads
        if len(reads) > READS_PER_CALL:
            raise InvalidArgument(f"{len(reads)} reads in one call, at most {READS_PER_CALL}")
        if sum(read.length for read in reads) > PAYLOAD_MAX:
            raise InvalidArgument(f"one call reads at most {PAYLOAD_MAX} bytes")
        wanted = sum(read.length for read in reads)
        await self._room.take(wanted)
        running: list[Future[list[ReadResult | ReedbedError]]] = []
        try:
            with self._counted(message.background):
                results = await self._read_all(reads, running)
            answer, payload = _answer(results)
            return Response(answer.SerializeToString(), payload, lambda: self._room.give(wanted))
        except BaseException:
            self._give_after(wanted, running, asyncio.get_running_loop())
            raise

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
        self, reads: Sequence[storage_pb2.ShardRange], running: list[Future[list[ReadResult | ReedbedError]]]
    ) -> list[ReadResult | ReedbedError]:
        """One result or error for each; what is wrong with one says nothing of the others.

        What threads do is put into `running`.
        """
        results: list[ReadResult | ReedbedError | None] = [None] * len(reads)
        by_device: dict[int, list[tuple[int, ReadShard]]] = {}
        for at, read in enumerate(reads):
            try:
                self._store(read.device)
                by_device.setdefault(read.device, []).append((at, _read_shard(read)))
            except ReedbedError as error:
                results[at] = error

        async def one_device(number: int, asked: list[tuple[int, ReadShard]]) -> None:
            try:
                store = self._store(number)
            except Unavailable as error:  # it was withdrawn a moment ago
                for at, _ in asked:
                    results[at] = error
                return
            future = self._readers[number].submit(store.read_many, [read for _, read in asked])
            running.append(future)
            answers = await asyncio.wrap_future(future)
            for (at, _), answer in zip(asked, answers, strict=True):
                results[at] = answer

        if len(by_device) == 1:
            await one_device(*next(iter(by_device.items())))
        else:
            await asyncio.gather(*(one_device(number, asked) for number, asked in by_device.items()))
        complete = [result for result in results if result is not None]
        assert len(complete) == len(reads)
        return complete

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
            after = (check_id(message.after_extent, "extent id"), _check_index(message.after_index))
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


def _check_index(index: int) -> int:
    if index >= POSITIONS_MAX:
        raise InvalidArgument(f"no profile has a shard {index}")
    return index


def _read_shard(message: storage_pb2.ShardRange) -> ReadShard:
    if any(shard >= K_MAX for shard in message.rows_of) or len(message.rows_of) > K_MAX:
        raise InvalidArgument("rows are asked of data shards that no profile has")
    if message.rows_end < message.rows_start:
        raise InvalidArgument(f"rows are asked from {message.rows_start} to {message.rows_end}")
    return ReadShard(
        extent=check_id(message.extent, "extent id"),
        index=_check_index(message.index),
        offset=message.offset,
        length=message.length,
        data_rows_of=tuple(message.rows_of),
        rows_range=(message.rows_start, message.rows_end - message.rows_start) if message.rows_of else None,
    )


def _answer(results: Sequence[ReadResult | ReedbedError]) -> tuple[storage_pb2.ReadShardsReply, list[Buffer]]:
    """The answer, and the payload that goes with it. Results whose tables have no room any more are asked for again."""
    answer = storage_pb2.ReadShardsReply()
    payload: list[Buffer] = []
    tables = 0
    for result in results:
        if not isinstance(result, ReedbedError):
            tables += 8 * (len(result.rows) + sum(map(len, result.data_rows.values())))
            if tables > _ROWS_MAX:
                result = ResourceExhausted("the tables of all reads do not fit one answer", hint="Read less at once")
        if isinstance(result, ReedbedError):
            answer.results.add(failed=True, code=result.code, what=str(result)[:_TEXT_MAX])
            continue
        answer.results.add(
            length=len(result.data),
            rows=_rows(result.index, result.first_block, result.offset, result.rows),
            data_rows=[_data_rows(shard, rows) for shard, rows in sorted(result.data_rows.items())],
            shard_length=result.shard_length,
        )
        if len(result.data):
            payload.append(result.data)
    return answer, payload


def _rows(shard: int, first_block: int, offset: int, table: Table) -> storage_pb2.Rows:
    return storage_pb2.Rows(shard=shard, first_block=first_block, offset=offset, table=pack_table(table))


def _data_rows(shard: int, rows: list[DataRow]) -> storage_pb2.Rows:
    if not rows:
        return storage_pb2.Rows(shard=shard)
    return _rows(shard, rows[0].block, rows[0].offset, [(row.length, row.sum) for row in rows])
