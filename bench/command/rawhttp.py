"""The leanest client that HTTP can have: requests built before, sent over one kept connection, answers read in place.

It knows just what nginx answers to PUT, GET and DELETE, and refuses all else. Each client is a process, forked by
`run_forked`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import struct
import time
import traceback
from array import array
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

from reedbed.bench.content import Content, shuffled
from reedbed.bench.measured import Window, resident
from reedbed.bench.nginx import WORKER_PATH, Nginx, WrongAnswer
from reedbed.bench.table import DELETE, GET, PUT, Row
from reedbed.common.errors import Corrupt, DeadlineExceeded, ReedbedError

_TIMEOUT_S: Final = 60
_HEAD_MAX: Final = 4096
_DIGITS: Final = 9
_SLOT: Final = 1_000_000  # numbers of one client
_SPREAD_TRIES: Final = 200
_START_S: Final = 0.02
_ANSWER_S: Final = 300.0


class RawClient:
    """One kept connection. WrongAnswer for what is not understood, DeadlineExceeded where nothing comes."""

    def __init__(self, port: int, body_most: int = 0) -> None:
        self._buffer = bytearray(_HEAD_MAX + body_most)
        self._view = memoryview(self._buffer)
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # the kernel's timeout: Python's own would ask poll() before each call
        limit = struct.pack("ll", _TIMEOUT_S, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def close(self) -> None:
        self._socket.close()

    def change(self, request: bytearray, status: bytes) -> bytes:
        """Sends a request whose answer has no body, and must be of this status. Returns the answer's head."""
        try:
            self._socket.sendall(request)
            count = self._socket.recv_into(self._buffer)
            while self._buffer.find(b"\r\n\r\n", 0, count) < 0:
                count += self._more(count)
        except BlockingIOError:
            raise DeadlineExceeded(f"nginx did not answer within {_TIMEOUT_S} s") from None
        if self._buffer[9:12] != status:
            raise self._wrong(count)
        return bytes(self._buffer[:count])

    def read(self, request: bytearray, size: int) -> memoryview:
        """Sends a GET, and returns the body, which must have `size` bytes; it is there until the next request."""
        try:
            self._socket.sendall(request)
            count = self._socket.recv_into(self._buffer)
            while (head := self._buffer.find(b"\r\n\r\n", 0, count)) < 0:
                count += self._more(count)
            end = head + 4 + size
            if self._buffer[9:12] != b"200" or self._length(head) != size or count > end:
                raise self._wrong(count)
            while count < end:
                got = self._socket.recv_into(self._view[count:end], 0, socket.MSG_WAITALL)
                if not got:
                    raise WrongAnswer("nginx closed the connection within a body")
                count += got
        except BlockingIOError:
            raise DeadlineExceeded(f"nginx did not answer within {_TIMEOUT_S} s") from None
        return self._view[head + 4 : end]

    def _length(self, head: int) -> int:
        start = self._buffer.find(b"Content-Length: ", 0, head)
        if start < 0:
            return -1
        digits = self._buffer[start + 16 : self._buffer.find(b"\r\n", start, head + 2)]
        return int(digits) if digits.isdigit() else -1

    def _more(self, count: int) -> int:
        got = self._socket.recv_into(self._view[count:]) if count else 0
        if not got:
            raise WrongAnswer("nginx closed the connection" if count < len(self._buffer) else "the answer has no end")
        return got

    def _wrong(self, count: int) -> WrongAnswer:
        line = bytes(self._buffer[:count]).partition(b"\r\n")[0][:80]
        return WrongAnswer(f"nginx answered {line!r}")


class Request:
    """A request whose path ends in digits that are written in place."""

    def __init__(self, method: str, prefix: str, body: bytes = b"") -> None:
        start = f"{method} /{prefix}"
        length = f"Content-Length: {len(body)}\r\n" if method == PUT else ""
        head = f"{start}{'0' * _DIGITS} HTTP/1.1\r\nHost: bench\r\n{length}\r\n"
        self._at = slice(len(start), len(start) + _DIGITS)
        self._bytes = bytearray(head.encode() + body)

    def of(self, number: int) -> bytearray:
        """The request for that object, good until the next call."""
        self._bytes[self._at] = b"%09d" % number
        return self._bytes


