"""What a gRPC status means to us, and which one we answer with. The only table between the two worlds.

Our own errors travel in frames; statuses appear only where there is no lane yet, or none any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import grpc

from reedbed.common.errors import (
    Cancelled,
    Corrupt,
    DeadlineExceeded,
    InvalidArgument,
    PermissionDenied,
    ReedbedError,
    ResourceExhausted,
    Unavailable,
    WrongCluster,
    WrongProtocol,
)

_S = grpc.StatusCode

FROM_STATUS: Final[Mapping[grpc.StatusCode, type[ReedbedError]]] = {
    _S.CANCELLED: Unavailable,  # by the server, as it stops; a cancelled caller never sees it
    _S.UNKNOWN: Unavailable,
    _S.INVALID_ARGUMENT: WrongProtocol,
    _S.DEADLINE_EXCEEDED: DeadlineExceeded,
    _S.NOT_FOUND: WrongProtocol,
    _S.PERMISSION_DENIED: PermissionDenied,
    _S.UNAUTHENTICATED: PermissionDenied,
    _S.RESOURCE_EXHAUSTED: ResourceExhausted,
    _S.FAILED_PRECONDITION: WrongCluster,
    _S.ABORTED: Unavailable,
    _S.UNIMPLEMENTED: WrongProtocol,
    _S.INTERNAL: Unavailable,  # a broken stream
    _S.UNAVAILABLE: Unavailable,
    _S.DATA_LOSS: Corrupt,
}

TO_STATUS: Final[Mapping[type[ReedbedError], grpc.StatusCode]] = {
    WrongCluster: _S.FAILED_PRECONDITION,
    WrongProtocol: _S.INVALID_ARGUMENT,
    InvalidArgument: _S.INVALID_ARGUMENT,
    PermissionDenied: _S.PERMISSION_DENIED,
    ResourceExhausted: _S.RESOURCE_EXHAUSTED,
    DeadlineExceeded: _S.DEADLINE_EXCEEDED,
    Corrupt: _S.DATA_LOSS,
    Cancelled: _S.CANCELLED,
    Unavailable: _S.UNAVAILABLE,
}

# gRPC says UNAVAILABLE for a peer that does not speak HTTP/2 as well; only its text tells
_NOT_HTTP2: Final = ("http1.x server", "HTTP/2", "http2", "Received http1", "settings frame", "SETTINGS", "handshake")
_NOT_TLS: Final = ("SSL", "TLS", "ssl_transport", "Ssl handshake", "certificate")


def error_from_status(code: grpc.StatusCode, details: str | None, where: str) -> ReedbedError:
    """The error that a status of gRPC means."""
    text = " ".join((details or "no details").split())[:300]
    cls = FROM_STATUS.get(code, Unavailable)
    hint = "Check that the daemon runs, and the address"
    if code is _S.UNAVAILABLE and any(mark in text for mark in _NOT_TLS):
        cls, hint = WrongProtocol, "Check that both sides use TLS, or neither, and trust each other's certificates"
    elif code is _S.UNAVAILABLE and any(mark in text for mark in _NOT_HTTP2):
        cls, hint = WrongProtocol, "Something else than a Reedbed daemon may listen there"
    elif cls is WrongProtocol:
        hint = "Something else than a Reedbed daemon may listen there"
    elif cls is ResourceExhausted:
        hint = "Try again a little later"
    elif cls is Corrupt:
        return Corrupt(f"gRPC {code.name}: {text}", where=where, retryable=True)  # only what was altered on the way
    return cls(f"gRPC {code.name}: {text}", where=where, hint=hint)


def status_of(error: ReedbedError) -> grpc.StatusCode:
    """The status that says the same as the error, or the nearest."""
    for cls in type(error).__mro__:
        if cls in TO_STATUS:
            return TO_STATUS[cls]
    return _S.UNKNOWN
