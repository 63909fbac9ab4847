"""A catalog that was restored or rebuilt, and its copy, as people read of them. Pure: from JSON to lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from reedbed.cli.output import size_text, time_text
from reedbed.cli.safety import duration_text

Told = Mapping[str, Any]


def time_of_ms(milliseconds: int) -> str:
    """A time of the id clock, which is about the time of the day."""
    return _time(milliseconds * 1000)


def _time(microseconds: int) -> str:
    try:
        return time_text(datetime.fromtimestamp(microseconds / 1e6, UTC))
    except (OverflowError, ValueError, OSError):
        return "-"


def missing_text(missing: Told) -> str:
    """Which entries of the log are missing."""
    first, last = missing["from"], missing["to"]
    if last is None:
        return f"log entries from {first:,} on, if there were any (term {missing['term']})"
    if missing["open"]:
        return f"log entries from {first:,} on (term {missing['term']}; the newest that is known of is {last:,})"
    return f"log entries {first:,} to {last:,} of term {missing['term']}"


def done_lines(verb: str, told: Told, folder: str) -> Iterator[str]:
    """What a restore or rebuild did, or would do."""
    log = told["log"]
    at = f", log entry {log['seq']:,} of term {log['term']}" if log else ""
    yield f"{verb}: cluster {told['cluster']}, as of redo record {told['redo']:,}{at}"
    rows = f"{told['rows']:,} rows" if told["term"] is not None else "a snapshot"  # a plan reads no rows
    yield (
        f"from: {rows} of {_time(told['snapshot_us'])} and {told['records']:,} redo records, "
        f"the newest of {_time(told['last_us'])}"
    )
    if told["devices_away"]:
        yield f"away: devices {', '.join(map(str, told['devices_away']))}"
    if told["held"]:
        yield "held: what was stored after that is unknown, and kept. List it with: reedbed catalog held"
    for order in told["forgotten"]:
        yield f"forgotten: {order}. Order it again if you still want it"
    if told["term"] is not None:
        yield f"serve: in a term above {told['term']}, with: reedbed catalogd --dir {folder}"


def fault_lines(told: Told) -> Iterator[str]:
    """What it could not know, for standard error."""
    if told["missing"]:
        yield f"missing: {missing_text(told['missing'])}. What they did is lost"
    if told["past_grace"]:
        yield (
            f"past grace: the backup is {duration_text(told['age_s'])} old, and what was deleted or compacted since "
            f"stayed on devices for {duration_text(told['grace_s'])}: shards of its objects may be gone. "
            "See `reedbed status` once devices were compared"
        )
    if not told["complete"]:
        yield "devices are away that may know of more"
    for text in told["unreadable"]:
        yield f"unreadable: {text}"


def held_total(rows: Sequence[Told]) -> str:
    """How much is held, of what time."""
    if not rows:
        return "nothing is held"
    times = [int(row["time_ms"]) for row in rows]
    return (
        f"{len(rows):,} extents, {size_text(sum(int(row['bytes']) for row in rows))}, "
        f"of {time_of_ms(min(times))} to {time_of_ms(max(times))}"
    )


def copy_text(copy: Told) -> str:
    """How far the copy on the cluster is, for `status`."""
    snapshot = copy["snapshot"]
    if snapshot is None:
        taking = ", a snapshot is being taken" if copy["taking_bytes"] is not None else ""
        return f"none yet: {copy['problem'] or 'a snapshot is due'}{taking}"
    text = (
        "holds everything"
        if copy["settled"]
        else f"{duration_text(copy['age_s'])} behind, {copy['behind_records']:,} redo records wait"
    )
    text += f"; snapshot of {size_text(snapshot['bytes'])}, {duration_text(snapshot['age_s'])} old"
    if copy["taking_bytes"] is not None:
        text += ", another is being taken"
    if copy["problem"]:
        text += f". It cannot go on: {copy['problem']}"
    if copy["unconfirmed"]:
        text += ". Too few devices know that commits are under way"
    return text


def reasons(status: Told) -> Iterator[str]:
    """Why the catalog is not as it should be."""
    for one in status.get("begun_anew", ()):
        if one["missing"]:
            yield f"the catalog lacks {missing_text(one['missing'])}"
    disk = status.get("disk")
    if disk and disk["room"] < 0:
        yield "the catalog's disk is full"


def facts(status: Told) -> Iterator[tuple[str, str]]:
    """Rows of the report: name and text."""
    if "copy" in status:
        yield "copy", copy_text(status["copy"])
    if status.get("disk"):
        disk = status["disk"]
        room = size_text(disk["room"]) + " left" if disk["room"] >= 0 else "full: it takes deletes only"
        yield "catalog disk", f"{size_text(disk['used'])} used, {room}"
    for one in status.get("begun_anew", ()):
        missing = f", lacks {missing_text(one['missing'])}" if one["missing"] else ", lacks nothing"
        yield "begun anew", f"{_time(one['time_us'])}: {one['how']}, term {one['term']}{missing}"
    if status.get("hold"):
        yield "held", "extents that nobody knows are kept: see `reedbed catalog held`"
