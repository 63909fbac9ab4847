"""Compares what the devices of a process hold with what the catalog expects: PG by PG, by digests, then shard by shard.

A device is compared after an unclean start, after each pass of its scrubber, and once after the catalog was restored.
Damaged shards count as not held.

Invariants
- A shard counts as absent only if it was looked for, and not found whole, after the catalog had named it: a put that
  was under way while the shards were listed is durable by then.
- Nothing is deleted here; that is ordered by the catalog.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

from google.protobuf.message import Message

from reedbed.common import logs
from reedbed.common.errors import DamagedShard, ReedbedError, Unavailable, UnknownShard
from reedbed.common.ids import ID_BYTES, Id
from reedbed.common.limits import PAGE_MAX, POSITIONS_MAX
from reedbed.extents.digest import ShardsDigest
from reedbed.protos import catalog_pb2, methods
from reedbed.protos.convert import note_to_message
from reedbed.storaged.calls import ShardInfo
from reedbed.storaged.store import ShardStore

M = TypeVar("M", bound=Message)

LOOK_S: Final = 0.5  # between looks at whether a comparison is due
RETRY_S: Final = 5.0
_END: Final = b"\xff" * ID_BYTES
log = logs.get("storaged")

ShardKey = tuple[Id, int]


class Device(Protocol):
    """A device of this process, with its number in the cluster map; its store may become another."""

    @property
    def number(self) -> int: ...

    @property
    def store(self) -> ShardStore: ...


class Ask(Protocol):
    """Calls the catalog. ReedbedError."""

    async def __call__(self, method: str, message: Message, answer: type[M], /) -> M: ...


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparisons of one device. `passes`: after which pass of the scrubber the last one was; `done` in all.

    missing, garbage, unknown and differing (PGs) are of the last one. error: why the newest try failed.
    """

    done: int = 0
    passes: int = 0
    differing: int = 0
    missing: int = 0
    garbage: int = 0
    unknown: int = 0
    error: str = ""


class Comparer:
    """See the module's text. Belongs to one event loop; `status` is for it as well."""

    def __init__(self, devices: Callable[[], Sequence[Device]], ask: Ask) -> None:
        self._devices = devices
        self._ask = ask
        self._known: dict[int, tuple[ShardStore, Comparison, bool]] = {}  # bool: due whatever the scrubber says
        self._stop = asyncio.Event()
        self._restored = 0

    def status(self, number: int) -> Comparison:
        known = self._known.get(number)
        return known[1] if known else Comparison()

    def restored(self, term: int) -> None:
        """With which term the catalog began anew, after a loss; 0 if it never did. Then every device is due once."""
        if term > self._restored:
            self._restored = term
            self._known = {number: (store, found, True) for number, (store, found, _) in self._known.items()}

    async def run(self, stop: asyncio.Event) -> None:
        """Compares what is due until `stop`."""
        self._stop = stop
        while not stop.is_set():
            pause = LOOK_S
            for device in self._devices():
                try:
                    await self.step(device)
                except (ReedbedError, OSError) as error:
                    # told by `status`; it stays due. OSError: the store was closed under us, to be cleaned
                    known = self._known.get(device.number)
                    if known is not None:
                        self._known[device.number] = (known[0], replace(known[1], error=str(error)), known[2])
                    log.warning("device %d: comparing with the catalog: %s", device.number, error)
                    pause = RETRY_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)

    async def step(self, device: Device) -> bool:
        """Compare the device if that is due; whether it was. ReedbedError."""
        passes = device.store.scrubber().status().passes
        known = self._known.get(device.number)
        if known is None or known[0] is not device.store:
            known = (device.store, Comparison(passes=passes), device.store.unclean or self._restored > 0)
            self._known[device.number] = known
        store, before, due = known
        if not due and before.passes >= passes:
            return False
        if store.forgot_damage:
            return False  # what is damaged would be told as held; the next pass finds it
        restored = self._restored
        found = await self.compare(device)
        again = self._restored > restored
        self._known[device.number] = (store, replace(found, done=before.done + 1, passes=passes), again)
        return True

    async def compare(self, device: Device) -> Comparison:
        """One comparison, from end to end. ReedbedError."""
        number, store = device.number, device.store
        uuid, incarnation = bytes.fromhex(store.device), store.incarnation
        term, seq = (await asyncio.to_thread(store.status)).log_position
        note = None if store.memory.note is None else note_to_message(store.memory.note)
        first = catalog_pb2.CompareRequest(
            device=number, uuid=uuid, incarnation=incarnation, log_term=term, log_seq=seq, note=note
        )
        first.below = (await self._ask(methods.COMPARE, first, catalog_pb2.CompareReply)).below
        for pg, digest in (await asyncio.to_thread(digests, store, Id(first.below))).items():
            first.digests.add(pg=pg, count=digest.count, sum=digest.encode())
        reply = await self._ask(methods.COMPARE, first, catalog_pb2.CompareReply)
        below, pgs = Id(reply.below), frozenset(reply.differing)
        found = Comparison(differing=len(pgs))
        absent: list[ShardKey] = []
        # where no PG differs, all below the mark is as it should be
        after = b"" if pgs else _before(below)
        while True:
            if self._stop.is_set():
                raise Unavailable("the process is stopping")
            held, upto = await asyncio.to_thread(page, store, after, below, pgs)
            answer = await self._ask(
                methods.COMPARE_SHARDS,
                catalog_pb2.CompareShardsRequest(
                    device=number,
                    uuid=uuid,
                    incarnation=incarnation,
                    below=below,
                    pgs=pgs,
                    after=after,
                    upto=upto,
                    held=[
                        catalog_pb2.HeldShard(extent=one.extent, index=one.index, pg=one.pg, length=one.length)
                        for one in held
                    ],
                    absent=[catalog_pb2.ShardRef(extent=extent, index=index) for extent, index in absent],
                    log_term=term,
                    log_seq=seq,
                    note=note,
                ),
                catalog_pb2.CompareShardsReply,
            )
            found = replace(
                found,
                missing=found.missing + answer.missing,
                garbage=found.garbage + answer.garbage,
                unknown=found.unknown + answer.unknown,
            )
            suspects = [(Id(one.extent), one.index) for one in answer.suspects]
            absent = await asyncio.to_thread(_absent, store, suspects) if suspects else []
            after = answer.upto or _END
            if after == _END and not absent:
                break
        if found.missing or found.garbage:
            log.warning("device %d: %d shards missing, %d surplus", number, found.missing, found.garbage)
        return found


