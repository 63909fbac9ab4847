"""Rows of devices that positions name no more and that may still hold shards; leftovers.py has them emptied.

Numbers are big-endian:

    c/f/<pg u32><position u16><device u32>    the position named the device until this generation of the PG:
                                              generation u64 | incarnation u64 | released_ms u64 | walked_ms u64 |
                                              extent up to which the PG was walked, 16 bytes, or none
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from reedbed.catalog.engine import Reader, Writer
from reedbed.catalog.moves import Released
from reedbed.common.errors import Corrupt
from reedbed.common.ids import ID_BYTES
from reedbed.protos.types import ClusterMap

ROWS: Final = b"c/f/"
END: Final = ROWS + b"\xff" * 12
_KEY: Final = struct.Struct(">IHI")
_VALUE: Final = struct.Struct(">QQQQ")


@dataclass(frozen=True, slots=True)
class Leftover:
    """One row. `released_ms`: the id clock when it was written; `walked_ms`: when the walk ended, 0 before.

    after: the extent up to which the walk has come.
    """

    pg: int
    position: int
    device: int
    generation: int
    incarnation: int
    released_ms: int
    walked_ms: int = 0
    after: bytes = b""

    @property
    def key(self) -> bytes:
        return ROWS + _KEY.pack(self.pg, self.position, self.device)

    def encode(self) -> bytes:
        return _VALUE.pack(self.generation, self.incarnation, self.released_ms, self.walked_ms) + self.after


def decode(key: bytes, value: bytes) -> Leftover:
    after = value[_VALUE.size :]
    if len(key) != len(ROWS) + _KEY.size or len(value) < _VALUE.size or len(after) not in (0, ID_BYTES):
        raise Corrupt("a row of a released source is cut short", where=f"catalog key {key!r}")
    pg, position, device = _KEY.unpack(key[len(ROWS) :])
    generation, incarnation, released_ms, walked_ms = _VALUE.unpack(value[: _VALUE.size])
    return Leftover(pg, position, device, generation, incarnation, released_ms, walked_ms, after)


def note(writer: Writer, map_: ClusterMap, released: Iterable[Released], now_ms: int) -> None:
    """Positions name these devices no more; within the transaction that says so. `map_`: before or after it.

    now_ms: of the id clock.
    """
    for one in released:
        device = map_.devices[one.device]
        row = Leftover(one.pg, one.position, one.device, one.generation, device.incarnation, now_ms)
        writer.put(row.key, row.encode())


def of_pg(reader: Reader, pg: int) -> Iterator[Leftover]:
    prefix = ROWS + pg.to_bytes(4, "big")
    for key, value in reader.scan(prefix, prefix + b"\xff" * 8):
        yield decode(key, value)


def holders(reader: Reader, pg: int) -> list[tuple[int, int]]:
    """(position, device) that may hold shards of extents of the PG, and are named by it no more."""
    return [(row.position, row.device) for row in of_pg(reader, pg)]
