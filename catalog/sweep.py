"""Background work on the namespace in bounded steps, each within one write transaction."""

from __future__ import annotations

from dataclasses import dataclass

from reedbed.catalog import log, outcomes, slices, uploads
from reedbed.catalog.edit import Edit
from reedbed.common.ids import Id
from reedbed.common.limits import UPLOAD_IDLE_S


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of the log stays: at least `entries` of the newest, and whatever is younger than `seconds`."""

    entries: int = 1_000_000
    seconds: float = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Swept:
    """What one step did; `uploads_after` is where the next step goes on with uploads. `busy`: there is more to do."""

    outcomes: int
    log_entries: int
    chunks: int
    uploads_after: Id | None
    busy: bool


def step(edit: Edit, retention: Retention, uploads_after: Id | None = None, limit: int = 500) -> Swept:
    """Forget outcomes below the horizon, trim the log, take loose slice lists apart, end idle uploads."""
    forgotten = outcomes.forget(edit, limit)
    wall_us = int(edit.needs.clock.wall() * 1e6)
    trimmed = log.trim(edit, retention.entries, wall_us - int(retention.seconds * 1e6), limit)
    chunks = 0
    most = max(1, limit // 50)
    for list_id in slices.loose(edit.writer, most):
        chunks += slices.take_apart(edit, list_id, most - chunks)
        if chunks >= most:
            break
    after = uploads.end_idle(edit, UPLOAD_IDLE_S, uploads_after, limit)
    busy = forgotten == limit or trimmed == limit or chunks >= most or after is not None
    return Swept(forgotten, trimmed, chunks, after, busy)
