"""Devices that are to hold nothing: which they are, durably, and whether the others can take what they hold.

Row `c/leaving`: JSON list of device numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from reedbed.catalog.engine import Reader, Writer
from reedbed.catalog.mapstate import find_device
from reedbed.catalog.moves import FULL_ABOVE, plan_moves
from reedbed.common.errors import Corrupt, InvalidArgument, PreconditionFailed
from reedbed.protos.types import ClusterMap

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
    """What draining devices takes: positions that move, about how many bytes, and what the others lack for it."""

    devices: tuple[int, ...]
    positions: int
    size: int
    stuck: int
    room_missing: int

    def check(self) -> None:
        """PreconditionFailed if it cannot be done now."""
        where = f"device {', '.join(map(str, self.devices))}"
        if self.stuck:
            raise PreconditionFailed(
                f"{self.stuck} of {self.positions} positions have no other device to go to",
                where=where,
                hint="Add devices first",
            )
        if self.room_missing:
            raise PreconditionFailed(
                f"the others lack {self.room_missing} bytes of room for the {self.size} to be moved",
                where=where,
                hint="Add devices, or delete objects",
            )

    def as_json(self) -> dict[str, object]:
        return {
            "devices": list(self.devices),
            "positions": self.positions,
            "bytes": self.size,
            "stuck_positions": self.stuck,
            "room_missing": self.room_missing,
            "possible": not self.stuck and not self.room_missing,
        }


def plan_drain(map_: ClusterMap, numbers: Iterable[int], leaving: frozenset[int]) -> DrainPlan:
    """What draining these devices together would take, beside those that leave already. NotFound."""
    asked = {number: find_device(map_, number) for number in sorted(set(numbers))}
    if not asked:
        raise InvalidArgument("no device is named")
    held = Counter(place.device for pg in map_.pgs.values() for place in pg.positions)
    # others that leave or are away wait for places too; only what these add is their own
    planned = plan_moves(map_, (), (), leaving | asked.keys())
    before = plan_moves(map_, (), (), leaving - asked.keys())
    stay = [
        device
        for device in map_.devices.values()
        if device.state == "up" and device.number not in leaving and device.number not in asked
    ]
    room = sum(max(0, int(device.capacity * FULL_ABOVE) - device.used) for device in stay)
    size = sum(device.used for device in asked.values() if held[device.number])
    # what others that leave still hold has to go somewhere too
    others = sum(
        map_.devices[number].used for number in leaving - asked.keys() if held[number] and number in map_.devices
    )
    return DrainPlan(
        tuple(asked),
        sum(held[number] for number in asked),
        size,
        max(0, planned.stuck - before.stuck),
        max(0, size + others - room) if size else 0,
    )
