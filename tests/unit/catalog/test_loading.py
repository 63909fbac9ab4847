"""Snapshots taken while the catalog changes, and what comes back of them: exactly the state at the last redo record.

The pieces lie in a dict; how they get onto a cluster and off it is the matter of test_copy_on_a_cluster.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog import chain, loading, pieces, snapshots
from reedbed.catalog.chain import Found
from reedbed.catalog.engine import Engine, RedoRecord
from reedbed.catalog.loading import Loaded
from reedbed.catalog.memory import MemoryEngine
from reedbed.catalog.pieces import END, HEAD_BYTES, NO_LINK, REDO, ROWS, Contents, Head
from reedbed.common.errors import Corrupt, DataLoss, InvalidArgument, Unavailable
from reedbed.common.ids import SNAPSHOT, STREAM, Id, make_block

CLUSTER, NAME = b"c" * 16, b"s" * 16


class Shelf:
    """A Source whose pieces are bytes in a dict; `broken` names extents that cannot be read."""

    def __init__(self) -> None:
        self.extents: dict[Id, bytes] = {}
        self.broken: dict[Id, Exception] = {}
        self.asked: list[Id | None] = []

    def put(self, head: Head, body: bytes, raw: int, owner: int) -> tuple[Head, Id]:
        head, data = pieces.piece(head, body, raw)
        id_ = Id(make_block(1, 1, owner) + len(self.extents).to_bytes(4, "big"))
        self.extents[id_] = data
        return head, id_

    async def find(self, begin: Id | None) -> list[Found]:
        self.asked.append(begin)
        heads = []
        for id_, data in self.extents.items():
            if begin is None or id_ >= begin:
                try:
                    head = pieces.decode_head(data, "x")
                except Corrupt:
                    continue
                if head.kind != ROWS:
                    heads.append((head, id_))
        return chain.merged(heads)

    async def body(self, found: Found) -> bytes:
        body = self._read(found.extents[0])[HEAD_BYTES:]
        pieces.check_body(found.head, body, "x")
        return body

    async def rows_piece(self, extent: Id) -> tuple[Head, bytes]:
        raw = self._read(extent)
        head = pieces.decode_head(raw, "x")
        pieces.check_body(head, raw[HEAD_BYTES:], "x")
        return head, raw[HEAD_BYTES:]

    def _read(self, extent: Id) -> bytes:
        if extent in self.broken:
            raise self.broken[extent]
        if extent not in self.extents:
            raise DataLoss("nowhere")
        return self.extents[extent]


class Catalog:
    """An engine, and its copy on a shelf, made step by step."""

    def __init__(self, shelf: Shelf | None = None) -> None:
        self.engine = MemoryEngine()
        self.shelf = shelf or Shelf()
        self.newest: Head | None = None
        self.runs: list[Id] = []
        self.ends: list[Id] = []

    def write(self, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        with self.engine.write() as writer:
            for key, value in changes:
                if value is None:
                    writer.delete(key)
                else:
                    writer.put(key, value)

    def ship(self, most: int = 1000, cut: int = pieces.BODY_MAX) -> None:
        """The next records, at most so many, as one run, in parts of `cut` bytes."""
        last = self.newest.last if self.newest else 0
        run = self.engine.read_redo(last, most)
        if not run:
            return
        packed = pieces.pack_run(run)
        bodies = [packed.body[at : at + cut] for at in range(0, len(packed.body), cut)]
        for part, body in enumerate(bodies):
            old = self.newest
            head = Head(
                REDO,
                CLUSTER,
                NAME,
                1,
                number=old.number + 1 if old else 1,
                part=part,
                parts=len(bodies),
                first=run[0].number,
                last=run[-1].number,
                previous=old.link if old else NO_LINK,
            )
            self.newest, id_ = self.shelf.put(head, body, packed.raw, STREAM)
            self.runs.append(id_)

    def snapshot(self, number: int, between: Callable[[], None] = lambda: None, cut: int = pieces.BODY_MAX) -> None:
        """Page by page; `between` is called after each, and may change the catalog."""
        first = self.engine.redo_position()
        written: list[Id] = []
        link, rows, after = NO_LINK, 0, b""
        while True:
            page, after = snapshots.read_page(self.engine, after)
            packed = pieces.pack_rows(page)
            bodies = [packed.body[at : at + cut] for at in range(0, len(packed.body), cut)]
            for index, body in enumerate(bodies):
                head = Head(ROWS, CLUSTER, NAME, 1, number, len(written), 0, index, len(bodies), previous=link)
                head, id_ = self.shelf.put(head, body, packed.raw, SNAPSHOT)
                written.append(id_)
                link = head.link
            rows += len(page)
            between()
            if not after:
                break
        last = self.engine.redo_position()
        while self.newest is None or self.newest.last < last:
            if self.engine.redo_position() == 0:
                break
            self.ship()
        contents = pieces.pack_contents(Contents(tuple(written), link, rows, 0))
        anchor = self.newest.link if self.newest else NO_LINK
        head = Head(END, CLUSTER, NAME, 1, number, 0, len(written), first, last, previous=anchor)
        self.ends.append(self.shelf.put(head, contents.body, contents.raw, STREAM)[1])

    def state_at(self, record: int) -> dict[bytes, bytes]:
        state: dict[bytes, bytes] = {}
        for one in self.engine.read_redo(0, record) if record else []:
            for key, value in one.changes:
                if value is None:
                    state.pop(key, None)
                else:
                    state[key] = value
        return state


def rows_of(engine: Engine) -> dict[bytes, bytes]:
    with engine.read() as reader:
        return dict(reader.scan(b""))


async def rebuilt(shelf: Shelf, begin: Id | None = None) -> tuple[Engine, Loaded] | None:
    return await loading.load_best(shelf, await shelf.find(begin), begin, MemoryEngine)


async def check(catalog: Catalog, expected: int | None = None) -> Loaded:
    """What comes back is the state at the last record that it says."""
    found = await rebuilt(catalog.shelf)
    assert found is not None
    engine, loaded = found
    assert rows_of(engine) == catalog.state_at(loaded.last)
    assert engine.redo_position() == loaded.last
    if expected is not None:
        assert loaded.last == expected
    return loaded


keys = st.integers(0, 9).map(lambda number: b"k%d" % number)
transactions = st.lists(st.tuples(keys, st.none() | st.binary(max_size=3)), min_size=1, max_size=4)


@settings(max_examples=150)
@given(
    before=st.lists(transactions, max_size=6),
    meanwhile=st.lists(st.lists(transactions, max_size=3), max_size=12),
    after=st.lists(transactions, max_size=5),
    runs=st.lists(st.integers(1, 4), max_size=8),
    cut=st.sampled_from([7, 30, pieces.BODY_MAX]),
)
async def test_a_snapshot_taken_amid_writes_becomes_the_state_at_the_last_record(
    before: list[list[tuple[bytes, bytes | None]]],
    meanwhile: list[list[list[tuple[bytes, bytes | None]]]],
    after: list[list[tuple[bytes, bytes | None]]],
    runs: list[int],
    cut: int,
) -> None:
    """Between any two pages anything may change, also what was read already, and runs may be shipped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "PAGE_ROWS", 2)
        catalog = Catalog()
        for changes in before:
            catalog.write(changes)
        steps = iter(meanwhile)
        pace = iter(runs)

        def between() -> None:
            for changes in next(steps, []):
                catalog.write(changes)
            if (most := next(pace, 0)) and catalog.engine.redo_position():
                catalog.ship(most, cut)

        catalog.snapshot(1, between, cut)
        for changes in after:
            catalog.write(changes)
            if most := next(pace, 0):
                catalog.ship(most, cut)
        shipped = catalog.newest.last if catalog.newest else 0
        await check(catalog, shipped)


