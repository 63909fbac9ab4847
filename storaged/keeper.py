"""What works behind a device's writer, in a thread of its own: it punches holes, writes checkpoints, unlinks dead
segments, holds the reserve.

One step does, in this order:
1. punch holes where removed shards lie; before the checkpoint, so that a hole that a crash prevented is punched after
   the replay
2. freeze what the checkpoint will hold, make the PG generations and known damage durable, then the checkpoint
3. unlink segments below the mark that hold no live shard and no note that is needed, oldest first, each durably before
   the next: a removal record outlives every segment that holds its shard
4. let the writer carry needed notes out of segments that hold nothing else
5. take the reserve again if there is room
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from reedbed.common import logs
from reedbed.common.errors import ReedbedError
from reedbed.common.metrics import Metrics
from reedbed.common.runner import Runner, Running
from reedbed.storaged.book import Book
from reedbed.storaged.damage import DamageLog
from reedbed.storaged.disk import NOT_THE_DISK, Disk
from reedbed.storaged.entries import Entry, SegmentInfo
from reedbed.storaged.generations import Generations
from reedbed.storaged.index import Index
from reedbed.storaged.operations import Carry
from reedbed.storaged.record import HEAD
from reedbed.storaged.reserve import NO_ROOM, Reserve
from reedbed.storaged.segments import FOLDER, SegmentPool, segment_name
from reedbed.storaged.writer import HERE_BYTES, Writer

ROWS: Final = 16_384  # rows in memory that ask for a checkpoint
ROWS_MAX: Final = 8 * ROWS  # the writer waits for the checkpoint from here on
SECONDS: Final = 5.0  # between checkpoints
CARRY: Final = 4096  # notes of one carrying operation
log = logs.get("storaged")

assert HERE_BYTES // HEAD * 2 < ROWS  # rows of a batch in an event loop, which must not wait


@dataclass(frozen=True, slots=True)
class Kept:
    """What the keeper works with."""

    disk: Disk
    pool: SegmentPool
    book: Book
    index: Index
    generations: Generations
    damage: DamageLog
    metrics: Metrics
    reserve: Reserve


class Keeper:
    """One of each device. `step` may also be called by others than its runner; steps never overlap."""

    def __init__(self, kept: Kept, writer: Callable[[], Writer], rows: int = ROWS, seconds: float = SECONDS) -> None:
        self._kept = kept
        self._writer = writer
        self._rows = rows
        self._seconds = seconds
        self._stepping = threading.Lock()
        self._changed = threading.Condition()
        self._wanted = False
        self._stopping = False
        self._full = False
        self._holes: list[Entry] = []
        self._carried: dict[int, Carry] = {}
        self._running: Running | None = None

    def start(self, runner: Runner) -> None:
        self._running = runner.start("shard-keeper", self._turn, self._seconds)

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._running is not None:
            self._running.wake()
            self._running.join()

    @property
    def behind(self) -> bool:
        """A checkpoint could not be written, and so many rows wait that no more can be taken."""
        return self._full and self._kept.book.waiting() >= ROWS_MAX

    @property
    def crowded(self) -> bool:
        """`after_batch` may have to wait for a checkpoint after the next batch, if that is a small one."""
        return self._kept.book.waiting() >= ROWS_MAX - ROWS

    def punch(self, entries: list[Entry]) -> None:
        """These shards' removals are durable: give their room back with the next step."""
        with self._changed:
            self._holes.extend(entries)

    def after_batch(self) -> None:
        """The writer calls this between batches: asks for a checkpoint when many rows wait, waits while too many do."""
        waiting = self._kept.book.waiting()
        if waiting < self._rows:
            return
        with self._changed:
            self._wanted = True
            if self._running is not None:
                self._running.wake()
            while self._kept.book.waiting() >= ROWS_MAX and self._wanted and not self._stopping and not self._full:
                self._changed.wait()

    def step(self) -> bool:
        """One round of everything; whether the checkpoint is written. ReedbedError only for a damaged index."""
        with self._stepping:
            self._punch_all()
            settled = self._checkpoint()
            if settled is None:
                return False
            self._unlink_dead(settled)
            self._kept.reserve.take()
            return True

    def _turn(self) -> float | None:
        """A step of the runner's."""
        if self._stopping:
            return None
        try:
            self.step()
        except ReedbedError as error:
            # of a bad row: the index is made again at the next start, and the segments have everything
            log.warning("%s: keeping: %s", self._kept.disk.root, error)
        except OSError as error:
            self._failed(error)
        except Exception as error:
            self._writer().fail(f"keeping failed unexpectedly: {error!r}")  # nobody may wait for a checkpoint for ever
            raise
        with self._changed:
            self._wanted = False
            self._changed.notify_all()
        return self._seconds

    def _punch_all(self) -> None:
        with self._changed:
            holes, self._holes = self._holes, []
        if self._writer().failed:
            return
        for entry in holes:
            try:
                with self._kept.pool.use(entry.segment) as file:
                    if file.punch(entry.offset + HEAD, entry.length - HEAD):
                        self._kept.metrics.add("store.holes")
            except FileNotFoundError:
                continue
            except OSError as error:
                # the room comes back with the segment
                log.warning("%s: no hole in segment %x: %s", self._kept.disk.root, entry.segment, error)

    def _checkpoint(self) -> dict[int, SegmentInfo] | None:
        """The segments that get no more records, as the index knows them now; None if it could not be written."""
        kept, writer = self._kept, self._writer()
        if writer.failed:
            return None
        with kept.book.changing:
            end = writer.end  # as of now: by the time of the unlinking, what was the highest may hold new shards
            settled = {number: info for number, info in kept.book.segments().items() if number < end.segment}
            changes = kept.book.freeze(end) if kept.book.dirty() else None
        try:
            # what the index covers is not replayed, so what its records tell of generations must be kept before
            kept.reserve.helping(kept.generations.save)
            kept.reserve.helping(kept.damage.save)
            if changes is not None:
                kept.reserve.helping(lambda: kept.index.commit(changes))
        except (OSError, ReedbedError) as error:
            if changes is not None:
                kept.book.failed(changes)
            if isinstance(error, ReedbedError):
                raise
            self._failed(error)
            return None
        if changes is None:
            return settled
        kept.book.written()
        kept.metrics.add("store.checkpoints")
        self._full = False
        return settled

    def _failed(self, error: OSError) -> None:
        if error.errno in NO_ROOM:
            self._full = True
            log.warning("%s: no room for a checkpoint", self._kept.disk.root)
        elif error.errno in NOT_THE_DISK:
            log.warning("%s: no checkpoint at present: %s", self._kept.disk.root, error.strerror)
        else:
            self._writer().fail(f"keeping failed: {error.strerror or error}")

    def _unlink_dead(self, settled: dict[int, SegmentInfo]) -> None:
        """`settled` is what the index knows: rows that name a segment must have left it before the segment goes."""
        kept, writer = self._kept, self._writer()
        bad = {region.segment for region in kept.damage.regions()}
        for number, info in sorted(settled.items()):
            if info.live or number in bad or writer.failed:
                continue
            if info.notes:
                self._carry(number)
                continue
            kept.pool.drop(number)
            with contextlib.suppress(FileNotFoundError):  # lost, and all that lay in it was written anew
                kept.disk.unlink(segment_name(number))
            kept.disk.sync_folder(FOLDER)
            kept.book.forget(number)
            kept.damage.segment_gone(number)
            self._carried.pop(number, None)
            kept.metrics.add("store.segments_unlinked")

    def _carry(self, number: int) -> None:
        earlier = self._carried.get(number)
        if earlier is not None and not earlier.future.done():
            return
        targets = [target for target in self._kept.index.notes_in(number) if target.segment != number][:CARRY]
        if not targets:
            return
        carry = self._carried[number] = Carry(targets, number, HEAD * len(targets))
        try:
            self._writer().submit(carry)
        except ReedbedError:
            del self._carried[number]  # closing or failed: nothing is unlinked any more
