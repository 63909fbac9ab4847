"""The scrubber of one device: it reads everything that the device holds within a period, and tells what is damaged.

A pass goes over the segments in order, then over the rows of the index, then over the heads of the shards that lie in
segments with damage; at its end, the small files are read, and regions whose harm is known are settled. Where it stands
is durable (passes.py), how fast it goes is decided in pace.py, what is read and found in verify.py.

Invariants
- A step is bounded, and nothing but `step` does work. After a restart the pass goes on where it stood.
- Damage that was found is durable before the place where it was found counts as read.
- The time of a pass is monotonic and counts only while the device is served.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from reedbed.common import logs
from reedbed.common.clock import Clock
from reedbed.common.errors import ReedbedError
from reedbed.common.limits import MIB
from reedbed.common.runner import Runner, Running, ThreadRunner
from reedbed.storaged import passes
from reedbed.storaged.disk import Disk
from reedbed.storaged.entries import TABLES, Position
from reedbed.storaged.pace import Manners, Pace
from reedbed.storaged.passes import HEADS, RESTING, ROWS, SEGMENTS, Standing
from reedbed.storaged.reserve import NO_ROOM, Reserve
from reedbed.storaged.verify import Parts, Read, Verifier

STEP: Final = 4 * MIB  # bytes of a step, but for one that meets a long gap
PIECES: Final = 1000  # of a step at most, where they are small
SAVE_S: Final = 30.0  # between writes of the cursor
REST_MAX_S: Final = 60.0  # between looks at whether the next pass is due
RETRY_S: Final = 30.0
_OLD: Final = 0.8  # share of the rate shown that comes from before
log = logs.get("storaged")


@dataclass(frozen=True, slots=True)
class ScrubStatus:
    """Sizes in bytes, `rate` bytes a second. `found` is damage of this pass, `last_*` of the last completed one.

    phase: segments, index, heads or resting. asked: the number of the newest pass that was asked for. index_bad: rows
    of the index with a wrong sum; the index is made again at the next start. error: why the last step failed.
    """

    phase: str
    hurried: bool
    passes: int
    asked: int
    read: int
    left: int
    rate: float
    seconds_left: float
    found: int
    last_found: int
    last_read: int
    last_seconds: float
    last_end: float
    index_bad: int
    error: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a scrubber needs besides what it reads. foreground: a count that grows with foreground work.

    failed: why the device takes no writes, or the empty string. mend_files: reads the small files of the device, has
    damaged ones written anew, and tells how many there were.
    """

    disk: Disk
    reserve: Reserve
    clock: Clock
    foreground: Callable[[], int]
    failed: Callable[[], str]
    mend_files: Callable[[], int]
    runner: Runner = field(default_factory=ThreadRunner)


