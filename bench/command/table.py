"""The rows of the benchmark: what is done, at which size and concurrency, and what is wanted of it."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import KIB, MIB

PROFILE: Final = "rs-4-2"
STORED_FACTOR: Final = 1.5  # of rs-4-2
DEVICES: Final = 6
DEAD: Final = 2

PUT: Final = "PUT"
GET: Final = "GET"
DEGRADED: Final = "GET degraded"
LIST: Final = "LIST"
DELETE: Final = "DELETE"
# among many objects that were put before
PUT_MORE: Final = "PUT among many"
GET_MANY: Final = "GET of many"
PAGE: Final = "LIST a page"
LOG: Final = "LOG"

_GROUP_BYTES: Final = 1536 * MIB  # of user data that one put row writes at most: 2.25 GiB as stored
_KEYS_MAX: Final = 60_000  # of one row


@dataclass(frozen=True)
class Row:
    """One line of the table. Rows of a group share a cluster; `after` names the rows whose objects this one uses."""

    name: str
    kind: str
    size: int
    concurrency: int  # tasks, all client processes together
    group: str
    processes: int = 1
    after: tuple[str, ...] = ()
    keys: int = 0  # of a listing, or that are there
    goal: float | None = None  # in `unit`, RAM-backed
    goal_nginx: float | None = None  # ratio to nginx, RAM-backed
    goal_healthy: float | None = None  # ratio to the row before, on every medium
    goal_syncs: float | None = None  # on disk: up to so many a second, half of what syncs allow
    goal_appends: float | None = None  # on disk: ratio to what six appenders reach

    @property
    def bulk(self) -> bool:
        """Whether bytes count rather than operations."""
        return self.size >= MIB

    @property
    def bytes_each(self) -> int:
        """User data that one operation moves."""
        return 0 if self.kind in (LIST, DELETE, PAGE, LOG) else self.size

    @property
    def puts(self) -> bool:
        """Whether it stores objects."""
        return self.kind in (PUT, PUT_MORE)

    @property
    def unit(self) -> str:
        return "MB/s" if self.bulk else "1/s"

    @property
    def with_nginx(self) -> bool:
        """Whether nginx does the same: it lists nothing, and has no devices to lose."""
        return self.kind in (PUT, GET, DELETE) and self.processes == 1

    @property
    def objects_most(self) -> int:
        """How many objects a put row stores at most."""
        return max(self.concurrency, min(_KEYS_MAX, _GROUP_BYTES // self.size))

    @property
    def stored_most(self) -> int:
        """How many bytes of user data a put row stores at most."""
        return self.objects_most * self.size


def size_text(size: int) -> str:
    """A size of the table."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


@dataclass(frozen=True)
class _Goals:
    put: float
    get: float
    put_nginx: float | None = None
    get_nginx: float | None = None
    syncs: float | None = None
    appends: float | None = None


def _pair(size: int, concurrency: int, group: str, goals: _Goals, processes: int = 1) -> list[Row]:
    """PUT, and GET of what it put."""
    many = f"{size_text(size)}, {processes} processes" if processes > 1 else f"{size_text(size)} x{concurrency}"
    put, get = f"PUT {many}", f"GET {many}"
    return [
        Row(
            *(put, PUT, size, concurrency, group, processes),
            goal=goals.put,
            goal_nginx=goals.put_nginx,
            goal_syncs=goals.syncs,
            goal_appends=goals.appends,
        ),
        Row(
            *(get, GET, size, concurrency, group, processes),
            after=(put,),
            goal=goals.get,
            goal_nginx=goals.get_nginx,
        ),
    ]


def table(*, quick: bool = False) -> list[Row]:
    """All rows in the order in which they run. `quick` has fewer processes and keys, and no dead devices."""
    processes, keys = (2, 500) if quick else (16, 10_000)
    listing = Row(f"LIST {keys:,} keys", LIST, 64, 1, "small", keys=keys, goal=40.0)
    delete = Row("DELETE 4 KiB x32", DELETE, 4 * KIB, 32, "small", after=("PUT 4 KiB x32",), goal=10_000.0)
    rows = [
        *_pair(4 * KIB, 1, "small", _Goals(700, 2_000)),
        *_pair(4 * KIB, 32, "small", _Goals(10_000, 15_000, 0.7, 0.7, syncs=6_000)),
        *_pair(4 * KIB, processes, "small", _Goals(2_500, 6_000), processes),
        listing,
        delete,
        *_pair(MIB, 8, "medium", _Goals(1_000, 1_500, 0.65, 0.6)),
        *_pair(64 * MIB, 2, "large", _Goals(1_000, 2_000, 0.7, 0.85, appends=0.7)),
    ]
    healthy = rows[-1]
    if not quick:
        name = f"{healthy.name}, {DEAD} of {DEVICES} dead"
        rows.append(Row(name, DEGRADED, healthy.size, 2, "large", after=(healthy.name,), goal_healthy=0.7))
    return rows


def select(rows: Sequence[Row], patterns: Sequence[str]) -> list[Row]:
    """Rows whose name matches one of the patterns (`*` and `?`, any case), with those that they come after.

    InvalidArgument where a pattern matches none.
    """
    if not patterns:
        return list(rows)
    wanted: set[str] = set()
    for pattern in patterns:
        found = {row.name for row in rows if fnmatch.fnmatchcase(row.name.lower(), pattern.lower())}
        if not found:
            names = "; ".join(row.name for row in rows)
            raise InvalidArgument(f"no row is called {pattern!r}", hint=f"Rows are: {names}")
        wanted |= found
    by_name = {row.name: row for row in rows}
    waiting = list(wanted)
    while waiting:
        more = set(by_name[waiting.pop()].after) - wanted
        wanted |= more
        waiting += more
    return [row for row in rows if row.name in wanted]
