"""`reedbed upload list` and `abort`: long uploads that are under way, or were given up without a word."""

from __future__ import annotations

import click

from reedbed.cli.buckets import bucket_of
from reedbed.cli.connection import Connection, connection_options
from reedbed.cli.output import json_option, print_json, say, size_text, table_lines, time_text


@click.group(short_help="Show and end long uploads under way.")
def upload() -> None:
    """Show and end uploads of large objects that have not been completed."""


@upload.command("list")
@click.argument("bucket")
@connection_options
@json_option
def list_(bucket: str, connection: Connection, as_json: bool) -> None:
    """List the uploads under way in a bucket."""
    with connection.store() as store:
        uploads = list(store.list_uploads(bucket_of(bucket)))
    if as_json:
        for item in uploads:
            print_json({"id": item.id, "key": item.key, "started": item.started, "bytes": item.bytes})
        return
    rows = [(item.id, time_text(item.started), size_text(item.bytes), item.key) for item in uploads]
    for line in table_lines(("ID", "STARTED", "SIZE", "KEY"), rows, right=[2]) if rows else []:
        say(line)


@upload.command()
@click.argument("upload_id")
@connection_options
@json_option
def abort(upload_id: str, connection: Connection, as_json: bool) -> None:
    """End an upload; what it has stored so far is given up."""
    with connection.store() as store:
        store.abort_upload(upload_id)
    if as_json:
        print_json({"aborted": upload_id})
    else:
        say(f"abort_upload: {upload_id}")
