"""What is looked at within the cluster while a simulation runs, and at its end: rows of the catalog against disks.

- An order never removes a shard that a live extent counts on, nor one of an extent that a commit may still name.
- What a row counts on, the device holds, unless that device was harmed: redundancy does not sink in silence.
- At the end every extent is whole, every device holds what the rows say and nothing else, and the rows agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from typing import Any

from reedbed.catalog import audit, comparing, extents, lacks, mending
from reedbed.catalog.engine import Reader
from reedbed.catalog.leases import ROW, _State
from reedbed.catalog.mapstate import read_map
from reedbed.catalog.records import ExtentRow
from reedbed.common.errors import ReedbedError
from reedbed.common.ids import NO_ID, Id, format_id
from reedbed.protos.types import ClusterMap
from reedbed.storaged.calls import PutShard, Removal, RemoveOrder
from reedbed.storaged.entries import LIVE, shard_key
from reedbed.storaged.operations import Put
from reedbed.storaged.store import ShardStore
from reedbed_sim.cluster import SimCluster, StorageMachine


class Watch:
    """Looks at one cluster. `harmed`: devices, by id, whose bytes were destroyed by the scenario."""

    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster
        self.problems: list[str] = []
        self.harmed: set[str] = set()
        self.removed = 0
        self._orders: dict[tuple[str, int], list[RemoveOrder]] = {}  # given so far, by device and incarnation
        self._terms: dict[str, int] = {}  # that a device has acknowledged, by its id
        self._generations: dict[tuple[str, int, int], int] = {}  # by its id, incarnation, and PG
        cluster.watch_store = self._watch

    # While it runs

    def look(self) -> None:
        """What the rows of this moment count on is there."""
        stores = self._open_stores()
        with self._cluster.catalog.engine.read() as reader:
            map_ = self._map(reader)
            for extent_id, row in self._live(reader):
                for index, number in self._counted_on(map_, row):
                    device = map_.devices[number]
                    store = stores.get(device.uuid.hex())
                    if store is None or device.uuid.hex() in self.harmed or store.failed:
                        continue
                    if store.incarnation != device.incarnation:
                        continue
                    entry = store._book.get(shard_key(extent_id, index))
                    if entry is None or entry.state != LIVE:
                        self.problems.append(
                            f"the catalog counts on shard {index} of extent {format_id(extent_id)} at device {number}, "
                            "which does not hold it"
                        )

    def deliver_late(self) -> None:
        """Every order that was given comes once more, as one that was held up on its way."""
        for store in self._open_stores().values():
            orders = self._orders.get((store.device, store.incarnation), [])[-200:]
            if orders and not store.failed:
                process = next(one for one in self._cluster.storage if store in one.stores.values()).process
                assert process is not None
                process.context.copy().run(store.begin_remove, orders, max(1, store.term))

    def _watch(self, machine: StorageMachine, folder: str, store: ShardStore) -> None:
        self._promised(store)
        plain: Callable[..., Future[list[Removal]]] = store.begin_remove

        def begin_remove(orders: Sequence[RemoveOrder], term: int) -> Future[list[Removal]]:
            given = self._orders.setdefault((store.device, store.incarnation), [])
            given += [order for order in orders if order not in given[-500:]]
            future = plain(orders, term)

            def done(future: Future[list[Removal]]) -> None:
                if not future.cancelled() and future.exception() is None:
                    for order, outcome in zip(orders, future.result(), strict=True):
                        if outcome is Removal.REMOVED:
                            self._removed(store, order)

            future.add_done_callback(done)
            return future

        store.begin_remove = begin_remove  # type: ignore[method-assign]

    def _promised(self, store: ShardStore) -> None:
        """Terms and generations that a device has acknowledged do not sink, and it takes no put of an older one."""
        device, incarnation = store.device, store.incarnation
        if store.term < self._terms.get(device, 0):
            self.problems.append(f"device {device[:8]} forgot term {self._terms[device]}, it knows {store.term}")
        for (who, when, pg), generation in self._generations.items():
            if (who, when) == (device, incarnation) and store.generation(pg) < generation and device not in self.harmed:
                self.problems.append(f"device {device[:8]} forgot generation {generation} of PG {pg}")
        note_term, note_generations, begin_put = store.note_term, store.note_generations, store.begin_put

        def noting_term(term: int) -> None:
            note_term(term)
            if not store.failed:
                self._terms[device] = max(self._terms.get(device, 0), term)

        def noting_generations(generations: Mapping[int, int]) -> None:
            note_generations(generations)
            if not store.failed:
                for pg, generation in generations.items():
                    key = (device, incarnation, pg)
                    self._generations[key] = max(self._generations.get(key, 0), generation)

        acknowledged: dict[Put, int] = {}  # the generation of its PG when a put came

        def beginning(shard: PutShard, tell: Callable[[Sequence[Put]], None], whom: Any, *, here: bool) -> Put:
            known = self._generations.get((device, incarnation, shard.pg), 0)
            begun = begin_put(shard, telling(tell), whom, here=here)
            acknowledged[begun] = known
            return begun

        @cache  # those who share what they are told by share it on
        def telling(tell: Callable[[Sequence[Put]], None]) -> Callable[[Sequence[Put]], None]:
            def told(puts: Sequence[Put]) -> None:
                for one in puts:
                    known = acknowledged.pop(one)
                    if isinstance(one.outcome, bool) and one.shard.generation < known:
                        self.problems.append(
                            f"device {device[:8]} took a shard of PG {one.shard.pg} in generation "
                            f"{one.shard.generation}, and had acknowledged {known}"
                        )
                tell(puts)

            return told

        store.note_term = noting_term  # type: ignore[method-assign]
        store.note_generations = noting_generations  # type: ignore[method-assign]
        store.begin_put = beginning  # type: ignore[method-assign]

    def _removed(self, store: ShardStore, order: RemoveOrder) -> None:
        self.removed += 1
        what = f"shard {order.index} of extent {format_id(order.extent)} on device {store.device[:8]}"
        with self._cluster.catalog.engine.read() as reader:
            map_ = self._map(reader)
            row = extents.get(reader, order.extent)
            if row is None or row.dropped_ms is not None:
                if order.extent >= horizon_of(reader):
                    self.problems.append(f"{what} was removed, and a commit may still name it")
                return
            row = mending.as_of(row, mending.get_mark(reader, row.pg))
            for index, number in self._counted_on(map_, row):
                device = map_.devices[number]
                here = device.uuid.hex() == store.device and device.incarnation == store.incarnation
                if here and index == order.index:
                    self.problems.append(f"{what} was removed, and the catalog counts on it")

    def _open_stores(self) -> dict[str, ShardStore]:
        return {
            store.device: store
            for machine in self._cluster.storage
            if machine.running
            for store in machine.stores.values()
            if not store._closed
        }

    @staticmethod
    def _map(reader: Reader) -> ClusterMap:
        stored = read_map(reader)
        assert stored is not None
        return stored[0]

    @staticmethod
    def _live(reader: Reader) -> Iterator[tuple[Id, ExtentRow]]:
        for extent_id, row in extents.live(reader):
            yield extent_id, mending.as_of(row, mending.get_mark(reader, row.pg))

    @staticmethod
    def _counted_on(map_: ClusterMap, row: ExtentRow) -> Iterator[tuple[int, int]]:
        pg = map_.pgs[row.pg]
        for index in range(row.k + row.m):
            number = comparing.holder(pg, row, index)
            if number in map_.devices:
                yield index, number

    # At the end

    def unfinished(self, *, collection: bool) -> str:
        """What of the work that goes on by itself is not done yet, the empty string if all is; with `collection` also
        what is to be removed, which goes on for ever while clients overwrite."""
        catalog = self._cluster.catalog.catalog
        if catalog is None:
            return "no catalogd"
        status: dict[str, Any] = catalog.status()
        keeping = status["keeping"]
        states = {row["id"]: row["state"] for row in status["devices"]}
        orders = sum(row["removals"] for row in status["devices"] if states[row["id"]] == "up")
        named = {place.device for pg in catalog.cluster.map.pgs.values() for place in pg.positions}
        left = {
            "extents to mend": keeping["extents"],
            "marks": keeping["noting_pgs"],
            "moving positions": keeping["moving_positions"],
            "dropped extents": status["queues"]["dropped"] if collection else 0,
            "orders": orders if collection else 0,
            "positions at devices that are not up": sum(states.get(number) != "up" for number in named),
            "uploads": status["counts"]["uploads"] if collection else 0,
        }
        return ", ".join(f"{count} {what}" for what, count in left.items() if count)

    def last(self) -> list[str]:
        """What is wrong when everything should be done."""
        problems: list[str] = []
        stores = self._open_stores()
        with self._cluster.catalog.engine.read() as reader:
            problems += [f"audit: {one}" for one in audit.check(reader)]
            map_ = self._map(reader)
            expected: dict[str, dict[tuple[Id, int], int]] = {device: {} for device in stores}
            known = set()
            for extent_id, row in self._live(reader):
                known.add(extent_id)
                missing = lacks.required(row.lengths, row.m) & ~row.present
                if missing:
                    problems.append(f"extent {format_id(extent_id)} lacks shards {missing:b} at the end")
                for index, number in self._counted_on(map_, row):
                    length = lacks.shard_length(row, index)
                    expected.setdefault(map_.devices[number].uuid.hex(), {})[extent_id, index] = length
        for device, wanted in expected.items():
            store = stores.get(device)
            if store is None:
                if wanted:
                    problems.append(f"{len(wanted)} shards are counted on at {device[:8]}, which does not run")
                continue
            held = {(one.extent, one.index) for one in store.list(None, 1_000_000)}
            for shard in sorted(held - set(wanted)):
                if shard[0] in known:
                    problems.append(f"shard {shard[1]} of extent {format_id(shard[0])} is surplus on {device[:8]}")
            for (extent_id, index), length in wanted.items():
                try:
                    found = store.read(extent_id, index, 0, length)
                except ReedbedError as error:
                    problems.append(f"shard {index} of extent {format_id(extent_id)} on {device[:8]}: {error}")
                else:
                    if len(found.data) != length:
                        problems.append(f"shard {index} of extent {format_id(extent_id)} is cut short")
        return problems

    def unknown(self) -> int:
        """Shards of extents that nobody knows."""
        with self._cluster.catalog.engine.read() as reader:
            known = {extent_id for extent_id, _ in extents.live(reader)}
        return sum(
            one.extent not in known for store in self._open_stores().values() for one in store.list(None, 1_000_000)
        )


def horizon_of(reader: Reader) -> Id:
    value = reader.get(ROW)
    return NO_ID if value is None else _State.decode(value).horizon
