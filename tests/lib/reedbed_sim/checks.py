"""What must hold of a history, the log and the final state, whatever failed on the way. Pure.

Each function returns sentences about what is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from reedbed_sim.history import Entry, History, Op
from reedbed_sim.linear import TooHard, check_key


@dataclass(slots=True)
class Final:
    """What is there at the end, all faults healed: versions of each key, the newest last, markers with "-" before.

    latest: what a listing shows. contents: what reading each version gave.
    """

    stacks: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    latest: dict[tuple[str, str], str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


def check_contents(history: History, final: Final) -> tuple[list[str], dict[str, str]]:
    """A version has one content for ever, and it is what was put. Also returns the contents by version."""
    problems: list[str] = []
    contents: dict[str, str] = {}

    def saw(version: str, content: str, who: object) -> None:
        known = contents.setdefault(version, content)
        if known != content:
            problems.append(f"version {version} has content {known} and {content}: {who}")
        if content not in history.blobs:
            problems.append(f"version {version} has content {content}, which nobody stored: {who}")

    for op in history.ops:
        if op.kind == "put" and op.outcome == "ok":
            saw(op.version or "", op.content, op)
    for op in history.ops:
        if op.kind == "read" and op.outcome == "ok" and op.content:
            saw(op.version or "", op.content, op)
    for version, content in final.contents.items():
        saw(version, content, "the final read")
    for part in history.ranges:
        content = contents.get(part.version, "")
        if content in history.blobs and history.blobs[content][part.start : part.end] != part.got:
            problems.append(f"bytes {part.start} to {part.end} of version {part.version} are not those of {content}")
    return problems, contents


def check_linear(history: History, contents: Mapping[str, str]) -> list[str]:
    """Per key; where a search is too hard nothing is said."""
    problems = []
    for bucket, key in history.places():
        try:
            why = check_key(
                history.of_key(bucket, key), versioned=history.versioned.get(bucket, False), contents=dict(contents)
            )
        except TooHard:
            continue
        if why:
            problems.append(f"{bucket}/{key} is not linearizable: {why}")
    return problems


def check_follower(seen: Sequence[Entry], final: Sequence[Entry]) -> list[str]:
    """Who follows the log sees each entry once, in order, without a gap; none changes, or appears below another."""
    problems = []
    for before, after in pairwise(final):
        if after.seq != before.seq + 1 or after.term < before.term:
            problems.append(f"log entry {after} comes after {before}")
    for at, entry in enumerate(seen):
        if at >= len(final) or final[at] != entry:
            found = final[at] if at < len(final) else "nothing"
            problems.append(f"a follower saw {entry}, and there is {found}")
            break
    return problems


def check_log(history: History, log: Sequence[Entry]) -> list[str]:
    """Every change that was acknowledged is in the log once, in the order of real time; none is that was not asked."""
    problems: list[str] = []
    at: dict[str, int] = {}
    for place, entry in enumerate(log):
        if entry.id in at and entry.kind not in ("create-bucket", "delete-bucket"):
            problems.append(f"id {entry.id} is in the log twice, at {log[at[entry.id]].seq} and {entry.seq}")
        at[entry.id] = place
    writes = [op for op in history.ops if op.kind in ("put", "copy")]
    for op in writes:
        if op.outcome == "ok" and op.version not in at:
            problems.append(f"acknowledged and not in the log: {op}")
    named = {op.version for op in writes if op.outcome == "ok"}
    open_puts = Counter((op.bucket, op.key) for op in writes if op.outcome == "unknown")
    deletes = Counter(
        (op.bucket, op.key) for op in history.ops if op.kind in ("delete", "delete-version") and _may_delete(op)
    )
    for entry in log:
        where = (entry.bucket, entry.key)
        if entry.kind in ("put", "copy") and entry.id not in named:
            open_puts[where] -= 1
            if open_puts[where] < 0:
                problems.append(f"the log has {entry}, which nobody can have asked for")
        elif entry.kind in ("delete", "marker", "delete-version"):
            deletes[where] -= 1
            if deletes[where] < 0:
                problems.append(f"the log has {entry}, which nobody can have asked for")
    acked = sorted((op for op in writes if op.outcome == "ok" and op.version in at), key=lambda op: op.end)
    highest = -1
    begun = sorted(acked, key=lambda op: op.begin)
    ended = 0
    for op in begun:
        while ended < len(acked) and acked[ended].end < op.begin:
            highest = max(highest, at[acked[ended].version or ""])
            ended += 1
        if at[op.version or ""] < highest:
            problems.append(f"in the log before what had ended when it began: {op}")
    return problems


def _may_delete(op: Op) -> bool:
    return op.outcome == "unknown" or (op.outcome == "ok" and op.removed is not False) or op.kind == "delete"


def replay(log: Iterable[Entry], versioned: Mapping[str, bool]) -> dict[tuple[str, str], list[str]]:
    """The stacks of versions that the log leads to."""
    stacks: dict[tuple[str, str], list[str]] = {}
    for entry in log:
        stack = stacks.setdefault((entry.bucket, entry.key), [])
        if entry.kind in ("put", "copy"):
            if not versioned.get(entry.bucket, False):
                stack.clear()
            stack.append(entry.version)
        elif entry.kind == "marker":
            stack.append(f"-{entry.version}")
        elif entry.kind == "delete":
            stack.clear()
        elif entry.kind == "delete-version":
            stack[:] = [one for one in stack if one.lstrip("-") != entry.version]
    return {where: stack for where, stack in stacks.items() if stack}


def check_state(history: History, log: Sequence[Entry], final: Final) -> list[str]:
    """The state is the log's, the listing is the state, and sizes are those of the contents."""
    problems: list[str] = []
    stacks = replay(log, history.versioned)
    for where in sorted({*stacks, *final.stacks}):
        if stacks.get(where, []) != final.stacks.get(where, []):
            problems.append(f"{where}: the log leads to {stacks.get(where)}, there is {final.stacks.get(where)}")
    latest = {where: stack[-1] for where, stack in final.stacks.items() if not stack[-1].startswith("-")}
    for where in sorted({*latest, *final.latest}):
        if latest.get(where) != final.latest.get(where):
            problems.append(f"{where}: the latest is {latest.get(where)}, the listing has {final.latest.get(where)}")
    for stack in final.stacks.values():
        for version in stack:
            if version.startswith("-"):
                continue
            content = final.contents.get(version)
            if content is None:
                problems.append(f"version {version} was not read at the end")
            elif final.sizes.get(version) != len(history.blobs.get(content, b"")):
                problems.append(f"version {version} has size {final.sizes.get(version)} and content {content}")
    return problems


def check_all(history: History, seen: Sequence[Entry], log: Sequence[Entry], final: Final) -> list[str]:
    """Everything that can be said without looking into the cluster."""
    problems, contents = check_contents(history, final)
    return [
        *history.problems,
        *problems,
        *check_linear(history, contents),
        *check_follower(seen, log),
        *check_log(history, log),
        *check_state(history, log, final),
    ]
