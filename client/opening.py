"""Opening an object as a file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from types import TracebackType
from typing import Any, Generic, TypeVar

from reedbed.client import arguments
from reedbed.client.core import Core
from reedbed.client.files import ObjectReader, ObjectWriter
from reedbed.client.spec import spec_of
from reedbed.client.targets import Target
from reedbed.common.errors import AlreadyExists, InvalidArgument, NotFound

File = TypeVar("File", bound="ObjectReader | ObjectWriter")


class Opening(Generic[File]):
    """What `open` returns: `await` it for the file, or use it in `async with`."""

    def __init__(self, work: Callable[[], Awaitable[File]]) -> None:
        self._work = work
        self._file: File | None = None

    def __await__(self) -> Generator[Any, None, File]:
        return self._work().__await__()

    async def __aenter__(self) -> File:
        self._file = await self._work()
        return self._file

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            await self._file.__aexit__(kind, error, trace)


async def open_object(
    core: Core,
    bucket: str,
    key: str,
    mode: str,
    *,
    version: str | None = None,
    metadata: Mapping[str, str] | None = None,
    content_type: str | None = None,
    profile: str | None = None,
    if_match: str | None = None,
    checksum: str | None = None,
) -> ObjectReader | ObjectWriter:
    """The file for a checked mode. NotFound for a missing object, or bucket; AlreadyExists for "xb"."""
    core.enter()
    target = Target(arguments.bucket_name(bucket), arguments.key_bytes(key), arguments.version_id(version))
    given = {"metadata": metadata, "content_type": content_type, "profile": profile, "if_match": if_match}
    given["checksum"] = checksum
    unfit = [name for name, value in given.items() if value is not None]
    if mode == "rb" and unfit:
        raise InvalidArgument(f"{unfit[0]} is a setting of writing", hint="Open it with 'wb' or 'xb'")
    if mode == "rb":
        return ObjectReader(core.getter, await core.getter.open(target, core.deadline()))
    if version is not None:
        raise InvalidArgument("a version cannot be written", hint="Open it without `version`")
    exclusive = mode == "xb"
    condition = arguments.condition_of(exclusive, if_match)
    spec = spec_of(target, metadata, content_type, profile, condition, checksum)
    await core.putter.profile(spec)  # a missing bucket is told now, not at the end
    if exclusive and await _exists(core, target):
        raise AlreadyExists("the object exists", where=target.where, hint="Open it with 'wb' to replace it")
    return ObjectWriter(core.putter, spec, core.background, exclusive=exclusive)


async def _exists(core: Core, target: Target) -> bool:
    try:
        await core.getter.stat(target)
    except NotFound:
        return False
    return True
