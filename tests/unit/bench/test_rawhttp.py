"""The raw client of nginx: what it takes for an answer, and what it refuses."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest
from reedbed_fakehttp import Answer, FakeNginx, fake_nginx, honest

from reedbed.bench.content import Content
from reedbed.bench.nginx import Nginx, WrongAnswer
from reedbed.bench.rawhttp import RawClient, Request, Requests, loop, run_forked
from reedbed.bench.table import DELETE, GET, PUT, Row
from reedbed.common.errors import Corrupt, ReedbedError
from reedbed.common.limits import KIB, MIB

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd"


def row(kind: str, size: int = 4 * KIB, concurrency: int = 1) -> Row:
    return Row(kind, kind, size, concurrency, "small")


@pytest.mark.parametrize(("size", "piece"), [(4 * KIB, 1 << 30), (4 * KIB, 7), (MIB, 4096), (1, 1)])
def test_what_was_put_comes_back_and_goes(size: int, piece: int) -> None:
    content = Content(size)
    with fake_nginx(piece=piece) as server:
        client = RawClient(server.port, size)
        for kind in (PUT, GET, DELETE):
            work = Requests(row(kind, size), content).operation(client, 3, 5)
            for number in range(5):
                work(number)
        client.close()
        assert server.methods == ["PUT"] * 5 + ["GET"] * 5 + ["DELETE"] * 5
        assert server.kept == {}


def test_each_client_and_number_has_a_path_of_its_own() -> None:
    content = Content(4 * KIB)
    with fake_nginx() as server:
        client = RawClient(server.port)
        for slot in (0, 31):
            work = Requests(row(PUT), content).operation(client, slot, 0)
            for number in range(3):
                work(number)
        client.close()
        assert len(server.kept) == 6
        assert list(server.kept.values())[:3] == [content.body(number) for number in range(3)]


def test_a_request_is_written_in_place() -> None:
    request = Request(PUT, "p-", b"body")
    first = request.of(7)
    assert first == b"PUT /p-000000007 HTTP/1.1\r\nHost: bench\r\nContent-Length: 4\r\n\r\nbody"
    assert request.of(12_345_678) is first
    assert first.startswith(b"PUT /p-012345678 HTTP")


def always(answer: bytes | None) -> Answer:
    return lambda server, method, path, body: answer


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xff\r\n\r\nabcd",
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\n\r\nabcd",
        b"X" * 100_000,
    ],
)
def test_an_answer_to_get_that_is_not_right(answer: bytes | None) -> None:
    with fake_nginx(always(answer)) as server:
        client = RawClient(server.port, 4)
        with pytest.raises(WrongAnswer, match=r"nginx|no end"):
            client.read(bytearray(b"GET / HTTP/1.1\r\n\r\n"), 4)
        client.close()


def test_a_body_that_is_cut_off() -> None:
    cut: list[bytes | None] = [GOOD[:-1], None]
    with fake_nginx(lambda *_: cut.pop(0)) as server:
        client = RawClient(server.port, 4)
        # two at once: the second makes the server close
        with pytest.raises(WrongAnswer, match="closed the connection within a body"):
            client.read(bytearray(b"GET / HTTP/1.1\r\n\r\n" * 2), 4)
        client.close()


@pytest.mark.parametrize("kind", [PUT, DELETE])
@pytest.mark.parametrize("answer", [None, GOOD, b"HTTP/1.1 507 Insufficient Storage\r\n\r\n", b"\r\n\r\n"])
def test_a_change_that_was_not_made(kind: str, answer: bytes | None) -> None:
    with fake_nginx(always(answer)) as server:
        client = RawClient(server.port)
        work = Requests(row(kind), Content(4 * KIB)).operation(client, 0, 1)
        with pytest.raises(WrongAnswer):
            work(0)
        client.close()


def test_wrong_bytes_are_seen() -> None:
    def altered(server: FakeNginx, method: str, path: str, body: bytes) -> bytes:
        return honest(server, method, path, body)[:-1] + b"?"

    content = Content(4 * KIB)
    content.body(0)
    with fake_nginx() as server:
        client = RawClient(server.port, 4 * KIB)
        Requests(row(PUT), content).operation(client, 0, 0)(0)
        server._answer = altered
        get = Requests(row(GET), content).operation(client, 0, 1)
        kept = dict(server.kept)
        server.kept = {path: bytes([byte ^ 1 for byte in body]) for path, body in kept.items()}
        with pytest.raises(Corrupt):
            get(0)
        client.close()


def test_the_loop_ends_by_time_and_by_count() -> None:
    done: list[int] = []
    window = loop(done.append, time.perf_counter(), 60.0, 10)
    assert done == list(range(10))
    assert (window.operations, len(window.latencies)) == (10, 10)
    window = loop(lambda number: time.sleep(0.002), time.perf_counter() + 0.01, 0.01, 1_000_000)
    assert 1 <= window.operations <= 6
    assert window.end - window.start >= 0.01
    assert loop(done.append, 0.0, 1.0, 0).operations == 0


def forked(server: FakeNginx, of: Row, content: Content, stored: list[int], seconds: float = 0.02) -> Any:
    return run_forked(cast(Nginx, server), of, content, stored, seconds)


def test_forked_clients_put_read_and_delete_together() -> None:
    content = Content(4 * KIB)
    with fake_nginx() as server:
        windows = forked(server, row(PUT, concurrency=3), content, [])
        stored = [window.operations for window in windows]
        assert len(stored) == 3
        assert all(stored)
        assert len(server.kept) == sum(stored)
        assert all(window.operations for window in forked(server, row(GET, concurrency=3), content, stored))
        deleted = [window.operations for window in forked(server, row(DELETE, concurrency=3), content, stored, 20.0)]
        assert deleted == stored
        assert server.kept == {}


def test_what_a_forked_client_meets_is_raised_here() -> None:
    content = Content(4 * KIB)
    with fake_nginx() as server, pytest.raises(ReedbedError, match=r"WrongAnswer: nginx answered b'HTTP/1.1 404"):
        forked(server, row(GET, concurrency=2), content, [1, 1])


def test_connections_that_never_reach_the_wanted_worker() -> None:
    with fake_nginx() as server:
        server.pids = [1, 2]
        answer = b"HTTP/1.1 204 No Content\r\nX-Worker: 3\r\n\r\n"
        server._answer = always(answer)
        with pytest.raises(ReedbedError, match="none of 200 connections"):
            forked(server, row(PUT), Content(4 * KIB), [])
