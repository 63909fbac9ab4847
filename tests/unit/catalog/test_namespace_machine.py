"""A model of the namespace (plain dicts) against the real one, through every operation and restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from reedbed.catalog import sweep
from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.catalog.memory import MemoryEngine
from reedbed.common.ids import Id, format_id
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos.types import etag_of

BUCKETS = ("plain", "kept")
KEYS = (b"a", b"a/\x00", b"a/b", b"b", b"x" * 1000 + b"1", b"x" * 1000 + b"2")
bucket_names = st.sampled_from(BUCKETS)
key_names = st.sampled_from(KEYS)

Content = tuple[bytes, int, bool]  # version, size, delete marker


class Namespace(RuleBasedStateMachine):
    """`state` maps bucket and key to the contents there, newest first."""

    make_world: Any
    make_engine: Any

    def __init__(self) -> None:
        super().__init__()
        self.world = self.make_world(self.make_engine())
        for name in BUCKETS:
            self.world.bucket(name, versioned=name == "kept")
        self.state: dict[tuple[str, bytes], list[Content]] = {}
        self.done: list[tuple[pb.CommitOp, list[pb.Extent], pb.Outcome]] = []
        self.shared: pb.Extent | None = None

    def visible(self, bucket: str, key: bytes) -> Content | None:
        there = self.state.get((bucket, key))
        return there[0] if there and not there[0][2] else None

    def install(self, bucket: str, key: bytes, content: Content) -> None:
        older = self.state.get((bucket, key), []) if bucket == "kept" else []
        self.state[bucket, key] = [content, *older]

    def expect(self, op: pb.CommitOp, outcome: pb.Outcome) -> None:
        """Apply an operation to the model, which says what its outcome must have been."""
        there = self.visible(op.bucket, op.key)
        condition = op.condition
        if (condition.if_none_match and there) or (
            condition.if_match and (not there or etag_of(format_id(there[0])) != condition.if_match)
        ):
            assert outcome.error.code == "PreconditionFailed"
            return
        if op.HasField("put"):
            if op.put.size != sum(slice_.length for slice_ in op.put.slices):
                assert outcome.error.code == "InvalidArgument"
                return
            self.install(op.bucket, op.key, (op.id, op.put.size, False))
        elif op.HasField("copy"):
            source = self.visible(op.copy.source_bucket, op.copy.source_key)
            itself = (op.copy.source_bucket, op.copy.source_key) == (op.bucket, op.key)
            if source is None or itself:
                assert outcome.error.code == ("NotFound" if source is None else "InvalidArgument")
                return
            self.install(op.bucket, op.key, (op.id, source[1], False))
        elif op.delete.version:
            history = self.state.get((op.bucket, op.key), [])
            left = [content for content in history if content[0] != op.delete.version]
            assert outcome.removed == (len(left) < len(history))
            self.state[op.bucket, op.key] = left
        else:
            assert outcome.removed == (there is not None)
            if op.bucket == "kept":
                self.install(op.bucket, op.key, (op.id, 0, True))
            else:
                self.state.pop((op.bucket, op.key), None)
        assert not outcome.error.code, outcome

    def commit(self, ops: list[pb.CommitOp], given: list[pb.Extent]) -> None:
        for op, outcome in zip(ops, self.world.commit(*ops, extents=given), strict=True):
            self.expect(op, outcome)
            self.done.append((op, given, outcome))

    def condition(self, draw: str, bucket: str, key: bytes) -> dict[str, Any]:
        there = self.visible(bucket, key)
        if draw == "match":
            return {"if_match": etag_of(format_id(there[0] if there else bytes(16)))}
        return {"if_none_match": True} if draw == "none match" else {}

    def put_op(self, bucket: str, key: bytes, extent: pb.Extent, count: int, draw: str, wrong: int = 0) -> pb.CommitOp:
        slices = [pb.Slice(extent=extent.id, offset=at, length=1) for at in range(count)]
        condition = self.condition(draw, bucket, key)
        return self.world.put_op(key, slices, bucket, size=count + wrong, condition=condition)

    conditions = st.sampled_from(["", "", "match", "none match"])

    @rule(bucket=bucket_names, key=key_names, count=st.sampled_from([0, 1, 3, 64, 65, 300]), draw=conditions)
    def put(self, bucket: str, key: bytes, count: int, draw: str) -> None:
        extent = self.world.extent(300, 0)
        self.commit([self.put_op(bucket, key, extent, count, draw)], [extent])

    @rule(
        parts=st.lists(
            st.tuples(bucket_names, key_names, conditions, st.sampled_from([0, 0, 0, 1])), min_size=2, max_size=5
        )
    )
    def put_batch(self, parts: list[tuple[str, bytes, str, int]]) -> None:
        extent = self.world.extent(300, 0)
        ops = [self.put_op(bucket, key, extent, 2, draw, wrong) for bucket, key, draw, wrong in parts]
        self.commit(ops, [extent])
        self.shared = extent

    @rule(bucket=bucket_names, key=key_names, draw=conditions)
    def put_later_in_a_shared_extent(self, bucket: str, key: bytes, draw: str) -> None:
        """Live, dropped meanwhile or never named: above the horizon it makes no difference."""
        if self.shared is not None and self.shared.id >= self.world.leases.horizon():
            self.commit([self.put_op(bucket, key, self.shared, 3, draw)], [self.shared])

    @rule(source=st.tuples(bucket_names, key_names), bucket=bucket_names, key=key_names)
    def copy(self, source: tuple[str, bytes], bucket: str, key: bytes) -> None:
        self.commit([self.world.copy_op(source[1], key, source[0], bucket=bucket)], [])

    @rule(bucket=bucket_names, key=key_names, draw=conditions)
    def delete(self, bucket: str, key: bytes, draw: str) -> None:
        self.commit([self.world.delete_op(key, bucket, **self.condition(draw, bucket, key))], [])

    @rule(bucket=bucket_names, key=key_names, other=key_names, data=st.data())
    def delete_version(self, bucket: str, key: bytes, other: bytes, data: st.DataObject) -> None:
        known = [content[0] for content in self.state.get((bucket, other), [])] or [bytes(16)]
        version = data.draw(st.sampled_from(known))
        self.commit([self.world.delete_op(key, bucket, version)], [])

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        if not self.done:
            return
        op, given, outcome = data.draw(st.sampled_from(self.done))
        position = len(self.world.log())
        again = self.world.one(op, *given)
        if op.id < self.world.leases.horizon():
            assert again.error.code == "BelowHorizon"
        else:
            assert again == outcome
        assert len(self.world.log()) == position

    @rule()
    def reopen(self) -> None:
        engine = self.world.engine
        if isinstance(engine, MemoryEngine):
            self.world.engine = engine.crash()
        else:
            engine.close()
            self.world.engine = self.make_engine()

    @rule()
    def settle(self) -> None:
        self.world.leases.raise_horizon()
        self.world.change(lambda edit: sweep.step(edit, sweep.Retention()))
        self.done = self.done[-5:]

    @rule(bucket=bucket_names, limit=st.integers(1, 4), prefix=st.sampled_from([b"", b"a", b"a/", b"x" * 600]))
    def list_pages(self, bucket: str, limit: int, prefix: bytes) -> None:
        keys = [key for name, key in sorted(self.state) if name == bucket and key.startswith(prefix)]
        seen = [(key, there) for key in keys if (there := self.visible(bucket, key))]
        rows = [row.info for row in self.world.list(bucket, limit, prefix=prefix)]
        assert [(row.key, (row.version, row.size, False)) for row in rows] == seen
        versions = [row.info for row in self.world.list_versions(bucket, limit, prefix)]
        assert [(row.key, row.version, row.size, row.delete_marker, row.latest) for row in versions] == [
            (key, *content, content is self.state[bucket, key][0])
            for key in keys
            for content in self.state[bucket, key]
        ]

    @rule(bucket=bucket_names, key=key_names)
    def look(self, bucket: str, key: bytes) -> None:
        there = self.visible(bucket, key)
        found = self.world.find(key, bucket)
        assert found.error.code == ("" if there else "NotFound")
        if there:
            assert (found.info.version, found.info.size, found.info.latest) == (there[0], there[1], True)
        for version, size, marker in self.state.get((bucket, key), []):
            found = self.world.find(key, bucket, version)
            assert (found.info.size, found.error.code) == ((0, "NotFound") if marker else (size, ""))

    @invariant()
    def everything_agrees_with_a_recount(self) -> None:
        assert self.world.problems() == []

    def teardown(self) -> None:
        """The log, replayed, gives the state."""
        replayed: dict[tuple[str, bytes], list[Content]] = {}
        for entry in self.world.log():
            place = entry.bucket, entry.key
            if entry.kind in ("put", "copy", "marker"):
                older = replayed.get(place, []) if entry.bucket == "kept" else []
                replayed[place] = [(entry.version, entry.size, entry.kind == "marker"), *older]
            elif entry.kind in ("delete", "delete-version"):
                replayed[place] = [content for content in replayed[place] if content[0] != entry.version]
        assert {place: there for place, there in replayed.items() if there} == {
            place: there for place, there in self.state.items() if there
        }
        self.world.engine.close()


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_the_namespace_is_what_its_model_is(kind: str, make_world: Any, tmp_path: Path) -> None:
    folders = [0]

    class Machine(Namespace):
        def __init__(self) -> None:
            folders[0] += 1
            self.folder = tmp_path / str(folders[0])
            super().__init__()

        def make_engine(self) -> Any:
            if kind == "memory":
                return MemoryEngine()
            return LmdbEngine(self.folder, cluster=Id(bytes(16)), check=False)

    Machine.make_world = staticmethod(make_world)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60 if kind == "memory" else 5,
            stateful_step_count=30 if kind == "memory" else 15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
