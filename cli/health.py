"""What a cluster's status says to people. Pure: from the catalog's JSON to lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reedbed.cli import begun, repairs, rewrites, safety, scrubs
from reedbed.cli.output import size_text, table_lines
from reedbed.ec.profiles import parse_profile

Status = Mapping[str, Any]
Level = Literal["healthy", "degraded", "failing"]


@dataclass(frozen=True, slots=True)
class Health:
    """How a cluster is, in a word, and why."""

    level: Level
    why: str


def health(status: Status) -> Health:
    """`failing`: fewer devices are up than the cluster's profile needs to read; `degraded`: anything short of whole."""
    devices: Sequence[Status] = status["devices"]
    up = sum(device["state"] == "up" for device in devices)
    profile = parse_profile(status["default_profile"])
    of_them = f"{up} of {len(devices)} devices are up"
    if up < profile.k:
        return Health("failing", f"{of_them}, and {profile.name} needs {profile.k} to read")
    reasons = []
    if up < len(devices):
        reasons.append(of_them)
    if up < profile.n:
        reasons.append(f"{profile.name} wants {profile.n}")
    lacking = status["queues"]["degraded"]
    if lacking:
        reasons.append(f"{lacking:,} extents lack shards")
    damaged = sum(device["damaged"] for device in devices)
    keeping = status.get("keeping")
    danger = safety.reason(keeping) if keeping else ""
    if danger:
        reasons.append(danger)
    lacks = safety.lacking(keeping) if keeping else ""
    if lacks:
        reasons.append(lacks)
    if damaged:
        reasons.append(f"{damaged:,} shards are damaged")
    reasons.extend(begun.reasons(status))
    if danger and keeping and (safety.worst(keeping) or ("", 0))[1] < 0:
        return Health("failing", ", ".join(reasons))
    if reasons:
        return Health("degraded", ", ".join(reasons))
    return Health("healthy", f"all {len(devices)} devices are up, all extents are whole")


def lines(status: Status) -> Iterator[str]:
    """The whole report; the first line says how healthy the cluster is."""
    state = health(status)
    yield f"{state.level}: {state.why}"
    yield ""
    yield from _devices(status["devices"], status.get("keeping"))
    yield ""
    keeping = status.get("keeping")
    for told in (list(repairs.lines(keeping)) if keeping else [], list(scrubs.lines(status["devices"]))):
        yield from told
        if told:
            yield ""
    for name, value in _facts(status):
        yield f"{name + ':':<14} {value}"


def _devices(devices: Sequence[Status], keeping: Status | None) -> Iterator[str]:
    rows = []
    for device in sorted(devices, key=lambda device: int(device["id"])):
        labels = [f"{name}={device[name]}" for name in ("host", "rack", "zone") if device[name]]
        share = f" ({100 * device['used'] / device['capacity']:.0f}%)" if device["capacity"] else ""
        rows.append(
            (
                str(device["id"]),
                device["state"],
                device["address"],
                size_text(device["used"]) + share,
                size_text(device["capacity"]),
                f"{device['shards']:,}",
                f"{safety.missing_at(keeping, device['id']) if keeping else 0:,}",
                f"{device['damaged']:,}",
                " ".join(labels) or "-",
            )
        )
    headers = ("DEVICE", "STATE", "ADDRESS", "USED", "CAPACITY", "SHARDS", "MISSING", "DAMAGED", "LABELS")
    yield from table_lines(headers, rows, right=(0, 3, 4, 5, 6, 7))


def _facts(status: Status) -> Iterator[tuple[str, str]]:
    counts, queues, log = status["counts"], status["queues"], status["log"]
    yield "objects", f"{counts['objects']:,} in {counts['buckets']:,} buckets, {size_text(counts['bytes'])}"
    if counts["versions"] != counts["objects"]:
        yield "versions", f"{counts['versions']:,}"
    used = sum(device["used"] for device in status["devices"])
    capacity = sum(device["capacity"] for device in status["devices"] if device["state"] in ("up", "down"))
    yield "on disk", f"{size_text(used)} of {size_text(capacity)}"
    yield "profile", f"{status['default_profile']}, failure domain: {status['level']}"
    yield "groups", ", ".join(f"{count:,} of {name}" for name, count in status["pgs"].items()) or "none yet"
    yield "extents", f"{counts['live_extents']:,} live, {queues['degraded']:,} degraded, {queues['dropped']:,} dropped"
    if status.get("keeping"):
        yield from safety.facts(status["keeping"])
    if status.get("rewriting"):
        yield from rewrites.facts(status["rewriting"])
    yield "removals", f"{queues['removals']:,} shards waiting"
    yield "uploads", f"{counts['uploads']:,} under way"
    yield "log", f"term {log['term']}, entry {log['seq']:,}, kept from {log['floor']:,} on"
    yield "horizon", status["horizon"]
    yield from begun.facts(status)
    yield "catalog", f"term {status['term']}, map epoch {status['epoch']:,}, cluster {status['cluster']}"
