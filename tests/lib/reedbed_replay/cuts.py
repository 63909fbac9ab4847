"""Runs of a device's life, and power cut behind each of their events.

A run of puts, removals, renewals, heals, checkpoints, segment changes, notes of terms and generations, clean stops
and starts is recorded. Power is cut behind each of its events, in several manners each; the device is opened on what is
left, and again on what a second cut within that opening leaves.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reedbed.common.errors import DamagedShard, ReedbedError
from reedbed.storaged.disk_twin import MemoryDisk
from reedbed.storaged.index_check import find_damage
from reedbed.storaged.options import StoreOptions
from reedbed.storaged.record import HEAD
from reedbed.storaged.segments import segment_name, segment_numbers
from reedbed.storaged.store import ShardStore
from reedbed_replay.disk import RecordingDisk, disk_of, recorded_index
from reedbed_replay.events import Event, ImageBegin, ImageDone, Journal, Write
from reedbed_replay.model import Driver, Promises, find_fault
from reedbed_replay.platter import FIXED, Left, Platter

SEGMENT = 4096
STEPS = 40
KINDS = ["put", "put", "put", "remove", "remove", "renew", "note", "checkpoint", "checkpoint", "heal"]
# Power is cut; cut again while the device is opened; the process is killed and power cut later; the index is lost too
HOWS = ["once", "twice", "killed", "no index"]
CLUSTER = bytes(range(16))
# Small segments, checkpoints only when asked for, and the index checked within this process
OPTIONS: dict[str, Any] = {
    "segment_bytes": SEGMENT,
    "reserve_bytes": 2048,
    "checkpoint_seconds": 3600.0,
    "check_index": find_damage,
}


def open_store(disk: RecordingDisk, **changes: Any) -> ShardStore:
    return ShardStore.open(disk, CLUSTER, options=StoreOptions(**{**OPTIONS, **changes}))


@contextmanager
def a_folder() -> Iterator[Path]:
    """In memory where that is possible: LMDB's real syncs would take most of the time."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="reedbed-cut-", dir=memory if memory.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded run, what it promised, and the sites of syncs that it passed."""

    journal: Journal
    promises: Promises
    sites: set[str]


def content(number: int, size: int) -> bytes:
    return random.Random(number * 100_003 + size).randbytes(size)


def record(seed: int, steps: int, forget: Collection[str] = (), *, rows: int = 1 << 20) -> Run:
    """One run of a device's life. All sizes and choices come from the seed.

    rows: so many in memory make the store's own thread write a checkpoint, at any moment.
    """
    changes: dict[str, Any] = {"checkpoint_rows": rows}
    rng = random.Random(seed)
    with a_folder() as root:
        disk = RecordingDisk(MemoryDisk(root, capacity=1 << 30), forget)
        driver = Driver(disk)
        with recorded_index(disk):
            driver.opened(open_store(disk, **changes))
            if rows < 1 << 20:
                driver.keeping_itself()
            try:
                _live(driver, disk, rng, steps, changes)
            finally:
                driver.store.close(clean=False)
    return Run(disk.journal, driver.promises, disk.sites)


def _live(driver: Driver, disk: RecordingDisk, rng: random.Random, steps: int, changes: dict[str, Any]) -> None:
    generation = term = 1
    newest = 0
    driver.note_term(term)
    driver.note_generation(generation)
    for step in range(steps):
        here = [number for number, state in driver.contents.items() if state is not None]
        match rng.choice(KINDS):
            case "put":
                fresh = range(newest + 1, newest + 1 + rng.randrange(1, 4))
                newest = fresh[-1]
                driver.put({number: content(number, rng.choice([1, 90, 800, 1800])) for number in fresh}, generation)
            case "remove" if here:
                driver.remove(rng.sample(here, rng.randrange(1, len(here) + 1)), generation, term)
            case "renew" if here:
                generation += 1
                if rng.random() < 0.5:
                    driver.note_generation(generation)
                renewed = rng.sample(here, min(2, len(here)))
                driver.put({number: state[0] for number in renewed if (state := driver.contents[number])}, generation)
            case "note":
                term += 1
                driver.note_term(term)
            case "checkpoint":
                driver.checkpoint(term)
            case "heal" if here:
                _heal(driver, disk, rng.choice(here))
            case _:
                pass
        if step % 12 == 11:
            driver.store.close(clean=step % 24 == 11)
            driver.opened(open_store(disk, **changes))


