"""What a copy of a tree will do, file by file, as a stream: nothing is held of trees with millions of files.

Both sides are walked in bytewise order of their keys, so that `sync` compares them like two sorted lists.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from reedbed.cli.localtree import Entry, Skip, local_tree, modified_at
from reedbed.cli.locations import Filters, Local, Remote, Shadows, folder_prefix, unsafe
from reedbed.common.errors import InvalidArgument, NotFound
from reedbed.protos.names import encode_key
from reedbed.protos.types import CommonPrefix

if TYPE_CHECKING:
    from reedbed.protos.types import ObjectInfo

_WALKED: Final = 256  # entries of a local tree that are looked up at once, in a thread


class Listing(Protocol):
    """What plans ask of a store."""

    def list(self, bucket: str, prefix: str = "") -> AsyncIterator[ObjectInfo | CommonPrefix]: ...

    async def stat(self, bucket: str, key: str) -> ObjectInfo: ...

    async def stat_bucket(self, bucket: str) -> object: ...


@dataclass(frozen=True, slots=True)
class Copy:
    """One file or object to copy. `version`: of an object, when the plan was made."""

    source: Local | Remote
    target: Local | Remote
    size: int
    modified: datetime
    version: str = ""


@dataclass(frozen=True, slots=True)
class Remove:
    """One file or object of a sync's target that the source does not have."""

    target: Local | Remote


Step: TypeAlias = Copy | Remove | Skip


async def _local_entries(place: Local, follow: bool) -> AsyncIterator[Entry | Skip]:
    walk = local_tree(place.path, follow=follow)
    while batch := await asyncio.to_thread(list, islice(walk, _WALKED)):
        for entry in batch:
            yield entry


async def _remote_entries(store: Listing, place: Remote) -> AsyncIterator[Entry | Skip]:
    prefix = folder_prefix(place)
    async for row in store.list(place.bucket, prefix=prefix):
        if not isinstance(row, CommonPrefix):
            where = Remote(place.bucket, row.key)
            yield Entry(row.key[len(prefix) :], row.size, row.last_modified, where, version=row.version)


def tree(store: Listing, side: Local | Remote, *, follow: bool = True) -> AsyncIterator[Entry | Skip]:
    """All entries of one side, in bytewise order of their names relative to it."""
    if isinstance(side, Local):
        return _local_entries(side, follow)
    return _remote_entries(store, side)


def target_of(entry: Entry, target: Local | Remote) -> Local | Remote:
    """Where an entry goes below the target."""
    if isinstance(target, Local):
        return Local(target.path / entry.relative)
    return Remote(target.bucket, folder_prefix(target) + entry.relative)


def _no_key(entry: Entry, target: Remote) -> str | None:
    try:
        encode_key(folder_prefix(target) + entry.relative)
    except InvalidArgument as error:
        return error.what
    return None


def _no_path(entry: Entry, shadows: Shadows) -> str | None:
    reason = unsafe(entry.relative)
    if reason is None:
        above = shadows.above(entry.relative)
        if above is not None:
            reason = f"the object {above!r} takes the place of its folder"
    return reason


async def possible(
    entries: AsyncIterator[Entry | Skip], target: Local | Remote, filters: Filters
) -> AsyncIterator[Entry | Skip]:
    """The entries that the filters leave, with a Skip in place of each that the target cannot hold."""
    shadows = Shadows()
    async for entry in entries:
        if not filters.match(entry.relative):
            continue
        if isinstance(entry, Skip):
            yield entry
            continue
        if isinstance(target, Remote):
            reason = _no_key(entry, target)
        elif entry.size == 0 and (not entry.relative or entry.relative.endswith("/")):
            continue  # a marker that S3 consoles put for an empty folder
        else:
            reason = _no_path(entry, shadows)
        yield Skip(str(entry.where), reason, entry.relative) if reason else entry


async def plan_copy(
    store: Listing, source: Local | Remote, target: Local | Remote, filters: Filters, *, follow: bool
) -> AsyncIterator[Step]:
    """Everything of a tree. NotFound for a prefix that nothing lies below, and for a bucket that is not there."""
    if isinstance(target, Remote):
        await store.stat_bucket(target.bucket)
    found = False

    async def seen() -> AsyncIterator[Entry | Skip]:
        nonlocal found
        async for entry in tree(store, source, follow=follow):
            found = True
            yield entry

    async for entry in possible(seen(), target, filters):
        yield entry if isinstance(entry, Skip) else _copy(entry, target)
    if not found and isinstance(source, Remote) and source.key:
        raise NotFound(f"nothing lies below {Remote(source.bucket, folder_prefix(source))}")


def _copy(entry: Entry, target: Local | Remote) -> Copy:
    return Copy(entry.where, target_of(entry, target), entry.size, entry.modified, entry.version)


async def _existing(store: Listing, target: Local | Remote) -> AsyncIterator[Entry]:
    if isinstance(target, Local) and not target.path.is_dir():
        return
    async for entry in tree(store, target):
        if isinstance(entry, Entry):
            yield entry


def _differs(entry: Entry, there: Entry, size_only: bool) -> bool:
    """As in `aws s3 sync`: another size, or changed later than the copy."""
    return entry.size != there.size or (not size_only and entry.modified > there.modified)


def _order(entry: Entry | Skip) -> bytes:
    return entry.relative.encode("utf-8", "surrogateescape")


async def plan_sync(
    store: Listing,
    source: Local | Remote,
    target: Local | Remote,
    filters: Filters,
    *,
    follow: bool,
    delete: bool,
    size_only: bool,
) -> AsyncIterator[Step]:
    """What is missing or different at the target, and with `delete` what the source does not have.

    Deleted is only what the filters would have copied; nothing that a link in the target leads to, and nothing below a
    folder of the source that could not be read.
    """
    theirs = _existing(store, target)
    there = await anext(theirs, None)
    unknown: list[str] = []  # folders of the source that nobody knows what lies in

    def removable(entry: Entry) -> bool:
        if not delete or entry.through_link or not filters.match(entry.relative):
            return False
        return not any(entry.relative.startswith(folder) for folder in unknown)

    async for entry in possible(tree(store, source, follow=follow), target, filters):
        while there is not None and _order(there) < _order(entry):
            if removable(there):
                yield Remove(there.where)
            there = await anext(theirs, None)
        same = there if there is not None and there.relative == entry.relative else None
        if isinstance(entry, Skip):
            if entry.folder:
                unknown.append(entry.relative)
            yield entry
        elif same is None or _differs(entry, same, size_only):
            yield _copy(entry, target)
        if same is not None:
            there = await anext(theirs, None)
    while there is not None:
        if removable(there):
            yield Remove(there.where)
        there = await anext(theirs, None)


async def plan_one(store: Listing, source: Local | Remote, target: Local | Remote) -> Copy:
    """A single file or object; NotFound if it or the target's bucket is not there, InvalidArgument for what is no
    regular file."""
    if isinstance(target, Remote):
        await store.stat_bucket(target.bucket)
    if isinstance(source, Remote):
        info = await store.stat(source.bucket, source.key)
        return Copy(source, target, info.size, info.last_modified, info.version)
    try:
        stat = source.path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{source} does not exist") from None
    if S_ISDIR(stat.st_mode):
        raise InvalidArgument(f"{source} is a folder", hint="Say -r to copy what is in it")
    if not S_ISREG(stat.st_mode):
        raise InvalidArgument(f"{source} is not a regular file", hint="Pipe it in, with - as the source")
    return Copy(source, target, stat.st_size, modified_at(stat.st_mtime_ns))
