"""Reads as they come over lanes: what they ask of which device, and the message that answers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from reedbed.common.checksums import Buffer
from reedbed.common.errors import InvalidArgument, ReedbedError, ResourceExhausted
from reedbed.common.ids import check_id
from reedbed.common.limits import HEADER_MAX, K_MAX, KIB, PAYLOAD_MAX, POSITIONS_MAX
from reedbed.protos import storage_pb2
from reedbed.protos.convert import parse
from reedbed.storaged.calls import ReadResult, ReadShard, Rows

READS_PER_CALL: Final = 1024
ROWS_MAX: Final = HEADER_MAX // 2  # bytes of tables in one answer
_TEXT_MAX: Final = KIB  # characters of an error in an answer

assert READS_PER_CALL * _TEXT_MAX + ROWS_MAX < HEADER_MAX


class Asked:
    """The reads of one call, and what has come of them; what is wrong with one says nothing of the others."""

    def __init__(self, header: bytes, check: Callable[[int], object]) -> None:
        """`check` raises for a device that is not served here. InvalidArgument for more than one call may ask for."""
        message = parse(storage_pb2.ReadShardsRequest, header)
        reads = message.reads
        if len(reads) > READS_PER_CALL:
            raise InvalidArgument(f"{len(reads)} reads in one call, at most {READS_PER_CALL}")
        self.background: bool = message.background
        self.wanted = 0  # bytes
        self.by_device: dict[int, list[tuple[int, ReadShard]]] = {}
        self.results: list[ReadResult | ReedbedError | None] = []
        for at, read in enumerate(reads):
            self.wanted += read.length
            device = read.device
            try:
                check(device)
                self.by_device.setdefault(device, []).append((at, _read_shard(read)))
            except ReedbedError as error:
                self.results.append(error)
            else:
                self.results.append(None)
        if self.wanted > PAYLOAD_MAX:
            raise InvalidArgument(f"one call reads at most {PAYLOAD_MAX} bytes")

    def put(self, device: int, results: Sequence[ReadResult | ReedbedError]) -> None:
        """What has come of a device's reads, in order."""
        for (at, _), result in zip(self.by_device[device], results, strict=True):
            self.results[at] = result

    def answer(self) -> tuple[bytes, list[Buffer]]:
        """The answer, and the payload that goes with it. Results whose tables have no room any more are asked for
        again."""
        answer = storage_pb2.ReadShardsReply()
        payload: list[Buffer] = []
        tables = 0
        for result in self.results:
            assert result is not None
            if not isinstance(result, ReedbedError):
                tables += len(result.rows.table)
                if result.data_rows:
                    tables += sum(len(rows.table) for rows in result.data_rows.values())
                if tables > ROWS_MAX:
                    result = ResourceExhausted(
                        "the tables of all reads do not fit one answer", hint="Read less at once"
                    )
            if isinstance(result, ReedbedError):
                answer.results.add(failed=True, code=result.code, what=str(result)[:_TEXT_MAX])
                continue
            told = answer.results.add()
            told.shard_length = result.shard_length
            _fill(told.rows, result.index, result.rows)
            for shard, rows in sorted(result.data_rows.items()):
                _fill(told.data_rows.add(), shard, rows)
            if size := len(result.data):
                told.length = size
                payload.append(result.data)
        return answer.SerializeToString(), payload


def check_index(index: int) -> int:
    """InvalidArgument for what is no shard's."""
    if index >= POSITIONS_MAX:
        raise InvalidArgument(f"no profile has a shard {index}")
    return index


def _fill(message: storage_pb2.Rows, shard: int, rows: Rows) -> None:
    message.shard = shard
    message.first_block, message.offset, message.table = rows


def _read_shard(message: storage_pb2.ShardRange) -> ReadShard:
    extent, index = check_id(message.extent, "extent id"), check_index(message.index)
    rows_of = message.rows_of
    start, end = message.rows_start, message.rows_end
    if end < start:
        raise InvalidArgument(f"rows are asked from {start} to {end}")
    if not rows_of:
        return ReadShard(extent, index, message.offset, message.length)
    if any(shard >= K_MAX for shard in rows_of) or len(rows_of) > K_MAX:
        raise InvalidArgument("rows are asked of data shards that no profile has")
    return ReadShard(extent, index, message.offset, message.length, tuple(rows_of), (start, end - start))
