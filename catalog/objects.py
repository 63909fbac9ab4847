"""The calls about buckets, objects, uploads and the log: checks limits, then hands over to the pure parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final, TypeVar

from google.protobuf.message import Message

from reedbed.catalog import buckets, commits, edit, listing, log, lookup, uploads
from reedbed.catalog.committer import Committer
from reedbed.catalog.engine import Engine, Reader, Writer
from reedbed.catalog.extents import Offers
from reedbed.catalog.needs import Needs
from reedbed.catalog.operations import slice_rows
from reedbed.common.errors import InvalidArgument, ReedbedError
from reedbed.common.ids import check_id
from reedbed.common.limits import COMMIT_OPS_MAX, LOG_WAIT_MAX_S, PAGE_MAX
from reedbed.protos import catalog_pb2 as pb
from reedbed.protos import convert, methods
from reedbed.transport.lane import Request, Response

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]

_INLINE_TARGETS: Final = 64  # a lookup of so few costs less than the way to a thread


class ObjectService:
    """`handlers` maps names of protos/methods.py to coroutines. Long reads run on `pool`, on the loop without one."""

    def __init__(
        self,
        engine: Engine,
        committer: Committer,
        needs: Needs,
        pool: Executor | None = None,
        committing: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        """`committing` goes around all that changes the log."""
        self._committing = committing
        self._engine = engine
        self._committer = committer
        self._needs = needs
        self._pool = pool
        self.handlers: Mapping[str, Handler] = {
            methods.COMMIT: self.commit,
            methods.LOOKUP: self.lookup,
            methods.SLICES: self.slices,
            methods.LIST: self.list,
            methods.LIST_VERSIONS: self.list_versions,
            methods.CREATE_BUCKET: self.create_bucket,
            methods.DELETE_BUCKET: self.delete_bucket,
            methods.STAT_BUCKET: self.stat_bucket,
            methods.LIST_BUCKETS: self.list_buckets,
            methods.BEGIN_UPLOAD: self.begin_upload,
            methods.REGISTER: self.register,
            methods.ABORT_UPLOAD: self.abort_upload,
            methods.LIST_UPLOADS: self.list_uploads,
            methods.READ_LOG: self.read_log,
        }

    def status(self) -> dict[str, int]:
        """Counters of the namespace and positions of the log."""
        return self._read_now(edit.status)

    async def commit(self, request: Request) -> Response:
        message = convert.parse(pb.CommitRequest, request.header)
        if len(message.ops) > COMMIT_OPS_MAX:
            raise InvalidArgument(f"{len(message.ops)} operations in one commit are more than {COMMIT_OPS_MAX}")
        # Deleting makes room, so it must work on a full disk
        urgent = all(op.WhichOneof("what") == "delete" for op in message.ops)
        async with self._committing():
            reply = await self._change(lambda now: commits.apply(now, message), max(1, len(message.ops)), urgent)
        return _response(reply)

    async def lookup(self, request: Request) -> Response:
        message = convert.parse(pb.LookupRequest, request.header)
        if len(message.targets) > PAGE_MAX:
            raise InvalidArgument(f"{len(message.targets)} targets in one lookup are more than {PAGE_MAX}")
        if len(message.targets) <= _INLINE_TARGETS:
            return _response(self._read_now(lambda reader: lookup.lookup(reader, message)))
        return _response(await self._read(lambda reader: lookup.lookup(reader, message)))

    async def slices(self, request: Request) -> Response:
        message = convert.parse(pb.SlicesRequest, request.header)
        return _response(
            await self._read(lambda reader: lookup.more_slices(reader, message, _page_size(message.limit)))
        )

    async def list(self, request: Request) -> Response:
        message = convert.parse(pb.ListRequest, request.header)

        def page(reader: Reader) -> pb.ListReply:
            return listing.page(
                reader,
                buckets.get(reader, message.bucket),
                limit=_page_size(message.limit),
                prefix=message.prefix,
                delimiter=message.delimiter,
                start_after=message.start_after,
                token=message.token,
                packed=message.packed,
            )

        return _response(await self._read(page))

    async def list_versions(self, request: Request) -> Response:
        message = convert.parse(pb.ListVersionsRequest, request.header)

        def page(reader: Reader) -> pb.ListReply:
            return listing.page_of_versions(
                reader,
                buckets.get(reader, message.bucket),
                limit=_page_size(message.limit),
                prefix=message.prefix,
                token=message.token,
            )

        return _response(await self._read(page))

    async def create_bucket(self, request: Request) -> Response:
        message = convert.parse(pb.CreateBucketRequest, request.header)
        async with self._committing():
            made = await self._change(lambda now: buckets.create(now, message.name, message.versioned, message.profile))
        return _response(made.to_message())

    async def delete_bucket(self, request: Request) -> Response:
        message = convert.parse(pb.BucketRequest, request.header)
        async with self._committing():
            await self._change(lambda now: buckets.delete(now, message.name), urgent=True)
        return _response(pb.Empty())

    async def stat_bucket(self, request: Request) -> Response:
        message = convert.parse(pb.BucketRequest, request.header)
        return _response(self._read_now(lambda reader: buckets.get(reader, message.name)).to_message())

    async def list_buckets(self, request: Request) -> Response:
        message = convert.parse(pb.ListBucketsRequest, request.header)
        found, more = await self._read(
            lambda reader: buckets.page(reader, message.start_after, _page_size(message.limit))
        )
        return _response(pb.ListBucketsReply(buckets=[bucket.to_message() for bucket in found], more=more))

    async def begin_upload(self, request: Request) -> Response:
        message = convert.parse(pb.BeginUploadRequest, request.header)
        upload_id = check_id(message.id, "upload id")
        await self._change(lambda now: uploads.begin(now, upload_id, message.bucket, message.key))
        return _response(pb.Empty())

    async def register(self, request: Request) -> Response:
        message = convert.parse(pb.RegisterRequest, request.header)
        upload_id = check_id(message.upload, "upload id")
        new = slice_rows(list(message.slices))
        given = [convert.extent_from_message(extent) for extent in message.extents]
        judge = self._needs.judge
        refused: list[ReedbedError] = []

        def register(now: edit.Edit) -> None:
            try:
                uploads.register(now, upload_id, message.first, new, Offers(judge, given))
            except ReedbedError as error:
                refused.append(error)
                raise

        try:
            await self._change(register, max(1, len(new)))
        except ReedbedError:
            if not refused:
                raise
            return _response(pb.RegisterReply(error=convert.error_to_message(refused[-1])))
        return _response(pb.RegisterReply())

    async def abort_upload(self, request: Request) -> Response:
        message = convert.parse(pb.AbortUploadRequest, request.header)
        upload_id = check_id(message.upload, "upload id")
        await self._change(lambda now: uploads.abort(now, upload_id), urgent=True)
        return _response(pb.Empty())

    async def list_uploads(self, request: Request) -> Response:
        message = convert.parse(pb.ListUploadsRequest, request.header)
        after = check_id(message.after, "upload id") if message.after else b""
        return _response(
            await self._read(
                lambda reader: uploads.page(
                    reader, buckets.get(reader, message.bucket), after, _page_size(message.limit)
                )
            )
        )

    async def read_log(self, request: Request) -> Response:
        """At the end of the log it waits up to `wait_ms`, without a transaction, for an entry."""
        message = convert.parse(pb.ReadLogRequest, request.header)
        after, limit = message.after, _page_size(message.limit)
        loop = asyncio.get_running_loop()
        until = loop.time() + min(message.wait_ms / 1000, LOG_WAIT_MAX_S)
        while True:
            seen = self._committer.count
            reply = await self._read(lambda reader: log.read(reader, after.term, after.seq, limit))
            left = until - loop.time()
            if reply.entries or left <= 0:
                return _response(reply)
            await self._committer.next_commit(seen, left)

    async def _change(self, change: Callable[[edit.Edit], T], weight: int = 1, urgent: bool = False) -> T:
        def apply(writer: Writer) -> T:
            now = edit.Edit(writer, self._needs)
            result = change(now)
            now.flush()
            return result

        return await self._committer.run(apply, weight=weight, urgent=urgent)

    def _read_now(self, look: Callable[[Reader], T]) -> T:
        with self._engine.read() as reader:
            return look(reader)

    async def _read(self, look: Callable[[Reader], T]) -> T:
        if self._pool is None:
            return self._read_now(look)
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read_now, look)


def _page_size(limit: int) -> int:
    return min(limit or PAGE_MAX, PAGE_MAX)


def _response(message: Message) -> Response:
    return Response(message.SerializeToString())
