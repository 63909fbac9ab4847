"""The cluster's calls as a table of handlers: messages in, messages out, no decision."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from google.protobuf.message import Message

from reedbed.catalog.cluster import Cluster, HeartbeatAnswer, Report
from reedbed.catalog.compare_calls import CompareCalls, scrub_from, shards_from
from reedbed.catalog.keeping import LAST, Keeping, Result
from reedbed.catalog.mapstate import Registration
from reedbed.catalog.mending import Mended
from reedbed.catalog.notes import Notes
from reedbed.catalog.operating import operate
from reedbed.catalog.rewrite_messages import rewrite_to, rewritten_from
from reedbed.catalog.rewriting import Rewriting
from reedbed.catalog.warden import Warden
from reedbed.common.errors import InvalidArgument
from reedbed.common.ids import check_id
from reedbed.protos import catalog_pb2, methods
from reedbed.protos.convert import (
    change_to_message,
    extent_to_message,
    labels_from_message,
    note_from_message,
    note_to_message,
    parse,
)
from reedbed.protos.types import Ack
from reedbed.transport.lane import Request, Response

Handler = Callable[[Request], Awaitable[Response]]

UINT32_MAX: Final = (1 << 32) - 1
RESULTS_MAX: Final = 4096


def _response(message: Message) -> Response:
    return Response(message.SerializeToString())


class ClusterCalls:
    """Handlers of the calls under "cluster" in protos/methods.py."""

    def __init__(
        self,
        cluster: Cluster,
        keeping: Keeping,
        rewriting: Rewriting,
        comparing: CompareCalls,
        status: Callable[[], Mapping[str, object]],
        warden: Warden | None = None,
        notes: Notes | None = None,
    ) -> None:
        """`warden` hears what devices remember, and they are told the newest of `notes`."""
        self._warden = warden
        self._notes = notes
        self._cluster = cluster
        self._comparing = comparing
        self._keeping = keeping
        self._rewriting = rewriting
        self._status = status

    def handlers(self) -> dict[str, Handler]:
        """By method name."""
        return {
            **self._comparing.handlers(),
            methods.LEASE_IDS: self._lease,
            methods.GET_MAP: self._map,
            methods.ENSURE_PROFILE: self._ensure,
            methods.REGISTER_DEVICE: self._register,
            methods.HEARTBEAT: self._heartbeat,
            methods.TASKS: self._tasks,
            methods.OPERATE: self._operate,
            methods.CATALOG_STATUS: self._catalog_status,
        }

    async def _lease(self, request: Request) -> Response:
        parse(catalog_pb2.LeaseRequest, request.header)
        lease = await self._cluster.lease()
        return _response(
            catalog_pb2.LeaseReply(
                prefix=lease.prefix, count=lease.count, horizon=lease.horizon, good_for_ms=lease.good_for_ms
            )
        )

    async def _map(self, request: Request) -> Response:
        message = parse(catalog_pb2.MapRequest, request.header)
        return _response(change_to_message(self._cluster.since(message.epoch)))

    async def _ensure(self, request: Request) -> Response:
        message = parse(catalog_pb2.EnsureProfileRequest, request.header)
        return _response(change_to_message(await self._cluster.ensure_profile(message.profile)))

    async def _register(self, request: Request) -> Response:
        message = parse(catalog_pb2.RegisterDeviceRequest, request.header)
        device = await self._cluster.register(
            Registration(
                uuid=message.uuid,
                cluster=message.cluster,
                incarnation=message.incarnation,
                address=message.address,
                labels=labels_from_message(message.labels),
                capacity=message.capacity,
            )
        )
        _, term = self._cluster.position()
        return _response(
            catalog_pb2.RegisterDeviceReply(
                number=device.number,
                cluster=self._cluster.map.cluster,
                term=term,
                incarnation=device.incarnation,
                clean=device.incarnation > message.incarnation,
            )
        )

    async def _heartbeat(self, request: Request) -> Response:
        message = parse(catalog_pb2.HeartbeatRequest, request.header)
        reports = [
            Report(
                number=report.number,
                uuid=report.uuid,
                incarnation=report.incarnation,
                capacity=report.capacity,
                used=report.used,
                shards=report.shards,
                failed=report.failed,
                damaged=report.damaged,
                done=tuple(report.done),
                lost=shards_from(report.lost),
                scrub=scrub_from(report.scrub),
            )
            for report in message.devices
        ]
        notes = [(told.number, note_from_message(told.note)) for told in message.devices]
        if self._warden is not None:
            # who has been replaced, or is an old copy, has no say in what the device is, nor where: its map is old too
            self._warden.told(message.term, (note for _, note in notes))
        answer = _answer(await self._cluster.heartbeat(message.epoch, reports, message.address))
        if self._warden is not None:
            for number, note in notes:  # before any order goes out
                self._warden.heard(number, note)
            answer.restored = self._warden.base
        if self._notes is not None:
            answer.note.CopyFrom(note_to_message(self._notes.current()))
        answer.noted.extend(await self._comparing.noted(reports))
        devices = self._cluster.map.devices
        addresses = {device.address for report in reports if (device := devices.get(report.number)) is not None}
        answer.work = self._keeping.has_work(addresses) or self._rewriting.has_work(addresses, self._keeping.repairing)
        return _response(answer)

    async def _tasks(self, request: Request) -> Response:
        message = parse(catalog_pb2.TasksRequest, request.header)
        for what, count in (
            ("results", len(message.results)),
            ("tasks", len(message.held)),
            ("rewrites", len(message.rewriting)),
        ):
            if count > RESULTS_MAX:
                raise InvalidArgument(f"{count} {what} in one call are more than {RESULTS_MAX}")
        results = [
            Result(
                Mended(
                    check_id(result.extent, "extent id"),
                    tuple(Ack(ack.position, ack.device, ack.incarnation) for ack in result.acks),
                ),
                result.error,
                tuple(result.full),
            )
            for result in message.results
            if not result.HasField("rewritten")
        ]
        rewritten = [rewritten_from(result) for result in message.results if result.HasField("rewritten")]
        address, boot = self._keeping.process_of(list(message.devices)), message.boot
        held = {check_id(extent, "extent id") for extent in message.held}
        tasks = await self._keeping.exchange(address, boot, results, message.room, held)
        await self._rewriting.record(address, rewritten)
        rewrites = self._rewriting.take(
            address, boot, message.room - len(tasks), self._keeping.repairing, frozenset(message.rewriting)
        )
        epoch, _ = self._cluster.position()
        reply = catalog_pb2.TasksReply(floor=self._keeping.rates.floor, ceiling=self._keeping.rates.ceiling)
        for task in tasks:
            reply.tasks.add(
                extent=extent_to_message(task.extent),
                positions=task.positions,
                urgent=task.redundancy < LAST,
                epoch=epoch,
            )
        reply.tasks.extend(catalog_pb2.Task(epoch=epoch, rewrite=rewrite_to(rewrite)) for rewrite in rewrites)
        return _response(reply)

    async def _operate(self, request: Request) -> Response:
        message = parse(catalog_pb2.OperateRequest, request.header)
        done = await operate(self._keeping, self._rewriting, message.json)
        return _response(catalog_pb2.OperateReply(json=msgspec.json.encode(done)))

    async def _catalog_status(self, request: Request) -> Response:
        parse(catalog_pb2.CatalogStatusRequest, request.header)
        return _response(catalog_pb2.CatalogStatusReply(json=msgspec.json.encode(self._status())))


def _answer(answer: HeartbeatAnswer) -> catalog_pb2.HeartbeatReply:
    return catalog_pb2.HeartbeatReply(
        epoch=answer.epoch,
        term=answer.term,
        map=None if answer.map is None else change_to_message(answer.map),
        interval_ms=max(1, int(answer.interval_s * 1000)),
        write_lease_ms=min(UINT32_MAX, int(answer.write_lease_s * 1000)),
        orders=[
            catalog_pb2.RemoveOrder(
                number=order.number,
                device=order.device,
                extent=order.extent,
                index=order.index,
                pg=order.pg,
                generation=order.generation,
            )
            for order in answer.orders
        ],
    )
