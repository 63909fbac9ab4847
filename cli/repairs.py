"""How repair and moves go for each device, and for the PGs in the greatest danger. Pure: from JSON to lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from reedbed.cli.output import size_text, table_lines
from reedbed.cli.scrubs import span

PGS_SHOWN: Final = 5


def lines(keeping: Mapping[str, Any]) -> Iterator[str]:
    """Two tables, each where it has a row."""
    devices = [
        (
            number,
            f"{row['shards']:,}",
            size_text(row["bytes"]),
            size_text(row["done"]),
            f"{size_text(row['rate'])}/s" if row["rate"] else "-",
            _left(row["seconds_left"]),
        )
        for number, row in sorted(keeping["devices"].items(), key=lambda item: int(item[0]))
    ]
    if devices:
        yield from table_lines(("DEVICE", "TO WRITE", "LEFT", "DONE", "RATE", "TIME LEFT"), devices, right=range(6))
    pgs = [
        (
            str(row["pg"]),
            f"{row['extents']:,}",
            f"{row['shards']:,}",
            size_text(row["bytes"]),
            size_text(row["done"]),
            _left(row["seconds_left"]),
            "-" if row["survives"] is None else str(row["survives"]),
            span(row["at_risk_s"]) if row["at_risk_s"] else "-",
        )
        for row in keeping["pgs"][:PGS_SHOWN]
    ]
    if pgs:
        if devices:
            yield ""
        headers = ("PG", "EXTENTS", "TO WRITE", "LEFT", "DONE", "TIME LEFT", "SURVIVES", "AT RISK FOR")
        yield from table_lines(headers, pgs, right=range(8))
        more = len(keeping["pgs"]) - len(pgs)
        if more > 0:
            yield f"and {more}{' or more' if more >= 95 else ''} others; --json tells up to 100 of them"


def _left(seconds: float | None) -> str:
    return "not known" if seconds is None else span(seconds)
