"""Rewrites as messages: what a worker is told, and what it says."""

from __future__ import annotations

from reedbed.catalog.gather import PIECES_MAX
from reedbed.catalog.records import SliceRow
from reedbed.catalog.rewriting import Rewrite, Rewritten
from reedbed.catalog.swaps import Moved
from reedbed.common.errors import InvalidArgument
from reedbed.common.ids import check_id
from reedbed.ec.profiles import parse_profile
from reedbed.protos import catalog_pb2
from reedbed.protos.convert import extent_from_message, extent_to_message


def rewrite_to(rewrite: Rewrite) -> catalog_pb2.Rewrite:
    index = {extent.id: number for number, extent in enumerate(rewrite.extents)}
    return catalog_pb2.Rewrite(
        number=rewrite.number,
        profile=rewrite.profile,
        extents=[extent_to_message(extent) for extent in rewrite.extents],
        pieces=[
            catalog_pb2.Piece(extent=index[piece.extent], offset=piece.offset, length=piece.length)  # type: ignore[index]
            for piece in rewrite.pieces
        ],
    )


def rewritten_from(result: catalog_pb2.TaskResult) -> Rewritten:
    """InvalidArgument for one that no task can have had."""
    message = result.rewritten
    if len(message.pieces) > PIECES_MAX or len(message.extents) > PIECES_MAX or len(message.unread) > PIECES_MAX:
        raise InvalidArgument(f"a rewrite with more than {PIECES_MAX} pieces")
    sources = [check_id(raw, "extent id") for raw in message.extents]
    if any(piece.extent >= len(sources) for piece in message.pieces):
        raise InvalidArgument("a piece of an extent that is not given")
    return Rewritten(
        number=message.number,
        profile=parse_profile(message.profile).name,
        extent=extent_from_message(message.extent) if message.HasField("extent") else None,
        moved=tuple(
            Moved(SliceRow(sources[piece.extent], piece.offset, piece.length), piece.place, piece.sum)
            for piece in message.pieces
        ),
        unread=tuple(check_id(raw, "extent id") for raw in message.unread),
        code=message.code,
        error=result.error,
    )
