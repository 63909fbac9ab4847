"""Devices that an operator took out of the cluster for good, so that none of them is ever trusted again.

Row `c/r/` and the device's uuid: its number u32 and the incarnation u64 in which it left.
"""

from __future__ import annotations

import struct
from typing import Final

from reedbed.catalog.engine import Reader, Writer
from reedbed.common.errors import Corrupt, DeviceRemoved
from reedbed.common.ids import ID_BYTES
from reedbed.protos.types import Device

ROWS: Final = b"c/r/"
_VALUE: Final = struct.Struct(">IQ")


def read_removed(reader: Reader) -> dict[bytes, int]:
    """Numbers by uuid."""
    found: dict[bytes, int] = {}
    for key, value in reader.scan(ROWS, ROWS + b"\xff" * (ID_BYTES + 1)):
        uuid = key[len(ROWS) :]
        if len(uuid) != ID_BYTES or len(value) != _VALUE.size:
            raise Corrupt("the row of a removed device is cut short", where=f"catalog key {key!r}")
        found[uuid] = _VALUE.unpack(value)[0]
    return found


def write_removed(writer: Writer, device: Device) -> None:
    writer.put(ROWS + device.uuid, _VALUE.pack(device.number, device.incarnation))


def refusal(number: int, where: str) -> DeviceRemoved:
    """What whoever comes with a removed device's folder is told."""
    return DeviceRemoved(
        f"device {number} was removed from the cluster, and what its folder holds counts for nothing",
        where=where,
        hint="Clear the folder to add it as a new device",
    )
