"""Which process is to rewrite what: groups that wait, that are given out, and what is left alone. Told the time.

Invariants:
- A piece is in one group at a time, from `add` until the group has ended.
- A process has at most AT_HAND groups, until it reports, or has not been heard for LEASE_S, or started anew.
- All is in memory only: the queues in the engine are the truth, and a group may be rewritten twice.
- What fails for want of room or devices holds everything back, for longer each time, until something succeeds; what
  fails because an extent cannot be read holds back that extent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from reedbed.catalog.gather import Group, Place, place_of
from reedbed.catalog.records import SliceRow

AT_HAND: Final = 2
READY_MAX: Final = 64
LEASE_S: Final = 60.0
HOLD_S: Final = 1.0  # doubles with each failure
HOLD_MAX_S: Final = 60.0
LATER_S: Final = 5.0  # likewise, for one extent
LATER_MAX_S: Final = 600.0
LATER_KEPT: Final = 100_000


@dataclass(slots=True)
class _Process:
    boot: int
    heard: float
    given: dict[int, Group] = field(default_factory=dict)


class RewriteBoard:
    """See the module's text. Belongs to one event loop."""

    def __init__(self, first: int) -> None:
        """`first`: the number of the first group, above those of earlier starts."""
        self._ready: tuple[deque[Group], deque[Group]] = (deque(), deque())  # to be recoded, to be compacted
        self._busy: set[Place] = set()
        self._processes: dict[str, _Process] = {}
        self._next = first
        self._turn = False
        self._later: dict[bytes, tuple[float, int]] = {}  # extents: not before, and how many failures there were
        self._failures = 0
        self._held_until = 0.0
        self.stopped = ""  # why everything is held back

    @property
    def waiting(self) -> int:
        return sum(map(len, self._ready))

    @property
    def given(self) -> int:
        return sum(len(process.given) for process in self._processes.values())

    def full(self, compacts: bool) -> bool:
        """Whether enough groups of that kind wait."""
        return len(self._ready[compacts]) >= READY_MAX

    def skips(self, piece: SliceRow, now: float) -> bool:
        """Whether the piece is to be left alone: it is in a group, or its extent could not be read lately."""
        return place_of(piece) in self._busy or self._later.get(piece.extent, (0.0, 0))[0] > now

    def held(self, now: float) -> bool:
        """Whether nothing is given out at present. After a failure one group is, to see whether it goes again."""
        return now < self._held_until or (bool(self.stopped) and self.given > 0)

    def add(self, group: Group, now: float) -> None:
        """A group waits, without the pieces that are in another one."""
        pieces = tuple(piece for piece in dict.fromkeys(group.pieces) if not self.skips(piece, now))
        if pieces:
            self._busy.update(map(place_of, pieces))
            self._ready[group.compacts].append(Group(group.profile, pieces, group.compacts))

    def room(self, address: str, now: float) -> bool:
        """Whether a group waits for the process at that address."""
        process = self._processes.get(address)
        return self.waiting > 0 and not self.held(now) and (process is None or len(process.given) < AT_HAND)

    def heard(self, address: str, boot: int, now: float, held: Collection[int] | None = None) -> None:
        """The process is there; if it started anew, it has nothing.

        held: the groups that it has; others that it was given were in an answer that was lost on the way.
        """
        process = self._processes.get(address)
        if process is None or process.boot != boot:
            if process is not None:
                self._end(process.given.values())
            process = self._processes[address] = _Process(boot, now)
        process.heard = now
        if held is not None:
            for number in [number for number in process.given if number not in held]:
                self._end((process.given.pop(number),))

    def take(self, address: str, now: float, compact_first: bool) -> tuple[int, Group] | None:
        """A group for the process, which was heard, with its number."""
        process = self._processes[address]
        if not self.room(address, now):
            return None
        # one of each kind in turn
        compacts = bool(self._ready[True]) and (compact_first or self._turn or not self._ready[False])
        self._turn = not compacts
        group = self._ready[compacts].popleft()
        number = self._next
        self._next += 1
        process.given[number] = group
        return number, group

    def find(self, address: str, number: int) -> Group | None:
        """A group that the process has."""
        process = self._processes.get(address)
        return None if process is None else process.given.get(number)

    def done(self, address: str, number: int) -> None:
        """The process is through with a group."""
        process = self._processes.get(address)
        group = None if process is None else process.given.pop(number, None)
        if group is not None:
            self._end((group,))

    def succeeded(self) -> None:
        self._failures, self._held_until, self.stopped = 0, 0.0, ""

    def hold(self, reason: str, now: float) -> None:
        """Something failed for a reason that concerns every group."""
        self._held_until = now + min(HOLD_MAX_S, HOLD_S * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self.stopped = reason

    def unreadable(self, extents: Iterable[bytes], now: float) -> None:
        """These extents are left alone for a while."""
        for extent in extents:
            failures = self._later.pop(extent, (0.0, 0))[1]
            wait = min(LATER_MAX_S, LATER_S * 2.0 ** min(failures, 10))
            self._later[extent] = now + wait, failures + 1
        while len(self._later) > LATER_KEPT:
            del self._later[next(iter(self._later))]

    def expire(self, served: Collection[str], now: float) -> None:
        """Take back what is with processes that are gone or silent."""
        for address, process in list(self._processes.items()):
            if address not in served or now - process.heard > LEASE_S:
                self._end(process.given.values())
                del self._processes[address]
        for extent in [one for one, (when, _) in self._later.items() if when + 2 * LATER_MAX_S < now]:
            del self._later[extent]

    def _end(self, groups: Iterable[Group]) -> None:
        for group in groups:
            self._busy.difference_update(map(place_of, group.pieces))
