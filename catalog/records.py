"""The values of the namespace's rows. The engine's seal tells damage; these tell what the bytes mean.

    byte 0       version of the record's format, 1 now
    bytes 1..    msgpack array of the fields below, in order; fields may be added at the end only

Ids are 16 raw bytes, times are microseconds since 1970 (`_us`) or milliseconds of the id clock (`_ms`), sizes bytes.
"""

from __future__ import annotations

from typing import Annotated, Final, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from reedbed.catalog.sealed import show_key
from reedbed.common.errors import Corrupt, NewerFormat
from reedbed.common.ids import ID_BYTES

IdField = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
U64 = Annotated[int, Meta(ge=0)]

SPARSE_STEPS: Final = 12  # sixteenths up to which extents are queued by their fill

T = TypeVar("T", bound=Struct)


class Codec(Generic[T]):
    """Between one kind of record and its bytes."""

    def __init__(self, kind: type[T], version: int = 1) -> None:
        self._name = kind.__name__
        self._version = version
        self._first = bytes([version])
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(kind)

    def encode(self, record: T) -> bytes:
        return self._first + self._encoder.encode(record)

    def decode(self, data: bytes, key: bytes) -> T:
        """The record in the value of `key`; Corrupt for bytes that are none, NewerFormat for a later version's."""
        if data[:1] != self._first:
            if data and data[0] > self._version:
                raise NewerFormat(
                    f"{self._name} of version {data[0]}, this Reedbed knows {self._version}",
                    where=f"catalog key {show_key(key)}",
                    hint="Start the Reedbed that wrote it, or a newer one",
                )
            raise self._corrupt(key)
        try:
            return self._decoder.decode(data[1:])
        except msgspec.DecodeError:
            raise self._corrupt(key) from None

    def _corrupt(self, key: bytes) -> Corrupt:
        return Corrupt(f"not a {self._name}", where=f"catalog key {show_key(key)}", hint="Restore the catalog")


class BucketRow(Struct, array_like=True, frozen=True):
    number: U64
    versioned: bool
    profile: str
    created_us: int


class SliceRow(Struct, array_like=True, frozen=True):
    extent: IdField
    offset: U64
    length: U64


class VersionRow(Struct, array_like=True, frozen=True):
    """One version. Its slices are inline, or in the list that `slice_list` names; a delete marker has neither."""

    version: IdField
    seq: U64
    modified_us: int
    size: U64
    checksum: U64
    profile: str
    content_type: str = ""
    metadata: dict[str, str] = {}
    slices: tuple[SliceRow, ...] = ()
    slice_list: IdField | None = None
    marker: bool = False


class LatestRow(Struct, array_like=True, frozen=True):
    """Which version of a key in a versioned bucket is the latest."""

    seq: U64


class ExtentRow(Struct, array_like=True, frozen=True):
    """`refs` slices name this extent, `live` bytes in all; `dropped_ms` is set while none does.

    `present`, `gone` and `moving` (see lacks.py) are right for the PG as of `generation`.
    """

    k: U64
    m: U64
    pg: U64
    generation: U64
    lengths: tuple[U64, ...]
    present: U64
    refs: U64
    live: U64
    dropped_ms: int | None = None
    gone: U64 = 0
    moving: U64 = 0


class DegradedRow(Struct, array_like=True, frozen=True):
    """Bit i: the device of position i is to get its shard."""

    missing: U64
    pg: U64 = 0


class LackRow(Struct, array_like=True, frozen=True):
    """How many extents of a PG lack the same; `bytes` to be written, `since_ms` of the id clock."""

    extents: U64
    bytes: U64
    since_ms: int


class MarkRow(Struct, array_like=True, frozen=True):
    """What a PG's change to `generation` did to the shards of older extents; `after` is the id up to which it is noted.

    Bit i: position i has another device, and its old one is the source now, out of service (`gone`) or in it
    (`moving`), in place of another one if `lost` is set too; or it kept its source, and what its device had is lost
    (`lost` alone); or its source is its device again (`back`), and its old device is the source now, in service, or out
    of it (`gone` too), or has left for good (`lost` too).
    """

    generation: U64
    gone: U64 = 0
    moving: U64 = 0
    lost: U64 = 0
    after: bytes = b""
    back: U64 = 0


class SliceListRow(Struct, array_like=True, frozen=True):
    """`refs` versions or uploads share this list of `count` slices with `size` bytes and these profiles.

    `wanted` is the profile that the slices are to have, empty for an upload under way; `twin` the list that was made
    of this one for versions that want another.
    """

    refs: U64
    count: U64
    size: U64
    profiles: tuple[str, ...]
    wanted: str = ""
    twin: bytes = b""


class ChunkRow(Struct, array_like=True, frozen=True):
    slices: tuple[SliceRow, ...]


class UploadRow(Struct, array_like=True, frozen=True):
    bucket: U64
    key: bytes
    started_us: int
    touched_ms: int


class RecodeRow(Struct, array_like=True, frozen=True):
    """A version of `size` bytes that is to be recoded. `twin` is the list that is being made for it, if any is."""

    bucket: U64
    key: bytes
    versioned: bool = False
    size: U64 = 0
    twin: bytes = b""


class RecodeJobRow(Struct, array_like=True, frozen=True):
    """An order to recode what was committed up to log entry `upto` under a prefix, or just this key if `exact`.

    `after` is the key of the row up to which it was carried out; `seen` versions were looked at, and `queued` of them
    are to be recoded.
    """

    bucket: U64
    name: str
    versioned: bool
    prefix: bytes
    exact: bool
    profile: str
    upto: U64
    after: bytes = b""
    seen: U64 = 0
    queued: U64 = 0


