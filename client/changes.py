"""Changes that move no bytes: deletes and copies, each one commit with an id of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from reedbed.client import arguments
from reedbed.client.core import Core
from reedbed.client.targets import Target
from reedbed.common.errors import InvalidArgument, NotFound, ReedbedError
from reedbed.common.ids import Id, parse_id
from reedbed.common.limits import COMMIT_OPS_MAX
from reedbed.protos import catalog_pb2
from reedbed.protos.convert import info_from_message
from reedbed.protos.types import ObjectInfo

Condition = catalog_pb2.Condition | None

_TRIES: Final = 4  # of a copy whose source is overwritten meanwhile


async def delete_object(core: Core, target: Target, version: Id | None, condition: Condition) -> bool:
    """Deletes a version, the latest for None; whether there was one."""
    delete = catalog_pb2.Delete(version=version or b"")
    return (await _commit(core, target, condition, delete=delete)).removed


async def delete_many(core: Core, bucket: str, keys: Iterable[str]) -> dict[str, bool | ReedbedError]:
    """Deletes the latest version of each key; whether there was one, or its error, by key. NotFound: no bucket."""
    given: object = keys
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InvalidArgument(f"keys of type {type(keys).__name__}", hint="Pass a list, or another iterable, of str")
    names = list(dict.fromkeys(_text(key) for key in keys))
    results: dict[str, bool | ReedbedError] = {}

    async def delete(name: str) -> None:
        try:
            results[name] = await delete_object(core, Target(bucket, arguments.key_bytes(name)), None, None)
        except ReedbedError as error:
            results[name] = error

    for first in range(0, len(names), COMMIT_OPS_MAX):
        some = names[first : first + COMMIT_OPS_MAX]
        await asyncio.gather(*(delete(name) for name in some))
        missing = results[some[0]]  # a key that is missing is no error, so this is the bucket
        if not first and isinstance(missing, NotFound):
            raise missing
    return {name: results[name] for name in names}


def _text(key: object) -> str:
    if not isinstance(key, str):
        raise InvalidArgument(f"key {key!r} is not text", hint="Keys are str")
    return key


async def copy_object(
    core: Core,
    source: Target,
    target: Target,
    metadata: Mapping[str, str] | None,
    content_type: str | None,
    condition: Condition,
) -> ObjectInfo:
    """Makes an object of the source's bytes. What is not None replaces the source's."""
    new, kind = arguments.metadata_of(metadata, content_type)
    replace = metadata is not None or content_type is not None
    if not replace or (metadata is not None and content_type is not None):
        return await _copy(core, source, target, replace, new, kind, condition)
    for tried in range(1, _TRIES + 1):
        # the catalog replaces both or none, so the other one is taken from the version that is copied
        info = await core.getter.stat(source)
        pinned = Target(source.bucket, source.key, parse_id(info.version))
        both = (
            dict(info.metadata) if metadata is None else new,
            (info.content_type or "") if content_type is None else kind,
        )
        try:
            return await _copy(core, pinned, target, True, *both, condition)
        except NotFound:
            # overwritten between the two calls: then the new one is the source
            if source.version is not None or tried == _TRIES:
                raise
    raise AssertionError


async def _copy(
    core: Core,
    source: Target,
    target: Target,
    replace: bool,
    new: dict[str, str],
    kind: str,
    condition: Condition,
) -> ObjectInfo:
    copy = catalog_pb2.Copy(
        source_bucket=source.bucket,
        source_key=source.key,
        source_version=source.version or b"",
        replace_metadata=replace,
        metadata=new,
        content_type=kind,
    )
    return info_from_message((await _commit(core, target, condition, copy=copy)).info)


async def _commit(
    core: Core,
    target: Target,
    condition: Condition,
    delete: catalog_pb2.Delete | None = None,
    copy: catalog_pb2.Copy | None = None,
) -> catalog_pb2.Outcome:
    deadline = core.deadline()
    op = catalog_pb2.CommitOp(
        id=await core.cluster.new_id(deadline),
        bucket=target.bucket,
        key=target.key,
        condition=condition,
        delete=delete,
        copy=copy,
    )
    return await core.commits.commit(op, (), deadline)
