"""How long data shards are that nobody lists: a parity shard holds the tables of all of them."""

from __future__ import annotations

from collections.abc import Sequence

from reedbed.common.clock import Deadline
from reedbed.common.errors import Corrupt, InvalidArgument, rebuild
from reedbed.common.ids import Id, format_id
from reedbed.extents.blocks import unpack_table
from reedbed.extents.context import ClusterAccess
from reedbed.protos import convert, storage_pb2
from reedbed.protos.methods import READ_SHARDS
from reedbed.protos.types import Device


async def ask_lengths(
    access: ClusterAccess,
    device: Device,
    extent: Id,
    index: int,
    shards: Sequence[int],
    parity: int,
    deadline: Deadline,
) -> dict[int, int]:
    """The lengths of these data shards, by the tables of parity shard `index`, which has `parity` bytes.

    Raises what the device raises, and Corrupt for an answer that cannot be right.
    """
    where = f"shard {index} of extent {format_id(extent)}, from device {device.number} at {device.address}"
    request = storage_pb2.ReadShardsRequest(
        reads=[
            storage_pb2.ShardRange(
                device=device.number, extent=extent, index=index, rows_of=shards, rows_start=0, rows_end=parity
            )
        ]
    )
    reply = await access.call(device, READ_SHARDS, request.SerializeToString(), deadline=deadline)
    try:
        message = convert.parse(storage_pb2.ReadShardsReply, reply.header)
    except InvalidArgument as error:
        raise Corrupt(f"the answer does not parse: {error.what}", where=where) from error
    if len(message.results) != 1:
        raise Corrupt(f"{len(message.results)} results for one read", where=where)
    result = message.results[0]
    if result.failed:
        raise rebuild(result.code, result.what, where=where)
    tables = {rows.shard: unpack_table(rows.table) for rows in result.data_rows}
    lengths = {shard: sum(length for length, _ in tables.get(shard, ())) for shard in shards}
    if not set(shards) <= tables.keys() or any(length > parity for length in lengths.values()):
        raise Corrupt("the tables given are not those of the data shards", where=where)
    return lengths
