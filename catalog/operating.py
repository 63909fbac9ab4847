"""What an operator orders, as JSON: {"do": name} and the arguments of that order."""

from __future__ import annotations

from typing import Any

import msgspec

from reedbed.catalog.keeping import Keeping
from reedbed.common.errors import InvalidArgument


class Rates(msgspec.Struct, tag="rates", tag_field="do", forbid_unknown_fields=True):
    """How fast keeping works, bytes a second of each process; what is 0 stays as it is."""

    floor: int = 0
    ceiling: int = 0


class Drain(msgspec.Struct, tag="drain", tag_field="do", forbid_unknown_fields=True):
    """Move everything off a device; `plan`: only tell what that would be."""

    device: int
    plan: bool = False


class Undrain(msgspec.Struct, tag="undrain", tag_field="do", forbid_unknown_fields=True):
    """Let a device take shards again."""

    device: int


async def operate(keeping: Keeping, order: bytes) -> dict[str, Any]:
    """Carries an order out, and tells what came of it. InvalidArgument for one that is none, and the order's errors."""
    try:
        given = msgspec.json.decode(order, type=Rates | Drain | Undrain)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"not an order: {error}", hint="Check that both sides run the same Reedbed") from None
    if isinstance(given, Rates):
        rates = await keeping.set_rates(given.floor, given.ceiling)
        return {"floor": rates.floor, "ceiling": rates.ceiling}
    if isinstance(given, Drain):
        return await keeping.drain(given.device, plan=given.plan)
    return await keeping.undrain(given.device)
