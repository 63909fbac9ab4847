"""What devices tell of their catalog while none answers: above all the highest term that any of them has seen."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from reedbed.common.clock import SystemClock
from reedbed.common.errors import StaleTerm, Unavailable
from reedbed.protos import methods, storage_pb2
from reedbed.protos.convert import note_to_message
from reedbed.protos.types import CatalogNote
from reedbed.storaged.process import World, run_process
from reedbed.storaged.remembering import Remembering
from reedbed.storaged.settings import StoragedSettings
from reedbed.storaged.state import CatalogState
from reedbed.storaged.store import ShardStore

SEEN = 5_700_000_000


async def ask(one: Remembering, method: str, message: Any) -> bytes:
    response = await one.handlers()[method](SimpleNamespace(header=message.SerializeToString()))  # type: ignore[arg-type]
    return bytes(response.header)


async def test_a_term_below_what_a_device_remembers_is_neither_told_nor_taken(store: ShardStore) -> None:
    """The process has heard of no catalog since it started."""
    store.note_term(SEEN)
    state = CatalogState(bytes(range(16)), SystemClock())
    one = Remembering(state, lambda: {1: store})
    recalled = storage_pb2.RecallReply.FromString(await ask(one, methods.RECALL, storage_pb2.RecallRequest()))
    assert recalled.term == SEEN
    for term in (SEEN - 1, SEEN):
        with pytest.raises(StaleTerm):
            await ask(one, methods.CLAIM, storage_pb2.ClaimRequest(term=term))
    note = note_to_message(CatalogNote(SEEN - 1, 1))
    with pytest.raises(StaleTerm):
        await ask(one, methods.REMEMBER, storage_pb2.RememberRequest(note=note))
    assert (state.term, store.term) == (0, SEEN)
    claimed = storage_pb2.ClaimReply.FromString(await ask(one, methods.CLAIM, storage_pb2.ClaimRequest(term=SEEN + 1)))
    assert list(claimed.devices) == [1]
    assert store.term == SEEN + 1


class Nobody:
    """No catalogd answers."""

    async def open(self, endpoint: str, **more: Any) -> Any:
        raise Unavailable("nobody there")


class Server:
    """Serves nobody; what would be served."""

    def __init__(self) -> None:
        self.service: Any = None
        self.started = asyncio.Event()

    def serving(self, service: Any) -> Any:
        self.service = service
        return self

    async def start(self) -> int:
        self.started.set()
        return 1

    async def stop(self, grace: float) -> None:
        pass


async def test_a_process_that_no_catalog_has_answered_yet_knows_what_its_devices_have_seen(tmp_path: Path) -> None:
    cluster = bytes(range(16))
    for number, name in enumerate(("a", "b")):
        store = ShardStore.open(tmp_path / name, cluster)
        store.note_term(SEEN - number)
        store.close()
    server, nobody = Server(), cast(Any, Nobody())
    world = World(
        connector=nobody,
        server=server.serving,
        open_store=lambda folder, cluster: ShardStore.open(Path(folder), cluster),
        clean=lambda folder, incarnation: None,
        readers=lambda name: ThreadPoolExecutor(1, name),
        clock=SystemClock(),
        rng=Random(1),
        known=lambda folder: cluster,
    )
    stop = asyncio.Event()
    settings = StoragedSettings(dir=(str(tmp_path / "b"), str(tmp_path / "a")), catalog=("127.0.0.1:1",))
    running = asyncio.ensure_future(run_process(settings, world, lambda address, devices: None, stop))
    await server.started.wait()
    assert server.service.hello().term == SEEN
    stop.set()
    await running
