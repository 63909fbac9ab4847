"""128-bit ids of versions, deletes, copies, uploads and extents.

Layout, big-endian, so that bytewise order is time order:

    bytes 0..5    milliseconds of the catalog's id clock (never a client's clock)
    bytes 6..11   number of the block that the catalog leased
    bytes 12..15  counter, by the client that holds the block

The catalog leases the first twelve bytes (a block); whoever holds it counts up the last four. The horizon is an id as
well: everything below it is settled (see the design's invariant 8).

The two highest bits of a block's number tell whose it is: 00 a client's, 10 the catalog's own for its redo stream, 11
for its snapshots. So the extents of the catalog's copy are found by their ids alone, without any catalog.
"""

from __future__ import annotations

from typing import Final, NewType

from reedbed.common.errors import InvalidArgument, ResourceExhausted

Id = NewType("Id", bytes)

ID_BYTES: Final = 16
BLOCK_BYTES: Final = 12
NO_ID: Final = Id(bytes(ID_BYTES))
BLOCKS_MAX: Final = 1 << 46  # numbers of blocks, without the two bits
CLIENTS: Final = 0
STREAM: Final = 2
SNAPSHOT: Final = 3


def make_block(time_ms: int, block: int, owner: int = CLIENTS) -> bytes:
    """The twelve bytes that name a leased block; `owner` is CLIENTS, STREAM or SNAPSHOT."""
    assert block < BLOCKS_MAX, block
    return time_ms.to_bytes(6, "big") + (owner << 46 | block).to_bytes(6, "big")


def owner_of(id_: bytes) -> int:
    """Whose block the id is from."""
    return id_[6] >> 6


def is_system(id_: bytes) -> bool:
    """Whether the extent of this id is one of the catalog's copy."""
    return owner_of(id_) in (STREAM, SNAPSHOT)


def after_block(id_: bytes) -> Id:
    """The highest id of this one's block."""
    return Id(id_[:BLOCK_BYTES] + b"\xff" * (ID_BYTES - BLOCK_BYTES))


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
