"""What one run of one row gives, and what processes use meanwhile."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from hdrh.histogram import HdrHistogram

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_LONGEST_US: Final = 3_600_000_000


@dataclass(frozen=True)
class Window:
    """What one client process did: seconds are of the clock that all processes share, latencies in microseconds."""

    operations: int
    start: float
    end: float
    cpu: float
    rss: int
    latencies: array[int]


class Measurement(msgspec.Struct):
    """One repetition of one row. CPU in seconds and memory in bytes by part: client, catalogd, storaged, or nginx."""

    operations: int
    bytes: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu: dict[str, float]
    rss: dict[str, int]
    others: float = 0.0  # CPU seconds that went to all other processes meanwhile, or to other machines
    written: dict[str, int] = {}  # bytes that daemons handed to write(), by part
    disk: dict[str, int] = {}  # bytes of allocated blocks that a put row added, by part

    @property
    def per_second(self) -> float:
        return self.operations / self.seconds

    @property
    def rate(self) -> float:
        """MB/s of 10^6 bytes."""
        return self.bytes / self.seconds / 1e6

    @property
    def cpu_ms(self) -> float:
        """CPU of all parts for one operation."""
        return sum(self.cpu.values()) / self.operations * 1e3


def histogram_of(latencies: Iterable[Sequence[int]]) -> HdrHistogram:
    """A histogram of latencies in microseconds, three digits of them."""
    histogram = HdrHistogram(1, _LONGEST_US, 3)
    for values in latencies:
        for value in values:
            histogram.record_value(min(max(1, value), _LONGEST_US))
    return histogram


def percentile_ms(histogram: HdrHistogram, percent: float) -> float:
    return float(histogram.get_value_at_percentile(percent)) / 1e3


def combine(
    windows: Sequence[Window], size: int, cpu: dict[str, float], rss: dict[str, int]
) -> tuple[Measurement, HdrHistogram]:
    """One measurement of what several client processes did at the same time, `size` bytes an operation."""
    operations = sum(window.operations for window in windows)
    histogram = histogram_of(window.latencies for window in windows)
    measurement = Measurement(
        operations=operations,
        bytes=operations * size,
        seconds=max(window.end for window in windows) - min(window.start for window in windows),
        p50_ms=percentile_ms(histogram, 50),
        p99_ms=percentile_ms(histogram, 99),
        cpu={"client": sum(window.cpu for window in windows), **cpu},
        rss={"client": sum(window.rss for window in windows), **rss},
    )
    return measurement, histogram


def busy_seconds() -> float:
    """CPU seconds that this machine has spent on anything so far, or had to leave to other machines."""
    try:
        fields = Path("/proc/stat").read_bytes().split(b"\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that these processes have used; one that is gone counts nothing."""
    total = 0
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = stat.rpartition(b")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def resident(pids: Iterable[int]) -> int:
    """Resident bytes of these processes together; one that is gone counts nothing."""
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
        except (FileNotFoundError, ProcessLookupError, IndexError):
            continue
    return total


def written_bytes(pids: Iterable[int]) -> int:
    """Bytes that these processes have handed to write() and its kin (`wchar` of proc_pid_io(5)), mostly to files; what
    they answered over a socket is in it where the event loop sends by write().

    Not `write_bytes`: that counts the whole large folio of the page cache for each page of it that is made dirty. A
    process that is gone, or that is not ours to look at, counts nothing.
    """
    total = 0
    for pid in pids:
        try:
            fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        total += int(fields["wchar"])
    return total


def children_of(pid: int) -> list[int]:
    """Processes that this one has started and that run."""
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
