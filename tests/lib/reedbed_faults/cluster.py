"""A cluster of real processes with faulty proxies before some of its devices."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from reedbed_cluster import Daemon, LocalCluster

from reedbed.transport.streams import GREETING
from reedbed_faults.proxy import FaultyProxy, ProxyThread


class Way:
    """The way to one daemon: a proxy for gRPC, and one for framed streams. Faults that are set are set on both; counts
    are those of both together."""

    def __init__(self, grpc: FaultyProxy, streams: FaultyProxy) -> None:
        self.__dict__["_both"] = (grpc, streams)

    def __setattr__(self, name: str, value: object) -> None:
        for proxy in self._both:
            setattr(proxy, name, value)

    def __getattr__(self, name: str) -> Any:
        first, second = (getattr(proxy, name) for proxy in self._both)
        return first + second if type(first) is int else first

    @property
    def streamed(self) -> int:
        """Bytes that the daemon said over framed streams."""
        streams: FaultyProxy = self._both[1]
        return streams.answered


def listening(daemon: Daemon) -> list[tuple[str, int]]:
    """Where a daemon really listens, whatever it tells others: for gRPC, then for framed streams."""
    found = [
        (str(connection.laddr.ip), int(connection.laddr.port))
        for connection in psutil.Process(daemon.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(found) == 2, f"{daemon.name} listens at {found}"
    return sorted(found, key=_takes_streams)


def _takes_streams(where: tuple[str, int]) -> bool:
    """Whether it ends a connection whose greeting is none; gRPC says something first."""
    with socket.create_connection(where, 10) as connection:
        connection.sendall(bytes(GREETING))
        return not connection.recv(1)


@contextmanager
def cluster_behind_proxies(
    folder: Path, places: Iterable[int], devices: int = 6, rng: random.Random | None = None, **options: Any
) -> Iterator[tuple[LocalCluster, dict[int, Way]]]:
    """A started cluster whose clients reach the devices of these places (from 1) through proxies, by place."""
    with ExitStack() as stack:
        ways = {
            place: [stack.enter_context(ProxyThread(http2=http2, rng=rng)).proxy for http2 in (True, False)]
            for place in places
        }
        cluster = LocalCluster(folder, devices, **options)
        stack.callback(cluster.stop)
        cluster.start_catalog()
        for place in range(1, devices + 1):
            told: list[str] = []
            if place in ways:
                grpc, streams = ways[place]
                told = ["--advertise", grpc.address, "--advertise-streams", streams.address]
            cluster.storaged.append(cluster.storage_daemon(place, told))
        cluster.start_storage(cluster.storaged)
        for place, (grpc, streams) in ways.items():
            grpc.target, streams.target = listening(cluster.storaged[place - 1])
        yield cluster, {place: Way(*both) for place, both in ways.items()}
