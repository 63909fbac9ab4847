"""Writing an object into a local file: into a temporary file beside it, in bounded memory, then by one rename."""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Any

from reedbed.client.get import Getter
from reedbed.client.system import PART_PREFIX
from reedbed.client.targets import Target
from reedbed.common.errors import InvalidArgument
from reedbed.protos.types import ObjectInfo


def local_path(path: object) -> str:
    """The path as text; InvalidArgument for what can be none."""
    if not isinstance(path, str | os.PathLike):
        raise InvalidArgument(f"path {path!r} is neither text nor a path")
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidArgument(f"not a local path: {text!r}")
    return text


async def get_file(getter: Getter, target: Target, path: str, progress: Callable[[int], None]) -> ObjectInfo:
    """Writes a version into a file at `path`, which is as it was until all bytes are there and checked.

    A link is followed. InvalidArgument where something other than a file is there; OSError from the file system.
    """
    handle = await getter.open(target, getter.deadline())
    part = _PartFile(path)
    try:
        await _in_thread(part.begin)
        free: list[bytearray] = []
        async with aclosing(getter.stream(handle, 0, handle.info.size, free)) as pieces:
            async for piece in pieces:
                await _in_thread(part.write, piece)
                progress(len(piece))
                if isinstance(piece.obj, bytearray):
                    free.append(piece.obj)
        await _in_thread(part.finish)
    except BaseException:
        part.discard()
        raise
    return handle.info


class _PartFile:
    """The temporary file: beside the final one, and never named after the key."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = -1
        self._at = 0

    def begin(self) -> None:
        self._final = os.path.realpath(self._path)
        try:
            mode: int | None = os.stat(self._final).st_mode
        except FileNotFoundError:
            mode = None
        if self._path.endswith("/") or not (mode is None or stat.S_ISREG(mode)):
            hint = "Name a file, or one that does not exist yet"
            raise InvalidArgument("not a regular file", where=self._path, hint=hint)
        self._part = os.path.join(os.path.dirname(self._final), f"{PART_PREFIX}{secrets.token_hex(8)}")
        self._file = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if mode is not None:
            os.fchmod(self._file, stat.S_IMODE(mode))  # what was kept from others stays so

    def write(self, piece: memoryview) -> None:
        while piece:
            count = os.pwrite(self._file, piece, self._at)
            self._at += count
            piece = piece[count:]

    def finish(self) -> None:
        os.replace(self._part, self._final)
        self._close()

    def discard(self) -> None:
        if self._file >= 0:
            with suppress(FileNotFoundError):
                os.unlink(self._part)
            self._close()

    def _close(self) -> None:
        file, self._file = self._file, -1
        os.close(file)


async def _in_thread(work: Callable[..., None], *arguments: Any) -> None:
    """As asyncio.to_thread, but a cancelled caller waits for the thread's end: it uses a file that is then closed."""
    running = asyncio.get_running_loop().run_in_executor(None, work, *arguments)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
