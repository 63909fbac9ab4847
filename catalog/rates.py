"""How fast keeping works: the bounds that an operator sets, and how it goes by the bytes that were done."""

from __future__ import annotations

from typing import Final

import msgspec

from reedbed.catalog.engine import Reader, Writer
from reedbed.common.errors import Corrupt, InvalidArgument
from reedbed.common.limits import MIB

ROW: Final = b"c/rates"
FLOOR: Final = 8 * MIB
CEILING: Final = 400 * MIB
SPAN_S: Final = 10.0  # what the shown rate looks back on
_RECENT_MAX: Final = 4096  # even


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
    """Bytes done since there was last nothing to do, and the rate of late. Told the time."""

    def __init__(self) -> None:
        self.done_bytes = 0
        self.done_extents = 0
        self._recent: list[tuple[float, int]] = []

    def idle(self) -> None:
        """There is nothing to do."""
        self.done_bytes = self.done_extents = 0
        self._recent.clear()

    def add(self, size: int, now: float) -> None:
        """One extent more is as planned, by so many bytes."""
        self.done_bytes += size
        self.done_extents += 1
        self._recent.append((now, size))
        if len(self._recent) == _RECENT_MAX:  # joined in pairs: the sum is what counts
            pairs = zip(self._recent[::2], self._recent[1::2], strict=True)
            self._recent = [(later[0], first[1] + later[1]) for first, later in pairs]

    def rate(self, now: float) -> float:
        """Bytes a second over the last SPAN_S, or since it began."""
        self._recent = [one for one in self._recent if now - one[0] <= SPAN_S]
        if not self._recent:
            return 0.0
        span = max(1.0, now - self._recent[0][0])
        return sum(size for _, size in self._recent) / span
