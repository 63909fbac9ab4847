"""`reedbed mb` and `rb`: buckets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from reedbed.cli.connection import Connection, connection_options
from reedbed.cli.locations import Remote, parse_location
from reedbed.cli.output import json_option, print_json, say
from reedbed.common.errors import InvalidArgument
from reedbed.protos.types import CommonPrefix

if TYPE_CHECKING:
    from reedbed.client.sync_store import Store


def bucket_of(text: str) -> str:
    """The bucket that a URL (or a bare name) names; InvalidArgument if it goes on to a key."""
    place = parse_location(text if "://" in text else f"reedbed://{text}")
    if not isinstance(place, Remote) or place.key:
        raise InvalidArgument(f"{text} names more than a bucket", hint="Write reedbed://BUCKET")
    return place.bucket


@click.command()
@click.argument("url")
@click.option("--versioned", is_flag=True, help="Keep all versions of its objects.")
@click.option("--profile", default=None, metavar="rs-K-M", help="Code of its objects [default: the cluster's].")
@connection_options
@json_option
def mb(url: str, versioned: bool, profile: str | None, connection: Connection, as_json: bool) -> None:
    """Make a bucket."""
    bucket = bucket_of(url)
    with connection.store() as store:
        store.create_bucket(bucket, versioned=versioned, profile=profile)
    if as_json:
        print_json({"bucket": bucket})
    else:
        say(f"make_bucket: {bucket}")


def _empty(store: Store, bucket: str) -> int:
    """Deletes all objects (and versions) of a bucket; returns how many."""
    count = 0
    keys: list[str] = []
    for row in store.list(bucket):
        assert not isinstance(row, CommonPrefix)
        keys.append(row.key)
        if len(keys) == 1000:
            count += _delete_all(store, bucket, keys)
            keys = []
    count += _delete_all(store, bucket, keys)
    for version in store.list_versions(bucket):
        store.delete(bucket, version.key, version=version.version)
    return count


def _delete_all(store: Store, bucket: str, keys: list[str]) -> int:
    for result in store.delete_many(bucket, keys).values():
        if isinstance(result, Exception):
            raise result
    return len(keys)


@click.command()
@click.argument("url")
@click.option("--force", is_flag=True, help="Delete all objects in it first.")
@connection_options
@json_option
def rb(url: str, force: bool, connection: Connection, as_json: bool) -> None:
    """Remove a bucket, which must be empty."""
    bucket = bucket_of(url)
    with connection.store() as store:
        deleted = _empty(store, bucket) if force else 0
        store.delete_bucket(bucket)
    if as_json:
        print_json({"bucket": bucket, "deleted": deleted})
    else:
        say(f"remove_bucket: {bucket}")
