"""Frames as bytes on a framed stream. All numbers are little-endian.

    0   u32  sum: the CRC32C of all that follows in the frame, without a payload over 64 KiB
    4   u8   kind, as in protos/lane.proto
    5   u8   zero
    6   u16  length of the method's name
    8   u64  call
    16  u32  length of the header
    20  u32  length of this piece of the payload
    24  u64  length of the whole payload; of FRAME_CREDIT, FRAME_OPEN: the bytes
    32  u32  timeout in milliseconds, 0 for none
    36  u64  epoch
    44  u64  term
    52       method, header (of FRAME_ERROR: the message Error of protos/lane.proto), payload

Both ends begin a stream with a greeting (streams.py), whose last byte is followed by the first frame.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from reedbed.common.checksums import Buffer, crc32c
from reedbed.common.errors import Corrupt, InvalidArgument
from reedbed.common.limits import HEADER_MAX, KIB, PAYLOAD_MAX
from reedbed.protos import lane_pb2
from reedbed.protos.convert import error_from_message, error_to_message, parse
from reedbed.transport import frames
from reedbed.transport.frames import Frame
from reedbed.transport.mux import METHOD_MAX
from reedbed.transport.outbox import SMALL

HEAD: Final = 52

_HEAD: Final = struct.Struct("<BBHQIIQIQQ")
_IN: Final = struct.Struct("<IBBHQIIQIQQ")
_SUM: Final = struct.Struct("<I")
_AMOUNTS: Final = (frames.CREDIT, frames.OPEN)
_KINDS: Final = range(frames.REQUEST, frames.OPEN + 1)
_NAME_MAX: Final = 4 * METHOD_MAX  # in UTF-8: a name over METHOD_MAX is the mux's to refuse

assert HEAD == _IN.size == _HEAD.size + _SUM.size
assert SMALL == 64 * KIB  # part of the format


def encode(batch: Iterable[Frame]) -> list[Buffer]:
    """The frames' bytes, in pieces to be written in order. Payloads over 64 KiB are referred to, all else is copied."""
    parts: list[Buffer] = []
    small: list[Buffer] = []  # to be joined
    for frame in batch:
        header = frame.header if frame.error is None else error_to_message(frame.error).SerializeToString()
        method = frame.method.encode()
        payload = frame.payload
        piece = sum(map(len, payload)) if payload else 0
        head = _HEAD.pack(
            frame.kind,
            0,
            len(method),
            frame.call,
            len(header),
            piece,
            frame.credit or frame.payload_length,
            frame.timeout_ms,
            frame.epoch,
            frame.term,
        )
        body = b"".join((head, method, header, *payload)) if piece <= SMALL else b"".join((head, method, header))
        small.append(_SUM.pack(crc32c(body)))
        small.append(body)
        if piece > SMALL:
            parts.append(b"".join(small))
            parts.extend(payload)
            small.clear()
    if small:
        parts.append(b"".join(small))
    return parts


class Head:
    """The first HEAD bytes of a frame, with what they say of its lengths."""

    __slots__ = ("_fields", "method", "piece", "small")

    def __init__(self, data: Buffer, at: int) -> None:
        """Corrupt for what can be no frame."""
        fields = self._fields = _IN.unpack_from(data, at)
        _, kind, zero, self.method, _, header, self.piece, _, _, _, _ = fields
        if kind not in _KINDS or zero or self.method > _NAME_MAX or header > _HEADER_MAX or self.piece > PAYLOAD_MAX:
            raise Corrupt("bytes that are no frame", retryable=True)
        # bytes of the frame, without a payload that is received by itself
        self.small = HEAD + self.method + header + (self.piece if self.piece <= SMALL else 0)

    def frame(self, data: memoryview, at: int) -> Frame:
        """The frame whose `small` bytes are at `at`. Corrupt if they were altered on the way."""
        value, kind, _, method, call, header, piece, amount, timeout, epoch, term = self._fields
        if crc32c(data[at + _SUM.size : at + self.small]) != value:
            raise Corrupt("a frame was altered on the way", retryable=True)
        begin = at + HEAD
        end = begin + method
        name = ""
        if method:
            try:
                name = str(data[begin:end], "utf-8")
            except UnicodeDecodeError:
                raise Corrupt("a method whose name is not UTF-8") from None
        body = bytes(data[end : end + header])
        frame = Frame(kind, call, name, body, (), amount, timeout, None, 0, epoch, term)
        if kind in _AMOUNTS:
            frame.credit = amount
        elif kind == frames.ERROR:
            try:
                frame.error = error_from_message(parse(lane_pb2.Error, body))
            except InvalidArgument:
                raise Corrupt("an error that cannot be read", retryable=True) from None
            frame.header = b""
        if piece and piece <= SMALL:
            frame.payload = (data[end + header : end + header + piece],)
            frame.passing = True
        return frame


# a header that is a little too long is the mux's to refuse, and tells its call why
_HEADER_MAX: Final = HEADER_MAX + KIB
