"""`reedbed catalogd` and `reedbed storaged`: one daemon each, for real deployments."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from reedbed.cli.output import json_option, print_json
from reedbed.common import logs
from reedbed.common.config import load as load_settings
from reedbed.common.limits import DEFAULT_ENDPOINT

F = TypeVar("F", bound=Callable[..., Any])

FILES: Final = 65_536  # open at once, where the system lets us

_PATH: Final = click.Path(path_type=Path)
_LEVELS: Final = ("debug", "info", "warning", "error")


def _daemon_options(command: F) -> F:
    for option in reversed(
        (
            click.option("--host", default=None, help="Address to bind to [default: 127.0.0.1]."),
            click.option("--port", type=int, default=None, help="Port to bind to; 0: any free one."),
            click.option(
                "--streams/--no-streams", default=None, help="Offer framed streams, beside gRPC [default: yes]."
            ),
            click.option(
                "--stream-port", type=int, default=None, help="Port of framed streams [default: any free one]."
            ),
            click.option(
                "--advertise-streams", default=None, metavar="HOST:PORT", help="Where clients are told they are."
            ),
            click.option("--config", type=_PATH, default=None, help="TOML file with settings."),
            click.option("--log-level", type=click.Choice(_LEVELS), default=None, help="What to log [default: info]."),
            click.option("--tls-ca", type=_PATH, default=None, help="PEM file: who may speak to us."),
            click.option("--tls-cert", type=_PATH, default=None, help="PEM file: our certificate."),
            click.option("--tls-key", type=_PATH, default=None, help="PEM file: our key."),
            click.option("--stop-with-stdin", is_flag=True, hidden=True, help="Stop when standard input ends."),
            json_option,
        )
    ):
        command = option(command)
    return command


def _seconds(name: str, text: str) -> Callable[[F], F]:
    return click.option(name, type=float, default=None, metavar="SECONDS", help=text)


async def _stdin_ended(stop: asyncio.Event) -> None:
    """Sets `stop` when standard input ends: whoever started us is gone."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(4096):
        pass
    stop.set()


def _serve(run: Callable[[asyncio.Event], Awaitable[None]], stop_with_stdin: bool) -> None:
    import uvloop

    from reedbed.transport.memory import keep_freed_memory

    keep_freed_memory()
    # a lane is a socket, and a segment that is read a file
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))

    async def main() -> None:
        stop = asyncio.Event()
        watching = asyncio.create_task(_stdin_ended(stop)) if stop_with_stdin else None
        try:
            await run(stop)
        finally:
            if watching:
                watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watching

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@click.command(short_help="Run a catalogd: the record of everything.")
@click.option("--dir", default=None, help="Folder of the catalog, made if it is not there.")
@click.option("--default-profile", default=None, metavar="rs-K-M", help="Of a new cluster [default: rs-4-2].")
@click.option(
    "--level",
    type=click.Choice(["device", "host", "rack", "zone"]),
    default=None,
    help="Failure domain of a new cluster [default: device].",
)
@_seconds("--down-after-s", "Silence after which a device is down [default: 5].")
@_seconds("--out-after-s", "From then until its places are given to others [default: 600].")
@_seconds("--delete-grace-s", "How long what was deleted stays on disk [default: a day].")
@_seconds("--horizon-lag-s", "Longest time from a client's first write to its commit [default: 900].")
@click.option(
    "--compact-below",
    type=int,
    default=None,
    metavar="PERCENT",
    help="Rewrite extents whose live bytes are worth less of what they hold; 0: never [default: 50].",
)
@_seconds("--copy-every-s", "From one addition to the copy on the cluster to the next [default: 1].")
@click.option("--capacity", type=int, default=None, help="Bytes that the catalog may use [default: its disk].")
@click.option("--reserve", type=int, default=None, help="Of these, bytes for deletes alone [default: 64 MiB].")
@click.option("--short-grace", is_flag=True, default=None, hidden=True, help="For tests: any --delete-grace-s.")
@_daemon_options
def catalogd(config: Path | None, stop_with_stdin: bool, as_json: bool, **flags: Any) -> None:
    """Run a catalogd: the record of buckets, objects, extents and devices.

    Every setting can also stand in the TOML file of --config or in REEDBED_CATALOGD_SETTING.
    """
    from reedbed.catalog.config import CatalogdSettings
    from reedbed.catalog.daemon import run_catalogd

    settings = _load(CatalogdSettings, "catalogd", flags, config)
    logs.set_up(settings.log_level)

    def ready(endpoint: str) -> None:
        if as_json:
            print_json({"endpoint": endpoint, "pid": os.getpid(), "dir": str(settings.dir)})
        else:
            click.echo(f"catalogd serves at {endpoint}")

    _serve(lambda stop: run_catalogd(settings, ready, stop), stop_with_stdin)


@click.command(short_help="Run a storaged, which keeps shards on its disks.")
@click.option("--dir", multiple=True, help="Folder of a device; may be given more than once.")
@click.option("--catalog", multiple=True, metavar="HOST:PORT", help=f"A catalogd [default: {DEFAULT_ENDPOINT}].")
@click.option("--advertise", default=None, metavar="HOST[:PORT]", help="Address that clients are told.")
@click.option("--node", default=None, help="Label of its devices: the host they are in.")
@click.option("--rack", default=None, help="Label of its devices: the rack they are in.")
@click.option("--zone", default=None, help="Label of its devices: the zone they are in.")
@click.option("--capacity", type=int, default=None, help="Bytes that each device may use [default: its disk].")
@click.option("--read-threads", type=int, default=None, help="Reads of each device at a time [default: 4].")
@_seconds("--scrub-period-s", "Time within which each device is read through once; 0: when asked [default: 14 days].")
@click.option("--scrub-rate", type=float, default=None, metavar="BYTES", help="A second, at most [default: 64 MiB].")
@_daemon_options
def storaged(
    config: Path | None,
    stop_with_stdin: bool,
    as_json: bool,
    dir: tuple[str, ...],
    catalog: tuple[str, ...],
    **flags: Any,
) -> None:
    """Run a storaged, which keeps shards in one or more folders, each best on a disk of its own.

    Every setting can also stand in the TOML file of --config or in REEDBED_STORAGED_SETTING.
    """
    from reedbed.storaged.daemon import run_storaged
    from reedbed.storaged.settings import StoragedSettings

    settings = _load(StoragedSettings, "storaged", {**flags, "dir": dir or None, "catalog": catalog or None}, config)
    logs.set_up(settings.log_level)

    def ready(address: str, devices: list[tuple[int, str]]) -> None:
        if as_json:
            entries = [{"id": number, "dir": folder, "pid": os.getpid()} for number, folder in devices]
            print_json({"address": address, "devices": entries})
        else:
            click.echo(f"storaged serves devices {', '.join(str(number) for number, _ in devices)} at {address}")

    _serve(lambda stop: run_storaged(settings, ready, stop), stop_with_stdin)


def _load(kind: type[Any], program: str, flags: dict[str, Any], file: Path | None) -> Any:
    return load_settings(kind, program, flags=flags, environ=os.environ, file=file)
