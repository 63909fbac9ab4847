"""`reedbed catalog`: the record of everything, saved, brought back, and what is left to decide after that."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from reedbed.cli import begun
from reedbed.cli.connection import Connection, connection_options, run_async, tls_options
from reedbed.cli.output import json_option, on_terminal, print_json, say, size_text, table_lines
from reedbed.cli.progress import Meter
from reedbed.common.clock import SystemClock
from reedbed.common.errors import InvalidArgument

if TYPE_CHECKING:
    from reedbed.catalog.backups import Summary
    from reedbed.catalog.rebuild import Rebuilding, Rebuilt
    from reedbed.client.store import AsyncStore
    from reedbed.client.sync_store import Store

_PATH: Final = click.Path(path_type=Path)
PAGE: Final = 500
Row = dict[str, Any]


@click.group()
def catalog() -> None:
    """Back the catalog up, restore it, or rebuild a lost one from its copy on the cluster."""


# Saving


@catalog.command()
@click.argument("file", type=_PATH)
@click.option("--dir", "folder", type=_PATH, default=None, help="Of a catalog that is not served, instead.")
@connection_options
@json_option
def backup(file: Path, folder: Path | None, connection: Connection, as_json: bool) -> None:
    """Write the whole catalog into FILE, while it goes on serving.

    A file that is there already is replaced once everything is written.
    """
    from reedbed.catalog.backups import check_target

    check_target(file)
    with Meter("backup", show=not as_json) as meter:
        if folder is None:
            summary = run_async(_backup(connection, file, meter))
        else:
            summary = _backup_folder(folder, file, meter)
    told = {"file": str(file), "redo": summary.last, "rows": summary.rows, "bytes": summary.size}
    if as_json:
        print_json(told)
    else:
        say(f"backup: {file}: {summary.rows:,} rows, {size_text(summary.size)}, as of redo record {summary.last:,}")


async def _backup(connection: Connection, file: Path, meter: Meter) -> Summary:
    from reedbed.catalog.backups import About, BackupWriter
    from reedbed.protos.catalog_pb2 import BackupRequest
    from reedbed.transport.greeting import SOFTWARE

    async with connection.async_store() as store:
        begin = await store.backup(BackupRequest(step="begin"))
        about = About(
            begin.cluster.hex(),
            begin.term,
            begin.redo,
            int(time.time() * 1e6),
            store.endpoint,
            SOFTWARE,
            begin.grace_ms / 1000,
        )
        with BackupWriter(file, about) as writer:
            after, last, done = b"", begin.redo, False
            while not done:
                part = await _part(store, BackupRequest(step="rows", pin=begin.pin, after=after))
                writer.rows(part.packed, part.rows)
                meter.moved(len(part.packed.body))
                after, done, position = part.last, not part.last, part.position
            # with all that changed while pages were read, they are whole
            while last < position:
                part = await _part(store, BackupRequest(step="redo", pin=begin.pin, redo_after=last))
                writer.run(part.packed, part.upto)
                meter.moved(len(part.packed.body))
                last = part.upto
            summary = writer.finish()
        await store.backup(BackupRequest(step="end", pin=begin.pin))
        return summary


class _Part:
    """One page or run, put together from the answers that bring it."""

    def __init__(self, reply: Any, body: bytes) -> None:
        from reedbed.catalog.pieces import Packed

        self.packed = Packed(body, reply.raw)
        self.rows: int = reply.rows
        self.last: bytes = reply.last
        self.upto: int = reply.redo_upto
        self.position: int = reply.redo


async def _part(store: AsyncStore, request: Any) -> _Part:
    body = b""
    while True:
        request.offset = len(body)
        reply = await store.backup(request)
        body += reply.body
        if not reply.more:
            return _Part(reply, body)


def _backup_folder(folder: Path, file: Path, meter: Meter) -> Summary:
    from reedbed.catalog import pieces
    from reedbed.catalog.backups import About, BackupWriter
    from reedbed.catalog.leases import read_term
    from reedbed.catalog.lmdb_engine import LmdbEngine
    from reedbed.catalog.snapshots import read_page
    from reedbed.transport.greeting import SOFTWARE

    engine = LmdbEngine(folder)
    try:
        with engine.read() as reader:
            term = read_term(reader)
        about = About(engine.cluster.hex(), term, engine.redo_position(), int(time.time() * 1e6), "", SOFTWARE)
        with BackupWriter(file, about) as writer:
            page, after = read_page(engine, b"")
            while True:
                packed = pieces.pack_rows(page)
                writer.rows(packed, len(page))
                meter.moved(len(packed.body))
                if not after:
                    return writer.finish()
                page, after = read_page(engine, after)
    finally:
        engine.close()


# Bringing back


_INTO: Final = "Folder of the new catalog: empty, or not there."
_into = click.option("--dir", "folder", type=_PATH, required=True, help=_INTO)

_storage = click.option(
    "--storage",
    multiple=True,
    metavar="HOST:PORT",
    help="A storaged of the cluster, which tells where the others are; may be given more than once.",
)
_incomplete = click.option(
    "--incomplete", is_flag=True, help="Go on although so many devices are away that the newest may be with them."
)


@catalog.command()
@click.argument("file", type=_PATH)
@_into
@_storage
@_incomplete
@tls_options
@json_option
def restore(
    file: Path, folder: Path, storage: tuple[str, ...], incomplete: bool, connection: Connection, as_json: bool
) -> int:
    """Make a catalog from the backup FILE, where the old one is gone for good.

    Storage daemons must run: they tell what the backup does not know, and follow the old catalog no more. Nothing that
    was stored after the backup is deleted; see `reedbed catalog held`. What was deleted or compacted since then stays
    on devices for the grace of deletions (a day, or an hour where space is short): for an older backup the exit code
    is 1.
    """
    with Meter("restore", show=not as_json) as meter:
        work = _rebuilding(connection, meter)
        done = run_async(work.restore(file, folder, storage, incomplete=incomplete))
    return _tell("restored", done, folder, as_json)


@catalog.command()
@click.option("--dir", "folder", type=_PATH, default=None, help=_INTO)
@_storage
@click.option("--plan", is_flag=True, help="Only tell what is found.")
@_incomplete
@tls_options
@json_option
def rebuild(
    folder: Path | None,
    storage: tuple[str, ...],
    plan: bool,
    incomplete: bool,
    connection: Connection,
    as_json: bool,
) -> int:
    """Make a catalog from the copy that the cluster holds of it, where the old one is lost.

    What it could not know is listed by log position, and the exit code is 1 then.
    """
    if not storage:
        raise InvalidArgument("no storaged is named", hint="Give --storage HOST:PORT; one of them knows the others")
    if folder is None and not plan:
        raise InvalidArgument("no folder is named", hint="Give --dir, or --plan to see what is there")
    with Meter("rebuild", show=not as_json) as meter:
        work = _rebuilding(connection, meter)
        done = run_async(work.rebuild(None if plan else folder, storage, incomplete=incomplete))
    return _tell("would rebuild" if plan else "rebuilt", done, folder, as_json)


def _rebuilding(connection: Connection, meter: Meter) -> Rebuilding:
    from reedbed.catalog.rebuild import Rebuilding
    from reedbed.transport.grpc_client import GrpcConnector

    return Rebuilding(GrpcConnector(tls=connection.tls()), SystemClock(), progress=meter.moved)


def _tell(verb: str, done: Rebuilt, folder: Path | None, as_json: bool) -> int:
    told = done.as_json()
    if as_json:
        print_json({**told, "dir": None if folder is None else str(folder)})
    else:
        for line in begun.done_lines(verb, told, str(folder) if folder is not None else ""):
            say(line)
        for line in begun.fault_lines(told):
            say(f"reedbed: {line}", err=True)
    return 1 if list(begun.fault_lines(told)) else 0


# After that


@catalog.command()
@connection_options
@json_option
def acknowledge(connection: Connection, as_json: bool) -> None:
    """Say that what is missing since the catalog was restored or rebuilt has been read: `status` is quiet about it."""
    with connection.store() as store:
        told = store.acknowledge()
    if as_json:
        print_json(told)
    else:
        say(f"acknowledge: {told['acknowledged']:,} read")


@catalog.group(invoke_without_command=True)
@click.pass_context
@connection_options
@json_option
def held(ctx: click.Context, connection: Connection, as_json: bool) -> None:
    """List extents that nobody knows since the catalog was restored or rebuilt. They are kept until you remove them."""
    if ctx.invoked_subcommand is not None:
        given = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if given:  # or `--endpoint` would be that of another cluster
            option = given[0].replace("_", "-").removeprefix("as-")
            raise click.UsageError(f"--{option} of `{ctx.invoked_subcommand}` comes after its name", ctx)
        return
    with connection.store() as store:
        _list(store, as_json)


@held.command("delete")
@click.argument("extents", nargs=-1, metavar="EXTENT...")
@click.option("--all", "all_", is_flag=True, help="All that are held.")
@click.option("--plan", is_flag=True, help="Only tell which they are.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@connection_options
@json_option
def delete(extents: tuple[str, ...], all_: bool, plan: bool, yes: bool, connection: Connection, as_json: bool) -> None:
    """Remove held extents for good, by their ids: see `reedbed catalog held`."""
    if bool(extents) == all_:
        raise InvalidArgument("name extents, or --all, and not both")
    with connection.store() as store:
        wanted = {extent.lower() for extent in extents}
        chosen = [row for row in _pages(store) if all_ or row["extent"] in wanted]
        missing = wanted - {row["extent"] for row in chosen}
        if missing:
            raise InvalidArgument(f"extent {min(missing)} is not held", hint="See `reedbed catalog held`")
        if plan or not (yes or as_json):
            _show(chosen, as_json)
        if plan or not chosen:
            return
        if all_ and not yes:
            if as_json or not on_terminal():
                raise InvalidArgument("all held extents are to be removed", hint="Say --yes, or look with --plan first")
            click.confirm(f"Remove these {len(chosen):,} extents for good?", abort=True, err=True)
        done = _delete(store, [row["extent"] for row in chosen])
    if as_json:
        print_json(done)
    else:
        say(f"delete: {done['extents']:,} extents, {done['shards']:,} shards are ordered to go")
        if done["devices_away"]:
            say(f"devices {done['devices_away']} are away: what they hold stays", err=True)


@held.command("end")
@connection_options
@json_option
def end(connection: Connection, as_json: bool) -> None:
    """Say that all of the past is settled: devices that come back are cleaned again, and misplaced shards removed.

    Refused while anything is held, while devices are away, and while repairs or moves go on.
    """
    with connection.store() as store:
        told = store.held({"do": "end"})
    if as_json:
        print_json(told)
    else:
        say("end: nothing is held any more")


def _delete(store: Store, extents: Sequence[str]) -> Row:
    total: Row = {"extents": 0, "shards": 0, "devices_away": []}
    away: set[int] = set()
    for at in range(0, len(extents), PAGE):
        done = store.held({"do": "delete", "extents": list(extents[at : at + PAGE])})
        total["extents"] += done["extents"]
        total["shards"] += done["shards"]
        away.update(done["devices_away"])
    return {**total, "devices_away": sorted(away)}


def _pages(store: Store) -> Iterator[Row]:
    after = ""
    while True:
        page = store.held({"do": "list", "after": after, "limit": PAGE})
        yield from page["extents"]
        if not page["after"]:
            return
        after = page["after"]


def _list(store: Store, as_json: bool) -> None:
    _show(list(_pages(store)), as_json)


def _show(rows: Sequence[Row], as_json: bool) -> None:
    if as_json:
        for row in rows:
            print_json(row)
        return
    cells = [
        (
            str(row["extent"]),
            str(row["why"]),
            size_text(row["bytes"]),
            f"{row['shards']:,}",
            ",".join(map(str, row["devices"])),
            begun.time_of_ms(row["time_ms"]),
        )
        for row in rows
    ]
    headers = ("EXTENT", "WHY", "SIZE", "SHARDS", "DEVICES", "WRITTEN ABOUT")
    for line in table_lines(headers, cells, right=[2, 3]) if cells else []:
        say(line)
    say(begun.held_total(rows))