def digests(store: ShardStore, below: Id) -> dict[int, ShardsDigest]:
    """By PG, of the whole shards of extents below an id. Blocks for a walk over the index."""
    found: dict[int, ShardsDigest] = {}
    after: ShardKey | None = None
    while rows := store.list(after, PAGE_MAX):
        bad = _damaged(store)
        for row in rows:
            if row.extent >= below:
                return found
            if (row.extent, row.index) not in bad:
                found.setdefault(row.pg, ShardsDigest()).add(row.extent, row.index, row.length)
        after = (rows[-1].extent, rows[-1].index)
    return found


def page(store: ShardStore, after: bytes, below: Id, pgs: frozenset[int]) -> tuple[list[ShardInfo], bytes]:
    """All whole shards behind `after` of these PGs, or of extents from `below` on, and up to which extent; b"" for all.

    Blocks.
    """
    rows = store.list((Id(after), POSITIONS_MAX) if after else None, PAGE_MAX)
    upto = b""
    if len(rows) == PAGE_MAX:
        upto = rows[-1].extent
        rows += [row for row in store.list((rows[-1].extent, rows[-1].index), POSITIONS_MAX) if row.extent == upto]
    bad = _damaged(store)
    return [row for row in rows if (row.extent >= below or row.pg in pgs) and (row.extent, row.index) not in bad], upto


def _damaged(store: ShardStore) -> set[ShardKey]:
    return {(one.extent, one.index) for one in store.damaged()}


def _absent(store: ShardStore, suspects: Sequence[ShardKey]) -> list[ShardKey]:
    """Those that are not here, or not whole."""
    bad = _damaged(store)
    found = []
    for extent, index in suspects:
        if (extent, index) not in bad:
            try:
                store.read(extent, index, 0, 0)
                continue
            except (UnknownShard, DamagedShard):
                pass
        found.append((extent, index))
    return found


def _before(id_: Id) -> bytes:
    """The highest id below this one; b"" if there is none."""
    number = int.from_bytes(id_, "big")
    return (number - 1).to_bytes(ID_BYTES, "big") if number > 1 else b""
