"""Lanes within one process: the twin of the network for tests and the simulation.

Messages are the same bytes as on any wire, handed over by queues of a few messages, so that a writer waits for a slow
reader. Nothing here starts a thread or reads a clock but the loop's and the one given.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from reedbed.common import logs
from reedbed.common.checksums import Buffer
from reedbed.common.clock import Clock, Deadline, SystemClock
from reedbed.common.errors import AlreadyExists, DeadlineExceeded, ReedbedError, Unavailable
from reedbed.transport.ends import MuxLane, ServerEnd
from reedbed.transport.greeting import check_hello
from reedbed.transport.lane import Hello, Service
from reedbed.transport.mux_server import Budget

log = logs.get("transport")

_QUEUE: Final = 4  # messages


class _Pipe:
    """One direction: messages in order until either side ends it. While `gate` is shut none is handed over."""

    def __init__(self, gate: asyncio.Event) -> None:
        self._messages: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._gate = gate
        self.ended = False

    def end(self) -> None:
        self.ended = True
        self._messages.clear()
        self._changed.set()

    async def put(self, message: bytes) -> None:
        while len(self._messages) >= _QUEUE and not self.ended:
            await self._change()
        if self.ended:
            raise Unavailable("the lane has ended")
        self._messages.append(message)
        self._changed.set()

    async def get(self) -> bytes | None:
        while True:
            await self._gate.wait()
            if self._messages:
                self._changed.set()
                return self._messages.popleft()
            if self.ended:
                return None
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class _PipeWire:
    """A wire (see ends.py) of two pipes."""

    def __init__(self, inward: _Pipe, outward: _Pipe) -> None:
        self._inward = inward
        self._outward = outward

    async def read(self) -> bytes | None:
        return await self._inward.get()

    async def write(self, parts: list[Buffer]) -> None:
        await self._outward.put(b"".join(parts))


class _Served:
    """What answers at one address."""

    def __init__(self, service: Service, clock: Clock, budget: Budget | None) -> None:
        self.service = service
        self.clock = clock
        self.budget = budget
        self.gate = asyncio.Event()
        self.gate.set()
        self.lanes: dict[asyncio.Task[None], tuple[_Pipe, _Pipe]] = {}


class InProcessNetwork:
    """Services by address, and a connector to them, with the faults that tests and simulations ask for."""

    def __init__(self) -> None:
        self._served: dict[str, _Served] = {}

    def serve(
        self, address: str, service: Service, *, clock: Clock | None = None, budget: Budget | None = None
    ) -> None:
        """From now on the service answers at the address. AlreadyExists if another one does."""
        if address in self._served:
            raise AlreadyExists("the address is taken", where=address)
        self._served[address] = _Served(service, clock or SystemClock(), budget)

    def lanes(self, address: str) -> int:
        """Lanes that are open to the address."""
        return len(self._served[address].lanes)

    async def stop(self, address: str) -> None:
        """The service answers no more; its lanes end."""
        served = self._served.pop(address)
        await self._end_lanes(served)

    async def cut(self, address: str) -> None:
        """Ends all lanes to the address; new ones can be opened."""
        await self._end_lanes(self._served[address])

    def hold(self, address: str) -> None:
        """Nothing sent to or from the address arrives until `release`."""
        self._served[address].gate.clear()

    def release(self, address: str) -> None:
        """Everything held arrives."""
        self._served[address].gate.set()

    async def close(self) -> None:
        """Stops everything."""
        for address in list(self._served):
            await self.stop(address)

    async def open(self, address: str, *, cluster: bytes, deadline: Deadline) -> MuxLane:
        """See Connector in lane.py."""
        served = self._served.get(address)
        if served is None:
            raise Unavailable("nobody listens", where=address, hint="Check that the daemon runs")
        try:
            await asyncio.wait_for(served.gate.wait(), deadline.left())
        except TimeoutError:
            raise DeadlineExceeded("no hello in time", where=address) from None
        hello = check_hello(served.service.hello(), cluster, address)
        there, back = _Pipe(served.gate), _Pipe(served.gate)
        task = asyncio.ensure_future(self._serve(served, _PipeWire(there, back), hello, address))
        served.lanes[task] = (there, back)

        def ended(task: asyncio.Task[None]) -> None:
            del served.lanes[task]
            there.end()
            back.end()

        task.add_done_callback(ended)

        async def end_wire() -> None:
            there.end()
            back.end()

        return MuxLane(hello, _PipeWire(back, there), address, end_wire)

    async def _serve(self, served: _Served, wire: _PipeWire, hello: Hello, address: str) -> None:
        try:
            await ServerEnd(wire, served.service, clock=served.clock, hello=hello, budget=served.budget).run()
        except ReedbedError as error:
            log.warning("a lane to %s ended: %s", address, error)

    async def _end_lanes(self, served: _Served) -> None:
        tasks = list(served.lanes)
        for task, pipes in list(served.lanes.items()):
            for pipe in pipes:
                pipe.end()
            task.cancel()
        served.gate.set()
        if tasks:
            await asyncio.wait(tasks)
