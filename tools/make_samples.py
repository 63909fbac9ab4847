"""Writes tests/data/vN: what this version of Reedbed stores and sends, for tests of the versions that follow.

`python tools/make_samples.py FOLDER`, from the root, with FOLDER absent: a small cluster of real processes is started,
used and stopped in order; its folders are kept without what is made again by itself (locks, reserve). A folder of an
earlier version is never written anew: tests/unit/test_formats_kept.py reads them all, for ever.

    cluster/         catalog and devices; device 1 with its index, the others without
    backup           of the catalog (since v1.1, with which catalogs began to keep a copy of themselves on the cluster)
    expected.json    buckets, objects with size, checksum and metadata, and shards of each device
    SHA256SUMS       of all these files
    wire.json        for each message a sample in hexadecimal digits, with the same in protobuf's JSON
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lib"))

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from reedbed_cluster import local_cluster
from reedbed_cluster.commands import reedbed as command
from reedbed_cluster.commands import until

import reedbed
from reedbed.protos import catalog_pb2, lane_pb2, storage_pb2
from reedbed.storaged import identity
from reedbed.storaged.disk import RealDisk
from reedbed.storaged.store import ShardStore

MADE_AGAIN: Final = {"lock", "reserve", "lock.mdb", "serving.lock", "clean.txt", "clean"}
INDEX_OF: Final = "device-1"
DEPTH: Final = 3  # of messages within messages


def objects() -> dict[tuple[str, str], bytes]:
    rng = random.Random(7)
    made = {("plain", f"k/{number}"): rng.randbytes(number * 700) for number in range(12)}
    made["plain", "large"] = rng.randbytes(150_000)
    made["plain", "long/" + "x" * 1000] = b"a key that takes a node of its own"
    made["versions", "twice"] = b"the second version"
    return made


def use(endpoint: str) -> None:
    """Leave a row of every kind that clients can cause."""
    with reedbed.connect(endpoint) as store:
        store.create_bucket("plain")
        store.create_bucket("versions", versioned=True)
        store.put("versions", "twice", b"the first version")
        store.put("versions", "marked", b"hidden by a marker")
        store.delete("versions", "marked")
        store.put("plain", "gone", b"removed again" * 100)
        for (bucket, key), data in objects().items():
            store.put(bucket, key, data, metadata={"n": str(len(data))}, content_type="text/plain")
        store.delete("plain", "gone")
        store.copy("plain", "large", "plain", "copied")


def expected(endpoint: str) -> dict[str, Any]:
    with reedbed.connect(endpoint) as store:
        found = {}
        for bucket in ("plain", "versions"):
            for entry in store.list(bucket):
                info = store.stat(bucket, entry.key)
                found[f"{bucket}/{entry.key}"] = {
                    "size": info.size,
                    "version": info.version,
                    "checksum": info.checksum,
                    "metadata": dict(info.metadata),
                    "content_type": info.content_type,
                    "sha256": hashlib.sha256(store.get(bucket, entry.key)).hexdigest(),
                }
        return {"objects": found, "versions": len(list(store.list_versions("versions")))}


def back_up(endpoint: str, target: Path) -> None:
    """Once the copy on the cluster holds everything, and devices know."""
    with reedbed.connect(endpoint) as store:
        until(lambda: store.status()["copy"]["snapshot"] is not None and store.status()["copy"]["settled"])
    target.parent.mkdir(parents=True)
    done = command("catalog", "backup", target, endpoint=endpoint)
    assert done.code == 0, done


def shards_of(folder: Path) -> list[list[Any]]:
    known = identity.load(RealDisk(folder))
    assert known is not None
    with ShardStore.open(folder, bytes.fromhex(known.cluster)) as store:
        return [[one.extent.hex(), one.index, one.length, one.generation] for one in store.list(limit=10_000)]


def keep(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if path.is_dir() or path.name in MADE_AGAIN or (inside.parts[-2:-1] == ("index",) and source.name != INDEX_OF):
            continue
        (target / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / inside)


def filled(message: Message, depth: int = 0) -> Message:
    """Every field set to something that its number decides."""
    for field in message.DESCRIPTOR.fields:
        repeated = field.is_repeated
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)["key"] = "value" if field.message_type.fields[1].cpp_type == 9 else 5
        elif field.message_type is not None:
            if depth < DEPTH:
                inner = getattr(message, field.name)
                filled(inner.add() if repeated else inner, depth + 1)
                if not repeated:
                    inner.SetInParent()
        elif repeated:
            getattr(message, field.name).append(sample(field))
        elif field.containing_oneof is None or field.containing_oneof.fields[0] is field:
            setattr(message, field.name, sample(field))
    return message


def sample(field: FieldDescriptor) -> Any:
    number = field.number
    kinds = FieldDescriptor
    if field.cpp_type == kinds.CPPTYPE_STRING:
        return bytes(range(number, number + 16)) if field.type == kinds.TYPE_BYTES else f"text {number}"
    if field.cpp_type == kinds.CPPTYPE_BOOL:
        return True
    if field.cpp_type == kinds.CPPTYPE_ENUM:
        return field.enum_type.values[-1].number
    if field.cpp_type in (kinds.CPPTYPE_DOUBLE, kinds.CPPTYPE_FLOAT):
        return number + 0.5
    return number * 1000 + 7


def wire() -> dict[str, Any]:
    found = {}
    for module in (catalog_pb2, lane_pb2, storage_pb2):
        descriptors: list[Descriptor] = list(module.DESCRIPTOR.message_types_by_name.values())
        for descriptor in descriptors:
            message = filled(GetMessageClass(descriptor)())
            found[descriptor.full_name] = {
                "hex": message.SerializeToString(deterministic=True).hex(),
                "json": json_format.MessageToDict(message, preserving_proto_field_name=True),
            }
    return found


def main(target: Path) -> int:
    if target.exists():
        print(f"{target} exists: samples are never written anew", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "cluster"
        with local_cluster(folder) as cluster:
            use(cluster.endpoint)
            told = expected(cluster.endpoint)
            back_up(cluster.endpoint, target / "backup")
        told["shards"] = {}
        for part in sorted(path for path in folder.iterdir() if path.is_dir()):
            if part.name.startswith("device"):
                told["shards"][part.name] = shards_of(part)
            keep(part, target / "cluster" / part.name)
    (target / "expected.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
    (target / "wire.json").write_text(json.dumps(wire(), indent=1, sort_keys=True) + "\n")
    write_sums(target)
    return 0


def write_sums(target: Path) -> None:
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(target)}\n"
        for path in sorted(target.rglob("*"))
        if path.is_file()
    ]
    (target / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(Path(sys.argv[1])))
