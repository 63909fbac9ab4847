"""A cluster that is measured: where it is, what its daemons use, and one row against it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hdrh.histogram import HdrHistogram

from reedbed.bench.clients import Clients
from reedbed.bench.local import cluster, disk_bytes
from reedbed.bench.machine import in_memory
from reedbed.bench.measured import Measurement, busy_seconds, combine, cpu_seconds, resident, written_bytes
from reedbed.bench.memory import supply
from reedbed.bench.table import DEVICES, PROFILE, STORED_FACTOR, Row
from reedbed.transport.tls import TlsConfig

_CALM_S: Final = 60.0
_LOOK_S: Final = 1.0
_IDLE: Final = 0.15  # of a core, all daemons of a cluster that serves nobody together


@dataclass(frozen=True)
class Target:
    """Where the cluster is: of its daemons only those are known that we have started."""

    endpoint: str
    tls: TlsConfig | None = None
    catalogd: tuple[int, ...] = ()
    storaged: tuple[int, ...] = ()
    catalog_folder: Path | None = None
    device_folders: tuple[Path, ...] = ()

    @property
    def known(self) -> bool:
        return bool(self.catalogd)

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, by part."""
        if not self.known:
            return {}
        return {"catalogd": cpu_seconds(self.catalogd), "storaged": cpu_seconds(self.storaged)}

    def rss(self) -> dict[str, int]:
        """Resident bytes, by part."""
        if not self.known:
            return {}
        return {"catalogd": resident(self.catalogd), "storaged": resident(self.storaged)}

    def written(self) -> dict[str, int]:
        """Bytes written to files so far, by part."""
        if not self.known:
            return {}
        parts = {"catalogd": self.catalogd, "storaged": self.storaged}
        return {part: written_bytes(pids) for part, pids in parts.items()}

    def disk(self) -> dict[str, int]:
        """Allocated bytes, by part."""
        if self.catalog_folder is None:
            return {}
        return {"devices": disk_bytes(self.device_folders), "catalog": disk_bytes([self.catalog_folder])}


@contextmanager
def fresh_cluster(folder: Path, devices: int = DEVICES) -> Iterator[Target]:
    """A cluster of our own while in the context; Unavailable if it does not start."""
    with fresh(folder, "cluster") as place, cluster(place, devices=devices, profile=PROFILE) as state:
        yield Target(
            endpoint=state["endpoint"],
            catalogd=(state["catalogd"]["pid"],),
            storaged=tuple(device["pid"] for device in state["devices"]),
            catalog_folder=place / "catalog",
            device_folders=tuple(Path(device["dir"]) for device in state["devices"]),
        )


def measure_row(
    clients: Clients, row: Row, target: Target, seconds: float, most: int = 0
) -> tuple[Measurement, HdrHistogram]:
    """Readies the clients for a row and runs it: what it gave, and its latencies. `most` puts, unless that is 0."""
    clients.prepare(row)
    if row.puts:
        supply(int((most * row.size if most else row.stored_most) * STORED_FACTOR))
    disk = target.disk() if row.puts else {}
    written, busy, cpu = target.written(), busy_seconds(), target.cpu()
    windows = clients.measure(seconds, most or row.objects_most)
    used = {part: value - cpu[part] for part, value in target.cpu().items()}
    measurement, times = combine(windows, row.bytes_each, used, target.rss())
    measurement.others = max(0.0, busy_seconds() - busy - sum(measurement.cpu.values()))
    measurement.written = {part: value - written[part] for part, value in target.written().items()}
    if disk:
        measurement.disk = {part: value - disk[part] for part, value in target.disk().items()}
    return measurement, times


def calm_down(target: Target, most_s: float = _CALM_S) -> bool:
    """Waits until the daemons have little to do: what was put is copied and compared a little later. False if not."""
    end = time.monotonic() + most_s
    while time.monotonic() < end:
        before = sum(target.cpu().values())
        time.sleep(_LOOK_S)
        if (sum(target.cpu().values()) - before) / _LOOK_S < _IDLE:
            return True
    return False


def settle(folder: Path) -> None:
    """What others have written goes to disk now, not while we measure."""
    if not in_memory(folder):
        os.sync()


@contextmanager
def fresh(folder: Path, name: str) -> Iterator[Path]:
    """A place in the folder that is not there before, and not afterwards."""
    place = folder / name
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