def connect(nginx: Nginx, slot: int, body_most: int) -> RawClient:
    """A connection that the worker serves whose turn it is: chance would give two clients the same one."""
    workers = sorted(nginx.pids[1:])
    wanted = str(workers[slot % len(workers)]).encode()
    ask = bytearray(f"GET {WORKER_PATH} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    for _ in range(_SPREAD_TRIES):
        client = RawClient(nginx.port, body_most)
        if b"X-Worker: " + wanted + b"\r\n" in client.change(ask, b"204"):
            return client
        client.close()
    raise WrongAnswer(f"none of {_SPREAD_TRIES} connections went to the worker with id {wanted.decode()}")


class Requests:
    """What the clients of a row send, made once: forked clients share its pages."""

    def __init__(self, row: Row, content: Content) -> None:
        prefix = f"{row.size}-{row.concurrency}-"
        self.row = row
        self.content = content
        if row.kind == PUT:
            self._made = [Request(PUT, prefix, content.body(number)) for number in range(content.count)]
        else:
            content.prepare()
            self._made = [Request(row.kind, prefix)]

    def operation(self, client: RawClient, slot: int, stored: int) -> Callable[[int], None]:
        """What the client in that slot does with an object's number."""
        content, size, made, count = self.content, self.row.size, self._made, len(self._made)
        first = slot * _SLOT
        if self.row.kind == PUT:

            def put(number: int) -> None:
                client.change(made[number % count].of(first + number), b"201")

            return put
        (asking,) = made
        if self.row.kind == GET:

            def get(number: int) -> None:
                wanted = shuffled(number, stored)
                if not content.matches(wanted, client.read(asking.of(first + wanted), size)):
                    raise Corrupt("other bytes came back from nginx than were put")

            return get

        def delete(number: int) -> None:
            client.change(asking.of(first + number), b"204")

        return delete


def loop(work: Callable[[int], None], start: float, seconds: float, most: int) -> Window:
    """Runs an operation from `start` on, until the time is up or the count reached."""
    clock = time.perf_counter
    latencies = array("I")
    while clock() < start:
        time.sleep(max(0.0, start - clock()))
    usage = time.process_time()
    began = before = after = clock()
    end = began + seconds
    for number in range(most):
        work(number)
        after = clock()
        latencies.append(int((after - before) * 1e6))
        before = after
        if after >= end:
            break
    return Window(len(latencies), began, after, time.process_time() - usage, resident([os.getpid()]), latencies)


def _child(channel: Connection[Any, Any], nginx: Nginx, requests: Requests, slot: int, stored: int, most: int) -> None:
    """The forked client's life: makes ready, waits for the moment, measures, tells."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends soon, and its parent sees to that
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    row = requests.row
    try:
        client = connect(nginx, slot, row.size if row.kind == GET else 0)
        work = requests.operation(client, slot, stored)
        if row.kind == GET:
            work(0)
        channel.send(None)
        start, seconds = channel.recv()
        channel.send(loop(work, start, seconds, most))
        client.close()
    except ReedbedError as error:
        channel.send(error)
    except OSError as error:
        channel.send(WrongAnswer(f"the connection to nginx failed: {error}"))
    except EOFError:
        pass  # nobody waits any more
    except Exception:  # noqa: BLE001 - told by the parent, as no one sees what a child raises
        channel.send(WrongAnswer(f"a client of nginx failed: {traceback.format_exc()}"))


def run_forked(
    nginx: Nginx,
    row: Row,
    content: Content,
    stored: Sequence[int],
    seconds: float,
    around: Callable[[Callable[[], list[Window]]], list[Window]] = lambda run: run(),
) -> list[Window]:
    """Runs a row with as many forked clients as its concurrency; `stored` is what each put before.

    `around` calls what it is given once, and may look at nginx before and after. The caller must have no other threads.
    """
    context = multiprocessing.get_context("fork")
    most = max(1, row.objects_most // row.concurrency)
    channels: list[Connection[Any, Any]] = []
    processes = []
    requests = Requests(row, content)
    try:
        for slot in range(row.concurrency):
            ours, theirs = context.Pipe()
            has = stored[slot] if row.kind != PUT else 0
            bound = most if row.kind == PUT else has if row.kind == DELETE else 1 << 30
            process = context.Process(target=_child, args=(theirs, nginx, requests, slot, has, bound), daemon=True)
            process.start()
            theirs.close()
            channels.append(ours)
            processes.append(process)
        for channel in channels:
            _answer(channel)

        def run() -> list[Window]:
            start = time.perf_counter() + _START_S
            for channel in channels:
                channel.send((start, seconds))
            return [window for channel in channels if isinstance(window := _answer(channel), Window)]

        return around(run)
    finally:
        for channel in channels:
            channel.close()
        for process in processes:
            process.join(_TIMEOUT_S)
            if process.exitcode is None:
                process.kill()
                process.join()


def _answer(channel: Connection[Any, Any]) -> Window | None:
    if not channel.poll(_ANSWER_S):
        raise DeadlineExceeded(f"a client of nginx did not answer within {_ANSWER_S:g} s")
    try:
        answer: Window | ReedbedError | None = channel.recv()
    except EOFError:
        raise WrongAnswer("a client of nginx ended without a word") from None
    if isinstance(answer, ReedbedError):
        raise answer
    return answer
