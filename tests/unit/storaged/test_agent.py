"""How a storaged follows its catalog: terms, write leases, removal orders."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from reedbed.common.clock import Deadline, ManualClock
from reedbed.common.errors import (
    AlreadyExists,
    DamagedShard,
    DeviceFailed,
    DeviceRemoved,
    DiskFull,
    InvalidArgument,
    PreconditionFailed,
    ReedbedError,
    StaleGeneration,
    StaleTerm,
    Unavailable,
)
from reedbed.common.ids import Id
from reedbed.extents.blocks import build_table
from reedbed.protos import catalog_pb2, methods
from reedbed.storaged.agent import CLEAN_RETRY_S, TWICE_S, Agent
from reedbed.storaged.calls import PutShard, Removal
from reedbed.storaged.entries import Position
from reedbed.storaged.identity import clean_folder
from reedbed.storaged.process import registered
from reedbed.storaged.settings import StoragedSettings
from reedbed.storaged.state import CatalogState
from reedbed.storaged.store import ShardStore
from reedbed.transport.lane import Reply

CLUSTER = bytes(range(16))
EXTENT = Id(b"e" * 16)


class Catalog:
    """A catalog's answers, as a test sets them, and what it was told."""

    def __init__(self) -> None:
        self.clean_below = 0  # devices of a lower incarnation are told to be cleaned
        self.refuse = False  # the next heartbeat
        self.registered: list[int] = []
        self.map = catalog_pb2.MapDelta(base=0, epoch=3, cluster=CLUSTER)
        self.work = False
        self.answered = asyncio.Event()
        self.term = 5
        self.incarnation = 1
        self.orders: list[catalog_pb2.RemoveOrder] = []
        self.noted: list[catalog_pb2.NotedShards] = []
        self.heard: list[catalog_pb2.HeartbeatRequest] = []
        self.delay = 0.0
        self.clock = ManualClock()
        self.down = False
        self.refusals: list[ReedbedError] = []  # of the next registrations
        self.elsewhere = False  # heartbeats are refused, since the device has registered from another address
        self.refused = 0

    async def call(self, method: str, header: bytes, deadline: Deadline) -> Reply:
        if self.down:
            raise Unavailable("nobody there")
        if method == methods.REGISTER_DEVICE and self.refusals:
            self.clock.advance(1.0)
            self.refused += 1
            raise self.refusals.pop(0)
        if method == methods.REGISTER_DEVICE:
            asked = catalog_pb2.RegisterDeviceRequest.FromString(header)
            self.registered.append(asked.incarnation)
            clean = asked.incarnation < self.clean_below
            incarnation = max(self.incarnation, self.clean_below)
            return Reply(
                catalog_pb2.RegisterDeviceReply(
                    number=7, cluster=CLUSTER, term=self.term, incarnation=incarnation, clean=clean
                ).SerializeToString()
            )
        assert method == methods.HEARTBEAT
        if self.elsewhere:
            self.clock.advance(1.0)
            self.refused += 1
            raise AlreadyExists("registered twice", retryable=True)
        if self.refuse:
            self.refuse = False
            raise PreconditionFailed("of another incarnation")
        self.answered.set()
        self.heard.append(catalog_pb2.HeartbeatRequest.FromString(header))
        self.clock.advance(self.delay)
        return Reply(
            catalog_pb2.HeartbeatReply(
                epoch=3,
                term=self.term,
                interval_ms=1000,
                write_lease_ms=10_000,
                orders=self.orders,
                noted=self.noted,
                map=self.map,
                work=self.work,
            ).SerializeToString()
        )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ShardStore]:
    opened = ShardStore.open(tmp_path / "device", CLUSTER)
    yield opened
    opened.close()


def agent_of(catalog: Catalog, store: ShardStore) -> tuple[Agent, CatalogState]:
    state = CatalogState(CLUSTER, catalog.clock)
    return Agent(StoragedSettings(dir=("x",)), state, catalog, [store]), state


