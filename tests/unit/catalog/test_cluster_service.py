"""Registration, heartbeats, states, profiles: the cluster's half of a catalog on a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from reedbed.catalog.probe import listens
from reedbed.common.errors import (
    AlreadyExists,
    DiskFull,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
    WrongCluster,
)
from reedbed.common.limits import OUT_AFTER_S, PGS_PER_DEVICE
from reedbed.protos.types import Labels


async def test_devices_get_numbers_in_turn_and_the_epoch_rises(rack: Any) -> None:
    one = rack()
    await one.add(1, 2, 3)
    assert one.cluster.position() == (4, 1)
    assert one.states() == "up up up"
    again = one.restart()
    assert again.cluster.position() == (4, 2)
    await again.add(4)


async def test_the_same_device_keeps_its_number_over_restarts_and_addresses(rack: Any) -> None:
    one = rack()
    await one.add(1, 2)
    await one.run(10)
    assert one.states() == "down down"
    device = await one.cluster.register(one.asked(1, address="10.0.0.9:1"))
    assert (device.number, device.address, device.state) == (1, "10.0.0.9:1", "up")
    again = one.restart()
    device = await again.cluster.register(one.asked(1, address="10.0.0.8:2"))
    assert (device.number, device.address) == (1, "10.0.0.8:2")
    assert len(again.cluster.map.devices) == 2


async def test_a_device_is_not_registered_twice_while_its_heartbeats_come(rack: Any) -> None:
    one = rack(listening={"10.0.0.1:7301"})
    await one.add(1)
    await one.run(60, 1)
    before = one.cluster.map
    with pytest.raises(AlreadyExists, match="registered twice") as caught:
        await one.cluster.register(one.asked(1, address="10.0.0.2:1"))
    assert caught.value.retryable
    assert one.cluster.map == before
    await one.cluster.register(one.asked(1))  # the same process, started again
    await one.run(3)
    assert (await one.cluster.register(one.asked(1, address="10.0.0.2:1"))).number == 1


async def test_a_copy_that_registers_first_after_a_restart_is_noticed(rack: Any) -> None:
    one = rack(listening={"10.0.0.1:7301"})
    await one.add(1, 2)
    one = one.restart()
    # nobody was heard yet, so nothing speaks against the copy
    assert (await one.cluster.register(one.asked(1, address="10.0.0.9:1"))).number == 1
    with pytest.raises(AlreadyExists, match=r"10\.0\.0\.1:7301.*10\.0\.0\.9:1") as caught:
        await one.cluster.heartbeat(0, [one.report(1)], "10.0.0.1:7301")
    assert caught.value.retryable
    await one.cluster.heartbeat(0, [one.report(1)], "10.0.0.9:1")


async def test_a_device_whose_old_address_is_silent_for_certain_need_not_wait(rack: Any) -> None:
    one = rack()
    await one.add(1)
    await one.run(60, 1)
    assert (await one.cluster.register(one.asked(1, address="10.0.0.2:1"))).address == "10.0.0.2:1"


async def test_only_a_refused_connection_proves_that_nobody_listens(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert await listens(address)
    server.close()
    await server.wait_closed()
    assert not await listens(address)
    assert not await listens(f"unix:{tmp_path}/none")
    assert await listens("no.such.host.invalid:1")


async def test_devices_of_another_cluster_or_time_are_refused(rack: Any) -> None:
    one = rack()
    await one.add(1, incarnation=5)
    before = one.cluster.map
    with pytest.raises(WrongCluster):
        await one.cluster.register(one.asked(2, cluster=b"another cluster!"))
    for incarnation in (3, 0):
        with pytest.raises(PreconditionFailed, match="incarnation"):
            await one.cluster.register(one.asked(1, incarnation=incarnation))
    assert one.cluster.map == before
    device = await one.cluster.register(one.asked(1, incarnation=6, cluster=before.cluster))
    assert device.incarnation == 6


@pytest.mark.parametrize(
    "fields",
    [
        {"uuid": b"short"},
        {"address": ""},
        {"address": "nohost"},
        {"address": "host:"},
        {"address": "host:0"},
        {"address": "host:99999"},
        {"address": "ho\nst:80"},
        {"address": "unix:"},
        {"address": "h" * 400 + ":1"},
    ],
)
async def test_a_registration_that_makes_no_sense_is_refused(rack: Any, fields: dict[str, Any]) -> None:
    one = rack()
    with pytest.raises(InvalidArgument):
        await one.cluster.register(one.asked(1, **fields))
    assert one.cluster.position()[0] == 1


async def test_the_host_comes_from_the_address_and_other_levels_must_be_told(rack: Any) -> None:
    one = rack(level="host")
    await one.add(1)
    await one.add(2, labels=Labels("box", "r1", ""))
    assert [device.labels.host for device in one.cluster.map.devices.values()] == ["10.0.0.1", "box"]
    with pytest.raises(InvalidArgument, match="host"):
        await one.cluster.register(one.asked(3, address="unix:/run/x"))
    two = rack(level="rack")
    with pytest.raises(InvalidArgument, match="no label for its rack"):
        await two.cluster.register(two.asked(1))
    await two.add(1, labels=Labels("", "r1", ""))


async def test_heartbeats_keep_a_device_up_and_silence_is_seen_in_the_map(rack: Any) -> None:
    one = rack()
    await one.add(1, 2, 3, 4, 5, 6)
    epoch, _ = one.cluster.position()
    await one.run(30, 1, 2, 3, 4, 5, 6)
    assert one.cluster.position()[0] == epoch
    await one.run(10, 1, 2, 3, 4, 5)
    assert one.states() == "up up up up up down"
    assert one.cluster.position()[0] == epoch + 1
    answer = await one.beat(1, epoch=epoch)
    assert [(device.number, device.state) for device in answer.map.devices] == [(6, "down")]
    await one.run(OUT_AFTER_S, 1, 2, 3, 4, 5)
    assert one.states() == "up up up up up out"
    await one.beat(6)
    assert one.states() == "up up up up up up"


async def test_an_answer_carries_term_epoch_interval_and_lease(rack: Any) -> None:
    one = rack().restart()
    await one.add(1, 2)
    answer = await one.beat(1, epoch=0)
    assert (answer.epoch, answer.term, answer.interval_s) == (3, 2, 1.0)
    assert answer.write_lease_s == OUT_AFTER_S / 2
    assert answer.map.apply(None) == one.cluster.map
    assert (await one.beat(1, epoch=3)).map is None
    assert (await one.beat(1, epoch=99)).map.base == 0


async def test_heartbeats_are_not_written_to_disk(rack: Any) -> None:
    one = rack()
    await one.add(1)
    await one.beat(1)
    before = one.engine.redo_position()
    for used in range(20):
        await one.beat(1, used=used << 20, shards=used)
    assert one.engine.redo_position() == before
    assert one.cluster.reports[1].used == 19 << 20
    await one.beat(1, used=50 << 30)
    assert one.engine.redo_position() == before + 1
    assert one.cluster.map.devices[1].used == 50 << 30


async def test_a_failed_device_stays_failed_until_a_new_incarnation(rack: Any) -> None:
    one = rack()
    await one.add(1)
    await one.beat(1, failed=True)
    assert one.states() == "failed"
    await one.beat(1)
    assert one.states() == "failed"
    one = one.restart()
    await one.cluster.register(one.asked(1))
    await one.run(20, 1)
    assert one.states() == "failed"
    await one.cluster.register(one.asked(1, incarnation=2))
    assert one.states() == "up"


async def test_a_heartbeat_that_does_not_fit_is_refused_whole(rack: Any) -> None:
    one = rack()
    await one.add(1, 2)
    await one.run(10, 1)
    assert one.states() == "up down"
    good = one.report(2)
    for bad, error in (
        (one.report(9), NotFound),
        (one.report(1, uuid=bytes(16)), PreconditionFailed),
        (one.report(1, incarnation=2), PreconditionFailed),
        (good, InvalidArgument),
    ):
        with pytest.raises(error):
            await one.cluster.heartbeat(0, [good, bad])
        assert one.states() == "up down"
    await one.cluster.heartbeat(0, [good, one.report(1)])
    assert one.states() == "up up"


async def test_a_state_that_cannot_be_written_gives_no_answer(rack: Any) -> None:
    one = rack()
    await one.add(1)
    await one.run(20)
    assert one.states() == "down"
    one.transactor.error = DiskFull("full")
    with pytest.raises(DiskFull):
        await one.beat(1)
    assert one.states() == "down"


async def test_a_catalog_that_starts_or_stalls_calls_nobody_down_before_it_listened(rack: Any) -> None:
    one = rack()
    await one.add(1, 2, 3)
    await one.run(10, 1, 2, 3)
    one.clock.advance(3600)
    one = one.restart()
    await one.run(4.5)
    assert one.states() == "up up up"
    await one.run(5, 1, 2)
    assert one.states() == "up up down"
    one.clock.advance(100)  # a stall
    await one.cluster.tick()
    await one.run(4)
    assert one.states() == "up up down"


async def test_the_wall_clock_has_no_say_in_who_is_down(rack: Any) -> None:
    one = rack()
    await one.add(1, 2)
    await one.run(10, 1, 2)
    for jump in (3600, -7200):
        one.clock.wall_now += jump
        await one.run(2, 1, 2)
        assert one.states() == "up up"
    one.clock.wall_now = 0
    await one.run(10, 1)
    assert one.states() == "up down"


async def test_who_is_heard_while_the_tick_waits_is_not_called_down(rack: Any) -> None:
    one = rack()
    await one.add(1, 2)
    await one.run(6, 2)
    one.clock.advance(0.5)
    await one.beat(1)
    await one.run(4.5, 2)
    held = one.transactor.run
    go = asyncio.Event()

    async def slow(fn: Any, *, urgent: bool = False, undo: Any = None) -> Any:
        await go.wait()
        return await held(fn, urgent=urgent)

    one.transactor.run = slow
    first = asyncio.ensure_future(one.cluster.register(one.asked(3)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    one.clock.advance(0.5)
    tick = asyncio.ensure_future(one.cluster.tick())
    await asyncio.sleep(0)
    one.clock.advance(0.1)
    beat = asyncio.ensure_future(one.beat(1))
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, tick, beat)
    assert one.cluster.map.devices[1].state == "up"


async def test_pgs_are_made_at_the_first_use_of_a_profile_and_only_then(rack: Any) -> None:
    one = rack()
    await one.add(1, 2, 3, 4, 5, 6)
    assert one.cluster.map.pgs == {}
    await asyncio.gather(*(one.cluster.ensure_profile("rs-4-2") for _ in range(3)))
    pgs = one.cluster.map.pgs
    assert len(pgs) == PGS_PER_DEVICE
    assert one.cluster.position()[0] == 8
    assert all({place.device for place in pg.positions} == {1, 2, 3, 4, 5, 6} for pg in pgs.values())
    firsts = Counter(pg.positions[0].device for pg in pgs.values())
    assert max(firsts.values()) - min(firsts.values()) <= 1
    await one.add(7)
    again = one.restart()
    change = await again.cluster.ensure_profile("rs-4-2")
    assert change.apply(None).pgs == pgs
    await again.cluster.ensure_profile("rs-2-1")
    ids = set(again.cluster.map.pgs) - set(pgs)
    assert min(ids) == max(pgs) + 1


async def test_too_few_devices_or_domains_are_named(rack: Any) -> None:
    one = rack()
    await one.add(1, 2, 3, 4, 5)
    with pytest.raises(InvalidArgument, match="needs 6 devices, there are 5"):
        await one.cluster.ensure_profile("rs-4-2")
    with pytest.raises(InvalidArgument, match="not a profile"):
        await one.cluster.ensure_profile("rs-four-two")
    assert one.cluster.map.pgs == {}
    await one.beat(5, failed=True)
    with pytest.raises(InvalidArgument, match="needs 5 devices, there are 4"):
        await one.cluster.ensure_profile("rs-3-2")
    two = rack(level="host")
    await two.add(1, 2, 3, labels=Labels("one", "", ""))
    with pytest.raises(InvalidArgument, match="host"):
        await two.cluster.ensure_profile("rs-2-1")


async def test_leases_come_with_the_horizon(rack: Any) -> None:
    one = rack()
    lease = await one.cluster.lease()
    assert len(lease.prefix) == 12
    assert lease.horizon == one.leases.horizon()
    assert lease.good_for_ms == 60_000
