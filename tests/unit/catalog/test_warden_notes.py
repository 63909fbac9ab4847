"""What devices are told of the catalog, and what it makes of what they remember."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from reedbed.catalog import notes as noting
from reedbed.catalog.compare_calls import CompareCalls
from reedbed.catalog.edit import editing
from reedbed.catalog.hold import write_begun
from reedbed.catalog.notes import Notes
from reedbed.catalog.records import BegunRow
from reedbed.catalog.service import ClusterCalls
from reedbed.catalog.warden import STALL_S, Own, Verdict, Warden, judge
from reedbed.common.clock import Deadline
from reedbed.common.errors import ReedbedError, StaleTerm, Unavailable
from reedbed.common.ids import Id
from reedbed.protos import catalog_pb2, methods
from reedbed.protos.convert import note_to_message
from reedbed.protos.types import CatalogNote
from reedbed.transport.lane import Request

OWN = Own(term=7, base=0, log=(7, 100), redo=500, version=3)


def note(term: int = 7, version: int = 3, log: tuple[int, int] = (7, 100), redo: int = 500) -> CatalogNote:
    return CatalogNote(term, version, log=log, redo=redo)


@pytest.mark.parametrize(
    ("what", "verdict"),
    [
        (None, Verdict.FINE),
        (note(), Verdict.FINE),
        (note(6, 99), Verdict.FINE),
        (note(8, 0), Verdict.REPLACED),
        (note(8, 0, (1, 1), 1), Verdict.REPLACED),
        (note(redo=501), Verdict.OLDER),
        (note(6, 1, (6, 90), 501), Verdict.OLDER),
        (note(log=(7, 101)), Verdict.OLDER),
        (note(version=4), Verdict.OLDER),  # of our term, but none of ours
    ],
)
def test_what_a_note_says_of_a_catalog(what: CatalogNote | None, verdict: Verdict) -> None:
    assert judge(OWN, what) is verdict


def test_positions_in_records_tell_of_what_we_lack_too() -> None:
    assert judge(OWN, None, (7, 100)) is Verdict.FINE
    assert judge(OWN, None, (6, 999)) is Verdict.FINE
    assert judge(OWN, None, (7, 101)) is Verdict.OLDER
    assert judge(OWN, note(), (9, 1)) is Verdict.OLDER


def test_before_its_next_term_a_catalog_knows_its_last_notes_by_what_they_tell_alone() -> None:
    own = replace(OWN, version=None)
    assert judge(own, note(version=77)) is Verdict.FINE
    assert judge(own, note(version=1, redo=501)) is Verdict.OLDER


def test_what_was_known_when_it_was_begun_anew_is_settled() -> None:
    """The lost catalog had come further than the copy: that is why there is a hold."""
    own = Own(term=2_000_000_001, base=2_000_000_000, log=(7, 100), redo=500, version=1)
    assert judge(own, note(8, 9, (8, 300), 900), (8, 300)) is Verdict.FINE
    assert judge(own, note(2_000_000_001, 1, (2_000_000_001, 101), 501)) is Verdict.OLDER


class Device:
    """A storaged process with one device: what it remembers, and how it answers."""

    def __init__(self) -> None:
        self.note: CatalogNote | None = None
        self.error: ReedbedError | None = None
        self.hangs = False
        self.told = asyncio.Event()

    async def answer(self, new: CatalogNote) -> tuple[list[int], CatalogNote | None]:
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        before = self.note
        if before is None or new.age >= before.age:
            self.note = new
        self.told.set()
        return [1], before


class Told:
    """An Asking whose processes are twins, by address."""

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}

    async def remember(
        self, address: str, note: CatalogNote, seconds: float = 0
    ) -> tuple[list[int], CatalogNote | None]:
        return await self.devices[address].answer(note)


class World:
    """A catalog's notes over four devices, under rs-2-1."""

    def __init__(self, rack: Any, devices: int = 4) -> None:
        self.rack = rack
        self.asking = Told()
        self.warden = Warden(rack.engine, rack.leases, rack.clock)
        self.pending = 0
        self.count = devices
        for device in rack.cluster.map.devices.values():
            self.asking.devices[device.address] = Device()
        self.notes = Notes(
            rack.engine,
            rack.leases,
            lambda: rack.cluster.map,
            self.asking,  # type: ignore[arg-type]
            self.warden,
            lambda: self.pending,
        )

    @property
    def devices(self) -> list[Device]:
        return list(self.asking.devices.values())

    def remembered(self) -> list[bool | None]:
        return [None if device.note is None else device.note.settled for device in self.devices]

    def commit(self) -> None:
        """Something that changes the log."""
        with self.rack.engine.write() as writer, editing(writer, self.rack.needs) as edit:
            edit.append(0, bytes(16), "data", b"key")

    def settle(self) -> None:
        self.notes.settle(self.rack.engine.redo_position())


