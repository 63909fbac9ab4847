"""How safe the data is and how keeping goes, as people read it. Pure: from the catalog's JSON to text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reedbed.cli.output import size_text

Keeping = Mapping[str, Any]


def worst(keeping: Keeping) -> tuple[str, int] | None:
    """The profile whose extents survive the fewest losses, and how many; None where there is none yet."""
    survives: Mapping[str, int] = keeping["survives"]
    return min(survives.items(), key=lambda item: item[1]) if survives else None


def reason(keeping: Keeping) -> str:
    """Why the data is not as safe as it should be; empty while no extent is a loss from being gone."""
    least = worst(keeping)
    if least is None or least[1] > 0:
        return ""
    if least[1] < 0:
        return f"extents of {least[0]} cannot be read for now: {-least[1]} more of their shards are out of reach"
    return f"no further loss is survived by extents of {least[0]}"


def facts(keeping: Keeping) -> Iterator[tuple[str, str]]:
    """Rows of the report: name and text."""
    yield "safety", _safety(keeping)
    yield "repair", _repair(keeping)
    if keeping["moving_positions"] or keeping["noting_pgs"]:
        yield "moving", f"{keeping['moving_positions']:,} positions of groups go to other devices"
    if keeping["balancing"]:
        yield "balancing", _balancing(keeping["balancing"])
    if keeping["stuck_positions"]:
        yield "no place", f"{keeping['stuck_positions']:,} positions have no device to go to. Add devices"
    if keeping["full"]:
        yield "full", f"devices {_numbers(keeping['full'])} refuse shards for want of room"
    if keeping["idle"]:
        idle = _numbers(keeping["idle"], " ")
        yield "idle", f"no placement group names devices {idle}. Let them take their share: reedbed device add {idle}"


def lacking(keeping: Keeping) -> str:
    """What repair lacks; empty if that is nothing."""
    if not keeping["stuck_positions"]:
        return ""
    return f"repair lacks devices: {keeping['stuck_positions']:,} positions have none to go to"


def losses_text(lost: Mapping[str, Any]) -> str:
    """What would be lost with a device."""
    text = (
        f"{lost['extents']:,} extents with {size_text(lost['bytes'])} of {lost['objects']:,} objects could not be read "
        "any more"
    )
    return text + (f", among them {', '.join(lost['names'])}" if lost["names"] else "")


def missing_at(keeping: Keeping, device: int) -> int:
    """Shards that the device is still to get."""
    row: Mapping[str, int] = keeping["devices"].get(str(device), {})
    return row.get("shards", 0)


def duration_text(seconds: float) -> str:
    """Rounded to two units: `42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    whole = round(seconds)
    for unit, size, lower, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {lower}" if rest else "")
    return f"{whole} s"


def _numbers(numbers: Sequence[int], by: str = ", ") -> str:
    return by.join(map(str, numbers))


def _balancing(balancing: Mapping[str, Any]) -> str:
    who = "all devices" if balancing["all"] else f"devices {_numbers(balancing['targets'])}"
    left = f"{balancing['positions_left']:,} positions with about {size_text(balancing['bytes_left'])}"
    return f"{who} get their share, {left} are still to begin"


def _safety(keeping: Keeping) -> str:
    parts = []
    for profile, count in keeping["survives"].items():
        losses = "losses" if count != 1 else "loss"
        parts.append(f"{profile} survives {max(0, count)} more {losses}")
    text = ", ".join(parts) or "nothing is stored yet"
    if keeping["at_risk_s"]:
        text += f"; extents have lacked shards for {duration_text(keeping['at_risk_s'])}"
    return text


def _repair(keeping: Keeping) -> str:
    if not keeping["extents"]:
        return "nothing to do"
    left = keeping["seconds_left"]
    total = keeping["bytes_left"] + keeping["bytes_done"]
    share = 100 * keeping["bytes_done"] // total if total else 0
    rate = f"at {size_text(keeping['rate'])}/s, " if keeping["rate"] else ""
    time_left = "time left not known" if left is None else f"{duration_text(left)} left"
    return (
        f"{keeping['shards']:,} shards of {keeping['extents']:,} extents to write, {size_text(keeping['bytes_left'])} "
        f"left, {size_text(keeping['bytes_done'])} done ({share}%), {rate}{time_left}"
    )