class Scrubber:
    """See the module's text. `step` is for one thread, `status` and `ask` for any."""

    def __init__(self, parts: Parts, around: Surroundings, pace: Pace) -> None:
        """Reads the cursor. NewerFormat."""
        self._parts = parts
        self._around = around
        self._pace = pace
        self._verifier = Verifier(parts)
        self._manners = Manners()
        self._standing = passes.load(around.disk)
        self._reading: Iterator[Read] | None = None
        self._changed = threading.Condition()
        self._asked = False
        self._asked_pass = 0
        self._stopping = False
        self._error = ""
        self._rate = 0.0
        self._index_bad = 0
        self._seen_foreground = around.foreground()
        self._looked_at = around.clock.monotonic()
        self._saved_at = self._looked_at
        self._running: Running | None = None

    # The worker

    def start(self) -> None:
        self._running = self._around.runner.start("scrubber", self._turn)

    def stop(self) -> None:
        """Ends the work and writes the cursor down."""
        self._stopping = True
        if self._running is not None:
            self._running.wake()
            self._running.join()
        self._drop_reading()
        try:
            self._save()
        except OSError as error:
            log.warning("%s: where the scrubber stands is not saved: %s", self._around.disk.root, error)

    def ask(self) -> int:
        """Begin a pass now, anew if one is under way. Returns its number: it is done when `passes` has reached it."""
        with self._changed:
            self._asked = True
            self._asked_pass = self._standing.passes + 1
        if self._running is not None:
            self._running.wake()
        return self._asked_pass

    def wait_for(self, number: int, seconds: float) -> bool:
        """Until that pass is complete, or the seconds are over; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._standing.passes >= number, seconds)

    @property
    def running(self) -> bool:
        return self._running is not None and self._running.alive

    def status(self) -> ScrubStatus:
        standing = self._standing
        left = self._left(standing)
        return ScrubStatus(
            phase=passes.PHASES[standing.phase],
            hurried=standing.hurried,
            passes=standing.passes,
            asked=self._asked_pass,
            read=standing.read,
            left=left,
            rate=self._rate if standing.phase != RESTING else 0.0,
            seconds_left=left / self._rate if self._rate > 0 else 0.0,
            found=standing.found,
            last_found=standing.last_found,
            last_read=standing.last_read,
            last_seconds=standing.last_ms / 1000,
            last_end=standing.last_end,
            index_bad=self._index_bad,
            error=self._error,
        )

    def _turn(self) -> float | None:
        """A step of the runner's."""
        if self._stopping:
            return None
        try:
            pause = self.step()
            self._error = ""
        except (OSError, ReedbedError) as error:
            # told by `status` until a step succeeds; the pass goes on from the cursor
            self._error = str(error)
            log.warning("%s: scrubbing: %s", self._around.disk.root, error)
            self._drop_reading()
            return RETRY_S
        return pause

    # One step

    def step(self) -> float:
        """One bounded step; returns the seconds to wait before the next. OSError, ReedbedError."""
        began = self._around.clock.monotonic()
        self._grow_older(began)
        self._begin_if_due()
        if self._standing.phase == RESTING:
            return self._rest()
        before = self._standing
        read = 0
        for _ in range(PIECES):
            read += self._piece()
            if read >= STEP or self._standing.phase == RESTING:
                break
        if self._parts.damage.dirty and not self._around.failed():
            self._around.reserve.helping(self._parts.damage.save)
        ended = self._around.clock.monotonic()
        if before.phase != self._standing.phase or ended - self._saved_at >= SAVE_S:
            self._save()
        return self._pause(read, ended - began)

    def _grow_older(self, now: float) -> None:
        passed, self._looked_at = now - self._looked_at, now
        self._standing = replace(self._standing, age_ms=self._standing.age_ms + round(passed * 1000))

    def _begin_if_due(self) -> None:
        with self._changed:
            asked, self._asked = self._asked, False
        standing = self._standing
        period = self._pace.period_s
        due = period > 0 and (standing.age_ms >= period * 1000 or not standing.passes)
        due = due or (self._parts.damage.overflowed and self._parts.damage.has_room)
        if not asked and not (standing.phase == RESTING and due):
            return
        self._drop_reading()
        self._verifier.begin()
        self._index_bad = 0
        self._standing = replace(
            standing,
            phase=SEGMENTS,
            hurried=asked,
            table=0,
            key=b"",
            at=Position(0, 0),
            last_segment=max(self._parts.book.segments(), default=0),
            read=0,
            age_ms=0,
            found=0,
        )
        self._save()

    def _rest(self) -> float:
        if not self._pace.period_s or self._parts.damage.overflowed:
            return REST_MAX_S
        return min(REST_MAX_S, max(0.001, self._pace.period_s - self._standing.age_ms / 1000))

    def _piece(self) -> int:
        """The next piece of the pass; bytes that it read."""
        if self._standing.phase == SEGMENTS:
            return self._segments()
        return self._rows() if self._standing.phase == ROWS else self._heads()

    def _segments(self) -> int:
        standing = self._standing
        if self._reading is None:
            infos = self._parts.book.segments()
            ahead = [number for number in infos if standing.at.segment <= number <= standing.last_segment]
            if not ahead:
                self._standing = replace(standing, phase=ROWS, table=0, key=b"")
                return 0
            number = min(ahead)
            start = standing.at.offset if number == standing.at.segment else 0
            standing = self._standing = replace(standing, at=Position(number, start))
            self._reading = self._verifier.segment(number, start, max(start, infos[number].end))
        read = next(self._reading, None)
        if read is None:
            self._reading = None
            self._standing = replace(standing, at=Position(standing.at.segment + 1, 0))
            return 0
        upto = Position(standing.at.segment, max(standing.at.offset, read.upto))
        self._standing = replace(standing, at=upto, read=standing.read + read.size, found=standing.found + read.found)
        return read.size

    def _rows(self) -> int:
        standing = self._standing
        page = self._verifier.rows(TABLES[standing.table], standing.key)
        self._index_bad += page.found
        standing = replace(standing, key=page.last or b"", read=standing.read + page.size)
        standing = replace(standing, found=standing.found + page.found)
        if page.last is None:
            table = standing.table + 1
            standing = replace(standing, table=table % len(TABLES), phase=ROWS if table < len(TABLES) else HEADS)
        self._standing = standing
        return page.size

    def _heads(self) -> int:
        standing = self._standing
        page = self._verifier.heads(standing.key)
        standing = replace(
            standing, key=page.last or b"", read=standing.read + page.size, found=standing.found + page.found
        )
        if page.last is None:
            if not self._around.failed():
                standing = replace(standing, found=standing.found + self._around.mend_files())
                for region in self._parts.damage.regions():
                    self._verifier.settle(region)
            standing = replace(
                standing,
                phase=RESTING,
                hurried=False,
                passes=standing.passes + 1,
                last_found=standing.found,
                last_read=standing.read,
                last_ms=standing.age_ms,
                last_end=self._around.clock.wall(),
            )
        with self._changed:
            self._standing = standing
            self._changed.notify_all()
        return page.size

    def _pause(self, read: int, took: float) -> float:
        foreground = self._around.foreground()
        polite = self._manners.after(read, took, foreground != self._seen_foreground)
        self._seen_foreground = foreground
        standing = self._standing
        left = self._left(standing)
        rate = self._pace.rate(left, standing.age_ms / 1000, standing.hurried)
        needed = self._pace.rate(left, standing.age_ms / 1000, hurried=False) if self._pace.period_s else rate
        pause = self._pace.pause(read, took, rate, needed, polite)
        if read:
            now = read / max(1e-6, took + pause)
            self._rate = _OLD * self._rate + (1 - _OLD) * now if self._rate else now
        return pause

    def _left(self, standing: Standing) -> int:
        """Bytes of segments that this pass has still to read."""
        if standing.phase != SEGMENTS:
            return 0
        return sum(
            info.end - (standing.at.offset if number == standing.at.segment else 0)
            for number, info in self._parts.book.segments().items()
            if standing.at.segment <= number <= standing.last_segment
        )

    def _drop_reading(self) -> None:
        self._reading = None

    def _save(self) -> None:
        """A full disk only makes a restart repeat some reading."""
        if self._around.failed():
            return
        try:
            passes.save(self._around.disk, self._standing)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
        self._saved_at = self._around.clock.monotonic()
