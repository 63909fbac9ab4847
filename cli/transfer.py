"""`reedbed cp`, `mv` and `sync`, as in `aws s3`."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from reedbed.cli.connection import Connection, connection_options, run_async
from reedbed.cli.copying import Copier, Report
from reedbed.cli.filtering import FilteredCommand, filter_options, filters_of
from reedbed.cli.locations import (
    Filters,
    Local,
    Location,
    Remote,
    Stream,
    name_of,
    one_target,
    overlap,
    parse_location,
)
from reedbed.cli.output import error_fields, json_option, print_json, say, show_error, size_text
from reedbed.cli.plans import Step, plan_copy, plan_one, plan_sync
from reedbed.cli.progress import Meter
from reedbed.cli.streams import from_stdin, to_stdout
from reedbed.common.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from reedbed.client.store import AsyncStore


@dataclass(frozen=True)
class Options:
    """What cp, mv and sync have in common."""

    follow: bool
    dry_run: bool
    quiet: bool
    progress: bool
    connection: Connection
    as_json: bool


def _shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        json_option,
        connection_options,
        click.option("--no-progress", is_flag=True, help="Show no progress bar."),
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
        click.option("--dryrun", is_flag=True, help="Print what would be done, and do nothing."),
        click.option("--no-follow-symlinks", is_flag=True, help="Leave out symbolic links."),
        filter_options,
    ):
        command = option(command)
    return command


def _options(given: dict[str, Any]) -> Options:
    return Options(
        follow=not given["no_follow_symlinks"],
        dry_run=given["dryrun"],
        quiet=given["quiet"] or given["as_json"],
        progress=not given["no_progress"],
        connection=given["connection"],
        as_json=given["as_json"],
    )


def _check_sides(source: Location, target: Location) -> None:
    if not isinstance(source, Remote) and not isinstance(target, Remote):
        raise InvalidArgument(f"neither {source} nor {target} is a reedbed:// URL", hint="Use your system's cp")


def _finish(report: Report, options: Options, seconds: float) -> int:
    """Prints what was skipped, what failed and the sum; returns the exit code."""
    if options.as_json:
        print_json(
            {
                "dryrun": options.dry_run,
                "copied": report.copied,
                "deleted": report.deleted,
                "bytes": report.bytes,
                "seconds": round(seconds, 3),
                "reads": {"direct": report.reads_direct, "decoded": report.reads_decoded},
                "skipped": [{"what": what, "why": why} for what, why in report.skipped],
                "failed": [{"what": what, "why": why} for what, why in report.failed],
                "error": error_fields(report.fatal) if report.fatal else None,
            }
        )
    else:
        for what, why in report.skipped:
            say(f"skipped: {what}: {why}", err=True)
        for what, why in report.failed:
            if not report.fatal or why != str(report.fatal):
                say(f"failed: {what}: {why}", err=True)
        if report.fatal:
            show_error(report.fatal)
            _tell_rest(report)
        if not options.quiet and report.copied > 1:
            rate = report.bytes / max(seconds, 1e-6)
            say(
                f"{report.copied:,} copied, {size_text(report.bytes)} in {seconds:.1f} s ({size_text(rate)}/s)",
                err=True,
            )
    return report.exit_code


def _tell_rest(report: Report) -> None:
    """How much is missing for the one reason that ended it all, where it was more than one file."""
    lost = sum(why == str(report.fatal) for _, why in report.failed)
    if lost + report.copied + report.deleted > 1:
        say(f"reedbed: gave up: {lost:,} under way failed for this reason, and what came next was not tried", err=True)


Plan: TypeAlias = "Callable[[AsyncStore], AsyncIterator[Step]]"


async def _run(plan: Plan, label: str, options: Options, *, move: bool = False, sole: bool = False) -> int:
    start = time.monotonic()
    show = options.progress and not options.quiet and not options.dry_run
    async with options.connection.async_store() as store:
        with Meter(label, show=show) as meter:
            copier = Copier(
                store,
                meter,
                dry_run=options.dry_run,
                quiet=options.quiet,
                as_json=options.as_json,
                move=move,
                sole=sole,
            )
            report = await copier.run(plan(store))
            counts = store.metrics()
            report.reads_direct = counts.get("reads.direct", 0)
            report.reads_decoded = counts.get("reads.decoded", 0)
    return _finish(report, options, time.monotonic() - start)


async def _run_stream(source: Location, target: Location, options: Options) -> int:
    start = time.monotonic()
    # what goes to standard output must not be mixed with a report, nor with a bar on the same terminal
    report_to_stdout = not isinstance(target, Stream)
    show = options.progress and not options.quiet and (report_to_stdout or not sys.stdout.isatty())
    async with options.connection.async_store() as store:
        if options.dry_run:
            await _dry_stream(store, source, target, options)
            return 0
        with Meter("cp", show=show) as meter:
            if isinstance(target, Remote):
                size = await from_stdin(store, target, meter)
            else:
                assert isinstance(source, Remote)
                size = await to_stdout(store, source, meter)
    if report_to_stdout:
        return _finish(Report(copied=1, bytes=size), options, time.monotonic() - start)
    return 0


async def _dry_stream(store: AsyncStore, source: Location, target: Location, options: Options) -> None:
    """Checks what can be checked without a byte, and says what would be done."""
    size = None
    if isinstance(source, Remote):
        size = (await store.stat(source.bucket, source.key)).size
    elif isinstance(target, Remote):
        await store.stat_bucket(target.bucket)
    what = "upload" if isinstance(target, Remote) else "download"
    if options.as_json:
        print_json({"dryrun": what, "source": str(source), "bytes": size, "target": str(target)})
    else:
        say(f"(dryrun) {what}: {source} to {target}")


def _single(source: Location, target: Location, filters: Filters) -> Plan:
    assert not isinstance(source, Stream)
    goal = one_target(source, target)
    assert not isinstance(goal, Stream)
    if source == goal:
        raise InvalidArgument(f"{source} is source and target at once")

    async def plan(store: AsyncStore) -> AsyncIterator[Step]:
        step = await plan_one(store, source, goal)
        if filters.match(name_of(source)):
            yield step

    return plan


def _check_tree(source: Location, target: Location) -> tuple[Local | Remote, Local | Remote]:
    if isinstance(source, Stream) or isinstance(target, Stream):
        raise InvalidArgument("a tree cannot come from or go to a stream", hint="Leave -r out, or name a folder")
    if isinstance(source, Local):
        if not source.path.exists():
            raise NotFound(f"{source} does not exist")
        if not source.path.is_dir():
            raise InvalidArgument(f"{source} is not a folder", hint="Leave -r out to copy one file")
    if isinstance(target, Local) and target.path.exists() and not target.path.is_dir():
        raise InvalidArgument(f"{target} is not a folder")
    if isinstance(source, Remote) and isinstance(target, Remote) and overlap(source, target):
        # the copies would be found, and copied, or would overwrite what is still to be copied
        raise InvalidArgument(f"{source} and {target} lie in each other", hint="Choose a prefix apart from it")
    return source, target


@click.command(cls=FilteredCommand)
@click.argument("source")
@click.argument("target")
@click.option("-r", "--recursive", is_flag=True, help="Copy all that is below SOURCE, into TARGET.")
@_shared_options
def cp(source: str, target: str, recursive: bool, **given: Any) -> int:
    """Copy files and objects.

    SOURCE and TARGET are local paths, reedbed://BUCKET/KEY, or - for standard input or output. A TARGET that ends in /,
    is a bucket or an existing folder takes a single file under its own name. Each file or object appears whole or not
    at all. Objects that no local path can hold are skipped and listed, with exit code 1.

    \b
    reedbed cp photo.jpg reedbed://data/photos/
    reedbed cp -r photos reedbed://data/photos --exclude '*.tmp'
    reedbed cp -r reedbed://data/photos copy-of-photos
    tar c . | reedbed cp - reedbed://data/backup.tar
    """
    return _copy(source, target, recursive, given, label="cp", move=False)


@click.command(cls=FilteredCommand)
@click.argument("source")
@click.argument("target")
@click.option("-r", "--recursive", is_flag=True, help="Move all that is below SOURCE, into TARGET.")
@_shared_options
def mv(source: str, target: str, recursive: bool, **given: Any) -> int:
    """Move files and objects: copy each, then delete its source."""
    if "-" in (source, target):
        raise InvalidArgument("a stream cannot be moved", hint="Use cp")
    return _copy(source, target, recursive, given, label="mv", move=True)


def _copy(source: str, target: str, recursive: bool, given: dict[str, Any], *, label: str, move: bool) -> int:
    options = _options(given)
    start, goal = parse_location(source), parse_location(target)
    _check_sides(start, goal)
    if recursive:
        top, below = _check_tree(start, goal)
        filters = filters_of(click.get_current_context())
        return run_async(
            _run(lambda store: plan_copy(store, top, below, filters, follow=options.follow), label, options, move=move)
        )
    if isinstance(start, Local) and start.path.is_dir():
        raise InvalidArgument(f"{start} is a folder", hint="Say -r to copy what is in it")
    if isinstance(start, Remote) and not start.key:
        raise InvalidArgument(f"{start} is a bucket", hint="Say -r to copy what is in it, or name an object")
    if isinstance(start, Stream) or isinstance(goal, Stream):
        if given["include"] or given["exclude"]:
            raise InvalidArgument("a stream has no name that --include or --exclude could match")
        goal = one_target(start, goal)
        return run_async(_run_stream(start, goal, options))
    filters = filters_of(click.get_current_context())
    return run_async(_run(_single(start, goal, filters), label, options, move=move, sole=True))


@click.command(cls=FilteredCommand)
@click.argument("source")
@click.argument("target")
@click.option("--delete", is_flag=True, help="Delete in TARGET what SOURCE does not have.")
@click.option("--size-only", is_flag=True, help="Take files of equal size for equal.")
@_shared_options
def sync(source: str, target: str, delete: bool, size_only: bool, **given: Any) -> int:
    """Copy what is new or changed in a tree.

    That is what has another size than its copy in TARGET, or was changed later.
    """
    options = _options(given)
    start, goal = parse_location(source), parse_location(target)
    _check_sides(start, goal)
    top, below = _check_tree(start, goal)
    filters = filters_of(click.get_current_context())
    return run_async(
        _run(
            lambda store: plan_sync(
                store, top, below, filters, follow=options.follow, delete=delete, size_only=size_only
            ),
            "sync",
            options,
        )
    )
