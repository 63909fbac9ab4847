"""CPU that a call costs at both ends of a lane, by each kind of lane, with a service that only answers.

    python bench/lane_cpu.py [--seconds 2] [--only NAME]

Microseconds of CPU per call for the caller and for the daemon, which is a process of its own, and what passes in a
second. The daemon answers without a task for each call, as storaged does.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import psutil
import uvloop

from reedbed.common.clock import Deadline
from reedbed.common.limits import CALLS_MAX, KIB, MIB, PAYLOAD_MAX, PROTOCOL_VERSION, WINDOW
from reedbed.transport.grpc_client import GrpcConnector
from reedbed.transport.grpc_server import GrpcServer
from reedbed.transport.lane import Answer, Hello, Request, Response
from reedbed.transport.memory import keep_freed_memory
from reedbed.transport.stream_server import Streams

KINDS: dict[str, tuple[Streams | None, bool]] = {
    "gRPC": (None, False),
    "stream over TCP": (Streams(local=False), True),
    "stream within the machine": (Streams(), True),
}
# name, calls at once, bytes of a request's payload and of an answer's
ROWS = (
    ("empty, 1 at once", 1, 0, 0),
    ("empty, 32 at once", 32, 0, 0),
    ("answer of 4 KiB, 32 at once", 32, 0, 4 * KIB),
    ("request of 4 KiB, 32 at once", 32, 4 * KIB, 0),
    ("answer of 256 KiB, 8 at once", 8, 0, 256 * KIB),
    ("answer of 4 MiB, 4 at once", 4, 0, 4 * MIB),
    ("request of 4 MiB, 4 at once", 4, 4 * MIB, 0),
)


class Plain:
    """Answers with as many bytes as the header asks for."""

    def __init__(self) -> None:
        self._data = memoryview(os.urandom(4 * MIB))

    def hello(self) -> Hello:
        return Hello(b"c" * 16, 1, 1, "storaged", "bench", PROTOCOL_VERSION, WINDOW, CALLS_MAX, PAYLOAD_MAX)

    def position(self) -> tuple[int, int]:
        return 1, 1

    async def handle(self, request: Request) -> Response:
        return self._answer(request)

    def begin(self, request: Request, answer: Answer) -> Callable[[], None]:
        answer(self._answer(request))
        return int

    def _answer(self, request: Request) -> Response:
        size = int(request.header)
        return Response(b"answer", [self._data[:size]] if size else ())


def serve(streams: Streams | None, pipe: Connection) -> None:
    """The daemon: tells its port, and ends when the pipe does."""
    keep_freed_memory()

    async def main() -> None:
        server = GrpcServer(Plain(), streams=streams)
        pipe.send(await server.start())
        await asyncio.get_running_loop().run_in_executor(None, pipe.poll, None)
        await server.stop()

    uvloop.run(main())


async def measure(address: str, framed: bool, daemon: psutil.Process, seconds: float, only: str) -> None:
    lane = await GrpcConnector(streams=framed).open(address, cluster=b"", deadline=Deadline(10))
    blob = memoryview(os.urandom(4 * MIB))
    for name, at_once, asked, answered in ROWS:
        if only not in name:
            continue
        header, payload = b"%d" % answered, [blob[:asked]] if asked else ()
        memory = [memoryview(bytearray(answered)) if answered else None for _ in range(at_once)]
        numbers = itertools.count()

        async def calls(into: memoryview | None, until: float, header: bytes, payload: object, numbers: object) -> None:
            while time.perf_counter() < until:
                deadline = Deadline(30)
                await lane.call("call", header, payload, deadline=deadline, into=into)  # type: ignore[arg-type]
                next(numbers)  # type: ignore[call-overload]

        for spent in (seconds / 4, seconds):  # the first warms up
            numbers = itertools.count()
            own, other, began = time.process_time(), _cpu(daemon), time.perf_counter()
            await asyncio.gather(*(calls(into, began + spent, header, payload, numbers) for into in memory))
            took, count = time.perf_counter() - began, next(numbers)
        own, other = time.process_time() - own, _cpu(daemon) - other
        moved = (asked + answered) * count / took / 1e6
        print(
            f"  {name:<32}{own / count * 1e6:>10.1f} us{other / count * 1e6:>10.1f} us{count / took:>12,.0f} 1/s"
            + (f"{moved:>9,.0f} MB/s" if moved else ""),
            flush=True,
        )
    await lane.close()


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU of a call at both ends of a lane, by each kind of lane.")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows whose name has this text")
    arguments = parser.parse_args()
    keep_freed_memory()
    context = multiprocessing.get_context("spawn")
    for kind, (streams, framed) in KINDS.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(streams, theirs))
        process.start()
        try:
            address = f"127.0.0.1:{ours.recv()}"
            print(f"{kind:<34}{'caller':>13}{'daemon':>13}")
            daemon = psutil.Process(process.pid)
            uvloop.run(measure(address, framed, daemon, arguments.seconds, arguments.only))
        finally:
            process.terminate()
            process.join()


if __name__ == "__main__":
    main()
