"""What client processes of the benchmark are told, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from reedbed.bench.measured import Window
from reedbed.bench.table import Row
from reedbed.common.errors import ReedbedError
from reedbed.transport.tls import TlsConfig


@dataclass(frozen=True)
class Hello:
    """The first order: where the cluster is, and which names are this process's."""

    endpoint: str
    timeout: float
    tls: TlsConfig | None
    bucket: str
    prefix: str


@dataclass(frozen=True)
class Probe:
    """Answered by Ready if the cluster answers."""


@dataclass(frozen=True)
class Prepare:
    """Get ready for a row. Answered by Ready."""

    row: Row


@dataclass(frozen=True)
class Go:
    """Begin at that moment of time.perf_counter(), for so long and so many operations. Answered by a Window."""

    start: float
    seconds: float
    most: int


@dataclass(frozen=True)
class Fill:
    """Put so many small objects, from this number on. Answered by Ready."""

    first: int
    count: int
    size: int


@dataclass(frozen=True)
class WaitDown:
    """Answered by Ready when so many devices are known to be down."""

    count: int
    seconds: float


@dataclass(frozen=True)
class Clean:
    """Delete all that was put. Answered by Ready."""


@dataclass(frozen=True)
class Ready:
    """Done."""


Order: TypeAlias = Hello | Probe | Fill | Prepare | Go | WaitDown | Clean
Answer: TypeAlias = Ready | Window | ReedbedError
