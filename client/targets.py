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

    def message(self) -> catalog_pb2.Target:
        return catalog_pb2.Target(bucket=self.bucket, key=self.key, version=self.version or b"")


class Content:
    """A version with where its bytes are: slices in order, from index `first` on, and the extents that they name."""

    __slots__ = ("_info", "_message", "checksum", "extents", "more", "size", "slices")

    def __init__(
        self, message: catalog_pb2.ObjectInfo, slices: tuple[Slice, ...], extents: dict[bytes, Extent], more: bool
    ) -> None:
        self._message = message
        self._info: ObjectInfo | None = None
        self.size = message.size
        self.checksum = message.checksum
        self.slices = slices
        self.extents = extents
        self.more = more

    @property
    def info(self) -> ObjectInfo:
        """What the catalog tells of the version, made when it is first asked for: small reads do without."""
        if self._info is None:
            self._info = info_from_message(self._message)
        return self._info

    def altered(self, value: int) -> str:
        """What is to be said where the bytes have this CRC32C instead of the version's."""
        return f"the content has {format_checksum(value)} instead of {format_checksum(self.checksum)}"
