"""What devices witness of a catalog that is lost, or older than they are: terms, ids, log positions, the cluster map.

Every storaged remembers the same, each as far as it heard. Taken together the newest of it counts, and it is complete
if no more devices are out of reach than may be lost with nothing being lost: each note that matters lies on one more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from reedbed.catalog.asking import Answer, Asking, ask_all
from reedbed.catalog.remap import Heard
from reedbed.common.clock import Deadline
from reedbed.common.errors import ReedbedError, Unavailable, WrongCluster
from reedbed.common.ids import id_time_ms
from reedbed.ec.profiles import parse_profile
from reedbed.protos.types import CatalogNote, ClusterMap
from reedbed.transport.lane import Connector

HELLO_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Witness:
    """All of it. `away`: devices in service that could not be asked; `errors` by address, why."""

    cluster: bytes
    term: int
    answers: Sequence[Answer]
    note: CatalogNote | None
    log: tuple[int, int]
    id_ms: int
    map_term: int
    map: ClusterMap | None
    generations: Mapping[int, int]
    away: Sequence[int] = ()
    errors: Mapping[str, ReedbedError] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether what is told here cannot be outdone by what is out of reach."""
        if self.map is None:
            return False
        return len(self.away) <= parse_profile(self.map.default_profile).m

    @property
    def heard(self) -> Heard:
        """All that concerns the cluster map."""
        maps = [(answer.map_term, answer.map) for answer in self.answers if answer.map is not None]
        if self.map is not None and (self.map_term, self.map) not in maps:
            maps.append((self.map_term, self.map))
        devices = [device for answer in self.answers for device in answer.devices]
        return Heard(
            maps,
            self.generations,
            frozenset(device.uuid for device in devices),
            frozenset(device.number for device in devices),
        )

    @property
    def endpoints(self) -> list[str]:
        """Where the catalogd may be that was lost."""
        found = {endpoint for answer in self.answers for endpoint in answer.endpoints}
        notes = (device.note for answer in self.answers for device in answer.devices)
        found.update(note.endpoint for note in notes if note is not None and note.endpoint)
        return sorted(found)


def witness_of(answers: Sequence[Answer], errors: Mapping[str, ReedbedError] | None = None) -> Witness:
    """What these answers say together. WrongCluster where they are of several clusters, Unavailable without any."""
    if not answers:
        why = "; ".join(f"{address}: {error}" for address, error in sorted((errors or {}).items()))
        raise Unavailable(
            f"no storaged answers: {why or 'none is known'}",
            hint="Start the storaged processes, and name one of them with --storage HOST:PORT",
        )
    clusters = {answer.cluster for answer in answers}
    if len(clusters) > 1:
        names = ", ".join(sorted(cluster.hex() for cluster in clusters))
        raise WrongCluster(
            f"the storaged processes belong to {len(clusters)} clusters: {names}",
            hint="Name those of one cluster only",
        )
    devices = [device for answer in answers for device in answer.devices]
    notes = [device.note for device in devices if device.note is not None]
    maps = [(answer.map_term, answer.map.epoch, answer.map) for answer in answers if answer.map is not None]
    newest = max(maps, key=lambda one: one[:2], default=None)
    generations: dict[int, int] = {}
    for device in devices:
        for pg, generation in device.generations.items():
            generations[pg] = max(generation, generations.get(pg, 0))
    ids = [id_time_ms(device.highest) for device in devices if device.highest is not None]
    there = {device.uuid for device in devices}
    map_ = newest[2] if newest else None
    away = (
        []
        if map_ is None
        else [
            number
            for number, device in sorted(map_.devices.items())
            if device.state in ("up", "down") and device.uuid not in there
        ]
    )
    return Witness(
        cluster=clusters.pop(),
        term=max([*(answer.term for answer in answers), *(note.term for note in notes)]),
        answers=answers,
        note=max(notes, key=lambda note: note.age, default=None),
        log=max([(0, 0), *(note.log for note in notes), *(device.log for device in devices)]),
        id_ms=max([0, *ids, *(note.id_bound_ms for note in notes)]),
        map_term=newest[0] if newest else 0,
        map=map_,
        generations=generations,
        away=away,
        errors=errors or {},
    )


async def ask_around(
    asking: Asking, addresses: Iterable[str], seconds: float
) -> tuple[list[Answer], dict[str, ReedbedError]]:
    """What the processes at these addresses remember, and all that their maps name; by address why some do not tell."""
    answers: list[Answer] = []
    errors: dict[str, ReedbedError] = {}
    asked: set[str] = set()
    todo = set(addresses)
    while todo:
        good, bad = await ask_all(asking, todo, seconds)
        answers += good
        errors.update(bad)
        asked |= todo
        named = {device.address for answer in good if answer.map for device in answer.map.devices.values()}
        todo = named - asked
    return answers, errors


async def look(asking: Asking, addresses: Iterable[str], seconds: float = 10.0) -> Witness:
    """Ask the processes at these addresses, and all that their maps name. Errors as of `witness_of`."""
    answers, errors = await ask_around(asking, addresses, seconds)
    # a process that moved to another address is named by its old one too
    known = {device.uuid for answer in answers for device in answer.devices}
    maps = [answer.map for answer in answers if answer.map is not None]
    found_elsewhere = {device.address for map_ in maps for device in map_.devices.values() if device.uuid in known}
    return witness_of(answers, {address: error for address, error in errors.items() if address not in found_elsewhere})


async def refuse_if_answered(connector: Connector, cluster: bytes, endpoints: Iterable[str]) -> None:
    """Unavailable if a catalogd of the cluster still answers at one of these endpoints."""
    for endpoint in sorted(set(endpoints)):
        try:
            lane = await connector.open(endpoint, cluster=cluster, deadline=Deadline(HELLO_S))
        except ReedbedError:
            continue
        hello = lane.hello
        await lane.close()
        if hello.role == "catalogd":
            raise Unavailable(
                f"the catalog is not lost: a catalogd answers (term {hello.term})",
                where=endpoint,
                hint="Stop it first; two catalogs of one cluster must never run",
                retryable=False,
            )
