"""A store in a dict: what copying and planning ask of the SDK's asynchronous store, without a cluster.

`broken` names keys whose operations raise; `gate`, when set, holds every transfer until it is opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from reedbed.common.errors import NotFound, PreconditionFailed, ReedbedError
from reedbed.protos.names import encode_key
from reedbed.protos.types import CommonPrefix, ObjectInfo, etag_of

START = datetime(2026, 1, 1, 12, 0, 0, 123457, tzinfo=UTC)


class DictStore:
    """Objects by bucket and key; each commit is a second after the one before."""

    def __init__(self) -> None:
        self.buckets = {"data", "other", "empty"}
        self.objects: dict[tuple[str, str], tuple[bytes, datetime]] = {}
        self.versions: dict[tuple[str, str], str] = {}
        self.commits = 0
        self.broken: dict[str, ReedbedError] = {}
        self.gate: asyncio.Event | None = None
        self.under_way = 0
        self.begun = asyncio.Event()
        self.most_under_way = 0
        self.now = START

    def add(self, bucket: str, key: str, data: bytes, modified: datetime | None = None) -> ObjectInfo:
        encode_key(key)
        self.now += timedelta(seconds=1)
        self.objects[bucket, key] = (data, modified or self.now)
        self.commits += 1
        self.versions[bucket, key] = f"{self.commits:032x}"
        return self._info(bucket, key)

    def keys(self, bucket: str) -> list[str]:
        return sorted((key for where, key in self.objects if where == bucket), key=lambda key: key.encode())

    def data(self, bucket: str, key: str) -> bytes:
        return self.objects[bucket, key][0]

    def _info(self, bucket: str, key: str) -> ObjectInfo:
        data, modified = self.objects[bucket, key]
        version = self.versions[bucket, key]
        return ObjectInfo(bucket, key, len(data), version, "crc32c:AAAAAA==", None, {}, modified, "rs-4-2")

    async def _transfer(self, key: str) -> None:
        self.under_way += 1
        self.begun.set()
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.gate:
                await self.gate.wait()
            else:
                await asyncio.sleep(0)
            if key in self.broken:
                raise self.broken[key]
        finally:
            self.under_way -= 1

    async def list(self, bucket: str, prefix: str = "") -> AsyncIterator[ObjectInfo | CommonPrefix]:
        for key in self.keys(bucket):
            if key.startswith(prefix) and (bucket, key) in self.objects:
                yield self._info(bucket, key)

    async def stat(self, bucket: str, key: str) -> ObjectInfo:
        if (bucket, key) not in self.objects:
            raise NotFound(f"no object {key!r}")
        return self._info(bucket, key)

    async def stat_bucket(self, bucket: str) -> None:
        if bucket not in self.buckets:
            raise NotFound(f"no bucket {bucket!r}")

    async def put_file(
        self, bucket: str, key: str, path: Path, *, progress: Callable[[int], None] | None = None
    ) -> ObjectInfo:
        await self._transfer(key)
        data = await asyncio.to_thread(path.read_bytes)
        if progress:
            progress(len(data))
        return self.add(bucket, key, data)

    async def get_file(
        self, bucket: str, key: str, path: Path, *, progress: Callable[[int], None] | None = None
    ) -> ObjectInfo:
        await self._transfer(key)
        data = self.data(bucket, key)
        await asyncio.to_thread(path.write_bytes, data)
        if progress:
            progress(len(data))
        return self._info(bucket, key)

    async def copy(
        self, source_bucket: str, source_key: str, bucket: str, key: str, *, version: str | None = None
    ) -> ObjectInfo:
        await self._transfer(source_key)
        if version not in (None, self.versions.get((source_bucket, source_key))):
            raise NotFound("no such version")
        return self.add(bucket, key, self.data(source_bucket, source_key))

    async def delete(self, bucket: str, key: str, *, if_match: str | None = None) -> bool:
        await self._transfer(key)
        if if_match is not None and if_match != etag_of(self.versions[bucket, key]):
            raise PreconditionFailed("another etag")
        return self.objects.pop((bucket, key), None) is not None
