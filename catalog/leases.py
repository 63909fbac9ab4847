"""Terms, the id clock, id blocks and the horizon: what makes ids and their age certain without trust in any clock.

Invariants:
- A term is one above all earlier ones, and durable before anything is served under it.
- The id clock never goes back, not over restarts either: a block is leased only below a durable bound, and the next
  start begins at that bound, or at the wall clock if that is ahead. After that only the monotonic clock moves it.
- Block numbers are reserved durably before use and begin at the reserved bound after a start: no block comes twice.
- The horizon only rises, is durable before anyone sees it, and never passes an id that was leased less than the lag ago
  in time proven by the monotonic clock of a running catalog. Neither the jump of the id clock at a start nor time while
  no catalog ran counts (uptime.py): clients that outlast an outage find the horizon where it stood.

A catalog that was lost is begun anew, from a copy that may be older than what was lost, with ids that the lost one can
never have leased and never will, should it run on somewhere unseen (`begin_anew`):

- Its term is above every term that a device remembers, and at least TERM_STEP / 1000 apart: a replaced catalog would
  have to be started that often to come upon it. A device that has seen it follows no lower one.
- Block numbers begin at BLOCK_STEP times (term / TERM_STEP), which rises with each such beginning. So each has a range
  of its own, and the one before would have to lease BLOCK_STEP blocks to leave its own: no id is leased twice, whatever
  clocks say.
- The id clock begins above every id that devices hold, above the bound of the copy and of every note that devices
  remember, above the wall clock, and AHEAD_MS more, for what was leased after the last note. The horizon begins there
  too: nothing that was under way is committed any more, and every id below may belong to what was lost.

One row, `istate`, big-endian:

    u64 term | u64 bound, ms | u64 block bound | 16 bytes horizon | u16 n | n times (u64 start, u64 reached), ms
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

from reedbed.catalog.engine import Engine, Reader, Writer
from reedbed.catalog.uptime import Stretch, aged, shortened
from reedbed.common.clock import Clock
from reedbed.common.errors import Corrupt, InvalidArgument, ResourceExhausted
from reedbed.common.ids import BLOCKS_MAX, CLIENTS, ID_BYTES, NO_ID, Id, make_block
from reedbed.common.limits import HORIZON_LAG_S, ID_BLOCK_IDS

T = TypeVar("T")

ROW: Final = b"istate"
RESERVE_MS: Final = 30_000  # how far ahead the id clock's bound is
BLOCKS_AHEAD: Final = 4096
GOOD_FOR_S: Final = 60.0
TERM_STEP: Final = 1_000_000_000  # between the terms of catalogs that were begun anew
BLOCK_STEP: Final = 1 << 36
AHEAD_MS: Final = 30 * 60_000
_HEAD: Final = struct.Struct(">QQQ16sH")
_STRETCH: Final = struct.Struct(">QQ")

assert 4 * GOOD_FOR_S <= HORIZON_LAG_S
assert BLOCKS_MAX % BLOCK_STEP == 0


class Transactor(Protocol):
    """Runs functions in write transactions, many of them in one; each takes effect whole or not at all."""

    async def run(
        self, fn: Callable[[Writer], T], *, urgent: bool = False, undo: Callable[[], None] | None = None
    ) -> T:
        """What `fn` returned, once its changes are durable; or the error that it raised, without a trace of it.

        undo: called before any later transaction where the one with `fn` failed as a whole.
        """
        ...


@dataclass(frozen=True, slots=True)
class Lease:
    """A block of `count` ids, to be used for `good_for_ms`."""

    prefix: bytes
    count: int
    horizon: Id
    good_for_ms: int


@dataclass(frozen=True, slots=True)
class _State:
    """The row; the last stretch is the one under way."""

    term: int
    bound: int
    blocks: int
    horizon: Id
    stretches: tuple[Stretch, ...]

    def encode(self) -> bytes:
        head = _HEAD.pack(self.term, self.bound, self.blocks, self.horizon, len(self.stretches))
        return head + b"".join(_STRETCH.pack(stretch.start, stretch.reached) for stretch in self.stretches)

    @classmethod
    def decode(cls, value: bytes) -> _State:
        try:
            term, bound, blocks, horizon, count = _HEAD.unpack_from(value)
            stretches = tuple(Stretch(*pair) for pair in _STRETCH.iter_unpack(value[_HEAD.size :]))
            if len(stretches) != count:
                raise struct.error
        except struct.error:
            raise Corrupt("the catalog's row of terms and ids is cut short", where=f"key {ROW.decode()}") from None
        return cls(term, bound, blocks, Id(horizon), stretches)


def _read(reader: Reader) -> _State:
    value = reader.get(ROW)
    return _State(0, 0, 0, NO_ID, ()) if value is None else _State.decode(value)


def read_term(reader: Reader) -> int:
    """The newest term that the catalog has taken; 0 before the first."""
    return _read(reader).term


def read_bound_ms(reader: Reader) -> int:
    """All ids that were leased are of earlier times."""
    return _read(reader).bound


def read_horizon(reader: Reader) -> Id:
    """The durable horizon."""
    return _read(reader).horizon


def term_above(terms: Iterable[int], chance: int) -> int:
    """A term for a catalog that is begun anew after these. `chance` (0 to 999) tells two such beginnings apart."""
    return (max(terms) // TERM_STEP + 1) * TERM_STEP + chance * (TERM_STEP // 1000)


def start_above(wall_ms: int, known_ms: Iterable[int]) -> int:
    """Where the id clock of a catalog that is begun anew starts, above these values of the lost one's clock."""
    return max(wall_ms, *known_ms) + AHEAD_MS


