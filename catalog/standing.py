"""Before a catalog takes its next term: do devices follow another one, or have they seen more than its folder has?"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

from reedbed.catalog import leases, restoring
from reedbed.catalog.asking import Answer, Asking, Recalled
from reedbed.catalog.engine import Engine
from reedbed.catalog.mapstate import read_map
from reedbed.catalog.warden import Verdict, judge, own_of
from reedbed.catalog.witness import Witness, ask_around, witness_of
from reedbed.common import logs
from reedbed.common.clock import Clock
from reedbed.common.errors import StaleTerm
from reedbed.protos.types import CatalogNote
from reedbed.transport.lane import Connector
from reedbed.transport.pool import LanePool

ASK_S: Final = 1.5  # a device that does not answer so soon is heard later, by its heartbeat
NEWS_S: Final = 5.0  # the same, where some device has proven this folder old: it, or another, knows the newest map

_log = logs.get("catalog")


Evidence = Sequence[tuple[CatalogNote | None, tuple[int, int]]]  # what devices told by themselves: note, log position


async def standing(engine: Engine, connector: Connector, clock: Clock, evidence: Evidence = ()) -> None:
    """Returns once the catalog in `engine` may be served; it is begun anew if its folder is older than its devices.

    StaleTerm if devices follow a catalog of a higher term than this one ever had.
    """
    with engine.read() as reader:
        stored = read_map(reader)
    addresses = {device.address for device in stored[0].devices.values()} if stored else set()
    if stored is None or not addresses:
        return
    pool = LanePool(connector, stored[0].cluster, clock=clock)
    try:
        # what moved since is found by the maps of those that did not
        answers, _ = await ask_around(Asking(pool, clock), addresses, NEWS_S if evidence else ASK_S)
    finally:
        await pool.close()
    devices = [Recalled(0, b"", None, log, note) for note, log in evidence]
    if devices:
        answers.append(Answer("", stored[0].cluster, 0, devices))
    if answers:
        await asyncio.to_thread(_judge, engine, witness_of(answers), clock)


def _judge(engine: Engine, witness: Witness, clock: Clock) -> None:
    own = own_of(engine)
    if witness.term > own.term:
        raise StaleTerm(
            f"this catalog (term {own.term}) has been replaced: devices follow one of term {witness.term}",
            hint="Leave it stopped. To go back to it, `reedbed catalog backup --dir` it and restore that backup",
        )
    devices = [device for answer in witness.answers for device in answer.devices]
    if all(judge(own, device.note, device.log) is not Verdict.OLDER for device in devices):
        return
    _log.error(
        "devices have seen log entry %d of term %d, this folder ends at %d of %d: it is an old copy. The catalog is "
        "begun anew on it, and what it does not know is kept",
        witness.log[1],
        witness.log[0],
        own.log[1],
        own.log[0],
    )
    term = leases.term_above([own.term, witness.term], random.randrange(1000))
    restoring.begin(engine, witness, term, restoring.NOTICED, clock)