class NamerRow(Struct, array_like=True, frozen=True):
    """Where the version is that holds a slice."""

    bucket: U64
    key: bytes
    versioned: bool


class PinRow(Struct, array_like=True, frozen=True):
    """An extent that a rewrite has written, by the id clock's milliseconds of the last progress."""

    touched_ms: int


class SparseRow(Struct, array_like=True, frozen=True):
    """By fill, from the first sixteenth on: how many extents, and bytes beyond what their live ones are worth."""

    extents: tuple[int, ...] = (0,) * SPARSE_STEPS
    bytes: tuple[int, ...] = (0,) * SPARSE_STEPS


class IndexingRow(Struct, array_like=True, frozen=True):
    """How far the indexes of an older catalog's rows have been made: `after` is the key of the last row seen."""

    whole: bool
    after: bytes = b""


class LogRow(Struct, array_like=True, frozen=True):
    """`kind` is an index into log.KINDS; an empty `version` is the same as `id`."""

    term: U64
    time_us: int
    kind: U64
    id: bytes
    bucket: str
    key: bytes
    version: bytes
    size: U64


class LogStateRow(Struct, array_like=True, frozen=True):
    """Term and number of the newest entry and of the newest trimmed one, and the newest entry's time."""

    term: U64 = 0
    seq: U64 = 0
    floor_term: U64 = 0
    floor_seq: U64 = 0
    time_us: int = 0


class RefusalRow(Struct, array_like=True, frozen=True):
    code: str
    what: str
    where: str
    hint: str


class OutcomeRow(Struct, array_like=True, frozen=True):
    """What became of the operation whose request has this digest.

    `info` lacks slices. A put has none: its id, and the repeated request, tell the rest, but for time and profile.
    Older rows of puts have one that lacks content type and metadata.
    """

    digest: bytes
    term: U64 = 0
    seq: U64 = 0
    removed: bool = False
    info: VersionRow | None = None
    refusal: RefusalRow | None = None
    modified_us: int = 0
    profile: str = ""


class CountersRow(Struct, array_like=True, frozen=True):
    """`objects` are the visible ones, `versions` and `bytes` (logical) those of all versions that are kept."""

    buckets: int = 0
    objects: int = 0
    versions: int = 0
    bytes: int = 0
    live_extents: int = 0
    degraded_extents: int = 0
    dropped_extents: int = 0
    uploads: int = 0
    moving_extents: int = 0
    recode_versions: int = 0
    recode_bytes: int = 0


class NumberRow(Struct, array_like=True, frozen=True):
    value: U64


class SnapshotRow(Struct, array_like=True, frozen=True):
    """The newest complete snapshot: the newest record before its first page, and after its last one; packed bytes.

    No extent of it, or of the redo that follows `first`, has an id below `begin`. stream: which it goes with; empty in
    old rows: the copy's present one.
    """

    number: U64
    first: U64
    last: U64
    size: U64
    time_us: int
    begin: IdField
    stream: bytes = b""


class CopyRow(Struct, array_like=True, frozen=True):
    """How far the copy on the cluster is: its stream, that stream's newest piece (number, link), its newest record.

    size, runs: packed bytes, and runs, that were shipped since the newest snapshot was begun. snapshots: how many were
    begun. wanted: a new one is wanted whatever the others are like.
    """

    stream: IdField
    last: U64
    number: U64 = 0
    link: bytes = bytes(32)
    size: U64 = 0
    runs: U64 = 0
    snapshots: U64 = 0
    snapshot: SnapshotRow | None = None
    wanted: bool = False


class MissingRow(Struct, array_like=True, frozen=True):
    """Log entries that were lost: those after number `after`.

    heard: the newest of them that somebody heard of, under term `term`. open: there may have been more after that.
    """

    term: U64
    after: U64
    heard: U64
    open: bool


class BegunRow(Struct, array_like=True, frozen=True):
    """That the catalog was begun anew, from what (`how`), as of which redo record, and what it lacks."""

    how: str
    time_us: int
    redo: U64
    missing: MissingRow | None = None
    acknowledged: bool = False


BUCKET: Final = Codec(BucketRow)
VERSION: Final = Codec(VersionRow)
LATEST: Final = Codec(LatestRow)
EXTENT: Final = Codec(ExtentRow)
DEGRADED: Final = Codec(DegradedRow)
LACK: Final = Codec(LackRow)
MARK: Final = Codec(MarkRow)
SLICE_LIST: Final = Codec(SliceListRow)
CHUNK: Final = Codec(ChunkRow)
UPLOAD: Final = Codec(UploadRow)
RECODE: Final = Codec(RecodeRow)
RECODE_JOB: Final = Codec(RecodeJobRow)
NAMER: Final = Codec(NamerRow)
PIN: Final = Codec(PinRow)
SPARSE: Final = Codec(SparseRow)
INDEXING: Final = Codec(IndexingRow)
LOG: Final = Codec(LogRow)
LOG_STATE: Final = Codec(LogStateRow)
OUTCOME: Final = Codec(OutcomeRow)
COUNTERS: Final = Codec(CountersRow)
NUMBER: Final = Codec(NumberRow)
COPY: Final = Codec(CopyRow)
BEGUN: Final = Codec(BegunRow)
