"""What the shard store takes and gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from reedbed.common.checksums import Buffer
from reedbed.common.clock import Deadline
from reedbed.common.ids import Id


@dataclass(slots=True)
class PutShard:
    """One shard to store; not to be changed (to be frozen costs more than all of its checks).

    table: the block table (extents/blocks.py); lengths add up to the payload.
    payload: the bytes, in any number of buffers, which must not change until the put is done.
    data_tables: in a parity shard (index >= k) the tables of all k data shards, empty ones included; else nothing.
    log_term, log_seq: the highest log position that the writer knows.
    deadline: after it a put that is not appended yet is dropped with DeadlineExceeded.
    """

    extent: Id
    index: int
    k: int
    m: int
    pg: int
    generation: int
    table: bytes
    payload: Sequence[Buffer]
    data_tables: Sequence[bytes] = ()
    log_term: int = 0
    log_seq: int = 0
    deadline: Deadline | None = None


@dataclass(slots=True)
class ReadShard:
    """A range of one shard.

    data_rows_of: data shards whose block rows a parity shard is asked for, over the range, or over `rows_range`
    (offset, length) where that is given (with length 0 no bytes are read, only rows). into: memory for the range and
    what of its first and last block lies around it, which the result refers to then.
    """

    extent: Id
    index: int
    offset: int
    length: int
    data_rows_of: Sequence[int] = ()
    rows_range: tuple[int, int] | None = None
    into: memoryview | None = None


class Rows(NamedTuple):
    """Rows of a block table, packed as in extents/blocks.py. The first belongs to block `first_block`, whose bytes
    begin at `offset` of its shard, or at the range that was asked for."""

    first_block: int = 0
    offset: int = 0
    table: bytes = b""


@dataclass(slots=True)
class ReadResult:
    """Bytes of a range and the rows that cover exactly them.

    rows: the row of a piece of a block has the piece's length and a sum of the piece alone, seeded with the block's
    place. data_rows: for each data shard that was asked for, the whole blocks that overlap the range.
    shard_length: of the shard's payload, bytes.
    """

    extent: Id
    index: int
    offset: int
    data: Buffer
    rows: Rows
    shard_length: int
    generation: int
    data_rows: Mapping[int, Rows] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RemoveOrder:
    """An order to remove a shard that was put under this generation of its PG or an older one."""

    extent: Id
    index: int
    pg: int
    generation: int


class Removal(Enum):
    """What an order did: removed now, nothing there (or not any more), kept: of a later generation or another PG; or
    nothing, since the index cannot tell where the shard is until it is made again."""

    REMOVED = "removed"
    UNKNOWN = "unknown"
    KEPT = "kept"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One row of a listing."""

    extent: Id
    index: int
    k: int
    m: int
    pg: int
    generation: int
    length: int


@dataclass(frozen=True, slots=True)
class Damage:
    """A shard whose bytes no longer match. block: the bad one, -1 if the record itself is bad. when: wall time.

    segment, offset: where its record lies.
    """

    extent: Id
    index: int
    block: int
    when: float
    segment: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class BadRegion:
    """Bytes of a segment that are no record, or too few bytes where a record was. when: wall time.

    settled: a whole pass of the scrubber has seen to what lay in it.
    """

    segment: int
    offset: int
    length: int
    when: float
    settled: bool = False


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """The state of a device. Bytes: `used` by shards and their records, `free` for new ones, `capacity` in all."""

    device: str
    cluster: str
    incarnation: int
    term: int
    used: int
    free: int
    capacity: int
    shards: int
    segments: int
    damaged: int
    bad_regions: int
    failed: str
    log_position: tuple[int, int]
    queued_bytes: int
    counters: dict[str, int]
