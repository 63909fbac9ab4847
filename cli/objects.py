"""`reedbed cat`, `stat` and `rm`: single objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from reedbed.cli.connection import Connection, connection_options, run_async
from reedbed.cli.filtering import FilteredCommand, filter_options, filters_of
from reedbed.cli.listing import info_fields
from reedbed.cli.locations import Filters, Remote, folder_prefix, name_of, parse_location
from reedbed.cli.output import json_option, print_json, say, size_text
from reedbed.cli.progress import Meter
from reedbed.cli.streams import to_stdout
from reedbed.common.errors import InvalidArgument
from reedbed.protos.types import CommonPrefix

if TYPE_CHECKING:
    from reedbed.client.sync_store import Store

BATCH = 1000


def object_of(text: str) -> Remote:
    """The object that a URL names; InvalidArgument for anything else."""
    place = parse_location(text)
    if not isinstance(place, Remote) or not place.key:
        raise InvalidArgument(f"{text} names no object", hint="Write reedbed://BUCKET/KEY")
    return place


@click.command()
@click.argument("urls", nargs=-1, required=True)
@connection_options
def cat(urls: tuple[str, ...], connection: Connection) -> None:
    """Write objects to standard output, one after the other."""
    places = [object_of(url) for url in urls]

    async def run() -> None:
        async with connection.async_store() as store:
            with Meter("cat", show=False) as meter:
                for place in places:
                    await to_stdout(store, place, meter)

    run_async(run())


@click.command()
@click.argument("url")
@click.option("--version", default=None, help="Of this version instead of the latest.")
@connection_options
@json_option
def stat(url: str, version: str | None, connection: Connection, as_json: bool) -> None:
    """Show what is known of an object."""
    place = object_of(url)
    with connection.store() as store:
        info = store.stat(place.bucket, place.key, version=version)
    if as_json:
        print_json(info_fields(info))
        return
    actual = ", ".join(info.actual_profiles)
    lines = [
        ("key", info.key),
        ("size", f"{info.size} ({size_text(info.size)})"),
        ("version", info.version + (" (latest)" if info.latest else "")),
        ("etag", info.etag),
        ("checksum", info.checksum),
        ("content type", info.content_type or "-"),
        ("last modified", info.last_modified.isoformat(timespec="milliseconds")),
        ("profile", info.profile + (f", actual {actual}" if actual and actual != info.profile else "")),
        *((f"metadata {name}", value) for name, value in sorted(info.metadata.items())),
    ]
    for name, value in lines:
        say(f"{name + ':':<15} {value}")


def _remove_batch(store: Store, bucket: str, keys: Sequence[str], *, quiet: bool, failed: list[tuple[str, str]]) -> int:
    done = 0
    for key, result in store.delete_many(bucket, list(keys)).items():
        if isinstance(result, Exception):
            failed.append((key, str(result)))
            continue
        done += 1
        if not quiet:
            say(f"delete: {Remote(bucket, key)}")
    return done


def _would_delete(place: Remote, as_json: bool) -> None:
    if as_json:
        print_json({"dryrun": "delete", "target": str(place)})
    else:
        say(f"(dryrun) delete: {place}")


def _remove_tree(
    store: Store,
    place: Remote,
    filters: Filters,
    *,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    failed: list[tuple[str, str]],
) -> int:
    prefix = folder_prefix(place)
    count = 0
    keys: list[str] = []
    for row in store.list(place.bucket, prefix=prefix):
        if isinstance(row, CommonPrefix) or not filters.match(row.key[len(prefix) :]):
            continue
        if dry_run:
            _would_delete(Remote(place.bucket, row.key), as_json)
            continue
        keys.append(row.key)
        if len(keys) == BATCH:
            count += _remove_batch(store, place.bucket, keys, quiet=quiet, failed=failed)
            keys = []
    return count + (_remove_batch(store, place.bucket, keys, quiet=quiet, failed=failed) if keys else 0)


@click.command(cls=FilteredCommand)
@click.argument("url")
@click.option("-r", "--recursive", is_flag=True, help="Delete all objects below.")
@click.option("--version", default=None, help="Delete this version instead of the latest.")
@filter_options
@click.option("--dryrun", is_flag=True, help="Print what would be deleted, and do nothing.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@connection_options
@json_option
def rm(
    url: str,
    recursive: bool,
    version: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    dryrun: bool,
    quiet: bool,
    connection: Connection,
    as_json: bool,
) -> int:
    """Delete objects. As in S3, one that does not exist is no error."""
    place = parse_location(url) if recursive else object_of(url)
    if not isinstance(place, Remote):
        raise InvalidArgument(f"{url} is not a reedbed:// URL", hint="Write reedbed://BUCKET/PREFIX")
    if recursive and version:
        raise InvalidArgument("--version names one object's version, and -r many objects")
    failed: list[tuple[str, str]] = []
    with connection.store() as store:
        if recursive:
            filters = filters_of(click.get_current_context())
            count = _remove_tree(
                store, place, filters, dry_run=dryrun, quiet=quiet or as_json, as_json=as_json, failed=failed
            )
        elif not filters_of(click.get_current_context()).match(name_of(place)):
            count = 0
        elif dryrun:
            _would_delete(place, as_json)
            count = 0
        else:
            # as in S3 one that does not exist is no error
            count = int(store.delete(place.bucket, place.key, version=version))
            if not (quiet or as_json):
                say(f"delete: {place}" + (f" {version}" if version else ""))
    if as_json:
        report = [{"what": str(Remote(place.bucket, key)), "why": why} for key, why in failed]
        print_json({"dryrun": dryrun, "deleted": count, "failed": report})
    else:
        for key, why in failed:
            say(f"failed: delete: {Remote(place.bucket, key)}: {why}", err=True)
    return 1 if failed else 0
