"""Which redo records are worth shipping, what the engine keeps of them, and when a snapshot is due."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reedbed.catalog import copying, keys, leases, removals, sysobjects
from reedbed.catalog.copying import RUN_BYTES, RUN_RECORDS, RUNS_MAX, SNAPSHOT_FLOOR
from reedbed.catalog.engine import RedoRecord
from reedbed.catalog.records import CopyRow, SnapshotRow
from reedbed.common.ids import CLIENTS, SNAPSHOT, STREAM, Id, make_block

OURS = [Id(make_block(5, 1, owner) + bytes(4)) for owner in (STREAM, SNAPSHOT)]
THEIRS = Id(make_block(5, 1, CLIENTS) + bytes(4))


def record(*changed: bytes) -> RedoRecord:
    return RedoRecord(1, [(key, b"x") for key in changed])


def of_extent(id_: Id) -> list[bytes]:
    return [
        keys.extent(id_),
        keys.extent_of_pg(3, id_),
        keys.degraded(1, id_),
        keys.dropped(77, id_),
    ]


@pytest.mark.parametrize("id_", OURS)
def test_what_the_copy_does_to_itself_is_not_worth_a_run(id_: Id) -> None:
    own = [
        *of_extent(id_),
        keys.objects(sysobjects.BUCKET) + sysobjects.redo_key(5),
        keys.COUNTERS,
        keys.lack(3, 1, 0, 0),
        copying.ROW,
        leases.ROW,
        removals.NUMBER_ROW,
        removals.ORDER_ROWS + bytes(12),
        removals.OPEN_ROWS + id_,
    ]
    assert not copying.worth_shipping(record(*own))
    assert not copying.worth_shipping(RedoRecord(1, []))


@pytest.mark.parametrize(
    "key",
    [
        *of_extent(THEIRS),
        keys.objects(1) + b"key",
        keys.objects(256) + b"key",
        keys.log(9),
        keys.LOG_STATE,
        keys.bucket("data"),
        keys.outcome(OURS[0]),
        keys.mark(3),
        b"c/cluster",
        b"c/d/\0\0\0\1",
        b"c/h",
    ],
)
def test_everything_else_is(key: bytes) -> None:
    assert copying.worth_shipping(record(keys.COUNTERS, key, copying.ROW))


def test_runs_are_bounded() -> None:
    small = [RedoRecord(number, [(b"k", b"v")]) for number in range(RUN_RECORDS + 5)]
    assert len(copying.run_of(small)) == RUN_RECORDS
    large = [RedoRecord(number, [(b"k", bytes(RUN_BYTES // 3))]) for number in range(9)]
    assert len(copying.run_of(large)) == 2
    assert len(copying.run_of([RedoRecord(1, [(b"k", bytes(2 * RUN_BYTES))]), *small])) == 1
    assert copying.run_of([]) == []


def row(size: int = 0, runs: int = 0, snapshot: int | None = 0, *, wanted: bool = False) -> CopyRow:
    newest = None if snapshot is None else SnapshotRow(1, 2, 3, snapshot, 4, bytes(16))
    return CopyRow(bytes(16), 10, size=size, runs=runs, snapshot=newest, wanted=wanted)


def test_when_a_snapshot_is_due() -> None:
    assert copying.snapshot_due(row(snapshot=None))
    assert copying.snapshot_due(row(wanted=True))
    assert not copying.snapshot_due(row(SNAPSHOT_FLOOR))
    assert copying.snapshot_due(row(SNAPSHOT_FLOOR + 1))
    assert not copying.snapshot_due(row(3 * SNAPSHOT_FLOOR, snapshot=4 * SNAPSHOT_FLOOR))
    assert copying.snapshot_due(row(4 * SNAPSHOT_FLOOR + 1, snapshot=4 * SNAPSHOT_FLOOR))
    assert copying.snapshot_due(row(runs=RUNS_MAX + 1))


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 60), st.lists(st.integers(0, 50), max_size=3))
def test_the_engine_forgets_what_is_in_the_copy_and_no_backup_needs_within_its_bound(
    last: int, more: int, most: int, pinned: list[int]
) -> None:
    position = last + more
    upto = copying.keep_from(CopyRow(bytes(16), last), position, most, pinned)
    assert position - max(0, upto) <= most  # the bound holds in any case
    if position - last <= most and not pinned:
        assert upto == last
    if upto > last:
        assert position - last > most
    assert all(upto <= pin or position - pin > most for pin in pinned)
    assert copying.keep_from(None, position, most, pinned) == position - most


def test_names_of_system_objects_sort_as_records_do(tmp_path: Path) -> None:
    names = [sysobjects.redo_key(number) for number in (1, 9, 10, 255, 256, 1 << 40)]
    assert names == sorted(names)
    assert [sysobjects.last_of(name) for name in names] == [1, 9, 10, 255, 256, 1 << 40]
    assert sysobjects.end_key(1) < sysobjects.rows_key(1, 0) < sysobjects.end_key(2)
