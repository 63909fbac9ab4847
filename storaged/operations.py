"""What waits to be written to a device, and how it is told what became of it.

Invariants
- An operation has its outcome once, and is told of it once, after that; those of one batch that share a `tell` are told
  together.
- Whoever is told is not in the writer's way: `tell` never blocks, and never raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from reedbed.common.errors import ReedbedError
from reedbed.storaged.calls import PutShard, Removal, RemoveOrder
from reedbed.storaged.entries import Position


def settle(operations: Sequence[Operation]) -> None:
    """Puts outcomes into the futures of those who wait for one."""
    for operation in operations:
        future: Future[Any] | None = operation.future
        assert future is not None
        if isinstance(operation.outcome, ReedbedError):
            future.set_exception(operation.outcome)
        else:
            future.set_result(operation.outcome)


@dataclass(slots=True, eq=False)
class Put:
    """A waiting put; the outcome says whether it was appended now (False: it was there).

    It has a `future`, or a `tell`, which knows by `whom` who asked.
    """

    shard: PutShard
    size: int
    future: Future[bool] | None = None
    tell: Callable[[Sequence[Put]], None] | None = None
    whom: Any = None
    outcome: bool | ReedbedError | None = None


@dataclass(slots=True, eq=False)
class Remove:
    """Waiting removals of one call; the outcome has one for each order."""

    orders: Sequence[RemoveOrder]
    term: int
    size: int
    future: Future[list[Removal]] = field(default_factory=Future)
    outcome: list[Removal] | ReedbedError | None = None


@dataclass(slots=True, eq=False)
class Carry:
    """Notes of a segment that is to go, to be written again; `home` is that segment."""

    targets: Sequence[Position]
    home: int
    size: int
    future: Future[bool] = field(default_factory=Future)
    outcome: bool | ReedbedError | None = None


Operation: TypeAlias = Put | Remove | Carry


def begin(operation: Operation) -> bool:
    """It is going to be done; False if whoever waits for it has cancelled it."""
    return operation.future is None or operation.future.set_running_or_notify_cancel()


def refuse(operations: Iterable[Operation], error: ReedbedError) -> None:
    """An error is the outcome of those that have none yet."""
    for operation in operations:
        if operation.outcome is None:
            operation.outcome = error


def tell(operations: Sequence[Operation]) -> None:
    """Tells all of them, each group at once."""
    futures: list[Operation] = []
    groups: dict[Callable[[Sequence[Put]], None], list[Put]] = {}
    for operation in operations:
        if isinstance(operation, Put) and operation.tell is not None:
            groups.setdefault(operation.tell, []).append(operation)
        else:
            futures.append(operation)
    for whom, puts in groups.items():
        whom(puts)
    settle(futures)
