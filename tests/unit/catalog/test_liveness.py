"""Who is called down and out, by a clock that the test moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog.liveness import Liveness, Times
from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import DOWN_AFTER_S, OUT_AFTER_S
from reedbed.protos.types import Device

TIMES = Times()
STEP = TIMES.tick_s()


class Room:
    """Devices that beat each second unless silent, and a catalog that ticks."""

    def __init__(self, count: int) -> None:
        self.now = 50.0
        self.devices = {n: Device(n, bytes([n]) * 16, f"10.0.0.{n}:1", "up") for n in range(1, count + 1)}
        self.silent: set[int] = set()
        self.liveness = Liveness(TIMES, self.now, count)

    def beat(self) -> None:
        for number, device in self.devices.items():
            if number not in self.silent and device.state != "failed":
                self.liveness.heard(number, self.now)
                self.devices[number] = replace(device, state="up")

    def run(self, seconds: float, beating: bool = True) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += STEP
            if beating:
                self.beat()
            self.tick()

    def tick(self) -> None:
        for number, state in self.liveness.tick(self.now, self.devices.values(), len(self.devices)).items():
            self.devices[number] = replace(self.devices[number], state=state)

    def states(self) -> str:
        return " ".join(device.state for device in self.devices.values())


def test_silence_makes_a_device_down_and_then_out_and_a_heartbeat_brings_it_back() -> None:
    room = Room(6)
    room.run(20)
    room.silent = {2}
    room.run(DOWN_AFTER_S - 1)
    assert room.states() == "up up up up up up"
    room.run(2)
    assert room.states() == "up down up up up up"
    room.run(OUT_AFTER_S - 2)
    assert room.states() == "up down up up up up"
    room.run(3)
    assert room.states() == "up out up up up up"
    room.silent = set()
    room.run(1)
    assert room.states() == "up up up up up up"


def test_a_device_that_returns_starts_its_time_to_out_anew() -> None:
    room = Room(6)
    room.run(10)
    for _ in range(3):
        room.silent = {1}
        room.run(OUT_AFTER_S - 10)
        assert room.devices[1].state == "down"
        room.silent = set()
        room.run(1)
        assert room.devices[1].state == "up"


def test_a_failed_device_is_never_called_anything_else() -> None:
    room = Room(6)
    room.devices[3] = replace(room.devices[3], state="failed")
    room.run(OUT_AFTER_S * 2)
    assert room.devices[3].state == "failed"


def test_after_a_start_it_listens_for_the_full_down_time() -> None:
    room = Room(6)
    room.silent = {1}
    room.run(DOWN_AFTER_S - 2 * STEP)
    assert room.liveness.listening(room.now)
    assert room.states() == "up up up up up up"
    room.run(3 * STEP)
    assert room.states() == "down up up up up up"


def test_a_device_found_down_at_the_start_gets_the_full_time_to_out() -> None:
    room = Room(6)
    room.devices[1] = replace(room.devices[1], state="down")
    room.silent = {1}
    room.run(OUT_AFTER_S)
    assert room.devices[1].state == "down"
    room.run(DOWN_AFTER_S + 1)
    assert room.devices[1].state == "out"


def test_after_a_stall_nobody_is_called_down_before_it_has_listened() -> None:
    room = Room(6)
    room.run(20)
    room.now += 60
    room.tick()  # the tick comes before the heartbeats that waited
    assert room.states() == "up up up up up up"
    room.run(20)
    assert room.states() == "up up up up up up"


def test_a_stall_ends_with_those_down_that_stay_silent() -> None:
    room = Room(6)
    room.run(20)
    room.silent = {4}
    room.now += 60
    room.run(DOWN_AFTER_S - 2 * STEP)
    assert room.devices[4].state == "up"
    room.run(3 * STEP)
    assert room.states() == "up up up down up up"


def test_a_stall_does_not_count_towards_out() -> None:
    room = Room(6)
    room.run(20)
    room.silent = {4}
    room.run(DOWN_AFTER_S + 10)
    room.now += 2 * OUT_AFTER_S
    room.run(OUT_AFTER_S - 20)
    assert room.devices[4].state == "down"
    room.run(20)
    assert room.devices[4].state == "out"


def test_two_of_six_go_out_but_three_that_are_silent_together_wait_for_an_operator() -> None:
    room = Room(6)
    room.run(10)
    room.silent = {1, 2}
    room.run(OUT_AFTER_S + DOWN_AFTER_S + 1)
    assert room.states() == "out out up up up up"

    room = Room(6)
    room.run(10)
    room.silent = {1, 2, 3}
    room.run(10 * OUT_AFTER_S)
    assert room.states() == "down down down up up up"
    assert room.liveness.held == {1, 2, 3}


def test_those_held_stay_held_although_others_of_them_return() -> None:
    room = Room(6)
    room.run(10)
    room.silent = {1, 2, 3}
    room.run(100)
    room.silent = {1}
    room.run(3 * OUT_AFTER_S)
    assert room.states() == "down up up up up up"
    assert room.liveness.held == {1}
    room.silent = set()
    room.run(1)
    room.silent = {1}  # heard in between: from now on alone
    room.run(OUT_AFTER_S + DOWN_AFTER_S + 1)
    assert room.states() == "out up up up up up"


def test_one_after_the_other_within_the_time_to_out_counts_as_together() -> None:
    room = Room(6)
    room.run(10)
    for number in (1, 2, 3):
        room.silent.add(number)
        room.run(OUT_AFTER_S / 4)
    room.run(2 * OUT_AFTER_S)
    assert room.states() == "down down down up up up"


def test_the_interval_grows_with_the_cluster_and_the_down_time_with_it() -> None:
    assert [TIMES.interval_s(count) for count in (0, 1, 6, 100, 200, 1000)] == [1, 1, 1, 1, 2, 10]
    assert TIMES.down_s(100) == DOWN_AFTER_S
    assert TIMES.down_s(1000) == 40
    assert Times(0.4, 2).interval_s(3) == pytest.approx(0.1)
    for count in (1, 100, 5000):
        assert TIMES.write_lease_s(count) == TIMES.out_s(count) / 2
        assert TIMES.out_s(count) >= 2 * TIMES.down_s(count)
    assert TIMES.write_lease_s(1) == OUT_AFTER_S / 2


@pytest.mark.parametrize(("down", "out"), [(0, 10), (-1, 10), (5, 10), (5, 5), (10, 5)])
def test_times_that_do_not_fit_are_refused(down: float, out: float) -> None:
    with pytest.raises(InvalidArgument, match="do not fit"):
        Times(down, out)


beats = st.lists(
    st.tuples(st.sets(st.integers(1, 6)), st.sampled_from([0.5, 1.0, 4.0, 30.0, 700.0])), min_size=1, max_size=60
)


@settings(max_examples=100, deadline=None)
@given(beats)
def test_whatever_comes_down_and_out_are_only_said_of_devices_that_were_silent_that_long(
    plan: list[tuple[set[int], float]],
) -> None:
    room = Room(6)
    heard = dict.fromkeys(room.devices, room.now)
    last_tick = room.now
    for silent, seconds in plan:
        room.silent = silent
        room.now += seconds
        before = dict(room.devices)
        stalled = room.now - last_tick > TIMES.stall_s()
        last_tick = room.now
        room.tick()
        for number, device in room.devices.items():
            if device.state != before[number].state:
                assert not stalled
                assert room.now - heard[number] >= (DOWN_AFTER_S if device.state == "down" else OUT_AFTER_S)
        if sum(device.state == "out" for device in room.devices.values()) > sum(
            device.state == "out" for device in before.values()
        ):
            down = [n for n, device in before.items() if device.state == "down"]
            in_service = [n for n, device in before.items() if device.state in ("up", "down")]
            assert 3 * len(down) <= len(in_service) or set(down) & room.liveness.held
        room.beat()
        heard.update(dict.fromkeys(set(heard) - silent, room.now))
