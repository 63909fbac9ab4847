"""The simulation's checkers, on histories with known answers."""

from __future__ import annotations

import random
from typing import Any

import pytest
from reedbed_sim.checks import Final, check_all, check_contents, check_follower, check_log, check_state, replay
from reedbed_sim.history import OPEN, Entry, History, Op, Ranged
from reedbed_sim.linear import check_key


def op(number: int, kind: Any, begin: float, end: float = OPEN, outcome: Any = "ok", **more: Any) -> Op:
    return Op(number, "c", kind, "plain", "k", begin, end, outcome, **more)


def put(number: int, version: str, begin: float, end: float, **more: Any) -> Op:
    return op(number, "put", begin, end, version=version, content=f"of {version}", **more)


def lost_put(number: int, content: str, begin: float, **more: Any) -> Op:
    return op(number, "put", begin, outcome="unknown", content=content, **more)


def read(number: int, version: str | None, begin: float, end: float) -> Op:
    return op(number, "read", begin, end, version=version)


def holds(*ops: Op, versioned: bool = False, contents: dict[str, str] | None = None) -> bool:
    return not check_key(ops, versioned=versioned, contents=contents or {})


# Linearizability of one key


def test_what_happens_one_after_the_other() -> None:
    assert holds(read(0, None, 0, 1), put(1, "a", 2, 3), read(2, "a", 4, 5), put(3, "b", 6, 7), read(4, "b", 8, 9))
    assert not holds(put(0, "a", 0, 1), put(1, "b", 2, 3), read(2, "a", 4, 5))  # stale
    assert not holds(put(0, "a", 0, 1), read(1, None, 2, 3))  # lost
    assert not holds(read(0, "a", 0, 1), put(1, "a", 2, 3))  # from the future


def test_reads_at_the_same_time_as_a_put_may_see_either_but_not_go_back() -> None:
    during = (put(0, "a", 0, 1), put(1, "b", 2, 10))
    assert holds(*during, read(2, "a", 3, 4), read(3, "b", 5, 6))
    assert not holds(*during, read(2, "b", 3, 4), read(3, "a", 5, 6))


def test_two_puts_at_the_same_time_have_one_order_for_all() -> None:
    both = (put(0, "a", 0, 10), put(1, "b", 0, 10))
    assert holds(*both, read(2, "a", 11, 12), read(3, "a", 13, 14))
    assert not holds(*both, read(2, "a", 11, 12), read(3, "b", 13, 14))


def test_a_put_whose_answer_was_lost_may_have_happened_at_any_time_after_its_begin_or_never() -> None:
    contents = {"x": "lost"}
    lost = lost_put(1, "lost", 2)
    assert holds(put(0, "a", 0, 1), lost, read(2, "a", 50, 51), contents=contents)
    assert holds(put(0, "a", 0, 1), lost, read(2, "a", 5, 6), read(3, "x", 90, 91), contents=contents)
    assert not holds(put(0, "a", 0, 1), lost, read(2, "x", 5, 6), read(3, "a", 7, 8), contents=contents)
    assert not holds(put(0, "a", 0, 1), lost_put(1, "lost", 20), read(2, "x", 5, 6), contents=contents)
    assert not holds(put(0, "a", 0, 1), lost, read(2, "x", 5, 6), contents={"x": "of another"})


def test_a_put_that_failed_did_not_happen() -> None:
    failed = op(1, "put", 2, 3, outcome="failed", content="failed")
    assert holds(put(0, "a", 0, 1), failed, read(2, "a", 4, 5), contents={"x": "failed"})
    assert not holds(put(0, "a", 0, 1), failed, read(2, "x", 4, 5), contents={"x": "failed"})


def test_of_two_that_want_to_be_first_one_is() -> None:
    won = put(0, "a", 0, 10, condition="absent")
    refused = op(1, "put", 0, 10, outcome="refused", condition="absent")
    assert holds(won, refused)
    assert not holds(won, put(1, "b", 0, 10, condition="absent"))
    assert not holds(refused)  # nobody was first
    late = op(2, "put", 4, 10, outcome="refused", condition="absent")
    assert not holds(put(0, "a", 0, 1), op(1, "delete", 2, 3, removed=True), late)


