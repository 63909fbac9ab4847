"""What commands print: tables and JSON to standard output, errors to standard error, sizes and times as people read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

import click

from reedbed.common.errors import ReedbedError
from reedbed.protos.names import shown

F = TypeVar("F", bound=Callable[..., Any])

LINE_MAX: Final = 20_000  # characters: room for two keys of nothing but escapes


def json_option(command: F) -> F:
    """--json, the same for every command that reports."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def _plain(value: object) -> str:
    assert isinstance(value, datetime), f"no JSON for {type(value)}"
    return value.isoformat()


def json_text(value: object) -> str:
    """One line of JSON in ASCII, so that any name survives and no name can steer a terminal; datetimes are RFC 3339."""
    return json.dumps(value, default=_plain).replace("\x7f", "\\u007f")


def print_json(value: object) -> None:
    """One JSON value on one line of standard output."""
    click.echo(json_text(value))


def error_fields(error: ReedbedError) -> dict[str, object]:
    """An error as `--json` shows it."""
    return {
        "code": error.code,
        "what": error.what,
        "where": error.where,
        "hint": error.hint,
        "retryable": error.retryable,
        "maybe_applied": error.maybe_applied,
    }


def show_error(error: ReedbedError, *, as_json: bool = False) -> None:
    """An error on standard error: one line, or one JSON value."""
    if as_json:
        click.echo(json_text({"error": error_fields(error)}), err=True)
    else:
        say(f"reedbed: {error.code}: {error}", err=True)


def safe_text(line: str) -> str:
    """A line as a terminal may show it: control characters, of keys or of anything else from outside, are escaped."""
    return shown(line, LINE_MAX)


def say(line: str, *, err: bool = False) -> None:
    """One line of text for people, on standard output or standard error. All text goes through here."""
    click.echo(safe_text(line), err=err)


def say_lines(lines: Iterable[str]) -> None:
    """`say`, many lines at once."""
    click.echo("\n".join(map(safe_text, lines)))


def size_text(count: float) -> str:
    """Bytes in binary units, as `aws s3 --human-readable` shows them."""
    if count < 1024:
        return f"{int(count)} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} PiB"


def time_text(moment: datetime) -> str:
    """A time in the reader's own zone, to the second."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def table_lines(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Columns padded with spaces, no lines, so that awk and people can both read them. `right`: columns of numbers."""
    cells = [list(headers), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    flush = set(right)
    return [
        "  ".join(
            text.rjust(width) if column in flush else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def on_terminal() -> bool:
    """Whether progress may be shown: standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()
