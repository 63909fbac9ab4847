"""The stored map, its deltas, and the judging of acknowledgements by it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog.committer import Committer
from reedbed.catalog.judge import AckJudge, ProfileJudge
from reedbed.catalog.mapkeeper import MapKeeper, found
from reedbed.catalog.mapstate import CLUSTER_ROW, DEVICE_ROWS, MapHistory, next_change, read_map
from reedbed.catalog.memory import MemoryEngine
from reedbed.common.errors import (
    Corrupt,
    DeviceFailed,
    DiskFull,
    InvalidArgument,
    ResourceExhausted,
    StaleGeneration,
    WrongCluster,
)
from reedbed.common.ids import Id
from reedbed.common.runner import Step
from reedbed.protos.types import (
    Ack,
    ClusterMap,
    Device,
    Extent,
    Labels,
    MapChange,
    PlacementGroup,
    Position,
)

CLUSTER = b"the test cluster"


class ByHand:
    """A runner whose one step is called by the test; everything about it is running for ever."""

    alive = True

    def start(self, name: str, step: Step, after: float = 0.0) -> ByHand:
        self.step = step
        return self

    def wake(self) -> None:
        return None

    def join(self) -> None:
        return None


def device(number: int, **more: Any) -> Device:
    return Device(number, bytes([number]) * 16, f"10.0.0.{number}:7301", more.pop("state", "up"), **more)


def pg(id_: int, generation: int, *devices: int, k: int = 2, m: int = 1) -> PlacementGroup:
    return PlacementGroup(id_, k, m, generation, tuple(Position(number) for number in devices))


def keeper_on(engine: MemoryEngine, direct: Any) -> tuple[MapKeeper, Any]:
    found(engine, CLUSTER, "device", "rs-2-1")
    transactor = direct(engine)
    return MapKeeper(engine, transactor), transactor


async def test_the_map_comes_back_as_it_was_with_its_epoch(direct: Any) -> None:
    engine = MemoryEngine()
    keeper, _ = keeper_on(engine, direct)
    labels = Labels("a", "b", "c")
    await keeper.change(lambda *_: ([device(1, labels=labels, incarnation=7, capacity=9, used=3), device(2)], []))
    await keeper.change(lambda *_: ([device(3)], [pg(1, 1, 1, 2, 3), pg(2, 4, 3, 2, 1)]))
    await keeper.change(lambda *_: ([device(2, state="failed")], []))
    assert keeper.map.epoch == 4
    again, _ = keeper_on(engine.crash(), direct)
    assert again.map == keeper.map
    assert again.since(0).apply(None) == keeper.map
    await again.change(lambda _, counters: ([device(counters.next_device)], [pg(counters.next_pg, 1, 1, 2, 4)]))
    assert again.map.epoch == 5
    assert set(again.map.devices) == {1, 2, 3, 4}
    assert set(again.map.pgs) == {1, 2, 3}


async def test_what_changes_nothing_moves_no_epoch(direct: Any) -> None:
    keeper, _ = keeper_on(MemoryEngine(), direct)
    await keeper.change(lambda *_: ([device(1)], []))
    assert (await keeper.change(lambda *_: ([device(1)], []))).epoch == 2


async def test_a_change_that_is_not_durable_is_not_there(direct: Any) -> None:
    keeper, transactor = keeper_on(MemoryEngine(), direct)
    transactor.error = DiskFull("full")
    with pytest.raises(DiskFull):
        await keeper.change(lambda *_: ([device(1)], []))
    assert keeper.map.devices == {}
    assert keeper.deciding() is keeper.map
    transactor.error = None
    assert (await keeper.change(lambda *_: ([device(1)], []))).epoch == 2


async def test_a_transaction_after_a_change_judges_by_it_before_anybody_is_told(direct: Any) -> None:
    engine = MemoryEngine()
    found(engine, CLUSTER, None, None)
    seen: list[tuple[int, int]] = []

    class Watching(direct):  # type: ignore[misc]
        async def run(self, fn: Any, *, urgent: bool = False, undo: Any = None) -> Any:
            result = await super().run(fn, urgent=urgent)
            seen.append((keeper.map.epoch, keeper.deciding().epoch))
            return result

    keeper = MapKeeper(engine, Watching(engine))
    await keeper.change(lambda *_: ([device(1)], []))
    assert seen == [(1, 2)]
    assert keeper.map.epoch == keeper.deciding().epoch == 2


async def test_a_caller_that_gives_up_leaves_a_whole_change(direct: Any) -> None:
    engine = MemoryEngine()
    found(engine, CLUSTER, None, None)
    go = asyncio.Event()

    class Slow(direct):  # type: ignore[misc]
        async def run(self, fn: Any, *, urgent: bool = False, undo: Any = None) -> Any:
            result = await super().run(fn, urgent=urgent)
            await go.wait()
            return result

    keeper = MapKeeper(engine, Slow(engine))
    first = asyncio.ensure_future(keeper.change(lambda *_: ([device(1)], [])))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    second = asyncio.ensure_future(keeper.change(lambda *_: ([device(2)], [])))
    await asyncio.sleep(0)
    go.set()
    map_ = await second
    assert set(map_.devices) == {1, 2}
    with engine.read() as reader:
        stored = read_map(reader)
    assert stored is not None
    assert stored[0] == map_


async def test_no_transaction_judges_by_a_map_whose_own_transaction_failed() -> None:
    engine = MemoryEngine()
    found(engine, CLUSTER, None, None)
    runner = ByHand()
    committer = Committer(engine, runner=runner)
    keeper = MapKeeper(engine, committer)
    judged: list[int] = []

    def fails(moment: str) -> None:
        if moment == "begin":
            engine.around = lambda _: None
            raise DeviceFailed("a sync failed")

    engine.around = fails
    changing = asyncio.ensure_future(keeper.change(lambda *_: ([device(1)], [])))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    runner.step()  # what `change` waits for has failed, and it has not been told yet
    judging = asyncio.ensure_future(committer.run(lambda _: judged.append(keeper.deciding().epoch), urgent=True))
    await asyncio.sleep(0)
    runner.step()
    with pytest.raises(DeviceFailed):
        await changing
    await judging
    assert judged == [1]


async def test_a_map_that_nobody_could_learn_is_refused(direct: Any) -> None:
    keeper, _ = keeper_on(MemoryEngine(), direct)
    many = [
        PlacementGroup(number, 20, 8, 1, tuple(map(Position, range(60_000, 60_028)))) for number in range(1, 20_000)
    ]
    with pytest.raises(ResourceExhausted, match="map"):
        await keeper.change(lambda *_: ([], many))
    assert keeper.map.pgs == {}
    await keeper.change(lambda *_: ([], many[:1000]))
    assert len(keeper.map.pgs) == 1000


def test_founding_is_done_once_and_for_one_cluster() -> None:
    engine = MemoryEngine()
    found(engine, CLUSTER, "host", "rs-8-3")
    found(engine, CLUSTER, None, None)
    found(engine, CLUSTER, "host", "rs-8-3")
    with engine.read() as reader:
        stored = read_map(reader)
    assert stored is not None
    assert (stored[0].level, stored[0].default_profile, stored[0].epoch) == ("host", "rs-8-3", 1)
    with pytest.raises(WrongCluster):
        found(engine, b"another cluster!", None, None)
    with pytest.raises(InvalidArgument, match="failure domain host, not rack"):
        found(engine, CLUSTER, "rack", None)
    with pytest.raises(InvalidArgument, match="default profile rs-8-3, not rs-4-2"):
        found(engine, CLUSTER, None, "rs-4-2")


@pytest.mark.parametrize(("level", "profile"), [("planet", "rs-4-2"), ("device", "rs-0-2"), ("device", "raid5")])
def test_a_cluster_with_an_unknown_level_or_profile_is_not_founded(level: str, profile: str) -> None:
    engine = MemoryEngine()
    with pytest.raises(InvalidArgument):
        found(engine, CLUSTER, level, profile)
    with engine.read() as reader:
        assert read_map(reader) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (CLUSTER_ROW, b"{}"),
        (CLUSTER_ROW, b"not json"),
        (DEVICE_ROWS + b"\0\0\0\1", b"\xff\xff\xff"),
        (DEVICE_ROWS + b"\0\0\0\1", b""),
    ],
)
async def test_rows_that_do_not_parse_are_named(direct: Any, key: bytes, value: bytes) -> None:
    engine = MemoryEngine()
    keeper, _ = keeper_on(engine, direct)
    await keeper.change(lambda *_: ([device(1)], []))
    with engine.write() as writer:
        writer.put(key, value)
    with pytest.raises(Corrupt, match="cluster map"):
        MapKeeper(engine, direct(engine))


# --- deltas ---

STATES = ("up", "down", "out", "failed")
edits = st.lists(
    st.one_of(
        st.tuples(st.just("device"), st.integers(1, 6), st.sampled_from(STATES)),
        st.tuples(st.just("pg"), st.integers(1, 4), st.integers(1, 5)),
        st.tuples(st.just("drop device"), st.integers(1, 6), st.none()),
        st.tuples(st.just("drop pg"), st.integers(1, 4), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(edits, st.integers(1, 8))
def test_a_delta_and_the_whole_map_lead_to_the_same(plan: list[tuple[str, int, Any]], limit: int) -> None:
    maps = [ClusterMap(CLUSTER, 5, {1: device(1)}, {})]
    history = MapHistory(limit)
    for what, number, detail in plan:
        map_ = maps[-1]
        if what == "device":
            change = next_change(map_, [device(number, state=detail)])
        elif what == "pg":
            change = next_change(map_, pgs=[pg(number, detail, 1, 2, 3)])
        else:
            gone = (number,)
            change = MapChange(
                base=map_.epoch,
                epoch=map_.epoch + 1,
                cluster=CLUSTER,
                removed_devices=gone if what == "drop device" else (),
                removed_pgs=gone if what == "drop pg" else (),
            )
        if change is not None:
            history.add(change)
            after = change.apply(map_)
            assert after is not None
            maps.append(after)
    newest = maps[-1]
    for old in maps:
        change = history.since(old.epoch, newest)
        assert change.apply(old) == newest
        assert (change.base != 0) == (newest.epoch - old.epoch <= limit)
    for unknown in (0, 3, newest.epoch + 1):
        whole = history.since(unknown, newest)
        assert whole.base == 0
        assert whole.apply(None) == newest


# --- the judge ---

EXTENT = Extent(
    id=Id(bytes(16)),
    k=2,
    m=1,
    pg=1,
    generation=3,
    lengths=(10, 10),
    present=0b111,
    acks=(Ack(0, 1, 1), Ack(1, 2, 1), Ack(2, 3, 1)),
)
MAP = ClusterMap(CLUSTER, 9, {n: device(n) for n in (1, 2, 3, 4)}, {1: pg(1, 3, 1, 2, 3), 2: pg(2, 1, 1, 2, 3, 4, k=3)})


def judged(extent: Extent = EXTENT, map_: ClusterMap = MAP, **devices: Device) -> int:
    changed = {**map_.devices, **{d.number: d for d in devices.values()}}
    return AckJudge(lambda: ClusterMap(CLUSTER, 9, changed, map_.pgs)).judge(extent)


def changed(**fields: Any) -> Extent:
    from dataclasses import replace

    return replace(EXTENT, **fields)


def test_all_acknowledged_shards_count_while_nothing_differs() -> None:
    assert judged() == 0b111
    assert judged(changed(acks=EXTENT.acks[:2], present=0b111)) == 0b011


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (device(2, state="down"), 0b111),
        (device(2, state="out"), 0b101),
        (device(2, state="failed"), 0b101),
        (device(2, incarnation=2), 0b101),
    ],
)
def test_a_shard_counts_by_the_state_and_incarnation_of_its_device_now(second: Device, expected: int) -> None:
    assert judged(second=second) == expected


def test_a_position_that_has_another_device_by_now_is_missing() -> None:
    moved = ClusterMap(CLUSTER, 9, MAP.devices, {1: pg(1, 4, 1, 4, 3)})
    assert judged(map_=moved) == 0b101
    moving = ClusterMap(
        CLUSTER, 9, MAP.devices, {1: PlacementGroup(1, 2, 1, 4, (Position(1), Position(4, 2), Position(3)))}
    )
    assert judged(map_=moving) == 0b101


def test_acknowledgements_that_cannot_be_count_nothing() -> None:
    assert judged(changed(acks=(Ack(0, 2, 1), Ack(1, 1, 1), Ack(7, 3, 1), Ack(2, 99, 1)))) == 0
    assert judged(changed(lengths=(10, 0))) == 0b101


@pytest.mark.parametrize("fields", [{"generation": 4}, {"pg": 77}])
def test_a_group_or_generation_that_the_map_does_not_have_is_stale(fields: dict[str, int]) -> None:
    with pytest.raises(StaleGeneration):
        judged(changed(**fields))
    assert judged(changed(generation=2)) == 0b111


def test_profiles_are_judged_by_the_map_of_the_moment() -> None:
    now = ClusterMap(CLUSTER, 9, {n: device(n) for n in range(1, 6)}, {}, "rs-8-3")
    profiles = ProfileJudge(lambda: now)
    assert profiles.resolve("") == "rs-8-3"
    assert profiles.resolve("rs-3-2") == "rs-3-2"
    with pytest.raises(InvalidArgument, match="needs 6 devices, there are 5"):
        profiles.resolve("rs-4-2")
    with pytest.raises(InvalidArgument, match="not a profile"):
        profiles.resolve("rs-4")
    now = ClusterMap(CLUSTER, 10, {**now.devices, 5: device(5, state="failed")}, {})
    with pytest.raises(InvalidArgument, match="needs 5 devices, there are 4"):
        profiles.resolve("rs-3-2")
    now = ClusterMap(CLUSTER, 11, now.devices, {1: pg(1, 1, 1, 2, 3, 4, 5, k=3, m=2)})
    assert profiles.resolve("rs-3-2") == "rs-3-2"


def test_an_extent_of_another_profile_than_its_group_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="rs-2-1, but PG 2 of rs-3-1"):
        judged(changed(pg=2, generation=1))
