"""The shard store of one device.

Invariants
- A put or removal that was answered survives kill -9 and a power cut; a shard that was removed never comes back.
- No wrong byte is returned. Damage is reported, and other shards are served on.
- The device's folder is served by one process.
- After a failed sync nothing is written any more; reads go on.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from reedbed.common import logs
from reedbed.common.errors import DeviceFailed, InvalidArgument, ReedbedError, ResourceExhausted, StaleTerm
from reedbed.common.ids import ID_BYTES, Id
from reedbed.common.limits import POSITIONS_MAX
from reedbed.common.metrics import Metrics
from reedbed.protos.types import CatalogNote, ClusterMap
from reedbed.storaged import identity as identities
from reedbed.storaged import record
from reedbed.storaged.batch import View, disk_full, put_size
from reedbed.storaged.book import Book
from reedbed.storaged.calls import (
    BadRegion,
    Damage,
    DeviceStatus,
    PutShard,
    ReadResult,
    ReadShard,
    Removal,
    RemoveOrder,
    ShardInfo,
)
from reedbed.storaged.damage import DamageLog
from reedbed.storaged.disk import NOT_THE_DISK, Disk, RealDisk
from reedbed.storaged.entries import Entry, shard_key, split_key
from reedbed.storaged.generations import Generations
from reedbed.storaged.identity import Identity
from reedbed.storaged.index import Index
from reedbed.storaged.keeper import Keeper, Kept
from reedbed.storaged.memory import Memory
from reedbed.storaged.operations import Put, Remove
from reedbed.storaged.options import StoreOptions
from reedbed.storaged.pace import Pace
from reedbed.storaged.reader import Reader
from reedbed.storaged.record import HEAD
from reedbed.storaged.recovery import CLEAN, Recovered, Recovery, open_index, write_clean
from reedbed.storaged.reserve import NO_ROOM, Reserve
from reedbed.storaged.scrub import Scrubber, Surroundings
from reedbed.storaged.segments import SegmentPool
from reedbed.storaged.verify import Parts
from reedbed.storaged.writer import HERE_BYTES, Tools, Writer

log = logs.get("storaged")


class ShardStore:
    """All calls are safe from many threads. Blocking calls say so; `put` never blocks on the disk."""

    def __init__(self, disk: Disk, identity: Identity, options: StoreOptions, unlock: Callable[[], None]) -> None:
        """Use `open`. Takes the lock over: `close` gives it back."""
        self._disk = disk
        self._identity = identity
        self._unlock = unlock
        self._changing = threading.RLock()  # a failure may be noted within a change
        self._closed = False
        self.metrics = Metrics()
        self._damage = DamageLog(options.clock, disk)
        self._memory = Memory(disk)
        self._generations, whole = Generations.load(disk)
        if not whole:
            self.metrics.add("store.generations_damaged")
        closed = CLEAN in disk.names()
        self._home = options.home(disk)
        index, book, rebuilt = open_index(disk, bytes.fromhex(identity.device), self._home)
        self._index: Index = index
        self._book: Book = book
        self.unclean = bool(rebuilt) or not closed  # the last stop was none, or something was changed since
        if rebuilt:
            self.metrics.add("store.index_rebuilt")
        try:
            self._start(options)
        except BaseException:
            index.close()
            raise

    def _start(self, options: StoreOptions) -> None:
        disk, identity, book = self._disk, self._identity, self._book
        self._reserve = Reserve(disk, options.capacity, options.reserve_bytes, self._used)
        recovered = Recovery(disk, self._index, book, self._generations, self._damage, identity, self._reserve).run()
        self._pool = SegmentPool(disk)
        self._reader = Reader(book, self._pool, identity.seed, self._damage, disk)
        self._keeper = self._make_keeper(options)
        self._writer = self._make_writer(options, recovered)
        self._clock = options.clock
        self._runner = options.runner
        self._scrubber: Scrubber | None = None
        if not identity.failed:
            self._reserve.take()
            self._keeper.punch(recovered.removed)
            self._writer.start(options.runner)
            self._keeper.start(options.runner)

    @classmethod
    def open(
        cls, folder: Path | Disk, cluster: bytes, *, capacity: int = 0, options: StoreOptions | None = None
    ) -> ShardStore:
        """Open the device in a folder, or make one in an empty or new folder. Blocks for the replay after a crash.

        cluster: 16 bytes. Raises Unavailable if another process serves the folder, WrongCluster, NewerFormat, Corrupt
        for a damaged identity, InvalidArgument for a folder with other things in it, DeviceFailed if the disk fails.
        """
        identities.check_cluster(cluster)
        chosen = options or StoreOptions(capacity=capacity)
        disk = RealDisk(folder) if isinstance(folder, Path) else folder

        def identity() -> Identity:
            return identities.open_or_create(disk, cluster, home=chosen.home(disk), rng=chosen.rng)

        try:
            if isinstance(folder, Path) and folder.exists() and not folder.is_dir():
                raise InvalidArgument("it is not a folder", where=str(folder))
            disk.make_folder()
            unlock = disk.lock(identities.LOCK)
            try:
                return cls(disk, identity(), chosen, unlock)
            except BaseException:
                unlock()
                raise
        except ReedbedError:
            raise
        except OSError as error:
            raise DeviceFailed(
                f"the device cannot be opened: {error.strerror or error}", where=str(disk.root), hint="Check the disk"
            ) from error

    # Who and what

    @property
    def folder(self) -> Path:
        return self._disk.root

    @property
    def device(self) -> str:
        """The device's id, 32 hexadecimal digits."""
        return self._identity.device

    @property
    def incarnation(self) -> int:
        return self._identity.incarnation

    @property
    def term(self) -> int:
        """The highest catalog term that was seen."""
        return self._identity.term

    @property
    def failed(self) -> str:
        """Why the device takes no more writes, or the empty string."""
        return self._writer.failed

    def status(self) -> DeviceStatus:
        totals = self._book.totals
        return DeviceStatus(
            device=self._identity.device,
            cluster=self._identity.cluster,
            incarnation=self._identity.incarnation,
            term=self._identity.term,
            used=self._used(),
            free=0 if self.failed else self._reserve.room(),
            capacity=self._reserve.capacity(),
            shards=totals.shards,
            segments=len(self._book.segments()),
            damaged=len(self._damage.shards()),
            bad_regions=len(self._damage.regions()),
            failed=self.failed,
            log_position=self._book.log_position,
            queued_bytes=self._writer.queued_bytes,
            counters=self.metrics.snapshot(),
        )

    def damaged(self) -> list[Damage]:
        """Shards whose bytes were found bad since the process began, and are still here."""
        return self._damage.shards()

    def bad_regions(self) -> list[BadRegion]:
        """Bytes of segments that are no record."""
        return self._damage.regions()

    # Shards

    def put(self, shard: PutShard) -> Future[bool]:
        """Store a shard. The future is done when it is durable: True if it was appended, False if it was here already.

        The payload must not change until then. Cancelling the future, or its deadline, drops a put that was not begun.
        Raises DeviceFailed, and ResourceExhausted when too much waits; the future raises InvalidArgument, Corrupt for
        bytes that do not match the table, AlreadyExists, StaleGeneration, DiskFull, DeviceFailed, DeadlineExceeded.
        """
        self._submit(Put(shard, put_size(shard), future := Future[bool]()))
        future.add_done_callback(self._writer.forget_cancelled)
        return future

    def begin_put(self, shard: PutShard, tell: Callable[[Sequence[Put]], None], whom: Any, *, here: bool) -> Put:
        """As `put`; `tell` is called with all puts of one batch that share it, from any thread. here: where nothing
        waits for the disk, a small put is left to `write_here`, which is called soon."""
        waiting = Put(shard, put_size(shard), None, tell, whom)
        self._submit(waiting, not here or not self.in_memory or waiting.size > HERE_BYTES)
        return waiting

    def drop(self, put: Put) -> bool:
        """Let go of a put that is not begun, and tell nobody; whether it was not."""
        return self._writer.drop(put)

    def write_here(self) -> None:
        """Write what waits in this thread, if it is little; else somebody else does."""
        self._writer.step_here()

    @property
    def in_memory(self) -> bool:
        """Whether nothing waits for the disk."""
        return self._disk.in_memory

    def remove(self, orders: Sequence[RemoveOrder], term: int) -> list[Removal]:
        """`begin_remove`, and wait until the removals are durable."""
        return self.begin_remove(orders, term).result()

    def begin_remove(self, orders: Sequence[RemoveOrder], term: int) -> Future[list[Removal]]:
        """Carry out the orders of a catalog of this term. Blocks while a higher term than before is made durable.

        The future has one outcome for each order once they are durable. Raises StaleTerm, DeviceFailed, InvalidArgument
        for term 0 and impossible orders; the future also raises DiskFull if not even the reserve has room.
        """
        if term <= record.REPLACED:
            raise InvalidArgument("no catalog has term 0", where=str(self._disk.root))
        for order in orders:
            if len(order.extent) != ID_BYTES or not 0 <= order.index < POSITIONS_MAX:
                raise InvalidArgument(f"an order for what can be no shard: {order}", where=str(self._disk.root))
            if not (0 <= order.pg < 1 << 32 and 0 <= order.generation < 1 << 64):
                raise InvalidArgument("a PG or generation is out of range", where=str(self._disk.root))
        self.note_term(term)
        waiting = Remove(list(orders), term, HEAD * len(orders))
        self._writer.submit(waiting)
        return waiting.future

    def read(self, extent: Id, index: int, offset: int, length: int, data_rows_of: Sequence[int] = ()) -> ReadResult:
        """A range of a shard; blocks. UnknownShard, DamagedShard, InvalidArgument for a range outside the shard."""
        return self._reader.read(ReadShard(extent, index, offset, length, data_rows_of))

    def read_many(self, asked: Sequence[ReadShard]) -> list[ReadResult | ReedbedError]:
        """Many ranges; blocks. One answer or named error for each."""
        return self._reader.read_many(asked)

    def read_now(self, asked: Sequence[ReadShard]) -> Sequence[ReadResult | ReedbedError] | None:
        """As `read_many` of what is in memory, and never blocks; None if any of it is not, or cannot be told to be."""
        return self._reader.read_now(asked)

    def list_system(self, after: tuple[Id, int] | None = None, limit: int = 1000) -> list[ShardInfo]:
        """As `list`, of the catalog's copy alone."""
        start = b"" if after is None else shard_key(*after)
        return [_info(key, entry) for key, entry in self._book.system_page(start, limit)]

    def list(self, after: tuple[Id, int] | None = None, limit: int = 1000) -> list[ShardInfo]:
        """Shards behind (extent, index), in that order, at most `limit`; blocks."""
        start = b"" if after is None else shard_key(*after)
        return [_info(key, entry) for key, entry in self._book.page(start, limit)]

    def highest(self) -> Id | None:
        """The highest extent id of any shard that is here, or was lately; blocks."""
        return self._book.highest()

    def scrubber(self, pace: Pace | None = None) -> Scrubber:
        """The device's scrubber, made at the first call; start it, or call `step`. `close` stops it. NewerFormat."""
        if self._scrubber is None:
            pace = pace or Pace()
            parts = Parts(
                self._pool,
                self._book,
                self._index,
                self._damage,
                self._identity.seed,
                bytes.fromhex(self._identity.device),
                lambda: self._writer,
                self._keeper.step,
            )
            around = Surroundings(
                self._disk,
                self._reserve,
                self._clock,
                self._foreground,
                lambda: self.failed,
                self._mend_files,
                self._runner,
            )
            self._scrubber = Scrubber(parts, around, pace)
        return self._scrubber

    # Generations and terms

    def generation(self, pg: int) -> int:
        """The newest generation of a PG that is known here, 0 if none is."""
        return self._generations.get(pg)

    def generations(self) -> dict[int, int]:
        """The newest generation of each PG that is known here."""
        return self._generations.snapshot()

    def note_generation(self, pg: int, generation: int) -> None:
        """Refuse older generations of the PG from now on; durable on return. DeviceFailed."""
        self.note_generations({pg: generation})

    def note_generations(self, generations: Mapping[int, int]) -> None:
        """`note_generation` of many PGs with one sync."""
        for pg, generation in generations.items():
            self._generations.raise_to(pg, generation)
        if not self.failed:
            self._durably(self._generations.save)

    def note_damage(self) -> None:
        """The damage that is known now is durable on return, so that it can be told. DeviceFailed."""
        if self._damage.dirty and not self.failed:
            self._durably(self._damage.save)

    @property
    def forgot_damage(self) -> bool:
        """More was found than can be remembered: what `damaged` tells is not all."""
        return self._damage.overflowed

    def note_term(self, term: int) -> None:
        """A catalog of this term gives orders: durable on return. StaleTerm if a higher one was seen."""
        with self._changing:
            if term < self._identity.term:
                raise StaleTerm(
                    f"an order of term {term}, but a catalog of term {self._identity.term} was seen",
                    where=str(self._disk.root),
                )
            if term == self._identity.term:
                return
            newer = dataclasses.replace(self._identity, term=term)
            if not self.failed:
                self._durably(lambda: identities.save(self._disk, newer))
            self._identity = newer

    # What is remembered of the catalog

    @property
    def memory(self) -> Memory:
        """What is remembered; to be changed by `remember` and `remember_map` only."""
        return self._memory

    def remember(self, number: int, note: CatalogNote) -> bool:
        """Remember the catalog's note, and our number in its map: durable on return. False: the device has failed.

        Raises DeviceFailed.
        """
        if not self.failed:
            self._durably(lambda: self._memory.learn(number, note))
        return not self.failed

    def remember_map(self, term: int, map_: ClusterMap) -> None:
        """Remember the cluster map that a catalog of this term told. DeviceFailed."""
        if not self.failed:
            self._durably(lambda: self._memory.learn_map(term, map_))

    # The end

    def checkpoint(self) -> bool:
        """Write the index now, punch holes, unlink dead segments; blocks. False if there is no room, or it failed."""
        return self._keeper.step()

    def close(self, *, clean: bool = True) -> None:
        """Write what waits, and a last checkpoint; blocks. clean=False leaves all as a crash would, but the lock."""
        if self._closed:
            return
        self._closed = True
        if self._scrubber is not None:
            self._scrubber.stop()
        self._writer.stop(drain=clean)
        self._keeper.stop()
        try:
            whole = clean and not self.failed and self._keeper.step() and self._keeper.step()
        except (OSError, ReedbedError) as error:
            log.warning("%s: no clean stop: %s", self._disk.root, error)
            whole = False
        self._index.close()
        self._pool.close()
        if whole and not self.failed and not self._index.suspect:
            try:
                write_clean(self._disk, self._home)
            except OSError as error:
                log.warning("%s: no clean stop: %s", self._disk.root, error)
        self._unlock()

    def __enter__(self) -> ShardStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Within

    def _submit(self, put: Put, wake: bool = True) -> None:
        if self._keeper.behind:
            raise disk_full(str(self._disk.root))
        self._writer.submit(put, wake=wake)

    def _used(self) -> int:
        return self._book.totals.live_bytes + self._book.totals.dead_bytes

    def _durably(self, action: Callable[[], None]) -> None:
        try:
            self._reserve.helping(action)
        except OSError as error:
            if error.errno in NOT_THE_DISK:
                what = f"the device's state cannot be written at present: {error.strerror}"
                raise ResourceExhausted(what, where=str(self._disk.root)) from error
            if error.errno not in NO_ROOM:
                self._writer.fail(f"its state cannot be written: {error.strerror or error}")
            raise DeviceFailed(
                f"the device's state cannot be written: {error.strerror or error}", where=str(self._disk.root)
            ) from error

    def _mend_files(self) -> int:
        with self._changing:
            mended = identities.mend(self._disk, self._identity) + self._generations.mend()
        mended += self._memory.mend()
        if mended:
            log.warning("%s: %d small files that were damaged or gone are written again", self._disk.root, mended)
        return mended

    def _foreground(self) -> int:
        return self._reader.served + self.metrics.get("store.put")

    def _on_failed(self, reason: str) -> None:
        log.error("%s: the device failed: %s", self._disk.root, reason)
        with self._changing:
            self._identity = dataclasses.replace(self._identity, failed=reason)
            try:
                identities.save(self._disk, self._identity)
            except OSError as error:
                log.warning("%s: the failure cannot be recorded: %s", self._disk.root, error)

    def _make_keeper(self, options: StoreOptions) -> Keeper:
        kept = Kept(
            self._disk,
            self._pool,
            self._book,
            self._index,
            self._generations,
            self._damage,
            self.metrics,
            self._reserve,
        )
        return Keeper(kept, lambda: self._writer, options.checkpoint_rows, options.checkpoint_seconds)

    def _make_writer(self, options: StoreOptions, recovered: Recovered) -> Writer:
        view = View(
            self._book.get,
            self._book.get_many,
            self._book.note_about,
            self._reader.tables,
            self._generations.get,
            lambda shard: self._damage.is_damaged(shard.extent, shard.index),
        )
        tools = Tools(
            disk=self._disk,
            pool=self._pool,
            book=self._book,
            view=view,
            generations=self._generations,
            damage=self._damage,
            metrics=self.metrics,
            device=bytes.fromhex(self._identity.device),
            salt=self._identity.seed,
            room=self._reserve.room,
            release_reserve=self._reserve.release,
            on_failed=self._on_failed,
            on_removed=self._keeper.punch,
            on_batch=self._keeper.after_batch,
            crowded=lambda: self._keeper.crowded,
        )
        return Writer(
            tools,
            recovered.end,
            sealed=recovered.sealed,
            failed=self._identity.failed,
            segment_bytes=options.segment_bytes,
            queue_bytes=options.queue_bytes,
        )


def _info(key: bytes, entry: Entry) -> ShardInfo:
    extent, index = split_key(key)
    return ShardInfo(extent, index, entry.k, entry.m, entry.pg, entry.generation, entry.payload)
