"""Settings of a catalogd, from flags, REEDBED_CATALOGD_… variables or a TOML file (see reedbed.common.config)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reedbed.catalog.liveness import Times
from reedbed.catalog.mapstate import check_cluster_settings
from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import (
    CATALOG_RESERVE,
    COMPACT_BELOW,
    COMPACT_BELOW_MAX,
    DEFAULT_PORT,
    DELETE_GRACE_S,
    DOWN_AFTER_S,
    HORIZON_LAG_S,
    OUT_AFTER_S,
    READ_DEADLINE_MAX_S,
)
from reedbed.transport.stream_server import check_advertised


@dataclass(frozen=True, slots=True)
class CatalogdSettings:
    """What one catalogd serves, and how. Times in seconds.

    dir: the catalog's folder. level, default_profile: of a new cluster; None: device and rs-4-2, or what is there.
    down_after_s, out_after_s: silence until a device is down, and from then until it is out. delete_grace_s: how long
    dropped extents are kept; under READ_DEADLINE_MAX_S only with short_grace, which is for tests. horizon_lag_s: how
    long a client may take from the lease of an id to its commit. log_keep, log_keep_s: how many of the newest log
    entries are kept at least, and for how long. copy_every_s: between two runs of redo records that are shipped to the
    copy on the cluster. redo_keep: how many records are kept at most until they are in it. capacity: bytes that the
    catalog's data file may have, 0 for the whole disk; reserve: of its disk, or of these, for what makes room only.
    compact_below: extents are rewritten once what is live in them costs at most so many percent of what they hold; 0:
    never. streams: offer framed streams, at stream_port (0: any free one), or at HOST:PORT advertise_streams as clients
    are told. tls_*: PEM files; all three, or none.
    """

    dir: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    level: str | None = None
    default_profile: str | None = None
    down_after_s: float = DOWN_AFTER_S
    out_after_s: float = OUT_AFTER_S
    delete_grace_s: float = DELETE_GRACE_S
    short_grace: bool = False
    horizon_lag_s: float = HORIZON_LAG_S
    log_keep: int = 1_000_000
    log_keep_s: float = 30 * 24 * 3600.0
    copy_every_s: float = 1.0
    redo_keep: int = 100_000
    capacity: int = 0
    reserve: int = CATALOG_RESERVE
    compact_below: int = COMPACT_BELOW
    streams: bool = True
    stream_port: int = 0
    advertise_streams: str = ""
    log_level: str = "info"
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        check_cluster_settings(self.level or "device", self.default_profile or "rs-4-2")
        self.times()
        for port in (self.port, self.stream_port):
            if not 0 <= port <= 65535:
                raise InvalidArgument(f"port {port} is not from 0 to 65535")
        check_advertised(self.advertise_streams)
        if self.delete_grace_s < (0 if self.short_grace else READ_DEADLINE_MAX_S):
            raise InvalidArgument(
                f"a grace of {self.delete_grace_s:g} s is shorter than reads may take",
                hint=f"Dropped extents are kept for at least {READ_DEADLINE_MAX_S:g} s",
            )
        if self.horizon_lag_s <= 0 or self.log_keep < 1 or self.log_keep_s < 0 or self.redo_keep < 1:
            raise InvalidArgument("horizon_lag_s, log_keep, log_keep_s and redo_keep must be above 0")
        if not 0 <= self.compact_below <= COMPACT_BELOW_MAX:
            raise InvalidArgument(
                f"compact_below of {self.compact_below} percent is not from 0 to {COMPACT_BELOW_MAX}",
                hint="Fuller extents are not worth being rewritten",
            )
        if self.copy_every_s <= 0 or self.reserve < 0 or (self.capacity and self.capacity < 2 * self.reserve):
            raise InvalidArgument(
                "copy_every_s must be above 0, reserve not below it, and capacity at least twice the reserve"
            )
        if len({self.tls_ca is None, self.tls_cert is None, self.tls_key is None}) > 1:
            raise InvalidArgument("TLS needs three files", hint="Give tls_ca, tls_cert and tls_key, or none of them")

    def times(self) -> Times:
        """When devices are called down and out."""
        return Times(self.down_after_s, self.out_after_s)
