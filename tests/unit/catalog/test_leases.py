"""Terms never repeat, ids never repeat, the horizon never passes an id that is younger than the lag."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog.engine import Writer
from reedbed.catalog.leases import (
    BLOCK_STEP,
    RESERVE_MS,
    ROW,
    TERM_STEP,
    Leases,
    begin_anew,
    read_bound_ms,
    read_horizon,
    read_term,
    start_above,
    term_above,
)
from reedbed.catalog.memory import MemoryEngine
from reedbed.catalog.uptime import Stretch, age_ms, aged, shortened
from reedbed.common.clock import ManualClock
from reedbed.common.errors import Corrupt, DiskFull, InvalidArgument, ResourceExhausted
from reedbed.common.ids import (
    CLIENTS,
    NO_ID,
    SNAPSHOT,
    STREAM,
    Id,
    IdBlock,
    after_block,
    id_time_ms,
    is_system,
    owner_of,
)

T = TypeVar("T")

LAG = 900.0


def first_id(prefix: bytes) -> Id:
    return IdBlock(prefix, 1).take()


async def run_for(leases: Leases, transactor: Any, clock: ManualClock, seconds: float) -> None:
    for _ in range(int(seconds // 5)):
        clock.advance(5)
        await leases.keep(transactor)


def test_every_start_takes_a_higher_term_and_has_it_durably_first() -> None:
    engine, clock = MemoryEngine(), ManualClock()
    for term in range(1, 5):
        assert Leases(engine, clock).term() == term
        engine = engine.crash()
        with engine.read() as reader:
            assert read_term(reader) == term


def test_no_term_before_the_first_start() -> None:
    with MemoryEngine().read() as reader:
        assert read_term(reader) == 0


def test_a_lag_must_be_above_0() -> None:
    with pytest.raises(InvalidArgument, match="horizon lag"):
        Leases(MemoryEngine(), ManualClock(), lag_s=0)


def test_a_short_row_is_named() -> None:
    engine, clock = MemoryEngine(), ManualClock()
    Leases(engine, clock)
    with engine.write() as writer:
        writer.put(ROW, (writer.get(ROW) or b"")[:-1])
    with pytest.raises(Corrupt, match="terms and ids"):
        Leases(engine, clock)


async def test_blocks_are_ordered_in_time_and_never_the_same(direct: Any) -> None:
    engine, clock = MemoryEngine(), ManualClock()
    leases = Leases(engine, clock)
    taken = [(await leases.lease(direct(engine))).prefix for _ in range(5_000)]
    assert taken == sorted(set(taken))


async def test_block_numbers_alone_are_never_given_twice_over_restarts(direct: Any) -> None:
    engine, clock, numbers = MemoryEngine(), ManualClock(), []
    for _ in range(4):
        leases, transactor = Leases(engine, clock), direct(engine)
        numbers += [(await leases.lease(transactor)).prefix[6:] for _ in range(5)]
        engine = engine.crash()
    assert numbers == sorted(set(numbers))


async def test_the_wall_clock_moves_nothing_while_the_catalog_runs(direct: Any) -> None:
    engine, clock = MemoryEngine(), ManualClock()
    leases, transactor = Leases(engine, clock, lag_s=LAG), direct(engine)
    await run_for(leases, transactor, clock, LAG + 60)
    before, horizon = leases.id_time_ms(), leases.horizon()
    for jump in (3600, -7200, 3600):
        clock.wall_now += jump
        assert leases.id_time_ms() == before
        assert id_time_ms(first_id((await leases.lease(transactor)).prefix)) == before
        await leases.keep(transactor)
        assert leases.horizon() == horizon


async def test_a_wall_clock_that_went_back_over_a_restart_repeats_no_time(direct: Any) -> None:
    engine, clock = MemoryEngine(), ManualClock()
    leases = Leases(engine, clock)
    newest = first_id((await leases.lease(direct(engine))).prefix)
    for jump in (-3600, -86400, 0):
        clock.wall_now += jump
        engine = engine.crash()
        leases = Leases(engine, clock)
        fresh = first_id((await leases.lease(direct(engine))).prefix)
        assert fresh > newest
        newest = fresh


async def test_a_block_is_leased_only_below_the_durable_bound(direct: Any) -> None:
    engine, clock = MemoryEngine(), ManualClock()
    leases, transactor = Leases(engine, clock), direct(engine)
    clock.advance(RESERVE_MS / 1000 + 5)
    transactor.error = DiskFull("full")
    with pytest.raises(DiskFull):
        await leases.lease(transactor)
    transactor.error = None
    newest = first_id((await leases.lease(transactor)).prefix)
    clock.wall_now -= 86400
    assert Leases(engine.crash(), clock).id_time_ms() > id_time_ms(newest)


async def test_concurrent_leases_around_a_reservation_are_distinct(direct: Any) -> None:
    engine, clock = MemoryEngine(), ManualClock()
    leases, transactor = Leases(engine, clock), direct(engine)
    for _ in range(3):
        clock.advance(RESERVE_MS / 1000 + 5)
        got = await asyncio.gather(*(leases.lease(transactor) for _ in range(50)))
        assert len({lease.prefix for lease in got}) == 50


async def test_the_horizon_follows_at_the_lag_is_durable_and_only_rises(direct: Any) -> None:
    engine, clock = MemoryEngine(), ManualClock()
    leases, transactor = Leases(engine, clock, lag_s=LAG), direct(engine)
    first = first_id((await leases.lease(transactor)).prefix)
    await run_for(leases, transactor, clock, LAG - 5)
    assert leases.horizon() <= first
    seen = leases.horizon()
    for _ in range(40):
        await run_for(leases, transactor, clock, 30)
        assert seen < leases.horizon()
        seen = leases.horizon()
        behind = leases.id_time_ms() - id_time_ms(seen)
        assert LAG * 1000 <= behind <= LAG * 1000 + 30_000
        with engine.read() as reader:
            assert seen in (reader.get(ROW) or b"")
    assert first < seen
    assert Leases(engine.crash(), clock, lag_s=LAG).horizon() == seen


async def test_a_failed_write_raises_no_horizon(direct: Any) -> None:
    engine, clock = MemoryEngine(), ManualClock()
    leases, transactor = Leases(engine, clock, lag_s=LAG), direct(engine)
    transactor.error = DiskFull("full")
    clock.advance(LAG + 100)
    with pytest.raises(DiskFull):
        await leases.keep(transactor)
    assert leases.horizon() == NO_ID


async def test_an_outage_does_not_carry_the_horizon_past_clients_that_still_work(direct: Any) -> None:
    engine, clock = MemoryEngine(), ManualClock()
    leases, transactor = Leases(engine, clock, lag_s=LAG), direct(engine)
    await run_for(leases, transactor, clock, LAG + 100)
    working = first_id((await leases.lease(transactor)).prefix)
    stood = leases.horizon()
    # Down for an hour by the wall clock, which may be a lie: the machine's own time starts anew
    clock.wall_now += 3600
    clock.monotonic_now = 5.0
    engine = engine.crash()
    leases, transactor = Leases(engine, clock, lag_s=LAG), direct(engine)
    assert leases.horizon() == stood
    await run_for(leases, transactor, clock, LAG - 10)
    assert stood < leases.horizon() <= working
    await run_for(leases, transactor, clock, 60)
    assert working < leases.horizon()


async def test_a_catalog_that_restarts_often_still_raises_its_horizon(direct: Any) -> None:
    engine, clock = MemoryEngine(), ManualClock()
    first = None
    for _ in range(30):
        leases, transactor = Leases(engine, clock, lag_s=LAG), direct(engine)
        first = first or first_id((await leases.lease(transactor)).prefix)
        await run_for(leases, transactor, clock, 60)
        engine = engine.crash()
    assert first < leases.horizon()


async def test_age_counts_only_time_that_the_catalog_ran(direct: Any) -> None:
    engine, clock = MemoryEngine(), ManualClock()
    leases, transactor = Leases(engine, clock), direct(engine)
    stamp = leases.id_time_ms()
    await run_for(leases, transactor, clock, 100)
    assert leases.shown_before(100) == stamp
    assert leases.shown_before(101) == 0
    clock.wall_now += 86400
    leases = Leases(engine.crash(), clock)
    clock.advance(10)
    assert leases.shown_before(10) > stamp
    assert leases.shown_before(60) >= stamp
    assert leases.shown_before(111) == 0
    assert leases.shown_before(0) == leases.id_time_ms()


starts = st.lists(
    st.tuples(st.integers(0, 400), st.integers(-3000, 3000), st.integers(0, 3000)), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(starts)
def test_whatever_clocks_and_restarts_do_no_young_id_falls_below_the_horizon(plan: list[tuple[int, int, int]]) -> None:
    """Against the true time, which only the test knows: up for some time, a wall clock that jumps, down for some."""

    async def play() -> None:
        lag = 100.0
        engine, clock, true_time = MemoryEngine(), ManualClock(), 0.0
        born: list[tuple[Id, float]] = []
        for up, jump, down in plan:
            leases = Leases(engine, clock, lag_s=lag)

            class Straight:
                async def run(
                    self, fn: Any, *, urgent: bool = False, undo: Any = None, engine: MemoryEngine = engine
                ) -> Any:
                    with engine.write(urgent=urgent) as writer:
                        return fn(writer)

            for _ in range(up // 10):
                born.append((first_id((await leases.lease(Straight())).prefix), true_time))
                clock.advance(10)
                true_time += 10
                await leases.keep(Straight())
                assert [id_ for id_, at in born if id_ < leases.horizon() and true_time - at < lag] == []
            clock.wall_now += jump
            clock.monotonic_now = float(abs(jump))
            true_time += down
            engine = engine.crash()
        ids = [id_ for id_, _ in born]
        assert ids == sorted(set(ids))

    asyncio.run(play())


stretches = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=8).map(
    lambda pairs: [
        Stretch(start := sum(sum(pair) for pair in pairs[:index]) + gap, start + length)
        for index, (gap, length) in enumerate(pairs)
    ]
)


@settings(max_examples=100, deadline=None)
@given(stretches, st.integers(1, 200))
def test_aged_is_the_highest_value_of_that_age(some: list[Stretch], lag: int) -> None:
    value = aged(some, lag)
    if value is None:
        assert age_ms(some, -1) < lag
    else:
        assert age_ms(some, value) >= lag > age_ms(some, value + 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=9), st.integers(1, 5))
def test_shortening_only_makes_ages_smaller(pairs: list[tuple[int, int]], most: int) -> None:
    at, some = 0, []
    for gap, length in pairs:
        some.append(Stretch(at + gap, at + gap + length))
        at += gap + length
    short = shortened(some, most)
    assert len(short) <= most
    assert all(one.reached <= two.start for one, two in pairwise(short))
    for value in range(0, at + 2, 7):
        assert age_ms(short, value) <= age_ms(some, value)
    assert age_ms(short, -1) == age_ms(some, -1)


async def test_blocks_of_the_catalogs_own_are_told_by_their_ids(direct: Any) -> None:
    engine = MemoryEngine()
    leases = Leases(engine, ManualClock())
    transactor = direct(engine)
    prefixes = [(await leases.lease(transactor, owner)).prefix for owner in (CLIENTS, STREAM, SNAPSHOT, CLIENTS)]
    ids = [first_id(prefix) for prefix in prefixes]
    assert [owner_of(id_) for id_ in ids] == [CLIENTS, STREAM, SNAPSHOT, CLIENTS]
    assert [is_system(id_) for id_ in ids] == [False, True, True, False]
    assert len({prefix[6:] for prefix in prefixes}) == 4
    assert after_block(ids[0]) == prefixes[0] + b"\xff\xff\xff\xff"


# Begun anew


class Straight:
    """A transactor that gives every function a transaction of its own, at once."""

    def __init__(self, engine: MemoryEngine) -> None:
        self._engine = engine

    async def run(self, fn: Callable[[Writer], T], *, urgent: bool = False, undo: Any = None) -> T:
        with self._engine.write(urgent=urgent) as writer:
            return fn(writer)


class Lost:
    """A catalog that is lost, and goes on somewhere unseen; what it leased, and the terms that it took."""

    def __init__(self) -> None:
        self.engine, self.clock = MemoryEngine(), ManualClock()
        self.terms: list[int] = []
        self.prefixes: list[bytes] = []
        self.start()

    def start(self) -> None:
        self.engine = self.engine.crash()
        self.leases = Leases(self.engine, self.clock)
        self.terms.append(self.leases.term())

    async def lease(self, owner: int = CLIENTS) -> bytes:
        self.prefixes.append((await self.leases.lease(Straight(self.engine), owner)).prefix)
        return self.prefixes[-1]

    async def step(self, what: str, seconds: float) -> None:
        if what == "start":
            self.start()
        elif what == "lease":
            await self.lease()
        elif what == "jump":  # the machine's clock is set
            self.clock.wall_now += (seconds - 30) * 10_000
        else:
            await run_for(self.leases, Straight(self.engine), self.clock, seconds * 10)


steps = st.lists(st.tuples(st.sampled_from(["start", "lease", "jump", "run"]), st.integers(0, 60)), max_size=12)


@settings(max_examples=100)
@given(before=steps, after=steps, unseen=steps, wall=st.floats(-1e6, 1e6), chance=st.integers(0, 999))
async def test_a_catalog_begun_anew_gives_nothing_that_the_lost_one_gave_or_will(
    before: list[tuple[str, int]],
    after: list[tuple[str, int]],
    unseen: list[tuple[str, int]],
    wall: float,
    chance: int,
) -> None:
    """The copy is from between `before` and `after`; the devices saw what was leased up to the end of `after`."""
    lost = Lost()
    for what, seconds in before:
        await lost.step(what, seconds)
    copy = lost.engine.crash()
    lost.start()
    for what, seconds in after:
        await lost.step(what, seconds)
    known = [await lost.lease(), *lost.prefixes]
    seen_terms = list(lost.terms)

    term = term_above(seen_terms, chance)
    seen_ms = [id_time_ms(first_id(prefix)) for prefix in known]
    with copy.write(urgent=True) as writer:
        start = start_above(int((lost.clock.wall() + wall) * 1000), [read_bound_ms(writer), *seen_ms])
        low, high = begin_anew(writer, term, start)
    new = Lost()
    new.engine, new.clock.wall_now = copy, lost.clock.wall() + wall
    new.terms.clear()
    for _ in range(3):
        new.start()
        await new.lease()
        await new.lease(STREAM)
    for what, seconds in unseen:  # both go on
        await lost.step(what, seconds)
        await new.step(what, seconds)

    assert not set(new.prefixes) & set(lost.prefixes)
    assert not {prefix[6:] for prefix in new.prefixes} & {prefix[6:] for prefix in lost.prefixes}  # whatever the clocks
    assert all(low <= high for low in (low, *(first_id(prefix) for prefix in known)))
    assert all(first_id(prefix) >= high for prefix in new.prefixes)
    assert new.leases.horizon() >= high  # nothing that was under way is committed any more
    assert min(new.terms) > term > max(lost.terms)
    assert not set(new.terms) & set(lost.terms)


def test_beginnings_have_terms_and_blocks_far_apart() -> None:
    engine, clock = MemoryEngine(), ManualClock()
    first = Leases(engine, clock)
    terms, blocks = [first.term()], [first._state.blocks]
    for count in range(4):
        with engine.write(urgent=True) as writer:
            begin_anew(writer, term_above(terms, 999 - count), 1 << (42 + count))
        again = Leases(engine, clock)
        terms.append(again.term())
        blocks.append(again._state.blocks)
    assert all(high - low > TERM_STEP // 2 for low, high in pairwise(terms))
    assert all(high - low > BLOCK_STEP // 2 for low, high in pairwise(blocks))
    assert [term // TERM_STEP for term in terms] == list(range(5))


def test_a_beginning_that_is_none_is_refused() -> None:
    engine = MemoryEngine()
    leases = Leases(engine, ManualClock())
    good = start_above(0, [leases.bound_ms()])
    for term, start in ((leases.term(), good), (5, good), (TERM_STEP, leases.bound_ms())):
        with engine.write() as writer, pytest.raises(InvalidArgument, match="begun anew"):
            begin_anew(writer, term, start)
    with engine.write() as writer, pytest.raises(ResourceExhausted, match="too often"):
        begin_anew(writer, 1024 * TERM_STEP, good)
    with engine.read() as reader:
        assert read_term(reader) == leases.term()
        assert read_horizon(reader) == leases.horizon()
