"""A TCP proxy with faults, between a client and a daemon.

`FaultyProxy` runs in the event loop of its test; `ProxyThread` runs one in a thread of its own, for tests that are
synchronous or whose loop is busy. Both have the same faults:

    delay, jitter     seconds that every piece of bytes takes, the jitter on top at random; order is kept, and pieces
                      travel at the same time
    rate              bytes per second and direction of a connection; 0: no limit
    blackhole         nothing passes any more in either direction; connections are accepted and stay open
    refuse            connections are closed as soon as they are accepted
    cut()             resets all connections
    drop_next_answer  everything passes until the next answer of the server; it is dropped and its connection cut
    hold_answers      what the server says waits here from its next answer on, while requests pass; cut() drops it
    flip_every        one byte of so many is altered, at random, in both directions; 0: none. In HTTP/2 within contents
                      only: at an error code that it does not know gRPC's own library ends its whole process
    tear_every        one piece of so many is passed on in part only, and its connection cut; 0: none
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator

_PIECE = 64 * 1024
_PIECES = 64  # on the way at a time
_DATA_FRAME = 0
_CONTENTS = (_DATA_FRAME, 1, 9)  # with HEADERS and CONTINUATION
_PREFACE = 24
_FRAME_HEADER = 9


class Http2Frames:
    """Follows the frames of one direction of an HTTP/2 connection (RFC 9113, section 4.1)."""

    def __init__(self, preface: int = 0) -> None:
        """`preface`: bytes before the first frame, 24 in what a client sends."""
        self._header = bytearray()
        self._skip = preface
        self._left = 0
        self._kind = -1

    def feed(self, data: bytes) -> tuple[int, list[tuple[int, int]]]:
        """The place in `data` where the first DATA frame with content begins or began before, -1 if there is none; and
        the (start, end) ranges that are contents of DATA and HEADERS frames."""
        at = min(self._skip, len(data))
        self._skip -= at
        found = -1
        contents: list[tuple[int, int]] = []
        while at < len(data):
            if self._left:
                passed = min(self._left, len(data) - at)
                if self._kind in _CONTENTS:
                    contents.append((at, at + passed))
                at += passed
                self._left -= passed
                continue
            start = max(0, at - len(self._header))
            taken = data[at : at + _FRAME_HEADER - len(self._header)]
            self._header += taken
            at += len(taken)
            if len(self._header) == _FRAME_HEADER:
                self._left = int.from_bytes(self._header[:3], "big")
                self._kind = self._header[3]
                if self._kind == _DATA_FRAME and self._left and found < 0:
                    found = start
                self._header.clear()
        return found, contents


class FaultyProxy:
    """One address that passes connections on to `target` (host, port)."""

    def __init__(self, target: tuple[str, int], *, http2: bool = True, rng: random.Random | None = None) -> None:
        """`http2`: only DATA frames count as answers; else every byte of the server does."""
        self.target = target
        self.delay = 0.0
        self.jitter = 0.0
        self.rate = 0.0
        self.blackhole = False
        self.refuse = False
        self.drop_next_answer = False
        self.hold_answers = False
        self.flip_every = 0
        self.tear_every = 0
        self.dropped = 0  # answers
        self.held = 0  # answers, at the time
        self.altered = 0  # bytes flipped and pieces torn so far
        self.connections = 0  # accepted so far
        self.answered = 0  # bytes that the server said so far
        self._http2 = http2
        self._rng = rng or random.Random(1)
        self._server: asyncio.Server | None = None
        self._writers: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> int:
        """Listens at 127.0.0.1; returns the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def stop(self) -> None:
        """Listens no more and ends all connections."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._writers)
        self.cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._server = None

    async def __aenter__(self) -> FaultyProxy:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def cut(self) -> None:
        """Resets all connections; new ones are accepted."""
        for writers in self._writers.values():
            _reset(writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = self._writers[task] = [writer]
        self.connections += 1
        try:
            if self.refuse:
                return
            there_reader, there_writer = await asyncio.open_connection(*self.target)
            writers.append(there_writer)
            ways = [
                asyncio.ensure_future(self._pass(reader, there_writer, writers, Http2Frames(_PREFACE), answers=False)),
                asyncio.ensure_future(self._pass(there_reader, writer, writers, Http2Frames(), answers=True)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # the target is gone: the client sees its connection closed
        finally:
            del self._writers[task]
            for each in writers:
                each.close()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        writers: list[asyncio.StreamWriter],
        frames: Http2Frames,
        answers: bool,
    ) -> None:
        """One direction; `answers`: that of the server."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_PIECES)
        writing = asyncio.ensure_future(self._write(queue, writer))
        reading = asyncio.ensure_future(self._read(reader, queue, writers, frames, answers))
        try:
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and reading.result():
                await queue.join()
        finally:
            reading.cancel()
            writing.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    async def _read(
        self,
        reader: asyncio.StreamReader,
        queue: asyncio.Queue[tuple[float, bytes]],
        writers: list[asyncio.StreamWriter],
        frames: Http2Frames,
        answers: bool,
    ) -> bool:
        """Hands pieces on with the moments at which they are due; true once there are no more, false after a cut."""
        loop = asyncio.get_running_loop()
        due = 0.0
        while data := await reader.read(_PIECE):
            start, contents = frames.feed(data) if self._http2 else (0, [(0, len(data))])
            if answers:
                self.answered += len(data)
                if self.drop_next_answer and start >= 0:
                    self.drop_next_answer = False
                    self.dropped += 1
                    _reset(writers)
                    return False
                if self.hold_answers and start >= 0:
                    await self._hold()
            data, whole = self._altered(data, contents)
            due = max(due, loop.time() + self.delay + self.jitter * self._rng.random())
            due += len(data) / self.rate if self.rate else 0.0
            await queue.put((due, data))
            if not whole:
                await queue.join()
                _reset(writers)
                return False
        return True

    async def _hold(self) -> None:
        self.held += 1
        try:
            while self.hold_answers:  # noqa: ASYNC110  a flag may be set from another thread
                await asyncio.sleep(0.005)
        finally:
            self.held -= 1

    def _altered(self, data: bytes, contents: list[tuple[int, int]]) -> tuple[bytes, bool]:
        """The piece as it travels on, and whether it is all of it."""
        bytes_ = bytearray(data)
        if self.flip_every:
            for start, end in contents:
                at = start + self._gap()
                while at < end:
                    bytes_[at] ^= 1 << self._rng.randrange(8)
                    self.altered += 1
                    at += 1 + self._gap()
        if self.tear_every and self._rng.random() * self.tear_every < 1:
            self.altered += 1
            return bytes(bytes_[: self._rng.randrange(len(bytes_))]), False
        return bytes(bytes_), True

    def _gap(self) -> int:
        """How many bytes pass until the next one is altered."""
        return int(self._rng.expovariate(1 / self.flip_every))

    async def _write(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            if (pause := due - loop.time()) > 0:
                await asyncio.sleep(pause)
            while self.blackhole:  # noqa: ASYNC110  a flag may be set from another thread
                await asyncio.sleep(0.01)
            writer.write(data)
            await writer.drain()
            queue.task_done()


def _reset(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        with contextlib.suppress(RuntimeError):
            writer.transport.abort()


class ProxyThread:
    """A `FaultyProxy` in a thread with a loop of its own, as a context manager. Faults are set on `proxy`."""

    def __init__(
        self, target: tuple[str, int] = ("", 0), *, http2: bool = True, rng: random.Random | None = None
    ) -> None:
        """The target may be set later, before the first connection."""
        self.proxy = FaultyProxy(target, http2=http2, rng=rng)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-proxy", daemon=True)

    @property
    def address(self) -> str:
        return self.proxy.address

    def cut(self) -> None:
        """Resets all connections."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    async def _cut(self) -> None:
        self.proxy.cut()

    def __enter__(self) -> ProxyThread:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.proxy.start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.proxy.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@contextlib.contextmanager
def proxied(target: str, rng: random.Random | None = None) -> Iterator[ProxyThread]:
    """A proxy thread before the daemon at HOST:PORT."""
    with ProxyThread(split(target), rng=rng) as proxy:
        yield proxy


def split(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT."""
    host, _, port = address.rpartition(":")
    return host, int(port)
