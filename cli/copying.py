"""Carries a plan out: many files at a time, within a budget of bytes, with a report of what happened."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from reedbed.cli.localtree import Skip
from reedbed.cli.locations import Local, Remote
from reedbed.cli.output import print_json
from reedbed.cli.plans import Copy, Remove, Step
from reedbed.cli.progress import Meter
from reedbed.common.errors import DeadlineExceeded, InvalidArgument, PreconditionFailed, ReedbedError, Unavailable
from reedbed.common.limits import KIB, MIB
from reedbed.protos.types import etag_of

if TYPE_CHECKING:
    from reedbed.protos.types import ObjectInfo

AT_ONCE: Final = 64  # files under way
BYTES_AT_ONCE: Final = 64 * MIB  # of files under way; a larger one goes alone, and is cut into many extents itself
SMALLEST: Final = 64 * KIB
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

assert AT_ONCE * SMALLEST <= BYTES_AT_ONCE


class Target(Protocol):
    """What copying asks of a store."""

    async def put_file(
        self, bucket: str, key: str, path: Path, *, progress: Callable[[int], None] | None
    ) -> ObjectInfo: ...

    async def get_file(
        self, bucket: str, key: str, path: Path, *, progress: Callable[[int], None] | None
    ) -> ObjectInfo: ...

    async def copy(
        self, source_bucket: str, source_key: str, bucket: str, key: str, *, version: str | None = None
    ) -> ObjectInfo: ...

    async def delete(self, bucket: str, key: str, *, if_match: str | None = None) -> Any: ...


@dataclass
class Report:
    """What was done; `failed` and `skipped` pair what it was with why. `fatal` ended it all before its end."""

    copied: int = 0
    deleted: int = 0
    bytes: int = 0
    reads_direct: int = 0  # ranges of shards that came as they are
    reads_decoded: int = 0  # ranges that were decoded out of other shards
    skipped: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    fatal: ReedbedError | None = None

    @property
    def exit_code(self) -> int:
        """Of the command: that of the fatal error, 1 if something was skipped or failed, else 0."""
        if self.fatal:
            return self.fatal.exit_code
        return 1 if self.skipped or self.failed else 0


class _Budget:
    """Admits work by its weight in bytes, for one that takes and many that give."""

    def __init__(self, total: int) -> None:
        self._left = total
        self._given = asyncio.Event()

    async def take(self, weight: int) -> None:
        while self._left < weight:
            self._given.clear()
            await self._given.wait()
        self._left -= weight

    def give(self, weight: int) -> None:
        self._left += weight
        self._given.set()


def verb(step: Copy | Remove) -> str:
    """What a step is called in the lines that are printed, as in `aws s3`."""
    if isinstance(step, Remove):
        return "delete"
    if isinstance(step.source, Local):
        return "upload"
    return "download" if isinstance(step.target, Local) else "copy"


def described(step: Copy | Remove) -> str:
    """One line that says what a step does; names are as they are."""
    if isinstance(step, Remove):
        return f"{verb(step)}: {step.target}"
    return f"{verb(step)}: {step.source} to {step.target}"


def planned(step: Copy | Remove) -> dict[str, object]:
    """What a dry run would do, as `--json` shows it."""
    source = {} if isinstance(step, Remove) else {"source": str(step.source), "bytes": step.size}
    return {"dryrun": verb(step), **source, "target": str(step.target)}


async def copy_one(store: Target, step: Copy, meter: Meter) -> None:
    """Copies one file or object. Nothing half done is visible at the target at any time."""
    match step.source, step.target:
        case Local(path), Remote(bucket, key):
            await store.put_file(bucket, key, path, progress=meter.moved)
        case Remote() as source, Local(path):
            await _bring_down(store, source, path, step, meter)
        case Remote(bucket, key), Remote(to_bucket, to_key):
            await store.copy(bucket, key, to_bucket, to_key)
            meter.moved(step.size)
        case _:
            raise InvalidArgument("both sides are local", hint="One side must be a reedbed:// URL")


async def move_one(store: Target, step: Copy, meter: Meter) -> None:
    """`copy_one`, and then deletes what was copied: not what came in its place meanwhile, which is an error."""
    match step.source, step.target:
        case Local(path), Remote(bucket, key):
            before = await asyncio.to_thread(_mark, path)
            await store.put_file(bucket, key, path, progress=meter.moved)
            await asyncio.to_thread(_unlink_same, path, before)
        case Remote() as source, Local(path):
            info = await _bring_down(store, source, path, step, meter)
            await _delete_same(store, source, info.etag)
        case Remote() as source, Remote(to_bucket, to_key):
            await store.copy(source.bucket, source.key, to_bucket, to_key, version=step.version)
            meter.moved(step.size)
            await _delete_same(store, source, etag_of(step.version))
        case _:
            raise InvalidArgument("both sides are local", hint="One side must be a reedbed:// URL")


async def remove_one(store: Target, target: Local | Remote) -> None:
    """Deletes one file or object."""
    if isinstance(target, Local):
        await asyncio.to_thread(target.path.unlink, missing_ok=True)
    else:
        await store.delete(target.bucket, target.key)


async def _bring_down(store: Target, source: Remote, path: Path, step: Copy, meter: Meter) -> ObjectInfo:
    await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
    info = await store.get_file(source.bucket, source.key, path, progress=meter.moved)
    # exact, where a float of seconds since 1970 could come out a microsecond early
    stamp = (step.modified - _EPOCH) // timedelta(microseconds=1) * 1000
    await asyncio.to_thread(os.utime, path, ns=(stamp, stamp))  # so that a later sync sees it as unchanged
    return info


async def _delete_same(store: Target, source: Remote, etag: str) -> None:
    try:
        await store.delete(source.bucket, source.key, if_match=etag)
    except PreconditionFailed:
        raise _changed(source) from None


def _unlink_same(path: Path, before: tuple[int, ...]) -> None:
    if _mark(path) != before:
        raise _changed(Local(path))
    path.unlink()


def _mark(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_dev, found.st_size, found.st_mtime_ns


def _changed(source: Local | Remote) -> PreconditionFailed:
    return PreconditionFailed(
        "it changed during the move: what was there before is copied, and what is there now stays",
        where=str(source),
        hint="Move it again",
    )


class Copier:
    """Carries out the steps of one command."""

    def __init__(
        self,
        store: Target,
        meter: Meter,
        *,
        dry_run: bool,
        quiet: bool,
        move: bool,
        as_json: bool = False,
        sole: bool = False,
    ) -> None:
        """`sole`: there is but one step, whose error is the command's."""
        self._sole = sole
        self._store = store
        self._meter = meter
        self._dry_run = dry_run
        self._quiet = quiet
        self._move = move
        self._as_json = as_json
        self._budget = _Budget(BYTES_AT_ONCE)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.report = Report()

    async def run(self, steps: AsyncIterator[Step]) -> Report:
        """All steps; one that fails does not stop the others, unless the cluster itself cannot be reached.

        Raises what the plan raises, and BrokenPipeError when nobody reads our output any more.
        """
        assert isinstance(steps, AsyncGenerator)
        try:
            async with aclosing(steps), asyncio.TaskGroup() as group:
                async for step in steps:
                    if self.report.fatal:
                        break
                    await self._begin(step, group)
        except BaseExceptionGroup as failed:
            raise _first(failed) from None
        await self._meter.drain()
        return self.report

    async def _begin(self, step: Step, group: asyncio.TaskGroup) -> None:
        if isinstance(step, Skip):
            self.report.skipped.append((step.what, step.reason))
        elif self._dry_run:
            if self._as_json:
                print_json(planned(step))
            else:
                await self._meter.line(f"(dryrun) {described(step)}")
        else:
            weight = min(max(step.size, SMALLEST), BYTES_AT_ONCE) if isinstance(step, Copy) else SMALLEST
            self._meter.expect(step.size if isinstance(step, Copy) else 0)
            await self._slots.acquire()
            await self._budget.take(weight)
            group.create_task(self._step(step, weight))

    async def _step(self, step: Copy | Remove, weight: int) -> None:
        try:
            await self._carry_out(step)
        except ReedbedError as error:
            if self.report.fatal is None and (self._sole or isinstance(error, Unavailable | DeadlineExceeded)):
                self.report.fatal = error
            self.report.failed.append((described(step), str(error)))
        except OSError as error:
            self.report.failed.append((described(step), error.strerror or str(error)))
        else:
            self._meter.finished()
            if not self._quiet:
                await self._meter.line(described(step))
        finally:
            self._slots.release()
            self._budget.give(weight)

    async def _carry_out(self, step: Copy | Remove) -> None:
        if isinstance(step, Remove):
            await remove_one(self._store, step.target)
            self.report.deleted += 1
            return
        await (move_one if self._move else copy_one)(self._store, step, self._meter)
        self.report.copied += 1
        self.report.bytes += step.size


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """One error of a group: tasks that were cancelled because of it are not in there."""
    error = failed.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
