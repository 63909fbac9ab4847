"""Puts and reads: what is accepted, what is refused with which name, group commit, ranges and rows."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.common.checksums import block_sum
from reedbed.common.clock import Deadline, ManualClock
from reedbed.common.errors import (
    AlreadyExists,
    Corrupt,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    StaleGeneration,
    Unavailable,
    UnknownShard,
)
from reedbed.extents.blocks import build_table, pack_table, unpack_table
from reedbed.storaged.batch import check_blocks, check_put
from reedbed.storaged.calls import PutShard, ReadShard, Removal, RemoveOrder, Rows
from reedbed.storaged.disk_twin import MemoryDisk
from reedbed.storaged.entries import LIVE, REMOVED, Entry, shard_key
from reedbed.storaged.index_lmdb import FOLDER
from reedbed.storaged.segments import segment_name
from reedbed.storaged.store import ShardStore
from tests.unit.storaged.conftest import extent, forget_rows, open_store, shard, table_of


class Held:
    """Holds the next sync of a segment until it is let go."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.reached = threading.Event()
        self._go = threading.Event()
        self._disk = disk
        disk.fail = self._check

    def _check(self, operation: str, name: str) -> None:
        if operation == "sync" and name.startswith("segments/") and not self._go.is_set():
            self.reached.set()
            self._disk.mutex.release()
            self._go.wait(10)
            self._disk.mutex.acquire()

    def let_go(self) -> None:
        self._disk.fail = None
        self._go.set()


def test_waiting_puts_share_one_sync(opened: Callable[..., ShardStore], disk: MemoryDisk, data: bytes) -> None:
    store = opened(segment_bytes=1 << 20)
    store.put(shard(1, data)).result(5)
    held = Held(disk)
    first = store.put(shard(2, data))
    assert held.reached.wait(5)
    waiting = [store.put(shard(number, b"x" * 20)) for number in range(3, 33)]
    name = "segments/0000000000000001.seg"
    before = disk.counts[f"sync {name}"], disk.counts[f"write {name}"]
    held.let_go()
    assert [one.result(5) for one in waiting] == [True] * 30
    assert first.result(5)
    assert (disk.counts[f"sync {name}"] - before[0], disk.counts[f"write {name}"] - before[1]) == (1, 1)


def test_a_put_is_neither_answered_nor_read_before_its_sync(store: ShardStore, disk: MemoryDisk, data: bytes) -> None:
    store.put(shard(1, data)).result(5)
    held = Held(disk)
    waiting = store.put(shard(2, data))
    assert held.reached.wait(5)
    assert not waiting.done()
    with pytest.raises(UnknownShard):
        store.read(extent(2), 0, 0, 1)
    held.let_go()
    assert waiting.result(5)
    assert store.read(extent(2), 0, 0, 1).data == data[:1]


def test_the_same_shard_again_succeeds_and_another_content_is_refused(store: ShardStore, data: bytes) -> None:
    both = [store.put(shard(1, data)), store.put(shard(1, data))]
    assert sorted(one.result(5) for one in both) == [False, True]
    used = store.status().used
    assert store.put(shard(1, data)).result(5) is False
    assert store.status().used == used
    for other in (data + b"x", data[:-1] + bytes([data[-1] ^ 1])):
        with pytest.raises(AlreadyExists):
            store.put(shard(1, other)).result(5)
    with pytest.raises(AlreadyExists):
        store.put(shard(1, data, block=512)).result(5)
    assert store.status().shards == 1


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_shard_put_again_under_a_newer_generation_is_safe_from_older_orders(
    opened: Callable[..., ShardStore], data: bytes, checkpoint: bool
) -> None:
    store = opened()
    store.put(shard(1, data, generation=3)).result(5)
    assert store.put(shard(1, data, generation=5)).result(5) is False
    if checkpoint:
        store.checkpoint()
    store.close(clean=False)
    store = opened()
    assert store.remove([RemoveOrder(extent(1), 0, 1, 4)], 1) == [Removal.KEPT]
    assert store.remove([RemoveOrder(extent(1), 0, 2, 9)], 1) == [Removal.KEPT]  # another PG
    assert store.read(extent(1), 0, 0, 5).data == data[:5]
    assert store.remove([RemoveOrder(extent(1), 0, 1, 5)], 1) == [Removal.REMOVED]


