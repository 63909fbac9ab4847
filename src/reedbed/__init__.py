"""Reedbed: a distributed object store with erasure coding, for people who compute in Python."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from reedbed import aio
    from reedbed.client.catalog import UploadInfo
    from reedbed.client.connect import connect
    from reedbed.client.store import AsyncStore
    from reedbed.client.sync_store import Store
    from reedbed.common.errors import (
        AlreadyExists,
        BelowHorizon,
        Cancelled,
        Corrupt,
        DamagedShard,
        DataLoss,
        DeadlineExceeded,
        DeviceFailed,
        DiskFull,
        ForkedStore,
        InvalidArgument,
        LogTrimmed,
        NewerFormat,
        NotEmpty,
        NotFound,
        PermissionDenied,
        PreconditionFailed,
        ReedbedError,
        ResourceExhausted,
        StaleGeneration,
        StaleTerm,
        Unavailable,
        UnknownShard,
        WrongCluster,
        WrongProtocol,
    )
    from reedbed.protos.types import BucketInfo, CommonPrefix, ObjectInfo
    from reedbed.transport.tls import TlsConfig

__all__ = [
    "AlreadyExists",
    "AsyncStore",
    "BelowHorizon",
    "BucketInfo",
    "Cancelled",
    "CommonPrefix",
    "Corrupt",
    "DamagedShard",
    "DataLoss",
    "DeadlineExceeded",
    "DeviceFailed",
    "DiskFull",
    "ForkedStore",
    "InvalidArgument",
    "LogTrimmed",
    "NewerFormat",
    "NotEmpty",
    "NotFound",
    "ObjectInfo",
    "PermissionDenied",
    "PreconditionFailed",
    "ReedbedError",
    "ResourceExhausted",
    "StaleGeneration",
    "StaleTerm",
    "Store",
    "TlsConfig",
    "Unavailable",
    "UnknownShard",
    "UploadInfo",
    "WrongCluster",
    "WrongProtocol",
    "__version__",
    "aio",
    "connect",
]

_HOMES = {
    "AsyncStore": "reedbed.client.store",
    "BucketInfo": "reedbed.protos.types",
    "CommonPrefix": "reedbed.protos.types",
    "ObjectInfo": "reedbed.protos.types",
    "Store": "reedbed.client.sync_store",
    "TlsConfig": "reedbed.transport.tls",
    "UploadInfo": "reedbed.client.catalog",
    "connect": "reedbed.client.connect",
}


def __getattr__(name: str) -> object:
    """Public names, imported on first use: a daemon must not pay for the SDK, nor the SDK for the daemons."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "aio":
        return importlib.import_module("reedbed.aio")
    value: object = getattr(importlib.import_module(_HOMES.get(name, "reedbed.common.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