def _heal(driver: Driver, disk: RecordingDisk, number: int) -> None:
    """A byte rots, a read finds it, and the shard is put again at once under its own generation."""
    state = driver.contents[number]
    assert state is not None
    data, generation = state
    if generation < driver.store.generation(1):
        return
    for segment in segment_numbers(disk):
        whole = bytes(disk.inner.content(segment_name(segment)))
        at = whole.find(data)
        if at >= HEAD and len(data) > 50:
            driver.promises.rot(number, disk.journal.position)
            disk.rot(segment_name(segment), at + len(data) // 2, 0x40)
            with pytest.raises(DamagedShard):
                driver.store.read(number.to_bytes(16, "big"), 0, 0, len(data))  # type: ignore[arg-type]
            driver.put({number: data}, generation)
            return


@dataclass(frozen=True, slots=True)
class Cuts:
    """How a run is tried: `forget` as in `record`, also while a device is opened again.

    chances: states left to chance behind each event (more behind a write), beyond those that need none. stride: every
    how many events.
    """

    forget: Collection[str] = ()
    chances: int = 1
    stride: int = 1


def first_fault(run: Run, cuts: Cuts) -> str:
    """Cuts power behind the events of a run. Where, in which manner, and what was wrong; or nothing."""
    platter = Platter()
    seen: set[int] = set()
    for cut in range(1, run.journal.position + 1):
        feed(platter, run.journal.events, cut - 1, cut)
        if cut % cuts.stride:
            continue
        # behind a write there is most to tear
        chances = cuts.chances * (6 if isinstance(run.journal.events[cut - 1], Write) else 1)
        for manner in [*range(FIXED), *(FIXED + cut * 1000 + chance for chance in range(chances))]:
            left = platter.cut(manner)
            how = HOWS[manner % len(HOWS)] if manner >= FIXED else "once"
            key = hash((how, left.image, *sorted(left.files.items())))
            if key in seen:
                continue
            seen.add(key)
            fault = opened_after(how, platter, left, run.promises, cut, manner, cuts.forget)
            if fault:
                event = str(run.journal.events[cut - 1])[:120]
                return f"{how}, cut {cut} behind {event}, manner {manner}: {fault}"
    return ""


def opened_after(
    how: str, platter: Platter, left: Left, promises: Promises, cut: int, seed: int, forget: Collection[str]
) -> str:
    """What is wrong with a device after one of HOWS, the empty string if nothing is."""
    with a_folder() as folder:
        (folder / "a").mkdir()
        if how in ("twice", "killed"):
            before = platter.fork() if how == "killed" else Platter.holding(left)
            disk = RecordingDisk(disk_of(before.live(), folder / "a"), forget, before)
            with recorded_index(disk):
                try:
                    open_store(disk).close(clean=seed % 3 == 0)
                except ReedbedError as error:
                    return f"it does not open: {error}"
            feed(before, disk.journal.events, 0, random.Random(seed).randint(0, disk.journal.position))
            left = before.cut(seed)
        elif how == "no index":
            left.image = None
        (folder / "b").mkdir()
        disk = RecordingDisk(disk_of(left, folder / "b"), forget, Platter.holding(left))
        try:
            store = open_store(disk)
        except ReedbedError as error:
            return f"it does not open: {error}"
        try:
            fault = find_fault(store, promises, cut, torn=seed >= FIXED, no_index=how == "no index")
        finally:
            store.close()
        return fault or _opened_once_more(disk)


def _opened_once_more(disk: RecordingDisk) -> str:
    """After the clean stop, with the index and without it, the device says the same."""
    told = []
    for lost in (False, True):
        if lost:
            shutil.rmtree(disk.root / "index")
        store = open_store(disk)
        told.append([(info.extent, info.generation, info.length) for info in store.list(limit=10_000)])
        store.close()
    return "" if told[0] == told[1] else f"the index says {told[0]}, the segments say {told[1]}"


def feed(platter: Platter, events: Sequence[Event], begin: int, end: int) -> None:
    """Hand events over, with what each LMDB transaction will leave."""
    for at in range(begin, end):
        following = None
        if isinstance(events[at], ImageBegin):
            following = next((one.image for one in events[at:] if isinstance(one, ImageDone)), None)
        platter.feed(events[at], following)