def test_a_renewal_outdoes_an_older_one_that_is_carried_with_it(
    opened: Callable[..., ShardStore], disk: MemoryDisk, data: bytes
) -> None:
    """Both are about the same record and share a batch: what the store knew before it is old by then."""
    store = opened(segment_bytes=4096, checkpoint_seconds=3600.0)
    fill = [b"x" * 1000] * 4
    for number, blob in enumerate([data, *fill[:3]], 1):  # segment 1
        store.put(shard(number, blob, generation=1)).result(5)
    for number, blob in enumerate(fill, 11):  # segment 2, and the shard's renewal in it
        store.put(shard(number, blob, generation=3)).result(5)
        if number == 11:
            store.put(shard(1, data, generation=3)).result(5)
    for number, blob in enumerate(fill, 21):
        store.put(shard(number, blob, generation=3)).result(5)
    everywhere = {number: store._book.get(shard_key(extent(number), 0)) for number in (2, 3, 4, 11, 12, 13, 14)}
    second = [number for number, entry in everywhere.items() if entry is not None and entry.segment == 2]
    store.remove([RemoveOrder(extent(number), 0, 1, 3) for number in second], 1)
    held = Held(disk)
    first = store.put(shard(31, b"y", generation=3))
    assert held.reached.wait(5)
    renewed = store.put(shard(1, data, generation=8))
    assert store.checkpoint()  # nothing lives in segment 2, so the older renewal leaves it
    held.let_go()
    assert first.result(5)
    assert not renewed.result(5)
    assert store.checkpoint()
    assert segment_name(2) not in disk.all_names()
    store.put(shard(41, b"z" * 4000, generation=8)).result(5)  # a new segment: the renewal leaves its own as well
    for _ in range(2):
        assert store.checkpoint()
        store.remove([], 1)
    assert segment_name(5) not in disk.all_names()
    store.close()
    shutil.rmtree(disk.root / FOLDER)
    store = opened()
    assert [info.generation for info in store.list() if info.extent == extent(1)] == [8]
    assert store.remove([RemoveOrder(extent(1), 0, 1, 7)], 1) == [Removal.KEPT]


def test_an_older_generation_is_refused(store: ShardStore, data: bytes) -> None:
    store.put(shard(1, data, pg=4, generation=3)).result(5)
    with pytest.raises(StaleGeneration):
        store.put(shard(2, data, pg=4, generation=2)).result(5)
    store.note_generation(4, 8)
    with pytest.raises(StaleGeneration):
        store.put(shard(2, data, pg=4, generation=7)).result(5)
    store.put(shard(2, data, pg=4, generation=8)).result(5)


def test_bytes_that_do_not_match_their_sums_are_refused(store: ShardStore, data: bytes) -> None:
    good = shard(1, data, block=100)
    for bad in (
        dataclasses.replace(good, payload=[data[:500], b"?" + data[501:]]),
        dataclasses.replace(good, payload=[data[:-1]]),
        dataclasses.replace(good, extent=extent(2)),
        dataclasses.replace(good, index=1),
    ):
        with pytest.raises(Corrupt):
            store.put(bad).result(5)
    assert store.status().shards == 0
    assert store.status().used == 0


@pytest.mark.parametrize(
    "change",
    [
        {"extent": b"short"},
        {"index": 6},
        {"index": -1},
        {"k": 0},
        {"k": 33},
        {"m": 9},
        {"pg": -1},
        {"pg": 1 << 32},
        {"generation": 1 << 64},
        {"log_seq": -1},
        {"index": 4},
        {"data_tables": (b"",) * 4},
        {"table": pack_table([(0, 0)])},
        {"table": pack_table([(65537, 0)])},
        {"table": pack_table([(1000, 0), (0, 0)])},
        {"table": b"1234567"},
        {"index": 5, "data_tables": [b"", b"", b"1", b""]},
        {"index": 5, "data_tables": [b"", b"", pack_table([(65537, 0)]), b""]},
    ],
)
def test_impossible_puts_are_invalid(store: ShardStore, data: bytes, change: dict[str, object]) -> None:
    with pytest.raises((InvalidArgument, Corrupt)):
        store.put(dataclasses.replace(shard(1, data), **change)).result(5)  # type: ignore[arg-type]
    assert store.put(shard(1, data)).result(5)


def test_too_many_waiting_bytes_are_refused(opened: Callable[..., ShardStore], disk: MemoryDisk, data: bytes) -> None:
    store = opened(queue_bytes=5000)
    store.put(shard(1, data)).result(5)
    held = Held(disk)
    store.put(shard(2, data))
    assert held.reached.wait(5)
    taken = [store.put(shard(number, data)) for number in range(3, 7)]
    with pytest.raises(ResourceExhausted):
        store.put(shard(7, data))
    held.let_go()
    assert all(one.result(5) for one in taken)


