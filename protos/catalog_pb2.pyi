from reedbed.protos import lane_pb2 as _lane_pb2
from reedbed.protos import storage_pb2 as _storage_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Slice(_message.Message):
    __slots__ = ("extent", "offset", "length")
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    extent: bytes
    offset: int
    length: int
    def __init__(self, extent: _Optional[bytes] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class Extent(_message.Message):
    __slots__ = ("id", "k", "m", "pg", "generation", "lengths", "present", "acks")
    ID_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    M_FIELD_NUMBER: _ClassVar[int]
    PG_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    k: int
    m: int
    pg: int
    generation: int
    lengths: _containers.RepeatedScalarFieldContainer[int]
    present: int
    acks: _containers.RepeatedCompositeFieldContainer[Ack]
    def __init__(self, id: _Optional[bytes] = ..., k: _Optional[int] = ..., m: _Optional[int] = ..., pg: _Optional[int] = ..., generation: _Optional[int] = ..., lengths: _Optional[_Iterable[int]] = ..., present: _Optional[int] = ..., acks: _Optional[_Iterable[_Union[Ack, _Mapping]]] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("position", "device", "incarnation")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    position: int
    device: int
    incarnation: int
    def __init__(self, position: _Optional[int] = ..., device: _Optional[int] = ..., incarnation: _Optional[int] = ...) -> None: ...

class ObjectInfo(_message.Message):
    __slots__ = ("bucket", "key", "version", "size", "checksum", "content_type", "metadata", "modified_us", "profile", "latest", "delete_marker", "actual_profiles")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_US_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    LATEST_FIELD_NUMBER: _ClassVar[int]
    DELETE_MARKER_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_PROFILES_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: bytes
    version: bytes
    size: int
    checksum: int
    content_type: str
    metadata: _containers.ScalarMap[str, str]
    modified_us: int
    profile: str
    latest: bool
    delete_marker: bool
    actual_profiles: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[bytes] = ..., version: _Optional[bytes] = ..., size: _Optional[int] = ..., checksum: _Optional[int] = ..., content_type: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., modified_us: _Optional[int] = ..., profile: _Optional[str] = ..., latest: _Optional[bool] = ..., delete_marker: _Optional[bool] = ..., actual_profiles: _Optional[_Iterable[str]] = ...) -> None: ...

class Condition(_message.Message):
    __slots__ = ("if_none_match", "if_match")
    IF_NONE_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    if_none_match: bool
    if_match: str
    def __init__(self, if_none_match: _Optional[bool] = ..., if_match: _Optional[str] = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("ops", "extents")
    OPS_FIELD_NUMBER: _ClassVar[int]
    EXTENTS_FIELD_NUMBER: _ClassVar[int]
    ops: _containers.RepeatedCompositeFieldContainer[CommitOp]
    extents: _containers.RepeatedCompositeFieldContainer[Extent]
    def __init__(self, ops: _Optional[_Iterable[_Union[CommitOp, _Mapping]]] = ..., extents: _Optional[_Iterable[_Union[Extent, _Mapping]]] = ...) -> None: ...

class CommitOp(_message.Message):
    __slots__ = ("id", "bucket", "key", "condition", "put", "delete", "copy")
    ID_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    COPY_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    bucket: str
    key: bytes
    condition: Condition
    put: Put
    delete: Delete
    copy: Copy
    def __init__(self, id: _Optional[bytes] = ..., bucket: _Optional[str] = ..., key: _Optional[bytes] = ..., condition: _Optional[_Union[Condition, _Mapping]] = ..., put: _Optional[_Union[Put, _Mapping]] = ..., delete: _Optional[_Union[Delete, _Mapping]] = ..., copy: _Optional[_Union[Copy, _Mapping]] = ...) -> None: ...

class Put(_message.Message):
    __slots__ = ("slices", "size", "checksum", "content_type", "metadata", "profile", "upload")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SLICES_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    slices: _containers.RepeatedCompositeFieldContainer[Slice]
    size: int
    checksum: int
    content_type: str
    metadata: _containers.ScalarMap[str, str]
    profile: str
    upload: bytes
    def __init__(self, slices: _Optional[_Iterable[_Union[Slice, _Mapping]]] = ..., size: _Optional[int] = ..., checksum: _Optional[int] = ..., content_type: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., profile: _Optional[str] = ..., upload: _Optional[bytes] = ...) -> None: ...

class Delete(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: bytes
    def __init__(self, version: _Optional[bytes] = ...) -> None: ...

class Copy(_message.Message):
    __slots__ = ("source_bucket", "source_key", "source_version", "replace_metadata", "metadata", "content_type")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SOURCE_BUCKET_FIELD_NUMBER: _ClassVar[int]
    SOURCE_KEY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_VERSION_FIELD_NUMBER: _ClassVar[int]
    REPLACE_METADATA_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    source_bucket: str
    source_key: bytes
    source_version: bytes
    replace_metadata: bool
    metadata: _containers.ScalarMap[str, str]
    content_type: str
    def __init__(self, source_bucket: _Optional[str] = ..., source_key: _Optional[bytes] = ..., source_version: _Optional[bytes] = ..., replace_metadata: _Optional[bool] = ..., metadata: _Optional[_Mapping[str, str]] = ..., content_type: _Optional[str] = ...) -> None: ...

class CommitReply(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("error", "info", "removed", "log_term", "log_seq")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    LOG_TERM_FIELD_NUMBER: _ClassVar[int]
    LOG_SEQ_FIELD_NUMBER: _ClassVar[int]
    error: _lane_pb2.Error
    info: ObjectInfo
    removed: bool
    log_term: int
    log_seq: int
    def __init__(self, error: _Optional[_Union[_lane_pb2.Error, _Mapping]] = ..., info: _Optional[_Union[ObjectInfo, _Mapping]] = ..., removed: _Optional[bool] = ..., log_term: _Optional[int] = ..., log_seq: _Optional[int] = ...) -> None: ...

class LookupRequest(_message.Message):
    __slots__ = ("targets", "slices")
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedCompositeFieldContainer[Target]
    slices: bool
    def __init__(self, targets: _Optional[_Iterable[_Union[Target, _Mapping]]] = ..., slices: _Optional[bool] = ...) -> None: ...

class Target(_message.Message):
    __slots__ = ("bucket", "key", "version", "known")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    key: bytes
    version: bytes
    known: bytes
    def __init__(self, bucket: _Optional[str] = ..., key: _Optional[bytes] = ..., version: _Optional[bytes] = ..., known: _Optional[bytes] = ...) -> None: ...

class LookupReply(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: _containers.RepeatedCompositeFieldContainer[Found]
    def __init__(self, found: _Optional[_Iterable[_Union[Found, _Mapping]]] = ...) -> None: ...

class Found(_message.Message):
    __slots__ = ("error", "info", "slices", "extents", "more", "unchanged", "token")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    EXTENTS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    error: _lane_pb2.Error
    info: ObjectInfo
    slices: _containers.RepeatedCompositeFieldContainer[Slice]
    extents: _containers.RepeatedCompositeFieldContainer[Extent]
    more: bool
    unchanged: bool
    token: bytes
    def __init__(self, error: _Optional[_Union[_lane_pb2.Error, _Mapping]] = ..., info: _Optional[_Union[ObjectInfo, _Mapping]] = ..., slices: _Optional[_Iterable[_Union[Slice, _Mapping]]] = ..., extents: _Optional[_Iterable[_Union[Extent, _Mapping]]] = ..., more: _Optional[bool] = ..., unchanged: _Optional[bool] = ..., token: _Optional[bytes] = ...) -> None: ...

class SlicesRequest(_message.Message):
    __slots__ = ("target", "first", "limit")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    target: Target
    first: int
    limit: int
    def __init__(self, target: _Optional[_Union[Target, _Mapping]] = ..., first: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class SlicesReply(_message.Message):
    __slots__ = ("slices", "extents", "more")
    SLICES_FIELD_NUMBER: _ClassVar[int]
    EXTENTS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    slices: _containers.RepeatedCompositeFieldContainer[Slice]
    extents: _containers.RepeatedCompositeFieldContainer[Extent]
    more: bool
    def __init__(self, slices: _Optional[_Iterable[_Union[Slice, _Mapping]]] = ..., extents: _Optional[_Iterable[_Union[Extent, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("bucket", "prefix", "delimiter", "start_after", "limit", "token", "packed")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    DELIMITER_FIELD_NUMBER: _ClassVar[int]
    START_AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    prefix: bytes
    delimiter: bytes
    start_after: bytes
    limit: int
    token: bytes
    packed: bool
    def __init__(self, bucket: _Optional[str] = ..., prefix: _Optional[bytes] = ..., delimiter: _Optional[bytes] = ..., start_after: _Optional[bytes] = ..., limit: _Optional[int] = ..., token: _Optional[bytes] = ..., packed: _Optional[bool] = ...) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("rows", "token", "packed")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[ListRow]
    token: bytes
    packed: bytes
    def __init__(self, rows: _Optional[_Iterable[_Union[ListRow, _Mapping]]] = ..., token: _Optional[bytes] = ..., packed: _Optional[bytes] = ...) -> None: ...

class ListRow(_message.Message):
    __slots__ = ("info", "prefix")
    INFO_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    info: ObjectInfo
    prefix: bytes
    def __init__(self, info: _Optional[_Union[ObjectInfo, _Mapping]] = ..., prefix: _Optional[bytes] = ...) -> None: ...

class ListVersionsRequest(_message.Message):
    __slots__ = ("bucket", "prefix", "limit", "token")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    prefix: bytes
    limit: int
    token: bytes
    def __init__(self, bucket: _Optional[str] = ..., prefix: _Optional[bytes] = ..., limit: _Optional[int] = ..., token: _Optional[bytes] = ...) -> None: ...

class Bucket(_message.Message):
    __slots__ = ("name", "versioned", "profile", "created_us")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSIONED_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    CREATED_US_FIELD_NUMBER: _ClassVar[int]
    name: str
    versioned: bool
    profile: str
    created_us: int
    def __init__(self, name: _Optional[str] = ..., versioned: _Optional[bool] = ..., profile: _Optional[str] = ..., created_us: _Optional[int] = ...) -> None: ...

class CreateBucketRequest(_message.Message):
    __slots__ = ("name", "versioned", "profile")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSIONED_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    name: str
    versioned: bool
    profile: str
    def __init__(self, name: _Optional[str] = ..., versioned: _Optional[bool] = ..., profile: _Optional[str] = ...) -> None: ...

class BucketRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListBucketsRequest(_message.Message):
    __slots__ = ("start_after", "limit")
    START_AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    start_after: str
    limit: int
    def __init__(self, start_after: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListBucketsReply(_message.Message):
    __slots__ = ("buckets", "more")
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    buckets: _containers.RepeatedCompositeFieldContainer[Bucket]
    more: bool
    def __init__(self, buckets: _Optional[_Iterable[_Union[Bucket, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class BeginUploadRequest(_message.Message):
    __slots__ = ("id", "bucket", "key")
    ID_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    bucket: str
    key: bytes
    def __init__(self, id: _Optional[bytes] = ..., bucket: _Optional[str] = ..., key: _Optional[bytes] = ...) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("upload", "first", "slices", "extents")
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    EXTENTS_FIELD_NUMBER: _ClassVar[int]
    upload: bytes
    first: int
    slices: _containers.RepeatedCompositeFieldContainer[Slice]
    extents: _containers.RepeatedCompositeFieldContainer[Extent]
    def __init__(self, upload: _Optional[bytes] = ..., first: _Optional[int] = ..., slices: _Optional[_Iterable[_Union[Slice, _Mapping]]] = ..., extents: _Optional[_Iterable[_Union[Extent, _Mapping]]] = ...) -> None: ...

class RegisterReply(_message.Message):
    __slots__ = ("error",)
    ERROR_FIELD_NUMBER: _ClassVar[int]
    error: _lane_pb2.Error
    def __init__(self, error: _Optional[_Union[_lane_pb2.Error, _Mapping]] = ...) -> None: ...

class AbortUploadRequest(_message.Message):
    __slots__ = ("upload",)
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    upload: bytes
    def __init__(self, upload: _Optional[bytes] = ...) -> None: ...

class ListUploadsRequest(_message.Message):
    __slots__ = ("bucket", "after", "limit")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    after: bytes
    limit: int
    def __init__(self, bucket: _Optional[str] = ..., after: _Optional[bytes] = ..., limit: _Optional[int] = ...) -> None: ...

class Upload(_message.Message):
    __slots__ = ("id", "bucket", "key", "started_us", "slices", "bytes")
    ID_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    STARTED_US_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    bucket: str
    key: bytes
    started_us: int
    slices: int
    bytes: int
    def __init__(self, id: _Optional[bytes] = ..., bucket: _Optional[str] = ..., key: _Optional[bytes] = ..., started_us: _Optional[int] = ..., slices: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class ListUploadsReply(_message.Message):
    __slots__ = ("uploads", "more")
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    uploads: _containers.RepeatedCompositeFieldContainer[Upload]
    more: bool
    def __init__(self, uploads: _Optional[_Iterable[_Union[Upload, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LogPosition(_message.Message):
    __slots__ = ("term", "seq")
    TERM_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    term: int
    seq: int
    def __init__(self, term: _Optional[int] = ..., seq: _Optional[int] = ...) -> None: ...

class ReadLogRequest(_message.Message):
    __slots__ = ("after", "limit", "wait_ms")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    after: LogPosition
    limit: int
    wait_ms: int
    def __init__(self, after: _Optional[_Union[LogPosition, _Mapping]] = ..., limit: _Optional[int] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class LogEntry(_message.Message):
    __slots__ = ("position", "kind", "id", "bucket", "key", "version", "size", "time_us")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    position: LogPosition
    kind: str
    id: bytes
    bucket: str
    key: bytes
    version: bytes
    size: int
    time_us: int
    def __init__(self, position: _Optional[_Union[LogPosition, _Mapping]] = ..., kind: _Optional[str] = ..., id: _Optional[bytes] = ..., bucket: _Optional[str] = ..., key: _Optional[bytes] = ..., version: _Optional[bytes] = ..., size: _Optional[int] = ..., time_us: _Optional[int] = ...) -> None: ...

class ReadLogReply(_message.Message):
    __slots__ = ("entries", "floor", "end")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[LogEntry]
    floor: LogPosition
    end: LogPosition
    def __init__(self, entries: _Optional[_Iterable[_Union[LogEntry, _Mapping]]] = ..., floor: _Optional[_Union[LogPosition, _Mapping]] = ..., end: _Optional[_Union[LogPosition, _Mapping]] = ...) -> None: ...

class Labels(_message.Message):
    __slots__ = ("host", "rack", "zone")
    HOST_FIELD_NUMBER: _ClassVar[int]
    RACK_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    host: str
    rack: str
    zone: str
    def __init__(self, host: _Optional[str] = ..., rack: _Optional[str] = ..., zone: _Optional[str] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("number", "uuid", "address", "state", "labels", "incarnation", "capacity", "used")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    number: int
    uuid: bytes
    address: str
    state: str
    labels: Labels
    incarnation: int
    capacity: int
    used: int
    def __init__(self, number: _Optional[int] = ..., uuid: _Optional[bytes] = ..., address: _Optional[str] = ..., state: _Optional[str] = ..., labels: _Optional[_Union[Labels, _Mapping]] = ..., incarnation: _Optional[int] = ..., capacity: _Optional[int] = ..., used: _Optional[int] = ...) -> None: ...

class Position(_message.Message):
    __slots__ = ("device", "source")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    device: int
    source: int
    def __init__(self, device: _Optional[int] = ..., source: _Optional[int] = ...) -> None: ...

class PlacementGroup(_message.Message):
    __slots__ = ("id", "k", "m", "generation", "positions")
    ID_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    M_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    id: int
    k: int
    m: int
    generation: int
    positions: _containers.RepeatedCompositeFieldContainer[Position]
    def __init__(self, id: _Optional[int] = ..., k: _Optional[int] = ..., m: _Optional[int] = ..., generation: _Optional[int] = ..., positions: _Optional[_Iterable[_Union[Position, _Mapping]]] = ...) -> None: ...

class MapRequest(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class MapDelta(_message.Message):
    __slots__ = ("base", "epoch", "cluster", "devices", "removed_devices", "pgs", "removed_pgs", "default_profile", "level")
    BASE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    REMOVED_DEVICES_FIELD_NUMBER: _ClassVar[int]
    PGS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_PGS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PROFILE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    base: int
    epoch: int
    cluster: bytes
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    removed_devices: _containers.RepeatedScalarFieldContainer[int]
    pgs: _containers.RepeatedCompositeFieldContainer[PlacementGroup]
    removed_pgs: _containers.RepeatedScalarFieldContainer[int]
    default_profile: str
    level: str
    def __init__(self, base: _Optional[int] = ..., epoch: _Optional[int] = ..., cluster: _Optional[bytes] = ..., devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., removed_devices: _Optional[_Iterable[int]] = ..., pgs: _Optional[_Iterable[_Union[PlacementGroup, _Mapping]]] = ..., removed_pgs: _Optional[_Iterable[int]] = ..., default_profile: _Optional[str] = ..., level: _Optional[str] = ...) -> None: ...

class EnsureProfileRequest(_message.Message):
    __slots__ = ("profile",)
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    profile: str
    def __init__(self, profile: _Optional[str] = ...) -> None: ...

class LeaseRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LeaseReply(_message.Message):
    __slots__ = ("prefix", "count", "horizon", "good_for_ms")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    GOOD_FOR_MS_FIELD_NUMBER: _ClassVar[int]
    prefix: bytes
    count: int
    horizon: bytes
    good_for_ms: int
    def __init__(self, prefix: _Optional[bytes] = ..., count: _Optional[int] = ..., horizon: _Optional[bytes] = ..., good_for_ms: _Optional[int] = ...) -> None: ...

class RegisterDeviceRequest(_message.Message):
    __slots__ = ("uuid", "cluster", "incarnation", "address", "labels", "capacity")
    UUID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    uuid: bytes
    cluster: bytes
    incarnation: int
    address: str
    labels: Labels
    capacity: int
    def __init__(self, uuid: _Optional[bytes] = ..., cluster: _Optional[bytes] = ..., incarnation: _Optional[int] = ..., address: _Optional[str] = ..., labels: _Optional[_Union[Labels, _Mapping]] = ..., capacity: _Optional[int] = ...) -> None: ...

class RegisterDeviceReply(_message.Message):
    __slots__ = ("number", "cluster", "term", "incarnation", "clean")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CLEAN_FIELD_NUMBER: _ClassVar[int]
    number: int
    cluster: bytes
    term: int
    incarnation: int
    clean: bool
    def __init__(self, number: _Optional[int] = ..., cluster: _Optional[bytes] = ..., term: _Optional[int] = ..., incarnation: _Optional[int] = ..., clean: _Optional[bool] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("epoch", "devices", "address", "term")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    devices: _containers.RepeatedCompositeFieldContainer[DeviceReport]
    address: str
    term: int
    def __init__(self, epoch: _Optional[int] = ..., devices: _Optional[_Iterable[_Union[DeviceReport, _Mapping]]] = ..., address: _Optional[str] = ..., term: _Optional[int] = ...) -> None: ...

class DeviceReport(_message.Message):
    __slots__ = ("number", "uuid", "incarnation", "capacity", "used", "shards", "failed", "damaged", "done", "lost", "scrub", "note")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    SCRUB_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    number: int
    uuid: bytes
    incarnation: int
    capacity: int
    used: int
    shards: int
    failed: bool
    damaged: int
    done: _containers.RepeatedScalarFieldContainer[int]
    lost: _containers.RepeatedCompositeFieldContainer[ShardRef]
    scrub: ScrubReport
    note: _storage_pb2.CatalogNote
    def __init__(self, number: _Optional[int] = ..., uuid: _Optional[bytes] = ..., incarnation: _Optional[int] = ..., capacity: _Optional[int] = ..., used: _Optional[int] = ..., shards: _Optional[int] = ..., failed: _Optional[bool] = ..., damaged: _Optional[int] = ..., done: _Optional[_Iterable[int]] = ..., lost: _Optional[_Iterable[_Union[ShardRef, _Mapping]]] = ..., scrub: _Optional[_Union[ScrubReport, _Mapping]] = ..., note: _Optional[_Union[_storage_pb2.CatalogNote, _Mapping]] = ...) -> None: ...

class ShardRef(_message.Message):
    __slots__ = ("extent", "index")
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    extent: bytes
    index: int
    def __init__(self, extent: _Optional[bytes] = ..., index: _Optional[int] = ...) -> None: ...

class ScrubReport(_message.Message):
    __slots__ = ("phase", "passes", "done", "left", "rate", "found", "last_found", "last_end_us", "compared", "missing", "error")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PASSES_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    LAST_FOUND_FIELD_NUMBER: _ClassVar[int]
    LAST_END_US_FIELD_NUMBER: _ClassVar[int]
    COMPARED_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    phase: str
    passes: int
    done: int
    left: int
    rate: int
    found: int
    last_found: int
    last_end_us: int
    compared: int
    missing: int
    error: str
    def __init__(self, phase: _Optional[str] = ..., passes: _Optional[int] = ..., done: _Optional[int] = ..., left: _Optional[int] = ..., rate: _Optional[int] = ..., found: _Optional[int] = ..., last_found: _Optional[int] = ..., last_end_us: _Optional[int] = ..., compared: _Optional[int] = ..., missing: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("epoch", "term", "map", "interval_ms", "write_lease_ms", "orders", "work", "noted", "note", "restored")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    MAP_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    WRITE_LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    NOTED_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    RESTORED_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    term: int
    map: MapDelta
    interval_ms: int
    write_lease_ms: int
    orders: _containers.RepeatedCompositeFieldContainer[RemoveOrder]
    work: bool
    noted: _containers.RepeatedCompositeFieldContainer[NotedShards]
    note: _storage_pb2.CatalogNote
    restored: int
    def __init__(self, epoch: _Optional[int] = ..., term: _Optional[int] = ..., map: _Optional[_Union[MapDelta, _Mapping]] = ..., interval_ms: _Optional[int] = ..., write_lease_ms: _Optional[int] = ..., orders: _Optional[_Iterable[_Union[RemoveOrder, _Mapping]]] = ..., work: _Optional[bool] = ..., noted: _Optional[_Iterable[_Union[NotedShards, _Mapping]]] = ..., note: _Optional[_Union[_storage_pb2.CatalogNote, _Mapping]] = ..., restored: _Optional[int] = ...) -> None: ...

class NotedShards(_message.Message):
    __slots__ = ("device", "shards")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    device: int
    shards: _containers.RepeatedCompositeFieldContainer[ShardRef]
    def __init__(self, device: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[ShardRef, _Mapping]]] = ...) -> None: ...

class CompareRequest(_message.Message):
    __slots__ = ("device", "uuid", "incarnation", "log_term", "log_seq", "below", "digests", "note")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LOG_TERM_FIELD_NUMBER: _ClassVar[int]
    LOG_SEQ_FIELD_NUMBER: _ClassVar[int]
    BELOW_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    device: int
    uuid: bytes
    incarnation: int
    log_term: int
    log_seq: int
    below: bytes
    digests: _containers.RepeatedCompositeFieldContainer[ShardsDigest]
    note: _storage_pb2.CatalogNote
    def __init__(self, device: _Optional[int] = ..., uuid: _Optional[bytes] = ..., incarnation: _Optional[int] = ..., log_term: _Optional[int] = ..., log_seq: _Optional[int] = ..., below: _Optional[bytes] = ..., digests: _Optional[_Iterable[_Union[ShardsDigest, _Mapping]]] = ..., note: _Optional[_Union[_storage_pb2.CatalogNote, _Mapping]] = ...) -> None: ...

class ShardsDigest(_message.Message):
    __slots__ = ("pg", "count", "sum")
    PG_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    pg: int
    count: int
    sum: bytes
    def __init__(self, pg: _Optional[int] = ..., count: _Optional[int] = ..., sum: _Optional[bytes] = ...) -> None: ...

class CompareReply(_message.Message):
    __slots__ = ("below", "differing")
    BELOW_FIELD_NUMBER: _ClassVar[int]
    DIFFERING_FIELD_NUMBER: _ClassVar[int]
    below: bytes
    differing: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, below: _Optional[bytes] = ..., differing: _Optional[_Iterable[int]] = ...) -> None: ...

class CompareShardsRequest(_message.Message):
    __slots__ = ("device", "uuid", "incarnation", "below", "pgs", "after", "upto", "held", "absent", "log_term", "log_seq", "note")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    BELOW_FIELD_NUMBER: _ClassVar[int]
    PGS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    UPTO_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    LOG_TERM_FIELD_NUMBER: _ClassVar[int]
    LOG_SEQ_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    device: int
    uuid: bytes
    incarnation: int
    below: bytes
    pgs: _containers.RepeatedScalarFieldContainer[int]
    after: bytes
    upto: bytes
    held: _containers.RepeatedCompositeFieldContainer[HeldShard]
    absent: _containers.RepeatedCompositeFieldContainer[ShardRef]
    log_term: int
    log_seq: int
    note: _storage_pb2.CatalogNote
    def __init__(self, device: _Optional[int] = ..., uuid: _Optional[bytes] = ..., incarnation: _Optional[int] = ..., below: _Optional[bytes] = ..., pgs: _Optional[_Iterable[int]] = ..., after: _Optional[bytes] = ..., upto: _Optional[bytes] = ..., held: _Optional[_Iterable[_Union[HeldShard, _Mapping]]] = ..., absent: _Optional[_Iterable[_Union[ShardRef, _Mapping]]] = ..., log_term: _Optional[int] = ..., log_seq: _Optional[int] = ..., note: _Optional[_Union[_storage_pb2.CatalogNote, _Mapping]] = ...) -> None: ...

class HeldShard(_message.Message):
    __slots__ = ("extent", "index", "pg", "length")
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PG_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    extent: bytes
    index: int
    pg: int
    length: int
    def __init__(self, extent: _Optional[bytes] = ..., index: _Optional[int] = ..., pg: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class CompareShardsReply(_message.Message):
    __slots__ = ("upto", "suspects", "missing", "garbage", "unknown")
    UPTO_FIELD_NUMBER: _ClassVar[int]
    SUSPECTS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    GARBAGE_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    upto: bytes
    suspects: _containers.RepeatedCompositeFieldContainer[ShardRef]
    missing: int
    garbage: int
    unknown: int
    def __init__(self, upto: _Optional[bytes] = ..., suspects: _Optional[_Iterable[_Union[ShardRef, _Mapping]]] = ..., missing: _Optional[int] = ..., garbage: _Optional[int] = ..., unknown: _Optional[int] = ...) -> None: ...

class RemoveOrder(_message.Message):
    __slots__ = ("number", "device", "extent", "index", "pg", "generation")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PG_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    number: int
    device: int
    extent: bytes
    index: int
    pg: int
    generation: int
    def __init__(self, number: _Optional[int] = ..., device: _Optional[int] = ..., extent: _Optional[bytes] = ..., index: _Optional[int] = ..., pg: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class TasksRequest(_message.Message):
    __slots__ = ("devices", "boot", "results", "room", "held", "rewriting")
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    ROOM_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    REWRITING_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedScalarFieldContainer[int]
    boot: int
    results: _containers.RepeatedCompositeFieldContainer[TaskResult]
    room: int
    held: _containers.RepeatedScalarFieldContainer[bytes]
    rewriting: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, devices: _Optional[_Iterable[int]] = ..., boot: _Optional[int] = ..., results: _Optional[_Iterable[_Union[TaskResult, _Mapping]]] = ..., room: _Optional[int] = ..., held: _Optional[_Iterable[bytes]] = ..., rewriting: _Optional[_Iterable[int]] = ...) -> None: ...

class TaskResult(_message.Message):
    __slots__ = ("extent", "acks", "error", "rewritten", "full")
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REWRITTEN_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    extent: bytes
    acks: _containers.RepeatedCompositeFieldContainer[Ack]
    error: str
    rewritten: Rewritten
    full: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, extent: _Optional[bytes] = ..., acks: _Optional[_Iterable[_Union[Ack, _Mapping]]] = ..., error: _Optional[str] = ..., rewritten: _Optional[_Union[Rewritten, _Mapping]] = ..., full: _Optional[_Iterable[int]] = ...) -> None: ...

class TasksReply(_message.Message):
    __slots__ = ("tasks", "floor", "ceiling")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    CEILING_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    floor: int
    ceiling: int
    def __init__(self, tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., floor: _Optional[int] = ..., ceiling: _Optional[int] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("extent", "positions", "urgent", "epoch", "rewrite")
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    URGENT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REWRITE_FIELD_NUMBER: _ClassVar[int]
    extent: Extent
    positions: _containers.RepeatedScalarFieldContainer[int]
    urgent: bool
    epoch: int
    rewrite: Rewrite
    def __init__(self, extent: _Optional[_Union[Extent, _Mapping]] = ..., positions: _Optional[_Iterable[int]] = ..., urgent: _Optional[bool] = ..., epoch: _Optional[int] = ..., rewrite: _Optional[_Union[Rewrite, _Mapping]] = ...) -> None: ...

class Rewrite(_message.Message):
    __slots__ = ("number", "profile", "extents", "pieces")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    EXTENTS_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    number: int
    profile: str
    extents: _containers.RepeatedCompositeFieldContainer[Extent]
    pieces: _containers.RepeatedCompositeFieldContainer[Piece]
    def __init__(self, number: _Optional[int] = ..., profile: _Optional[str] = ..., extents: _Optional[_Iterable[_Union[Extent, _Mapping]]] = ..., pieces: _Optional[_Iterable[_Union[Piece, _Mapping]]] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("extent", "offset", "length", "place", "sum")
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    extent: int
    offset: int
    length: int
    place: int
    sum: int
    def __init__(self, extent: _Optional[int] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., place: _Optional[int] = ..., sum: _Optional[int] = ...) -> None: ...

class Rewritten(_message.Message):
    __slots__ = ("number", "profile", "extent", "extents", "pieces", "unread", "code")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    EXTENTS_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    UNREAD_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    number: int
    profile: str
    extent: Extent
    extents: _containers.RepeatedScalarFieldContainer[bytes]
    pieces: _containers.RepeatedCompositeFieldContainer[Piece]
    unread: _containers.RepeatedScalarFieldContainer[bytes]
    code: str
    def __init__(self, number: _Optional[int] = ..., profile: _Optional[str] = ..., extent: _Optional[_Union[Extent, _Mapping]] = ..., extents: _Optional[_Iterable[bytes]] = ..., pieces: _Optional[_Iterable[_Union[Piece, _Mapping]]] = ..., unread: _Optional[_Iterable[bytes]] = ..., code: _Optional[str] = ...) -> None: ...

class OperateRequest(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    def __init__(self, json: _Optional[bytes] = ...) -> None: ...

class OperateReply(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    def __init__(self, json: _Optional[bytes] = ...) -> None: ...

class CatalogStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CatalogStatusReply(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    def __init__(self, json: _Optional[bytes] = ...) -> None: ...

class BackupRequest(_message.Message):
    __slots__ = ("step", "pin", "after", "redo_after", "redo_upto", "offset")
    STEP_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    REDO_AFTER_FIELD_NUMBER: _ClassVar[int]
    REDO_UPTO_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    step: str
    pin: int
    after: bytes
    redo_after: int
    redo_upto: int
    offset: int
    def __init__(self, step: _Optional[str] = ..., pin: _Optional[int] = ..., after: _Optional[bytes] = ..., redo_after: _Optional[int] = ..., redo_upto: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class BackupReply(_message.Message):
    __slots__ = ("pin", "cluster", "term", "redo", "body", "last", "redo_upto", "more", "raw", "rows", "grace_ms")
    PIN_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    REDO_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    REDO_UPTO_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    pin: int
    cluster: bytes
    term: int
    redo: int
    body: bytes
    last: bytes
    redo_upto: int
    more: bool
    raw: int
    rows: int
    grace_ms: int
    def __init__(self, pin: _Optional[int] = ..., cluster: _Optional[bytes] = ..., term: _Optional[int] = ..., redo: _Optional[int] = ..., body: _Optional[bytes] = ..., last: _Optional[bytes] = ..., redo_upto: _Optional[int] = ..., more: _Optional[bool] = ..., raw: _Optional[int] = ..., rows: _Optional[int] = ..., grace_ms: _Optional[int] = ...) -> None: ...
