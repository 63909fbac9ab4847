"""Ids that a worker takes: none twice, none from a block that is too old or of another term."""

from __future__ import annotations

from reedbed.common.clock import ManualClock
from reedbed.protos import catalog_pb2
from reedbed.storaged.ids import LeasedIds


class Catalog:
    """Leases blocks of `count` ids, good for ten seconds."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.leased = 0
        self.term = 1

    async def lease(self) -> catalog_pb2.LeaseReply:
        self.leased += 1
        prefix = self.leased.to_bytes(12, "big")
        return catalog_pb2.LeaseReply(prefix=prefix, count=self.count, good_for_ms=10_000)


async def test_blocks_are_used_up_and_no_longer_than_they_are_good() -> None:
    catalog, clock = Catalog(count=3), ManualClock()
    ids = LeasedIds(catalog.lease, clock, lambda: catalog.term)
    taken = [await ids.take() for _ in range(7)]
    assert len(set(taken)) == 7
    assert catalog.leased == 3
    clock.advance(8.0)
    taken.append(await ids.take())
    assert catalog.leased == 4
    catalog.term = 2  # one that was begun anew refuses ids of before
    taken.append(await ids.take())
    assert catalog.leased == 5
    assert len(set(taken)) == 9
