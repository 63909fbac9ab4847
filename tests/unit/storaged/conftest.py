"""Devices on a disk in memory (its index on a real one), and shards to put on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reedbed.common.checksums import block_sum
from reedbed.common.ids import Id
from reedbed.extents.blocks import pack_table
from reedbed.storaged.calls import PutShard
from reedbed.storaged.disk_twin import MemoryDisk
from reedbed.storaged.index_check import find_damage
from reedbed.storaged.store import ShardStore, StoreOptions

CLUSTER = bytes(range(16))


def extent(number: int) -> Id:
    return Id(number.to_bytes(16, "big"))


def table_of(id_: Id, index: int, data: bytes, block: int = 65536) -> list[tuple[int, int]]:
    pieces = [data[at : at + block] for at in range(0, len(data), block)]
    return [(len(piece), block_sum(id_, index, number, piece)) for number, piece in enumerate(pieces)]


def shard(
    number: int,
    data: bytes,
    index: int = 0,
    *,
    pg: int = 1,
    generation: int = 1,
    block: int = 65536,
    data_tables: tuple[list[tuple[int, int]], ...] = (),
    log: tuple[int, int] = (0, 0),
) -> PutShard:
    id_ = extent(number)
    table = table_of(id_, index, data, block)
    packed = [pack_table(one) for one in data_tables]
    return PutShard(id_, index, 4, 2, pg, generation, pack_table(table), [data], packed, log[0], log[1])


def options(**changes: object) -> StoreOptions:
    """Small segments, checkpoints only when asked for, and the index checked within this process."""
    given = {"segment_bytes": 8192, "checkpoint_seconds": 3600.0, "check_index": find_damage, **changes}
    return StoreOptions(**given)  # type: ignore[arg-type]


def open_store(disk: MemoryDisk | Path, **changes: object) -> ShardStore:
    return ShardStore.open(disk, CLUSTER, options=options(**changes))


def forget_rows(store: ShardStore) -> None:
    """What is remembered of the index, as if so many other shards had been asked for since."""
    store._book._known.clear()
    store._book._recent = {}


@pytest.fixture
def disk(tmp_path: Path) -> MemoryDisk:
    return MemoryDisk(tmp_path, capacity=1 << 30)


@pytest.fixture
def opened(disk: MemoryDisk) -> Iterator[Callable[..., ShardStore]]:
    """Opens stores (on `disk` unless told otherwise) and closes what a test left open."""
    stores: list[ShardStore] = []

    def open_one(where: MemoryDisk | Path | None = None, **changes: object) -> ShardStore:
        stores.append(open_store(where if where is not None else disk, **changes))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close(clean=False)


@pytest.fixture
def store(opened: Callable[..., ShardStore]) -> ShardStore:
    return opened()


@pytest.fixture
def data() -> bytes:
    return os.urandom(1000)
