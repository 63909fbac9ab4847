"""How far devices are with reading themselves through, for people. Pure: from the catalog's JSON to lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from reedbed.cli.output import size_text, table_lines, time_text


def lines(devices: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line for each device that told of its scrubber; none at all where none did."""
    rows = []
    for device in sorted(devices, key=lambda device: int(device["id"])):
        scrub = device.get("scrub")
        if not scrub:
            continue
        all_ = scrub["done"] + scrub["left"]
        resting = scrub["phase"] == "resting"
        seconds = scrub["left"] / scrub["rate"] if scrub["rate"] else 0
        ended = datetime.fromtimestamp(scrub["last_end_us"] / 1e6, UTC) if scrub["last_end_us"] else None
        rows.append(
            (
                str(device["id"]),
                scrub["phase"],
                "-" if resting or not all_ else f"{100 * scrub['done'] / all_:.0f}%",
                "-" if resting else f"{size_text(scrub['left'])}, {span(seconds)}",
                "-" if resting else f"{size_text(scrub['rate'])}/s",
                f"{scrub['last_found'] if resting else scrub['found']:,}",
                f"{scrub['missing']:,}",
                time_text(ended) if ended else "never",
                scrub["error"] or "-",
            )
        )
    headers = ("DEVICE", "SCRUB", "READ", "LEFT", "RATE", "DAMAGE", "MISSING", "LAST PASS", "ERROR")
    yield from table_lines(headers, rows, right=(0, 2, 3, 4, 5, 6)) if rows else []


def span(seconds: float) -> str:
    """A length of time, in the unit that fits."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
