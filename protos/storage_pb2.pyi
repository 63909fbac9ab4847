from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PutShardRequest(_message.Message):
    __slots__ = ("device", "extent", "index", "k", "m", "pg", "generation", "table", "data_tables", "log_term", "log_seq", "background")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    M_FIELD_NUMBER: _ClassVar[int]
    PG_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    DATA_TABLES_FIELD_NUMBER: _ClassVar[int]
    LOG_TERM_FIELD_NUMBER: _ClassVar[int]
    LOG_SEQ_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_FIELD_NUMBER: _ClassVar[int]
    device: int
    extent: bytes
    index: int
    k: int
    m: int
    pg: int
    generation: int
    table: bytes
    data_tables: _containers.RepeatedScalarFieldContainer[bytes]
    log_term: int
    log_seq: int
    background: bool
    def __init__(self, device: _Optional[int] = ..., extent: _Optional[bytes] = ..., index: _Optional[int] = ..., k: _Optional[int] = ..., m: _Optional[int] = ..., pg: _Optional[int] = ..., generation: _Optional[int] = ..., table: _Optional[bytes] = ..., data_tables: _Optional[_Iterable[bytes]] = ..., log_term: _Optional[int] = ..., log_seq: _Optional[int] = ..., background: _Optional[bool] = ...) -> None: ...

class PutShardReply(_message.Message):
    __slots__ = ("incarnation",)
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    def __init__(self, incarnation: _Optional[int] = ...) -> None: ...

class ReadShardsRequest(_message.Message):
    __slots__ = ("reads", "background")
    READS_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_FIELD_NUMBER: _ClassVar[int]
    reads: _containers.RepeatedCompositeFieldContainer[ShardRange]
    background: bool
    def __init__(self, reads: _Optional[_Iterable[_Union[ShardRange, _Mapping]]] = ..., background: _Optional[bool] = ...) -> None: ...

class ShardRange(_message.Message):
    __slots__ = ("device", "extent", "index", "offset", "length", "rows_of", "rows_start", "rows_end")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    ROWS_OF_FIELD_NUMBER: _ClassVar[int]
    ROWS_START_FIELD_NUMBER: _ClassVar[int]
    ROWS_END_FIELD_NUMBER: _ClassVar[int]
    device: int
    extent: bytes
    index: int
    offset: int
    length: int
    rows_of: _containers.RepeatedScalarFieldContainer[int]
    rows_start: int
    rows_end: int
    def __init__(self, device: _Optional[int] = ..., extent: _Optional[bytes] = ..., index: _Optional[int] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., rows_of: _Optional[_Iterable[int]] = ..., rows_start: _Optional[int] = ..., rows_end: _Optional[int] = ...) -> None: ...

class ReadShardsReply(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ShardBytes]
    def __init__(self, results: _Optional[_Iterable[_Union[ShardBytes, _Mapping]]] = ...) -> None: ...

class ShardBytes(_message.Message):
    __slots__ = ("failed", "code", "what", "length", "rows", "data_rows", "shard_length")
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DATA_ROWS_FIELD_NUMBER: _ClassVar[int]
    SHARD_LENGTH_FIELD_NUMBER: _ClassVar[int]
    failed: bool
    code: str
    what: str
    length: int
    rows: Rows
    data_rows: _containers.RepeatedCompositeFieldContainer[Rows]
    shard_length: int
    def __init__(self, failed: _Optional[bool] = ..., code: _Optional[str] = ..., what: _Optional[str] = ..., length: _Optional[int] = ..., rows: _Optional[_Union[Rows, _Mapping]] = ..., data_rows: _Optional[_Iterable[_Union[Rows, _Mapping]]] = ..., shard_length: _Optional[int] = ...) -> None: ...

class Rows(_message.Message):
    __slots__ = ("shard", "first_block", "offset", "table")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    FIRST_BLOCK_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    shard: int
    first_block: int
    offset: int
    table: bytes
    def __init__(self, shard: _Optional[int] = ..., first_block: _Optional[int] = ..., offset: _Optional[int] = ..., table: _Optional[bytes] = ...) -> None: ...

class ListShardsRequest(_message.Message):
    __slots__ = ("device", "after_extent", "after_index", "limit", "system")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    AFTER_EXTENT_FIELD_NUMBER: _ClassVar[int]
    AFTER_INDEX_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_FIELD_NUMBER: _ClassVar[int]
    device: int
    after_extent: bytes
    after_index: int
    limit: int
    system: bool
    def __init__(self, device: _Optional[int] = ..., after_extent: _Optional[bytes] = ..., after_index: _Optional[int] = ..., limit: _Optional[int] = ..., system: _Optional[bool] = ...) -> None: ...

