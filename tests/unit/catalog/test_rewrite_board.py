"""Who rewrites what: one group at a time for each piece, a few for each process, and pauses after failures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reedbed.catalog.gather import Group, place_of
from reedbed.catalog.records import SliceRow
from reedbed.catalog.rewrite_board import AT_HAND, HOLD_MAX_S, LEASE_S, READY_MAX, RewriteBoard


def piece(number: int) -> SliceRow:
    return SliceRow(number.to_bytes(16, "big"), 0, 10)


def group(*numbers: int, compacts: bool = False) -> Group:
    return Group("rs-2-1", tuple(map(piece, numbers)), compacts)


def board(*groups: Group) -> RewriteBoard:
    made = RewriteBoard(first=100)
    made.heard("a", 1, 0.0)
    made.heard("b", 1, 0.0)
    for one in groups:
        made.add(one, 0.0)
    return made


def test_a_piece_is_in_one_group_until_that_has_ended() -> None:
    made = board(group(1, 2), group(2, 3), group(3))
    number, first = made.take("a", 0.0, compact_first=False) or (0, group())
    assert (number, first) == (100, group(1, 2))
    assert made.take("b", 0.0, compact_first=False) == (101, group(3))
    assert made.take("b", 0.0, compact_first=False) is None
    assert made.skips(piece(1), 0.0)
    assert made.find("a", 100) == first
    assert made.find("b", 100) is None
    made.done("b", 100)  # not its own
    assert made.skips(piece(1), 0.0)
    made.done("a", 100)
    made.done("a", 100)
    assert not made.skips(piece(1), 0.0)
    assert made.skips(piece(3), 0.0)


def test_a_process_has_a_few_at_a_time_and_loses_them_with_its_life() -> None:
    made = board(*(group(number) for number in range(10)))
    for _ in range(AT_HAND):
        assert made.take("a", 0.0, compact_first=False)
    assert not made.room("a", 0.0)
    assert made.room("b", 0.0)
    assert made.room("new", 0.0)
    assert made.take("a", 0.0, compact_first=False) is None
    made.heard("a", 2, 1.0)
    assert made.given == 0
    assert made.take("a", 1.0, compact_first=False)
    made.heard("a", 2, 2.0)
    made.expire({"a"}, 2.0 + LEASE_S)
    assert made.given == 1
    made.expire({"a"}, 2.1 + LEASE_S)
    assert made.given == 0
    made.heard("a", 2, 3.0)
    number, _ = made.take("a", 3.0, compact_first=False) or (0, None)
    made.take("a", 3.0, compact_first=False)
    made.heard("a", 2, 3.0, {number})
    assert made.given == 1, "the other one was in an answer that was lost"
    made.heard("a", 2, 3.0, ())
    assert made.given == 0
    made.heard("b", 1, 100.0)
    made.take("b", 100.0, compact_first=False)
    made.expire({"a"}, 100.0)
    assert made.given == 0, "nobody serves there any more"


def test_the_kinds_take_turns_and_compaction_goes_first_where_space_is_short() -> None:
    numbers = iter(range(100))

    def kinds(compact_first: bool) -> str:
        made = board(*(group(next(numbers), compacts=compacts) for compacts in (False, False, True, True)))
        found = ""
        for address in ("a", "a", "b", "b"):
            taken = made.take(address, 0.0, compact_first)
            assert taken
            found += "c" if taken[1].compacts else "r"
        return found

    assert kinds(compact_first=False) == "rcrc"
    assert kinds(compact_first=True) == "ccrr"
    made = board(*(group(next(numbers)) for _ in range(READY_MAX)))
    assert made.full(compacts=False)
    assert not made.full(compacts=True)


def test_a_failure_of_all_holds_everything_back_for_longer_each_time() -> None:
    made = board(*(group(number) for number in range(10)))
    made.hold("no room", 10.0)
    assert made.held(10.5)
    assert not made.held(11.0)
    assert made.stopped == "no room"
    assert made.take("a", 11.0, compact_first=False)
    assert not made.room("b", 11.0), "one to see whether it goes again"
    made.done("a", 100)
    made.hold("no room", 12.0)
    assert made.held(13.9)
    assert not made.held(14.0)
    for _ in range(20):
        made.hold("no room", 20.0)
    assert made.held(20.0 + HOLD_MAX_S - 0.1)
    assert not made.held(20.0 + HOLD_MAX_S)
    made.succeeded()
    assert not made.held(20.0)
    assert made.stopped == ""


def test_an_extent_that_cannot_be_read_is_left_alone_for_a_while() -> None:
    made = board()
    made.unreadable([piece(1).extent], 0.0)
    assert made.skips(piece(1), 4.9)
    assert not made.skips(piece(1), 5.0)
    made.unreadable([piece(1).extent], 10.0)
    assert made.skips(piece(1), 19.9)
    made.add(group(1, 2), 19.9)
    assert made.take("a", 19.9, compact_first=False) == (100, group(2))
    made.expire({"a", "b"}, 5000.0)
    made.unreadable([piece(1).extent], 5000.0)
    assert not made.skips(piece(1), 5005.0), "long ago counts no more"


@given(st.lists(st.tuples(st.sampled_from("atdhxfs"), st.integers(0, 8), st.integers(1, 3)), max_size=60))
def test_whatever_happens_no_piece_is_given_twice(events: list[tuple[str, int, int]]) -> None:
    made, now, numbers = board(), 0.0, []
    for what, number, boot in events:
        address = "ab"[number % 2]
        now += 7.0
        if what == "a":
            made.add(group(number, number + 1), now)
        elif what == "t":
            made.heard(address, boot, now)
            taken = made.take(address, now, compact_first=False)
            numbers += [taken[0]] if taken else []
        elif what == "d" and numbers:
            made.done(address, numbers[number % len(numbers)])
        elif what == "h":
            made.heard(address, boot, now)
        elif what == "x":
            made.expire({"a", "b"}, now)
        elif what == "f":
            made.hold("why", now)
        elif what == "s":
            made.succeeded()
        held = [
            place_of(one)
            for process in made._processes.values()
            for each in process.given.values()
            for one in each.pieces
        ]
        waiting = [place_of(one) for kind in made._ready for each in kind for one in each.pieces]
        assert len(held + waiting) == len(set(held + waiting))
        assert made._busy == set(held + waiting)
        assert len(numbers) == len(set(numbers))