def test_a_compare_and_swap() -> None:
    first = put(0, "a", 0, 1)
    assert holds(first, put(1, "b", 2, 3, condition="a"), read(2, "b", 4, 5))
    assert not holds(first, put(1, "b", 2, 3, condition="z"))
    assert not holds(first, put(1, "b", 2, 9, condition="a"), put(2, "c", 2, 9, condition="a"))
    assert holds(first, put(1, "b", 2, 9, condition="a"), op(2, "put", 2, 9, outcome="refused", condition="a"))
    assert not holds(first, op(2, "put", 2, 9, outcome="refused", condition="a"))
    assert not holds(first, op(1, "delete", 2, 3, removed=True, condition="b"))


def test_deletes() -> None:
    assert holds(put(0, "a", 0, 1), op(1, "delete", 2, 3, removed=True), read(2, None, 4, 5))
    assert not holds(put(0, "a", 0, 1), op(1, "delete", 2, 3, removed=False))
    assert not holds(put(0, "a", 0, 1), op(1, "delete", 2, 3, removed=True), read(2, "a", 4, 5))
    twice = (op(1, "delete", 2, 3, removed=True), op(2, "delete", 4, 5, removed=True))
    assert not holds(put(0, "a", 0, 1), *twice)


def test_versions_that_are_kept() -> None:
    made = (put(0, "a", 0, 1), put(1, "b", 2, 3))
    exposed = (*made, op(2, "delete-version", 4, 5, version="b", removed=True), read(3, "a", 6, 7))
    assert holds(*exposed, versioned=True)
    assert not holds(*exposed)
    marked = (*made, op(2, "delete", 4, 5, removed=True), read(3, None, 6, 7))
    assert holds(*marked, versioned=True)
    assert not holds(*marked, read(4, "b", 8, 9), versioned=True)
    assert not holds(*made, op(2, "delete-version", 4, 5, version="c", removed=True), versioned=True)


def test_a_copy_whose_answer_was_lost_made_what_nobody_else_made() -> None:
    lost = op(1, "copy", 2, outcome="unknown", source=("plain", "s"))
    assert holds(put(0, "a", 0, 1), lost, read(2, "x", 3, 4), contents={"x": "of the source"})
    assert not holds(put(0, "a", 0, 1), lost, read(2, "x", 3, 4), read(3, "y", 5, 6))


@pytest.mark.parametrize("seed", range(40))
def test_real_registers_are_linearizable_and_a_swapped_read_is_not(seed: int) -> None:
    """Histories of a register that is one: each operation takes effect at a moment within its interval."""
    rng = random.Random(seed)
    moments = sorted((rng.random() * 50, at) for at in range(60))
    latest: str | None = None
    ops: list[Op] = []
    for moment, number in moments:
        begin, end = moment - rng.random() * 3, moment + rng.random() * 3
        if rng.random() < 0.5:
            if rng.random() < 0.3:
                ops.append(lost_put(number, f"of v{number}", begin))
                if rng.random() < 0.5:
                    continue  # never
            else:
                ops.append(put(number, f"v{number}", begin, end))
            latest = f"v{number}"
        else:
            ops.append(read(number, latest, begin, end))
    contents = {f"v{number}": f"of v{number}" for number in range(60)}
    assert holds(*ops, contents=contents)
    reads = [one for one in ops if one.kind == "read" and one.version is not None]
    late = read(99, reads[0].version, 1000, 1001)
    newer = put(98, "last", 900, 901)
    assert not holds(*ops, newer, late, contents=contents)


# The log, the state and the contents


def entry(seq: int, kind: str, version: str, key: str = "k", term: int = 1, size: int = 1) -> Entry:
    return Entry(term, seq, kind, version, "plain", key, version, size)


def history(*ops: Op, **blobs: bytes) -> History:
    return History(list(ops), {"plain": False}, dict(blobs))


