"""128-bit ids of versions, deletes, copies, uploads and extents.

Layout, big-endian, so that bytewise order is time order:

    bytes 0..5    milliseconds of the catalog's id clock (never a client's clock)
    bytes 6..11   number of the block that the catalog leased
    bytes 12..15  counter, by the client that holds the block

The catalog leases the first twelve bytes (a block); whoever holds it counts up the last four. The horizon is an id as
well: everything below it is settled (see the design's invariant 8).
"""

from __future__ import annotations

from typing import Final, NewType

from reedbed.common.errors import InvalidArgument, ResourceExhausted

Id = NewType("Id", bytes)

ID_BYTES: Final = 16
BLOCK_BYTES: Final = 12
NO_ID: Final = Id(bytes(ID_BYTES))


def make_block(time_ms: int, block: int) -> bytes:
    """The twelve bytes that name a leased block."""
    return time_ms.to_bytes(6, "big") + block.to_bytes(6, "big")


def id_time_ms(id_: Id) -> int:
    """The id clock's milliseconds when the block of this id was leased."""
    return int.from_bytes(id_[:6], "big")


def format_id(id_: bytes) -> str:
    """32 lower-case hexadecimal digits."""
    return id_.hex()


def parse_id(text: str) -> Id:
    """The id that `format_id` wrote; InvalidArgument for anything else."""
    try:
        raw = bytes.fromhex(text) if len(text) == 2 * ID_BYTES else b""
    except ValueError:
        raw = b""
    if len(raw) != ID_BYTES:
        raise InvalidArgument(f"not an id: {text[:64]!r}", hint="An id is 32 hexadecimal digits")
    return Id(raw)


def check_id(raw: bytes, what: str = "id") -> Id:
    """`raw` as an id, InvalidArgument if it is not 16 bytes long. For input from outside."""
    if len(raw) != ID_BYTES:
        raise InvalidArgument(f"{what} has {len(raw)} bytes instead of {ID_BYTES}")
    return Id(raw)


class IdBlock:
    """Ids of one leased block, each handed out once. Not for several threads."""

    def __init__(self, prefix: bytes, count: int) -> None:
        if len(prefix) != BLOCK_BYTES or not 0 < count <= 1 << 32:
            raise InvalidArgument(f"bad id block of {len(prefix)} bytes and {count} ids")
        self._prefix = prefix
        self._next = 0
        self._count = count

    @property
    def left(self) -> int:
        return self._count - self._next

    def take(self) -> Id:
        """The next id; ResourceExhausted when the block is used up."""
        if self._next >= self._count:
            raise ResourceExhausted("id block is used up")
        counter = self._next
        self._next += 1
        return Id(self._prefix + counter.to_bytes(4, "big"))
