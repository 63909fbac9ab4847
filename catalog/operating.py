"""What an operator orders, as JSON: {"do": name} and the arguments of that order."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from reedbed.catalog.keeping import Keeping
from reedbed.catalog.recode_jobs import Scope
from reedbed.catalog.rewriting import Rewriting
from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import DEVICES_MAX
from reedbed.ec.profiles import parse_profile
from reedbed.protos.names import check_key

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


class Recode(msgspec.Struct, tag="recode", tag_field="do", forbid_unknown_fields=True):
    """Give what is in a bucket, under a prefix, or just one key another profile.

    `plan`: only tell what that would be, of some of it, from behind the row `after` (in hexadecimal digits) on.
    """

    bucket: str
    profile: str
    prefix: str = ""
    key: str = ""
    plan: bool = False
    after: str = ""


async def operate(keeping: Keeping, rewriting: Rewriting, order: bytes) -> dict[str, Any]:
    """Carries an order out, and tells what came of it. InvalidArgument for one that is none, and the order's errors."""
    try:
        given = msgspec.json.decode(order, type=Rates | Drain | Undrain | Add | Remove | Rebalance | Recode)
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
    if isinstance(given, Recode):
        return await _recode(rewriting, given)
    if given.stop:
        await keeping.balancing.stop()
        return {"stopped": True}
    return await keeping.rebalance(plan=given.plan)


async def _recode(rewriting: Rewriting, given: Recode) -> dict[str, Any]:
    if given.key and given.prefix:
        raise InvalidArgument("an order is for a prefix or for one key, not for both")
    named = (given.key or given.prefix).encode("utf-8", "surrogateescape")
    scope = Scope(check_key(named) if named else b"", exact=bool(given.key))
    profile = parse_profile(given.profile).name
    told = {"bucket": given.bucket, "prefix": given.prefix, "key": given.key, "profile": profile}
    if not given.plan:
        await rewriting.order(given.bucket, scope, profile)
        return told
    try:
        after = bytes.fromhex(given.after)
    except ValueError:
        raise InvalidArgument("not a place to go on from", hint="Give `after` as the last plan told it") from None
    found = rewriting.plan(given.bucket, scope, profile, after)
    return {
        **told,
        "versions": found.versions,
        "concerned": found.concerned,
        "bytes": found.size,
        "stored": found.stored,
        "then": found.then,
        "after": found.after.hex(),
    }
