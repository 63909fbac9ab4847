"""What a device promised: every operation with the positions of its begin and its answer, and what a cut may show.

Invariants
- An operation that was answered before the cut is there; one that began and was not answered may be there, whole; one
  that had not begun is not there.
- At most one operation on a shard is under way at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from reedbed.common.checksums import block_sum
from reedbed.common.errors import AlreadyExists, ReedbedError, UnknownShard
from reedbed.common.ids import Id
from reedbed.extents.blocks import pack_table
from reedbed.storaged.calls import PutShard, RemoveOrder
from reedbed.storaged.store import ShardStore
from reedbed_replay.disk import RecordingDisk

NEVER: Final = 1 << 60  # the position of an answer that did not come
PG: Final = 1
_BLOCK: Final = 700  # small, so that shards have many

State: TypeAlias = tuple[bytes, int] | None  # content and generation of a shard, None if it is not there


def extent_of(number: int) -> Id:
    return Id(number.to_bytes(16, "big"))


def shard_of(number: int, data: bytes, generation: int) -> PutShard:
    """A data shard 0 under rs-4-2."""
    pieces = [data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)]
    table = [(len(piece), block_sum(extent_of(number), 0, block, piece)) for block, piece in enumerate(pieces)]
    return PutShard(extent_of(number), 0, 4, 2, PG, generation, pack_table(table), [data])


@dataclass(slots=True)
class _Step:
    begin: int
    end: int
    value: Any


@dataclass(slots=True)
class Promises:
    """The history of one device; positions are those of its journal."""

    shards: dict[int, list[_Step]] = field(default_factory=dict)
    terms: list[_Step] = field(default_factory=list)
    generations: list[_Step] = field(default_factory=list)
    devices: list[_Step] = field(default_factory=list)
    rotten: list[tuple[int, int]] = field(default_factory=list)
    keeping: list[_Step] = field(default_factory=list)  # checkpoints, with the carrying of notes

    def options(self, number: int, cut: int) -> tuple[list[State], bool]:
        """States of a shard that a cut at this position may show, and whether an operation on it was under way."""
        base: State = None
        pending: list[State] = []
        for step in self.shards.get(number, []):
            if step.end <= cut:
                base = step.value
                pending = []
            elif step.begin < cut:
                pending.append(step.value)
        return [base, *pending], bool(pending)

    def rot(self, number: int, position: int) -> None:
        """From here on the shard may be damaged, until it is put anew."""
        self.rotten.append((number, position))

    def rotten_at(self, number: int, cut: int) -> bool:
        """Whether the medium lost the shard and no answer said since that it was mended."""
        for one, position in self.rotten:
            if one == number and position < cut:
                mended = [step for step in self.shards[number] if step.begin > position and step.end <= cut]
                if not mended:
                    return True
        return False

    def records_under_way(self, cut: int) -> int:
        """How many records were being appended, at most two for what may be many."""
        count = 0
        for number, steps in self.shards.items():
            begun = sum(step.begin < cut < step.end for step in steps)
            count += 2 * begun if self.rotten_at(number, cut) else begun  # a heal removes and puts
        return count + 2 * any(step.begin < cut < step.end for step in self.keeping)

    @staticmethod
    def bounds(steps: Sequence[_Step], cut: int) -> tuple[int, int]:
        """The highest value that was promised by then, and the highest that may be there."""
        kept = [step.value for step in steps if step.end <= cut]
        begun = [step.value for step in steps if step.begin < cut]
        return max(kept, default=0), max(begun, default=0)

    def device(self, cut: int) -> tuple[str, int] | None:
        known = [step.value for step in self.devices if step.end <= cut]
        return known[-1] if known else None


class Driver:
    """Works on a store and writes down what it was promised."""

    def __init__(self, disk: RecordingDisk) -> None:
        self._disk = disk
        self.promises = Promises()
        self.contents: dict[int, State] = {}  # as of the last answer
        self.store: ShardStore

    def opened(self, store: ShardStore) -> None:
        self.store = store
        here = self._position
        self.promises.devices.append(_Step(here, here, (store.device, store.incarnation)))

    @property
    def _position(self) -> int:
        return self._disk.journal.position

    def put(self, shards: Mapping[int, bytes], generation: int) -> None:
        """All at once, so that they share syncs; those that are refused stay as they were."""
        waiting: list[tuple[int, _Step, Future[bool]]] = []
        for number, data in shards.items():
            step = _Step(self._position, NEVER, (data, generation))
            seen = _Step(self._position, NEVER, generation)  # an older put of the PG is refused from then on
            self.promises.shards.setdefault(number, []).append(step)
            self.promises.generations.append(seen)
            future = self.store.put(shard_of(number, data, generation))
            future.add_done_callback(lambda done, both=(step, seen): self._answered(done, both))  # type: ignore[misc]
            waiting.append((number, step, future))
        for number, step, future in waiting:
            try:
                future.result(30)
            except AlreadyExists:
                self.promises.shards[number].remove(step)
            else:
                self.contents[number] = step.value

    def _answered(self, done: Future[bool], steps: Sequence[_Step]) -> None:
        if done.exception() is None:
            for step in steps:
                step.end = self._position

    def remove(self, numbers: Sequence[int], generation: int, term: int) -> None:
        self._raise(self.promises.terms, term, lambda: self.store.note_term(term))
        steps = [(number, _Step(self._position, NEVER, None)) for number in numbers]
        for number, step in steps:
            self.promises.shards.setdefault(number, []).append(step)
        orders = [RemoveOrder(extent_of(number), 0, PG, generation) for number in numbers]
        outcomes = self.store.remove(orders, term)
        for (number, step), outcome in zip(steps, outcomes, strict=True):
            if outcome.value == "kept":
                self.promises.shards[number].remove(step)
            else:
                step.end = self._position
                self.contents[number] = None

    def keeping_itself(self) -> None:
        """From here on checkpoints and the carrying of notes may be under way at any time."""
        self.promises.keeping.append(_Step(self._position, NEVER, 0))

    def checkpoint(self, term: int) -> None:
        """With a round through the writer, which carries notes."""

        def both() -> None:
            self.store.checkpoint()
            self.store.remove([], term)

        self._raise(self.promises.keeping, 0, both)

    def note_generation(self, generation: int) -> None:
        self._raise(self.promises.generations, generation, lambda: self.store.note_generation(PG, generation))

    def note_term(self, term: int) -> None:
        self._raise(self.promises.terms, term, lambda: self.store.note_term(term))

    def _raise(self, steps: list[_Step], value: int, action: Callable[[], None]) -> None:
        step = _Step(self._position, NEVER, value)
        steps.append(step)
        action()
        step.end = self._position


def read_all(store: ShardStore, number: int) -> State:
    """What the device says of a shard; DamagedShard."""
    for info in store.list(limit=10_000):
        if info.extent == extent_of(number):
            data = bytes(store.read(info.extent, 0, 0, info.length).data)
            return data, info.generation
    try:
        store.read(extent_of(number), 0, 0, 0)
    except UnknownShard:
        return None
    raise AssertionError(f"shard {number} is read but not listed")


def find_fault(store: ShardStore, promises: Promises, cut: int, *, torn: bool, no_index: bool = False) -> str:
    """The first broken promise of a device that was opened after a cut, or the empty string. Changes what is open.

    Operations that were under way are done again and must succeed: a cut never leaves a shard that cannot be put.
    torn: writes may have been torn; then what was being written may be reported as damage if it was more than one
    record, for a torn batch of which a later record is whole looks like it. no_index: the index was lost too, and with
    it the mark behind which torn bytes may be cut: then also one record.
    """
    torn = (torn and promises.records_under_way(cut) > 1) or (no_index and promises.records_under_way(cut) > 0)
    known = promises.device(cut)
    if known is not None and known != (store.device, store.incarnation):
        return "it is another device"
    low, high = promises.bounds(promises.terms, cut)
    if not low <= store.term <= high:
        return f"term {store.term}, promised {low}, asked for {high}"
    low, high = promises.bounds(promises.generations, cut)
    if not low <= store.generation(PG) <= high:
        return f"generation {store.generation(PG)}, promised {low}, asked for {high}"
    rotten = {number for number in promises.shards if promises.rotten_at(number, cut)}
    if torn:
        rotten |= {number for number in promises.shards if promises.options(number, cut)[1]}
    strange = [one for one in store.damaged() if int.from_bytes(one.extent, "big") not in rotten]
    if store.failed or strange or (store.bad_regions() and not torn):
        return f"damage without any: {store.failed} {strange} {store.bad_regions()}"
    found: dict[int, State] = {}
    listed = 0
    for info in store.list(limit=10_000):
        number = int.from_bytes(info.extent, "big")
        listed += 1
        try:
            found[number] = (bytes(store.read(info.extent, 0, 0, info.length).data), info.generation)
        except ReedbedError as error:
            if number not in rotten:
                return f"shard {number} cannot be read: {error}"
    if store.status().shards != listed:
        return f"{store.status().shards} shards are counted, {listed} listed"
    for number in sorted(found.keys() | promises.shards.keys()):
        options, under_way = promises.options(number, cut)
        if found.get(number) not in options and not (number in rotten and number not in found):
            return f"shard {number} is {_show(found.get(number))}, not one of {[_show(one) for one in options]}"
        again = options[-1]
        if again is not None and (under_way or number in rotten):
            try:
                store.put(shard_of(number, again[0], again[1])).result(30)
            except ReedbedError as error:
                return f"shard {number} cannot be put again: {error}"
            if read_all(store, number) != again:
                return f"shard {number} was put again and is {_show(read_all(store, number))}"
    return ""


def _show(state: State) -> str:
    return "absent" if state is None else f"{len(state[0])} bytes of generation {state[1]}"
