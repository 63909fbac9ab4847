"""The shard store against a dict, through removals, reopenings, crashes, lost indexes and carried notes."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reedbed.common.errors import AlreadyExists, ReedbedError, StaleGeneration, UnknownShard
from reedbed.storaged.calls import Removal, RemoveOrder
from reedbed.storaged.disk_twin import MemoryDisk
from reedbed.storaged.index_lmdb import FOLDER
from reedbed.storaged.store import ShardStore
from tests.unit.storaged.conftest import extent, open_store, shard

NUMBERS = st.integers(1, 8)


def content(number: int, size: int) -> bytes:
    return random.Random(number * 100_003 + size).randbytes(size)


class StoreMachine(RuleBasedStateMachine):
    """model: what was acknowledged, as (bytes, generation). gone: what was removed, with the removal's generation."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="reedbed-store-"))
        self.disk = MemoryDisk(self.folder, capacity=1 << 30)
        self.model: dict[int, tuple[bytes, int]] = {}
        self.gone: dict[int, int] = {}
        self.generation = 1
        self.store: ShardStore

    @initialize()
    def begin(self) -> None:
        self.store = open_store(self.disk, segment_bytes=4096)

    def teardown(self) -> None:
        self.store.close(clean=False)
        shutil.rmtree(self.folder)

    @rule(number=NUMBERS, size=st.integers(1, 3000), old=st.booleans())
    def put(self, number: int, size: int, old: bool) -> None:
        data = content(number, size)
        generation = self.generation - old
        try:
            added = self.store.put(shard(number, data, generation=generation)).result(10)
        except StaleGeneration:
            assert generation < self.generation
        except AlreadyExists:
            assert (number in self.model and self.model[number][0] != data) or self.gone.get(number, -1) >= generation
        else:
            assert added == (number not in self.model)
            if number in self.model:
                assert self.model[number][0] == data
                generation = max(generation, self.model[number][1])
            self.model[number] = (data, generation)

    @rule(numbers=st.lists(NUMBERS, max_size=4), back=st.integers(0, 1))
    def remove(self, numbers: list[int], back: int) -> None:
        generation = self.generation - back
        orders = [RemoveOrder(extent(number), 0, 1, generation) for number in numbers]
        for number, outcome in zip(numbers, self.store.remove(orders, 1), strict=True):
            if number not in self.model:
                assert outcome is Removal.UNKNOWN
            elif self.model[number][1] > generation:
                assert outcome is Removal.KEPT
            else:
                assert outcome is Removal.REMOVED
                del self.model[number]
                self.gone[number] = generation

    @rule()
    def next_generation(self) -> None:
        self.generation += 1
        self.store.note_generation(1, self.generation)

    @rule()
    def checkpoint(self) -> None:
        assert self.store.checkpoint()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = open_store(self.disk, segment_bytes=4096)
        assert self.store.status().counters == {}

    @rule(seed=st.integers(0, 1 << 30), lose_index=st.booleans(), checkpoint=st.booleans())
    def crash(self, seed: int, lose_index: bool, checkpoint: bool) -> None:
        if checkpoint:
            self.store.checkpoint()
        self._reopen_after_crash(seed, lose_index)

    @rule(number=NUMBERS, size=st.integers(1, 3000), seed=st.integers(0, 1 << 30))
    def crash_within_put(self, number: int, size: int, seed: int) -> None:
        """The write of a batch reaches the disk in part. (Without its index a device would keep the torn bytes.)"""

        def fail(operation: str, name: str) -> None:
            if operation == "sync" and name.startswith("segments/"):
                self.disk.stop()
                raise OSError(5, "the power is gone")

        before = dict(self.model)
        self.disk.fail = fail
        new = shard(number, content(number, size), generation=self.generation)
        with contextlib.suppress(ReedbedError):
            self.store.put(new).result(10)
        self.disk.fail = None
        self._reopen_after_crash(seed, lose_index=False)
        found = {info.extent: info for info in self.store.list()}
        data = content(number, size)
        same = extent(number) in found and before.get(number, (data, 0))[0] == data
        if same and (number not in before or found[extent(number)].generation == self.generation):
            # not acknowledged, but whole; of a shard that was there, its renewal
            self.model[number] = (data, self.generation)

    def _reopen_after_crash(self, seed: int, lose_index: bool) -> None:
        after = self.disk.crash(random.Random(seed))
        self.store.close(clean=False)
        if lose_index:
            shutil.rmtree(self.folder / FOLDER)
        self.disk = after
        self.store = open_store(self.disk, segment_bytes=4096)

    @invariant()
    def holds_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        listed = {info.extent: info for info in self.store.list()}
        assert set(listed) == {extent(number) for number in self.model}
        for number, (data, generation) in self.model.items():
            assert bytes(self.store.read(extent(number), 0, 0, len(data)).data) == data
            assert listed[extent(number)].generation == generation
        for number in self.gone:
            if number not in self.model:
                try:
                    self.store.read(extent(number), 0, 0, 1)
                except UnknownShard:
                    continue
                raise AssertionError("a removed shard came back")
        status = self.store.status()
        assert status.shards == len(self.model)
        assert status.damaged == 0
        assert not status.failed
        assert self.store.generation(1) >= (self.generation if self.generation > 1 else 0)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
