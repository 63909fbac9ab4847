"""`reedbed device`: devices and what is to become of them."""

from __future__ import annotations

from typing import Any

import click

from reedbed.cli.connection import Connection, connection_options
from reedbed.cli.output import json_option, print_json, say, size_text, table_lines


@click.group()
def device() -> None:
    """Show devices, and move what they hold to others."""


@device.command("list")
@connection_options
@json_option
def list_(connection: Connection, as_json: bool) -> None:
    """List the devices: state, bytes, positions of placement groups that are to be filled, and whether they leave."""
    with connection.store() as store:
        status = store.status()
    leaving = set(status["keeping"]["leaving"])
    devices = [{**one, "leaving": one["id"] in leaving} for one in status["devices"]]
    if as_json:
        for one in devices:
            print_json(one)
        return
    rows = [
        (
            str(one["id"]),
            one["state"] + (" (leaving)" if one["leaving"] else ""),
            one["address"],
            size_text(one["used"]),
            size_text(one["capacity"]),
            f"{one['shards']:,}",
        )
        for one in devices
    ]
    for line in table_lines(("DEVICE", "STATE", "ADDRESS", "USED", "CAPACITY", "SHARDS"), rows, right=[0, 3, 4, 5]):
        say(line)


@device.command()
@click.argument("number", type=int)
@click.option("--plan", is_flag=True, help="Only tell what would move.")
@connection_options
@json_option
def drain(number: int, plan: bool, connection: Connection, as_json: bool) -> None:
    """Move everything off a device, without a moment of less redundancy.

    Returns at once; `reedbed status` shows how it goes. The device ends with no shard, and may be taken away then.
    """
    with connection.store() as store:
        told = store.operate({"do": "drain", "device": number, "plan": plan})
    if as_json:
        print_json(told)
        return
    what = f"{told['positions']:,} positions with about {size_text(told['bytes'])}"
    if not plan:
        say(f"drain: device {number}: {what} go to other devices")
    elif told["possible"]:
        say(f"would drain: device {number}: {what} would go to other devices")
    else:
        say(
            f"cannot drain: device {number}: of {what}, {told['stuck_positions']:,} positions have no place, and "
            f"{size_text(told['room_missing'])} of room are missing"
        )


@device.command()
@click.argument("number", type=int)
@connection_options
@json_option
def undrain(number: int, connection: Connection, as_json: bool) -> None:
    """Let a device that was drained take shards again."""
    _order({"do": "undrain", "device": number}, f"undrain: device {number}", connection, as_json)


@device.command()
@click.option("--floor", type=int, default=0, metavar="BYTES", help="A second, whatever else there is to do.")
@click.option("--ceiling", type=int, default=0, metavar="BYTES", help="A second, at most.")
@connection_options
@json_option
def rates(floor: int, ceiling: int, connection: Connection, as_json: bool) -> None:
    """Show or set how fast each storaged repairs and moves: a floor and a ceiling, which hold from the next task on."""
    with connection.store() as store:
        told = store.operate({"do": "rates", "floor": floor, "ceiling": ceiling})
    if as_json:
        print_json(told)
    else:
        say(f"floor {size_text(told['floor'])}/s, ceiling {size_text(told['ceiling'])}/s of each storaged")


def _order(order: dict[str, Any], text: str, connection: Connection, as_json: bool) -> None:
    with connection.store() as store:
        told = store.operate(order)
    if as_json:
        print_json(told)
    else:
        say(text)
