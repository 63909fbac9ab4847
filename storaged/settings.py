"""Settings of a storaged, from flags, REEDBED_STORAGED_… variables or a TOML file (see reedbed.common.config)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import DEFAULT_ENDPOINT
from reedbed.storaged.pace import PERIOD_S, RATE_MAX, Pace
from reedbed.transport.stream_server import check_advertised


@dataclass(frozen=True, slots=True)
class StoragedSettings:
    """What one storaged process serves, and how.

    dir: folders of its devices. catalog: endpoints of the cluster's catalogd processes, tried in order.
    advertise: the address that clients are told, HOST or HOST:PORT; by default host and the port bound to.
    node, rack, zone: labels of all its devices. capacity: bytes that each device may use, 0 for the whole disk.
    read_threads: that read from each device at a time. scrub_period_s: seconds within which each device is read through
    once, 0 for only when asked; scrub_rate: bytes a second that this may take of a device. streams: offer framed
    streams, at stream_port (0: any free one), or at HOST:PORT advertise_streams as clients are told. tls_*: PEM files;
    all three, or none.
    """

    dir: tuple[str, ...]
    catalog: tuple[str, ...] = (DEFAULT_ENDPOINT,)
    host: str = "127.0.0.1"
    port: int = 0
    advertise: str = ""
    node: str = ""
    rack: str = ""
    zone: str = ""
    capacity: int = 0
    read_threads: int = 4
    scrub_period_s: float = PERIOD_S
    scrub_rate: float = RATE_MAX
    streams: bool = True
    stream_port: int = 0
    advertise_streams: str = ""
    log_level: str = "info"
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        if not self.dir:
            raise InvalidArgument("storaged needs at least one folder", hint="Give --dir")
        if len(set(self.dir)) != len(self.dir):
            raise InvalidArgument("a folder is given twice")
        if not self.catalog:
            raise InvalidArgument("storaged needs the address of a catalogd", hint="Give --catalog HOST:PORT")
        for port in (self.port, self.stream_port):
            if not 0 <= port <= 65535:
                raise InvalidArgument(f"port {port} is not from 0 to 65535")
        check_advertised(self.advertise_streams)
        if self.host in ("0.0.0.0", "::", "[::]") and not self.advertise:
            raise InvalidArgument(f"{self.host} is no address that clients could call", hint="Give --advertise HOST")
        Pace(self.scrub_period_s, self.scrub_rate)
        if self.capacity < 0 or not 1 <= self.read_threads <= 256:
            raise InvalidArgument("capacity must not be below 0, and read_threads be from 1 to 256")
