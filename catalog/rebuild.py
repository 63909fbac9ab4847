"""A lost catalog rebuilt on an empty machine, from its copy on the cluster; or restored, from a backup.

In this order: what devices remember is asked; nothing is done while the lost catalogd still answers; all that can be
read is read; then a term above all others is claimed with the devices, so that the lost catalog is followed by nobody
from then on; what came into the copy meanwhile is read too; and the catalog is begun anew (restoring.py). Until the
last step the folder counts as unfinished, and is not served.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from reedbed.catalog import chain, copying, leases, restoring
from reedbed.catalog.asking import Asking
from reedbed.catalog.backups import BackupReader
from reedbed.catalog.engine import Engine, RedoRecord
from reedbed.catalog.gathering import Gathering, Progress
from reedbed.catalog.hold import missing_as_json
from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.catalog.loading import Loaded, load_best, load_more, load_records
from reedbed.catalog.mapstate import DEVICE_ROWS
from reedbed.catalog.records import CopyRow
from reedbed.catalog.restoring import Begun
from reedbed.catalog.room import is_short
from reedbed.catalog.witness import Witness, look, refuse_if_answered
from reedbed.common import logs
from reedbed.common.clock import Clock
from reedbed.common.errors import DataLoss, ReedbedError, StaleTerm, Unavailable, WrongCluster
from reedbed.common.ids import Id, format_id
from reedbed.common.limits import READ_DEADLINE_MAX_S
from reedbed.protos import catalog_pb2
from reedbed.protos.convert import device_from_message, parse
from reedbed.transport.lane import Connector
from reedbed.transport.pool import LanePool

_log = logs.get("catalog.rebuild")


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What came of it; of a plan (without `begun`), what would.

    redo: the record that it is as of, `log` its newest entry. rows: of the snapshot, records: of redo. *_us: when the
    snapshot and the newest of it were written, by the lost catalog's wall clock. away: devices that did not answer.
    unreadable: redo records that cannot be read. skipped: extents that are no piece, or one that nothing needs.
    age_s: of a backup. grace_s: how long what was deleted, or written elsewhere, stayed on devices; None where a copy
    was read that removals wait for.
    """

    cluster: bytes
    redo: int
    log: tuple[int, int] = (0, 0)
    begun: Begun | None = None
    rows: int = 0
    records: int = 0
    snapshot_us: int = 0
    last_us: int = 0
    away: Sequence[int] = ()
    complete: bool = True
    unreadable: Sequence[str] = ()
    skipped: Sequence[str] = ()
    age_s: float = 0.0
    grace_s: float | None = None

    @property
    def past_grace(self) -> bool:
        """Whether shards that what was restored counts on may have been removed since."""
        return self.grace_s is not None and self.age_s > self.grace_s

    @property
    def missing(self) -> dict[str, object] | None:
        """Log positions that are lost, as far as anybody can tell."""
        return None if self.begun is None else missing_as_json(self.begun.row)

    def as_json(self) -> dict[str, object]:
        begun = self.begun
        return {
            "cluster": self.cluster.hex(),
            "redo": self.redo,
            "log": None if begun is None else {"term": self.log[0], "seq": self.log[1]},
            "rows": self.rows,
            "records": self.records,
            "snapshot_us": self.snapshot_us,
            "last_us": self.last_us,
            "devices_away": list(self.away),
            "complete": self.complete,
            "unreadable": list(self.unreadable),
            "skipped": list(self.skipped),
            "missing": self.missing,
            "term": None if begun is None else begun.term,
            "forgotten": [] if begun is None else list(begun.forgotten),
            "age_s": round(self.age_s, 1),
            "grace_s": self.grace_s,
            "past_grace": self.past_grace,
            "held": None if begun is None else {"from": format_id(begun.held[0]), "to": format_id(begun.held[1])},
        }


def _nothing(size: int) -> None:
    """Where nobody follows the progress."""