@pytest.fixture
async def world(rack: Callable[..., Any]) -> World:
    one = rack()
    await one.add(1, 2, 3, 4)
    return World(one)


async def test_no_commit_is_begun_before_enough_devices_know_that_the_copy_may_lack_it(world: World) -> None:
    async with world.notes.committing():
        assert world.remembered().count(False) >= 2  # rs-2-1 may lose one
        world.commit()
    world.settle()
    await world.notes.step()
    assert world.remembered() == [True] * 4
    newest = world.notes.current()
    assert (newest.log[1], newest.settled, newest.redo) == (1, True, world.rack.engine.redo_position())
    async with world.notes.committing():
        assert sum(device.note.age > newest.age for device in world.devices if device.note) >= 2
        assert world.remembered().count(False) >= 2
        world.commit()


async def test_while_commits_are_known_to_be_under_way_nobody_is_told(world: World) -> None:
    async with world.notes.committing():
        world.commit()
    for device in world.devices:
        device.error = Unavailable("must not be asked")
    for _ in range(3):
        async with world.notes.committing():
            world.commit()
    assert not world.notes.unconfirmed


async def test_nothing_is_settled_while_a_commit_may_still_come(world: World) -> None:
    async with world.notes.committing():
        world.settle()
        await world.notes.step()
        assert not world.notes.settled
        world.commit()
        looked_at = world.rack.engine.redo_position() - 1
    world.notes.settle(looked_at)  # a record came after what was looked at
    await world.notes.step()
    assert not world.notes.settled
    world.pending = 1  # its caller gave up, but it will be applied
    world.settle()
    await world.notes.step()
    assert not world.notes.settled
    world.pending = 0
    world.settle()
    assert not world.notes.settled  # who rebuilds it now would not hear of it
    await world.notes.step()
    assert world.notes.settled


async def test_a_catalog_that_starts_tells_before_its_first_commit(world: World) -> None:
    """It does not know what devices heard last."""
    async with world.notes.committing():
        world.commit()
    world.settle()
    await world.notes.step()
    again = World(world.rack.restart())
    again.asking.devices = world.asking.devices
    assert not again.notes.settled
    async with again.notes.committing():
        assert again.remembered().count(False) >= 2
        assert max(device.note.term for device in again.devices if device.note) == 2


async def test_commits_go_on_where_too_few_devices_answer_and_that_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noting, "OPEN_S", 0.05)
    for device in world.devices[:2]:
        device.error = Unavailable("away")
    world.devices[2].hangs = True
    async with world.notes.committing():
        world.commit()
    assert world.notes.unconfirmed
    assert world.remembered() == [None, None, None, False]
    monkeypatch.setattr(noting, "PUSH_S", 0.05)
    await world.notes.step()
    assert world.notes.unconfirmed
    world.devices[0].error = None
    await world.notes.step()
    assert not world.notes.unconfirmed
    assert world.remembered() == [False, None, None, False]


async def test_devices_that_are_down_are_not_waited_for(world: World) -> None:
    for number, device in zip((1, 2, 3), world.devices, strict=False):
        device.hangs = True
        down = replace(world.rack.cluster.map.devices[number], state="down")
        await world.rack.keeper.change(lambda map_, counters, down=down: ([down], []))
    async with world.notes.committing():
        world.commit()
    assert world.remembered() == [None, None, None, False]
    assert not world.notes.unconfirmed


