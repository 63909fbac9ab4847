"""How commands find and reach a cluster: the same few options on every command that talks to one."""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from reedbed.client.store import AsyncStore
    from reedbed.client.sync_store import Store
    from reedbed.transport.tls import TlsConfig

T = TypeVar("T")

DEFAULT_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Connection:
    """What the options said."""

    endpoint: str | None = None
    timeout: float = DEFAULT_TIMEOUT
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def store(self) -> Store:
        """The synchronous store. The SDK is loaded only here, so that --help and bad usage are told at once."""
        from reedbed.client.connect import connect

        return connect(self.endpoint, timeout=self.timeout, tls=self.tls())

    def async_store(self) -> AsyncStore:
        """The asynchronous store."""
        from reedbed.client.connect import connect_async

        return connect_async(self.endpoint, timeout=self.timeout, tls=self.tls())

    def tls(self) -> TlsConfig | None:
        """How lanes are to be secured; None for not at all."""
        from reedbed.transport.tls import tls_from

        return tls_from(self.ca, self.cert, self.key)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's asynchronous work. A signal cancels it, so that it can tidy up.

    Then KeyboardInterrupt is raised after Ctrl-C, and SystemExit after SIGTERM and SIGHUP.
    """
    import uvloop

    from reedbed.transport.memory import keep_freed_memory

    keep_freed_memory()
    ended_by = 0

    async def watched() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def end(number: int) -> None:
            nonlocal ended_by
            ended_by = number
            task.cancel()

        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, end, number)
        return await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(watched())
        except asyncio.CancelledError:
            raise SystemExit(128 + ended_by) from None


_PEM: Final = click.Path(path_type=Path)
_OPTIONS: Final = (
    click.option(
        "--endpoint",
        metavar="HOST:PORT",
        envvar="REEDBED_ENDPOINT",
        default=None,
        help="A catalogd of the cluster [default: REEDBED_ENDPOINT, then 127.0.0.1:7300].",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0.001),
        default=DEFAULT_TIMEOUT,
        show_default=True,
        metavar="SECONDS",
        help="Longest wait for an operation, or for each step of a long one.",
    ),
    click.option(
        "--tls-ca", type=_PEM, envvar="REEDBED_TLS_CA", help="PEM file: the CA of the cluster; lanes are then TLS."
    ),
    click.option("--tls-cert", type=_PEM, envvar="REEDBED_TLS_CERT", help="PEM file: our certificate, if asked for."),
    click.option("--tls-key", type=_PEM, envvar="REEDBED_TLS_KEY", help="PEM file: the key of our certificate."),
)


def tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command that talks to daemons by their addresses the options of TLS, and `connection` in their place."""

    @functools.wraps(command)
    def with_tls(*arguments: Any, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None, **rest: Any) -> Any:
        return command(*arguments, connection=Connection(ca=tls_ca, cert=tls_cert, key=tls_key), **rest)

    wrapped: Callable[..., Any] = with_tls
    for option in reversed(_OPTIONS[2:]):
        wrapped = option(wrapped)
    return wrapped


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options, and `connection` in their place."""

    @functools.wraps(command)
    def with_connection(
        *arguments: Any,
        endpoint: str | None,
        timeout: float,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        **rest: Any,
    ) -> Any:
        connection = Connection(endpoint, timeout, tls_ca, tls_cert, tls_key)
        return command(*arguments, connection=connection, **rest)

    wrapped: Callable[..., Any] = with_connection
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
