"""How many bytes each position of each PG holds: a walk over all live extents, some of them at a time."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Final

from reedbed.catalog import keys, lacks, records
from reedbed.catalog.engine import Engine
from reedbed.catalog.records import ExtentRow

PAGE: Final = 500  # extents between two looks at what else there is to do

Sizes = dict[int, list[int]]


def add(sizes: Sizes, row: ExtentRow) -> None:
    """Count a live extent's shards in."""
    known = sizes.get(row.pg)
    if known is None:
        known = sizes[row.pg] = [0] * (row.k + row.m)
    for position in range(row.k + row.m):
        known[position] += lacks.shard_length(row, position)


async def weigh(engine: Engine) -> Sizes:
    """Bytes by PG and position; no transaction outlives a page, so what is written meanwhile may count or not."""
    sizes: Sizes = {}
    start = keys.EXTENTS
    while True:
        with engine.read() as reader:
            page = list(islice(reader.scan(start, keys.after(keys.EXTENTS)), PAGE))
            for key, data in page:
                row = records.EXTENT.decode(data, key)
                if row.dropped_ms is None:
                    add(sizes, row)
        if len(page) < PAGE:
            return sizes
        start = page[-1][0] + b"\x00"
        await asyncio.sleep(0)
