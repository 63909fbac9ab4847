"""The rules of transport/lane.py, over every kind of lane."""

from __future__ import annotations

import asyncio
import gc
import resource
from typing import Any

import pytest

from reedbed.common.clock import Deadline, ManualClock
from reedbed.common.errors import (
    Corrupt,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ReedbedError,
    ResourceExhausted,
    Unavailable,
    WrongCluster,
    WrongProtocol,
)
from reedbed.common.limits import HEADER_MAX, MIB, PAYLOAD_MAX

Pair = Any  # of conftest.py, which importlib mode does not let tests import


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.001)


def at_rest(pair: Pair) -> bool:
    """All credit that the caller's end can give or take is back."""
    mux = pair.lane._mux
    return bool(mux.outbox.credit == mux.outbox.window and mux.account.held == mux.account.owed == 0 and not mux.busy)


async def test_answers_carry_header_payload_epoch_and_term(pair: Pair) -> None:
    reply = await pair.lane.call("echo", b"h", [b"a", b"", memoryview(b"bc")], deadline=Deadline(10), epoch=5)
    assert (reply.header, bytes(reply.payload), reply.epoch, reply.term) == (b"h", b"abc", 7, 3)
    assert pair.service.last.epoch == 5
    pair.service.epoch, pair.service.term = 8, 4
    assert isinstance(await pair.error("fail"), NotFound)
    assert pair.lane.seen == (8, 4)
    assert pair.lane.hello == pair.service.told


async def test_errors_of_handlers_travel_whole(pair: Pair) -> None:
    error = await pair.error("fail")
    assert (type(error), error.what, error.where, error.hint) == (NotFound, "no such thing", "here", "Look elsewhere")
    assert not error.retryable
    assert not error.maybe_applied


