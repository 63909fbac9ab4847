"""What became of each operation above the horizon, by its id: the memory that makes commits idempotent.

Remembered are results and refusals that were decided (a failed precondition, something missing, a wrong argument), not
failures that trying again may cure. An outcome outlives every restart; it is forgotten once below the horizon.
"""

from __future__ import annotations

from typing import Final

from reedbed.catalog import keys, records
from reedbed.catalog.edit import Edit
from reedbed.catalog.records import OutcomeRow, RefusalRow
from reedbed.common.errors import InvalidArgument, NotFound, PreconditionFailed, ReedbedError, rebuild
from reedbed.common.ids import Id, format_id

# By exact class: subclasses such as StaleGeneration and BelowHorizon are not decisions about the operation
_DECIDED: Final = frozenset({PreconditionFailed, NotFound, InvalidArgument})


def recall(edit: Edit, id_: Id, digest: bytes) -> OutcomeRow | None:
    """The outcome of that id; InvalidArgument if it was that of another request."""
    key = keys.outcome(id_)
    data = edit.rows.get(key)
    if data is None:
        return None
    row = records.OUTCOME.decode(data, key)
    if row.digest != digest:
        raise InvalidArgument(
            f"id {format_id(id_)} was used before for another request", hint="Use a fresh id for each operation"
        )
    return row


def remember(edit: Edit, id_: Id, row: OutcomeRow) -> None:
    edit.rows.put(keys.outcome(id_), records.OUTCOME.encode(row))


def remember_refusal(edit: Edit, id_: Id, digest: bytes, error: ReedbedError) -> None:
    """Remember this error if it is a decision."""
    if type(error) in _DECIDED:
        refusal = RefusalRow(error.code, error.what, error.where, error.hint)
        remember(edit, id_, OutcomeRow(digest, refusal=refusal))


def refusal(row: OutcomeRow) -> ReedbedError | None:
    """The remembered error."""
    if row.refusal is None:
        return None
    return rebuild(row.refusal.code, row.refusal.what, row.refusal.where, row.refusal.hint)


def forget(edit: Edit, limit: int) -> int:
    """Remove up to `limit` outcomes of ids below the horizon; how many they were."""
    done = 0
    for key, _ in edit.writer.scan(keys.OUTCOMES, keys.outcome(edit.needs.leases.horizon())):
        if done == limit:
            break
        edit.writer.delete(key)
        done += 1
    return done
