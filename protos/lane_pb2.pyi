from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FrameKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FRAME_UNSPECIFIED: _ClassVar[FrameKind]
    FRAME_REQUEST: _ClassVar[FrameKind]
    FRAME_REPLY: _ClassVar[FrameKind]
    FRAME_ERROR: _ClassVar[FrameKind]
    FRAME_CHUNK: _ClassVar[FrameKind]
    FRAME_CANCEL: _ClassVar[FrameKind]
    FRAME_CREDIT: _ClassVar[FrameKind]
    FRAME_OPEN: _ClassVar[FrameKind]
FRAME_UNSPECIFIED: FrameKind
FRAME_REQUEST: FrameKind
FRAME_REPLY: FrameKind
FRAME_ERROR: FrameKind
FRAME_CHUNK: FrameKind
FRAME_CANCEL: FrameKind
FRAME_CREDIT: FrameKind
FRAME_OPEN: FrameKind

class HelloRequest(_message.Message):
    __slots__ = ("protocol", "cluster", "epoch", "software", "role", "streams", "sum")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    cluster: bytes
    epoch: int
    software: str
    role: str
    streams: int
    sum: int
    def __init__(self, protocol: _Optional[int] = ..., cluster: _Optional[bytes] = ..., epoch: _Optional[int] = ..., software: _Optional[str] = ..., role: _Optional[str] = ..., streams: _Optional[int] = ..., sum: _Optional[int] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("protocol", "cluster", "epoch", "term", "role", "software", "window", "max_calls", "max_payload", "streams", "ticket", "port", "sum")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    MAX_CALLS_FIELD_NUMBER: _ClassVar[int]
    MAX_PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    cluster: bytes
    epoch: int
    term: int
    role: str
    software: str
    window: int
    max_calls: int
    max_payload: int
    streams: _containers.RepeatedScalarFieldContainer[str]
    ticket: bytes
    port: int
    sum: int
    def __init__(self, protocol: _Optional[int] = ..., cluster: _Optional[bytes] = ..., epoch: _Optional[int] = ..., term: _Optional[int] = ..., role: _Optional[str] = ..., software: _Optional[str] = ..., window: _Optional[int] = ..., max_calls: _Optional[int] = ..., max_payload: _Optional[int] = ..., streams: _Optional[_Iterable[str]] = ..., ticket: _Optional[bytes] = ..., port: _Optional[int] = ..., sum: _Optional[int] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "what", "where", "hint", "retryable", "maybe_applied")
    CODE_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    MAYBE_APPLIED_FIELD_NUMBER: _ClassVar[int]
    code: str
    what: str
    where: str
    hint: str
    retryable: bool
    maybe_applied: bool
    def __init__(self, code: _Optional[str] = ..., what: _Optional[str] = ..., where: _Optional[str] = ..., hint: _Optional[str] = ..., retryable: _Optional[bool] = ..., maybe_applied: _Optional[bool] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("kind", "call", "method", "header", "payload", "payload_length", "timeout_ms", "error", "credit", "epoch", "term")
    KIND_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_LENGTH_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    kind: FrameKind
    call: int
    method: str
    header: bytes
    payload: bytes
    payload_length: int
    timeout_ms: int
    error: Error
    credit: int
    epoch: int
    term: int
    def __init__(self, kind: _Optional[_Union[FrameKind, str]] = ..., call: _Optional[int] = ..., method: _Optional[str] = ..., header: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., payload_length: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., credit: _Optional[int] = ..., epoch: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("frames", "sum")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[Frame]
    sum: int
    def __init__(self, frames: _Optional[_Iterable[_Union[Frame, _Mapping]]] = ..., sum: _Optional[int] = ...) -> None: ...