def begin_anew(writer: Writer, term: int, start_ms: int) -> tuple[Id, Id]:
    """Write the row of a catalog whose first start takes the term above `term`: see the module's text.

    Returns the range of ids [from, to) that may belong to what was lost: from the horizon that the copy had, below
    which nothing can have been committed since. InvalidArgument for a term or time that is not above the row's.
    """
    old = _read(writer)
    new = _anew(old, term, start_ms)
    writer.put(ROW, new.encode())
    return old.horizon, new.horizon


def _anew(old: _State, term: int, start_ms: int) -> _State:
    blocks = term // TERM_STEP * BLOCK_STEP
    if blocks >= BLOCKS_MAX:
        raise ResourceExhausted("this cluster's catalog was begun anew too often", retryable=False)
    if term <= old.term or start_ms <= old.bound or blocks <= old.blocks:
        raise InvalidArgument(
            f"a catalog of term {old.term} cannot be begun anew with term {term} at {start_ms} ms of its clock"
        )
    return _State(term, start_ms, blocks, Id(make_block(start_ms, 0) + bytes(4)), old.stretches)


class Leases:
    """The terms and ids of one start of a catalog. Belongs to one event loop; the plain methods are for any thread."""

    def __init__(self, engine: Engine, clock: Clock, *, lag_s: float = HORIZON_LAG_S) -> None:
        """Takes a new term, durably. Blocks for one transaction."""
        if lag_s <= 0:
            raise InvalidArgument(f"a horizon lag of {lag_s:g} s is not above 0")
        self._clock = clock
        self._lag_ms = round(lag_s * 1000)
        self._step_ms = min(15_000, self._lag_ms // 20)
        self._reserving = asyncio.Lock()
        with engine.write(urgent=True) as writer:
            old = _read(writer)
            start = max(old.bound, int(clock.wall() * 1000), 1)
            self._next_block = old.blocks
            self._state = _State(
                term=old.term + 1,
                bound=start + RESERVE_MS,
                blocks=old.blocks + BLOCKS_AHEAD,
                horizon=old.horizon,
                stretches=shortened((*old.stretches, Stretch(start, start))),
            )
            writer.put(ROW, self._state.encode())
        self._start_ms = start
        self._started_at = clock.monotonic()

    def term(self) -> int:
        """The term of this start."""
        return self._state.term

    def horizon(self) -> Id:
        """The durable horizon: ids below it are settled."""
        return self._state.horizon

    def id_time_ms(self) -> int:
        """The id clock, in milliseconds. Shown only for stamps: ids come from `lease`."""
        return self._start_ms + int((self._clock.monotonic() - self._started_at) * 1000)

    def bound_ms(self) -> int:
        """All ids that were leased are of earlier times; durable."""
        return self._state.bound

    def shown_before(self, seconds: float) -> int:
        """The highest `id_time_ms` that was certainly at least `seconds` ago; 0 if none is."""
        return aged(self._stretches_now(self.id_time_ms()), round(seconds * 1000)) or 0

    async def lease(self, transactor: Transactor, owner: int = CLIENTS) -> Lease:
        """A fresh block for that owner (common/ids.py). May take a transaction first, whose errors come through."""
        while self._next_block >= self._state.blocks or (now := self.id_time_ms()) >= self._state.bound:
            await self._reserve(transactor)
        prefix = make_block(now, self._next_block, owner)
        self._next_block += 1
        good_for_ms = min(int(GOOD_FOR_S * 1000), self._lag_ms // 4)
        return Lease(prefix, ID_BLOCK_IDS, self.horizon(), max(1, good_for_ms))

    async def keep(self, transactor: Transactor) -> bool:
        """The step of a background loop: reserve ahead and raise the horizon when it pays. True if it wrote."""
        now = self.id_time_ms()
        gain = self._horizon_ms(now) - self._settled_ms()
        if self._state.bound - now > RESERVE_MS // 2 and gain < max(1, self._step_ms):
            return False
        await self._reserve(transactor)
        return True

    def seconds_to_keep(self) -> float:
        """How often `keep` should be called."""
        return max(0.05, min(RESERVE_MS / 4, self._step_ms) / 1000)

    async def _reserve(self, transactor: Transactor) -> None:
        async with self._reserving:
            now = self.id_time_ms()
            state = replace(
                self._state,
                bound=max(self._state.bound, now + RESERVE_MS),
                blocks=max(self._state.blocks, self._next_block + BLOCKS_AHEAD),
                horizon=max(self._state.horizon, Id(make_block(self._horizon_ms(now), 0) + bytes(4))),
                stretches=self._stretches_now(now),
            )
            assert len(state.horizon) == ID_BYTES
            encoded = state.encode()
            await transactor.run(lambda writer: writer.put(ROW, encoded), urgent=True)
            self._state = state

    def _stretches_now(self, now: int) -> tuple[Stretch, ...]:
        return (*self._state.stretches[:-1], Stretch(self._start_ms, now))

    def _settled_ms(self) -> int:
        return int.from_bytes(self._state.horizon[:6], "big")

    def _horizon_ms(self, now: int) -> int:
        """Where the horizon may be: below it every id is older than the lag."""
        return max(self._settled_ms(), aged(self._stretches_now(now), self._lag_ms) or 0)
