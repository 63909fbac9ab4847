"""Whether the history of one key is linearizable: Wing and Gong's search with the memo of Lowe. Pure.

The object is a stack of versions: an unversioned bucket keeps one entry at most, a versioned one all, with markers.
An operation whose outcome is unknown may take effect at any time after its begin, or never; what it made is one of the
versions that somebody saw and nobody else made, or one that nobody ever saw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from reedbed_sim.history import OPEN, Op

State = tuple[str, ...]  # versions, the newest last; a marker begins with "-"
STATES_MAX = 60_000  # of one search


class TooHard(Exception):
    """The search was given up."""


def check_key(ops: Sequence[Op], *, versioned: bool, contents: dict[str, str]) -> str:
    """Why the operations of one key cannot have happened, or the empty string.

    `contents` is the content of each version that anybody saw. TooHard.
    """
    told = [op for op in ops if op.outcome != "failed" and not (op.kind == "read" and op.outcome != "ok")]
    made = {op.version for op in told if op.writes and op.kind in ("put", "copy") and op.outcome == "ok"}
    seen = {op.version for op in told if op.version is not None and op.kind == "read"}
    loose = sorted(version for version in seen - made if version is not None)
    for version in loose:
        makers = [op for op in told if op.outcome == "unknown" and _may_make(op, version, contents)]
        if not makers:
            return f"version {version} was seen, and nobody can have made it"
    told = _settled(told, loose, contents)
    # what nobody saw matters only to what is told of presence
    hidden = any(op.outcome == "refused" or op.removed for op in told)
    products = {op.number: _products(op, loose, contents, hidden) for op in told}
    told = [op for op in told if op.kind not in ("put", "copy") or products[op.number] or op.outcome == "refused"]
    return _search(told, versioned, products)


def _settled(ops: Sequence[Op], loose: Sequence[str], contents: dict[str, str]) -> list[Op]:
    """The operations, of which those whose outcome was lost count as done where only they can have made what was seen.

    Such a one took effect before the first read of it ended.
    """
    settled = list(ops)
    for version in loose:
        makers = [at for at, op in enumerate(settled) if op.outcome == "unknown" and _may_make(op, version, contents)]
        if len(makers) == 1:
            first = min(op.end for op in ops if op.kind == "read" and op.version == version)
            settled[makers[0]] = replace(settled[makers[0]], outcome="ok", version=version, end=first)
    return settled


def _may_make(op: Op, version: str, contents: dict[str, str]) -> bool:
    if op.kind == "put":
        return contents.get(version, op.content) == op.content
    return op.kind == "copy"


def _products(op: Op, loose: Sequence[str], contents: dict[str, str], hidden: bool) -> list[str]:
    """The versions that an operation may have made."""
    if op.kind not in ("put", "copy"):
        return []
    if op.outcome == "ok":
        return [op.version or ""]
    return [*(one for one in loose if _may_make(op, one, contents)), *([f"?{op.number}"] if hidden else [])]


def _steps(op: Op, state: State, versioned: bool, products: Sequence[str]) -> Iterator[State]:
    """The states that the operation may leave, none if it cannot have happened here."""
    latest = state[-1] if state and not state[-1].startswith("-") else None
    if op.kind == "read":
        if op.version == latest:
            yield state
        return
    holds = {"": True, "absent": latest is None}.get(op.condition, op.condition == latest)
    if op.outcome == "refused":
        if not holds:
            yield state
        return
    if not holds:
        if op.outcome == "unknown":
            yield state
        return
    if op.kind == "delete":
        if op.removed is None or op.removed == (latest is not None):
            yield (*state, f"-{op.number}") if versioned else ()
        return
    if op.kind == "delete-version":
        there = op.version in state
        if op.removed is None or op.removed == there:
            yield tuple(one for one in state if one != op.version)
        return
    for version in products:
        if version not in state:
            yield (*state, version) if versioned else (version,)


def _search(ops: Sequence[Op], versioned: bool, products: dict[int, list[str]]) -> str:
    """Depth first over which operation comes next; the memo holds what was tried: which are done, and the state."""
    order = sorted(ops, key=lambda op: (op.begin, op.number))
    must = sum(1 << at for at, op in enumerate(order) if op.outcome != "unknown")
    seen: set[tuple[int, State]] = set()
    stack: list[tuple[int, State]] = [(0, ())]
    best = 0
    best_at: tuple[int, State] = (0, ())
    while stack:
        done, state = stack.pop()
        if (done, state) in seen:
            continue
        seen.add((done, state))
        if len(seen) > STATES_MAX:
            raise TooHard(f"{len(order)} operations")
        if done & must == must:
            return ""
        if (done & must).bit_count() > best:
            best, best_at = (done & must).bit_count(), (done, state)
        first_end = min((op.end for at, op in enumerate(order) if not done >> at & 1), default=OPEN)
        following: list[tuple[int, State]] = []
        for at, op in enumerate(order):
            if done >> at & 1:
                continue
            if op.begin > first_end:
                break
            for after in _steps(op, state, versioned, products[op.number]):
                following.append((done | 1 << at, after))
        # what must have happened is tried before what may have
        following.sort(key=lambda one: (one[0] & must) == (done & must), reverse=True)
        stack.extend(following)
    done, state = best_at
    left = [str(op) for at, op in enumerate(order) if not done >> at & 1 and op.outcome != "unknown"][:3]
    return f"no order of its operations explains what was told; after {best} of them, in state {state}, not: {left}"
