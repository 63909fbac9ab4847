"""Reedbed's own types for what travels: immutable values that logic works on, so that messages stay at the borders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from reedbed.common.ids import Id

T = TypeVar("T")

DeviceState = Literal["up", "down", "out", "failed"]


@dataclass(frozen=True, slots=True)
class Labels:
    """Where a device is. Empty labels mean: each device is its own."""

    host: str = ""
    rack: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """One device of the cluster map. `number` starts at 1; sizes in bytes."""

    number: int
    uuid: bytes
    address: str
    state: DeviceState
    labels: Labels = Labels()
    incarnation: int = 1
    capacity: int = 0
    used: int = 0


@dataclass(frozen=True, slots=True)
class Position:
    """One position of a PG; `source` is the device that its shards move from, 0 when none move."""

    device: int
    source: int = 0


@dataclass(frozen=True, slots=True)
class PlacementGroup:
    """k+m positions; shard i of an extent on this PG lives at position i."""

    id: int
    k: int
    m: int
    generation: int
    positions: tuple[Position, ...]


@dataclass(frozen=True, slots=True)
class ClusterMap:
    """Devices by number and PGs by id, as of one epoch."""

    cluster: bytes
    epoch: int
    devices: Mapping[int, Device] = field(default_factory=dict)
    pgs: Mapping[int, PlacementGroup] = field(default_factory=dict)
    default_profile: str = "rs-4-2"
    level: str = "device"


@dataclass(frozen=True, slots=True)
class MapChange:
    """From one epoch to another: what is new or different, and what is gone. `base` 0 means: this is everything."""

    base: int
    epoch: int
    cluster: bytes
    devices: tuple[Device, ...] = ()
    removed_devices: tuple[int, ...] = ()
    pgs: tuple[PlacementGroup, ...] = ()
    removed_pgs: tuple[int, ...] = ()
    default_profile: str = "rs-4-2"
    level: str = "device"

    def apply(self, old: ClusterMap | None) -> ClusterMap | None:
        """The map after this change; None if it does not start at `old`, so that the whole map is needed."""
        if self.base and (old is None or old.epoch != self.base or old.cluster != self.cluster):
            return None
        devices = dict(old.devices) if self.base and old else {}
        pgs = dict(old.pgs) if self.base and old else {}
        devices.update((device.number, device) for device in self.devices)
        pgs.update((pg.id, pg) for pg in self.pgs)
        for number in self.removed_devices:
            devices.pop(number, None)
        for pg_id in self.removed_pgs:
            pgs.pop(pg_id, None)
        return ClusterMap(self.cluster, self.epoch, devices, pgs, self.default_profile, self.level)


@dataclass(frozen=True, slots=True)
class CatalogNote:
    """What a catalogd tells storaged of itself and of its copy on the cluster, for the day when it is lost.

    log: position of the newest entry. redo: number of the newest redo record. settled: the copy holds all of that, and
    nothing is acknowledged before another note says otherwise. begin: no extent of the copy with a lower id is needed;
    None: there is no snapshot yet. id_bound_ms: all ids that were leased are of earlier times.
    """

    term: int
    version: int = 0
    endpoint: str = ""
    log: tuple[int, int] = (0, 0)
    redo: int = 0
    settled: bool = False
    begin: Id | None = None
    id_bound_ms: int = 0

    @property
    def age(self) -> tuple[int, int]:
        """Of two notes, the one of the higher age is the newer."""
        return self.term, self.version


@dataclass(frozen=True, slots=True)
class Ack:
    """A device, in an incarnation, holds the shard of a position durably."""

    position: int
    device: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Extent:
    """An erasure-coded run of bytes.

    `lengths` are those of the k data shards in bytes; bit i of `present`: position i acknowledged its shard.
    """

    id: Id
    k: int
    m: int
    pg: int
    generation: int
    lengths: tuple[int, ...]
    present: int
    acks: tuple[Ack, ...] = ()

    @property
    def size(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True, slots=True)
class Slice:
    """`length` bytes of an extent's own bytes, from `offset` on."""

    extent: Id
    offset: int
    length: int


class _Told:
    """Room for what the fields of an ObjectInfo are found in, until they are asked for."""

    __slots__ = ("_find", "_told")


@dataclass(frozen=True, slots=True)
class ObjectInfo(_Told):
    """What `stat` and `list` tell of one version of an object."""

    bucket: str
    key: str
    size: int
    version: str
    checksum: str
    content_type: str | None
    metadata: Mapping[str, str]
    last_modified: datetime
    profile: str
    latest: bool = True
    delete_marker: bool = False
    actual_profiles: tuple[str, ...] = ()

    @property
    def etag(self) -> str:
        """Quoted, derived from the version; the dash keeps it from being taken for an MD5."""
        return etag_of(self.version)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Called for a field that has no value yet: see `told_later`."""
            if name not in _INFO_FIELDS:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            value = self._find(self._told, name)
            object.__setattr__(self, name, value)
            return value


_INFO_FIELDS = frozenset(field.name for field in fields(ObjectInfo))
_set_key = ObjectInfo.key.__set__  # type: ignore[attr-defined, misc]
_set_find = _Told._find.__set__  # type: ignore[attr-defined]
_set_told = _Told._told.__set__  # type: ignore[attr-defined]


def told_later(key: str, find: Callable[[T, str], Any], told: T) -> ObjectInfo:
    """An ObjectInfo of that key whose other fields are `find(told, name)`, each when it is asked for first.

    In everything else it is as one that was made with these fields.
    """
    info = ObjectInfo.__new__(ObjectInfo)
    _set_key(info, key)
    _set_find(info, find)
    _set_told(info, told)
    return info


@dataclass(frozen=True, slots=True)
class CommonPrefix:
    """A row of a listing with a delimiter: at least one key starts with it."""

    bucket: str
    prefix: str


@dataclass(frozen=True, slots=True)
class BucketInfo:
    """What is known of a bucket."""

    name: str
    versioned: bool
    profile: str
    created: datetime


def etag_of(version: str) -> str:
    """The etag of a version given as hexadecimal text."""
    return f'"{version}-r"'


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def from_us(microseconds: int) -> datetime:
    """Microseconds since 1970 as an aware datetime."""
    return _EPOCH + timedelta(microseconds=microseconds)
