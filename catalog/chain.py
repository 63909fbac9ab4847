"""Which pieces make up the newest state of a catalog: a snapshot, and the runs of redo records that follow it. Pure.

A snapshot is fuzzy: its pages were read one after the other while the catalog changed. With every record since before
its first page (`first` of its end) applied in order it becomes the state as of any record that is not older than its
last page (`last` of its end), for records hold whole values.

Rules
- Runs follow each other by link, number, and records without a gap. What does not fit is left out, never bridged.
- A snapshot goes only with a chain that holds the redo piece which its end names: then both are of one history.
- Where two chains part, the one that was written under the higher term is the catalog's: the other is of one that was
  replaced, or of a try that was made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reedbed.catalog.pieces import END, NO_LINK, REDO, Head
from reedbed.common.ids import Id


@dataclass(frozen=True, slots=True)
class Found:
    """A piece that was found, and the extents that hold it: more than one where its writing was tried again."""

    head: Head
    extents: tuple[Id, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A snapshot and the runs to apply after it, each with its parts in order."""

    end: Found
    runs: tuple[tuple[Found, ...], ...]

    @property
    def last(self) -> int:
        """The record that the state will be as of."""
        return self.runs[-1][-1].head.last if self.runs else self.end.head.last

    @property
    def term(self) -> int:
        """Under which the last of it was written."""
        return self.runs[-1][-1].head.term if self.runs else self.end.head.term

    @property
    def link(self) -> bytes:
        """Of the piece that the stream goes on after."""
        return self.runs[-1][-1].head.link if self.runs else self.end.head.previous

    @property
    def number(self) -> int:
        """Of that piece; 0 if it is not among the runs."""
        return self.runs[-1][-1].head.number if self.runs else 0


def merged(pieces: Iterable[tuple[Head, Id]]) -> list[Found]:
    """Each piece once."""
    by_link: dict[bytes, tuple[Head, list[Id]]] = {}
    for head, extent in pieces:
        by_link.setdefault(head.link, (head, []))[1].append(extent)
    return [Found(head, tuple(sorted(extents))) for head, extents in by_link.values()]


def plans(found: Sequence[Found]) -> list[Plan]:
    """All ways to a state, the best first: of the highest term, of the newest record, with the least to apply."""
    ends = [one for one in found if one.head.kind == END]
    made: list[Plan] = []
    for chain in _chains([one for one in found if one.head.kind == REDO]):
        links = {one.head.link for run in chain for one in run}
        made.extend(plan for end in ends if (plan := _plan(end, chain, links)) is not None)
    made.extend(Plan(end, ()) for end in ends if end.head.first == end.head.last)
    best: dict[tuple[bytes, int], Plan] = {}
    for plan in sorted(made, key=_rank):
        best[plan.end.head.link, plan.term] = plan
    return sorted(best.values(), key=_rank, reverse=True)


def _rank(plan: Plan) -> tuple[int, int, int]:
    return plan.term, plan.last, plan.end.head.first


def _plan(end: Found, chain: Sequence[tuple[Found, ...]], links: set[bytes]) -> Plan | None:
    head = end.head
    runs = tuple(run for run in chain if run[0].head.last > head.first)
    if not runs or runs[0][0].head.stream != head.stream or runs[0][0].head.first > head.first + 1:
        return None
    if runs[-1][0].head.last < head.last or (head.previous != NO_LINK and head.previous not in links):
        return None
    return Plan(end, runs)


def _chains(pieces: Sequence[Found]) -> list[list[tuple[Found, ...]]]:
    """From each piece that nothing follows, back as far as links lead: whole runs in order."""
    by_link = {one.head.link: one for one in pieces}
    followed = {one.head.previous for one in pieces if _before(one, by_link) is not None}
    chains = []
    for tip in pieces:
        if tip.head.link in followed:
            continue
        back = [tip]
        while (before := _before(back[-1], by_link)) is not None:
            back.append(before)
        runs = _runs(back[::-1])
        if runs:
            chains.append(runs)
    return chains


def _before(one: Found, by_link: dict[bytes, Found]) -> Found | None:
    """The piece that this one follows, if it is there and they fit together."""
    head = one.head
    before = by_link.get(head.previous)
    if before is None:
        return None
    old = before.head
    if old.stream != head.stream or old.number + 1 != head.number:
        return None
    if head.part:
        same_run = (old.first, old.last, old.parts, old.part + 1) == (head.first, head.last, head.parts, head.part)
        return before if same_run else None
    return before if old.part == old.parts - 1 and old.last + 1 == head.first else None


def _runs(pieces: Sequence[Found]) -> list[tuple[Found, ...]]:
    """Pieces that follow each other as whole runs; half ones at either side are left out."""
    runs: list[tuple[Found, ...]] = []
    parts: list[Found] = []
    for one in pieces:
        if one.head.part == len(parts):
            parts.append(one)
        if parts and len(parts) == one.head.parts:
            runs.append(tuple(parts))
            parts = []
    return runs
