"""What people read of a catalog that was restored."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from reedbed.catalog.backups import About
from reedbed.catalog.rebuild import Rebuilt, _grace
from reedbed.catalog.records import BegunRow
from reedbed.catalog.restoring import Begun
from reedbed.catalog.witness import Witness
from reedbed.cli.begun import done_lines, fault_lines
from reedbed.common.ids import NO_ID, Id
from reedbed.common.limits import DELETE_GRACE_S, READ_DEADLINE_MAX_S
from reedbed.protos.types import ClusterMap, Device

HOUR = 3600.0
BEGUN = Begun(7, BegunRow("restored from a backup", 1, 2), (NO_ID, Id(b"\xff" * 16)), (1, 2))


def test_orders_that_are_forgotten_are_told() -> None:
    done = Rebuilt(b"c" * 16, 5, begun=replace(BEGUN, forgotten=("the drain of devices 2, 4",)))
    assert "forgotten: the drain of devices 2, 4. Order it again if you still want it" in done_lines(
        "restored", done.as_json(), "folder"
    )


@pytest.mark.parametrize(("age_s", "grace_s", "old"), [(23 * HOUR, 24 * HOUR, False), (25 * HOUR, 24 * HOUR, True)])
def test_a_backup_older_than_the_grace_is_a_fault(age_s: float, grace_s: float, old: bool) -> None:
    told = Rebuilt(b"c" * 16, 5, begun=BEGUN, age_s=age_s, grace_s=grace_s).as_json()
    lines = list(fault_lines(told))
    assert told["past_grace"] is old
    assert len(lines) == old
    if old:
        assert lines[0].startswith("past grace: the backup is 1 d 1 h old")
        assert "for 1 d" in lines[0]


def test_removals_wait_for_the_copy_so_it_is_never_too_old() -> None:
    assert not list(fault_lines(Rebuilt(b"c" * 16, 5, begun=BEGUN, age_s=1e9).as_json()))


def test_a_backup_tells_the_grace_and_where_space_is_short_it_is_that_of_reads() -> None:
    old = msgspec.json.decode(b'{"cluster": "00", "term": 1, "redo": 2, "created_us": 3}', type=About)
    assert old.grace_s == DELETE_GRACE_S
    device = Device(1, b"1" * 16, "x:1", "up", capacity=100, used=80)
    seen = Witness(b"c" * 16, 1, (), None, (0, 0), 0, 1, ClusterMap(b"c" * 16, 1, {1: device}, {}), {})
    assert _grace(9 * HOUR, seen) == 9 * HOUR
    assert _grace(9 * HOUR, replace(seen, map=None)) == 9 * HOUR
    full = ClusterMap(b"c" * 16, 1, {1: replace(device, used=90)}, {})
    assert _grace(9 * HOUR, replace(seen, map=full)) == READ_DEADLINE_MAX_S
