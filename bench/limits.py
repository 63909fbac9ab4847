"""What this machine can do, measured now: the yardstick for every other figure.

    python bench/limits.py [--dir FOLDER] [--json] [--seconds 1]

Each figure is the best of three rounds. Absolute values drift from run to run on shared machines, so other benchmarks
call `measure()` in their own run and print ratios.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from reedbed.common.checksums import crc32c
from reedbed.common.limits import KIB, MIB
from reedbed.ec.codec import codec_for
from reedbed.ec.profiles import parse_profile

ROUNDS = 3


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
            sender = multiprocessing.get_context("spawn").Process(target=_send, args=(port, seconds / ROUNDS))
            sender.start()
            connection, _ = server.accept()
            with connection:
                buffer, done, start = bytearray(MIB), 0, time.perf_counter()
                while count := connection.recv_into(buffer):
                    done += count
                best = max(best, done / (time.perf_counter() - start) / 1e6)
            sender.join()
    return best


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
    limits["loopback TCP"] = Limit(value=loopback(seconds), unit="MB/s")
    limits["fdatasync 4 KiB, 1 writer"] = Limit(value=append(folder, 1, 4 * KIB, seconds)[0], unit="ms")
    limits["append 1 MiB, 1 writer"] = Limit(value=append(folder, 1, MIB, seconds)[1], unit="MB/s")
    limits["append 1 MiB, 6 writers"] = Limit(value=append(folder, 6, MIB, seconds)[1], unit="MB/s")
    return limits


def medium(folder: Path) -> str:
    """The kind of file system that a folder lies on, as /proc/mounts names it."""
    best, kind = "", "unknown"
    where = str(folder.resolve())
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, fs, *_ = line.split(" ")
        if (where == mount or where.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(best):
            best, kind = mount, fs
    return f"{kind} at {best}" + (" (in memory)" if kind in ("tmpfs", "ramfs") else "")


def print_limits(limits: dict[str, Limit]) -> None:
    """The limits as a table."""
    width = max(map(len, limits))
    for name, limit in limits.items():
        print(f"{name:<{width}}  {limit['value']:>10,.2f} {limit['unit']}")


def main() -> None:
    parser = argparse.ArgumentParser(description="What this machine can do, measured now.")
    parser.add_argument("--dir", type=Path, help="folder for the appends [default: a temporary one]")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reedbed-limits-", dir=arguments.dir) as temporary:
        folder = Path(temporary)
        limits = measure(folder, arguments.seconds)
        if arguments.json:
            print(json.dumps({"medium": medium(folder), "limits": limits}))
            return
        print(f"folder: {medium(folder)}; {os.cpu_count()} cores")
        print_limits(limits)


if __name__ == "__main__":
    main()
