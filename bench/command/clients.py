"""Client processes of a cluster, as the benchmark that starts them sees them."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, Self, cast

from reedbed.bench.measured import Window
from reedbed.bench.orders import Answer, Clean, Fill, Go, Hello, Order, Prepare, Probe, WaitDown
from reedbed.bench.table import Row
from reedbed.common.errors import DeadlineExceeded, ReedbedError, Unavailable

_ANSWER_S: Final = 300.0
_START_S: Final = 0.02  # from the order to go until all processes do
_END_S: Final = 10.0


class ClientProcess:
    """One process. `close` ends it."""

    def __init__(self, hello: Hello) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "reedbed.bench.client", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for us, who end it
            )
        self._orders: Connection[Any, Any] = Connection(ours.detach())
        self.order(hello)

    def order(self, order: Order) -> None:
        """Sends an order; Unavailable if the process has ended."""
        try:
            self._orders.send(order)
        except ConnectionError:
            raise self._gone() from None

    def answer(self) -> Answer:
        """Waits for the answer and returns it; raises it if it is an error. Unavailable if the process has ended."""
        try:
            if not self._orders.poll(_ANSWER_S):
                raise DeadlineExceeded(f"a client process did not answer within {_ANSWER_S:g} s")
            answer = cast(Answer, self._orders.recv())
        except (EOFError, ConnectionError):
            raise self._gone() from None
        if isinstance(answer, ReedbedError):
            raise answer
        return answer

    def _gone(self) -> Unavailable:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        return Unavailable(f"a client process ended with exit code {self._process.returncode}", retryable=False)

    def close(self) -> None:
        """Ends the process, by force if need be."""
        self._orders.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Clients:
    """As many processes as rows need, against one cluster."""

    def __init__(self, hello: Hello, count: int) -> None:
        """Starts them. Each has keys of its own below the prefix of `hello`."""
        self._all: list[ClientProcess] = []
        try:
            for number in range(count):
                named = Hello(hello.endpoint, hello.timeout, hello.tls, hello.bucket, f"{hello.prefix}{number:02}")
                self._all.append(ClientProcess(named))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def probe(self) -> None:
        """Raises what a cluster that does not answer gives."""
        self._all[0].order(Probe())
        self._all[0].answer()

    def fill(self, first: int, count: int, size: int) -> None:
        """Puts so many small objects, each process its share."""
        each, more = divmod(count, len(self._all))
        for place, process in enumerate(self._all):
            process.order(Fill(first + place * each, each + (more if place == len(self._all) - 1 else 0), size))
        self._answers()

    def prepare(self, row: Row) -> None:
        """Returns when each of them is ready for the row."""
        self._each(Prepare(row))

    def measure(self, seconds: float, most: int) -> list[Window]:
        """Runs the row in all of them, from the same moment on; `most` operations together."""
        start = time.perf_counter() + _START_S
        answers = self._each(Go(start, seconds, max(1, most // len(self._all))))
        return [answer for answer in answers if isinstance(answer, Window)]

    def wait_down(self, count: int, seconds: float) -> None:
        """Until the cluster knows that so many devices are down."""
        self._all[0].order(WaitDown(count, seconds))
        self._all[0].answer()

    def clean(self) -> None:
        """Deletes what was put, with its buckets."""
        self._all[0].order(Clean())
        self._all[0].answer()

    def close(self) -> None:
        for process in self._all:
            process.close()

    def _each(self, order: Order) -> Sequence[Answer]:
        for process in self._all:
            process.order(order)
        return self._answers()

    def _answers(self) -> Sequence[Answer]:
        answers, failed = [], None
        for process in self._all:
            try:
                answers.append(process.answer())
            except ReedbedError as error:  # the others are heard out: nobody works on unseen
                failed = failed or error
        if failed is not None:
            raise failed
        return answers
