"""Whether this catalog still is the catalog: not one that was replaced, nor an old copy that somebody brought back.

Devices remember the newest note that any catalog gave them (notes.py). So

- a note of a higher term than ours means that we were replaced: we stop, and say so;
- a note that tells of more than we have, from a time since we were last begun anew, means that our folder is older than
  what devices have seen: before anything is ordered, the catalog is begun anew on what it has (restoring.py).

Nothing that nobody knows is removed before every device in service has told what it remembers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from reedbed.catalog.edit import log_state
from reedbed.catalog.engine import Engine
from reedbed.catalog.hold import base_term
from reedbed.catalog.leases import Leases, read_term
from reedbed.common.clock import Clock
from reedbed.common.errors import ReedbedError, StaleTerm, Unavailable
from reedbed.protos.types import CatalogNote, ClusterMap

STALL_S: Final = 3.0  # a gap in our own time after which we may have been replaced


class Verdict(Enum):
    """What a note says of us."""

    FINE = "fine"
    REPLACED = "replaced"
    OLDER = "older"


@dataclass(frozen=True, slots=True)
class Own:
    """What we are. base: the term with which we were last begun anew, 0 if never. version: of our newest note in this
    term, None if it may have given any."""

    term: int
    base: int
    log: tuple[int, int]
    redo: int
    version: int | None = None


def judge(own: Own, note: CatalogNote | None, log: tuple[int, int] = (0, 0)) -> Verdict:
    """What a device's note, and the newest log position in its records, say of us."""
    if note is not None and note.term > own.term:
        return Verdict.REPLACED
    if log > own.log and log[0] >= own.base:
        return Verdict.OLDER
    if note is None or note.term < own.base:
        return Verdict.FINE
    other = note.term == own.term and own.version is not None and note.version > own.version
    return Verdict.OLDER if other or note.redo > own.redo or note.log > own.log else Verdict.FINE


def own_of(engine: Engine) -> Own:
    """What the catalog in an engine is, before it takes the term of its next start."""
    with engine.read() as reader:
        state = log_state(reader)
        term, base = read_term(reader), base_term(reader)
    return Own(term, base, (state.term, state.seq), engine.redo_position())


class Warden:
    """See the module's text. Belongs to one event loop. `ended` is set once we must not go on; then see `error`."""

    def __init__(self, engine: Engine, leases: Leases, clock: Clock) -> None:
        self._engine = engine
        self._leases = leases
        self._clock = clock
        with engine.read() as reader:
            self._base = base_term(reader)
        self.version = 0  # of our newest note
        self.ended = asyncio.Event()
        self.older = False
        self.error: ReedbedError | None = None
        self.evidence: list[tuple[CatalogNote | None, tuple[int, int]]] = []  # why we are older
        self._heard: dict[int, tuple[tuple[int, int], tuple[int, int]]] = {}  # device: age of its note, log position
        self._seen_at = clock.monotonic()

    @property
    def base(self) -> int:
        """The term with which we were last begun anew; 0 if never."""
        return self._base

    def check(self) -> None:
        """Raises why we must not go on, if so."""
        if self.error is not None:
            raise self.error

    def heard(self, device: int, note: CatalogNote | None, log: tuple[int, int] = (0, 0)) -> None:
        """A device tells what it remembers. Raises why we must not go on, if so."""
        said = (note.age if note is not None else (0, 0), log)
        if self._heard.get(device) != said:
            self.judge(note, log)
            self._heard[device] = said
        self.check()

    def judge(self, note: CatalogNote | None, log: tuple[int, int] = (0, 0)) -> None:
        """What somebody remembers; see `check` for what came of it."""
        with self._engine.read() as reader:
            state = log_state(reader)
        redo = self._engine.redo_position()
        own = Own(self._leases.term(), self._base, (state.term, state.seq), redo, self.version)
        verdict = judge(own, note, log)
        if verdict is Verdict.REPLACED:
            assert note is not None
            self.replaced_by(note.term)
        elif verdict is Verdict.OLDER:
            self.evidence.append((note, log))
            if self.ended.is_set():
                return
            self.older = True
            self._end(Unavailable("this catalog is older than what its devices have seen: it is begun anew"))

    def replaced_by(self, term: int) -> None:
        """Somebody follows a catalog of a higher term than ours; 0: which one is not known."""
        which = f"one of term {term}" if term else "one of a higher term"
        self.older = False
        self._end(
            StaleTerm(
                f"this catalogd (term {self._leases.term()}) has been replaced by {which}",
                hint="Stop it, and connect to the one that took its place",
            )
        )

    def told(self, term: int, notes: Iterable[CatalogNote | None]) -> None:
        """A process tells the highest term that it has heard of, and what its devices remember, whichever they are.

        Raises why we must not go on, if so. Nobody counts as heard by this.
        """
        if term > self._leases.term():
            self.replaced_by(term)
        for note in notes:
            self.judge(note)
        self.check()

    def _end(self, error: ReedbedError) -> None:
        self.error = error
        self.ended.set()

    def unheard(self, map_: ClusterMap) -> list[int]:
        """The devices in service that have not told yet what they remember."""
        return [
            number
            for number, device in sorted(map_.devices.items())
            if device.state in ("up", "down") and number not in self._heard
        ]

    def forget(self, devices: Iterable[int]) -> None:
        """These were cleaned, or are others now."""
        for device in devices:
            self._heard.pop(device, None)

    # Stalls

    def stalled(self) -> bool:
        """Whether time has passed in which we may have been replaced without hearing of it."""
        return self._clock.monotonic() - self._seen_at > STALL_S

    def seen(self) -> None:
        """We have run, or were told that we still are the catalog."""
        self._seen_at = self._clock.monotonic()
