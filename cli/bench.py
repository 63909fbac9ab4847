"""`reedbed bench`: load generator, monitor and report."""

from __future__ import annotations

import importlib
import math
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click

from reedbed.cli.connection import Connection, tls_options
from reedbed.cli.output import json_option, json_text, on_terminal, print_json, say, say_lines
from reedbed.common.errors import InvalidArgument, NotFound

_FOLDER: Final = click.Path(path_type=Path, file_okay=False, exists=True)
_OUTPUT: Final = click.Path(path_type=Path, file_okay=False)
_FILE: Final = click.Path(path_type=Path, dir_okay=False)


class _Seconds(click.FloatRange):
    """A time; nan lies between any two bounds, as click sees it."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value} is no time", param, ctx)
        return seconds


_SECONDS_TYPE: Final = _Seconds(0.05, 3600)
_QUICK_S: Final = 0.2
_SECONDS: Final = 3.0
_REPETITIONS: Final = 3


@click.group(short_help="Measure what this machine and a cluster do.")
def bench() -> None:
    """Measure a cluster, nginx and this machine, in one run.

    Needs what `pip install 'reedbed[bench]'` brings.
    """
    try:
        importlib.import_module("hdrh.histogram")
    except ImportError:
        raise NotFound("the package hdrhistogram is missing", hint="Run: pip install 'reedbed[bench]'") from None


def _said(text: str) -> None:
    say(text, err=True)


def _quiet(text: str) -> None:
    """Nobody follows."""


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as an exception does, so that all that was started is stopped."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@bench.command(short_help="PUT, GET, LIST and DELETE, beside nginx and the machine's limits.")
@click.option(
    "--endpoint",
    metavar="HOST:PORT",
    default=None,
    help="Measure this cluster, in buckets of our own that are deleted again [default: a fresh one].",
)
@tls_options
@click.option(
    "--medium",
    type=click.Choice(["ram", "disk", "both"]),
    default=None,
    help="Where the fresh cluster lies [default: both; ram with --quick].",
)
@click.option("--ram-dir", type=_FOLDER, default=None, help="Folder in memory [default: /dev/shm or another tmpfs].")
@click.option(
    "--disk-dir", type=_FOLDER, default=None, help="Folder on disk [default: the system's for temporary files]."
)
@click.option(
    "--repetitions", type=click.IntRange(1, 100), default=None, help="How often all is measured [default: 3]."
)
@click.option("--seconds", type=_SECONDS_TYPE, default=None, help="For each row [default: 3].")
@click.option(
    "--rows", "patterns", multiple=True, metavar="PATTERN", help="Only rows such as 'GET 64*', and what they need."
)
@click.option(
    "--peer", type=click.Choice(["nginx", "none"]), default=None, help="Beside what [default: nginx if it is there]."
)
@click.option("--quick", is_flag=True, help="A few seconds, to see that it works; the figures say little.")
@click.option("--against", type=_FILE, default=None, metavar="FILE", help="Compare with this earlier objects.json.")
@click.option(
    "--output",
    type=_OUTPUT,
    default=None,
    metavar="FOLDER",
    help="Write objects.json and objects.md there.",
)
@click.option("--progress/--no-progress", default=None, help="Tell each row as it ends [default: on a terminal].")
@json_option
def objects(
    endpoint: str | None,
    connection: Connection,
    medium: str | None,
    ram_dir: Path | None,
    disk_dir: Path | None,
    repetitions: int | None,
    seconds: float | None,
    patterns: tuple[str, ...],
    peer: str | None,
    quick: bool,
    against: Path | None,
    output: Path | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Measure PUT, GET, LIST and DELETE of a fresh local cluster in memory and on disk.

    nginx, one plain copy by WebDAV, and the limits of this machine are measured in the same run, in turns. All that
    comes back is compared. The exit code is 1 when a row could not be measured; goals that are missed do not change it.
    """
    from reedbed.bench.against import against_lines
    from reedbed.bench.markdown import report_lines
    from reedbed.bench.objects import EXISTING, Plan, Run
    from reedbed.bench.report import Settings, read_report
    from reedbed.bench.table import DEGRADED, select, table
    from reedbed.client.options import resolve_endpoint

    earlier = read_report(against) if against else None
    rows = select(table(quick=quick), patterns)
    if endpoint is not None:
        endpoint = resolve_endpoint(endpoint)
        if medium or disk_dir or ram_dir:
            raise InvalidArgument("--endpoint names a cluster that is there: where it lies is not for us to choose")
        if patterns and any(row.kind == DEGRADED for row in rows):
            raise InvalidArgument(
                "devices of a cluster that was there before are not killed", hint="Leave --endpoint out"
            )
        rows = [row for row in rows if row.kind != DEGRADED]
    elif connection.tls() is not None:
        raise InvalidArgument("a fresh cluster speaks no TLS", hint="Say --endpoint too")
    _check_peer(peer)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    follow = on_terminal() if progress is None else progress
    settings = Settings(
        seconds=seconds or (_QUICK_S if quick else _SECONDS),
        repetitions=repetitions or (1 if quick else _REPETITIONS),
        quick=quick,
        rows=list(patterns),
        endpoint=endpoint or "",
    )
    with _ended_by_signals(), ExitStack() as stack:
        if endpoint is not None:
            chosen = {EXISTING: Path(tempfile.gettempdir())}
        else:
            chosen = _media(medium or ("ram" if quick else "both"), ram_dir, disk_dir, quick)
        folders = _temporary(stack, chosen)
        wanted = peer == "nginx" or (peer is None and endpoint is None)
        plan = Plan(rows, folders, settings, wanted, endpoint, connection.tls(), _said if follow else _quiet)
        report = Run(plan).run()
    lines = report_lines(report) + (against_lines(earlier, report) if earlier else [])
    if output is not None:
        _write(output, "objects", report, lines)
    if as_json:
        print_json(_builtins(report))
    else:
        say_lines(lines)
    if report.failed:
        raise SystemExit(1)


