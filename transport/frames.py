"""Frames, and the bytes of a batch of them.

A batch is the message `Batch` of protos/lane.proto, byte for byte:

    0x0A, varint length, Frame                     for each frame
    Frame = its fields but the payload, then 0x2A, varint length, payload bytes
    0x7D, CRC32C                                   at the end, see sums.py

The sum leaves out payloads of 64 KiB and more: shards and ranges of them, whose blocks have sums from end to end. What
passes it is as it was sent. Small batches are left to protobuf. Large pieces of payload are cut out of, or put into,
the message by hand, since protobuf would copy each of them twice more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from reedbed.common.checksums import Buffer, crc32c
from reedbed.common.errors import Corrupt, ReedbedError
from reedbed.common.limits import FRAMES_MAX
from reedbed.protos import lane_pb2
from reedbed.protos.convert import error_from_message, error_to_message
from reedbed.transport.sums import SUM_BYTES, check_seal, seal

REQUEST: Final = 1
REPLY: Final = 2
ERROR: Final = 3
CHUNK: Final = 4
CANCEL: Final = 5
CREDIT: Final = 6
OPEN: Final = 7

FRAME_OVERHEAD: Final = 256  # bytes, at most, of a frame without header, payload, method and error

_LARGE: Final = 64 * 1024  # from here on the fast way pays, and a payload is left out of the sum
_VIEW_PART: Final = 4  # a payload may keep a message alive that is at most so many times larger
_FRAME_TAG: Final = 0x0A
_PAYLOAD_TAG: Final = 0x2A

assert (REQUEST, REPLY, ERROR, CHUNK, CANCEL, CREDIT, OPEN) == (
    lane_pb2.FRAME_REQUEST,
    lane_pb2.FRAME_REPLY,
    lane_pb2.FRAME_ERROR,
    lane_pb2.FRAME_CHUNK,
    lane_pb2.FRAME_CANCEL,
    lane_pb2.FRAME_CREDIT,
    lane_pb2.FRAME_OPEN,
)


@dataclass(slots=True)
class Frame:
    """One frame. `payload` is in pieces when it goes out, and at most one piece when it has come in.

    Of one that has come in: `placed` bytes of payload were received right into their place (End.place), and with
    `passing` the payload is there only while the frame is handed over.
    """

    kind: int
    call: int = 0
    method: str = ""
    header: bytes = b""
    payload: Sequence[Buffer] = ()
    payload_length: int = 0
    timeout_ms: int = 0
    error: ReedbedError | None = None
    credit: int = 0
    epoch: int = 0
    term: int = 0
    placed: int = 0
    passing: bool = False


def encode(frames: Iterable[Frame]) -> list[Buffer]:
    """The batch's bytes, in pieces to be joined or written in order. Payloads are referred to, not copied."""
    parts: list[Buffer] = []
    sum_ = 0
    for frame in frames:
        message = lane_pb2.Frame(
            kind=frame.kind,  # type: ignore[arg-type]
            call=frame.call,
            method=frame.method,
            header=frame.header,
            payload_length=frame.payload_length,
            timeout_ms=frame.timeout_ms,
            credit=frame.credit,
            epoch=frame.epoch,
            term=frame.term,
        )
        if frame.error is not None:
            message.error.CopyFrom(error_to_message(frame.error))
        body = message.SerializeToString()
        if frame.payload:
            length = sum(map(len, frame.payload))
            start = b"\x2a" + _varint(length)
            head = b"\x0a" + _varint(len(body) + len(start) + length) + body + start
            sum_ = crc32c(head, sum_)
            parts.append(head)
            parts.extend(frame.payload)
            if length < _LARGE:
                for piece in frame.payload:
                    sum_ = crc32c(piece, sum_)
        else:
            head = b"\x0a" + _varint(len(body)) + body
            sum_ = crc32c(head, sum_)
            parts.append(head)
    parts.append(seal(sum_))
    return parts


def decode(data: bytes) -> list[Frame]:
    """The frames of a batch; Corrupt if the bytes are no batch, or not as they were sent."""
    try:
        if len(data) >= _LARGE:
            return _decode_large(data)
        check_seal(data)
        messages = lane_pb2.Batch.FromString(data).frames
        if len(messages) > FRAMES_MAX:
            raise _too_many()
        return [_from_message(message) for message in messages]
    except (DecodeError, UnicodeDecodeError):
        raise _no_batch(data) from None


def _from_message(message: lane_pb2.Frame) -> Frame:
    payload = message.payload
    return Frame(
        message.kind,
        message.call,
        message.method,
        message.header,
        (payload,) if payload else (),
        message.payload_length,
        message.timeout_ms,
        error_from_message(message.error) if message.HasField("error") else None,
        message.credit,
        message.epoch,
        message.term,
    )


def _decode_large(data: bytes) -> list[Frame]:
    """The frames with large payloads as views of `data`. Corrupt where it is not what `encode` makes."""
    view = memoryview(data)
    found: list[tuple[int, int, tuple[int, int] | None]] = []  # where frames are, with their payloads in large ones
    holes: list[tuple[int, int]] = []
    at, end = 0, len(data) - SUM_BYTES
    while at < end:
        if data[at] != _FRAME_TAG:
            raise _no_batch(data)
        length, at = _read_varint(data, at + 1, end)
        stop = at + length
        if length < 0 or stop > end:
            raise _no_batch(data)
        payload = _find_payload(data, at, stop) if length >= _LARGE else None
        if payload is not None and payload[1] - payload[0] >= _LARGE:
            holes.append(payload)
        found.append((at, stop, payload))
        if len(found) > FRAMES_MAX:
            raise _too_many()
        at = stop
    check_seal(data, holes)
    return [_decode_frame(data, view, *where) for where in found]


def _find_payload(data: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Where the payload of a frame begins and ends."""
    at = start
    payload: tuple[int, int] | None = None
    while at < end:
        tag = data[at]
        if tag & 7 == 0 and tag < 0x80:
            value, at = _read_varint(data, at + 1, end)
            if value < 0:
                raise _no_batch(data)
        elif tag & 7 == 2 and tag < 0x80:
            length, at = _read_varint(data, at + 1, end)
            if length < 0 or at + length > end or (tag == _PAYLOAD_TAG and payload is not None):
                raise _no_batch(data)
            if tag == _PAYLOAD_TAG:
                payload = (at, at + length)
            at += length
        else:
            raise _no_batch(data)
    return payload


def _decode_frame(data: bytes, view: memoryview, start: int, end: int, payload: tuple[int, int] | None) -> Frame:
    """One frame, with a payload that was found in it cut out."""
    if payload is None:
        return _from_message(lane_pb2.Frame.FromString(view[start:end].tobytes()))
    at, stop = payload
    tag_at = at - 1 - len(_varint(stop - at))
    frame = _from_message(lane_pb2.Frame.FromString(view[start:tag_at].tobytes() + view[stop:end].tobytes()))
    piece: Buffer = view[at:stop]
    if len(piece) * _VIEW_PART < len(data):
        piece = bytes(piece)
    frame.payload = (piece,) if piece else ()
    return frame


def _no_batch(data: bytes) -> Corrupt:
    return Corrupt(f"{len(data)} bytes that are no batch of frames", retryable=True)


def _too_many() -> Corrupt:
    return Corrupt(f"a batch of more than {FRAMES_MAX} frames")


def _varint(value: int) -> bytes:
    if value < 0x80:
        return value.to_bytes(1, "little")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Value and the place behind it; value -1 if it is cut short or longer than 64 bits."""
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return -1, at