def filled(rows: int = 20) -> Catalog:
    catalog = Catalog()
    for number in range(rows):
        catalog.write([(b"k%03d" % number, b"v%d" % number)])
    return catalog


async def test_without_any_copy_there_is_nothing_to_rebuild() -> None:
    assert await rebuilt(Shelf()) is None
    catalog = filled()
    catalog.ship()
    assert await rebuilt(catalog.shelf) is None  # redo without a snapshot says nothing of what came before


async def test_the_newer_of_two_snapshots_is_used_and_the_older_one_if_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "PAGE_ROWS", 5)
    catalog = filled()
    catalog.snapshot(1)
    catalog.write([(b"k003", None), (b"new", b"1")])
    catalog.ship()
    catalog.snapshot(2)
    catalog.write([(b"new", b"2")])
    catalog.ship()
    last = catalog.engine.redo_position()
    loaded = await check(catalog, last)
    assert loaded.plan.end.head.number == 2
    rows = [id_ for id_ in catalog.shelf.extents if pieces.decode_head(catalog.shelf.extents[id_], "x").number == 2]
    for broken in (DataLoss("gone"), Corrupt("altered"), Unavailable("away")):
        for piece in [id_ for id_ in rows if id_[6] >> 6 == SNAPSHOT] + catalog.ends[1:]:
            catalog.shelf.broken = {piece: broken}
            loaded = await check(catalog, last)
            assert (loaded.plan.end.head.number, loaded.records) == (1, last - 20)
    catalog.shelf.broken = {}


async def test_pieces_before_the_mark_are_looked_for_only_if_those_after_it_do_not_suffice() -> None:
    catalog = filled()
    catalog.snapshot(1)
    catalog.write([(b"new", b"1")])
    catalog.snapshot(2)
    begin = catalog.runs[1]
    found = await rebuilt(catalog.shelf, begin)
    assert found is not None
    assert found[1].plan.end.head.number == 2
    assert catalog.shelf.asked == [begin]
    catalog.shelf.broken = {catalog.ends[1]: DataLoss("gone")}
    found = await rebuilt(catalog.shelf, begin)
    assert found is not None
    assert found[1].plan.end.head.number == 1
    assert catalog.shelf.asked == [begin, begin, None]