class ListShardsReply(_message.Message):
    __slots__ = ("shards", "more")
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    shards: _containers.RepeatedCompositeFieldContainer[ShardEntry]
    more: bool
    def __init__(self, shards: _Optional[_Iterable[_Union[ShardEntry, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class ShardEntry(_message.Message):
    __slots__ = ("extent", "index", "length", "pg", "generation", "k", "m")
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    PG_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    M_FIELD_NUMBER: _ClassVar[int]
    extent: bytes
    index: int
    length: int
    pg: int
    generation: int
    k: int
    m: int
    def __init__(self, extent: _Optional[bytes] = ..., index: _Optional[int] = ..., length: _Optional[int] = ..., pg: _Optional[int] = ..., generation: _Optional[int] = ..., k: _Optional[int] = ..., m: _Optional[int] = ...) -> None: ...

class StartScrubRequest(_message.Message):
    __slots__ = ("device",)
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    device: int
    def __init__(self, device: _Optional[int] = ...) -> None: ...

class StartScrubReply(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class StorageStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StorageStatusReply(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    def __init__(self, json: _Optional[bytes] = ...) -> None: ...

class CatalogNote(_message.Message):
    __slots__ = ("term", "version", "endpoint", "log_term", "log_seq", "redo", "settled", "begin", "id_bound_ms")
    TERM_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    LOG_TERM_FIELD_NUMBER: _ClassVar[int]
    LOG_SEQ_FIELD_NUMBER: _ClassVar[int]
    REDO_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    ID_BOUND_MS_FIELD_NUMBER: _ClassVar[int]
    term: int
    version: int
    endpoint: str
    log_term: int
    log_seq: int
    redo: int
    settled: bool
    begin: bytes
    id_bound_ms: int
    def __init__(self, term: _Optional[int] = ..., version: _Optional[int] = ..., endpoint: _Optional[str] = ..., log_term: _Optional[int] = ..., log_seq: _Optional[int] = ..., redo: _Optional[int] = ..., settled: _Optional[bool] = ..., begin: _Optional[bytes] = ..., id_bound_ms: _Optional[int] = ...) -> None: ...

class RememberRequest(_message.Message):
    __slots__ = ("note",)
    NOTE_FIELD_NUMBER: _ClassVar[int]
    note: CatalogNote
    def __init__(self, note: _Optional[_Union[CatalogNote, _Mapping]] = ...) -> None: ...

class RememberReply(_message.Message):
    __slots__ = ("devices", "before")
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedScalarFieldContainer[int]
    before: CatalogNote
    def __init__(self, devices: _Optional[_Iterable[int]] = ..., before: _Optional[_Union[CatalogNote, _Mapping]] = ...) -> None: ...

class RecallRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RecallReply(_message.Message):
    __slots__ = ("cluster", "term", "devices", "map_term", "endpoints")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    MAP_TERM_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    cluster: bytes
    term: int
    devices: _containers.RepeatedCompositeFieldContainer[RecalledDevice]
    map_term: int
    endpoints: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, cluster: _Optional[bytes] = ..., term: _Optional[int] = ..., devices: _Optional[_Iterable[_Union[RecalledDevice, _Mapping]]] = ..., map_term: _Optional[int] = ..., endpoints: _Optional[_Iterable[str]] = ...) -> None: ...

class RecalledDevice(_message.Message):
    __slots__ = ("number", "uuid", "incarnation", "shards", "highest", "log_term", "log_seq", "note", "generations")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_FIELD_NUMBER: _ClassVar[int]
    LOG_TERM_FIELD_NUMBER: _ClassVar[int]
    LOG_SEQ_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    number: int
    uuid: bytes
    incarnation: int
    shards: int
    highest: bytes
    log_term: int
    log_seq: int
    note: CatalogNote
    generations: _containers.RepeatedCompositeFieldContainer[PgGeneration]
    def __init__(self, number: _Optional[int] = ..., uuid: _Optional[bytes] = ..., incarnation: _Optional[int] = ..., shards: _Optional[int] = ..., highest: _Optional[bytes] = ..., log_term: _Optional[int] = ..., log_seq: _Optional[int] = ..., note: _Optional[_Union[CatalogNote, _Mapping]] = ..., generations: _Optional[_Iterable[_Union[PgGeneration, _Mapping]]] = ...) -> None: ...

class PgGeneration(_message.Message):
    __slots__ = ("pg", "generation")
    PG_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    pg: int
    generation: int
    def __init__(self, pg: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class ClaimRequest(_message.Message):
    __slots__ = ("term",)
    TERM_FIELD_NUMBER: _ClassVar[int]
    term: int
    def __init__(self, term: _Optional[int] = ...) -> None: ...

class ClaimReply(_message.Message):
    __slots__ = ("devices",)
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, devices: _Optional[_Iterable[int]] = ...) -> None: ...
