"""The calls of comparing.py as handlers: messages in, messages out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from reedbed.catalog.cluster import Cluster, Report, check_report
from reedbed.catalog.comparing import Comparing, Held, ShardKey
from reedbed.catalog.warden import Warden
from reedbed.common.errors import InvalidArgument
from reedbed.common.ids import Id, check_id
from reedbed.extents.digest import ShardsDigest
from reedbed.protos import catalog_pb2, methods
from reedbed.protos.convert import note_from_message, parse
from reedbed.transport.lane import Request, Response

Handler = Callable[[Request], Awaitable[Response]]

SHARDS_MAX: Final = 8192  # of one call


def shards_from(messages: Iterable[catalog_pb2.ShardRef]) -> tuple[ShardKey, ...]:
    """InvalidArgument for too many, and for ids of a wrong length."""
    found = tuple((check_id(message.extent, "extent id"), message.index) for message in messages)
    if len(found) > SHARDS_MAX:
        raise InvalidArgument(f"{len(found)} shards in one call are more than {SHARDS_MAX}")
    return found


def scrub_from(message: catalog_pb2.ScrubReport) -> Mapping[str, object]:
    """As status tells it; nothing of a device without a scrubber."""
    if not message.phase:
        return {}
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}


class CompareCalls:
    """Handlers of the comparison, and what heartbeats report as lost."""

    def __init__(self, cluster: Cluster, comparing: Comparing, warden: Warden | None = None) -> None:
        self._cluster = cluster
        self._comparing = comparing
        self._warden = warden

    def handlers(self) -> dict[str, Handler]:
        """By method name."""
        return {methods.COMPARE: self._compare, methods.COMPARE_SHARDS: self._shards}

    async def noted(self, reports: Iterable[Report]) -> list[catalog_pb2.NotedShards]:
        """Note the lost shards of heartbeats that were accepted; the answer to them."""
        lost = {report.number: (report.incarnation, report.lost) for report in reports if report.lost}
        if not lost:
            return []
        return [
            catalog_pb2.NotedShards(
                device=device,
                shards=[catalog_pb2.ShardRef(extent=extent, index=index) for extent, index in shards],
            )
            for device, shards in (await self._comparing.lost(lost)).items()
            if shards
        ]

    async def _compare(self, request: Request) -> Response:
        message = parse(catalog_pb2.CompareRequest, request.header)
        self._check(message)
        horizon = self._comparing.below()
        if not message.below:
            return Response(catalog_pb2.CompareReply(below=horizon).SerializeToString())
        below = min(check_id(message.below), horizon)
        digests = {
            one.pg: ShardsDigest(one.count, int.from_bytes(check_id(one.sum, "digest"), "big"))
            for one in message.digests
        }
        differing = await self._comparing.differing(message.device, below, digests)
        return Response(catalog_pb2.CompareReply(below=below, differing=differing).SerializeToString())

    async def _shards(self, request: Request) -> Response:
        message = parse(catalog_pb2.CompareShardsRequest, request.header)
        self._check(message)
        if len(message.held) > SHARDS_MAX:
            raise InvalidArgument(f"{len(message.held)} shards in one call are more than {SHARDS_MAX}")
        compared = await self._comparing.shards(
            message.device,
            message.incarnation,
            check_id(message.below),
            message.pgs,
            check_id(message.after) if message.after else b"",
            check_id(message.upto) if message.upto else b"",
            [Held(check_id(one.extent, "extent id"), one.index, one.pg, one.length) for one in message.held],
            shards_from(message.absent),
        )
        return Response(
            catalog_pb2.CompareShardsReply(
                upto=compared.upto or b"",
                suspects=[catalog_pb2.ShardRef(extent=extent, index=index) for extent, index in compared.suspects],
                missing=compared.missing,
                garbage=compared.garbage,
                unknown=compared.unknown,
            ).SerializeToString()
        )

    def _check(self, message: catalog_pb2.CompareRequest | catalog_pb2.CompareShardsRequest) -> None:
        uuid = Id(message.uuid)
        check_report(self._cluster.map, Report(message.device, uuid, message.incarnation, capacity=0, used=0))
        if self._warden is not None:
            note = note_from_message(message.note)
            self._warden.heard(message.device, note, (message.log_term, message.log_seq))
