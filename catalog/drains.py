"""Devices that are to hold nothing: which they are, durably, and whether the others can take what they hold.

Row `c/leaving`: JSON list of device numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from reedbed.catalog.engine import Reader, Writer
from reedbed.catalog.moves import FULL_ABOVE, plan_moves
from reedbed.common.errors import Corrupt, NotFound, PreconditionFailed
from reedbed.protos.types import ClusterMap, Device

ROW: Final = b"c/leaving"


def read_leaving(reader: Reader) -> frozenset[int]:
    """The devices that are being drained, or stay so."""
    data = reader.get(ROW)
    if data is None:
        return frozenset()
    try:
        return frozenset(msgspec.json.decode(data, type=list[int]))
    except msgspec.DecodeError:
        raise Corrupt("the stored list of leaving devices does not parse", where=f"key {ROW.decode()}") from None


def write_leaving(writer: Writer, leaving: frozenset[int]) -> None:
    writer.put(ROW, msgspec.json.encode(sorted(leaving)))


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """What draining a device takes: positions that move, about how many bytes, and what the others lack for it."""

    device: int
    positions: int
    size: int
    stuck: int
    room_missing: int

    def check(self) -> None:
        """PreconditionFailed if it cannot be done now."""
        where = f"device {self.device}"
        if self.stuck:
            raise PreconditionFailed(
                f"{self.stuck} of {self.positions} positions have no other device to go to",
                where=where,
                hint="Add devices first",
            )
        if self.room_missing:
            raise PreconditionFailed(
                f"the others lack {self.room_missing} bytes of room for the {self.size} that it holds",
                where=where,
                hint="Add devices, or delete objects",
            )

    def as_json(self) -> dict[str, object]:
        return {
            "device": self.device,
            "positions": self.positions,
            "bytes": self.size,
            "stuck_positions": self.stuck,
            "room_missing": self.room_missing,
            "possible": not self.stuck and not self.room_missing,
        }


def find_device(map_: ClusterMap, number: int) -> Device:
    """The device; NotFound."""
    device = map_.devices.get(number)
    if device is None:
        raise NotFound(f"there is no device {number}", hint="See `reedbed device list`")
    return device


def plan_drain(map_: ClusterMap, number: int, leaving: frozenset[int]) -> DrainPlan:
    """What draining the device would take, beside those that leave already. NotFound."""
    device = find_device(map_, number)
    positions = sum(1 for pg in map_.pgs.values() for place in pg.positions if place.device == number)
    # others that leave or are away wait for places too; only what this one adds is its own
    planned = plan_moves(map_, (), (), leaving | {number})
    before = plan_moves(map_, (), (), leaving - {number})
    room = sum(
        max(0, int(other.capacity * FULL_ABOVE) - other.used)
        for other in map_.devices.values()
        if other.state == "up" and other.number not in leaving and other.number != number
    )
    return DrainPlan(number, positions, device.used, max(0, planned.stuck - before.stuck), max(0, device.used - room))