async def test_a_bug_in_a_handler_tells_nothing_and_ends_nothing(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    error = await pair.error("bug")
    assert type(error) is ReedbedError
    assert "secret" not in str(error)
    assert "ZeroDivisionError" in caplog.text
    assert await pair.call("echo", b"still") == (b"still", b"")


async def test_an_unknown_method_is_refused(pair: Pair) -> None:
    assert isinstance(await pair.error("no.such.method"), InvalidArgument)


async def test_ten_thousand_small_calls(pair: Pair) -> None:
    numbers = iter(range(10_000))

    async def worker() -> None:
        for number in numbers:
            text = b"%d" % number
            assert await pair.call("echo", text, text) == (text, text)

    await asyncio.gather(*(worker() for _ in range(64)))
    assert len(pair.service.calls) == 10_000
    await until(lambda: at_rest(pair))


async def test_the_largest_payload_each_way_in_bounded_memory(pair: Pair) -> None:
    data = bytes(range(256)) * (PAYLOAD_MAX // 256)
    into = memoryview(bytearray(PAYLOAD_MAX))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reply = await pair.lane.call("echo", b"", [data], deadline=Deadline(60), into=into)
    assert reply.payload == data
    assert reply.payload.obj is into.obj
    # the payload once at the server, which shares this process, and some messages on their way
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2.5 * PAYLOAD_MAX
    await until(lambda: at_rest(pair))


async def test_bulk_beyond_the_window_both_ways_does_not_deadlock(kind: Any, service: Any) -> None:
    service.limit(window=4 * MIB, max_payload=4 * MIB)
    lane = await kind.open(await kind.serve(service))
    data = bytes(3 * MIB)

    async def one(number: int) -> None:
        reply = await lane.call("echo", b"%d" % number, [data], deadline=Deadline(30))
        assert (reply.header, len(reply.payload)) == (b"%d" % number, len(data))

    await asyncio.gather(*(one(number) for number in range(40)))
    await lane.close()


async def test_the_window_holds_back_what_exceeds_it(kind: Any, service: Any) -> None:
    service.limit(window=4 * MIB, max_payload=4 * MIB)
    lane = await kind.open(await kind.serve(service))
    data = bytes(2 * MIB)
    calls = [asyncio.ensure_future(lane.call("wait", b"", [data], deadline=Deadline(30))) for _ in range(5)]
    await service.started.acquire()
    # a call without payload, or with a small one, is not behind them
    assert (await lane.call("echo", b"x", [b"small"], deadline=Deadline(10))).header == b"x"
    assert (await lane.call("echo", b"y", deadline=Deadline(10))).header == b"y"
    assert service.calls.count("wait") == 1  # a part of the window is kept for small payloads
    service.go.set()
    await asyncio.gather(*calls)
    await lane.close()


async def test_small_calls_overtake_bulk(pair: Pair) -> None:
    done: list[str] = []

    async def bulk() -> None:
        await pair.call("size", b"", bytes(32 * MIB))
        done.append("bulk")

    async def small() -> None:
        await pair.call("echo", b"", b"small")
        done.append("small")

    first = asyncio.ensure_future(bulk())
    await asyncio.sleep(0)
    await asyncio.gather(first, *(small() for _ in range(20)))
    assert done == ["small"] * 20 + ["bulk"]


async def test_a_deadline_ends_the_call_and_its_handler(pair: Pair) -> None:
    error = await pair.error("wait", timeout=0.05)
    assert isinstance(error, DeadlineExceeded)
    assert error.maybe_applied
    async with asyncio.timeout(10):
        await pair.service.cancelled.acquire()
    await until(lambda: at_rest(pair))


async def test_the_server_holds_the_deadline_by_itself(pair: Pair) -> None:
    clock = ManualClock()  # of the caller, and it stands still
    deadline = Deadline(0.05, clock)
    with pytest.raises(DeadlineExceeded, match="stopped at its deadline") as caught:
        await pair.lane.call("wait", b"", deadline=deadline)
    assert caught.value.maybe_applied


async def test_a_deadline_that_has_passed_sends_nothing(pair: Pair) -> None:
    clock = ManualClock()
    deadline = Deadline(1, clock)
    clock.advance(2)
    with pytest.raises(DeadlineExceeded) as caught:
        await pair.lane.call("echo", b"", deadline=deadline)
    assert not caught.value.maybe_applied
    assert pair.service.calls == []


async def test_cancelling_a_call_cancels_its_handler(pair: Pair) -> None:
    into = memoryview(bytearray(8 * MIB))
    call = asyncio.ensure_future(pair.call("wait", b"", bytes(8 * MIB), into=into))
    await pair.service.started.acquire()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(10):
        await pair.service.cancelled.acquire()
    await until(lambda: at_rest(pair))
    into.release()  # nothing else refers to it


async def test_nothing_is_written_after_a_cancel(pair: Pair) -> None:
    into = bytearray(32 * MIB)
    call = asyncio.ensure_future(pair.call("echo", b"", b"\x01" * len(into), into=memoryview(into)))
    await until(lambda: into[0] == 1 or call.done())
    if call.done():
        pytest.fail("the answer came in one message")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    seen = into.count(b"\x01")
    assert seen < len(into)
    await until(lambda: at_rest(pair))
    assert await pair.call("echo", b"later") == (b"later", b"")
    assert into.count(b"\x01") == seen


async def test_calls_over_the_limit_are_refused(kind: Any, service: Any) -> None:
    service.limit(max_calls=4)
    lane = await kind.open(await kind.serve(service))
    calls = [asyncio.ensure_future(lane.call("wait", b"", deadline=Deadline(20))) for _ in range(4)]
    for _ in calls:
        await service.started.acquire()
    with pytest.raises(ResourceExhausted) as caught:
        await lane.call("echo", b"", [bytes(3 * MIB)], deadline=Deadline(10))
    assert caught.value.retryable
    assert not caught.value.maybe_applied
    service.go.set()
    await asyncio.gather(*calls)
    assert service.most_running == 4
    await lane.call("echo", b"", deadline=Deadline(10))
    await lane.close()


async def test_sizes_over_the_limits_are_refused_before_anything_is_sent(pair: Pair) -> None:
    with pytest.raises(InvalidArgument):
        await pair.call("echo", bytes(HEADER_MAX + 1))
    with pytest.raises(InvalidArgument):
        await pair.call("echo", b"", bytes(PAYLOAD_MAX), b"x")
    with pytest.raises(InvalidArgument):
        await pair.call("m" * 65)
    with pytest.raises(InvalidArgument):
        await pair.call("echo", b"", into=memoryview(b"readonly"))
    with pytest.raises(InvalidArgument):
        await pair.call("echo", b"", memoryview(bytes(8))[::2])
    assert pair.service.calls == []
    assert await pair.call("size", bytes(HEADER_MAX), b"abc") == (b"3", b"")
    error = await pair.error("too-much")
    assert "over the limit" in error.what
    await until(lambda: at_rest(pair))


async def test_an_answer_longer_than_the_buffer_is_corrupt(pair: Pair) -> None:
    into = memoryview(bytearray(10))
    with pytest.raises(Corrupt):
        await pair.call("make", b"3000000", into=into)
    assert bytes(into) == bytes(10)
    await until(lambda: at_rest(pair))
    reply = await pair.lane.call("make", b"4", deadline=Deadline(10), into=into)
    assert len(reply.payload) == 4


async def test_closing_a_lane_ends_its_calls(pair: Pair) -> None:
    call = asyncio.ensure_future(pair.call("wait"))
    await pair.service.started.acquire()
    await pair.lane.close()
    with pytest.raises(Unavailable) as caught:
        await call
    assert caught.value.maybe_applied
    assert pair.lane.broken
    async with asyncio.timeout(10):
        await pair.service.cancelled.acquire()
    with pytest.raises(Unavailable) as caught:
        await pair.call("echo")
    assert not caught.value.maybe_applied


async def test_a_server_that_stops_and_comes_back(pair: Pair) -> None:
    call = asyncio.ensure_future(pair.call("wait"))
    await pair.service.started.acquire()
    await pair.kind.stop()
    with pytest.raises(Unavailable) as caught:
        await call
    assert caught.value.maybe_applied
    assert pair.lane.broken
    with pytest.raises(Unavailable):
        await pair.kind.open(pair.address)
    await pair.kind.restart(pair.service)
    lane = await pair.kind.open(pair.address)
    assert (await lane.call("echo", b"again", deadline=Deadline(10))).header == b"again"
    await lane.close()


async def test_another_cluster_or_protocol_is_refused(kind: Any, service: Any) -> None:
    address = await kind.serve(service)
    with pytest.raises(WrongCluster):
        await kind.open(address, b"d" * 16)
    await (await kind.open(address, b"")).close()
    service.limit(protocol=99)
    with pytest.raises(WrongProtocol):
        await kind.open(address)


async def test_a_call_that_has_ended_keeps_no_memory_of_its_caller(pair: Pair) -> None:
    """Not even until Python looks for cycles: a caller's memory may be a file's mapping that is to be closed."""
    gc.collect()
    gc.disable()
    try:
        for size in (100, 3 * MIB):
            held = bytearray(size)
            await pair.lane.call("echo", b"", [memoryview(held)], deadline=Deadline(20), into=memoryview(held))
            lost = asyncio.ensure_future(
                pair.lane.call("wait", b"", [memoryview(held)], deadline=Deadline(20), into=memoryview(held))
            )
            await pair.service.started.acquire()
            lost.cancel()
            with pytest.raises(asyncio.CancelledError):
                await lost
            del lost
            pair.service.last = None
            await until(lambda held=held: is_free(held))
    finally:
        gc.enable()


def is_free(buffer: bytearray) -> bool:
    try:
        buffer.append(0)
    except BufferError:
        return False
    return True
