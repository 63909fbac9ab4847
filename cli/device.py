"""`reedbed device`: devices and what is to become of them."""

from __future__ import annotations

from typing import Any

import click

from reedbed.cli.connection import Connection, connection_options
from reedbed.cli.output import json_option, print_json, say, size_text, table_lines
from reedbed.cli.safety import losses_text

_plan_option = click.option("--plan", is_flag=True, help="Only tell what would be done.")
_numbers = click.argument("numbers", metavar="DEVICE...", type=int, nargs=-1, required=True)


@click.group()
def device() -> None:
    """Show devices, bring them in, empty them and take them out."""


@device.command("list")
@connection_options
@json_option
def list_(connection: Connection, as_json: bool) -> None:
    """List the devices: state, bytes, shards, and whether they are drained (leaving) or take part in nothing (idle)."""
    with connection.store() as store:
        status = store.status()
    leaving, idle = set(status["keeping"]["leaving"]), set(status["keeping"]["idle"])
    devices = [{**one, "leaving": one["id"] in leaving, "idle": one["id"] in idle} for one in status["devices"]]
    if as_json:
        for one in devices:
            print_json(one)
        return
    rows = [
        (
            str(one["id"]),
            one["state"] + (" (leaving)" if one["leaving"] else " (idle)" if one["idle"] else ""),
            one["address"],
            size_text(one["used"]),
            size_text(one["capacity"]),
            f"{one['shards']:,}",
        )
        for one in devices
    ]
    for line in table_lines(("DEVICE", "STATE", "ADDRESS", "USED", "CAPACITY", "SHARDS"), rows, right=[0, 3, 4, 5]):
        say(line)
    if idle:
        say(f"Let idle devices take their share with: reedbed device add {' '.join(map(str, sorted(idle)))}")


@device.command()
@_numbers
@_plan_option
@connection_options
@json_option
def add(numbers: tuple[int, ...], plan: bool, connection: Connection, as_json: bool) -> None:
    """Let devices take their share of what is stored, and of what comes.

    A device registers by itself when its storaged starts, and serves repairs from then on; positions of placement
    groups move onto it with this command: as many as balance by capacity requires. Name all new devices at once, so
    that nothing moves twice. Returns at once; `reedbed status` shows how it goes.
    """
    told = _operate({"do": "add", "devices": numbers, "plan": plan}, connection, as_json)
    if told is not None:
        say(f"{'would add' if plan else 'add'}: {shares_text(told, plan)}")


@device.command()
@_plan_option
@click.option("--stop", is_flag=True, help="Begin no further move; those under way end.")
@connection_options
@json_option
def rebalance(plan: bool, stop: bool, connection: Connection, as_json: bool) -> None:
    """Let every device have its share, in placement groups and in bytes, by moving as little as possible.

    Returns at once; `reedbed status` shows how it goes.
    """
    if plan and stop:
        raise click.UsageError("--plan and --stop do not go together.")
    told = _operate({"do": "rebalance", "plan": plan, "stop": stop}, connection, as_json)
    if told is not None:
        say(
            "rebalance: stopped" if stop else f"{'would rebalance' if plan else 'rebalance'}: {shares_text(told, plan)}"
        )


@device.command()
@_numbers
@_plan_option
@connection_options
@json_option
def drain(numbers: tuple[int, ...], plan: bool, connection: Connection, as_json: bool) -> None:
    """Move everything off devices, without a moment of less redundancy.

    Returns at once; `reedbed status` shows how it goes. The devices end with no shard, and may be removed then.
    """
    told = _operate({"do": "drain", "devices": numbers, "plan": plan}, connection, as_json)
    if told is None:
        return
    what = f"{_named(told['devices'])}: {told['positions']:,} positions with about {size_text(told['bytes'])}"
    if not plan:
        say(f"drain: {what} go to other devices")
    elif told["possible"]:
        say(f"would drain: {what} would go to other devices")
    else:
        say(
            f"cannot drain: {what}, of which {told['stuck_positions']:,} positions have no place; "
            f"{size_text(told['room_missing'])} of room are missing"
        )


@device.command()
@_numbers
@connection_options
@json_option
def undrain(numbers: tuple[int, ...], connection: Connection, as_json: bool) -> None:
    """Let devices that were drained take shards again. What has moved stays where it is."""
    if _operate({"do": "undrain", "devices": numbers}, connection, as_json) is not None:
        say(f"undrain: {_named(numbers)}")


@device.command()
@click.argument("number", metavar="DEVICE", type=int)
@_plan_option
@connection_options
@json_option
def remove(number: int, plan: bool, connection: Connection, as_json: bool) -> None:
    """Take a device out of the cluster for good.

    Drain it first, unless it is dead. What it still holds counts as lost, and is rebuilt from other devices; refused
    where that cannot be done, or where a device that works has positions for which there is no other. Its number is not
    given again, and its folder is refused when it comes back.
    """
    told = _operate({"do": "remove", "device": number, "plan": plan}, connection, as_json)
    if told is None:
        return
    if not told["possible"]:
        why = f"it works, and {told['stuck_positions']:,} of its positions have no other device to go to: add devices"
        say(f"cannot remove: device {number}: {losses_text(told['lost']) if told['lost']['extents'] else why}")
        return
    text = f"{'would remove' if plan else 'remove'}: device {number}"
    if told["positions"]:
        text += f": {told['positions']:,} positions with about {size_text(told['bytes'])} are rebuilt on others"
        text += "; until then " + ", ".join(
            f"{name} survives {max(0, count)} more losses" for name, count in told["survives"].items()
        )
    if told["stuck_positions"]:
        text += f"; {told['stuck_positions']:,} positions have no other device to go to: add devices"
    if told["held"] is None:
        text += "; it does not answer, and may have shards of extents that nobody knows: see `reedbed catalog held`"
    elif told["held"]:
        text += f"; {told['held']:,} extents that nobody knows have shards on it: see `reedbed catalog held`"
    say(text)


@device.command()
@click.option("--floor", type=int, default=0, metavar="BYTES", help="A second, whatever else there is to do.")
@click.option("--ceiling", type=int, default=0, metavar="BYTES", help="A second, at most.")
@connection_options
@json_option
def rates(floor: int, ceiling: int, connection: Connection, as_json: bool) -> None:
    """Show or set how fast each storaged repairs and moves: a floor and a ceiling, which hold from the next task on."""
    told = _operate({"do": "rates", "floor": floor, "ceiling": ceiling}, connection, as_json)
    if told is not None:
        say(f"floor {size_text(told['floor'])}/s, ceiling {size_text(told['ceiling'])}/s of each storaged")


def _operate(order: dict[str, Any], connection: Connection, as_json: bool) -> dict[str, Any] | None:
    """What came of an order; None if it was printed as JSON."""
    with connection.store() as store:
        told = store.operate(order)
    if not as_json:
        return told
    print_json(told)
    return None


def _named(numbers: Any) -> str:
    return f"device{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def shares_text(told: dict[str, Any], plan: bool) -> str:
    """What a plan of shares does."""
    made = ", ".join(f"{count:,} of {name}" for name, count in told["new_pgs"].items())
    if not told["positions"] and not made:
        return "nothing to do, every device has its share"
    text = f"{told['positions']:,} positions with about {size_text(told['bytes'])} {'would ' if plan else ''}move"
    if told["by_device"]:
        text += ", to " + ", ".join(f"device {one['device']}: {one['positions']:,}" for one in told["by_device"])
    return text + (f"; new placement groups: {made}" if made else "")
