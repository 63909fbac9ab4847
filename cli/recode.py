"""`reedbed recode`: another profile for a bucket, or for some of what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from reedbed.cli.buckets import bucket_of
from reedbed.cli.connection import Connection, connection_options
from reedbed.cli.output import json_option, print_json, say, size_text
from reedbed.common.errors import InvalidArgument

_SUMS = ("versions", "concerned", "bytes", "stored", "then")


@click.command(short_help="Give a bucket, or objects in it, another profile.")
@click.argument("bucket")
@click.option("--profile", required=True, metavar="rs-K-M", help="The code that is wanted.")
@click.option("--prefix", default="", help="Only what is there under this prefix.")
@click.option("--key", default="", help="Only this object.")
@click.option("--plan", is_flag=True, help="Only tell what would be recoded.")
@connection_options
@json_option
def recode(bucket: str, profile: str, prefix: str, key: str, plan: bool, connection: Connection, as_json: bool) -> None:
    """Give a bucket another profile: what comes into it from now on, and what is there.

    Returns at once; what is there is recoded in the background, readable throughout, and `reedbed status` shows how it
    goes. With --prefix or --key the bucket keeps its profile, and only what is there now is recoded. Of several orders
    for the same objects the last one wins.
    """
    if prefix and key:
        raise InvalidArgument("--prefix and --key exclude each other")
    order: dict[str, Any] = {
        "do": "recode",
        "bucket": bucket_of(bucket),
        "profile": profile,
        "prefix": prefix,
        "key": key,
        "plan": plan,
    }
    with connection.store() as store:
        told = store.operate(order)
        while told.get("after"):  # a plan is told in parts
            told = added(told, store.operate({**order, "after": told["after"]}))
    told.pop("after", None)
    if as_json:
        print_json(told)
    else:
        say(line(told, plan))


def added(told: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Two parts of a plan as one."""
    return {**more, **{name: told[name] + more[name] for name in _SUMS}}


def line(told: Mapping[str, Any], plan: bool) -> str:
    """What people read."""
    named = told["key"] or (told["prefix"] and told["prefix"] + "*")
    where = told["bucket"] + (f"/{named}" if named else "")
    if not plan:
        return f"recode: {where}: to {told['profile']}, in the background; `reedbed status` shows how it goes"
    return (
        f"would recode: {where}: {told['concerned']:,} of {told['versions']:,} objects and versions to "
        f"{told['profile']}: {size_text(told['bytes'])}, which take {size_text(told['stored'])} on devices now and "
        f"{size_text(told['then'])} then"
    )
