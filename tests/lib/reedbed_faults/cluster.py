"""A cluster of real processes with faulty proxies before some of its devices."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from reedbed_cluster import Daemon, LocalCluster

from reedbed_faults.proxy import FaultyProxy, ProxyThread


def listening(daemon: Daemon) -> tuple[str, int]:
    """Where a daemon really listens, whatever it tells others."""
    for connection in psutil.Process(daemon.pid).net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN:
            return str(connection.laddr.ip), int(connection.laddr.port)
    raise AssertionError(f"{daemon.name} listens nowhere")


@contextmanager
def cluster_behind_proxies(
    folder: Path, places: Iterable[int], devices: int = 6, rng: random.Random | None = None, **options: Any
) -> Iterator[tuple[LocalCluster, dict[int, FaultyProxy]]]:
    """A started cluster whose clients reach the devices of these places (from 1) through a proxy each, by place."""
    with ExitStack() as stack:
        proxies = {place: stack.enter_context(ProxyThread(rng=rng)).proxy for place in places}
        cluster = LocalCluster(folder, devices, **options)
        stack.callback(cluster.stop)
        cluster.start_catalog()
        for place in range(1, devices + 1):
            told = ["--advertise", proxies[place].address] if place in proxies else []
            cluster.storaged.append(cluster.storage_daemon(place, told))
        cluster.start_storage(cluster.storaged)
        for place, proxy in proxies.items():
            proxy.target = listening(cluster.storaged[place - 1])
        yield cluster, proxies
