"""The one place where messages become our types and our types messages. What comes from outside is checked here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from reedbed.common import limits
from reedbed.common.checksums import format_checksum
from reedbed.common.errors import InvalidArgument, ReedbedError, rebuild
from reedbed.common.ids import check_id, format_id
from reedbed.protos import catalog_pb2, lane_pb2, storage_pb2
from reedbed.protos.types import (
    Ack,
    BucketInfo,
    CatalogNote,
    ClusterMap,
    Device,
    DeviceState,
    Extent,
    Labels,
    MapChange,
    ObjectInfo,
    PlacementGroup,
    Position,
    Slice,
    from_us,
    told_later,
)

M = TypeVar("M", bound=Message)

_STATES = ("up", "down", "out", "failed")


def parse(kind: type[M], data: bytes) -> M:
    """The message in `data`; InvalidArgument if it is cut short or altered beyond what the format can be."""
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise InvalidArgument(
            f"not a {kind.__name__}: {len(data)} bytes that do not parse", hint="Check that both sides are Reedbed"
        ) from None
    return message


def error_to_message(error: ReedbedError) -> lane_pb2.Error:
    return lane_pb2.Error(
        code=error.code,
        what=error.what,
        where=error.where,
        hint=error.hint,
        retryable=error.retryable,
        maybe_applied=error.maybe_applied,
    )


def error_from_message(message: lane_pb2.Error) -> ReedbedError:
    return rebuild(message.code, message.what, message.where, message.hint, message.retryable, message.maybe_applied)


def slice_to_message(slice_: Slice) -> catalog_pb2.Slice:
    return catalog_pb2.Slice(extent=slice_.extent, offset=slice_.offset, length=slice_.length)


def slice_from_message(message: catalog_pb2.Slice) -> Slice:
    if message.length < 1 or message.offset + message.length > limits.K_MAX * limits.SHARD_MAX:
        raise InvalidArgument(f"slice of {message.length} bytes at {message.offset} is outside of any extent")
    return Slice(check_id(message.extent, "extent id"), message.offset, message.length)


def extent_to_message(extent: Extent) -> catalog_pb2.Extent:
    return catalog_pb2.Extent(
        id=extent.id,
        k=extent.k,
        m=extent.m,
        pg=extent.pg,
        generation=extent.generation,
        lengths=extent.lengths,
        present=extent.present,
        acks=[
            catalog_pb2.Ack(position=ack.position, device=ack.device, incarnation=ack.incarnation)
            for ack in extent.acks
        ],
    )


def extent_from_message(message: catalog_pb2.Extent) -> Extent:
    k, m = message.k, message.m
    if not (1 <= k <= limits.K_MAX and 1 <= m <= limits.M_MAX):
        raise InvalidArgument(f"extent with impossible profile {k}+{m}")
    if len(message.lengths) != k or any(length > limits.SHARD_MAX for length in message.lengths):
        raise InvalidArgument(f"extent with bad shard lengths for {k} data shards")
    if message.present >> (k + m) or any(ack.position >= k + m for ack in message.acks):
        raise InvalidArgument(f"extent that names positions beyond its {k + m}")
    return Extent(
        id=check_id(message.id, "extent id"),
        k=k,
        m=m,
        pg=message.pg,
        generation=message.generation,
        lengths=tuple(message.lengths),
        present=message.present,
        acks=tuple(Ack(ack.position, ack.device, ack.incarnation) for ack in message.acks),
    )


def text_of(key: bytes) -> str:
    """A key's text; bytes that are not UTF-8 are kept as surrogates."""
    try:
        return key.decode()  # without a handler for errors it takes a tenth of the time
    except UnicodeDecodeError:
        return key.decode("utf-8", "surrogateescape")


def info_from_message(message: catalog_pb2.ObjectInfo) -> ObjectInfo:
    """What the message tells, each field when it is asked for. Of the answer that it came in nothing else is kept."""
    return told_later(text_of(message.key), _info_field, [message.SerializeToString()])


def _info_field(told: list[Any], name: str) -> Any:
    message = told[0]
    if isinstance(message, bytes):
        message = told[0] = catalog_pb2.ObjectInfo.FromString(message)
    find = _INFO_FIELDS.get(name)
    return getattr(message, name) if find is None else find(message)


_INFO_FIELDS: Final[Mapping[str, Callable[[catalog_pb2.ObjectInfo], Any]]] = {
    "version": lambda message: format_id(message.version),
    "checksum": lambda message: format_checksum(message.checksum),
    "content_type": lambda message: message.content_type or None,
    "metadata": lambda message: dict(message.metadata),
    "last_modified": lambda message: from_us(message.modified_us),
    "actual_profiles": lambda message: tuple(message.actual_profiles),
}