def test_an_acknowledged_put_is_in_the_log_once() -> None:
    done = history(put(0, "a", 0, 1))
    assert not check_log(done, [entry(1, "put", "a")])
    assert "not in the log" in check_log(done, [])[0]
    assert "twice" in check_log(done, [entry(1, "put", "a"), entry(2, "put", "a")])[0]
    assert "nobody can have asked" in check_log(history(), [entry(1, "put", "a")])[0]
    assert "nobody can have asked" in check_log(history(), [entry(1, "delete", "a")])[0]
    failed = history(op(0, "put", 0, 1, outcome="failed"))
    assert "nobody can have asked" in check_log(failed, [entry(1, "put", "a")])[0]
    assert not check_log(history(lost_put(0, "a", 0)), [entry(1, "put", "x")])


def test_the_log_keeps_the_order_of_real_time() -> None:
    two = history(put(0, "a", 0, 1), put(1, "b", 2, 3))
    assert not check_log(two, [entry(1, "put", "a"), entry(2, "put", "b")])
    assert "before what had ended" in check_log(two, [entry(1, "put", "b"), entry(2, "put", "a")])[0]
    at_once = history(put(0, "a", 0, 5), put(1, "b", 2, 3))
    assert not check_log(at_once, [entry(1, "put", "b"), entry(2, "put", "a")])


def test_who_follows_the_log_sees_no_gap_and_no_change() -> None:
    log = [entry(1, "put", "a"), entry(2, "put", "b"), entry(3, "put", "c", term=2)]
    assert not check_follower(log[:2], log)
    assert check_follower(log, log[:2])
    assert check_follower([log[1], log[0]], log)
    assert check_follower([], [log[0], log[2]])
    assert check_follower([], [entry(1, "put", "a", term=2), entry(2, "put", "b", term=1)])


def test_the_log_leads_to_the_state() -> None:
    log = [entry(1, "put", "a"), entry(2, "put", "b"), entry(3, "put", "c", key="l"), entry(4, "delete", "c", key="l")]
    assert replay(log, {"plain": False}) == {("plain", "k"): ["b"]}
    assert replay(log, {"plain": True})["plain", "k"] == ["a", "b"]
    kept = [*log[:2], entry(5, "marker", "m"), entry(6, "delete-version", "m")]
    assert replay(kept[:3], {"plain": True})["plain", "k"] == ["a", "b", "-m"]
    assert replay(kept, {"plain": True})["plain", "k"] == ["a", "b"]


def test_the_listing_is_the_state() -> None:
    done = history(b1=b"x")
    log = [entry(1, "put", "a")]
    where = ("plain", "k")
    final = Final({where: ["a"]}, {where: "a"}, {"a": "b1"}, {"a": 1})
    assert not check_state(done, log, final)
    assert check_state(done, [], final)
    assert check_state(done, log, Final({where: ["a"]}, {}, {"a": "b1"}, {"a": 1}))
    assert check_state(done, log, Final({where: ["a"]}, {where: "a"}, {}, {"a": 1}))
    assert check_state(done, log, Final({where: ["a"]}, {where: "a"}, {"a": "b1"}, {"a": 2}))
    assert not check_all(
        history(put(0, "a", 0, 1), **{"of a": b"x"}),
        log,
        log,
        Final(final.stacks, final.latest, {"a": "of a"}, {"a": 1}),
    )


def test_a_version_has_one_content() -> None:
    stored = put(0, "a", 0, 1)
    seen = op(1, "read", 2, 3, version="a", content="of a")
    good = history(stored, seen, **{"of a": b"abcd"})
    assert not check_contents(good, Final())[0]
    seen.content = "of b"
    assert check_contents(good, Final())[0]
    assert check_contents(history(stored, **{"of a": b"abcd"}), Final(contents={"a": "of c"}))[0]
    ranged = history(stored, **{"of a": b"abcd"})
    ranged.ranges.append(Ranged("a", 1, 3, b"bc"))
    assert not check_contents(ranged, Final())[0]
    ranged.ranges.append(Ranged("a", 1, 3, b"bx"))
    assert check_contents(ranged, Final())[0]
