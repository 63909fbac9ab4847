"""The rows: those of the goal table, bounded, and chosen by name."""

from __future__ import annotations

import pytest

from reedbed.bench.table import DEAD, DEVICES, STORED_FACTOR, select, table
from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import GIB

NAMES = [
    "PUT 4 KiB x1",
    "GET 4 KiB x1",
    "PUT 4 KiB x32",
    "GET 4 KiB x32",
    "PUT 4 KiB, 16 processes",
    "GET 4 KiB, 16 processes",
    "LIST 10,000 keys",
    "DELETE 4 KiB x32",
    "PUT 1 MiB x8",
    "GET 1 MiB x8",
    "PUT 64 MiB x2",
    "GET 64 MiB x2",
    f"GET 64 MiB x2, {DEAD} of {DEVICES} dead",
]


def test_rows_and_their_goals() -> None:
    rows = {row.name: row for row in table()}
    assert list(rows) == NAMES
    goals = [700, 2_000, 10_000, 15_000, 2_500, 6_000, 40, 10_000, 1_000, 1_500, 1_000, 2_000, None]
    assert [row.goal for row in rows.values()] == goals
    ratios = {name: row.goal_nginx for name, row in rows.items() if row.goal_nginx is not None}
    assert ratios == {
        "PUT 4 KiB x32": 0.7,
        "GET 4 KiB x32": 0.7,
        "PUT 1 MiB x8": 0.65,
        "GET 1 MiB x8": 0.6,
        "PUT 64 MiB x2": 0.7,
        "GET 64 MiB x2": 0.85,
    }
    assert rows[NAMES[-1]].goal_healthy == 0.7
    assert {name for name, row in rows.items() if row.goal_syncs} == {"PUT 4 KiB x32"}
    assert {name for name, row in rows.items() if row.goal_appends} == {"PUT 64 MiB x2"}


@pytest.mark.parametrize("quick", [False, True])
def test_one_group_never_stores_more_than_3_gib(quick: bool) -> None:
    rows = table(quick=quick)
    for group in {row.group for row in rows}:
        put = sum(row.objects_most * row.size for row in rows if row.group == group and row.kind == "PUT")
        assert put * STORED_FACTOR < 3 * GIB


def test_selecting_brings_what_a_row_needs() -> None:
    chosen = select(table(), ["get 64*dead"])
    assert [row.name for row in chosen] == NAMES[-3:]
    assert [row.name for row in select(table(), ["DELETE*", "list *"])] == [NAMES[2], NAMES[6], NAMES[7]]
    assert select(table(), []) == table()


def test_an_unknown_row_is_refused_with_the_names_of_those_that_are() -> None:
    with pytest.raises(InvalidArgument, match=r"no row is called 'nonsense'.*PUT 64 MiB x2"):
        select(table(), ["put*", "nonsense"])
