"""What is learnt of latencies: late, slow, recovered; and the spare budget."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.extents.latency import (
    ENOUGH,
    FAILURE_MEMORY_S,
    LATE_DEFAULT_S,
    LATE_FLOOR_S,
    PROBE_AFTER_S,
    PROBE_EVERY,
    RECENT,
    SPARE_BURST_BYTES,
    SPARE_BURST_CALLS,
    SPARE_SHARE,
    LatencyBook,
    SpareBudget,
)

PEERS = (1, 2, 3, 4, 5, 6)
SIZE = 4096


def taught(seconds: float = 0.002, numbers: tuple[int, ...] = PEERS, samples: int = 20) -> LatencyBook:
    book = LatencyBook()
    for number in numbers:
        for _ in range(samples):
            book.record(number, SIZE, seconds)
    return book


def test_nothing_is_known_at_first():
    book = LatencyBook()
    assert book.late_after(1, SIZE, PEERS) is None
    assert book.patience(1, SIZE, PEERS) >= LATE_DEFAULT_S
    for _ in range(ENOUGH - 1):
        book.record(2, SIZE, 0.001)
    assert book.late_after(1, SIZE, PEERS) is None
    book.record(2, SIZE, 0.001)
    assert book.late_after(1, SIZE, PEERS) is not None
    assert book.late_after(2, SIZE, PEERS) is None, "a device is not its own peer"
    assert book.late_after(1, 64 * SIZE, PEERS) is None, "other sizes say nothing"


@given(st.lists(st.floats(1e-4, 10), min_size=ENOUGH, max_size=60))
@settings(max_examples=100)
def test_p95_of_peers_within_a_bucket(samples):
    book = LatencyBook()
    for seconds in samples:
        for peer in PEERS[1:]:
            book.record(peer, SIZE, seconds)
    late = book.late_after(1, SIZE, PEERS)
    over = sorted(samples)[int(0.95 * len(samples)) - 1 :]
    assert late is not None
    assert late >= min(over) * 0.99 or late == LATE_FLOOR_S
    assert late <= max(LATE_FLOOR_S, max(over) * 1.5)


def test_one_slow_peer_does_not_hide_another():
    book = taught(0.002)
    for _ in range(40):
        book.record(6, SIZE, 5.0)
    late = book.late_after(1, SIZE, PEERS)
    assert late is not None
    assert late < 0.01


def test_slow_is_relative_to_peers():
    book = taught(1.0)
    assert not any(book.is_slow(number, SIZE, PEERS) for number in PEERS)
    book = taught(0.002)
    for _ in range(20):
        book.record(3, SIZE, 0.1)
    book.record(3, SIZE, 0.1)
    assert book.is_slow(3, SIZE, PEERS)
    assert book.is_slow(3, SIZE * 256, PEERS), "a size it has no samples of"
    assert not book.is_slow(2, SIZE, PEERS)


def test_a_few_late_answers_are_not_slowness():
    book, rng = taught(0.002), random.Random(1)
    for _ in range(500):
        book.record(3, SIZE, 0.5 if rng.random() < 0.2 else 0.002)
    assert not book.is_slow(3, SIZE, PEERS)


def test_a_change_is_noticed_within_few_reads():
    book = taught(0.002, samples=1000)
    for _ in range(RECENT // 2 + 1):
        assert not book.is_slow(3, SIZE, PEERS)
        book.record(3, SIZE, 0.1)
    assert book.is_slow(3, SIZE, PEERS)


def test_answers_that_were_not_waited_for_tell_of_slowness():
    book = taught(0.002, tuple(set(PEERS) - {3}))
    for _ in range(ENOUGH):
        book.record(3, SIZE, 0.003, overtaken=True)
    assert book.is_slow(3, SIZE, PEERS)


def test_a_slow_device_is_probed_now_and_then_and_forgiven():
    book = taught(0.002)
    for _ in range(60):
        book.record(3, SIZE, 0.1)
    now = 1000.0
    avoided = [book.avoid(3, SIZE, PEERS, now) for _ in range(10 * (PROBE_EVERY + 1))]
    assert avoided.count(False) == 10
    assert book.avoid(3, SIZE, PEERS, now)
    assert not book.avoid(3, SIZE, PEERS, now + PROBE_AFTER_S)
    assert book.avoid(3, SIZE, PEERS, now + PROBE_AFTER_S)
    book.record(3, SIZE, 0.1)
    assert book.is_slow(3, SIZE, PEERS)
    for _ in range(2):
        book.record(3, SIZE, 0.002)
    assert not book.avoid(3, SIZE, PEERS, now)


def test_failures_are_remembered_for_a_while():
    book = LatencyBook()
    assert book.recently_failed(0.0) == frozenset()
    book.note_failure(3, 100.0)
    assert book.recently_failed(100.0 + FAILURE_MEMORY_S / 2) == {3}
    assert book.recently_failed(100.0 + FAILURE_MEMORY_S) == frozenset()


@given(st.lists(st.tuples(st.integers(0, 1 << 22), st.integers(1, 8)), max_size=400))
@settings(max_examples=100)
def test_the_budget_is_a_share_of_what_was_read(reads):
    budget, calls, size = SpareBudget(), 0, 0
    for length, parts in reads:
        budget.earn(length)
        if budget.take(parts, parts * length):
            calls += parts
            size += parts * length
    assert calls <= SPARE_BURST_CALLS + SPARE_SHARE * len(reads) + 8
    assert size <= SPARE_BURST_BYTES + SPARE_SHARE * sum(length for length, _ in reads) + 8 * (1 << 22)


def test_the_budget_comes_back():
    budget = SpareBudget()
    while budget.take(4, 4096):
        pass
    budget.spend(4, 4096)
    for _ in range(round(4 / SPARE_SHARE)):
        budget.earn(1024)
        assert not budget.take(4, 4096), "what was spent beyond it is owed first"
    for _ in range(round(1 / SPARE_SHARE) + 1):
        budget.earn(1024)
    assert budget.take(4, 4096)
