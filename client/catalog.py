"""The catalog's calls with our types: what to ask and how to read the answers. Trying again is the link's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from reedbed.client.background import Background
from reedbed.client.known import Known
from reedbed.client.link import CatalogLink
from reedbed.client.lookups import LookupRounds
from reedbed.client.targets import Content, Target
from reedbed.common.clock import Clock, Deadline
from reedbed.common.errors import Corrupt, NotFound, ReedbedError, ResourceExhausted
from reedbed.common.ids import Id, format_id, parse_id
from reedbed.common.limits import PAGE_MAX, SLICES_CHUNK
from reedbed.ec.profiles import Profile, parse_profile
from reedbed.extents.wheel import Wheel
from reedbed.protos import catalog_pb2, listed, methods
from reedbed.protos.convert import (
    bucket_from_message,
    error_from_message,
    extent_from_message,
    extent_to_message,
    extents_by_id,
    info_from_message,
    slice_from_message,
    slice_to_message,
)
from reedbed.protos.types import BucketInfo, CommonPrefix, Extent, ObjectInfo, Slice, from_us

_EXTENTS_KEPT: Final = 4096
_PROFILE_GOOD_S: Final = 30.0  # a bucket may be deleted and made anew with another profile: then bytes are recoded

Deadlines = Callable[[], Deadline]  # a fresh deadline for each page of a listing


@dataclass(frozen=True, slots=True)
class UploadInfo:
    """A long upload that has begun and not ended. `bytes` counts the slices registered so far."""

    id: str
    bucket: str
    key: str
    started: datetime
    slices: int
    bytes: int


class Catalog:
    """Typed calls to the catalog, each within a deadline. All raise what the catalog raises, and what the link does."""

    def __init__(self, link: CatalogLink, clock: Clock, background: Background, wheel: Wheel) -> None:
        self._link = link
        self._clock = clock
        self._buckets: dict[str, tuple[float, BucketInfo, Profile]] = {}
        self._extents: dict[bytes, Extent] = {}  # by their messages: many objects name the same
        self._known = Known()
        self._contents = LookupRounds(self.lookup, True, background, wheel)
        self._infos = LookupRounds(self.lookup, False, background, wheel)

    # --- buckets ---

    async def create_bucket(
        self, name: str, versioned: bool, profile: Profile | None, deadline: Deadline
    ) -> BucketInfo:
        request = catalog_pb2.CreateBucketRequest(
            name=name, versioned=versioned, profile=profile.name if profile else ""
        )
        self._buckets.pop(name, None)
        reply = await self._link.call(methods.CREATE_BUCKET, request, catalog_pb2.Bucket, deadline, effect="once")
        return bucket_from_message(reply)

    async def delete_bucket(self, name: str, deadline: Deadline) -> None:
        self._buckets.pop(name, None)
        request = catalog_pb2.BucketRequest(name=name)
        await self._link.call(methods.DELETE_BUCKET, request, catalog_pb2.Empty, deadline, effect="once")

    async def stat_bucket(self, name: str, deadline: Deadline) -> BucketInfo:
        request = catalog_pb2.BucketRequest(name=name)
        info = bucket_from_message(await self._link.call(methods.STAT_BUCKET, request, catalog_pb2.Bucket, deadline))
        self._buckets[name] = (self._clock.monotonic(), info, parse_profile(info.profile))
        return info

    async def bucket_profile(self, name: str, deadline: Deadline) -> Profile:
        """What the bucket's objects are to be coded with, remembered for a while."""
        profile = self.known_profile(name)
        if profile is None:
            await self.stat_bucket(name, deadline)
            profile = self._buckets[name][2]
        return profile

    def known_profile(self, name: str) -> Profile | None:
        """`bucket_profile` if it is remembered."""
        known = self._buckets.get(name)
        if known is None or self._clock.monotonic() - known[0] > _PROFILE_GOOD_S:
            return None
        return known[2]

    def forget_bucket(self, name: str) -> None:
        """After an error that says that it is not as remembered."""
        self._buckets.pop(name, None)

    async def list_buckets(self, deadlines: Deadlines) -> AsyncIterator[list[BucketInfo]]:
        after = ""
        while True:
            request = catalog_pb2.ListBucketsRequest(start_after=after, limit=PAGE_MAX)
            reply = await self._link.call(methods.LIST_BUCKETS, request, catalog_pb2.ListBucketsReply, deadlines())
            yield [bucket_from_message(bucket) for bucket in reply.buckets]
            if not reply.more or not reply.buckets:
                return
            after = reply.buckets[-1].name

    # --- objects ---

    async def lookup(self, targets: Sequence[Target], slices: bool, deadline: Deadline) -> list[Content | ReedbedError]:
        """For each target its content (without slices unless asked for) or the error that it alone has."""
        known = [self._known.get(target) if slices else None for target in targets]
        request = catalog_pb2.LookupRequest(slices=slices)
        for target, before in zip(targets, known, strict=True):
            request.targets.append(target.message(before.token if before else b""))
        reply = await self._link.call(methods.LOOKUP, request, catalog_pb2.LookupReply, deadline)
        if len(reply.found) != len(targets):
            raise Corrupt(f"{len(reply.found)} answers to {len(targets)} lookups", where=self._link.endpoint)
        contents = [self._content(*asked) for asked in zip(targets, known, reply.found, strict=True)]
        late = [index for index, content in enumerate(contents) if isinstance(content, ResourceExhausted)]
        if late and late[0] > 0:  # the answer had room for those before
            rest = await self.lookup([targets[index] for index in late], slices, deadline)
            for index, content in zip(late, rest, strict=True):
                contents[index] = content
        return contents

    async def find(self, target: Target, slices: bool, deadline: Deadline) -> Content:
        """The content of one target; NotFound where there is none. Shares calls with others that are asked for now."""
        try:
            return await (self._contents if slices else self._infos).find(target, deadline)
        except NotFound:
            self.forget_bucket(target.bucket)
            raise

    def known(self, target: Target) -> Content | None:
        """What a lookup of it said last, if that is remembered: only a hint, see known.py."""
        return self._known.get(target)

    def doubt(self, target: Target) -> None:
        """What is known of it did not serve: the next lookup is not to confirm it."""
        self._known.forget(target)

    @property
    def quiet(self) -> bool:
        """No lookup waits or is under way."""
        return self._contents.idle

    async def more_slices(self, target: Target, first: int, deadline: Deadline) -> Content:
        """Slices of a version from index `first` on; the target names the version. `info` is not filled."""
        request = catalog_pb2.SlicesRequest(target=target.message(), first=first, limit=4 * SLICES_CHUNK)
        reply = await self._link.call(methods.SLICES, request, catalog_pb2.SlicesReply, deadline)
        slices = tuple(slice_from_message(message) for message in reply.slices)
        return Content(catalog_pb2.ObjectInfo(), slices, dict(extents_by_id(reply.extents)), reply.more)

    async def list_objects(
        self, bucket: str, prefix: bytes, delimiter: bytes, start_after: bytes, deadlines: Deadlines
    ) -> AsyncIterator[list[ObjectInfo | CommonPrefix]]:
        """Pages of a listing in the order of keys; each holds as of its own instant."""
        token = b""
        while True:
            request = catalog_pb2.ListRequest(
                bucket=bucket,
                prefix=prefix,
                delimiter=delimiter,
                start_after=start_after,
                limit=PAGE_MAX,
                token=token,
                packed=True,
            )
            reply = await self._link.call(methods.LIST, request, catalog_pb2.ListReply, deadlines())
            rows, token = page_of(bucket, reply)
            yield rows
            if not token:
                return

    async def list_versions(self, bucket: str, prefix: bytes, deadlines: Deadlines) -> AsyncIterator[list[ObjectInfo]]:
        """Pages of all versions, delete markers too: keys in order, the newest version of each first."""
        token = b""
        while True:
            request = catalog_pb2.ListVersionsRequest(bucket=bucket, prefix=prefix, limit=PAGE_MAX, token=token)
            reply = await self._link.call(methods.LIST_VERSIONS, request, catalog_pb2.ListReply, deadlines())
            yield [info_from_message(row.info) for row in reply.rows]
            token = reply.token
            if not token:
                return

    # --- uploads ---

    async def begin_upload(self, upload: Id, target: Target, deadline: Deadline) -> None:
        request = catalog_pb2.BeginUploadRequest(id=upload, bucket=target.bucket, key=target.key)
        await self._link.call(methods.BEGIN_UPLOAD, request, catalog_pb2.Empty, deadline, effect="same")

    async def register(
        self, upload: Id, first: int, slices: Sequence[Slice], extents: Sequence[Extent], deadline: Deadline
    ) -> None:
        """Pins extents until the upload ends; its slices count up from `first`."""
        request = catalog_pb2.RegisterRequest(
            upload=upload,
            first=first,
            slices=[slice_to_message(slice_) for slice_ in slices],
            extents=[extent_to_message(extent) for extent in extents],
        )
        reply = await self._link.call(methods.REGISTER, request, catalog_pb2.RegisterReply, deadline, effect="same")
        if reply.HasField("error"):
            raise error_from_message(reply.error)

    async def abort_upload(self, upload: Id, deadline: Deadline) -> None:
        request = catalog_pb2.AbortUploadRequest(upload=upload)
        await self._link.call(methods.ABORT_UPLOAD, request, catalog_pb2.Empty, deadline, effect="once")

    async def list_uploads(self, bucket: str, deadlines: Deadlines) -> AsyncIterator[list[UploadInfo]]:
        after = b""
        while True:
            request = catalog_pb2.ListUploadsRequest(bucket=bucket, after=after, limit=PAGE_MAX)
            reply = await self._link.call(methods.LIST_UPLOADS, request, catalog_pb2.ListUploadsReply, deadlines())
            yield [_upload(upload) for upload in reply.uploads]
            if not reply.more or not reply.uploads:
                return
            after = reply.uploads[-1].id

    # --- the whole ---

    async def status(self, deadline: Deadline) -> dict[str, Any]:
        """What catalogd says of itself and the cluster."""
        reply = await self._link.call(
            methods.CATALOG_STATUS, catalog_pb2.CatalogStatusRequest(), catalog_pb2.CatalogStatusReply, deadline
        )
        return self._object(reply.json)

    async def operate(self, order: dict[str, Any], deadline: Deadline, method: str = methods.OPERATE) -> dict[str, Any]:
        """Gives catalogd an operator's order, which may be given twice without harm; what came of it."""
        request = catalog_pb2.OperateRequest(json=json.dumps(order).encode())
        reply = await self._link.call(method, request, catalog_pb2.OperateReply, deadline, effect="same")
        return self._object(reply.json)

    async def backup(self, request: catalog_pb2.BackupRequest, deadline: Deadline) -> catalog_pb2.BackupReply:
        """One step of a backup of the catalog."""
        return await self._link.call(methods.BACKUP, request, catalog_pb2.BackupReply, deadline)

    def _content(self, target: Target, known: Content | None, found: catalog_pb2.Found) -> Content | ReedbedError:
        if found.unchanged:
            return known or Corrupt("nothing that was known is unchanged", where=self._link.endpoint)
        if found.HasField("error"):
            self._known.forget(target)
            return error_from_message(found.error)
        slices = tuple([slice_from_message(message) for message in found.slices])
        extents: dict[bytes, Extent] = {}
        for message in found.extents:
            raw = message.SerializeToString()
            extent = self._extents.get(raw)
            if extent is None:
                if len(self._extents) >= _EXTENTS_KEPT:
                    self._extents.clear()
                extent = self._extents[raw] = extent_from_message(message)
            extents[extent.id] = extent
        content = Content(found.info, slices, extents, found.more, found.token)
        if content.token:
            self._known.keep(target, content)
        return content

    def _object(self, raw: bytes) -> dict[str, Any]:
        try:
            told = json.loads(raw)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise Corrupt("the catalog's answer is not a JSON object", where=self._link.endpoint)
        return told


def page_of(bucket: str, reply: catalog_pb2.ListReply) -> tuple[list[ObjectInfo | CommonPrefix], bytes]:
    """The rows of a page and the token of the next one, empty at the end."""
    if reply.packed:
        return listed.unpack(bucket, reply.packed), reply.token
    return [_row(bucket, row) for row in reply.rows], reply.token


def _row(bucket: str, row: catalog_pb2.ListRow) -> ObjectInfo | CommonPrefix:
    if row.HasField("info"):
        return info_from_message(row.info)
    return CommonPrefix(bucket, row.prefix.decode("utf-8", "surrogateescape"))


def _upload(message: catalog_pb2.Upload) -> UploadInfo:
    key = message.key.decode("utf-8", "surrogateescape")
    id_ = format_id(message.id)
    return UploadInfo(id_, message.bucket, key, from_us(message.started_us), message.slices, message.bytes)


def version_of(info: ObjectInfo) -> Id:
    """The id of the version that an answer tells of."""
    return parse_id(info.version)
