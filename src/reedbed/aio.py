"""The asynchronous SDK: `async with reedbed.aio.connect(...) as store`."""

from __future__ import annotations

from reedbed.client.connect import connect_async as connect
from reedbed.client.files import ObjectReader, ObjectWriter
from reedbed.client.store import AsyncStore

__all__ = ["AsyncStore", "ObjectReader", "ObjectWriter", "connect"]