def put_one(store: ShardStore) -> None:
    put = PutShard(EXTENT, 0, 1, 1, pg=1, generation=1, table=b"", payload=())
    store.put(put).result(10)


async def test_no_writes_before_the_catalog_has_answered(store: ShardStore) -> None:
    agent, state = agent_of(catalog := Catalog(), store)
    assert not state.may_write()
    assert await agent.register("127.0.0.1:1") == [7]
    assert state.may_write()
    assert (state.epoch, state.term, store.term) == (3, 5, 5)
    catalog.clock.advance(9.9)
    assert state.may_write()
    catalog.clock.advance(0.2)
    assert not state.may_write()


async def test_a_slow_answer_does_not_prolong_the_lease(store: ShardStore) -> None:
    agent, state = agent_of(catalog := Catalog(), store)
    catalog.delay = 8.0
    await agent.register("127.0.0.1:1")
    catalog.clock.advance(1.9)
    assert state.may_write()
    catalog.clock.advance(0.2)
    assert not state.may_write()


async def test_an_answer_of_an_older_term_is_not_followed(store: ShardStore) -> None:
    agent, state = agent_of(catalog := Catalog(), store)
    put_one(store)
    await agent.register("127.0.0.1:1")
    catalog.clock.advance(60)
    catalog.term = 4
    catalog.orders = [catalog_pb2.RemoveOrder(number=1, device=7, extent=EXTENT, index=0, pg=1, generation=1)]
    with pytest.raises(StaleTerm):
        await agent.beat()
    assert not state.may_write()
    assert store.status().shards == 1


async def test_the_term_outlives_a_restart(tmp_path: Path) -> None:
    catalog = Catalog()
    store = ShardStore.open(tmp_path / "device", CLUSTER)
    await agent_of(catalog, store)[0].register("127.0.0.1:1")
    store.close()
    again = ShardStore.open(tmp_path / "device", CLUSTER)
    assert again.term == 5
    again.close()


async def test_orders_are_carried_out_and_reported_until_heard(store: ShardStore) -> None:
    agent, _ = agent_of(catalog := Catalog(), store)
    put_one(store)
    await agent.register("127.0.0.1:1")
    catalog.orders = [catalog_pb2.RemoveOrder(number=9, device=7, extent=EXTENT, index=0, pg=1, generation=1)]
    await agent.beat()
    assert store.status().shards == 0
    catalog.orders = []
    catalog.down = True
    with pytest.raises(Unavailable):
        await agent.beat()
    catalog.down = False
    await agent.beat()
    assert list(catalog.heard[-1].devices[0].done) == [9]
    await agent.beat()
    assert list(catalog.heard[-1].devices[0].done) == []


