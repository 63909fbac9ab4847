"""How fast keeping works: the bounds that an operator sets, and how it goes by the bytes that were done."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from reedbed.catalog.engine import Reader, Writer
from reedbed.common.errors import Corrupt, InvalidArgument
from reedbed.common.limits import KIB, MIB

ROW: Final = b"c/rates"
FLOOR: Final = 2 * MIB
CEILING: Final = 400 * MIB
SPAN_S: Final = 10.0  # what the shown rate looks back on
BUCKET_S: Final = 0.25
REPORTS_S: Final = 1.0  # after so long without a report the work has become slower
EXTENT_COST: Final = 256 * KIB  # bytes that take about as long as what each extent takes beside its bytes
NO_DEVICE: Final = 0  # for bytes that are told of no device


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes a second that one process may write: at least, whatever else it does, and at most."""

    floor: int = FLOOR
    ceiling: int = CEILING


def read_rates(reader: Reader) -> Rates:
    """The rates as they were set last."""
    data = reader.get(ROW)
    if data is None:
        return Rates()
    try:
        return msgspec.json.decode(data, type=Rates)
    except msgspec.DecodeError:
        raise Corrupt("the stored rates do not parse", where=f"key {ROW.decode()}") from None


def write_rates(writer: Writer, floor: int, ceiling: int) -> Rates:
    """Set what is not 0; InvalidArgument for a floor above the ceiling."""
    old = read_rates(writer)
    new = Rates(floor or old.floor, ceiling or old.ceiling)
    if new.floor > new.ceiling:
        raise InvalidArgument(f"a floor of {new.floor} bytes/s is above the ceiling of {new.ceiling}")
    writer.put(ROW, msgspec.json.encode(new))
    return new


class Progress:
    """What was done since there was last nothing to do: in all, by device that got shards, and by PG. Told the time.

    An extent costs time whatever its size: the time left is that of the bytes, with EXTENT_COST more for each extent.
    """

    def __init__(self) -> None:
        self.total_bytes = 0  # since the start of the process
        self.idle()

    def idle(self) -> None:
        """There is nothing to do."""
        self.bytes = self.extents = 0
        self.by_device: Counter[int] = Counter()
        self.by_pg: Counter[int] = Counter()
        self._from: float | None = None  # what came before took as long as it takes to begin, and tells no rate
        self._last = 0.0
        self._recent: deque[_Second] = deque()

    def add(self, pg: int, by_device: Mapping[int, int], now: float) -> None:
        """One extent more is as planned, by so many bytes on each of these devices."""
        size = sum(by_device.values())
        self.total_bytes += size
        self.bytes += size
        self.extents += 1
        self.by_device.update(by_device)
        self.by_pg[pg] += size
        self._last = now
        if self._from is None:
            self._from = now + BUCKET_S
        if now < self._from:
            return
        if not self._recent or now - self._recent[-1].start >= BUCKET_S:
            self._recent.append(_Second(now))
        last = self._recent[-1]
        last.bytes += size
        last.extents += 1
        last.by_device.update(by_device)
        last.by_pg[pg] += size

    def rate(self, now: float) -> float:
        """Bytes a second over the last SPAN_S, or since the first came."""
        return sum(one.bytes for one in self._of_late(now)) / self._span(now)

    def device_rate(self, number: int, now: float) -> float:
        return sum(one.by_device[number] for one in self._of_late(now)) / self._span(now)

    def pg_rate(self, pg: int, now: float) -> float:
        return sum(one.by_pg[pg] for one in self._of_late(now)) / self._span(now)

    def seconds_left(self, size: int, extents: int, now: float) -> float | None:
        """For so many bytes and extents, by what was done of late; None where that was nothing."""
        if not size and not extents:
            return 0.0
        recent = self._of_late(now)
        done = sum(one.bytes + EXTENT_COST * one.extents for one in recent)
        return (size + EXTENT_COST * extents) * self._span(now) / done if done else None

    def _of_late(self, now: float) -> deque[_Second]:
        while self._recent and self._recent[0].start <= now - SPAN_S:
            self._recent.popleft()
        return self._recent

    def _span(self, now: float) -> float:
        # workers report twice a second: until the next report is late the last one is all that is known
        until = self._last if now - self._last < REPORTS_S else now
        return min(SPAN_S, max(BUCKET_S, until - (now if self._from is None else self._from)))


@dataclass(slots=True)
class _Second:
    """What was done within BUCKET_S from `start` on."""

    start: float
    bytes: int = 0
    extents: int = 0
    by_device: Counter[int] = field(default_factory=Counter)
    by_pg: Counter[int] = field(default_factory=Counter)
