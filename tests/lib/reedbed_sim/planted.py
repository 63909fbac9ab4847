"""Bugs that are planted on purpose, by name: the simulation must find each.

A bug is one line of the product that is another (`Rewritten`), so that what is tried is just the guarantee's removal. A
line that is not there any more fails the test that plants it.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final
from unittest.mock import patch

from reedbed.storaged.disk_twin import MemoryDisk, MemoryFile


class Rewritten:
    """In a function of the product, some lines are others: pairs of what it reads and what it is to read."""

    def __init__(self, module: str, name: str, *pairs: tuple[str, str]) -> None:
        self._module = module
        self._name = name
        self._pairs = pairs

    def plant(self, stack: ExitStack) -> None:
        module = import_module(f"reedbed.{self._module}")
        owner_name, _, name = self._name.rpartition(".")
        owner = getattr(module, owner_name) if owner_name else module
        plain = inspect.unwrap(getattr(owner, name))
        source = textwrap.dedent(inspect.getsource(plain))
        for old, new in self._pairs:
            assert source.count(old) == 1, f"{self._module}.{self._name} does not read {old!r} once"
            source = source.replace(old, new)
        made: dict[str, Any] = {}
        exec(compile(source, f"<planted {self._name}>", "exec"), plain.__globals__, made)  # noqa: S102
        stack.enter_context(patch.object(owner, name, made[name]))
        if not owner_name:
            # others may have imported it by name
            for other in list(sys.modules.values()):
                if other.__name__.startswith("reedbed.") and getattr(other, name, None) is plain:
                    stack.enter_context(patch.object(other, name, made[name]))


@dataclass(frozen=True, slots=True)
class Dropped:
    """What this function asks of the disk to be synced is not: a file's bytes, or a folder's names."""

    module: str
    function: str
    folder: bool = False

    def plant(self, stack: ExitStack) -> None:
        kind, name = (MemoryDisk, "sync_folder") if self.folder else (MemoryFile, "sync")
        plain: Callable[..., None] = getattr(kind, name)
        module, function = f"reedbed.{self.module}", self.function

        def sync(disk: Any, *folder: str) -> None:
            frame: Any = sys._getframe(1)
            while frame is not None and frame.f_globals["__name__"] in ("reedbed.storaged.disk", "reedbed_sim.disk"):
                frame = frame.f_back
            if frame is None or frame.f_globals["__name__"] != module or frame.f_code.co_name != function:
                plain(disk, *folder)

        stack.enter_context(patch.object(kind, name, sync))


@dataclass(frozen=True, slots=True)
class Planted:
    """A bug, and where it is found: within so many seeds from that one, with these actions alone if some are named."""

    bugs: Sequence[Rewritten | Dropped]
    only: Sequence[str] = ()
    seed: int = 1
    seeds: int = 24


BUGS: Final[dict[str, Planted]] = {
    # a dropped sync
    "sync of a batch": Planted([Dropped("storaged.writer", "_append")]),
    "sync of a new segment's folder": Planted([Dropped("storaged.segments", "make_segment", folder=True)]),
    "sync of the identity": Planted([Dropped("storaged.identity", "save")]),
    "sync of the generations": Planted(
        [Dropped("storaged.generations", "save"), Dropped("storaged.generations", "save", True)]
    ),
    # a skipped check
    "generation of a put": Planted(
        [Rewritten("storaged.batch", "Batch.put", ("if shard.generation < known:", "if shard.generation < 0:"))]
    ),
    "incarnation of an acknowledgement": Planted(
        [
            Rewritten("catalog.judge", "AckJudge.judge", ("and device.incarnation == ack.incarnation", "")),
        ],
        only=("swing",),
    ),
    "condition of a commit": Planted(
        [Rewritten("catalog.commits", "_check_condition", ("if etag != operation.if_match:", "if not etag:"))]
    ),
    "absence that a commit asks for": Planted(
        [
            Rewritten(
                "catalog.commits", "_check_condition", ("if operation.if_none_match and current is not None:", "if 0:")
            )
        ]
    ),
    "sums of what is read": Planted(
        [
            Rewritten("storaged.reader", "_wrong", ("if found != wanted:", "if found == [-1]:")),
            Rewritten("extents.blocks", "verify_rows", ("!= value:", "== -1:")),
            Rewritten("extents.rounds", "SmallRead.take", ("== value:", "!= -1:")),
        ],
        only=("rot", "bad_weather", "good_weather", "read_everything"),
    ),
    # collection
    "collection that trusts a clock": Planted(
        [
            Rewritten(
                "catalog.removals",
                "Removals.step",
                (
                    "before = self._known_before(self._leases.shown_before(grace))",
                    "before = int((self._needs.clock.wall() - grace) * 1000)",
                ),
                ("if dropped.id < horizon and", "if"),
            ),
            Rewritten("catalog.extents", "forget_dropped", ("or not edit.below_horizon(extent_id)", "")),
        ]
    ),
    "horizon that trusts a clock": Planted(
        [
            Rewritten(
                "catalog.leases",
                "Leases._horizon_ms",
                ("aged(self._stretches_now(now), self._lag_ms) or 0", "int(self._clock.wall() * 1000)"),
            )
        ],
        only=("jump_clock",),
    ),
    "late deletion after a shard moved back": Planted(
        [Rewritten("storaged.batch", "Batch.remove", ("or entry.generation > order.generation", ""))],
        only=("there_and_back",),
    ),
    # idempotency
    "outcome forgotten": Planted(
        [Rewritten("catalog.commits", "apply_one", ("if known is None:", "if True:"))], only=("lose_answer",)
    ),
    "retry below the horizon": Planted(
        [Rewritten("catalog.needs", "check_new_id", ("if id_ <", 'if what == "extent" and id_ <'))],
        only=("strand_client",),
    ),
    # redundancy
    "source released too early": Planted(
        [
            Rewritten("catalog.moves", "_released", ("and not held >> index & 1", "")),
        ]
    ),
    "move not noted in extents": Planted(
        [
            Rewritten("catalog.mending", "note", ("if new != row:", "if False:")),
        ]
    ),
    "damage not seen by the scrubber": Planted(
        [Rewritten("storaged.verify", "_blocks", ("!= wanted:", "== -1:"))], only=("rot", "scrub")
    ),
    # the log
    "delete without a log entry": Planted(
        [
            Rewritten("catalog.commits", "_delete", ("edit.append(kind,", "(lambda *_: None)(kind,")),
        ]
    ),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Within the context the product has that bug; without a name none."""
    with ExitStack() as stack:
        for bug in BUGS[name].bugs if name else ():
            bug.plant(stack)
        yield
