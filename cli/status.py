"""`reedbed status`: how the cluster is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import click

from reedbed.cli import health
from reedbed.cli.connection import Connection, connection_options
from reedbed.cli.output import error_fields, json_option, json_text, safe_text
from reedbed.common.errors import DeadlineExceeded, Unavailable

WATCH_S: Final = 2.0

Ask: TypeAlias = Callable[[], dict[str, Any]]


def report(status: dict[str, Any], as_json: bool) -> list[str]:
    """The lines to print."""
    if as_json:
        state = health.health(status)
        return [json_text({"health": state.level, "why": state.why, **status})]
    return [safe_text(line) for line in health.lines(status)]


def _report_now(ask: Ask, as_json: bool) -> list[str]:
    """The report, or that nobody answers, which may pass."""
    try:
        return report(ask(), as_json)
    except (Unavailable, DeadlineExceeded) as error:
        return [json_text({"error": error_fields(error)}) if as_json else safe_text(f"unreachable: {error}")]


def watch(ask: Ask, as_json: bool) -> None:
    """Shows the status again and again until Ctrl-C: in place on a terminal, else one report after the other.

    Raises what the first question raises; a cluster that goes away later may come back.
    """
    lines = report(ask(), as_json)
    try:
        if as_json or not sys.stdout.isatty():
            while True:
                for line in lines:
                    click.echo(line)
                time.sleep(WATCH_S)
                lines = _report_now(ask, as_json)
        from rich.live import Live
        from rich.text import Text

        with Live(Text("\n".join(lines), no_wrap=True), auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(WATCH_S)
                live.update(Text("\n".join(_report_now(ask, as_json)), no_wrap=True), refresh=True)
    except KeyboardInterrupt:
        return


@click.command(short_help="Show how the cluster is.")
@click.option("--watch", "again", is_flag=True, help="Show it again every two seconds, until Ctrl-C.")
@connection_options
@json_option
def status(again: bool, connection: Connection, as_json: bool) -> None:
    """Show how the cluster is: devices, capacity, objects, and what lacks shards.

    The first line says it in a word: healthy, degraded (all is readable, but not as safe as it should be) or failing.
    """
    with connection.store() as store:
        if again:
            watch(store.status, as_json)
            return
        for line in report(store.status(), as_json):
            click.echo(line)
