"""Carrying out one task, and what is said of it: an extent is made as planned, or a new one made out of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reedbed.common import logs
from reedbed.common.clock import Deadline
from reedbed.common.errors import InvalidArgument, ReedbedError
from reedbed.ec.profiles import parse_profile
from reedbed.extents import rebuild, rewrite
from reedbed.extents.context import ClusterAccess
from reedbed.extents.rebuild import rebuild_extent
from reedbed.extents.rewrite import Pace, Piece
from reedbed.protos import catalog_pb2
from reedbed.protos.convert import extent_from_message, extent_to_message

log = logs.get("storaged.worker")


@dataclass(frozen=True, slots=True)
class Carried:
    """What is reported, and how many bytes were read and written."""

    result: catalog_pb2.TaskResult
    read: int = 0
    written: int = 0


def is_rewrite(task: catalog_pb2.Task) -> bool:
    return task.HasField("rewrite")


def memory_of(task: catalog_pb2.Task) -> int:
    """About how many bytes carrying it out holds at most; 0 for a task that makes no sense."""
    if not is_rewrite(task):
        return rebuild.memory_of(task.extent.lengths, len(task.positions))
    try:
        return rewrite.memory_of(_pieces(task.rewrite), parse_profile(task.rewrite.profile))
    except InvalidArgument:
        return 0


def failed(task: catalog_pb2.Task, code: str, error: str) -> catalog_pb2.TaskResult:
    """The report of a task that came to nothing."""
    if is_rewrite(task):
        rewritten = catalog_pb2.Rewritten(number=task.rewrite.number, profile=task.rewrite.profile, code=code)
        return catalog_pb2.TaskResult(rewritten=rewritten, error=error)
    return catalog_pb2.TaskResult(extent=task.extent.id, error=error)


async def carry_out(
    access: ClusterAccess, task: catalog_pb2.Task, deadlines: Callable[[], Deadline], pace: Pace, *, at_once: bool
) -> Carried:
    """Does it. What goes wrong is told in the result. `at_once`: not one read after the other, in favour of others."""
    try:
        if is_rewrite(task):
            return await _rewrite(access, task, deadlines, pace, at_once)
        return await _rebuild(access, task, deadlines, pace, at_once)
    except ReedbedError as error:
        return Carried(failed(task, error.code, str(error)))


async def _rebuild(
    access: ClusterAccess, task: catalog_pb2.Task, deadlines: Callable[[], Deadline], pace: Pace, at_once: bool
) -> Carried:
    extent = extent_from_message(task.extent)
    await pace(rebuild.bytes_to_write(extent.lengths, task.positions))
    deadline = deadlines()  # the pace may take longer than that, where it is slow
    await _catch_up(access, task, deadline)
    done = await rebuild_extent(access, extent, task.positions, deadline, at_once=at_once)
    if done.error:
        log.warning("an extent is not as planned yet: %s", done.error)
    acks = [catalog_pb2.Ack(position=ack.position, device=ack.device, incarnation=ack.incarnation) for ack in done.acks]
    result = catalog_pb2.TaskResult(extent=task.extent.id, acks=acks, error=done.error, full=done.full)
    return Carried(result, done.read, done.written)


async def _rewrite(
    access: ClusterAccess, task: catalog_pb2.Task, deadlines: Callable[[], Deadline], pace: Pace, at_once: bool
) -> Carried:
    asked = task.rewrite
    pieces = _pieces(asked)
    await _catch_up(access, task, deadlines())
    done = await rewrite.rewrite(access, parse_profile(asked.profile), pieces, deadlines, pace, at_once=at_once)
    told = catalog_pb2.Rewritten(
        number=asked.number,
        profile=asked.profile,
        extent=None if done.extent is None else extent_to_message(done.extent),
        extents=[extent.id for extent in asked.extents],
        unread=sorted(done.unread),
    )
    for index, (place, value) in sorted(done.places.items()):
        piece = asked.pieces[index]
        told.pieces.add(extent=piece.extent, offset=piece.offset, length=piece.length, place=place, sum=value)
    error = ""
    if done.error is not None:
        error = str(done.error)
        log.warning("not all of a rewrite was done: %s", error)
        if not done.places:
            told.code = done.error.code
    return Carried(catalog_pb2.TaskResult(rewritten=told, error=error), done.read, done.written)


async def _catch_up(access: ClusterAccess, task: catalog_pb2.Task, deadline: Deadline) -> None:
    """Have a map that is as new as the one that the task was given by."""
    if access.map.epoch < task.epoch:
        await access.refresh(task.epoch - 1, deadline)


def _pieces(message: catalog_pb2.Rewrite) -> list[Piece]:
    """InvalidArgument for pieces of extents that are not given, or outside of them."""
    extents = [extent_from_message(extent) for extent in message.extents]
    pieces = []
    for piece in message.pieces:
        if piece.extent >= len(extents) or not piece.length:
            raise InvalidArgument("a piece of nothing that is given")
        if piece.offset + piece.length > extents[piece.extent].size:
            raise InvalidArgument("a piece outside of its extent")
        pieces.append(Piece(extents[piece.extent], piece.offset, piece.length))
    return pieces
