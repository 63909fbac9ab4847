"""What an operator orders, as JSON: {"do": name} and the arguments of that order."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from reedbed.catalog.keeping import Keeping
from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import DEVICES_MAX

Numbers = Annotated[list[int], Meta(min_length=1, max_length=DEVICES_MAX)]


class Rates(msgspec.Struct, tag="rates", tag_field="do", forbid_unknown_fields=True):
    """How fast keeping works, bytes a second of each process; what is 0 stays as it is."""

    floor: int = 0
    ceiling: int = 0


class Drain(msgspec.Struct, tag="drain", tag_field="do", forbid_unknown_fields=True):
    """Move everything off devices; `plan`: only tell what that would be."""

    devices: Numbers
    plan: bool = False


class Undrain(msgspec.Struct, tag="undrain", tag_field="do", forbid_unknown_fields=True):
    """Let devices take shards again."""

    devices: Numbers


class Add(msgspec.Struct, tag="add", tag_field="do", forbid_unknown_fields=True):
    """Let devices take their share; `plan` as of Drain."""

    devices: Numbers
    plan: bool = False


class Remove(msgspec.Struct, tag="remove", tag_field="do", forbid_unknown_fields=True):
    """Take a device out of the cluster for good; `plan` as of Drain."""

    device: int
    plan: bool = False


class Rebalance(msgspec.Struct, tag="rebalance", tag_field="do", forbid_unknown_fields=True):
    """Let every device have its share; `plan` as of Drain. `stop`: begin no further move of this and of Add."""

    plan: bool = False
    stop: bool = False


async def operate(keeping: Keeping, order: bytes) -> dict[str, Any]:
    """Carries an order out, and tells what came of it. InvalidArgument for one that is none, and the order's errors."""
    try:
        given = msgspec.json.decode(order, type=Rates | Drain | Undrain | Add | Remove | Rebalance)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"not an order: {error}", hint="Check that both sides run the same Reedbed") from None
    if isinstance(given, Rates):
        rates = await keeping.set_rates(given.floor, given.ceiling)
        return {"floor": rates.floor, "ceiling": rates.ceiling}
    if isinstance(given, Drain):
        return await keeping.drain(given.devices, plan=given.plan)
    if isinstance(given, Undrain):
        return await keeping.undrain(given.devices)
    if isinstance(given, Add):
        return await keeping.add(given.devices, plan=given.plan)
    if isinstance(given, Remove):
        return await keeping.remove(given.device, plan=given.plan)
    if given.stop:
        await keeping.balancing.stop()
        return {"stopped": True}
    return await keeping.rebalance(plan=given.plan)
