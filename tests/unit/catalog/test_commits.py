"""Commits one by one: conditions, idempotence, versions, copies, and what extents may be named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reedbed.catalog import extents, lacks, outcomes
from reedbed.catalog.edit import Edit
from reedbed.catalog.operations import operation_from_message
from reedbed.catalog.records import OutcomeRow, VersionRow
from reedbed.common.ids import Id, format_id, make_block
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos.types import etag_of

World = Any


def piece(extent: pb.Extent, offset: int = 0, length: int = 10) -> pb.Slice:
    return pb.Slice(extent=extent.id, offset=offset, length=length)


def etag(outcome: pb.Outcome) -> str:
    return etag_of(format_id(outcome.info.version))


def test_put_then_lookup_gives_what_was_put(world: World) -> None:
    made = world.put(b"k", 10, checksum=7, content_type="text/plain", metadata={"a": "b"})
    found = world.find(b"k")
    assert found.info == made.info
    assert (found.info.size, found.info.checksum, found.info.content_type) == (10, 7, "text/plain")
    assert dict(found.info.metadata) == {"a": "b"}
    assert [slice_.length for slice_ in found.slices] == [10]
    assert (found.extents[0].present, list(found.extents[0].lengths)) == (0b101, [10, 0])
    assert list(world.find(b"k", slices=False).info.actual_profiles) == ["rs-2-1"]
    assert world.problems() == []


def test_an_overwrite_drops_the_old_extent_and_keeps_its_row(world: World) -> None:
    world.put(b"k")
    old = world.find(b"k").extents[0]
    world.put(b"k", 20)
    assert world.look(lambda reader: extents.get(reader, Id(old.id))).dropped_ms == world.leases.time_ms
    queue = world.look(lambda reader: extents.dropped(reader, world.leases.time_ms + 1, 9))
    assert [entry.id for entry in queue] == [old.id]
    assert world.find(b"k").info.size == 20
    assert world.problems() == []


def dropped(world: World) -> list[Id]:
    return [entry.id for entry in world.look(lambda reader: extents.dropped(reader, world.leases.time_ms + 1, 9))]


def test_objects_packed_together_share_no_fate_if_the_first_is_deleted_before_the_next_is_committed(
    world: World,
) -> None:
    extent = world.extent(10, 10)
    world.one(world.put_op(b"a", [piece(extent)]), extent)
    world.one(world.delete_op(b"a"))
    assert dropped(world) == [extent.id]
    world.leases.time_ms += 1
    assert not world.one(world.put_op(b"b", [piece(extent, 10)]), extent).error.code
    assert dropped(world) == []
    assert world.find(b"b").extents[0].id == extent.id
    row = world.look(lambda reader: extents.get(reader, Id(extent.id)))
    assert (row.refs, row.live, row.present, row.dropped_ms) == (1, 10, 0b111, None)
    assert world.problems() == []
    world.one(world.delete_op(b"b"))
    assert dropped(world) == [extent.id]
    assert world.problems() == []


def test_a_dropped_extent_is_judged_anew_when_it_comes_back(world: World) -> None:
    extent = world.extent(10, 10)
    world.one(world.put_op(b"a", [piece(extent)]), extent)
    world.one(world.delete_op(b"a"))
    world.judge.lost = 0b011
    assert world.one(world.put_op(b"b", [piece(extent, 10)]), extent).error.code == "Unavailable"
    world.judge.lost = 0
    world.judge.unknown_pgs = {1}
    assert world.one(world.put_op(b"b", [piece(extent, 10)]), extent).error.code == "StaleGeneration"
    world.judge.unknown_pgs = set()
    other = pb.Extent.FromString(extent.SerializeToString())
    other.lengths[:] = [20, 0]
    assert world.one(world.put_op(b"b", [piece(other, 10)]), other).error.code == "InvalidArgument"
    assert dropped(world) == [extent.id]
    assert world.problems() == []


def test_a_dropped_extent_is_not_revived_without_being_given_nor_below_the_horizon(world: World) -> None:
    extent = world.extent(10, 0)
    world.one(world.put_op(b"k", [piece(extent)]), extent)
    world.one(world.delete_op(b"k"))
    assert world.one(world.put_op(b"k", [piece(extent)])).error.code == "Unavailable"
    with pytest.raises(ValueError, match="horizon"):
        world.change(lambda edit: extents.forget_dropped(edit, Id(extent.id)))
    world.leases.raise_horizon()
    assert world.one(world.put_op(b"k", [piece(extent)]), extent).error.code == "Unavailable"
    assert world.change(lambda edit: extents.forget_dropped(edit, Id(extent.id)))
    assert world.one(world.put_op(b"k", [piece(extent)]), extent).error.code == "BelowHorizon"
    assert world.problems() == []


def test_if_match_and_if_none_match(world: World) -> None:
    assert world.put(b"k", condition={"if_match": '"x"'}).error.code == "PreconditionFailed"
    first = world.put(b"k", condition={"if_none_match": True})
    assert not first.error.code
    assert world.put(b"k", condition={"if_none_match": True}).error.code == "PreconditionFailed"
    second = world.put(b"k", condition={"if_match": etag(first)})
    assert not second.error.code
    assert world.one(world.delete_op(b"k", if_match=etag(first))).error.code == "PreconditionFailed"
    assert world.one(world.delete_op(b"k", if_match=etag(second))).removed
    both = world.put(b"k", condition={"if_none_match": True, "if_match": etag(second)})
    assert both.error.code == "InvalidArgument"
    assert [entry.kind for entry in world.log()][2:] == ["put", "put", "delete"]
    assert world.problems() == []


Lost = tuple[pb.CommitOp, list[pb.Extent]]


def _lost_put(world: World, **more: Any) -> Lost:
    extent = world.extent(10, 0)
    return world.put_op(b"k", [piece(extent)], **more), [extent]


CASES: dict[str, Callable[[World], Lost]] = {
    "put": _lost_put,
    "put if_none_match": lambda world: _lost_put(world, condition={"if_none_match": True}),
    "put with metadata": lambda world: _lost_put(world, metadata={"z": "1", "a": "2"}, content_type="x/y"),
    "delete": lambda world: (world.delete_op(b"there"), []),
    "delete of nothing": lambda world: (world.delete_op(b"k"), []),
    "marker": lambda world: (world.delete_op(b"k", bucket="kept"), []),
    "copy": lambda world: (world.copy_op(b"there", b"k"), []),
    "copy of nothing": lambda world: (world.copy_op(b"k", b"k2"), []),
    "failed condition": lambda world: (world.delete_op(b"k", if_match='"x"'), []),
    "missing bucket": lambda world: (world.delete_op(b"k", bucket="none"), []),
    "wrong size": lambda world: _lost_put(world, size=11),
}
BETWEEN: dict[str, Callable[[World], object]] = {
    "alone": lambda world: None,
    "after another's overwrite": lambda world: (world.put(b"k", 77), world.put(b"there", 78)),
    "after another's delete": lambda world: world.commit(
        world.delete_op(b"k"), world.delete_op(b"there"), world.delete_op(b"k", bucket="kept")
    ),
    "after the bucket came": lambda world: world.bucket("none"),
}


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("case", CASES)
def test_a_repeated_operation_repeats_the_first_outcome_and_changes_nothing(
    world: World, case: str, between: str
) -> None:
    world.put(b"there", metadata={"of": "the source"})
    op, given = CASES[case](world)
    first = world.one(op, *given)
    BETWEEN[between](world)
    world.clock.advance(100)
    rows, log = world.list(), world.log()
    again = world.one(op, *given)
    assert again == first
    assert (world.list(), world.log()) == (rows, log)
    assert world.problems() == []


def test_an_outcome_of_a_put_that_an_older_reedbed_wrote_is_repeated_too(world: World) -> None:
    op, given = _lost_put(world, metadata={"a": "b"}, content_type="x/y")
    first = world.one(op, *given)

    def as_before(edit: Edit) -> None:
        known = outcomes.recall(edit, Id(op.id), operation_from_message(op).digest)
        assert known is not None
        assert known.info is None
        info = VersionRow(op.id, known.seq, known.modified_us, 10, 0, known.profile)
        outcomes.remember(edit, Id(op.id), OutcomeRow(known.digest, known.term, known.seq, info=info))

    world.change(as_before)
    assert world.one(op, *given) == first


def test_an_id_with_another_request_is_refused_and_keeps_its_outcome(world: World) -> None:
    op, given = _lost_put(world)
    first = world.one(op, *given)
    other = pb.CommitOp()
    other.CopyFrom(op)
    other.key = b"other"
    assert world.one(other, *given).error.code == "InvalidArgument"
    assert world.one(op, *given) == first
    assert world.find(b"other").error.code == "NotFound"


@pytest.mark.parametrize("failure", ["lost", "generation"])
def test_failures_that_may_pass_are_not_remembered(world: World, failure: str) -> None:
    op, given = _lost_put(world)
    world.judge.lost, world.judge.generation = (0b100, 1) if failure == "lost" else (0, 0)
    refused = world.one(op, *given)
    assert refused.error.code == ("Unavailable" if failure == "lost" else "StaleGeneration")
    assert refused.error.retryable
    world.judge.lost, world.judge.generation = 0, 1
    assert not world.one(op, *given).error.code
    assert world.problems() == []


def test_below_the_horizon_nothing_is_accepted_even_if_it_was_before(world: World) -> None:
    op, given = _lost_put(world)
    world.one(op, *given)
    late, late_given = _lost_put(world)
    world.leases.raise_horizon()
    assert world.one(op, *given).error.code == "BelowHorizon"
    assert world.one(late, *late_given).error.code == "BelowHorizon"
    assert world.one(world.put_op(b"new", [piece(late_given[0])]), *late_given).error.code == "BelowHorizon"
    assert world.change(lambda edit: outcomes.forget(edit, 100)) == 1
    # An extent that is live may be named whatever its id
    assert not world.one(world.put_op(b"new", [piece(given[0])])).error.code
    assert world.problems() == []


def test_ids_from_the_future_are_refused(world: World) -> None:
    op, given = _lost_put(world, id=make_block(world.leases.time_ms + 1, 1) + bytes(4))
    assert world.one(op, *given).error.code == "InvalidArgument"


def test_operations_of_a_batch_share_extents_and_no_fate(world: World) -> None:
    world.put(b"b")
    extent = world.extent(20, 10)
    cut = [piece(extent, at) for at in (0, 10, 20)]
    refused = world.put_op(b"b", [cut[1]], condition={"if_none_match": True})
    done = world.commit(world.put_op(b"a", [cut[0]]), refused, world.put_op(b"c", [cut[2]]), extents=[extent])
    assert [outcome.error.code for outcome in done] == ["", "PreconditionFailed", ""]
    assert not world.one(world.put_op(b"d", [cut[1]]), extent).error.code
    row = world.look(lambda reader: extents.get(reader, Id(extent.id)))
    assert (row.refs, row.live) == (3, 30)
    assert [entry.key for entry in world.log()[3:]] == [b"a", b"c", b"d"]
    other = pb.Extent()
    other.CopyFrom(extent)
    other.lengths[:] = [20, 11]
    assert world.one(world.put_op(b"e", [cut[1]]), other).error.code == "InvalidArgument"
    assert world.problems() == []


def test_a_refused_operation_leaves_no_extent(world: World) -> None:
    extent = world.extent(10, 0)
    world.one(world.put_op(b"k", [piece(extent)], condition={"if_match": '"x"'}), extent)
    world.one(world.put_op(b"k", [piece(extent), piece(extent, 5)]), extent)
    assert world.look(lambda reader: extents.get(reader, Id(extent.id))) is None
    assert world.problems() == []


@pytest.mark.parametrize(
    ("slices", "size", "code"),
    [
        ([(0, 10)], 9, "InvalidArgument"),
        ([(1, 10)], 10, "InvalidArgument"),
        ([(0, 0)], 0, "InvalidArgument"),
        ([], 0, ""),
        ([(0, 4), (4, 6)], 10, ""),
    ],
)
def test_slices_must_fit_their_extent_and_add_up(
    world: World, slices: list[tuple[int, int]], size: int, code: str
) -> None:
    extent = world.extent(10, 0)
    op = world.put_op(b"k", [piece(extent, *slice_) for slice_ in slices], size=size)
    assert world.one(op, extent).error.code == code
    assert world.problems() == []


def test_a_degraded_write_is_queued_until_its_shards_are_there(world: World) -> None:
    # k+1 of 2+1 positions: only the empty shard's position may lack an acknowledgement
    whole = world.extent(10, 10)
    assert world.one(world.put_op(b"a", [piece(whole)]), whole).error.code == ""
    short = world.extent(10, 10, lost=(1,))
    assert world.one(world.put_op(b"b", [piece(short)]), short).error.code == "Unavailable"
    wide = world.extent(5, 5, m=2, id=world.leases.take())
    assert world.one(world.put_op(b"c", [piece(wide)]), wide).error.code == ""
    assert world.look(lambda reader: lacks.degraded(reader, 9)) == [(wide.id, 1, 0b1000)]
    world.change(lambda edit: extents.set_present(edit, Id(whole.id), 0b110))
    queue = world.look(lambda reader: lacks.degraded(reader, 9))
    assert queue == [(whole.id, 0, 0b001), (wide.id, 1, 0b1000)]
    assert world.problems() == []
    world.change(lambda edit: extents.set_present(edit, Id(whole.id), 0b111))
    world.one(world.delete_op(b"c"))
    assert world.look(lambda reader: lacks.degraded(reader, 9)) == []
    assert world.problems() == []


def test_versions_of_a_versioned_bucket(world: World) -> None:
    one, two = (world.put(b"k", size, "kept").info.version for size in (1, 2))
    marker = world.one(world.delete_op(b"k", "kept"))
    assert marker.removed
    assert marker.info.delete_marker
    assert world.find(b"k", "kept").error.code == "NotFound"
    assert world.find(b"k", "kept", marker.info.version).error.code == "NotFound"
    assert world.find(b"k", "kept", one).info.size == 1
    assert not world.find(b"k", "kept", one).info.latest
    assert not world.put(b"k", 3, "kept", condition={"if_none_match": True}).error.code
    three = world.find(b"k", "kept").info.version
    rows = [(row.info.version, row.info.latest) for row in world.list_versions("kept")]
    assert rows == [(three, True), (marker.info.version, False), (two, False), (one, False)]
    # Taking the newest two away exposes the one before
    assert world.one(world.delete_op(b"k", "kept", three)).removed
    assert world.find(b"k", "kept").error.code == "NotFound"
    assert world.list("kept") == []
    assert not world.put(b"k", 4, "kept", condition={"if_match": etag(marker)}).error.retryable
    assert world.problems() == []
    assert world.one(world.delete_op(b"k", "kept", marker.info.version)).removed
    assert world.find(b"k", "kept").info.version == two
    assert not world.one(world.delete_op(b"k", "kept", three)).removed
    assert not world.one(world.delete_op(b"other", "kept", two)).removed
    assert [entry.kind for entry in world.log()[2:]] == [*["put"] * 2, "marker", "put", *["delete-version"] * 2]
    assert world.problems() == []


def test_a_copy_moves_no_bytes_and_outlives_its_source(world: World) -> None:
    made = world.put(b"a", 10, metadata={"x": "y"}, content_type="t/t")
    source = world.find(b"a")
    copied = world.one(world.copy_op(b"a", b"b", bucket="kept"))
    assert (copied.info.size, dict(copied.info.metadata), copied.info.content_type) == (10, {"x": "y"}, "t/t")
    world.one(world.delete_op(b"a"))
    found = world.find(b"b", "kept")
    assert (list(found.slices), list(found.extents)) == (list(source.slices), list(source.extents))
    assert world.one(world.copy_op(b"a", b"c")).error.code == "NotFound"
    assert world.one(world.copy_op(b"b", b"c", "kept", source_version=made.info.version)).error.code == "NotFound"
    assert world.problems() == []


def test_a_copy_onto_itself_needs_new_metadata(world: World) -> None:
    world.put(b"a", metadata={"x": "y"})
    assert world.one(world.copy_op(b"a", b"a")).error.code == "InvalidArgument"
    changed = world.one(world.copy_op(b"a", b"a", replace_metadata=True, metadata={"n": "m"}))
    assert dict(changed.info.metadata) == {"n": "m"}
    assert world.find(b"a").info == changed.info
    assert world.problems() == []


def test_times_never_run_backwards(world: World) -> None:
    first = world.put(b"a").info.modified_us
    world.clock.advance(-1000)
    assert world.put(b"b").info.modified_us == first
    world.clock.advance(2000)
    assert world.put(b"b").info.modified_us > first


@pytest.mark.parametrize(
    "change",
    [
        {"id": b"short"},
        {"bucket": "A"},
        {"key": b""},
        {"key": b"\xff"},
        {"key": b"x" * 1025},
        {"put": pb.Put(metadata={"a": "b" * 9000})},
        {"put": pb.Put(profile="rs-99-1")},
        {"put": pb.Put(upload=b"short")},
        {"put": None},
        {"delete": pb.Delete(version=b"short")},
        {"copy": pb.Copy(source_bucket="data")},
    ],
)
def test_malformed_operations_get_invalid_argument_and_change_nothing(world: World, change: dict[str, Any]) -> None:
    fields = {"id": world.leases.take(), "bucket": "data", "key": b"k", "put": pb.Put()}
    if "delete" in change or "copy" in change:
        del fields["put"]
    good = world.put_op(b"good", [])
    done = world.commit(pb.CommitOp(**{**fields, **change}), good)
    assert [outcome.error.code for outcome in done] == ["InvalidArgument", ""]
    assert [row.info.key for row in world.list()] == [b"good"]
