"""The `reedbed` command: its subcommands by name, loaded when used, and what happens when one fails."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

import reedbed
from reedbed.cli.output import say, show_error
from reedbed.client.system import fill_standard
from reedbed.common.errors import InvalidArgument, ReedbedError

# Each subcommand with its module, in the order of the help text: so that `reedbed ls` does not load the daemons.
COMMANDS: Final = {
    "up": "reedbed.cli.local",
    "down": "reedbed.cli.local",
    "status": "reedbed.cli.status",
    "mb": "reedbed.cli.buckets",
    "rb": "reedbed.cli.buckets",
    "ls": "reedbed.cli.listing",
    "cp": "reedbed.cli.transfer",
    "mv": "reedbed.cli.transfer",
    "sync": "reedbed.cli.transfer",
    "cat": "reedbed.cli.objects",
    "stat": "reedbed.cli.objects",
    "rm": "reedbed.cli.objects",
    "upload": "reedbed.cli.uploads",
    "device": "reedbed.cli.device",
    "scrub": "reedbed.cli.scrub",
    "recode": "reedbed.cli.recode",
    "catalog": "reedbed.cli.catalog",
    "bench": "reedbed.cli.bench",
    "catalogd": "reedbed.cli.daemons",
    "storaged": "reedbed.cli.daemons",
}

INTERRUPTED: Final = 130  # as a shell tells the end by SIGINT
READER_GONE: Final = 141  # and by SIGPIPE


class _ReaderGone(Exception):
    """BrokenPipeError under a name that click does not handle by itself."""


class LazyGroup(click.Group):
    """Subcommands that are imported when they are called or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: Any = getattr(importlib.import_module(module), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderGone from None


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Objects are named reedbed://BUCKET/KEY. Start with `reedbed up`, then `reedbed mb reedbed://data`.",
)
@click.version_option(reedbed.__version__, prog_name="reedbed")
def reedbed_command() -> None:
    """Reedbed: a distributed object store with erasure coding.

    Commands find the cluster by --endpoint HOST:PORT, then REEDBED_ENDPOINT, then 127.0.0.1:7300.
    """


def run(arguments: Sequence[str]) -> int:
    """Runs one command line; returns its exit code (see docs/cli.md). Errors are told on standard error."""
    as_json = "--json" in arguments
    try:
        result = reedbed_command.main(list(arguments), prog_name="reedbed", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        if as_json:
            show_error(InvalidArgument(error.format_message()), as_json=True)
        else:
            error.show()
        return error.exit_code
    except (_ReaderGone, BrokenPipeError):
        # `reedbed cat … | head`: what is still buffered must not raise again when the process ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except ReedbedError as error:
        show_error(error, as_json=as_json)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("reedbed: interrupted", err=True)
        return INTERRUPTED
    except OSError as error:
        show_error(_told(error), as_json=as_json)
        return ReedbedError.exit_code


def _told(error: OSError) -> ReedbedError:
    """What the system refused, such as a local file that may not be read."""
    return ReedbedError(error.strerror or str(error), where=str(error.filename or ""))


def main() -> None:
    """Entry point."""
    fill_standard()
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - to /dev/null, which is there now
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    # gRPC's own diagnostics go past our logs, straight to standard error
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # whatever the terminal's encoding is: a name that it lacks is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))
