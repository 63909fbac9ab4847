"""The cluster map as the catalog keeps it: its rows, its history of changes, and who may register. Pure but for rows.

Rows (numbers big-endian, so that they sort):

    c/cluster              JSON {"cluster": hex, "epoch": int, "level": str, "default_profile": str,
                           "next_device": int, "next_pg": int, "starts": of each of the newest terms in which the
                           map was changed [term, epoch and next_device before the first change], in order}
    c/d/<number u32>       a Device message
    c/p/<id u32>           a PlacementGroup message

"starts" tell maps that this catalog told from those of another one that began with the same folder (remap.py).

Invariants: every change of any of these rows raises the epoch in the same transaction; numbers of devices and PGs are
never given twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from reedbed.catalog.engine import Reader, Writer
from reedbed.catalog.leases import read_term
from reedbed.catalog.placement import LEVELS, Level, PlacedDevice, make_pgs, pg_count
from reedbed.common.checksums import crc32c
from reedbed.common.errors import (
    AlreadyExists,
    Corrupt,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
    ResourceExhausted,
    WrongCluster,
)
from reedbed.common.ids import ID_BYTES, format_id
from reedbed.common.limits import ADDRESS_MAX, DEVICES_MAX
from reedbed.ec.profiles import Profile, parse_profile
from reedbed.protos import catalog_pb2
from reedbed.protos.convert import (
    device_from_message,
    device_to_message,
    parse,
    pg_from_message,
    pg_to_message,
    whole_map,
)
from reedbed.protos.types import ClusterMap, Device, Labels, MapChange, PlacementGroup, Position

CLUSTER_ROW: Final = b"c/cluster"
DEVICE_ROWS: Final = b"c/d/"
PG_ROWS: Final = b"c/p/"
HISTORY_MAX: Final = 1000  # changes that are kept for deltas
STARTS_MAX: Final = 32
_AFTER: Final = b"\xff"


class Counters(msgspec.Struct, frozen=True):
    """What the map itself does not say: the next numbers to give."""

    next_device: int = 1
    next_pg: int = 1


class Start(msgspec.Struct, frozen=True, array_like=True):
    """A term in which the map was changed, and how the map was before."""

    term: int = 0
    epoch: int = 0
    next_device: int = 1


class _ClusterRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cluster: str
    epoch: int
    level: str
    default_profile: str
    next_device: int
    next_pg: int
    starts: tuple[Start, ...] = ()


def check_cluster_settings(level: str, default_profile: str) -> Level:
    """The level; InvalidArgument for a level or profile that does not exist."""
    parse_profile(default_profile)
    for known in LEVELS:
        if level == known:
            return known
    raise InvalidArgument(f"unknown failure domain {level[:32]!r}", hint=f"It is one of {', '.join(LEVELS)}")


def read_map(reader: Reader) -> tuple[ClusterMap, Counters] | None:
    """The stored map; None before the cluster was founded."""
    value = reader.get(CLUSTER_ROW)
    if value is None:
        return None
    try:
        row = msgspec.json.decode(value, type=_ClusterRow)
        cluster = bytes.fromhex(row.cluster)
        devices = [
            device_from_message(parse(catalog_pb2.Device, raw))
            for _, raw in reader.scan(DEVICE_ROWS, DEVICE_ROWS + _AFTER)
        ]
        pgs = [
            pg_from_message(parse(catalog_pb2.PlacementGroup, raw)) for _, raw in reader.scan(PG_ROWS, PG_ROWS + _AFTER)
        ]
    except ValueError as error:  # InvalidArgument and msgspec's own are ValueErrors
        raise Corrupt(f"the stored cluster map does not parse: {error}", where="rows c/") from None
    map_ = ClusterMap(
        cluster,
        row.epoch,
        {device.number: device for device in devices},
        {pg.id: pg for pg in pgs},
        row.default_profile,
        row.level,
    )
    return map_, Counters(row.next_device, row.next_pg)


def read_starts(reader: Reader) -> tuple[Start, ...]:
    """The newest terms in which the stored map was changed, in order. Corrupt."""
    value = reader.get(CLUSTER_ROW)
    try:
        return () if value is None else msgspec.json.decode(value, type=_ClusterRow).starts
    except msgspec.DecodeError as error:
        raise Corrupt(f"the stored cluster map does not parse: {error}", where=f"row {CLUSTER_ROW.decode()}") from None


def _starts(writer: Writer, change: MapChange) -> tuple[Start, ...]:
    """With the term of now, if this is its first change."""
    term, value = read_term(writer), writer.get(CLUSTER_ROW)
    if value is None:
        return (Start(term, change.base),)
    row = msgspec.json.decode(value, type=_ClusterRow)
    if row.starts and row.starts[-1].term == term:
        return row.starts
    return (*row.starts, Start(term, row.epoch, row.next_device))[-STARTS_MAX:]


def write_change(writer: Writer, change: MapChange, counters: Counters) -> None:
    """Store `change`, which starts at the stored map."""
    starts = _starts(writer, change)
    for device in change.devices:
        writer.put(DEVICE_ROWS + device.number.to_bytes(4, "big"), device_to_message(device).SerializeToString())
    for number in change.removed_devices:
        writer.delete(DEVICE_ROWS + number.to_bytes(4, "big"))
    for pg in change.pgs:
        writer.put(PG_ROWS + pg.id.to_bytes(4, "big"), pg_to_message(pg).SerializeToString())
    for pg_id in change.removed_pgs:
        writer.delete(PG_ROWS + pg_id.to_bytes(4, "big"))
    row = _ClusterRow(
        change.cluster.hex(),
        change.epoch,
        change.level,
        change.default_profile,
        counters.next_device,
        counters.next_pg,
        starts,
    )
    writer.put(CLUSTER_ROW, msgspec.json.encode(row))


def next_change(
    map_: ClusterMap, devices: Iterable[Device] = (), pgs: Iterable[PlacementGroup] = ()
) -> MapChange | None:
    """From `map_` to the next epoch with these put in; None if nothing would be different."""
    new_devices = tuple(device for device in devices if map_.devices.get(device.number) != device)
    new_pgs = tuple(pg for pg in pgs if map_.pgs.get(pg.id) != pg)
    if not new_devices and not new_pgs:
        return None
    return MapChange(
        base=map_.epoch,
        epoch=map_.epoch + 1,
        cluster=map_.cluster,
        devices=new_devices,
        pgs=new_pgs,
        default_profile=map_.default_profile,
        level=map_.level,
    )


def without_device(map_: ClusterMap, number: int) -> tuple[MapChange, Device]:
    """From `map_` to the next epoch without a device; and the device. NotFound."""
    device = find_device(map_, number)
    change = MapChange(
        base=map_.epoch,
        epoch=map_.epoch + 1,
        cluster=map_.cluster,
        removed_devices=(number,),
        default_profile=map_.default_profile,
        level=map_.level,
    )
    return change, device


def find_device(map_: ClusterMap, number: int) -> Device:
    """The device; NotFound."""
    device = map_.devices.get(number)
    if device is None:
        raise NotFound(f"there is no device {number}", hint="See `reedbed device list`")
    return device


class MapHistory:
    """The newest changes in memory, joined for whoever is behind."""

    def __init__(self, limit: int = HISTORY_MAX) -> None:
        self._changes: deque[MapChange] = deque(maxlen=limit)

    def add(self, change: MapChange) -> None:
        """The next change: it starts where the last one ended."""
        assert not self._changes or self._changes[-1].epoch == change.base
        self._changes.append(change)

    def since(self, epoch: int, map_: ClusterMap) -> MapChange:
        """What makes a map of `epoch` this one: a delta while the history reaches back, else the whole map.

        An epoch that we never had (of a catalog that was restored since) gives the whole map too.
        """
        if epoch == map_.epoch:
            return replace(_empty(map_), base=epoch)
        newer = [change for change in self._changes if change.base >= epoch]
        if epoch <= 0 or epoch > map_.epoch or not newer or newer[0].base != epoch:
            return whole_map(map_)
        devices: dict[int, Device | None] = {}
        pgs: dict[int, PlacementGroup | None] = {}
        for change in newer:
            devices.update((device.number, device) for device in change.devices)
            devices.update((number, None) for number in change.removed_devices)
            pgs.update((pg.id, pg) for pg in change.pgs)
            pgs.update((pg_id, None) for pg_id in change.removed_pgs)
        return replace(
            _empty(map_),
            base=epoch,
            devices=tuple(device for device in devices.values() if device),
            removed_devices=tuple(number for number, device in devices.items() if device is None),
            pgs=tuple(pg for pg in pgs.values() if pg),
            removed_pgs=tuple(pg_id for pg_id, pg in pgs.items() if pg is None),
        )


def _empty(map_: ClusterMap) -> MapChange:
    return MapChange(
        base=0, epoch=map_.epoch, cluster=map_.cluster, default_profile=map_.default_profile, level=map_.level
    )


@dataclass(frozen=True, slots=True)
class Registration:
    """What a device says of itself. `cluster` empty: a new folder."""

    uuid: bytes
    cluster: bytes
    incarnation: int
    address: str
    labels: Labels
    capacity: int


def register(
    map_: ClusterMap, counters: Counters, asked: Registration, alive: Callable[[int], bool], *, held: bool = False
) -> Device:
    """The device as the map should have it. `alive`: heartbeats of the device with that number still come.

    A device that has to be cleaned before it may come back is given as it is known, with its next incarnation. held:
    extents are (hold.py), so none is cleaned: it comes back as what it was, for nothing counts on it.

    Raises WrongCluster, AlreadyExists (registered twice), PreconditionFailed (an older incarnation), InvalidArgument,
    ResourceExhausted (DEVICES_MAX).
    """
    if len(asked.uuid) != ID_BYTES:
        raise InvalidArgument(f"a device's uuid has {len(asked.uuid)} bytes instead of {ID_BYTES}")
    _check_address(asked.address)
    where = f"device {format_id(asked.uuid)} at {asked.address}"
    if asked.cluster and asked.cluster != map_.cluster:
        raise WrongCluster(
            f"the device belongs to cluster {asked.cluster.hex()}, this is {map_.cluster.hex()}",
            where=where,
            hint="Give it the endpoint of its own cluster, or an empty folder",
        )
    labels = _placed(asked, map_.level)
    known = next((device for device in map_.devices.values() if device.uuid == asked.uuid), None)
    if known is None:
        if len(map_.devices) >= DEVICES_MAX:
            raise ResourceExhausted(f"a cluster has at most {DEVICES_MAX} devices", where=where, retryable=False)
        return Device(
            number=counters.next_device,
            uuid=asked.uuid,
            address=asked.address,
            state="up",
            labels=labels,
            incarnation=max(1, asked.incarnation),
            capacity=asked.capacity,
        )
    if must_clean(map_, known, asked.incarnation):
        if not held:
            return known
        known = replace(known, incarnation=asked.incarnation)
    if asked.incarnation < known.incarnation:
        raise PreconditionFailed(
            f"the device comes with incarnation {asked.incarnation}, the cluster knows {known.incarnation}",
            where=where,
            hint="The folder is an old copy: clear it, and add it as a new device",
        )
    if known.address != asked.address and alive(known.number):
        raise AlreadyExists(
            f"device {known.number} is registered twice: it still sends heartbeats as {known.address}",
            where=where,
            hint="Stop one of the two; after a restart under another address, try again in some seconds",
            retryable=True,
        )
    renewed = asked.incarnation > known.incarnation
    return replace(
        known,
        address=asked.address,
        labels=labels,
        incarnation=asked.incarnation,
        capacity=asked.capacity,
        used=0 if renewed else known.used,
        state="failed" if known.state == "failed" and not renewed else "up",
    )


def must_clean(map_: ClusterMap, device: Device, incarnation: int) -> bool:
    """Whether the device comes back as it was before its positions were given away: then it has to be cleaned first."""
    return incarnation == device.incarnation - 1 and not any(
        device.number in (place.device, place.source) for pg in map_.pgs.values() for place in pg.positions
    )


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    unix = address.startswith("unix:") and len(address) > len("unix:")
    tcp = bool(host) and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
    if len(address) > ADDRESS_MAX or not address.isprintable() or not (unix or tcp):
        raise InvalidArgument(f"not an address: {address[:80]!r}", hint="It reads HOST:PORT or unix:PATH")


def _placed(asked: Registration, level: str) -> Labels:
    """The labels, with the address's host for an absent one; a domain that the level needs must be told."""
    labels = asked.labels
    if not labels.host and not asked.address.startswith("unix:"):
        labels = replace(labels, host=asked.address.rpartition(":")[0])
    if level != "device" and not getattr(labels, level):
        raise InvalidArgument(
            f"the cluster spreads shards over {level}s, and the device has no label for its {level}",
            where=f"device {format_id(asked.uuid)} at {asked.address}",
            hint=f"Give it a {level}",
        )
    return labels