def _temporary(stack: ExitStack, folders: dict[str, Path]) -> dict[str, Path]:
    """A folder of ours in each of these, until the stack ends."""
    return {
        name: Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reedbed-bench-", dir=folder)))
        for name, folder in folders.items()
    }


def _check_peer(peer: str | None) -> None:
    from reedbed.bench.nginx import INSTALL, find_nginx

    if peer == "nginx" and find_nginx() is None:
        raise NotFound("nginx is not installed", hint=f"Install it with: {INSTALL}")


def _media(medium: str, ram: Path | None, disk: Path | None, quick: bool) -> dict[str, Path]:
    """Folders by medium, with room enough."""
    from reedbed.bench.machine import SPACE_WANTED, check_space, disk_folder, in_memory, ram_folder
    from reedbed.bench.report import DISK, RAM

    if (ram is not None and medium == DISK) or (disk is not None and medium == RAM):
        raise InvalidArgument(f"--medium {medium} does not use the other medium's folder")
    folders = {}
    if medium in (RAM, "both"):
        if ram is not None and not in_memory(ram):
            raise InvalidArgument(f"{ram} does not lie in memory", hint="Name a folder on a tmpfs")
        folders[RAM] = ram or ram_folder()
    if medium in (DISK, "both"):
        if disk is not None and in_memory(disk):
            raise InvalidArgument(f"{disk} lies in memory", hint="Name a folder on a disk")
        folders[DISK] = disk or disk_folder()
    for folder in folders.values():
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InvalidArgument(f"{folder} may not be written to")
        check_space(folder, SPACE_WANTED // (4 if quick else 1))
    return folders


def _builtins(value: object) -> Any:
    import msgspec

    return msgspec.to_builtins(value)


def _write(folder: Path, name: str, report: object, lines: list[str]) -> None:
    (folder / f"{name}.json").write_text(json_text(_builtins(report)) + "\n", "utf-8")
    (folder / f"{name}.md").write_text("\n".join(lines).rstrip() + "\n", "utf-8")


@bench.command(short_help="How cost grows with objects, devices, clients and sizes.")
@click.option(
    "--only", type=click.Choice(["objects", "devices", "clients", "sizes"]), multiple=True, help="Only these."
)
@click.option(
    "--objects", type=click.IntRange(1_000, 100_000_000), default=1_000_000, show_default=True, help="At most."
)
@click.option(
    "--fill-minutes", type=_Seconds(0, 1440), default=10, show_default=True, help="For putting them, at most."
)
@click.option("--seconds", type=_SECONDS_TYPE, default=None, help="For each measurement [default: 3].")
@click.option("--ram-dir", type=_FOLDER, default=None, help="Folder in memory [default: /dev/shm or another tmpfs].")
@click.option(
    "--disk-dir", type=_FOLDER, default=None, help="Folder on disk [default: the system's for temporary files]."
)
@click.option("--quick", is_flag=True, help="Seconds, to see that it works; the figures say little.")
@click.option(
    "--output",
    type=_OUTPUT,
    default=None,
    metavar="FOLDER",
    help="Write scale.json, scale.md and pictures (SVG) there.",
)
@click.option("--progress/--no-progress", default=None, help="Tell each figure as it comes [default: on a terminal].")
@json_option
def scale(
    only: tuple[str, ...],
    objects: int,
    fill_minutes: float,
    seconds: float | None,
    ram_dir: Path | None,
    disk_dir: Path | None,
    quick: bool,
    output: Path | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Measure how cost grows with objects, devices, clients and sizes.

    With the number of objects in the catalog: a cluster on disk, at 10,000 of them, ten times as many, and so on. What
    grows faster than a logarithm of that number, for one operation, is named. The rest is measured in memory.
    """
    from reedbed.bench.growth import pictures, scale_lines
    from reedbed.bench.report import DISK, RAM
    from reedbed.bench.scale import QUICK, SECTIONS, Scale, ScalePlan, objects_up_to

    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    follow = on_terminal() if progress is None else progress
    chosen = _media("both", ram_dir, disk_dir, quick)
    with _ended_by_signals(), ExitStack() as stack:
        folders = _temporary(stack, chosen)
        plan = ScalePlan(
            sections=only or SECTIONS,
            disk=folders[DISK],
            ram=folders[RAM],
            seconds=seconds or (_QUICK_S if quick else _SECONDS),
            fill_s=fill_minutes * 60,
            sizes=QUICK if quick else objects_up_to(objects),
            say=_said if follow else _quiet,
        )
        report = Scale(plan).run()
    lines = scale_lines(report)
    if output is not None:
        _write(output, "scale", report, lines)
        for name, text in pictures(report):
            (output / name).write_text(text, "utf-8")
    if as_json:
        print_json(_builtins(report))
    else:
        say_lines(lines)


@bench.command(short_help="What this machine can do.")
@click.option("--dir", "folder", type=_FOLDER, default=None, help="Folder for the appends [default: a temporary one].")
@click.option("--seconds", type=_SECONDS_TYPE, default=1.0, show_default=True, help="For each figure.")
@json_option
def limits(folder: Path | None, seconds: float, as_json: bool) -> None:
    """Measure the limits of this machine: memory, checksums, codes, loopback, syncs and appends."""
    from reedbed.bench.limits import lines, measure
    from reedbed.bench.machine import medium

    with _ended_by_signals(), tempfile.TemporaryDirectory(prefix="reedbed-limits-", dir=folder) as temporary:
        found = measure(Path(temporary), seconds)
        where = medium(Path(temporary))
    if as_json:
        print_json({"medium": where, "limits": found})
        return
    say(f"folder: {where}; {os.cpu_count()} cores")
    say_lines(lines(found))