def test_cancelled_and_late_puts_are_dropped(store: ShardStore, disk: MemoryDisk, data: bytes) -> None:
    store.put(shard(1, data)).result(5)
    clock = ManualClock()
    held = Held(disk)
    store.put(shard(2, data))
    assert held.reached.wait(5)
    cancelled = store.put(shard(3, data))
    late = store.put(dataclasses.replace(shard(4, data), deadline=Deadline(1.0, clock)))
    kept = store.put(dataclasses.replace(shard(5, data), deadline=Deadline(9.0, clock)))
    assert cancelled.cancel()
    clock.advance(2.0)
    held.let_go()
    assert kept.result(5)
    with pytest.raises(DeadlineExceeded):
        late.result(5)
    assert [info.extent for info in store.list()] == [extent(1), extent(2), extent(5)]


def test_a_closed_store_takes_nothing(disk: MemoryDisk, data: bytes) -> None:
    store = open_store(disk)
    waiting = [store.put(shard(number, data)) for number in range(20)]
    store.close()
    assert all(one.result(0) for one in waiting)
    with pytest.raises(Unavailable):
        store.put(shard(1, data))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 4000), max_size=4),
    drawn=st.data(),
)
def test_ranges_and_their_rows(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], cuts: list[int], drawn: st.DataObject
) -> None:
    """Any block lengths, any buffers, any range: the bytes are right and the rows cover exactly them."""
    data = os.urandom(sum(lengths))
    starts = [sum(lengths[:at]) for at in range(len(lengths) + 1)]
    table = [
        (length, block_sum(extent(1), 2, block, data[starts[block] : starts[block + 1]]))
        for block, length in enumerate(lengths)
    ]
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    payload = [memoryview(data)[low:high] for low, high in pairwise(edges)]
    offset = drawn.draw(st.integers(0, len(data)))
    length = drawn.draw(st.integers(0, len(data) - offset))
    store = open_store(MemoryDisk(tmp_path_factory.mktemp("store")))
    try:
        store.put(PutShard(extent(1), 2, 4, 2, 1, 1, pack_table(table), payload)).result(5)
        result = store.read(extent(1), 2, offset, length)
        assert bytes(result.data) == data[offset : offset + length]
        assert (result.offset, result.shard_length) == (offset, len(data))
        rows = unpack_table(result.rows.table)
        assert sum(row[0] for row in rows) == length
        at = 0
        for block, (size, sum_) in enumerate(rows, result.rows.first_block):
            assert block_sum(extent(1), 2, block, result.data[at : at + size]) == sum_
            assert starts[block] <= offset + at < starts[block + 1]
            at += size
        with pytest.raises(InvalidArgument):
            store.read(extent(1), 2, offset, len(data) - offset + 1)
    finally:
        store.close(clean=False)


def test_a_parity_shard_tells_rows_of_data_shards(store: ShardStore) -> None:
    pieces = [os.urandom(size) for size in (300, 250, 0, 90)]
    tables = tuple(table_of(extent(1), index, piece, 100) for index, piece in enumerate(pieces))
    store.put(shard(1, os.urandom(300), 5, data_tables=tables)).result(5)
    found = store.read(extent(1), 5, 150, 100, (0, 1, 2, 3)).data_rows
    assert found == {
        0: Rows(1, 100, pack_table(tables[0][1:3])),
        1: Rows(1, 100, pack_table(tables[1][1:3])),
        2: Rows(),
        3: Rows(),
    }
    answer = store.read_many([ReadShard(extent(1), 5, 0, 0, (3,), (10, 1))])[0]
    assert not isinstance(answer, Exception)
    assert answer.data_rows == {3: Rows(0, 0, pack_table(tables[3]))}
    assert len(answer.data) == 0
    for index, rows in ((5, (4,)), (5, (-1,))):
        with pytest.raises(InvalidArgument):
            store.read(extent(1), index, 0, 1, rows)
    store.put(shard(2, b"data")).result(5)
    with pytest.raises(InvalidArgument):
        store.read(extent(2), 0, 0, 1, (0,))


def test_one_bad_read_of_many_spoils_no_other(store: ShardStore, data: bytes) -> None:
    store.put(shard(1, data)).result(5)
    asked = [ReadShard(extent(1), 0, 0, 10), ReadShard(extent(9), 0, 0, 1), ReadShard(extent(1), 0, 0, 5000)]
    one, two, three = store.read_many(asked)
    assert not isinstance(one, Exception)
    assert one.data == data[:10]
    assert isinstance(two, UnknownShard)
    assert isinstance(three, InvalidArgument)