async def test_an_order_that_cannot_be_judged_is_not_reported(
    store: ShardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = agent_of(catalog := Catalog(), store)
    await agent.register("127.0.0.1:1")
    catalog.orders = [
        catalog_pb2.RemoveOrder(number=number, device=7, extent=EXTENT, index=number, pg=1, generation=1)
        for number in (9, 10)
    ]

    def begin_remove(orders: object, term: int) -> Future[list[Removal]]:
        done: Future[list[Removal]] = Future()
        done.set_result([Removal.UNREADABLE, Removal.UNKNOWN])
        return done

    monkeypatch.setattr(store, "begin_remove", begin_remove)
    await agent.beat()
    catalog.orders = []
    await agent.beat()
    assert list(catalog.heard[-1].devices[0].done) == [10]


async def test_what_is_told_of_damage_is_durable(store: ShardStore) -> None:
    agent, _ = agent_of(catalog := Catalog(), store)
    put_one(store)
    await agent.register("127.0.0.1:1")
    store._damage.shard(EXTENT, 0, 0, Position(1, 40))
    await agent.beat()
    assert [lost.extent for lost in catalog.heard[-1].devices[0].lost] == [EXTENT]
    assert (store.folder / "damage").exists()
    store._damage.shard(Id(b"f" * 16), 0, 0, Position(1, 40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "note_damage", failing)
        await agent.beat()
    assert not catalog.heard[-1].devices[0].lost, "not told while it may be forgotten"


def failing() -> None:
    raise DiskFull("no room")


async def test_an_order_for_another_device_is_left_alone(store: ShardStore) -> None:
    agent, _ = agent_of(catalog := Catalog(), store)
    put_one(store)
    await agent.register("127.0.0.1:1")
    catalog.orders = [catalog_pb2.RemoveOrder(number=9, device=8, extent=EXTENT, index=0, pg=1, generation=1)]
    await agent.beat()
    assert store.status().shards == 1


async def test_another_incarnation_is_refused(store: ShardStore) -> None:
    agent, _ = agent_of(catalog := Catalog(), store)
    catalog.incarnation = 2
    with pytest.raises(InvalidArgument, match="incarnation 2"):
        await agent.register("127.0.0.1:1")


async def test_heartbeats_tell_the_address(store: ShardStore) -> None:
    agent, _ = agent_of(catalog := Catalog(), store)
    await agent.register("10.0.0.1:7301")
    assert [heard.address for heard in catalog.heard] == ["10.0.0.1:7301"]


async def test_new_generations_of_own_groups_are_learned_with_one_sync(
    store: ShardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pg(number: int, generation: int, *places: tuple[int, int]) -> catalog_pb2.PlacementGroup:
        positions = [catalog_pb2.Position(device=device, source=source) for device, source in places]
        return catalog_pb2.PlacementGroup(id=number, k=1, m=1, generation=generation, positions=positions)

    agent, _ = agent_of(catalog := Catalog(), store)
    pgs = [
        pg(1, 4, (7, 0), (8, 0)),
        pg(2, 5, (9, 7), (8, 0)),
        pg(3, 6, (9, 0), (8, 0)),
        pg(4, 1, (7, 0), (8, 0)),
    ]
    catalog.map = catalog_pb2.MapDelta(base=0, epoch=3, cluster=CLUSTER, pgs=pgs)
    noted: list[dict[int, int]] = []
    note = store.note_generations

    def counted(generations: dict[int, int]) -> None:
        noted.append(generations)
        note(generations)

    monkeypatch.setattr(store, "note_generations", counted)
    await agent.register("127.0.0.1:1")
    assert noted == [{1: 4, 2: 5}]
    for number, generation in ((1, 4), (2, 5)):
        with pytest.raises(StaleGeneration):
            store.put(PutShard(EXTENT, 0, 1, 1, pg=number, generation=generation - 1, table=b"", payload=())).result(10)
    store.put(PutShard(EXTENT, 0, 1, 1, pg=3, generation=1, table=b"", payload=())).result(10)


async def test_a_device_that_moved_waits_until_its_old_address_is_forgotten(store: ShardStore) -> None:
    agent, _ = agent_of(catalog := Catalog(), store)
    catalog.refusals = [AlreadyExists("registered twice", retryable=True), Unavailable("down")] * 5
    assert await registered(agent, "127.0.0.1:1", asyncio.Event(), catalog.clock, retry_s=0.0) == [7]
    assert catalog.refused == 10


async def test_a_device_that_registered_elsewhere_meanwhile_ends_by_that_name(store: ShardStore) -> None:
    agent, _ = agent_of(catalog := Catalog(), store)
    await agent.register("127.0.0.1:1")
    agent._interval = 0.001
    catalog.elsewhere = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reedbed.storaged.agent.RETRY_MAX_S", 0.001)
        with pytest.raises(AlreadyExists):
            await agent.run(asyncio.Event())
    assert catalog.refused == TWICE_S + 1


async def test_only_what_lasts_counts_as_registered_elsewhere(store: ShardStore) -> None:
    """Once refused, then for long nobody there, then refused again."""
    agent, _ = agent_of(catalog := Catalog(), store)
    await agent.register("127.0.0.1:1")
    agent._interval = 0.001
    stop = asyncio.Event()
    answers: list[ReedbedError] = [AlreadyExists("twice"), Unavailable("nobody"), AlreadyExists("twice")]

    async def call(method: str, header: bytes, deadline: Deadline) -> Reply:
        catalog.clock.advance(TWICE_S)
        if len(answers) == 1:
            stop.set()
        raise answers.pop(0)

    agent._caller = type("Caller", (), {"call": staticmethod(call)})()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reedbed.storaged.agent.RETRY_MAX_S", 0.001)
        await agent.run(stop)
    assert not answers


async def test_a_device_that_stays_registered_twice_is_given_up_by_that_name(store: ShardStore) -> None:
    agent, _ = agent_of(catalog := Catalog(), store)
    catalog.refusals = [AlreadyExists("registered twice", retryable=True)] * 100
    with pytest.raises(AlreadyExists, match="registered twice"):
        await registered(agent, "127.0.0.1:1", asyncio.Event(), catalog.clock, retry_s=0.0)
    assert TWICE_S <= catalog.refused <= TWICE_S + 2
    catalog.refusals = [AlreadyExists("never", retryable=False)]
    with pytest.raises(AlreadyExists, match="never"):
        await registered(agent, "127.0.0.1:1", asyncio.Event(), catalog.clock, retry_s=0.0)


def cleaning_agent(catalog: Catalog, store: ShardStore) -> tuple[Agent, list[ShardStore]]:
    """An agent that may clean its device, and the stores that it opened."""
    state = CatalogState(CLUSTER, catalog.clock)
    opened = [store]

    async def renew(number: int, old: ShardStore, incarnation: int) -> ShardStore:
        assert number in (0, 7)
        old.close(clean=False)
        clean_folder(old.folder, incarnation)
        opened.append(ShardStore.open(old.folder, CLUSTER))
        return opened[-1]

    return Agent(StoragedSettings(dir=("x",)), state, catalog, [store], renew), opened


@pytest.mark.parametrize("at_start", [True, False])
async def test_a_device_whose_positions_were_given_away_is_cleaned_and_comes_back(
    store: ShardStore, at_start: bool
) -> None:
    agent, opened = cleaning_agent(catalog := Catalog(), store)
    put_one(store)
    if at_start:
        catalog.clean_below = 2
    await agent.register("127.0.0.1:1")
    if not at_start:
        assert agent.stores[0].status().shards == 1
        catalog.clean_below, catalog.refuse = 2, True
        stop = asyncio.Event()
        running = asyncio.create_task(agent.run(stop))
        catalog.answered.clear()
        await catalog.answered.wait()
        stop.set()
        await running
    assert catalog.registered[-2:] == [1, 2]
    fresh = agent.stores[0]
    assert fresh is opened[-1] is not store
    assert (fresh.incarnation, fresh.status().shards) == (2, 0)
    assert catalog.heard[-1].devices[0].incarnation == 2
    fresh.close()


async def test_a_device_that_cannot_be_cleaned_yet_is_left_alone_and_silences_nobody(store: ShardStore) -> None:
    """Its store is closed: writing a term through it would undo what the cleaning did meanwhile."""
    state = CatalogState(CLUSTER, (catalog := Catalog()).clock)
    broken = [True]

    async def renew(number: int, old: ShardStore, incarnation: int) -> ShardStore:
        old.close(clean=False)
        if broken:
            catalog.term = 6
            raise DeviceFailed("it cannot be cleaned: Input/output error")
        clean_folder(old.folder, incarnation)
        return ShardStore.open(old.folder, CLUSTER)

    agent = Agent(StoragedSettings(dir=("x",)), state, catalog, [store], renew)
    await agent.register("127.0.0.1:1")
    before = (store.folder / "device.json").read_bytes()
    catalog.clean_below, catalog.refuse = 2, True
    await agent._beat_or_register()
    assert [list(heard.devices) for heard in catalog.heard[-1:]] == [[]]  # of others there would be reports
    assert state.may_write()
    assert (store.folder / "device.json").read_bytes() == before
    registered_before = len(catalog.registered)
    await agent._beat_or_register()
    assert len(catalog.registered) == registered_before  # not with every heartbeat
    broken.clear()
    catalog.clock.advance(CLEAN_RETRY_S)
    await agent._beat_or_register()
    await agent.beat()
    assert [device.incarnation for device in catalog.heard[-1].devices] == [2]
    agent.stores[0].close()


async def test_a_replaced_catalog_cleans_nothing(store: ShardStore) -> None:
    agent, opened = cleaning_agent(catalog := Catalog(), store)
    put_one(store)
    await agent.register("127.0.0.1:1")
    catalog.clean_below, catalog.term = 2, 4
    with pytest.raises(StaleTerm):
        await agent.register("127.0.0.1:1")
    assert opened == [store]
    assert store.status().shards == 1


async def test_the_map_is_followed_by_its_changes_and_asked_for_whole_where_one_is_missing(store: ShardStore) -> None:
    agent, _ = agent_of(catalog := Catalog(), store)
    await agent.register("127.0.0.1:1")
    assert agent.map is not None
    assert agent.map.epoch == 3
    catalog.map = catalog_pb2.MapDelta(base=3, epoch=4, cluster=CLUSTER)
    await agent.beat()
    assert (catalog.heard[-1].epoch, agent.map.epoch) == (3, 4)
    catalog.map = catalog_pb2.MapDelta(base=7, epoch=8, cluster=CLUSTER)
    await agent.beat()
    assert agent.map is None
    catalog.map = catalog_pb2.MapDelta(base=0, epoch=9, cluster=CLUSTER)
    await agent.beat()
    assert catalog.heard[-1].epoch == 0
    assert agent.map.epoch == 9
    assert not agent.work.is_set()
    catalog.work = True
    await agent.beat()
    assert agent.work.is_set()


async def test_a_catalog_replaced_before_the_restart_is_not_followed(tmp_path: Path) -> None:
    with ShardStore.open(tmp_path / "device", CLUSTER) as store:
        store.note_term(9)
        agent, state = agent_of(catalog := Catalog(), store)
        with pytest.raises(StaleTerm):
            await agent.register("127.0.0.1:1")
        assert not state.may_write()
        catalog.term = 10
        await agent.register("127.0.0.1:1")
        assert state.may_write()


async def test_a_device_that_cannot_remember_the_term_fails_alone(
    store: ShardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("reedbed.storaged.identity.save", broken)
    agent, state = agent_of(catalog := Catalog(), store)
    assert await agent.register("127.0.0.1:1") == [7]
    assert state.may_write()
    assert "Input/output error" in store.failed
    assert [device.failed for device in catalog.heard[-1].devices] == [True]


def test_no_address_that_clients_could_call() -> None:
    with pytest.raises(InvalidArgument, match="advertise"):
        StoragedSettings(dir=("x",), host="0.0.0.0")
    StoragedSettings(dir=("x",), host="0.0.0.0", advertise="10.0.0.1")


async def test_damaged_shards_are_told_until_they_are_noted(store: ShardStore) -> None:
    agent, _ = agent_of(catalog := Catalog(), store)
    put = PutShard(EXTENT, 0, 1, 1, pg=1, generation=1, table=build_table(EXTENT, 0, [b"x"], [1]), payload=[b"x"])
    store.put(put).result(10)
    (segment,) = (store.folder / "segments").iterdir()
    raw = segment.read_bytes()
    segment.write_bytes(raw.replace(raw[40:], raw[40:].replace(b"x", b"y")))
    with pytest.raises(DamagedShard):
        store.read(EXTENT, 0, 0, 1)
    await agent.register("127.0.0.1:1")
    (told,) = catalog.heard[-1].devices[0].lost
    assert (told.extent, told.index) == (EXTENT, 0)
    catalog.noted = [catalog_pb2.NotedShards(device=7, shards=[told]), catalog_pb2.NotedShards(device=8)]
    await agent.beat()
    assert len(catalog.heard[-1].devices[0].lost) == 1
    await agent.beat()
    assert not catalog.heard[-1].devices[0].lost
    assert catalog.heard[-1].devices[0].damaged == 1
    assert catalog.heard[-1].devices[0].scrub.phase == "resting"


async def test_a_removed_device_is_withdrawn_and_the_others_of_its_process_go_on(
    store: ShardStore, tmp_path: Path
) -> None:
    catalog, withdrawn = Catalog(), []

    async def withdraw(number: int) -> None:
        withdrawn.append(number)

    with ShardStore.open(tmp_path / "other", CLUSTER) as other:
        state = CatalogState(CLUSTER, catalog.clock)
        settings = StoragedSettings(dir=("x", "y"))
        agent = Agent(settings, state, catalog, [store, other], None, withdraw)
        catalog.refusals = [DeviceRemoved("device 3 was removed from the cluster")]
        assert await agent.register("127.0.0.1:1") == [7]
        assert agent.stores == [other]
        assert withdrawn == [0]
        assert [report.number for report in catalog.heard[-1].devices] == [7]
        # the one that is left is told so too, by a heartbeat that nobody knows the device of
        catalog.refuse = True
        catalog.refusals = [DeviceRemoved("device 7 was removed from the cluster")]
        with pytest.raises(DeviceRemoved, match="device 7"):
            await agent.run(asyncio.Event())
        assert withdrawn == [0]


async def test_a_process_whose_only_device_was_removed_does_not_start(store: ShardStore) -> None:
    agent, _ = agent_of(catalog := Catalog(), store)
    catalog.refusals = [DeviceRemoved("device 7 was removed from the cluster")]
    with pytest.raises(DeviceRemoved):
        await registered(agent, "127.0.0.1:1", asyncio.Event(), catalog.clock)


async def test_a_device_that_fails_at_the_start_is_left_alone_and_comes_later(tmp_path: Path) -> None:
    catalog = Catalog()
    stores = [ShardStore.open(tmp_path / name, CLUSTER) for name in ("first", "second")]
    numbers: list[tuple[int, int, ShardStore]] = []

    async def renumbered(old: int, number: int, store: ShardStore) -> None:
        numbers.append((old, number, store))

    agent = Agent(
        StoragedSettings(dir=("x", "y")), CatalogState(CLUSTER, catalog.clock), catalog, stores, renumbered=renumbered
    )
    catalog.refusals = [DeviceFailed("it cannot be cleaned: Input/output error")]
    assert await agent.register("127.0.0.1:1") == [7]
    assert agent.stores == stores[1:]
    assert len(catalog.heard[-1].devices) == 1
    assert numbers == [(0, 7, stores[1])]
    await agent._beat_or_register()
    assert agent.stores == stores[1:], "not at once"
    catalog.clock.advance(CLEAN_RETRY_S)
    await agent._beat_or_register()
    assert agent.stores == stores
    assert numbers[1] == (0, 7, stores[0])
    for store in stores:
        store.close()


async def test_a_process_of_which_no_device_can_start_says_why(store: ShardStore) -> None:
    agent, _ = agent_of(catalog := Catalog(), store)
    catalog.refusals = [DeviceFailed("it cannot be cleaned: Input/output error")]
    with pytest.raises(DeviceFailed, match="cannot be cleaned"):
        await agent.register("127.0.0.1:1")
