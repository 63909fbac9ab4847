"""Recode and compaction, put together: looks for what is to be rewritten, hands it out, and swaps what was written.

Invariants:
- What is left to do is in the engine alone (queues, orders, pins): a catalogd that starts goes on there.
- A result says all that its swap needs, so that one of before a restart counts as well.
- Nothing is rewritten while repair or moves have tasks under way, except where space is short; then compaction comes
  before recoding, and takes fuller extents.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from reedbed.catalog import buckets, edit, extents, indexing, namers, recode_jobs, recoding, sparse, swaps
from reedbed.catalog.edit import Edit, editing
from reedbed.catalog.engine import Engine, Reader, Writer
from reedbed.catalog.gather import Found, Group, RecodeLap, SparseLap
from reedbed.catalog.leases import Lease, Transactor
from reedbed.catalog.mapkeeper import MapKeeper
from reedbed.catalog.mapstate import check_holdable, pgs_of
from reedbed.catalog.needs import Needs
from reedbed.catalog.rates import NO_DEVICE, Progress
from reedbed.catalog.records import SliceRow
from reedbed.catalog.rewrite_board import RewriteBoard
from reedbed.catalog.room import is_short
from reedbed.catalog.swaps import Moved, Swap
from reedbed.common import logs
from reedbed.common.clock import Clock
from reedbed.common.errors import DiskFull, InvalidArgument, ReedbedError, ResourceExhausted, Unavailable
from reedbed.common.ids import Id, IdBlock
from reedbed.common.limits import PAYLOAD_MAX, SHARD_DEFAULT
from reedbed.ec.profiles import parse_profile
from reedbed.protos.types import ClusterMap, Extent

R = TypeVar("R")

STEP_S: Final = 0.5
ROWS_PER_STEP: Final = 500  # of indexing and of orders
PLAN_ROWS: Final = 2000  # that one part of a plan looks at
LOOKS_PER_STEP: Final = 4  # that find nothing
PAUSE_S: Final = 1.0  # between laps, and more where the last one took many looks
LOOK_PAUSE_S: Final = 0.1  # for each
PAUSE_MAX_S: Final = 60.0
# These concern every group, and not just the one that failed
_OF_ALL: Final = frozenset({"Unavailable", "ResourceExhausted", "DiskFull", "DeadlineExceeded", "StaleGeneration"})

_log = logs.get("catalog.rewriting")


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A task: make one extent of `profile` out of these pieces of these extents."""

    number: int
    profile: str
    extents: tuple[Extent, ...]
    pieces: tuple[SliceRow, ...]


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What a worker says of a task: the extent that it wrote, if any, and where each piece is that it could read.

    `unread` extents could not be read. With a `code` and the text of an error, what was written does not count.
    """

    number: int
    profile: str
    extent: Extent | None
    moved: tuple[Moved, ...]
    unread: tuple[Id, ...] = ()
    code: str = ""
    error: str = ""


class Rewriting:
    """See the module's text. Belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        transactor: Transactor,
        keeper: MapKeeper,
        needs: Needs,
        clock: Clock,
        lease: Callable[[], Awaitable[Lease]],
        ensure: Callable[[str], Awaitable[object]],
        compact_below: int,
    ) -> None:
        """`lease` gives ids, `ensure` makes placement groups of a profile. compact_below: percent of fill, 0: never."""
        self._engine = engine
        self._transactor = transactor
        self._keeper = keeper
        self._needs = needs
        self._clock = clock
        self._lease = lease
        self._ensure = ensure
        self._most = compact_below * sparse.STEPS // 100
        self._percent = compact_below
        self._board = RewriteBoard(first=needs.leases.term() << 32)
        self._recode = RecodeLap(self._skips)
        self._sparse = SparseLap(self._skips)
        self._next_lap = {False: 0.0, True: 0.0}
        self._looks = {False: 0, True: 0}
        self._ids: IdBlock | None = None
        self._progress = Progress()
        self._unholdable: dict[str, str] = {}  # profiles, and why no placement groups of theirs can be made
        self._indexed = False
        self._failed = ""  # why the last step came to nothing

    def _skips(self, piece: SliceRow) -> bool:
        return self._board.skips(piece, self._clock.monotonic())

    # Looking for work

    async def step(self) -> bool:
        """The step of a background loop; whether to go on at once."""
        try:
            busy = await self._prepare()
            self._board.expire(_addresses(self._keeper.map), self._clock.monotonic())
            busy = await self._look() or busy
        except ReedbedError as error:
            self._failed = str(error)
            raise
        self._failed = ""
        return busy

    async def _prepare(self) -> bool:
        """What only the catalog has to do: index what is old, carry out orders, end pins that were left behind."""
        with self._engine.read() as reader:
            self._indexed = self._indexed or indexing.whole(reader)
            orders = next(recode_jobs.jobs(reader), None) is not None
            pinned = swaps.pins(reader)
            if not orders and not edit.counters(reader).recode_versions and not self._board.waiting + self._board.given:
                self._progress.idle()
        if not self._indexed:
            return await self._run(lambda now: indexing.step(now, ROWS_PER_STEP))
        if pinned:
            await self._run(lambda now: swaps.end_idle(now, ROWS_PER_STEP))
        return orders and await self._run(lambda now: recode_jobs.walk(now, ROWS_PER_STEP))

    async def _look(self) -> bool:
        """Some of one lap over each queue; whether something was found, so that looking on at once may pay."""
        return await self._lap(compacts=True) | await self._lap(compacts=False)

    async def _lap(self, compacts: bool) -> bool:
        now = self._clock.monotonic()
        for _ in range(LOOKS_PER_STEP):
            if now < self._next_lap[compacts] or self._board.full(compacts):
                return False
            found = self._look_at(compacts)
            if found is None:
                return False
            self._looks[compacts] += 1
            await self._tidy(found)
            for group in found.groups:
                if await self._holdable(group.profile):
                    self._board.add(group, now)
            if found.ended:
                pause = min(PAUSE_MAX_S, max(PAUSE_S, LOOK_PAUSE_S * self._looks[compacts]))
                self._next_lap[compacts], self._looks[compacts] = now + pause, 0
            elif found.any:
                return True
        return False

    def _look_at(self, compacts: bool) -> Found | None:
        """None where there is nothing to look at."""
        with self._engine.read() as reader:
            if not compacts:
                return self._recode.look(reader) if edit.counters(reader).recode_versions else None
            most = sparse.MOST if self._most and self.short() else self._most
            if not any(edit.sparse_counts(reader).extents[:most]):
                return None
            return self._sparse.look(reader, most, self._needs.leases.horizon())

    async def _tidy(self, found: Found) -> None:
        """Take what is as it should be off the queue, and make lists for versions that need their own."""
        if found.settle or found.lists:

            def apply(now: Edit) -> None:
                for namer in found.settle:
                    recoding.settle(now, namer)
                for namer, list_id in found.lists:
                    recoding.settle_list(now, namer, list_id)

            await self._run(apply)
        for namer in found.prepare:
            fresh = await self._fresh_id()
            while await self._run(lambda now, namer=namer, fresh=fresh: recoding.prepare(now, namer, fresh)):  # type: ignore[misc]
                pass

    async def _holdable(self, profile: str) -> bool:
        """Whether there are placement groups of the profile, made now if need be."""
        if not pgs_of(self._keeper.map, parse_profile(profile)):
            try:
                await self._ensure(profile)
            except InvalidArgument as error:
                self._unholdable[profile] = str(error)
                return False
        self._unholdable.pop(profile, None)
        return True

    async def _fresh_id(self) -> Id:
        if self._ids is None or not self._ids.left:
            lease = await self._lease()
            self._ids = IdBlock(lease.prefix, lease.count)
        return self._ids.take()

    async def _run(self, change: Callable[[Edit], R]) -> R:
        def apply(writer: Writer) -> R:
            with editing(writer, self._needs) as now:
                return change(now)

        return await self._transactor.run(apply)

    # Handing it out

    def short(self) -> bool:
        """Whether space is short on some device."""
        return is_short(self._keeper.map)

    def has_work(self, addresses: Collection[str], repairing: bool) -> bool:
        """Whether a group waits for a process at one of these addresses. `repairing`: repair has tasks under way."""
        now = self._clock.monotonic()
        return (not repairing or self.short()) and any(self._board.room(address, now) for address in addresses)

    def take(
        self, address: str, boot: int, room: int, repairing: bool, held: Collection[int] | None = None
    ) -> list[Rewrite]:
        """Up to `room` tasks for the process at that address; `held` as of `RewriteBoard.heard`."""
        now = self._clock.monotonic()
        self._board.heard(address, boot, now, held)
        short = self.short()
        tasks: list[Rewrite] = []
        while len(tasks) < room and (not repairing or short):
            taken = self._board.take(address, now, short)
            if taken is None:
                break
            number, group = taken
            with self._engine.read() as reader:
                task = _task(reader, number, group)
            if task is None:
                self._board.done(address, number)
            else:
                tasks.append(task)
        return tasks

    # Swapping

    async def record(self, address: str, results: Sequence[Rewritten]) -> None:
        """Take in what a process has rewritten. DiskFull and ResourceExhausted of the catalog: report it again."""
        for result in results:
            swapped = 0
            code, error = result.code, result.error
            if result.extent is not None:
                moved = () if code else result.moved
                try:
                    swapped = await self._swap(Swap(result.extent, result.profile, moved))
                except (DiskFull, ResourceExhausted):
                    raise
                except ReedbedError as failure:
                    code, error = failure.code, str(failure)
            self._judge(address, result, swapped, code, error)
            self._board.done(address, result.number)

    def _judge(self, address: str, result: Rewritten, swapped: int, code: str, error: str) -> None:
        now = self._clock.monotonic()
        group = self._board.find(address, result.number)
        self._board.unreadable(result.unread, now)
        if swapped:
            self._progress.add(result.extent.pg if result.extent else 0, {NO_DEVICE: swapped}, now)
        if not code:
            self._board.succeeded()
            return
        _log.warning("a rewrite failed: %s", error)
        if code in _OF_ALL and not result.unread:
            self._board.hold(error, now)
        elif group is not None:
            self._board.unreadable({piece.extent for piece in group.pieces}, now)

    async def _swap(self, swap: Swap) -> int:
        """Returns how many bytes lie elsewhere now."""
        whole = await self._run(lambda now: swaps.begin(now, swap))
        if not whole:
            raise Unavailable("devices failed while an extent was rewritten: it is done again")
        while await self._run(lambda now: swaps.step(now, swap)):
            pass
        await self._run(lambda now: swaps.end(now, swap.extent.id))
        return swap.done

    # Orders and reports

    async def order(self, bucket: str, scope: recode_jobs.Scope, profile: str) -> None:
        """Order a bucket, or a part of it, to be recoded. InvalidArgument (the cluster cannot hold the profile),
        NotFound, ResourceExhausted."""
        self._check_profile(profile)
        with self._engine.read() as reader:
            buckets.get(reader, bucket)
        await self._ensure(profile)
        await self._run(lambda now: recode_jobs.order(now, bucket, scope, profile))
        self._next_lap[False] = 0.0

    def plan(
        self, bucket: str, scope: recode_jobs.Scope, profile: str, after: bytes, limit: int = PLAN_ROWS
    ) -> recode_jobs.Plan:
        """What such an order would take, of some of what it concerns."""
        self._check_profile(profile)
        with self._engine.read() as reader:
            return recode_jobs.plan(reader, bucket, scope, profile, after, limit)

    def _check_profile(self, profile: str) -> None:
        """InvalidArgument for a profile that the devices cannot hold, or that is too narrow for extents of others."""
        map_, code = self._keeper.map, check_holdable(self._keeper.map, profile)
        widest = max((pg.k for pg in map_.pgs.values()), default=0)
        if widest * SHARD_DEFAULT > code.k * PAYLOAD_MAX:
            raise InvalidArgument(
                f"an extent of {profile} cannot hold what one of {widest} data shards holds",
                hint="Choose a profile with more data shards",
            )

    def status(self) -> dict[str, object]:
        """How recoding and compaction go; sizes in bytes."""
        now = self._clock.monotonic()
        with self._engine.read() as reader:
            counts, thin = edit.counters(reader), edit.sparse_counts(reader)
            orders = [job for _, job in recode_jobs.jobs(reader)]
        left, seconds_left = counts.recode_bytes, self._progress.seconds_left(counts.recode_bytes, 0, now)
        return {
            "orders": [
                {
                    "bucket": job.name,
                    "prefix": job.prefix.decode("utf-8", "replace"),
                    "exact": job.exact,
                    "profile": job.profile,
                    "versions_seen": job.seen,
                }
                for job in orders
            ],
            "versions_left": counts.recode_versions,
            "bytes_left": left,
            "sparse_extents": sum(thin.extents[: self._most]),
            "sparse_bytes": sum(thin.bytes[: self._most]),
            "compact_below": self._percent,
            "short": self.short(),
            "tasks": self._board.given,
            "bytes_done": self._progress.bytes,
            "extents_done": self._progress.extents,
            "rate": round(self._progress.rate(now)),
            "seconds_left": None if seconds_left is None else round(seconds_left, 1),
            "too_large": self._recode.too_large,
            "stopped": self._stopped(),
        }

    def _stopped(self) -> str:
        reasons = [self._board.stopped, self._failed, *self._unholdable.values()]
        return "; ".join(reason for reason in reasons if reason)


def _addresses(map_: ClusterMap) -> set[str]:
    return {device.address for device in map_.devices.values() if device.state == "up"}


def _task(reader: Reader, number: int, group: Group) -> Rewrite | None:
    """The task as of now; None if none of the pieces is held by anybody any more."""
    found: dict[bytes, Extent] = {}
    for extent_id in dict.fromkeys(piece.extent for piece in group.pieces):
        row = extents.get(reader, Id(extent_id))
        if row is not None and row.dropped_ms is None:
            found[extent_id] = extents.to_type(Id(extent_id), row)
    pieces = tuple(piece for piece in group.pieces if piece.extent in found and _is_held(reader, piece))
    return Rewrite(number, group.profile, tuple(found.values()), pieces) if pieces else None


def _is_held(reader: Reader, piece: SliceRow) -> bool:
    return next(namers.of_slice(reader, piece), None) is not None