def test_a_listing_comes_in_order_in_pages(opened: Callable[..., ShardStore], data: bytes) -> None:
    store = opened()
    numbers = [5, 3, 9, 1, 7]
    for number in numbers[:3]:
        store.put(shard(number, data, number % 4)).result(5)
    store.checkpoint()
    for number in numbers[3:]:
        store.put(shard(number, data, number % 4)).result(5)
    store.remove([RemoveOrder(extent(3), 3, 1, 1)], 1)
    expected = [(extent(number), number % 4) for number in (1, 5, 7, 9)]
    assert [(info.extent, info.index) for info in store.list()] == expected
    paged = []
    after = None
    while page := store.list(after, 2):
        after = (page[-1].extent, page[-1].index)
        paged.extend((info.extent, info.index) for info in page)
    assert paged == expected


def test_many_threads_at_once(store: ShardStore) -> None:
    problems: list[BaseException] = []

    def work(base: int) -> None:
        try:
            for number in range(base, base + 30):
                data = os.urandom(200)
                store.put(shard(number, data)).result(10)
                assert store.read(extent(number), 0, 0, 200).data == data
                if number % 3 == 0:
                    store.remove([RemoveOrder(extent(number), 0, 1, 1)], 1)
                if number % 10 == 0:
                    store.checkpoint()
        except BaseException as error:
            problems.append(error)
            raise

    threads = [threading.Thread(target=work, args=(1000 * base,)) for base in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not problems
    assert store.status().shards == 6 * 20
    assert store.status().damaged == 0


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    cuts=st.lists(st.integers(0, 320), max_size=5),
    drawn=st.data(),
)
def test_the_bad_block_of_a_put_is_named(lengths: list[int], cuts: list[int], drawn: st.DataObject) -> None:
    """However the payload is cut into buffers, empty ones among them."""
    data = bytearray(os.urandom(sum(lengths)))
    table = build_table(extent(1), 2, [bytes(data)], lengths)
    edges = sorted([0, len(data), *(cut for cut in cuts if cut < len(data))])
    payload = [memoryview(data)[low:high] for low, high in pairwise(edges)]
    put = PutShard(extent(1), 2, 4, 2, 1, 1, table, payload)
    check_blocks(put, *check_put(put))
    at = drawn.draw(st.integers(0, len(data) - 1))
    data[at] ^= 1 << drawn.draw(st.integers(0, 7))
    block = next(number for number in range(len(lengths)) if at < sum(lengths[: number + 1]))
    with pytest.raises(Corrupt, match=f"block {block} does not match"):
        check_blocks(put, *check_put(put))


def test_a_row_looked_up_while_a_checkpoint_ends_is_not_kept(
    opened: Callable[..., ShardStore], data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the row before: nobody may see that again."""
    store = opened()
    store.put(shard(1, data)).result(5)
    store.checkpoint()
    book, key = store._book, shard_key(extent(1), 0)
    plain = store._index.get_many

    def slow(keys: list[bytes]) -> list[Entry | None]:
        rows = plain(keys)
        monkeypatch.setattr(store._index, "get_many", plain)
        store.remove([RemoveOrder(extent(1), 0, 1, 1)], 1)
        store.checkpoint()
        store.put(shard(2, data)).result(5)
        store.checkpoint()  # what the one before wrote is not remembered any more
        return rows

    forget_rows(store)
    monkeypatch.setattr(store._index, "get_many", slow)
    (before,) = book.get_many([key])
    assert before is not None
    assert before.state == LIVE
    (now,) = book.get_many([key])
    assert now is not None
    assert now.state == REMOVED


def test_what_is_known_of_the_index_follows_every_checkpoint(
    opened: Callable[..., ShardStore], data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reedbed.storaged.book.KNOWN", 3)
    store = opened()
    for turn in (1, 2, 3):
        for number in range(1, 6):
            store.put(shard(number, data, generation=turn)).result(5)
        store.checkpoint()
        keys = [shard_key(extent(number), 0) for number in range(1, 7)]
        assert [row and row.generation for row in store._book.get_many(keys)] == [turn] * 5 + [None]
        assert len(store._book._known) == 3
        assert store._book.known(keys[:5]) is None, "there were too many"
        assert store._book.known([shard_key(extent(9), 0)]) == [None], "the index holds nothing so new"
    store._book.get_many(keys[:2])
    store.remove([RemoveOrder(extent(number), 0, 1, 3) for number in (1, 5)], 1)
    store.checkpoint()
    found = store._book.known([keys[0], keys[4]])
    assert found is not None, "the checkpoint leaves what it wrote in memory"
    assert [row.state for row in found if row is not None] == [REMOVED] * 2
    assert [info.extent for info in store.list()] == [extent(number) for number in (2, 3, 4)]
    with pytest.raises(UnknownShard):
        store.read(extent(5), 0, 0, 1)
