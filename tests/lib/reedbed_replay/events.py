"""What happened to a folder, in order. Files are numbered nodes, so that a rename moves a name and no bytes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at an offset; a hole and room taken in advance are zeros."""

    node: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Cut:
    """The file ends at `length` now."""

    node: int
    length: int


@dataclass(frozen=True, slots=True)
class Sync:
    """All before is durable, but not the file's name."""

    node: int


@dataclass(frozen=True, slots=True)
class Names:
    """A file was made, renamed or unlinked: what these names, below one folder, mean now (None: nothing)."""

    folder: str
    changes: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class SyncFolder:
    """Names that changed in the folder are durable."""

    folder: str


@dataclass(frozen=True, slots=True)
class MakeFolder:
    """A folder was made durably."""

    name: str


@dataclass(frozen=True, slots=True)
class Rot:
    """The medium itself changed a byte (xor `mask`)."""

    node: int
    offset: int
    mask: int


@dataclass(frozen=True, slots=True)
class ImageBegin:
    """LMDB began a synced transaction: until the end of it, a cut leaves the old or the new state."""


@dataclass(frozen=True, slots=True)
class ImageDone:
    """LMDB's file as a synced transaction left it, None: it was removed."""

    image: bytes | None


Event: TypeAlias = Write | Cut | Sync | Names | SyncFolder | MakeFolder | Rot | ImageBegin | ImageDone


class Journal:
    """A growing list of events. A position is a number of events. For many threads."""

    def __init__(self, nodes: int = 0) -> None:
        """`nodes`: numbers up to this one are taken."""
        self.lock = threading.RLock()
        self.events: list[Event] = []
        self._nodes = nodes

    def add(self, event: Event) -> None:
        with self.lock:
            self.events.append(event)

    def new_node(self) -> int:
        with self.lock:
            self._nodes += 1
            return self._nodes

    @property
    def position(self) -> int:
        return len(self.events)