async def test_a_note_changes_only_when_it_says_something_else(world: World) -> None:
    first = world.notes.current()
    assert world.notes.current() is first
    with world.rack.engine.write() as writer:
        writer.put(b"c/other", b"1")
    assert world.notes.current() is first  # a redo record alone is not worth writing a file on each device
    world.commit()
    second = world.notes.current()
    assert (second.version, second.log) == (first.version + 1, (1, 1))
    world.notes.snapshot_from(Id(b"x" * 16))
    assert world.notes.current().begin == b"x" * 16
    world.notes.endpoint = "10.0.0.9:7300"
    assert world.notes.current().endpoint == "10.0.0.9:7300"
    bound = world.notes.current().id_bound_ms
    for _ in range(50):
        world.rack.clock.advance(10)
        await world.rack.leases.keep(world.rack.transactor)
    assert world.notes.current().id_bound_ms == bound
    for _ in range(50):
        world.rack.clock.advance(10)
        await world.rack.leases.keep(world.rack.transactor)
    assert world.notes.current().id_bound_ms > bound + noting.BOUND_STEP_MS


async def test_a_replaced_catalog_commits_nothing(world: World) -> None:
    for device in world.devices:
        device.error = StaleTerm("of term 9")
    with pytest.raises(StaleTerm, match="has been replaced"):
        async with world.notes.committing():
            raise AssertionError("the commit was begun")
    assert world.warden.ended.is_set()
    assert not world.warden.older
    with pytest.raises(StaleTerm):
        world.warden.check()


async def test_an_old_copy_of_a_folder_commits_nothing_either(world: World) -> None:
    for device in world.devices:
        device.note = CatalogNote(1, 0, redo=10_000)
    with pytest.raises(Unavailable, match="older than what its devices have seen"):
        async with world.notes.committing():
            raise AssertionError("the commit was begun")
    assert world.warden.older
    assert world.warden.evidence[0][0] == CatalogNote(1, 0, redo=10_000)


# The warden


async def test_heartbeats_that_tell_of_a_higher_term_end_it(world: World) -> None:
    world.warden.told(1, [])
    with pytest.raises(StaleTerm):
        world.warden.told(2, [])
    assert world.warden.ended.is_set()


@pytest.mark.parametrize("term", [2, 1])
async def test_heartbeats_are_judged_by_what_they_remember_before_the_map_has_a_say(world: World, term: int) -> None:
    """An old copy knows devices by addresses and incarnations of its day, and would send them away for others."""
    note = CatalogNote(1, 0, redo=10_000)
    request = catalog_pb2.HeartbeatRequest(address="10.9.9.9:1", term=term)
    request.devices.add(number=1, uuid=b"1" * 16, incarnation=5, note=note_to_message(note))
    cluster: Any = world.rack.cluster
    none: Any = None  # it comes to nobody else
    calls = ClusterCalls(cluster, none, none, CompareCalls(cluster, none), dict, world.warden)
    before = world.rack.cluster.map
    with pytest.raises(StaleTerm if term == 2 else Unavailable):
        await calls.handlers()[methods.HEARTBEAT](
            Request(methods.HEARTBEAT, request.SerializeToString(), (), Deadline(1.0), 0, 0)
        )
    assert world.warden.ended.is_set()
    assert world.warden.older == (term == 1)
    assert world.rack.cluster.map == before
    assert 1 in world.warden.unheard(before)


async def test_who_has_been_heard_is_remembered_by_device(world: World) -> None:
    map_ = world.rack.cluster.map
    assert world.warden.unheard(map_) == [1, 2, 3, 4]
    world.warden.heard(2, None)
    world.warden.heard(4, world.notes.current())
    assert world.warden.unheard(map_) == [1, 3]
    world.warden.forget([4])
    assert world.warden.unheard(map_) == [1, 3, 4]
    with pytest.raises(Unavailable):
        world.warden.heard(1, None, (1, 5))
    with pytest.raises(Unavailable):
        world.warden.heard(2, None)  # nobody gets an answer any more


async def test_a_base_comes_from_what_was_begun_last(world: World) -> None:
    with world.rack.engine.write() as writer:
        write_begun(writer, 5, BegunRow("x", 1, 2))
        write_begun(writer, 3, BegunRow("x", 1, 2))
    assert Warden(world.rack.engine, world.rack.leases, world.rack.clock).base == 5


async def test_standing_still_is_noticed(world: World) -> None:
    assert not world.warden.stalled()
    world.rack.clock.advance(STALL_S + 0.1)
    assert world.warden.stalled()
    world.warden.seen()
    assert not world.warden.stalled()
