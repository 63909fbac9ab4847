"""How recoding and compaction go, as people read it. Pure: from the catalog's JSON to text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reedbed.cli.output import size_text
from reedbed.cli.safety import duration_text

Rewriting = Mapping[str, Any]


def facts(rewriting: Rewriting) -> Iterator[tuple[str, str]]:
    """Rows of the report: name and text; none where there is nothing to do."""
    for order in rewriting["orders"]:
        where = order["bucket"] + ("/" + order["prefix"] + ("" if order["exact"] else "*") if order["prefix"] else "")
        yield "ordered", f"{where} to {order['profile']}, {order['versions_seen']:,} objects and versions looked at"
    if rewriting["versions_left"]:
        yield "recode", _recode(rewriting)
    if rewriting["sparse_extents"]:
        yield (
            "compaction",
            f"{rewriting['sparse_extents']:,} extents below {rewriting['compact_below']}%, "
            f"{size_text(rewriting['sparse_bytes'])} to come back{_rate(rewriting)}",
        )
    if rewriting["short"]:
        yield "short", "space is short on a device: compaction goes first"
    if rewriting["too_large"]:
        yield "left alone", f"{rewriting['too_large']:,} pieces are too large for the profile that is wanted"
    if rewriting["stopped"]:
        yield "stopped", f"nothing is rewritten for now: {rewriting['stopped']}"


def _recode(rewriting: Rewriting) -> str:
    left = rewriting["seconds_left"]
    time_left = "" if left is None else f", {duration_text(left)} left"
    return (
        f"{rewriting['versions_left']:,} objects and versions, {size_text(rewriting['bytes_left'])} left, "
        f"{size_text(rewriting['bytes_done'])} rewritten{_rate(rewriting)}{time_left}"
    )


def _rate(rewriting: Rewriting) -> str:
    return f", at {size_text(rewriting['rate'])}/s" if rewriting["rate"] else ""
