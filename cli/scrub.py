"""`reedbed scrub`: read devices through now, and compare them with the catalog."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final

import click

from reedbed.cli.connection import Connection, connection_options, run_async
from reedbed.cli.output import json_option, on_terminal, print_json, say, size_text, table_lines
from reedbed.common.clock import Deadline
from reedbed.common.errors import NotFound, ReedbedError, Unavailable

POLL_S: Final = 0.5
Row = dict[str, Any]


def chosen(status: Row, numbers: Sequence[int]) -> list[Row]:
    """The devices that are to be scrubbed: those named, else all that serve. NotFound, Unavailable."""
    known: dict[int, Row] = {device["id"]: device for device in status["devices"]}
    for number in numbers:
        if number not in known:
            raise NotFound(f"no device {number}", hint="See `reedbed status`")
        if known[number]["state"] not in ("up", "failed"):
            raise Unavailable(f"device {number} is {known[number]['state']}", where=known[number]["address"])
    if numbers:
        return [known[number] for number in sorted(set(numbers))]
    return [device for _, device in sorted(known.items()) if device["state"] in ("up", "failed")]


def row_of(device: int, number: int, told: Row) -> Row:
    """What `storaged.status` tells of the pass `number` of a device, flat; sizes in bytes."""
    scrub, compared = told["scrub"], told["compared"]
    complete = scrub["passes"] >= number
    return {
        "device": device,
        "pass": number,
        "done": complete and compared["passes"] >= number,
        "phase": ("comparing" if compared["passes"] < number else "done") if complete else scrub["phase"],
        "read": scrub["last_read"] if complete else scrub["read"],
        "left": 0 if complete else scrub["left"],
        "rate": 0 if complete else round(scrub["rate"]),
        "damaged": scrub["last_found"] if complete else scrub["found"],
        "missing": compared["missing"],
        "garbage": compared["garbage"],
        "unknown": compared["unknown"],
        "error": scrub["error"] or compared["error"],
    }


def lines(rows: Sequence[Row]) -> list[str]:
    """For people."""
    cells = [
        (
            str(row["device"]),
            str(row["phase"]),
            size_text(row["read"]),
            size_text(row["left"]),
            f"{size_text(row['rate'])}/s",
            f"{row['damaged']:,}",
            f"{row['missing']:,}",
            f"{row['garbage']:,}",
            str(row["error"]) or "-",
        )
        for row in rows
    ]
    headers = ("DEVICE", "PHASE", "READ", "LEFT", "RATE", "DAMAGED", "MISSING", "SURPLUS", "ERROR")
    return table_lines(headers, cells, right=(0, 2, 3, 4, 5, 6, 7))


async def _scrub(connection: Connection, numbers: Sequence[int], wait: bool) -> list[Row]:
    from reedbed.transport.grpc_client import GrpcConnector
    from reedbed.transport.pool import LanePool

    async with connection.async_store() as store:
        status = await store.status()
    pool = LanePool(GrpcConnector(tls=connection.tls()), cluster=bytes.fromhex(status["cluster"]))
    try:
        devices = chosen(status, numbers)
        asked = await asyncio.gather(*(_one(pool, connection, device, None, wait=False) for device in devices))
        if not wait:
            return list(asked)
        return list(
            await asyncio.gather(
                *(_one(pool, connection, device, row, wait=True) for device, row in zip(devices, asked, strict=True))
            )
        )
    finally:
        await pool.close()


async def _one(pool: Any, connection: Connection, device: Row, begun: Row | None, *, wait: bool) -> Row:
    """Begins a pass of a device, or waits for the end of one that was begun. An error of the device is in its row."""
    from reedbed.protos import methods, storage_pb2
    from reedbed.protos.convert import parse

    number = 0 if begun is None else int(begun["pass"])
    if begun is not None and not number:
        return begun
    try:
        if begun is None:
            request = storage_pb2.StartScrubRequest(device=device["id"]).SerializeToString()
            deadline = Deadline(connection.timeout)
            reply = await pool.call(device["address"], methods.START_SCRUB, request, deadline=deadline)
            number = parse(storage_pb2.StartScrubReply, reply.header).number
        while True:
            deadline = Deadline(connection.timeout)
            reply = await pool.call(device["address"], methods.STORAGE_STATUS, b"", deadline=deadline)
            told = json.loads(parse(storage_pb2.StorageStatusReply, reply.header).json)
            row = row_of(device["id"], number, told["scrubs"][str(device["id"])])
            if row["done"] or not wait:
                return row
            await asyncio.sleep(POLL_S)
    except ReedbedError as error:
        nothing = {"scrub": {"passes": 0, "phase": "-", "read": 0, "left": 0, "rate": 0, "found": 0, "error": ""}}
        compared = {"passes": 0, "missing": 0, "garbage": 0, "unknown": 0, "error": str(error)}
        return row_of(device["id"], max(1, number), {**nothing, "compared": compared}) | {"pass": number}


@click.command()
@click.option("--device", "devices", type=int, multiple=True, help="Only this device; may be given more than once.")
@click.option("--wait", is_flag=True, help="Return when all is read and compared.")
@connection_options
@json_option
def scrub(devices: tuple[int, ...], wait: bool, connection: Connection, as_json: bool) -> int:
    """Read everything that devices hold now, verify it, and compare it with what the catalog expects.

    Damaged and missing shards are rebuilt from the others. Each device does this by itself every now and then; see
    `reedbed status` for how far it is.
    """
    rows = run_async(_scrub(connection, devices, wait))
    if as_json:
        print_json({"devices": rows})
    else:
        for line in lines(rows):
            say(line)
        if not wait and on_terminal():
            say("under way: see `reedbed status`, or give --wait")
    return 1 if any(row["error"] for row in rows) else 0
