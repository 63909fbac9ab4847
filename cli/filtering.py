"""--include and --exclude on the command line, where their order among each other counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from reedbed.cli.locations import Filters, filters_in_order

F = TypeVar("F", bound=Callable[..., Any])

_KEPT: Final = "reedbed.cli.filtering"


class FilteredCommand(click.Command):
    """A command that keeps its arguments as they stood there: click itself forgets the order of different options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_KEPT] = list(args)
        return super().parse_args(ctx, args)


def filter_options(command: F) -> F:
    """--include and --exclude, for trees; a single file or object is matched by its name."""
    command = click.option(
        "--include", multiple=True, metavar="PATTERN", help="Take what matches, although excluded before."
    )(command)
    return click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Leave out names in the tree that match, such as '*.tmp' or 'cache/*'; of all patterns that match, the "
        "last one decides.",
    )(command)


def filters_of(context: click.Context) -> Filters:
    """The filters of the command that runs, in the order in which they were given."""
    return filters_in_order(context.meta[_KEPT])
