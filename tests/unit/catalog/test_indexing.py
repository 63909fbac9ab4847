"""A catalog from before there were indexes gets them in steps, whatever changes meanwhile, and after any crash."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from reedbed.catalog import audit, indexing, keys, recode_jobs, recoding, records
from reedbed.catalog.edit import editing
from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.catalog.records import SliceListRow
from reedbed.catalog.twins import manual_needs
from reedbed.protos import catalog_pb2 as pb

World = Any
DATA = Path(__file__).parents[2] / "data"


def filled(world: World) -> None:
    """Some of everything: packs with dead space, lists that are shared, versions, markers, copies to be recoded."""
    world.bucket("other", profile="rs-3-1")
    for name in (b"a", b"b" * 1000):
        extent = world.extent(200, 0)
        slices = [pb.Slice(extent=extent.id, offset=10 * at, length=10) for at in range(20)]
        world.commit(*(world.put_op(name + b"/%d" % at, [one]) for at, one in enumerate(slices)), extents=[extent])
        world.commit(*(world.delete_op(name + b"/%d" % at) for at in range(5, 20)))
    long = world.extent(300, 0)
    slices = [pb.Slice(extent=long.id, offset=at, length=1) for at in range(300)]
    world.one(world.put_op(b"long", slices), long)
    world.one(world.copy_op(b"long", b"shared"))
    for _ in range(3):
        world.put(b"v", bucket="kept")
    world.one(world.delete_op(b"v", "kept"))
    world.one(world.copy_op(b"a/1", b"copied", bucket="other"))


def forget(world: World) -> None:
    """As the version before wrote it."""

    def change(edit: Any) -> None:
        writer = edit.writer
        for table in (keys.NAMERS, keys.SPARSE, keys.INDEXING, keys.SPARSE_COUNTS):
            for key, _ in writer.scan(table, keys.after(table)):
                writer.delete(key)
        for key, data in writer.scan(keys.SLICE_LISTS, keys.after(keys.SLICE_LISTS)):
            if len(key) == 17:
                row = records.SLICE_LIST.decode(data, key)
                old = SliceListRow(row.refs, row.count, row.size, row.profiles)
                writer.put(key, records.SLICE_LIST.encode(old))
        for key, data in writer.scan(keys.RECODE, keys.after(keys.RECODE)):
            queued = records.RECODE.decode(data, key)
            edit.count(recode_versions=-1, recode_bytes=-queued.size)
            writer.put(key, records.RECODE.encode(records.RecodeRow(queued.bucket, queued.key)))

    world.change(change)


def rows(world: World) -> list[tuple[bytes, bytes]]:
    return [(key, value) for key, value in world.look(lambda reader: list(reader.scan(b""))) if key != keys.INDEXING]


@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_the_indexes_are_as_if_they_had_always_been(world: World, limit: int) -> None:
    filled(world)
    before = rows(world)
    forget(world)
    assert rows(world) != before
    while world.change(lambda edit: indexing.step(edit, limit)):
        world.engine = world.engine.crash()
    assert world.look(indexing.whole)
    assert rows(world) == before
    assert world.problems() == []


def test_what_changes_meanwhile_is_right_too(world: World) -> None:
    filled(world)
    forget(world)
    changes = iter(
        [
            lambda: world.one(world.delete_op(b"a/0")),
            lambda: world.put(b"a/1"),
            lambda: world.one(world.copy_op(b"a/2", b"z", bucket="other")),
            lambda: world.one(world.delete_op(b"long")),
            lambda: world.put(b"v", bucket="kept"),
            lambda: world.change(lambda edit: recode_jobs.order(edit, "data", recode_jobs.Scope(), "rs-4-2")),
            lambda: world.change(lambda edit: recode_jobs.walk(edit, 3)),
            lambda: world.one(world.delete_op(b"copied", "other")),
        ]
    )
    for number in (0, 1):  # before its extent has its turn, so that this queues it
        world.one(world.delete_op(b"b" * 1000 + b"/%d" % number))
    while world.change(lambda edit: indexing.step(edit, 4)):
        next(changes, lambda: None)()
    while world.change(lambda edit: recode_jobs.walk(edit, 3)):
        pass
    for namer in world.look(lambda reader: list(recoding.queue(reader))):
        world.change(lambda edit, namer=namer: recoding.settle(edit, namer))  # type: ignore[misc]
    assert world.problems() == []


@pytest.mark.parametrize("version", sorted(path.name for path in DATA.iterdir()))
def test_catalogs_of_earlier_versions_are_indexed(version: str, tmp_path: Path) -> None:
    shutil.copytree(DATA / version / "cluster" / "catalog", tmp_path / "catalog")
    engine = LmdbEngine(tmp_path / "catalog")
    needs = manual_needs()[0]
    try:
        more = True
        while more:
            with engine.write() as writer, editing(writer, needs) as edit:
                more = indexing.step(edit, 7)
        with engine.read() as reader:
            assert audit.check(reader) == []
            assert list(reader.scan(keys.NAMERS, keys.after(keys.NAMERS)))
    finally:
        engine.close()
