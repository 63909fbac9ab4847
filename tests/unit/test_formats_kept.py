"""What earlier versions stored and sent is read right, for ever; what newer ones stored is refused by name.

tests/data/vN was written by version N's tools/make_samples.py and is never changed. tests/integration/test_samples.py
starts whole clusters on it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass

from reedbed.catalog import audit, backups, keys, lookup, pieces, records, sealed
from reedbed.catalog import lmdb_rows as rows
from reedbed.catalog.engine import RedoRecord
from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.catalog.loading import load_records
from reedbed.catalog.longkeys import ROOT_TABLE
from reedbed.catalog.memory import MemoryEngine
from reedbed.common.checksums import crc32c, format_checksum
from reedbed.common.errors import LogTrimmed, NewerFormat
from reedbed.common.ids import is_system
from reedbed.protos import catalog_pb2, lane_pb2, storage_pb2
from reedbed.storaged import damage, entries, generations, identity, index_check, memory, passes, record
from reedbed.storaged.disk import RealDisk, replace_whole
from reedbed.storaged.index_lmdb import FOLDER
from reedbed.storaged.segments import segment_name
from reedbed.storaged.store import ShardStore

DATA = Path(__file__).parents[1] / "data"
VERSIONS = sorted(path.name for path in DATA.iterdir())
WITH_COPY = [version for version in VERSIONS if version != "v1"]  # catalogs that keep a copy on the cluster
DEVICES = [f"device-{number}" for number in range(1, 7)]


def expected(version: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((DATA / version / "expected.json").read_text())
    return told


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(version: str, tmp_path: Path) -> Path:
    """A copy of the sample cluster."""
    shutil.copytree(DATA / version / "cluster", tmp_path / "cluster")
    return tmp_path / "cluster"


def open_device(path: Path) -> ShardStore:
    known = identity.load(RealDisk(path))
    assert known is not None
    return ShardStore.open(path, bytes.fromhex(known.cluster))


def test_the_samples_are_small_and_of_every_version() -> None:
    assert VERSIONS[0] == "v1"
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 2 << 20


# Reading what is old


@pytest.mark.parametrize("device", DEVICES)
def test_devices_are_read_right(version: str, folder: Path, device: str) -> None:
    """Block sums are checked by each read; the index of device 1 is kept, the others are made again."""
    with open_device(folder / device) as store:
        found = [[one.extent.hex(), one.index, one.length, one.generation] for one in store.list(limit=10_000)]
        assert found == expected(version)["shards"][device]
        for one in store.list(limit=10_000):
            assert len(store.read(one.extent, one.index, 0, one.length).data) == one.length
        assert store.term >= 1
        assert all(store.generation(one.pg) >= one.generation for one in store.list(limit=10_000))
        assert store.status().damaged == store.status().bad_regions == 0
        assert ("store.index_rebuilt" in store.status().counters) is False


def test_the_index_of_a_device_is_taken_as_it_is(folder: Path) -> None:
    assert index_check.find_damage(folder / DEVICES[0] / FOLDER) == ""


def trimmed(engine: LmdbEngine, after: int) -> bool:
    """Whether redo records behind that one are forgotten, as they are in the copy."""
    try:
        engine.read_redo(after, 1)
    except LogTrimmed:
        return True
    return False


def test_a_catalog_is_read_right(version: str, folder: Path) -> None:
    told = expected(version)
    engine = LmdbEngine(folder / "catalog")
    try:
        with engine.read() as reader:
            assert audit.check(reader) == []
            for name, known in told["objects"].items():
                bucket, _, key = name.partition("/")
                target = catalog_pb2.Target(bucket=bucket, key=key.encode())
                request = catalog_pb2.LookupRequest(targets=[target], slices=True)
                info = lookup.lookup(reader, request).found[0].info
                assert (info.size, dict(info.metadata)) == (known["size"], known["metadata"])
                assert info.version.hex() == known["version"]
                assert info.content_type == known["content_type"]
            for kind, codec in ((keys.LOG, records.LOG), (keys.OUTCOMES, records.OUTCOME)):
                found = [codec.decode(value, key) for key, value in reader.scan(kind, bytes([kind[0] + 1]))]
                assert found
        position = engine.redo_position()
        floor = next(after for after in range(position) if not trimmed(engine, after))
        assert sum(1 for _ in engine.read_redo(floor, position)) == position - floor
        assert position > 10
    finally:
        engine.close()


@pytest.mark.parametrize("version", WITH_COPY)
def test_a_backup_is_read_right(version: str) -> None:
    path = DATA / version / "backup"
    summary = backups.check(path)
    assert (
        summary.about.cluster == json.loads((DATA / version / "cluster/catalog/identity.json").read_text())["cluster"]
    )
    assert summary.rows > 30
    engine = MemoryEngine()
    position = summary.about.redo
    for part in backups.BackupReader(path).parts():
        if isinstance(part[0], RedoRecord):
            load_records(engine, part)
        else:
            engine.load(part, position)
    with engine.read() as reader:
        assert audit.check(reader) == []
        names = {key for key, _ in reader.scan(keys.BUCKETS, keys.after(keys.BUCKETS))}
        assert names == {keys.BUCKETS + b"plain", keys.BUCKETS + b"versions"}


@pytest.mark.parametrize("version", WITH_COPY)
def test_what_devices_remember_of_their_catalog_is_read_right(version: str, folder: Path) -> None:
    cluster = json.loads((folder / "catalog/identity.json").read_text())["cluster"]
    for device in DEVICES:
        known = memory.Memory(RealDisk(folder / device))
        assert known.note is not None
        assert known.note.settled
        term, map_ = known.map
        assert map_ is not None
        assert (map_.cluster.hex(), len(map_.devices), term) == (cluster, 6, known.note.term)
        assert known.number in map_.devices


@pytest.mark.parametrize("version", WITH_COPY)
def test_the_copy_of_the_catalog_is_read_right(version: str, folder: Path) -> None:
    """Pieces of it as their shards hold them: the data shard of a small piece is the piece."""
    kinds: Counter[int] = Counter()
    for device in DEVICES:
        with open_device(folder / device) as store:
            for one in store.list(limit=10_000):
                if is_system(one.extent) and one.index == 0:
                    raw = bytes(store.read(one.extent, 0, 0, one.length).data)
                    head = pieces.decode_head(raw, "sample")
                    pieces.check_body(head, raw[pieces.HEAD_BYTES :], "sample")
                    kinds[head.kind] += 1
    assert kinds[pieces.ROWS] >= 1
    assert kinds[pieces.REDO] >= 1
    assert kinds[pieces.END] >= 1


def test_messages_are_read_right(version: str) -> None:
    kinds = {
        descriptor.full_name: descriptor
        for module in (catalog_pb2, lane_pb2, storage_pb2)
        for descriptor in module.DESCRIPTOR.message_types_by_name.values()
    }
    for name, sample in json.loads((DATA / version / "wire.json").read_text()).items():
        message = GetMessageClass(kinds[name])()
        message.ParseFromString(bytes.fromhex(sample["hex"]))
        assert json_format.MessageToDict(message, preserving_proto_field_name=True) == sample["json"], name


# Refusing what is newer


def resummed(raw: bytes, at: int, value: int, *, begin: int = 0) -> bytes:
    """With another byte, and a right sum in the last four bytes."""
    changed = raw[:at] + bytes([value]) + raw[at + 1 : -4]
    return changed + crc32c(changed[begin:]).to_bytes(4, "big")


def newer_segment(folder: Path) -> None:
    path = folder / segment_name(1)
    raw = path.read_bytes()
    path.write_bytes(resummed(raw[: record.SEGMENT_HEADER], 8, 2) + raw[record.SEGMENT_HEADER :])


def newer_record(folder: Path) -> None:
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    path = folder / segment_name(1)
    raw = path.read_bytes()
    known = identity.load(RealDisk(folder))
    assert known is not None
    at = record.SEGMENT_HEADER
    head = bytearray(raw[at : at + record.HEAD - 4])
    head[4] = 2
    sum_ = crc32c(bytes(head), record.place(known.seed, 1, at)).to_bytes(4, "big")
    path.write_bytes(raw[:at] + head + sum_ + raw[at + record.HEAD :])


def newer_row(table: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with lmdb.open(str(folder / FOLDER), max_dbs=len(entries.TABLES)) as env:
            opened = env.open_db(table.encode(), create=False)
            with env.begin(db=opened, write=True) as txn:
                key, value = next(iter(txn.cursor()), (b"", b""))
                txn.put(key, entries.seal(key, b"\2" + value[1:-4]))

    return change


def newer_file(name: str, raw: bytes) -> Callable[[Path], None]:
    return lambda folder: replace_whole(RealDisk(folder), name, resummed(raw, 4, 2))


def newer_identity(folder: Path) -> None:
    fields = json.loads((folder / identity.NAME).read_text())
    (folder / identity.NAME).write_text(json.dumps({**fields, "format": 2, "shape": "unheard of"}))


NEWER_DEVICES: dict[str, Callable[[Path], None]] = {
    "segment": newer_segment,
    "record": newer_record,
    "row of a shard": newer_row("shards"),
    "row of a segment": newer_row("segments"),
    "state of the index": newer_row("meta"),
    "generations": newer_file(generations.NAME, generations.encode({1: 1})),
    "identity": newer_identity,
}


@pytest.mark.parametrize("what", NEWER_DEVICES)
def test_a_newer_device_is_refused_and_left_as_it_is(folder: Path, what: str) -> None:
    device = folder / DEVICES[0]
    NEWER_DEVICES[what](device)
    kept = device / segment_name(1)
    before = kept.read_bytes()
    with pytest.raises(NewerFormat):
        open_device(device)
    assert kept.read_bytes() == before
    if "row" in what or "state" in what:
        assert index_check.main([str(device / FOLDER)]) == index_check.NEWER


def test_newer_lists_of_a_device_are_refused() -> None:
    with pytest.raises(NewerFormat):
        damage.decode(resummed(damage.encode({}, {}), 4, 2))
    with pytest.raises(NewerFormat):
        passes.Standing.decode(resummed(passes.Standing().encode(), 4, 2))


def newer_catalog_identity(folder: Path) -> None:
    body = json.loads((folder / "identity.json").read_text())
    del body["sum"]
    body["format"] = 2
    sum_ = format_checksum(crc32c(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()))
    (folder / "identity.json").write_text(json.dumps({**body, "sum": sum_}))


def newer_value(name: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with lmdb.open(str(folder), max_dbs=rows.TREES, map_size=1 << 24) as env:
            tree = env.open_db(name, create=False)
            with env.begin(db=tree, write=True) as txn:
                key, stored = next(iter(txn.cursor()), (b"", b""))
                value = stored[sealed.SEAL_BYTES :]
                name_of = key.removeprefix(ROOT_TABLE)
                sum_ = crc32c(value, crc32c(name_of + b"\2")).to_bytes(4, "big")
                txn.put(key, b"\2" + sum_ + value)

    return change


NEWER_CATALOGS: dict[str, Callable[[Path], None]] = {
    "identity": newer_catalog_identity,
    "sealed value": newer_value(b"k%02x" % ord("o")),
    "node of a long key": newer_value(b"n"),
    "redo": newer_value(b"r"),
}


@pytest.mark.parametrize("what", NEWER_CATALOGS)
def test_a_newer_catalog_is_refused(folder: Path, what: str) -> None:
    NEWER_CATALOGS[what](folder / "catalog")
    with pytest.raises(NewerFormat):
        LmdbEngine(folder / "catalog")


@pytest.mark.parametrize(
    "codec", [one for one in vars(records).values() if isinstance(one, records.Codec)], ids=lambda one: one._name
)
def test_every_newer_record_of_the_catalog_is_refused(codec: records.Codec[Any]) -> None:
    with pytest.raises(NewerFormat):
        codec.decode(bytes([codec._version + 1]) + msgspec.msgpack.encode([]), b"key")


def test_sums_of_what_was_read(version: str) -> None:
    """The samples themselves: a digest of each file is in the list, so that nobody changes one unseen."""
    told = (DATA / version / "SHA256SUMS").read_text().splitlines()
    found = {
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(DATA / version)}"
        for path in (DATA / version).rglob("*")
        if path.is_file() and path.name != "SHA256SUMS"
    }
    assert set(told) == found
