"""`reedbed ls`: buckets, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from reedbed.cli.connection import Connection, connection_options
from reedbed.cli.locations import Remote, parse_location
from reedbed.cli.output import json_option, print_json, say, size_text, time_text
from reedbed.client.urls import SCHEME
from reedbed.common.errors import InvalidArgument, NotFound
from reedbed.protos.types import CommonPrefix, ObjectInfo

if TYPE_CHECKING:
    from reedbed.client.sync_store import Store


def info_fields(info: ObjectInfo) -> dict[str, object]:
    """An object as `--json` shows it. The key is as it is: JSON escapes what has to be."""
    return {
        "bucket": info.bucket,
        "key": info.key,
        "size": info.size,
        "version": info.version,
        "etag": info.etag,
        "checksum": info.checksum,
        "content_type": info.content_type,
        "metadata": dict(info.metadata),
        "last_modified": info.last_modified,
        "profile": info.profile,
        "actual_profiles": list(info.actual_profiles),
        "latest": info.latest,
        "delete_marker": info.delete_marker,
    }


def _rows(store: Store, place: Remote, recursive: bool, versions: bool) -> Iterator[ObjectInfo | CommonPrefix]:
    if versions:
        return iter(store.list_versions(place.bucket, prefix=place.key))
    return iter(store.list(place.bucket, prefix=place.key, delimiter=None if recursive else "/"))


def _line(row: ObjectInfo | CommonPrefix, place: Remote, full: bool, human: bool, versions: bool) -> str:
    # like `aws s3 ls`, names are shown from the last slash of what was asked for on
    cut = 0 if full or versions else place.key.rfind("/") + 1
    if isinstance(row, CommonPrefix):
        return f"{'PRE':>30} {row.prefix[cut:]}"
    size = size_text(row.size) if human else str(row.size)
    text = f"{time_text(row.last_modified)} {size:>10} {row.key[cut:]}"
    if versions:
        mark = " deleted" if row.delete_marker else ""
        text += f" {row.version}{' latest' if row.latest else ''}{mark}"
    return text


@click.command(short_help="List buckets, or objects.")
@click.argument("url", required=False)
@click.option("-r", "--recursive", is_flag=True, help="List all objects below, not only one level.")
@click.option("--versions", is_flag=True, help="List all versions, the newest of each object first.")
@click.option("--human-readable", is_flag=True, help="Sizes in KiB, MiB, GiB.")
@click.option("--summarize", is_flag=True, help="Count objects and bytes at the end.")
@connection_options
@json_option
def ls(
    url: str | None,
    recursive: bool,
    versions: bool,
    human_readable: bool,
    summarize: bool,
    connection: Connection,
    as_json: bool,
) -> None:
    """List buckets, or the objects and prefixes below reedbed://BUCKET/PREFIX.

    With --json, one JSON value a line.
    """
    if url is None or url == SCHEME:
        with connection.store() as store:
            _list_buckets(store, as_json)
        return
    place = parse_location(url)
    if not isinstance(place, Remote):
        raise InvalidArgument(f"{url} is not a reedbed:// URL", hint="Write reedbed://BUCKET/PREFIX")
    count = size = 0
    with connection.store() as store:
        for row in _rows(store, place, recursive, versions):
            if not as_json:
                say(_line(row, place, recursive, human_readable, versions))
            elif isinstance(row, CommonPrefix):
                print_json({"bucket": row.bucket, "prefix": row.prefix})
            else:
                print_json(info_fields(row))
            count += 1
            size += 0 if isinstance(row, CommonPrefix) else row.size
    if summarize:
        if as_json:
            print_json({"count": count, "size": size})
        else:
            say("")
            say(f"Total: {count:,}, {size_text(size) if human_readable else f'{size:,} B'}")
    if not count and place.key:
        raise NotFound(f"nothing in {place.bucket!r} begins with {place.key!r}")


def _list_buckets(store: Store, as_json: bool) -> None:
    for bucket in store.list_buckets():
        if as_json:
            fields = {"versioned": bucket.versioned, "profile": bucket.profile, "created": bucket.created}
            print_json({"bucket": bucket.name, **fields})
        else:
            say(f"{time_text(bucket.created)} {bucket.name}")
