"""What waits within an Edit: many operations in one commit leave what they leave one by one, whichever of them fail."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.catalog import audit, buckets, commits, extents, lacks
from reedbed.catalog.edit import Edit, editing
from reedbed.catalog.memory import MemoryEngine
from reedbed.catalog.records import SliceRow
from reedbed.common.ids import Id
from reedbed.protos import catalog_pb2 as pb

World = Any

KEYS = (b"a", b"b", b"c")
BUCKETS = ("data", "kept")

# What is done to which key in which bucket; with which of the extents, from which place on, and what is wrong with it
steps = st.tuples(
    st.sampled_from(["put", "put", "put", "delete", "copy", "two extents"]),
    st.sampled_from(KEYS),
    st.sampled_from(BUCKETS),
    st.integers(0, 2),
    st.integers(0, 3),
    st.sampled_from(["", "", "", "size", "exists", "outside", "unknown", "etag", "again"]),
)
histories = st.lists(st.lists(steps, min_size=1, max_size=8), min_size=1, max_size=4)


def made(make_world: Callable[[MemoryEngine], World]) -> World:
    world = make_world(MemoryEngine())
    world.bucket()
    world.bucket("kept", versioned=True)
    return world


def requests(world: World, history: list[Any]) -> list[tuple[list[pb.CommitOp], list[pb.Extent]]]:
    """The commits of a history. The same for every world, whose ids come in the same order."""
    # the second lacks nothing either, but has dead space from the start; the third is sparse while little is live
    brought = [world.extent(20, 20), world.extent(400, 400), world.extent(64_000, 0)]
    done: list[tuple[list[pb.CommitOp], list[pb.Extent]]] = []
    for batch in history:
        ops: list[pb.CommitOp] = []
        for what, key, bucket, which, place, wrong in batch:
            if wrong == "again" and ops:
                ops.append(ops[place % len(ops)])
                continue
            extent = brought[which]
            pieces = [pb.Slice(extent=extent.id, offset=10 * place, length=10)]
            if what == "two extents":
                pieces.append(pb.Slice(extent=brought[which - 1].id, offset=5, length=10))
            if wrong == "outside":
                pieces.append(pb.Slice(extent=brought[which - 1].id, offset=1 << 20, length=10))
            if wrong == "unknown":
                pieces.append(pb.Slice(extent=bytes([9]) * 16, offset=0, length=10))
            condition = {"if_none_match": wrong == "exists", "if_match": '"x"' if wrong == "etag" else ""}
            if what == "delete":
                ops.append(world.delete_op(key, bucket, **condition))
            elif what == "copy":
                ops.append(world.copy_op(KEYS[place % 3], key, BUCKETS[which % 2], bucket=bucket))
            else:
                more = {"size": 11 * len(pieces)} if wrong == "size" else {}
                ops.append(world.put_op(key, pieces, bucket, condition=condition, **more))
        done.append((ops, brought))
    return done


def rows(world: World) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = world.look(lambda reader: dict(reader.scan(b"")))
    return found


@settings(max_examples=150, deadline=None)
@given(history=histories, lost=st.sampled_from([0, 0b001, 0b100]))
def test_a_batch_leaves_what_its_operations_leave_one_by_one(make_world: Any, history: list[Any], lost: int) -> None:
    worlds = [made(make_world) for _ in range(3)]
    together, alone, one_transaction = worlds
    for world in worlds:
        world.judge.lost = lost
    outcomes: list[list[pb.Outcome]] = [[], [], []]
    for ops, brought in requests(together, history):
        outcomes[0] += together.commit(*ops, extents=brought)
    for ops, brought in requests(alone, history):
        outcomes[1] += [alone.one(op, *brought) for op in ops]
    with one_transaction.engine.write() as writer:  # as calls that the committer takes together
        for ops, brought in requests(one_transaction, history):
            for op in ops:
                request = pb.CommitRequest(ops=[op], extents=brought)
                with editing(writer, one_transaction.needs) as edit:
                    outcomes[2] += commits.apply(edit, request).outcomes
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert together.problems() == []
    assert rows(together) == rows(alone)
    assert rows(one_transaction) == rows(alone)


@pytest.fixture
def packed(world: World) -> pb.Extent:
    extent: pb.Extent = world.extent(50, 50)
    pieces = [pb.Slice(extent=extent.id, offset=10 * at, length=10) for at in range(4)]
    world.commit(*(world.put_op(b"%d" % at, [piece]) for at, piece in enumerate(pieces)), extents=[extent])
    return extent


def refs(edit: Edit, extent: pb.Extent) -> int:
    row = extents.get(edit.writer, Id(extent.id))
    assert row is not None
    return row.refs


def test_whoever_takes_the_writer_finds_what_waits(world: World, packed: pb.Extent) -> None:
    piece = SliceRow(packed.id, 0, 10)

    def change(edit: Edit) -> None:
        extents.acquire(edit, (piece,))
        assert edit.waiting
        assert refs(edit, packed) == 5
        assert not edit.waiting
        extents.release(edit, (piece,))
        assert refs(edit, packed) == 4

    world.change(change)
    assert world.problems() == []


class Undone(Exception):
    pass


def test_a_savepoint_takes_back_what_waited_and_what_was_written_of_it(world: World, packed: pb.Extent) -> None:
    piece = SliceRow(packed.id, 0, 10)

    def change(edit: Edit) -> None:
        extents.acquire(edit, (piece,))  # waits over both savepoints
        with suppress(Undone), edit.savepoint():
            extents.release(edit, (piece,) * 5)
            assert next(extents.dropped_ids(edit.writer, 1 << 60))[1] == packed.id
            raise Undone
        assert list(edit.waiting) == [packed.id]
        with suppress(Undone), edit.savepoint():
            assert refs(edit, packed) == 5  # written by this look alone
            raise Undone
        assert list(edit.waiting) == [packed.id]
        with suppress(Undone), edit.savepoint():
            extents.release(edit, (piece,))
            raise Undone
        assert refs(edit, packed) == 5
        assert not list(extents.dropped_ids(edit.writer, 1 << 60))
        extents.release(edit, (piece,))

    before = rows(world)
    world.change(change)
    assert rows(world) == before
    assert world.problems() == []


def test_one_commit_of_many_objects_writes_their_extent_once(world: World) -> None:
    extent = world.extent(50, 50)
    written: list[bytes] = []

    def change(edit: Edit) -> None:
        put = edit.rows.put
        edit.rows.put = lambda key, value: (written.append(key), put(key, value))[1]  # type: ignore[method-assign]
        pieces = [pb.Slice(extent=extent.id, offset=10 * at, length=10) for at in range(10)]
        ops = [world.put_op(b"%d" % at, [piece]) for at, piece in enumerate(pieces)]
        commits.apply(edit, pb.CommitRequest(ops=ops, extents=[extent]))
        edit.flush()

    world.change(change)
    assert sum(key.endswith(extent.id) and key[:1] in b"ey" for key in written) == 2


def test_a_row_that_waits_is_not_written_past(world: World, packed: pb.Extent) -> None:
    def change(edit: Edit) -> None:
        row = extents.get(edit.writer, Id(packed.id))
        assert row is not None
        extents.release(edit, (SliceRow(packed.id, 0, 10),))
        lacks.store(edit, Id(packed.id), row, row)

    with pytest.raises(AssertionError):
        world.change(change)


def test_a_bucket_that_was_looked_up_is_not_remembered_past_its_end(world: World) -> None:
    def change(edit: Edit) -> None:
        first = buckets.of(edit, "data")
        buckets.set_profile(edit, "data", "rs-4-2")
        assert buckets.of(edit, "data").profile == "rs-4-2" != first.profile
        buckets.delete(edit, "data")
        again = buckets.create(edit, "data", True, "rs-2-1")
        assert buckets.of(edit, "data") == again

    world.change(change)
    assert world.look(audit.check) == []
