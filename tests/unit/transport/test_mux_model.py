"""Both ends of the mux against each other, in any order of calls, cancels, answers, errors and messages."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.common.clock import Deadline, ManualClock
from reedbed.common.errors import Corrupt, InvalidArgument, NotFound, ReedbedError, Unavailable
from reedbed.common.limits import CHUNK, FRAMES_MAX, HEADER_MAX, KIB, MIB
from reedbed.transport import frames
from reedbed.transport.frames import Frame, decode, encode
from reedbed.transport.lane import Reply, Response
from reedbed.transport.mux import METHOD_MAX, ClientCall, ClientMux, Outcome
from reedbed.transport.mux_server import Budget, ServerCall, ServerMux, Start
from reedbed.transport.outbox import OVERTAKE_MAX, SMALL, Outbox, Outgoing

NONE = Deadline(None)


class Both:
    """A client's and a server's end, and the messages between them."""

    def __init__(self, request_window: int, reply_window: int, max_calls: int = 8, budget: int = 1 << 40) -> None:
        self.client = ClientMux(request_window, request_window, reply_window)
        self.budget = Budget(budget)
        self.server = ServerMux(
            lambda: (1, 1), ManualClock(), window=request_window, max_calls=max_calls, budget=self.budget
        )
        self.there: deque[bytes] = deque()
        self.back: deque[bytes] = deque()
        self.running: list[ServerCall] = []
        self.calls: list[ClientCall] = []
        self.outcomes: dict[int, Outcome] = {}
        self.cancelled: set[int] = set()

    def begin(self, size: int, reply: int, *, into: bool) -> None:
        number = len(self.calls)

        def done(outcome: Outcome) -> None:
            assert number not in self.outcomes, "an outcome came twice"
            assert number not in self.cancelled, "an outcome came after the cancel"
            self.outcomes[number] = outcome

        self.calls.append(
            self.client.begin(
                "m",
                b"%d" % reply,
                [_pattern(number, size)],
                deadline=NONE,
                done=done,
                into=memoryview(bytearray(reply)) if into else None,
            )
        )

    def cancel(self, number: int) -> None:
        if number not in self.outcomes:
            self.cancelled.add(number)
        self.client.cancel(self.calls[number])

    def send(self) -> None:
        if batch := self.client.next_batch():
            self.there.append(b"".join(encode(batch)))
        self.client.sent()

    def send_back(self) -> None:
        if batch := self.server.next_batch():
            self.back.append(b"".join(encode(batch)))
        self.server.sent()

    def arrive(self) -> None:
        if not self.there:
            return
        for event in self.server.receive(decode(self.there.popleft())):
            if isinstance(event, Start):
                self.running.append(event.call)
        assert self.server.account.held <= self.server.account.window

    def arrive_back(self) -> None:
        if self.back:
            self.client.receive(decode(self.back.popleft()))
            assert self.client.account.held <= self.client.account.window

    def finish(self, index: int, *, fail: bool) -> None:
        if not self.running:
            return
        call = self.running.pop(index % len(self.running))
        number = call.id - 1
        got = b"".join(call.request.payload)
        assert got == _pattern(number, len(got)), "a request came changed"
        if fail:
            self.server.fail(call, NotFound("no"))
        else:
            self.server.reply(call, Response(call.request.header, [_pattern(number, int(call.request.header))]))

    def settle(self) -> None:
        """Until nothing moves any more."""
        for _ in range(10_000):
            self.send()
            self.send_back()
            if not (self.there or self.back or self.running):
                return
            while self.there:
                self.arrive()
            while self.running:
                self.finish(0, fail=False)
            while self.back:
                self.arrive_back()
        pytest.fail("it never comes to rest")

    def check(self) -> None:
        for number, call in enumerate(self.calls):
            outcome = self.outcomes.get(number)
            assert (outcome is None) == (number in self.cancelled), f"call {number} has no outcome"
            if isinstance(outcome, Reply):
                assert outcome.payload == _pattern(number, int(call.outgoing.head.header))
        for end in (self.client, self.server):
            assert end.outbox.credit == end.outbox.window
            assert end.account.held == end.account.owed == 0
            assert end.busy == 0
        assert self.budget.left == self.budget.total


def _pattern(number: int, size: int) -> bytes:
    return bytes([number % 251 + 1]) * size


SIZES = st.sampled_from([0, 0, 1, 4 * KIB, SMALL, SMALL + 1, 300 * KIB, CHUNK + 1, 2 * MIB])
STEPS = st.one_of(
    st.tuples(st.just("begin"), SIZES, SIZES, st.booleans()),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.sampled_from(["send", "send_back", "arrive", "arrive_back"])),
    st.tuples(st.just("finish"), st.integers(0, 9), st.booleans()),
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([2 * MIB, 3 * MIB]),
    st.sampled_from([2 * MIB, 5 * MIB]),
    st.sampled_from([2, 8]),
    st.sampled_from([3 * MIB, 1 << 40]),
    st.lists(STEPS, max_size=60),
)
def test_all_credit_comes_back_whatever_happens(
    request_window: int, reply_window: int, max_calls: int, budget: int, steps: list[tuple[object, ...]]
) -> None:
    both = Both(request_window, reply_window, max_calls, budget)
    for step in steps:
        match step:
            case ("begin", int() as size, int() as reply, bool() as into):
                both.begin(size, reply, into=into)
            case ("cancel", int() as number) if number < len(both.calls):
                both.cancel(number)
            case ("finish", int() as index, bool() as fail):
                both.finish(index, fail=fail)
            case (str() as name,) if name in ("send", "send_back", "arrive", "arrive_back"):
                getattr(both, name)()
    both.settle()
    both.check()


def test_closing_ends_all_calls_and_frees_the_budget() -> None:
    both = Both(4 * MIB, 4 * MIB, budget=1 << 40)
    for size in (0, 2 * MIB, 3 * MIB):
        both.begin(size, 10, into=False)
    both.send()
    both.arrive()
    both.client.close(lambda started: Unavailable("gone", maybe_applied=started))
    assert [outcome.maybe_applied for outcome in both.outcomes.values() if isinstance(outcome, ReedbedError)] == [
        True,
        True,
        False,
    ]
    both.server.close()
    both.finish(0, fail=False)
    assert both.budget.left == both.budget.total
    assert both.server.busy == 0


def test_a_server_without_memory_refuses_and_recovers() -> None:
    both = Both(8 * MIB, 8 * MIB, budget=3 * MIB)
    both.begin(2 * MIB, 0, into=False)
    both.begin(2 * MIB, 0, into=False)
    both.settle()
    refused = [outcome for outcome in both.outcomes.values() if isinstance(outcome, ReedbedError)]
    assert len(refused) == 1
    assert refused[0].retryable
    assert not refused[0].maybe_applied
    both.check()


def test_a_draining_server_answers_what_runs_and_refuses_the_rest() -> None:
    both = Both(8 * MIB, 8 * MIB)
    both.begin(10, 10, into=False)
    both.send()
    both.arrive()
    both.server.drain()
    both.begin(10, 10, into=False)
    both.settle()
    assert isinstance(both.outcomes[0], Reply)
    assert isinstance(both.outcomes[1], Unavailable)
    both.check()


def _outgoing(call: int, size: int) -> Outgoing:
    return Outgoing(Frame(frames.REQUEST, call, payload_length=size), [bytes(size)] if size else [], size)


def test_a_message_holds_all_small_frames_first_and_one_chunk_of_bulk() -> None:
    outbox = Outbox(64 * MIB)
    outbox.send(_outgoing(1, 5 * MIB))
    outbox.send(_outgoing(2, 5 * MIB))
    outbox.next_batch()
    for call in range(3, 10):
        outbox.send(_outgoing(call, 10))
    batch = outbox.next_batch()
    assert [frame.call for frame in batch[:-1]] == list(range(3, 10))
    assert batch[-1].kind == frames.CHUNK
    assert sum(map(len, batch[-1].payload)) == CHUNK


def test_bulk_calls_take_turns() -> None:
    outbox = Outbox(64 * MIB)
    for call in (1, 2, 3):
        outbox.send(_outgoing(call, 2 * CHUNK))
    turns = []
    while batch := outbox.next_batch():
        turns += [frame.call for frame in batch if frame.kind == frames.CHUNK]
    assert turns == [1, 2, 3, 1, 2, 3]


def test_waiting_bulk_is_overtaken_only_so_far() -> None:
    outbox = Outbox(16 * MIB)
    outbox.send(_outgoing(1, 10 * MIB))
    outbox.send(_outgoing(2, 10 * MIB))  # waits
    small = OVERTAKE_MAX // SMALL + 5
    for call in range(small):
        outbox.send(_outgoing(10 + call, SMALL))
    sent = [frame.call for frame in _all(outbox) if frame.kind == frames.REQUEST]
    assert 2 not in sent
    assert len(sent) == 1 + OVERTAKE_MAX // SMALL
    outbox.give_back(10 * MIB)  # a small payload's credit that comes back may not pass the waiting one either
    sent = [frame.call for frame in _all(outbox) if frame.kind == frames.REQUEST]
    assert sent[0] == 2 or 2 in sent


def _all(outbox: Outbox) -> list[Frame]:
    found = []
    while batch := outbox.next_batch():
        found += batch
    return found


@pytest.mark.parametrize(
    "bad",
    [
        [Frame(frames.REQUEST, 1, "m")],  # before FRAME_OPEN
        [Frame(frames.OPEN, payload_length=0)],
        [Frame(frames.OPEN, payload_length=9), Frame(frames.OPEN, payload_length=9)],
        [Frame(frames.OPEN, payload_length=9), Frame(frames.CREDIT, credit=1)],
        [Frame(frames.OPEN, payload_length=9), Frame(frames.REPLY, 1)],
        [Frame(frames.OPEN, payload_length=9), Frame(0, 1)],
        [Frame(frames.OPEN, payload_length=9), Frame(77, 1)],
        [Frame(frames.OPEN, payload_length=9), Frame(frames.REQUEST, 1, "m"), Frame(frames.REQUEST, 1, "m")],
        [Frame(frames.OPEN, payload_length=9), Frame(frames.REQUEST, 1, "m", payload=(b"abc",), payload_length=2)],
        [Frame(frames.OPEN, payload_length=9), Frame(frames.REQUEST, 1, "m"), Frame(frames.CHUNK, 1, payload=(b"a",))],
        [Frame(frames.OPEN, payload_length=9), Frame(frames.CHUNK, 5, payload=(bytes(MIB + 1),))],
    ],
)
def test_a_server_ends_what_breaks_the_protocol(bad: list[Frame]) -> None:
    server = ServerMux(lambda: (0, 0), ManualClock(), window=MIB)
    with pytest.raises(Corrupt):
        server.receive(decode(b"".join(encode(bad))))


@pytest.mark.parametrize(
    "bad",
    [
        [Frame(frames.REQUEST, 1, "m")],
        [Frame(frames.CHUNK, 1, payload=(b"a",))],  # before the reply's first frame
        [Frame(frames.REPLY, 1, payload_length=1 << 40)],
        [Frame(frames.REPLY, 1, payload=(b"abc",), payload_length=2)],
        [Frame(frames.REPLY, 1, payload_length=2), Frame(frames.REPLY, 1, payload_length=2)],
        [Frame(frames.CREDIT, credit=1)],
        [Frame(frames.CREDIT, credit=(1 << 64) - 1)],
    ],
)
def test_a_client_ends_what_breaks_the_protocol(bad: list[Frame]) -> None:
    client = ClientMux(MIB)
    client.begin("m", b"", [], deadline=NONE, done=lambda outcome: None)
    client.next_batch()
    with pytest.raises(Corrupt):
        client.receive(decode(b"".join(encode(bad))))


@pytest.mark.parametrize(
    "frame",
    [
        Frame(frames.REQUEST, 1, "m", b"h" * (HEADER_MAX + 1)),
        Frame(frames.REQUEST, 1, "m" * (METHOD_MAX + 1)),
        Frame(frames.REQUEST, 1, "m", payload_length=MIB + 1),
        Frame(frames.REQUEST, 1, "m", payload_length=1 << 62),
    ],
)
def test_a_server_refuses_requests_over_the_limits(frame: Frame) -> None:
    """A client of ours refuses them itself; this is for others."""
    server = ServerMux(lambda: (0, 0), ManualClock(), window=2 * MIB, max_payload=MIB)
    assert server.receive(decode(b"".join(encode([Frame(frames.OPEN, payload_length=MIB), frame])))) == []
    [answer] = server.next_batch()
    assert answer.call == 1
    assert isinstance(answer.error, InvalidArgument)
    assert (server.busy, server.account.held) == (0, 0)


@pytest.mark.parametrize("method", ["", "m" * 60])
def test_a_message_of_too_many_frames_is_refused(method: str) -> None:
    batch = [Frame(frames.REQUEST, 1, method)] * (FRAMES_MAX + 1)
    with pytest.raises(Corrupt, match="frames"):
        decode(b"".join(encode(batch)))
    assert len(decode(b"".join(encode(batch[:-1])))) == FRAMES_MAX


def test_no_message_of_ours_has_too_many_frames() -> None:
    outbox = Outbox(64 * MIB)
    for call in range(3 * FRAMES_MAX):
        outbox.control(Frame(frames.CANCEL, call))
    for call in range(500):
        outbox.send(_outgoing(call, SMALL + 1))
    sizes = []
    while batch := outbox.next_batch():
        sizes.append(len(batch))
        decode(b"".join(encode(batch)))
    assert max(sizes) < FRAMES_MAX
    assert outbox.backlog == (0, 0)


def test_one_lane_cannot_use_up_all_memory_with_answers_that_nobody_takes() -> None:
    budget = Budget(32 * MIB)
    lanes = [ServerMux(lambda: (0, 0), ManualClock(), budget=budget) for _ in range(2)]
    for lane in lanes:
        lane.receive([Frame(frames.OPEN, payload_length=MIB)])
    for number in range(100):
        for event in lanes[0].receive([Frame(frames.REQUEST, number, "m")]):
            lanes[0].reply(event.call, Response(b"h", [bytes(MIB)]))
    assert lanes[0].busy == 16
    assert not lanes[0].congested, "its client could give credit back no more"
    assert len(lanes[1].receive([Frame(frames.REQUEST, 1, "m")])) == 1
    lanes[0].close()
    assert budget.left == budget.total


FRAMES = st.builds(
    Frame,
    kind=st.integers(0, 9),
    call=st.integers(0, 1 << 63),
    method=st.text(max_size=10),
    header=st.binary(max_size=50),
    payload=st.sampled_from([(), (b"x",), (b"abc" * 50_000,), (b"abc", b"d" * 70_000)]),
    payload_length=st.integers(0, 1 << 63),
    timeout_ms=st.integers(0, (1 << 32) - 1),
    credit=st.integers(0, 1 << 63),
    epoch=st.integers(0, 1 << 63),
    term=st.integers(0, 1 << 63),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(FRAMES, max_size=6))
def test_frames_survive_the_wire(batch: list[Frame]) -> None:
    found = decode(b"".join(encode(batch)))
    for before, after in zip(batch, found, strict=True):
        before.payload = (b"".join(before.payload),) if before.payload else ()
        assert after == before


@settings(max_examples=150, deadline=None)
@given(st.lists(FRAMES, min_size=1, max_size=4), st.randoms(use_true_random=False), st.booleans())
def test_altered_batches_are_refused(batch: list[Frame], rng: random.Random, truncate: bool) -> None:
    """But in large payloads, which carry their own sums, and then the altered bytes are in their place."""
    data = bytearray(b"".join(encode(batch)))
    if truncate:
        del data[rng.randrange(len(data)) :]
    else:
        at = rng.choice((rng.randrange(len(data)), rng.randrange(min(len(data), 300)), -1 - rng.randrange(5)))
        data[at] ^= 1 << rng.randrange(8)
    try:
        found = decode(bytes(data))
    except Corrupt:
        return
    differing = 0
    for before, after in zip(batch, found, strict=True):
        whole = b"".join(before.payload)
        given = b"".join(after.payload)
        if given != whole:
            assert len(given) == len(whole) >= 64 * 1024
            differing += sum(a != b for a, b in zip(whole, given, strict=True))
        before.payload = after.payload
        assert after == before
    assert differing == 1
    assert not truncate


def test_a_batch_without_its_sum_is_refused() -> None:
    for size in (0, 100, 200_000):
        data = b"".join(encode([Frame(frames.CHUNK, 1, payload=(bytes(size),) if size else ())]))
        assert decode(data)
        for cut in (1, 5, 6):
            with pytest.raises(Corrupt):
                decode(data[:-cut])
    with pytest.raises(Corrupt):
        decode(b"")


def test_a_payload_does_not_keep_a_much_larger_message_in_memory() -> None:
    batch = [Frame(frames.CHUNK, 1, payload=(bytes(CHUNK),)), Frame(frames.CHUNK, 2, payload=(bytes(SMALL + 1),))]
    large, small = decode(b"".join(encode(batch)))
    assert isinstance(large.payload[0], memoryview), "a large piece was copied"
    assert isinstance(small.payload[0], bytes), "a small piece refers to the whole message"