class Rebuilding:
    """Both ways back. Belongs to one event loop."""

    def __init__(
        self,
        connector: Connector,
        clock: Clock,
        *,
        progress: Progress = _nothing,
        rng: random.Random | None = None,
    ) -> None:
        """`progress` is told bytes as they are read."""
        self._connector = connector
        self._clock = clock
        self._progress = progress
        self._rng = rng or random.Random()

    async def rebuild(self, folder: Path | None, storage: Iterable[str], *, incomplete: bool = False) -> Rebuilt:
        """The catalog in `folder`, from the copy that devices hold; None: only tell what would be.

        storage: addresses of storaged processes; one that answers is enough. incomplete: go on although so many devices
        are away that what is newest may be with them.

        Raises Unavailable (nobody answers, too many are away, the old catalogd still answers), WrongCluster, DataLoss
        (there is no copy that can be read), NewerFormat, StaleTerm (another rebuild was faster), and what the folder
        raises.
        """
        storage = list(storage)
        async with self._lanes() as pool:
            asking = Asking(pool, self._clock)
            witness = await look(asking, storage)
            await self._refuse(witness, incomplete)
            gathering = Gathering(pool, asking, witness, self._clock, self._progress)
            begin = witness.note.begin if witness.note is not None else None
            found = await gathering.find(begin)
            if folder is None:
                return await _plan(gathering, witness, begin)
            folders = _Folders(folder, Id(witness.cluster))
            try:
                filled = await load_best(gathering, found, begin, folders.fresh)
                if filled is None:
                    raise _no_copy(gathering)
                _, loaded = filled
                term = await self._claim(asking, witness)
                witness = await look(asking, storage)
                await load_more(folders.engine, gathering, loaded, await gathering.find(begin))
                return await self._finish(folders.engine, witness, term, loaded, gathering)
            finally:
                await asyncio.to_thread(folders.close)

    async def restore(self, backup: Path, folder: Path, storage: Iterable[str], *, incomplete: bool = False) -> Rebuilt:
        """The catalog in `folder`, from a backup. Errors as of `rebuild` and BackupReader."""
        reader = await asyncio.to_thread(BackupReader, backup)
        cluster = bytes.fromhex(reader.about.cluster)
        addresses = [*storage, *await asyncio.to_thread(_addresses_in, reader)]
        async with self._lanes() as pool:
            asking = Asking(pool, self._clock)
            witness = await look(asking, addresses)
            if witness.cluster != cluster:
                raise WrongCluster(
                    f"the backup is of cluster {cluster.hex()}, the devices are of {witness.cluster.hex()}",
                    where=str(backup),
                    hint="Name the backup, or the devices, of one cluster",
                )
            await self._refuse(witness, incomplete, [reader.about.endpoint])
            folders = _Folders(folder, Id(cluster))
            try:
                engine = await asyncio.to_thread(folders.fresh)
                await asyncio.to_thread(_load_backup, engine, reader, self._progress)
                term = await self._claim(asking, witness)
                witness = await look(asking, addresses)
                begun = await asyncio.to_thread(restoring.begin, engine, witness, term, restoring.RESTORED, self._clock)
                await asyncio.to_thread(engine.finish_restoring)
            finally:
                await asyncio.to_thread(folders.close)
        summary = reader.summary()
        return Rebuilt(
            cluster,
            summary.last,
            begun.log,
            begun,
            rows=summary.rows,
            records=summary.records,
            snapshot_us=summary.about.created_us,
            last_us=summary.about.created_us,
            away=witness.away,
            complete=witness.complete,
            age_s=max(0.0, self._clock.wall() - summary.about.created_us / 1e6),
            grace_s=_grace(reader.about.grace_s, witness),
        )

    @asynccontextmanager
    async def _lanes(self) -> AsyncIterator[LanePool]:
        pool = LanePool(self._connector, clock=self._clock)
        try:
            yield pool
        finally:
            await pool.close()

    async def _refuse(self, witness: Witness, incomplete: bool, endpoints: Iterable[str] = ()) -> None:
        await refuse_if_answered(self._connector, witness.cluster, [*witness.endpoints, *filter(None, endpoints)])
        if not witness.complete and not incomplete:
            away = ", ".join(map(str, witness.away)) or "nobody knows which there are"
            raise Unavailable(
                f"too many devices are away to know what is newest: {away}",
                hint="Start their storaged processes and name them with --storage, or go on with --incomplete",
                retryable=False,
            )

    async def _claim(self, asking: Asking, witness: Witness) -> int:
        """A term below which the devices follow nobody from now on. StaleTerm if one follows a higher one already."""
        term = leases.term_above([witness.term], self._rng.randrange(1000))
        claimed = 0
        for answer in witness.answers:
            try:
                claimed += len(await asking.claim(answer.address, term))
            except StaleTerm:
                raise
            except ReedbedError as error:
                _log.warning("%s does not follow term %d yet: %s", answer.address, term, error)
        if not claimed:
            raise Unavailable("no device took the new term", hint="Look at the storaged processes, and try again")
        return term

    async def _finish(
        self, engine: LmdbEngine, witness: Witness, term: int, loaded: Loaded, gathering: Gathering
    ) -> Rebuilt:
        stream = _stream_row(engine, loaded)
        begun = await asyncio.to_thread(restoring.begin, engine, witness, term, restoring.REBUILT, self._clock, stream)
        await asyncio.to_thread(engine.finish_restoring)
        return Rebuilt(
            witness.cluster,
            loaded.last,
            begun.log,
            begun,
            rows=loaded.rows,
            records=loaded.records,
            snapshot_us=loaded.plan.end.head.time_us,
            last_us=loaded.newest.time_us,
            away=witness.away,
            complete=witness.complete,
            unreadable=loaded.notes,
            skipped=_skipped(gathering),
        )