def bucket_from_message(message: catalog_pb2.Bucket) -> BucketInfo:
    return BucketInfo(message.name, message.versioned, message.profile, from_us(message.created_us))


def device_to_message(device: Device) -> catalog_pb2.Device:
    return catalog_pb2.Device(
        number=device.number,
        uuid=device.uuid,
        address=device.address,
        state=device.state,
        labels=catalog_pb2.Labels(host=device.labels.host, rack=device.labels.rack, zone=device.labels.zone),
        incarnation=device.incarnation,
        capacity=device.capacity,
        used=device.used,
    )


def device_from_message(message: catalog_pb2.Device) -> Device:
    if message.state not in _STATES:
        raise InvalidArgument(f"device {message.number} in unknown state {message.state[:32]!r}")
    return Device(
        number=message.number,
        uuid=message.uuid,
        address=message.address,
        state=cast(DeviceState, message.state),
        labels=labels_from_message(message.labels),
        incarnation=message.incarnation,
        capacity=message.capacity,
        used=message.used,
    )


def labels_from_message(message: catalog_pb2.Labels) -> Labels:
    return Labels(message.host, message.rack, message.zone)


def pg_to_message(pg: PlacementGroup) -> catalog_pb2.PlacementGroup:
    return catalog_pb2.PlacementGroup(
        id=pg.id,
        k=pg.k,
        m=pg.m,
        generation=pg.generation,
        positions=[catalog_pb2.Position(device=place.device, source=place.source) for place in pg.positions],
    )


def pg_from_message(message: catalog_pb2.PlacementGroup) -> PlacementGroup:
    if len(message.positions) != message.k + message.m:
        raise InvalidArgument(f"PG {message.id} has {len(message.positions)} positions for {message.k}+{message.m}")
    return PlacementGroup(
        id=message.id,
        k=message.k,
        m=message.m,
        generation=message.generation,
        positions=tuple(Position(place.device, place.source) for place in message.positions),
    )


def change_to_message(change: MapChange) -> catalog_pb2.MapDelta:
    return catalog_pb2.MapDelta(
        base=change.base,
        epoch=change.epoch,
        cluster=change.cluster,
        devices=[device_to_message(device) for device in change.devices],
        removed_devices=change.removed_devices,
        pgs=[pg_to_message(pg) for pg in change.pgs],
        removed_pgs=change.removed_pgs,
        default_profile=change.default_profile,
        level=change.level,
    )


def change_from_message(message: catalog_pb2.MapDelta) -> MapChange:
    return MapChange(
        base=message.base,
        epoch=message.epoch,
        cluster=message.cluster,
        devices=tuple(device_from_message(device) for device in message.devices),
        removed_devices=tuple(message.removed_devices),
        pgs=tuple(pg_from_message(pg) for pg in message.pgs),
        removed_pgs=tuple(message.removed_pgs),
        default_profile=message.default_profile,
        level=message.level,
    )


def whole_map(map_: ClusterMap) -> MapChange:
    """The change that makes this map out of nothing."""
    return MapChange(
        base=0,
        epoch=map_.epoch,
        cluster=map_.cluster,
        devices=tuple(map_.devices.values()),
        pgs=tuple(map_.pgs.values()),
        default_profile=map_.default_profile,
        level=map_.level,
    )


def note_to_message(note: CatalogNote) -> storage_pb2.CatalogNote:
    return storage_pb2.CatalogNote(
        term=note.term,
        version=note.version,
        endpoint=note.endpoint,
        log_term=note.log[0],
        log_seq=note.log[1],
        redo=note.redo,
        settled=note.settled,
        begin=note.begin or b"",
        id_bound_ms=note.id_bound_ms,
    )


def note_from_message(message: storage_pb2.CatalogNote) -> CatalogNote | None:
    """The note; None for a message of a daemon that has heard of no catalog. InvalidArgument."""
    if not message.term:
        return None
    if len(message.endpoint) > limits.ADDRESS_MAX or message.id_bound_ms >= 1 << 48:
        raise InvalidArgument("a catalog's note that no catalog can have written")
    return CatalogNote(
        term=message.term,
        version=message.version,
        endpoint=message.endpoint,
        log=(message.log_term, message.log_seq),
        redo=message.redo,
        settled=message.settled,
        begin=check_id(message.begin, "extent id") if message.begin else None,
        id_bound_ms=message.id_bound_ms,
    )


def extents_by_id(messages: Iterable[catalog_pb2.Extent]) -> dict[bytes, Extent]:
    """The extents of an answer, by id."""
    return {message.id: extent_from_message(message) for message in messages}
