"""The network between simulated processes: lanes over connections that are slow, cut, one-way deaf, or lie about a bit.

A connection is as TCP: messages of one direction arrive in order, whole, after a drawn delay, or not at all once it is
cut. What differs between connections is not ordered. A partition holds messages back, and lets them go when it heals,
as a kernel that sends again; a connection that is cut meanwhile loses them. Both ends are the product's own (MuxLane,
ServerEnd), so that its frames, credits, deadlines and cancellations are what travels.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from reedbed.common.checksums import Buffer
from reedbed.common.clock import Deadline
from reedbed.common.errors import DeadlineExceeded, ReedbedError, Unavailable
from reedbed.transport.ends import MuxLane, ServerEnd
from reedbed.transport.greeting import check_hello
from reedbed.transport.lane import Hello, Service
from reedbed.transport.mux_server import Budget
from reedbed_sim.loop import Process, SimLoop, current

AHEAD: Final = 8  # messages of a direction under way before a writer waits


@dataclass(slots=True)
class Weather:
    """What the network does to whatever passes; all chances are for one message.

    delay_s: up to so much for each. slow: by chance ten times that. cut: the connection ends at this message, which is
    delivered or not. flip: one bit of it is another.
    """

    delay_s: float = 0.001
    slow: float = 0.0
    cut: float = 0.0
    flip: float = 0.0


class _Direction:
    """Messages from one end to the other. `process` is that of the receiver."""

    def __init__(self, connection: Connection, sender: Process, process: Process) -> None:
        self.connection = connection
        self.sender = sender
        self.process = process
        self.under_way: deque[bytes] = deque()
        self.arrived: deque[bytes] = deque()
        self.due = 0.0
        self.held = 0  # messages that wait for a partition to heal
        self.ended = False  # nothing more arrives, and no more is taken
        self.muted = False  # what is sent from now on is lost
        self.changed = asyncio.Event()


class Connection:
    """Two directions between two processes."""

    def __init__(self, network: SimNetwork, client: Process, server: Process, address: str) -> None:
        self.network = network
        self.client = client
        self.server = server
        self.address = address
        self.there = _Direction(self, client, server)
        self.back = _Direction(self, server, client)
        self.open = True

    def cut_all(self) -> None:
        self.cut(lose=True)

    def cut(self, *, lose: bool) -> None:
        """Ends it for both. With `lose` nothing under way arrives any more, else what was sent does before the end."""
        if not self.open:
            return
        self.open = False
        self.network.connections.pop(self, None)
        for direction in (self.there, self.back):
            if lose:
                direction.under_way.clear()
            self.network.end_later(direction)


class SimWire:
    """A wire (see transport/ends.py)."""

    def __init__(self, network: SimNetwork, inward: _Direction, outward: _Direction) -> None:
        self._network = network
        self._inward = inward
        self._outward = outward

    async def read(self) -> bytes | None:
        while not self._inward.arrived:
            if self._inward.ended:
                return None
            self._inward.changed.clear()
            await self._inward.changed.wait()
        message = self._inward.arrived.popleft()
        if len(self._inward.under_way) + len(self._inward.arrived) < AHEAD:
            self._inward.connection.network.room(self._inward)
        return message

    async def write(self, parts: list[Buffer]) -> None:
        out = self._outward
        message = b"".join(parts)
        while len(out.under_way) + len(out.arrived) >= AHEAD and out.connection.open and not out.ended:
            await self._network.wait_room(out)
        if out.ended or not out.connection.open:
            raise Unavailable("the lane has ended")
        self._network.send(out, message)


class SimNetwork:
    """All connections, and who serves where."""

    def __init__(self, loop: SimLoop, rng: Random) -> None:
        self._loop = loop
        self.rng = rng
        self.weather = Weather()
        self._served: dict[str, tuple[Process, Service, Budget | None]] = {}
        self.connections: dict[Connection, None] = {}
        self._blocked: set[tuple[str, str]] = set()
        self._waiting: dict[_Direction, list[asyncio.Future[None]]] = {}
        self._held: dict[_Direction, None] = {}
        self.messages = 0
        self.trap: Callable[[Connection, bytes], bool] | None = None  # asked at each message of a client

    # Who serves

    def serve(self, address: str, process: Process, service: Service, budget: Budget | None = None) -> None:
        known = self._served.get(address)
        if known is not None and not known[0].dead:
            raise OSError(f"{address} is taken")
        self._served[address] = (process, service, budget)

    def stop_serving(self, address: str, process: Process) -> None:
        if address in self._served and self._served[address][0] is process:
            del self._served[address]
            for connection in [one for one in self.connections if one.address == address]:
                connection.cut(lose=False)

    async def listens(self, address: str) -> bool:
        """As catalog/probe.py: False only if the machine says that nobody does."""
        host = address.rpartition(":")[0]
        me = current(self._loop).name
        await asyncio.sleep(self._delay() * 2)
        if (me, host) in self._blocked or (host, me) in self._blocked:
            return True
        served = self._served.get(address)
        return served is not None and not served[0].dead

    # Faults

    def block(self, sender: str, receiver: str) -> None:
        """Nothing that one process sends reaches the other; what is on its way waits."""
        self._blocked.add((sender, receiver))

    def heal(self) -> None:
        """All that was held arrives."""
        self._blocked.clear()
        held, self._held = self._held, {}
        for direction in held:
            for _ in range(direction.held):
                self._deliver_later(direction)
            direction.held = 0
            if not direction.connection.open:
                self.end_later(direction)

    def blocked(self, direction: _Direction) -> bool:
        return (direction.sender.name, direction.process.name) in self._blocked

    def died(self, process: Process) -> None:
        """The machine of a process that has gone tells the other ends, as far as it can be heard."""
        for connection in [one for one in self.connections if process in (one.client, one.server)]:
            connection.cut(lose=self.rng.random() < 0.5)

    # Messages

    def send(self, direction: _Direction, message: bytes) -> None:
        weather, rng = self.weather, self.rng
        self.messages += 1
        if direction.sender.dead or direction.muted:
            return
        if weather.flip and rng.random() < weather.flip and message:
            at = int(rng.random() * len(message))
            message = message[:at] + bytes([message[at] ^ (1 << int(rng.random() * 8))]) + message[at + 1 :]
        direction.under_way.append(message)
        connection = direction.connection
        if self.trap is not None and direction is connection.there and self.trap(connection, message):
            self.trap = None
            self._last(direction)
            return
        if weather.cut and rng.random() < weather.cut:
            if rng.random() < 0.5:
                self._last(direction)
            else:
                connection.cut(lose=True)
            return
        self._deliver_later(direction)

    def _last(self, direction: _Direction) -> None:
        """What was sent last arrives, and nothing after it, in either direction: an answer to it is lost."""
        last = direction.under_way.pop()
        direction.under_way.clear()
        direction.under_way.append(last)
        self._deliver_later(direction)
        self._loop.call_at(direction.due + 0.05, direction.connection.cut_all, context=self._loop.root.context)
        direction.connection.there.muted = direction.connection.back.muted = True

    def _deliver_later(self, direction: _Direction) -> None:
        direction.due = max(direction.due, self._loop.time() + self._delay())
        self._loop.call_at(direction.due, self._deliver, direction, context=direction.process.context)

    def _deliver(self, direction: _Direction) -> None:
        if not direction.under_way or direction.ended:
            return
        if self.blocked(direction):
            direction.held += 1
            self._held[direction] = None
            return
        direction.arrived.append(direction.under_way.popleft())
        direction.changed.set()

    def end_later(self, direction: _Direction) -> None:
        """The receiver learns of the end behind all that still arrives, and the sender's writers at once."""
        self.room(direction)
        direction.due = max(direction.due, self._loop.time() + self._delay())
        self._loop.call_at(direction.due, self._end, direction, context=direction.process.context)

    def _end(self, direction: _Direction) -> None:
        if self.blocked(direction) and not direction.sender.dead:
            self._held[direction] = None
            return
        direction.ended = True
        direction.under_way.clear()
        direction.changed.set()
        self.room(direction)

    async def wait_room(self, direction: _Direction) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.setdefault(direction, []).append(future)
        await future

    def room(self, direction: _Direction) -> None:
        for future in self._waiting.pop(direction, ()):
            self._loop.call_soon(_done, future, context=direction.sender.context)

    def _delay(self) -> float:
        delay = self.rng.random() * self.weather.delay_s
        if self.weather.slow and self.rng.random() < self.weather.slow:
            delay *= 10
        return delay

    # Opening

    async def connect(self, address: str, cluster: bytes, deadline: Deadline) -> MuxLane:
        client = current(self._loop)
        host = address.rpartition(":")[0]
        answer: asyncio.Future[tuple[Hello, Connection] | None] = self._loop.create_future()
        self._loop.call_later(
            self._delay(), self._accept, client, host, address, answer, context=self._loop.root.context
        )
        try:
            found = await asyncio.wait_for(answer, deadline.left())
        except TimeoutError:
            raise DeadlineExceeded("no hello in time", where=address) from None
        if found is None:
            raise Unavailable("nobody listens", where=address, hint="Check that the daemon runs")
        hello, connection = found
        try:
            check_hello(hello, cluster, address)
        except ReedbedError:
            connection.cut(lose=True)
            raise

        async def end_wire() -> None:
            connection.cut(lose=False)

        return MuxLane(hello, SimWire(self, connection.back, connection.there), address, end_wire)

    def _accept(
        self, client: Process, host: str, address: str, answer: asyncio.Future[tuple[Hello, Connection] | None]
    ) -> None:
        if (client.name, host) in self._blocked or (host, client.name) in self._blocked or client.dead:
            return  # silence
        served = self._served.get(address)
        if served is None or served[0].dead:
            self._loop.call_later(self._delay(), _answer, answer, None, context=client.context)
            return
        process, service, budget = served
        connection = Connection(self, client, process, address)

        def accepted() -> None:
            hello = service.hello()
            self.connections[connection] = None
            wire = SimWire(self, connection.there, connection.back)
            end = ServerEnd(wire, service, clock=process, hello=hello, budget=budget)
            task = self._loop.create_task(_serve(end, connection), name=f"lane {client.name}")
            process.kept.append(task)
            task.add_done_callback(process.kept.remove)
            self._loop.call_later(self._delay(), _answer, answer, (hello, connection), context=client.context)

        self._loop.call_later(self._delay(), accepted, context=process.context)


async def _serve(end: ServerEnd, connection: Connection) -> None:
    try:
        await end.run()
    except ReedbedError:
        pass  # the lane is of no use any more
    finally:
        connection.cut(lose=False)


def _answer(answer: asyncio.Future[Any], value: Any) -> None:
    if not answer.done():
        answer.set_result(value)
    elif value is not None:
        value[1].cut(lose=True)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class SimConnector:
    """A Connector of the process that calls it."""

    def __init__(self, network: SimNetwork) -> None:
        self._network = network

    async def open(self, address: str, *, cluster: bytes, deadline: Deadline) -> MuxLane:
        return await self._network.connect(address, cluster, deadline)


class SimServer:
    """Serves at one address of the process that made it."""

    def __init__(self, network: SimNetwork, process: Process, address: str, service: Service, budget: int = 0) -> None:
        self._network = network
        self._process = process
        self._address = address
        self._service = service
        self._budget = Budget(budget) if budget else None

    async def start(self) -> int:
        self._network.serve(self._address, self._process, self._service, self._budget)
        return int(self._address.rpartition(":")[2])

    async def stop(self, grace: float) -> None:
        self._network.stop_serving(self._address, self._process)


Starter = Callable[[], Coroutine[Any, Any, None]]