class _Folders:
    """One folder, whose engine is made anew for each try."""

    def __init__(self, path: Path, cluster: Id) -> None:
        self._path = path
        self._cluster = cluster
        self._engine: LmdbEngine | None = None

    @property
    def engine(self) -> LmdbEngine:
        """Of the newest try."""
        assert self._engine is not None
        return self._engine

    def fresh(self) -> LmdbEngine:
        """An empty engine; the one before is thrown away. Errors as of LmdbEngine."""
        self.close()
        self._engine = LmdbEngine(self._path, cluster=self._cluster, restoring=True)
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


async def _plan(gathering: Gathering, witness: Witness, begin: Id | None) -> Rebuilt:
    """What a rebuild would find. Log positions are known only once everything is read."""
    possible = chain.plans(await gathering.find(begin))
    if not possible and begin is not None:
        possible = chain.plans(await gathering.find(None))
    if not possible:
        raise _no_copy(gathering)
    best = possible[0]
    return Rebuilt(
        witness.cluster,
        best.last,
        records=best.last - best.end.head.first,
        snapshot_us=best.end.head.time_us,
        last_us=(best.runs[-1][-1] if best.runs else best.end).head.time_us,
        away=witness.away,
        complete=witness.complete,
        skipped=_skipped(gathering),
    )


def _stream_row(engine: Engine, loaded: Loaded) -> CopyRow | None:
    """The stream goes on where it was read to its end; else another one begins."""
    if not loaded.applied or not loaded.whole:
        return None
    with engine.read() as reader:
        row = copying.read(reader)
    head = loaded.newest
    return restoring.stream_after(row, head.stream, head.number, head.link, head.last)


def _skipped(gathering: Gathering) -> list[str]:
    return [f"extent {format_id(extent)}: {error}" for extent, error in sorted(gathering.unreadable.items())]


def _no_copy(gathering: Gathering) -> DataLoss:
    return DataLoss(
        f"no copy of the catalog can be read: {gathering.extents} extents of it were found",
        hint="Bring back devices that hold it, or restore a backup: reedbed catalog restore",
    )


def _load_backup(engine: Engine, reader: BackupReader, progress: Callable[[int], None]) -> None:
    for part in reader.parts():
        records = [one for one in part if isinstance(one, RedoRecord)]
        rows = [one for one in part if isinstance(one, tuple)]
        if rows:
            engine.load(rows, reader.about.redo)
        load_records(engine, records)
        progress(
            sum(len(key) + len(value) for key, value in rows)
            + sum(len(key) + len(value or b"") for record in records for key, value in record.changes)
        )


def _grace(grace_s: float, witness: Witness) -> float:
    """How long what was deleted stayed, as far as anybody can tell: where space is short, no longer than reads take."""
    short = witness.map is not None and is_short(witness.map)
    return min(grace_s, READ_DEADLINE_MAX_S) if short else grace_s


def _addresses_in(reader: BackupReader) -> list[str]:
    """Where the devices of a backup's cluster map were. Reads the whole file, and so checks it."""
    devices: dict[bytes, bytes | None] = {}
    for part in reader.parts():
        for one in part:
            changes = one.changes if isinstance(one, RedoRecord) else [one]
            devices.update((key, value) for key, value in changes if key.startswith(DEVICE_ROWS))
    return [
        device_from_message(parse(catalog_pb2.Device, value)).address for value in devices.values() if value is not None
    ]
