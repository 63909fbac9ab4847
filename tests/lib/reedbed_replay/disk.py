"""A Disk that records everything in a Journal, and the LMDB index beside it.

The sites of syncs, such as `writer._append file`, name the function that asks for one: a disk that is told to forget
one answers that it is done and does nothing, as if the line were not there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from reedbed.common.checksums import Buffer
from reedbed.storaged.disk import File, Space
from reedbed.storaged.disk_twin import MemoryDisk
from reedbed.storaged.index_lmdb import DATA, FOLDER, LmdbHome, LmdbRows
from reedbed_replay.events import (
    Cut,
    ImageBegin,
    ImageDone,
    Journal,
    MakeFolder,
    Names,
    Rot,
    Sync,
    SyncFolder,
    Write,
)
from reedbed_replay.platter import Left, Platter


class RecordingFile:
    """A File of a RecordingDisk."""

    def __init__(self, disk: RecordingDisk, file: File, node: int) -> None:
        self._disk = disk
        self._file = file
        self._node = node

    def size(self) -> int:
        return self._file.size()

    def allocated(self) -> int:
        return self._file.allocated()

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        data = b"".join(buffers)
        with self._disk.journal.lock:
            self._file.write([data], offset)
            self._disk.journal.add(Write(self._node, offset, data))

    def read(self, offset: int, length: int) -> bytes:
        return self._file.read(offset, length)

    def read_into(self, offset: int, target: memoryview) -> int:
        return self._file.read_into(offset, target)

    def read_now(self, offset: int, length: int) -> bytes | None:
        return self._file.read_now(offset, length)

    def sync(self) -> None:
        if self._disk.forgets("file"):
            return
        with self._disk.journal.lock:
            self._file.sync()
            self._disk.journal.add(Sync(self._node))

    def punch(self, offset: int, length: int) -> bool:
        with self._disk.journal.lock:
            length = min(length, self._file.size() - offset)
            done = self._file.punch(offset, length)
            if done:
                self._disk.journal.add(Write(self._node, offset, bytes(length)))
            return done

    def allocate(self, length: int) -> None:
        with self._disk.journal.lock:
            before = self._file.size()
            self._file.allocate(length)
            if length > before:
                self._disk.journal.add(Write(self._node, before, bytes(length - before)))

    def truncate(self, length: int) -> None:
        with self._disk.journal.lock:
            self._file.truncate(length)
            self._disk.journal.add(Cut(self._node, length))

    def close(self) -> None:
        self._file.close()


class RecordingDisk:
    """Passes every call on to `inner`. `forget`: sites of syncs that are left out; `sites`: those that were met."""

    def __init__(self, inner: MemoryDisk, forget: Collection[str] = (), before: Platter | None = None) -> None:
        """`before`: what happened to the folder until now; without it `inner` is empty."""
        self.inner = inner
        self.forget = frozenset(forget)
        self.sites: set[str] = set()
        self._nodes = before.names() if before else {}
        self.journal = Journal(before.nodes() if before else 0)

    @property
    def root(self) -> Path:
        return self.inner.root

    @property
    def in_memory(self) -> bool:
        return self.inner.in_memory

    def forgets(self, what: str) -> bool:
        site = _site(sys._getframe(2), what)
        self.sites.add(site)
        return site in self.forget

    def open(self, name: str, *, create: bool = False) -> RecordingFile:
        with self.journal.lock:
            file = self.inner.open(name, create=create)
            if create:
                self._nodes[name] = self.journal.new_node()
                self.journal.add(Names(_folder(name), {name: self._nodes[name]}))
            return RecordingFile(self, file, self._nodes[name])

    def names(self, folder: str = "") -> list[str]:
        return self.inner.names(folder)

    def make_folder(self, name: str = "") -> None:
        with self.journal.lock:
            self.inner.make_folder(name)
            self.journal.add(MakeFolder(name))

    def rename(self, old: str, new: str) -> None:
        with self.journal.lock:
            self.inner.rename(old, new)
            self._nodes[new] = self._nodes.pop(old)
            self.journal.add(Names(_folder(old), {old: None, new: self._nodes[new]}))

    def unlink(self, name: str) -> None:
        with self.journal.lock:
            self.inner.unlink(name)
            del self._nodes[name]
            self.journal.add(Names(_folder(name), {name: None}))

    def sync_folder(self, folder: str = "") -> None:
        if self.forgets("folder"):
            return
        with self.journal.lock:
            self.inner.sync_folder(folder)
            self.journal.add(SyncFolder(folder))

    def space(self) -> Space:
        return self.inner.space()

    def lock(self, name: str) -> Callable[[], None]:
        return self.inner.lock(name)

    def rot(self, name: str, offset: int, mask: int) -> None:
        """The medium changes a byte that was synced."""
        with self.journal.lock:
            file = self.inner.open(name)
            file.write([bytes([file.read(offset, 1)[0] ^ mask])], offset)
            self.journal.add(Rot(self._nodes[name], offset, mask))


@contextmanager
def recorded_index(disk: RecordingDisk) -> Iterator[None]:
    """Within the context, what LMDB commits in the disk's index is recorded too."""
    path = disk.root / FOLDER / DATA
    plain_init, plain_write, plain_remove = LmdbRows.__init__, LmdbRows.write, LmdbHome.remove

    def watched(folder: Path, action: Callable[[], None]) -> None:
        if folder != disk.root / FOLDER:
            action()
            return
        disk.journal.add(ImageBegin())
        action()
        disk.journal.add(ImageDone(path.read_bytes() if path.exists() else None))

    def init(self: LmdbRows, folder: Path, *arguments: Any) -> None:
        watched(folder, lambda: plain_init(self, folder, *arguments))

    def write(self: LmdbRows, change: Any) -> None:
        watched(self.folder, lambda: plain_write(self, change))

    def remove(self: LmdbHome) -> None:
        watched(self.folder, lambda: plain_remove(self))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LmdbRows, "__init__", init)
        patch.setattr(LmdbRows, "write", write)
        patch.setattr(LmdbHome, "remove", remove)
        yield


def disk_of(left: Left, root: Path) -> MemoryDisk:
    """A disk that holds what a cut left; its index lies in `root`, an empty folder."""
    disk = MemoryDisk(root, capacity=1 << 30)
    for folder in left.folders:
        disk.make_folder(folder)
    for name, content in left.files.items():
        disk.open(name, create=True).write([content], 0)
    disk.settle()
    if left.image is not None:
        (root / FOLDER).mkdir()
        (root / FOLDER / DATA).write_bytes(left.image)
    return disk


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _site(frame: FrameType | None, what: str) -> str:
    """The innermost function of storaged that is not the file layer itself, and what it syncs."""
    via = ""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module == "reedbed.storaged.disk":
            via = f" in {frame.f_code.co_name}"
        elif module.startswith("reedbed.storaged."):
            return f"{module.rpartition('.')[2]}.{frame.f_code.co_name}{via} {what}"
        frame = frame.f_back
    return f"elsewhere {what}"