async def test_what_follows_a_run_that_cannot_be_read_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "RUNS_AT_ONCE", 2)
    catalog = filled(5)
    catalog.snapshot(1)
    for number in range(6):
        catalog.write([(b"later%d" % number, b"x")])
        catalog.ship()
    for lost in range(1, 7):
        catalog.shelf.broken = {catalog.runs[lost]: DataLoss("gone")}
        loaded = await check(catalog, 5 + lost - 1)
        assert not loaded.whole
        assert "gone" in loaded.notes[0]
    # a run that the snapshot itself needs
    catalog.shelf.broken = {catalog.runs[0]: DataLoss("gone")}
    loaded = await check(catalog, 11)
    assert loaded.whole  # nothing changed while its pages were read


async def test_a_snapshot_whose_own_redo_is_lost_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pages hold halves of transactions that only the redo completes."""
    monkeypatch.setattr(snapshots, "PAGE_ROWS", 2)
    catalog = filled(6)
    catalog.ship()
    numbers = iter(range(10))
    catalog.snapshot(1, lambda: catalog.write([(b"k000", b"%d" % next(numbers)), (b"k005", b"x")]))
    await check(catalog)
    catalog.shelf.broken = {catalog.runs[-1]: DataLoss("gone")}
    assert await rebuilt(catalog.shelf) is None


def altered(catalog: Catalog, which: Id, change: Callable[[bytes], bytes]) -> None:
    catalog.shelf.extents[which] = change(catalog.shelf.extents[which])


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), lambda raw: b""])
async def test_altered_and_torn_pieces_never_pass(change: Callable[[bytes], bytes]) -> None:
    for what in ("rows", "end", "run"):
        catalog = filled()
        catalog.snapshot(1)
        catalog.write([(b"new", b"1")])
        catalog.ship()
        rows = [id_ for id_ in catalog.shelf.extents if id_[6] >> 6 == SNAPSHOT]
        altered(catalog, {"rows": rows[0], "end": catalog.ends[0], "run": catalog.runs[-1]}[what], change)
        found = await rebuilt(catalog.shelf)
        if what == "run":
            assert found is not None
            assert rows_of(found[0]) == catalog.state_at(20)
        else:
            assert found is None


async def test_a_piece_of_another_snapshot_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "PAGE_ROWS", 5)
    catalog = filled()
    catalog.snapshot(1)
    catalog.snapshot(2)
    rows = [id_ for id_ in catalog.shelf.extents if id_[6] >> 6 == SNAPSHOT]
    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    kept = dict(catalog.shelf.extents)
    for one, other in ((second[1], first[1]), (second[0], second[1]), (second[-1], second[0])):
        catalog.shelf.extents = {**kept, one: kept[other]}
        found = await rebuilt(catalog.shelf)
        assert found is not None
        assert found[1].plan.end.head.number == 1


async def test_a_run_that_holds_other_records_than_its_head_says_is_refused() -> None:
    catalog = filled(3)
    catalog.snapshot(1)
    packed = pieces.pack_run([RedoRecord(5, [(b"a", b"b")])])
    assert catalog.newest is not None
    head = replace(catalog.newest, number=catalog.newest.number + 1, first=4, last=4, previous=catalog.newest.link)
    catalog.shelf.put(head, packed.body, packed.raw, STREAM)
    loaded = await check(catalog, 3)
    assert "does not hold the records" in loaded.notes[0]


async def test_what_came_meanwhile_is_applied_too() -> None:
    catalog = filled()
    catalog.snapshot(1)
    found = await rebuilt(catalog.shelf)
    assert found is not None
    engine, loaded = found
    await loading.load_more(engine, catalog.shelf, loaded, await catalog.shelf.find(None))
    assert loaded.last == 20
    for number in range(3):
        catalog.write([(b"more%d" % number, b"x")])
        catalog.ship()
    await loading.load_more(engine, catalog.shelf, loaded, await catalog.shelf.find(None))
    assert loaded.last == 23
    assert rows_of(engine) == catalog.state_at(23)
    assert loaded.newest == catalog.newest


def test_records_are_loaded_many_in_one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "LOAD_BYTES", 10)
    engine = MemoryEngine()
    loading.load_records(engine, [RedoRecord(number, [(b"k%d" % number, b"v")]) for number in range(4, 20)])
    assert engine.redo_position() == 19
    assert len(rows_of(engine)) == 16
    with pytest.raises(InvalidArgument):
        loading.load_records(engine, [RedoRecord(3, [(b"k", b"v")])])
