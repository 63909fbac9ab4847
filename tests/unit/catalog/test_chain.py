"""Which snapshot and runs make up the newest state: among forks, gaps, retries and half-written runs."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from reedbed.catalog import chain
from reedbed.catalog.chain import Found, Plan
from reedbed.catalog.pieces import END, NO_LINK, REDO, Head
from reedbed.common.ids import Id

STREAM = b"s" * 16


class Made:
    """Pieces by name, each with an extent of its own."""

    def __init__(self) -> None:
        self.pieces: list[tuple[Head, Id]] = []

    def run(self, before: Head | None, last: int, *, parts: int = 1, **more: object) -> list[Head]:
        """The parts of a run that follows `before`."""
        first = before.last + 1 if before else 1
        heads: list[Head] = []
        for part in range(parts):
            old = heads[-1] if heads else before
            head = Head(
                REDO,
                b"c" * 16,
                STREAM,
                term=old.term if old else 1,
                number=old.number + 1 if old else 1,
                part=part,
                parts=parts,
                first=first,
                last=last,
                previous=old.link if old else NO_LINK,
            )
            head = replace(head, **more)  # type: ignore[arg-type]
            heads.append(self.add(head))
        return heads

    def end(self, first: int, last: int, anchor: Head | None, number: int = 1, **more: object) -> Head:
        """The end of a snapshot whose pages were read between these records."""
        previous = anchor.link if anchor else NO_LINK
        head = Head(END, b"c" * 16, STREAM, 1, number, first=first, last=last, previous=previous)
        return self.add(replace(head, **more))  # type: ignore[arg-type]

    def add(self, head: Head) -> Head:
        self.pieces.append((head, Id(len(self.pieces).to_bytes(16, "big"))))
        return head

    def without(self, *heads: Head) -> list[Found]:
        return chain.merged((head, id_) for head, id_ in self.pieces if head not in heads)

    def plans(self, *missing: Head) -> list[Plan]:
        found = self.without(*missing)
        random.Random(3).shuffle(found)
        return chain.plans(found)


def runs_of(plan: Plan) -> list[tuple[int, int]]:
    return [(run[0].head.first, run[0].head.last) for run in plan.runs]


def line(made: Made, *lasts: int, **more: object) -> list[Head]:
    """Runs one after the other, up to these records."""
    heads: list[Head] = []
    for last in lasts:
        heads += made.run(heads[-1] if heads else None, last, **more)
    return heads


def test_a_snapshot_and_what_follows_it() -> None:
    made = Made()
    runs = line(made, 5, 9, 14, 20)
    end = made.end(7, 12, runs[2])
    (plan,) = made.plans()
    assert plan.end.head == end
    assert runs_of(plan) == [(6, 9), (10, 14), (15, 20)]  # the run that holds record 8, and all after
    assert (plan.last, plan.number, plan.link) == (20, 4, runs[3].link)


def test_of_two_snapshots_the_newer_saves_work_and_the_older_is_there_if_it_cannot_be_read() -> None:
    made = Made()
    runs = line(made, 5, 9, 14, 20)
    old, new = made.end(2, 4, runs[0]), made.end(10, 13, runs[2], number=2)
    first, second = made.plans()
    assert (first.end.head, runs_of(first)) == (new, [(10, 14), (15, 20)])
    assert (second.end.head, runs_of(second)) == (old, [(1, 5), (6, 9), (10, 14), (15, 20)])
    assert first.last == second.last == 20
    # the older one's runs are gone, as after their grace
    assert [plan.end.head for plan in made.plans(runs[0])] == [new]


def test_a_gap_is_never_bridged() -> None:
    made = Made()
    runs = line(made, 5, 9, 14, 20)
    made.end(2, 4, runs[0])
    (plan,) = made.plans(runs[2])
    assert plan.last == 9
    made.end(10, 13, runs[2], number=2)
    assert [plan.last for plan in made.plans(runs[2])] == [9]  # the second snapshot lacks records 11 to 13
    assert made.plans(runs[0], runs[1], runs[2]) == []


def test_a_snapshot_needs_every_record_up_to_its_last_page() -> None:
    made = Made()
    runs = line(made, 5, 9)
    made.end(3, 8, runs[1])
    assert [plan.last for plan in made.plans()] == [9]
    assert made.plans(runs[1]) == []  # the pages may hold what record 9 would finish


def test_a_snapshot_without_changes_needs_no_run() -> None:
    made = Made()
    made.end(4, 4, None)
    (plan,) = made.plans()
    assert (plan.last, plan.runs, plan.number) == (4, (), 0)
    made.run(replace(HEAD_AT_4, previous=NO_LINK), 9, previous=NO_LINK, number=1)
    assert [plan.last for plan in made.plans()] == [9]


HEAD_AT_4 = Head(REDO, b"c" * 16, STREAM, 1, 0, last=4, previous=NO_LINK)


def test_a_half_written_run_is_left_out() -> None:
    made = Made()
    runs = line(made, 5)
    long = made.run(runs[-1], 9, parts=3)
    after = made.run(long[-1], 12)
    made.end(2, 4, runs[0])
    assert runs_of(made.plans()[0]) == [(1, 5), (6, 9), (10, 12)]
    assert [len(run) for run in made.plans()[0].runs] == [1, 3, 1]
    for lost in long:
        assert made.plans(lost)[0].last == 5
    assert made.plans(after[0])[0].last == 9


def test_a_run_that_was_tried_again_leaves_a_dead_end() -> None:
    made = Made()
    (first,) = line(made, 5)
    made.run(first, 8, time_us=1)  # written, never committed
    (again,) = made.run(first, 9, time_us=2)
    made.run(again, 12)
    made.end(2, 4, first)
    assert made.plans()[0].last == 12
    twice = Made()
    (one,) = line(twice, 5)
    twice.add(one)  # the same piece in another extent
    twice.end(2, 4, one)
    (plan,) = twice.plans()
    assert [len(part.extents) for run in plan.runs for part in run] == [2]


def test_a_catalog_that_was_replaced_and_went_on_is_not_followed() -> None:
    made = Made()
    common = line(made, 5, 9)
    end = made.end(2, 4, common[0])
    zombie = made.run(common[-1], 50, term=6)
    made.run(zombie[-1], 90, term=6)
    made.end(60, 80, zombie[-1], number=2, term=6)
    (new,) = made.run(common[-1], 11, term=1_000_000_001)
    best = made.plans()[0]
    assert (best.last, best.term, best.end.head) == (11, 1_000_000_001, end)
    made.run(new, 13, term=1_000_000_001)
    assert made.plans()[0].last == 13
    # its own snapshot, of another history, is never combined with our runs
    assert all(plan.term != 1_000_000_001 or plan.end.head == end for plan in made.plans())


def test_pieces_of_another_stream_do_not_fit() -> None:
    made = Made()
    runs = line(made, 5, 9)
    made.end(2, 4, runs[0], stream=b"t" * 16)
    assert made.plans() == []
    made.run(runs[-1], 12, stream=b"t" * 16)
    made.run(runs[-1], 13, number=9)
    made.run(runs[-1], 14, first=11)
    made.run(runs[-1], 15, previous=b"x" * 32)
    made.end(2, 4, runs[0])
    assert [plan.last for plan in made.plans()] == [9]


@given(st.data())
def test_a_plan_is_always_an_unbroken_chain_over_its_snapshot(data: st.DataObject) -> None:
    """Whatever is there of whatever tree."""
    made = Made()
    heads: list[Head] = []
    for _ in range(data.draw(st.integers(1, 12))):
        before = data.draw(st.sampled_from([None, *heads]))
        last = (before.last if before else 0) + data.draw(st.integers(1, 4))
        term = data.draw(st.integers(before.term if before else 1, 4))
        heads += made.run(before, last, parts=data.draw(st.integers(1, 2)), term=term)
    for number in range(data.draw(st.integers(0, 4))):
        anchor = data.draw(st.sampled_from(heads))
        first = data.draw(st.integers(0, anchor.last))
        made.end(first, data.draw(st.integers(first, anchor.last)), anchor, number=number)
    kept = [piece for piece in made.pieces if data.draw(st.integers(0, 5))]
    found = chain.plans(chain.merged(kept))
    for plan in found:
        parts = [part.head for run in plan.runs for part in run]
        assert all(new.previous == old.link and new.number == old.number + 1 for old, new in pairwise(parts))
        records = [number for run in plan.runs for number in range(run[0].head.first, run[0].head.last + 1)]
        assert records == list(range(records[0], records[-1] + 1)) if records else True
        end = plan.end.head
        if parts:
            assert records[0] <= end.first + 1
            assert records[-1] >= end.last
            assert end.previous == NO_LINK or end.previous in {head.link for head in _ancestors(made, parts[-1])}
        else:
            assert end.first == end.last
    ranks = [(plan.term, plan.last) for plan in found]
    assert ranks == sorted(ranks, reverse=True)


def _ancestors(made: Made, head: Head) -> list[Head]:
    by_link = {one.link: one for one, _ in made.pieces}
    found = [head]
    while found[-1].previous in by_link:
        found.append(by_link[found[-1].previous])
    return found