def placeable(map_: ClusterMap) -> list[PlacedDevice]:
    """The devices that new PGs may use: those that are neither out nor failed."""
    return placed(may_be_used(map_))


def may_be_used(map_: ClusterMap) -> list[Device]:
    """Those that are neither out nor failed."""
    return [device for device in map_.devices.values() if device.state in ("up", "down")]


def placed(devices: Iterable[Device]) -> list[PlacedDevice]:
    """Devices as placement sees them."""
    return [
        PlacedDevice(
            device.number,
            device.labels.host,
            device.labels.rack,
            device.labels.zone,
            # devices of one size should not differ in weight by what their file systems keep for themselves
            float(max(1, device.capacity >> 30)),
        )
        for device in devices
    ]


def pgs_of(map_: ClusterMap, profile: Profile) -> list[PlacementGroup]:
    """The PGs that hold extents of the profile."""
    return [pg for pg in map_.pgs.values() if pg.k == profile.k and pg.m == profile.m]


def new_pgs(
    map_: ClusterMap,
    counters: Counters,
    profile: Profile,
    devices: Sequence[Device] | None = None,
    count: int | None = None,
) -> list[PlacementGroup]:
    """PGs for a profile: its first ones, on all devices that may be used, or `count` more on `devices`.

    InvalidArgument if devices or failure domains do not suffice.
    """
    places = placeable(map_) if devices is None else placed(devices)
    level = check_cluster_settings(map_.level, map_.default_profile)
    # others than before where a profile has some already
    seed = crc32c(profile.name.encode(), crc32c(map_.cluster)) + len(pgs_of(map_, profile))
    groups = make_pgs(
        places, profile.k, profile.m, level, pg_count(len(places), profile.n) if count is None else count, seed
    )
    return [
        PlacementGroup(counters.next_pg + index, profile.k, profile.m, 1, tuple(Position(number) for number in group))
        for index, group in enumerate(groups)
    ]


def check_profile(map_: ClusterMap, name: str) -> Profile:
    """The profile of that name; InvalidArgument if it is unknown or needs more than the devices there are."""
    profile = parse_profile(name)
    return profile if pgs_of(map_, profile) else check_holdable(map_, name)


def check_holdable(map_: ClusterMap, name: str) -> Profile:
    """As `check_profile`, and for a profile that has its PGs already, from when there may have been more devices."""
    profile = parse_profile(name)
    level = check_cluster_settings(map_.level, map_.default_profile)
    make_pgs(placeable(map_), profile.k, profile.m, level, 1, 0)
    return profile
