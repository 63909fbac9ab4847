"""What status tells of repair by device and by PG. Pure: from counts to JSON; sizes in bytes, times in seconds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from reedbed.catalog.lacks import Lack
from reedbed.catalog.moves import named
from reedbed.catalog.rates import Progress
from reedbed.protos.types import ClusterMap

PGS_MAX: Final = 100  # that are told; those in the greatest danger, and of these the ones with the most to do


def seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def age_s(found: Iterable[Lack], now_ms: int) -> float:
    """How long extents have lacked shards; 0 where none does. `now_ms` of the id clock."""
    since = [lack.since_ms for lack in found if lack.masks.missing | lack.masks.gone]
    return round(max(0.0, (now_ms - min(since)) / 1000), 1) if since else 0.0


def idle(map_: ClusterMap, leaving: Collection[int]) -> list[int]:
    """The devices that are up, may hold shards, and are named by no PG although there are some."""
    if not map_.pgs:
        return []
    busy = named(map_.pgs.values())
    return [
        number
        for number, device in map_.devices.items()
        if device.state == "up" and number not in busy and number not in leaving
    ]


def by_device(map_: ClusterMap, found: Iterable[Lack], progress: Progress, now: float) -> dict[str, dict[str, object]]:
    """What devices are still to get, shards and about how many bytes, and have got since there was nothing to do."""
    left: dict[int, list[int]] = {number: [0, 0] for number in progress.by_device}
    for lack in found:
        pg = map_.pgs.get(lack.pg)
        for index, place in enumerate(pg.positions if pg is not None else ()):
            if lack.masks.work >> index & 1:
                row = left.setdefault(place.device, [0, 0])
                row[0] += lack.extents
                row[1] += lack.bytes // lack.masks.work.bit_count()
    told: dict[str, dict[str, object]] = {}
    for number, (shards, size) in sorted(left.items()):
        rate = progress.device_rate(number, now)
        told[str(number)] = {
            "shards": shards,
            "bytes": size,
            "done": progress.by_device[number],
            "rate": round(rate),
            "seconds_left": seconds(size / rate) if rate else (None if size else 0.0),
        }
    return told


def by_pg(
    map_: ClusterMap,
    found: Iterable[Lack],
    least: Mapping[int, int],
    progress: Progress,
    now: float,
    now_ms: int,
) -> list[dict[str, object]]:
    """The PGs that lack something, or survive less than they should: `least` of margins.py."""
    lacking: dict[int, list[Lack]] = {}
    for lack in found:
        lacking.setdefault(lack.pg, []).append(lack)
    rows: list[dict[str, object]] = []
    for number in lacking.keys() | {pg for pg, survives in least.items() if survives < map_.pgs[pg].m}:
        kinds = lacking.get(number, [])
        size = sum(lack.bytes for lack in kinds)
        rate = progress.pg_rate(number, now)
        rows.append(
            {
                "pg": number,
                "extents": sum(lack.extents for lack in kinds),
                "shards": sum(lack.extents * lack.masks.work.bit_count() for lack in kinds),
                "bytes": size,
                "done": progress.by_pg[number],
                "rate": round(rate),
                "seconds_left": seconds(size / rate) if rate else (None if size else 0.0),
                "survives": least.get(number),
                "at_risk_s": age_s(kinds, now_ms),
            }
        )
    rows.sort(key=lambda row: (_known(row["survives"]), -int(str(row["bytes"])), int(str(row["pg"]))))
    return rows[:PGS_MAX]


def _known(survives: object) -> int:
    return survives if isinstance(survives, int) else 1 << 30
