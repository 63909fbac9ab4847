"""What this machine can do, measured now: the yardstick for every other figure.

    reedbed bench limits [--dir FOLDER] [--json] [--seconds 1]

Rates are the best of three rounds. Absolute values drift from run to run on shared machines, so other benchmarks call
`measure()` in their own run and print ratios.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypedDict

from reedbed.common.checksums import crc32c
from reedbed.common.limits import KIB, MIB
from reedbed.ec.codec import codec_for
from reedbed.ec.profiles import parse_profile

ROUNDS: Final = 3
SYNC: Final = "fdatasync 4 KiB, 1 writer"
APPENDS: Final = "append 1 MiB, 6 writers"
LOOPBACK: Final = "loopback TCP"
ROUND_TRIP: Final = "loopback round trip"

_ASK: Final = 64  # bytes of a question that is sent and answered


class Limit(TypedDict):
    """One figure with its unit: "MB/s" of 10^6 bytes, "ms", or "1/s"."""

    value: float
    unit: str


def _rate(work: Callable[[], int], seconds: float) -> float:
    """MB/s of a function that returns how many bytes it went through; the best of the rounds."""
    best = 0.0
    for _ in range(ROUNDS):
        done, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds / ROUNDS:
            done += work()
        best = max(best, done / spent / 1e6)
    return best


def memcpy(seconds: float) -> float:
    """Copying 8 MiB between two buffers that lie in memory."""
    source, target = bytearray(os.urandom(8 * MIB)), bytearray(8 * MIB)

    def work() -> int:
        target[:] = source
        return len(source)

    return _rate(work, seconds)


def checksum(seconds: float) -> float:
    """CRC32C of blocks of 64 KiB, as every block of a shard is summed."""
    data = memoryview(bytearray(os.urandom(8 * MIB)))

    def work() -> int:
        for start in range(0, len(data), 64 * KIB):
            crc32c(data[start : start + 64 * KIB])
        return len(data)

    return _rate(work, seconds)


def encode(profile: str, seconds: float) -> float:
    """Parity of 8 MiB of data on prepared buffers, one thread; MB/s of data."""
    code = parse_profile(profile)
    codec = codec_for(code)
    length = 8 * MIB // code.k
    data = [bytearray(os.urandom(length)) for _ in range(code.k)]
    parity = [bytearray(length) for _ in range(code.m)]

    def work() -> int:
        codec.encode(data, parity)
        return length * code.k

    return _rate(work, seconds)


def _fork(work: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    """A started child; forked, as those who measure have no other threads, and a fresh one would take its time."""
    child = multiprocessing.get_context("fork").Process(target=work, args=arguments, daemon=True)
    child.start()
    return child


def _send(port: int, stop: float) -> None:
    data = os.urandom(MIB)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.monotonic() + stop
        while time.monotonic() < end:
            connection.sendall(data)


def loopback(seconds: float) -> float:
    """From one process to another over loopback TCP, sendall into recv_into, pieces of 1 MiB."""
    best = 0.0
    for _ in range(ROUNDS):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            sender = _fork(_send, port, seconds / ROUNDS)
            connection, _ = server.accept()
            with connection:
                buffer, done, start = bytearray(MIB), 0, time.perf_counter()
                while count := connection.recv_into(buffer):
                    done += count
                best = max(best, done / (time.perf_counter() - start) / 1e6)
            sender.join()
    return best


def _echo(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(_ASK):
            connection.sendall(data)


def round_trip(seconds: float) -> float:
    """Median milliseconds until another process has answered 64 bytes over loopback TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = _fork(_echo, server.getsockname()[1])
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times, data = [], bytes(_ASK)
        with connection:
            end = time.perf_counter() + seconds
            while (start := time.perf_counter()) < end:
                connection.sendall(data)
                connection.recv(_ASK)
                times.append(time.perf_counter() - start)
        child.join()
    return statistics.median(times) * 1e3


def append(folder: Path, writers: int, size: int, seconds: float) -> tuple[float, float]:
    """Appends of `size` bytes, each followed by fdatasync, by several writers with a file each.

    Returns median milliseconds of one append and MB/s of all writers.
    """
    times: list[float] = []
    done = [0] * writers
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        data = os.urandom(size)
        path = folder / f"append-{number}"
        with path.open("wb", buffering=0) as file:
            while (start := time.perf_counter()) < end:
                file.write(data)
                os.fdatasync(file.fileno())
                times.append(time.perf_counter() - start)
                done[number] += size
        path.unlink()

    start = time.perf_counter()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statistics.median(times) * 1e3, sum(done) / (time.perf_counter() - start) / 1e6


def measure(folder: Path, seconds: float = 1.0) -> dict[str, Limit]:
    """All limits, by name; `seconds` for each."""
    limits: dict[str, Limit] = {
        "memcpy": Limit(value=memcpy(seconds), unit="MB/s"),
        "crc32c": Limit(value=checksum(seconds), unit="MB/s"),
    }
    for profile in ("rs-4-2", "rs-8-3", "rs-10-4"):
        limits[f"encode {profile}"] = Limit(value=encode(profile, seconds), unit="MB/s")
    limits[LOOPBACK] = Limit(value=loopback(seconds), unit="MB/s")
    limits[ROUND_TRIP] = Limit(value=round_trip(seconds), unit="ms")
    limits[SYNC] = Limit(value=append(folder, 1, 4 * KIB, seconds)[0], unit="ms")
    limits["append 1 MiB, 1 writer"] = Limit(value=append(folder, 1, MIB, seconds)[1], unit="MB/s")
    limits[APPENDS] = Limit(value=append(folder, 6, MIB, seconds)[1], unit="MB/s")
    return limits


def lines(limits: dict[str, Limit]) -> list[str]:
    """The limits as a table."""
    width = max(map(len, limits))
    return [f"{name:<{width}}  {limit['value']:>10,.3f} {limit['unit']}" for name, limit in limits.items()]
