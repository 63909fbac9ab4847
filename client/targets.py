"""What is looked up, and what a lookup finds."""

from __future__ import annotations

from typing import NamedTuple

from reedbed.common.checksums import format_checksum
from reedbed.common.ids import Id, format_id
from reedbed.protos import catalog_pb2
from reedbed.protos.convert import info_from_message
from reedbed.protos.names import shown
from reedbed.protos.types import Extent, ObjectInfo, Slice


class Target(NamedTuple):
    """A version of an object, the latest without `version`."""

    bucket: str
    key: bytes
    version: Id | None = None

    @property
    def where(self) -> str:
        return f"{self.bucket}/{shown(self.key)}" + (f" version {format_id(self.version)}" if self.version else "")

    def message(self, known: bytes = b"") -> catalog_pb2.Target:
        """Its message, with the token of what is known of it."""
        return catalog_pb2.Target(bucket=self.bucket, key=self.key, version=self.version or b"", known=known)


class Content:
    """A version with where its bytes are: slices in order, from index `first` on, and the extents that they name."""

    __slots__ = ("_info", "checksum", "extents", "more", "raw_info", "size", "slices", "token")

    def __init__(
        self,
        info: catalog_pb2.ObjectInfo,
        slices: tuple[Slice, ...],
        extents: dict[bytes, Extent],
        more: bool,
        token: bytes = b"",
    ) -> None:
        # not the message itself: it keeps all others of its answer in memory
        self.raw_info = info.SerializeToString()
        self._info: ObjectInfo | None = None
        self.size = info.size
        self.checksum = info.checksum
        self.slices = slices
        self.extents = extents
        self.more = more
        self.token = token

    @property
    def info(self) -> ObjectInfo:
        """What the catalog tells of the version, made when it is first asked for: small reads do without."""
        if self._info is None:
            self._info = info_from_message(catalog_pb2.ObjectInfo.FromString(self.raw_info))
        return self._info

    def altered(self, value: int) -> str:
        """What is to be said where the bytes have this CRC32C instead of the version's."""
        return f"the content has {format_checksum(value)} instead of {format_checksum(self.checksum)}"
