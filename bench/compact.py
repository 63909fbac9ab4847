"""How dead space comes back, and a bucket gets another profile, on a fresh local cluster: time, rates, bytes on disk.

    python bench/compact.py [--dir FOLDER] [--objects 20000] [--blobs 512] [--json FILE]

First 80 % of so many packed objects of 4 KiB are deleted or overwritten, half each, with the grace times set short.
Aim: the disks come back to within 1.3 times of what the code makes of the live bytes. Then large objects of so many MiB
under rs-4-2 are recoded to rs-3-2, while a reader compares what it reads.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "lib"))

from reedbed_cluster import REEDBED, LocalCluster, local_cluster

import reedbed
from reedbed.bench.machine import medium
from reedbed.common.limits import KIB, MIB

SMALL = 4 * KIB
LARGE = 32 * MIB
DEVICES = 6
AIM = 1.3
SHORT = ("--horizon-lag-s", "5", "--delete-grace-s", "1", "--short-grace")
WAIT_S = 600.0


def command(cluster: LocalCluster, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [*REEDBED, *arguments, "--json", "--endpoint", cluster.endpoint], stdout=subprocess.PIPE, check=True
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def held(cluster: LocalCluster) -> int:
    """Bytes of the disks that segments take."""
    folders = [cluster.device_folder(place) / "segments" for place in range(1, DEVICES + 1)]
    return sum(path.stat().st_blocks * 512 for folder in folders for path in folder.iterdir())


def wait(cluster: LocalCluster, good: Callable[[dict[str, Any]], bool], show: Callable[[dict[str, Any]], str]) -> float:
    """Seconds until the status is good, shown every second."""
    began = time.monotonic()
    while True:
        told = command(cluster, "status")
        now = time.monotonic() - began
        print(f"  {now:6.1f} s  {show(told)}")
        if good(told):
            return now
        if now > WAIT_S:
            raise SystemExit("it does not come to an end")
        time.sleep(1)


def compact(cluster: LocalCluster, store: reedbed.Store, count: int) -> dict[str, float]:
    rng = random.Random(7)
    objects = {f"k/{number:06}": rng.randbytes(SMALL) for number in range(count)}
    store.create_bucket("small")
    store.put_many("small", objects)
    keys = list(objects)
    rng.shuffle(keys)
    changed = {key: rng.randbytes(SMALL) for key in keys[: count * 4 // 10]}
    deleted = keys[count * 4 // 10 : count * 8 // 10]
    store.put_many("small", changed)
    store.delete_many("small", deleted)
    left = {**objects, **changed}
    for key in deleted:
        del left[key]
    code = len(left) * SMALL * 6 // 4
    print(f"{count:,} objects of 4 KiB, of which {len(left):,} are left; rs-4-2 makes {code / MIB:.1f} MiB of them")

    def ratio() -> float:
        return held(cluster) / code

    before = ratio()
    seconds = wait(cluster, lambda _: ratio() <= AIM, lambda told: f"{ratio():.3f} times")
    if dict(store.get_many("small", sorted(left))) != left:
        raise SystemExit("objects are not what they were")
    return {"before": before, "after": ratio(), "seconds": seconds}


def recode(cluster: LocalCluster, store: reedbed.Store, mebibytes: int) -> dict[str, float]:
    rng = random.Random(8)
    blobs = {f"b/{number}": rng.randbytes(LARGE) for number in range(max(1, mebibytes * MIB // LARGE))}
    store.create_bucket("large")
    for key, blob in blobs.items():
        store.put("large", key, blob)
    stop, reads = threading.Event(), [0, 0]

    def read() -> None:
        with reedbed.connect(cluster.endpoint, timeout=60) as other:
            while not stop.is_set():
                key = rng.choice(list(blobs))
                reads[0] += 1
                reads[1] += other.get("large", key, start=MIB, end=2 * MIB) != blobs[key][MIB : 2 * MIB]
                time.sleep(0.2)

    thread = threading.Thread(target=read)
    size = sum(map(len, blobs.values()))
    print(f"{size / MIB:.0f} MiB under rs-4-2 become rs-3-2")
    command(cluster, "recode", "large", "--profile", "rs-3-2")
    thread.start()

    def shown(told: dict[str, Any]) -> str:
        now = told["rewriting"]
        return f"{now['bytes_left'] / MIB:,.0f} MiB left, {now['rate'] / MIB:,.0f} MiB/s"

    def recoded(told: dict[str, Any]) -> bool:
        return not told["rewriting"]["orders"] and not told["rewriting"]["versions_left"]

    seconds = wait(cluster, recoded, shown)
    stop.set()
    thread.join()
    if reads[1] or dict(store.get_many("large", sorted(blobs))) != blobs:
        raise SystemExit("objects are not what they were")
    if {store.stat("large", key).actual_profiles for key in blobs} != {("rs-3-2",)}:
        raise SystemExit("not all is recoded")
    return {"mebibytes": size / MIB, "seconds": seconds, "rate": size / MIB / seconds, "reads": reads[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=None)
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--blobs", type=int, default=512)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        print(f"on {medium(Path(folder))}")
        with (
            local_cluster(Path(folder) / "cluster", DEVICES, catalog_options=SHORT) as cluster,
            reedbed.connect(cluster.endpoint, timeout=60) as store,
        ):
            found = {"compaction": compact(cluster, store, arguments.objects)}
            found["recode"] = recode(cluster, store, arguments.blobs)
    print(
        "disks: {before:.2f} times the code of the live bytes before, {after:.3f} after {seconds:.0f} s".format(
            **found["compaction"]
        )
    )
    print(
        "recode: {mebibytes:.0f} MiB in {seconds:.0f} s, {rate:.0f} MiB/s, beside {reads} reads".format(
            **found["recode"]
        )
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if found["compaction"]["after"] <= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
