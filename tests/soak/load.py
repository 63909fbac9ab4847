"""A process that loads a device or a catalog's engine and reports on standard output what was begun and acknowledged.

`python load.py device|catalog FOLDER FIRST SEED`. Lines: `+ n` a put of number n began, `= n` it is durable, `- n` a
removal began, `x n` it is durable, `ready`. It ends when its disk does.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from pathlib import Path
from typing import Final

from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.common.checksums import block_sum
from reedbed.common.errors import ReedbedError
from reedbed.common.ids import Id
from reedbed.extents.blocks import pack_table
from reedbed.storaged.calls import PutShard, RemoveOrder
from reedbed.storaged.store import ShardStore, StoreOptions

CLUSTER: Final = bytes(range(16))
THREADS: Final = 8
SIZES: Final = (1, 300, 5_000, 70_000, 200_000)
BLOCK: Final = 65536
OPTIONS: Final = StoreOptions(segment_bytes=4 << 20, checkpoint_seconds=0.2, reserve_bytes=1 << 20)


def extent(number: int) -> Id:
    return Id(number.to_bytes(16, "big"))


def content(number: int) -> bytes:
    rng = random.Random(number)
    return rng.randbytes(rng.choice(SIZES))


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def shard(number: int) -> PutShard:
    data = content(number)
    pieces = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    table = [(len(piece), block_sum(extent(number), 0, block, piece)) for block, piece in enumerate(pieces)]
    return PutShard(extent(number), 0, 4, 2, 1, 1, pack_table(table), [data])


def load_device(folder: Path, first: int, seed: int) -> None:
    store = ShardStore.open(folder, CLUSTER, options=OPTIONS)

    def work(thread: int) -> None:
        rng = random.Random(seed * 100 + thread)
        mine: list[int] = []
        number = first + thread
        while True:
            say(f"+ {number}")
            store.put(shard(number)).result()
            say(f"= {number}")
            mine.append(number)
            number += THREADS
            if rng.random() < 0.2:
                gone = mine.pop(rng.randrange(len(mine)))
                say(f"- {gone}")
                store.remove([RemoveOrder(extent(gone), 0, 1, 1)], 1)
                say(f"x {gone}")

    say("ready")
    _many(work)


def load_catalog(folder: Path, first: int, seed: int) -> None:
    engine = LmdbEngine(folder, cluster=Id(CLUSTER))

    def work(thread: int) -> None:
        number = first + thread
        while True:
            say(f"+ {number}")
            with engine.write() as writer:
                writer.put(b"key%d" % number, content(number)[:1000])
            say(f"= {number}")
            number += THREADS

    say("ready")
    _many(work)


def _many(work: object) -> None:
    def guarded(thread: int) -> None:
        try:
            work(thread)  # type: ignore[operator]
        except (ReedbedError, OSError) as error:
            sys.stderr.write(f"{error}\n")

    threads = [threading.Thread(target=guarded, args=(thread,), daemon=True) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os._exit(0)  # its disk is gone: nothing is to be closed in order


if __name__ == "__main__":
    {"device": load_device, "catalog": load_catalog}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
