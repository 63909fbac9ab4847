"""A disk in memory, for tests and simulation: it counts, fails on demand, and a crash drops what was not synced.

Invariants
- `durable` of a file is what a crash leaves at least; `data` is what the page cache shows. `pending` turns the first
  into the second. A failed sync clears `pending` without applying it, as Linux marks pages clean: a second sync
  "succeeds" and the bytes are lost all the same.
- Changes of names are kept in order until their folder is synced; a crash keeps a prefix of them.
- After `crash` or `stop` every call on the old disk raises OSError.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from reedbed.common.checksums import Buffer
from reedbed.storaged.disk import Space, held_by


class _Change(NamedTuple):
    """A write at `offset`, or with `data` None a truncation to `offset` bytes."""

    offset: int
    data: bytes | None


def _apply(target: bytearray, change: _Change) -> None:
    if change.data is None:
        if len(target) > change.offset:
            del target[change.offset :]
        target.extend(bytes(change.offset - len(target)))
        return
    if len(target) < change.offset:
        target.extend(bytes(change.offset - len(target)))
    target[change.offset : change.offset + len(change.data)] = change.data


class _Node:
    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = bytearray()
        self.pending: list[_Change] = []
        self.holes = 0  # bytes given back

    def change(self, change: _Change) -> None:
        _apply(self.data, change)
        self.pending.append(change)

    def survive(self, rng: random.Random) -> None:
        """Keep what was synced and any part of what was not: each write whole, cut short, or not at all."""
        for change in self.pending:
            fate = rng.randrange(3)
            if fate == 0 or (fate == 1 and change.data is None):
                continue
            if fate == 1 and change.data is not None:
                change = change._replace(data=change.data[: rng.randrange(len(change.data) + 1)])
            _apply(self.durable, change)
        self.pending.clear()
        self.data = bytearray(self.durable)


class MemoryFile:
    """One open file of a MemoryDisk."""

    def __init__(self, disk: MemoryDisk, name: str, node: _Node) -> None:
        self._disk = disk
        self._name = name
        self._node = node

    def size(self) -> int:
        return len(self._node.data)

    def allocated(self) -> int:
        return max(0, len(self._node.data) - self._node.holes)

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        data = b"".join(buffers)
        with self._disk.mutex:
            self._disk.check("write", self._name)
            grown = max(0, offset + len(data) - len(self._node.data))
            room = self._disk.space().free
            if grown > room:
                # as the system does: a part is written, then the error comes
                self._node.change(_Change(offset, data[: max(0, len(data) - grown + room // 2)]))
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._node.change(_Change(offset, data))

    def read(self, offset: int, length: int) -> bytes:
        with self._disk.mutex:
            self._disk.check("read", self._name)
            for begin, end in self._disk.unreadable.get(self._name, ()):
                if offset < end and offset + length > begin:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            return bytes(self._node.data[offset : offset + length])

    def read_into(self, offset: int, target: memoryview) -> int:
        data = self.read(offset, len(target))
        target[: len(data)] = data
        return len(data)

    def read_now(self, offset: int, length: int) -> bytes | None:
        if not self._disk.cached:
            return None
        data = self.read(offset, length)
        return data if len(data) == length else None

    def sync(self) -> None:
        with self._disk.mutex:
            try:
                self._disk.check("sync", self._name)
            except OSError:
                if not self._disk.gone:  # a power cut may still have written a part
                    self._node.pending.clear()
                raise
            for change in self._node.pending:
                _apply(self._node.durable, change)
            self._node.pending.clear()

    def punch(self, offset: int, length: int) -> bool:
        with self._disk.mutex:
            self._disk.check("punch", self._name)
            length = min(length, len(self._node.data) - offset)
            if length <= 0 or not self._disk.can_punch:
                return False
            self._node.change(_Change(offset, bytes(length)))
            self._node.holes += length
            return True

    def forget(self, offset: int, length: int) -> None:
        with self._disk.mutex:
            self._disk.check("forget", self._name)

    def allocate(self, length: int) -> None:
        grown = length - len(self._node.data)
        if grown > 0:
            self.write([bytes(grown)], len(self._node.data))

    def truncate(self, length: int) -> None:
        with self._disk.mutex:
            self._disk.check("truncate", self._name)
            self._node.change(_Change(length, None))

    def close(self) -> None:
        """Nothing is held."""


class MemoryDisk:
    """A folder in memory. `root` is a real folder, for the index that LMDB keeps by itself.

    fail: called with (operation, name) before each one; it may raise OSError.
    counts: how often each operation was called, by its name alone and with the file's name.
    capacity: bytes; writes beyond raise ENOSPC. can_punch: whether holes are supported.
    unreadable: ranges of a file that raise EIO when they are read. cached: whether reads need not wait for the disk.
    in_memory: whether it says that nothing needs to.
    """

    def __init__(self, root: Path, capacity: int = 1 << 40) -> None:
        self._root = root
        self.capacity = capacity
        self.can_punch = True
        self.cached = False
        self.in_memory = False
        self.fail: Callable[[str, str], None] | None = None
        self.counts: dict[str, int] = {}
        self.mutex = threading.RLock()
        self.unreadable: dict[str, list[tuple[int, int]]] = {}
        self._names: dict[str, _Node] = {}
        self._durable_names: dict[str, _Node] = {}
        self._changes: list[tuple[str, dict[str, _Node | None]]] = []  # folder, and what its names became
        self._folders: set[str] = {""}
        self._locks: set[str] = set()
        self.gone = False

    @property
    def root(self) -> Path:
        return self._root

    def check(self, operation: str, name: str) -> None:
        """Count an operation; raise what `fail` says, or EIO on a disk that is gone."""
        for key in (operation, f"{operation} {name}"):
            self.counts[key] = self.counts.get(key, 0) + 1
        if self.gone:
            raise OSError(errno.EIO, "the disk is gone")
        if self.fail is not None:
            self.fail(operation, name)

    def open(self, name: str, *, create: bool = False) -> MemoryFile:
        with self.mutex:
            self.check("open", name)
            if create:
                if name in self._names:
                    raise FileExistsError(errno.EEXIST, "exists", name)
                self._change(name, {name: _Node()})
            elif name not in self._names:
                raise FileNotFoundError(errno.ENOENT, "absent", name)
            return MemoryFile(self, name, self._names[name])

    def names(self, folder: str = "") -> list[str]:
        with self.mutex:
            prefix = folder + "/" if folder else ""
            found = {name[len(prefix) :] for name in self._names if name.startswith(prefix)}
            found |= {name[len(prefix) :] for name in self._folders if name.startswith(prefix) and name != folder}
            return sorted({name.partition("/")[0] for name in found if name})

    def make_folder(self, name: str = "") -> None:
        with self.mutex:
            self.check("make_folder", name)
            self._folders.add(name)
            (self._root / name).mkdir(parents=True, exist_ok=True)

    def rename(self, old: str, new: str) -> None:
        with self.mutex:
            self.check("rename", old)
            if old not in self._names:
                raise FileNotFoundError(errno.ENOENT, "absent", old)
            self._change(old, {new: self._names[old], old: None})

    def unlink(self, name: str) -> None:
        with self.mutex:
            self.check("unlink", name)
            if name not in self._names:
                raise FileNotFoundError(errno.ENOENT, "absent", name)
            self._change(name, {name: None})

    def sync_folder(self, folder: str = "") -> None:
        with self.mutex:
            self.check("sync_folder", folder)
            later = []
            for change in self._changes:
                if change[0] == folder:
                    _rename(self._durable_names, change[1])
                else:
                    later.append(change)
            self._changes = later

    def space(self) -> Space:
        with self.mutex:
            used = sum(len(node.data) - node.holes for node in self._names.values())
            return Space(max(0, self.capacity - used), self.capacity)

    def lock(self, name: str) -> Callable[[], None]:
        with self.mutex:
            self.check("lock", name)
            if name in self._locks:
                raise held_by(str(os.getpid()), str(self._root))
            self._locks.add(name)
            return lambda: self._locks.discard(name)

    def stop(self) -> None:
        """Every later call raises."""
        self.gone = True

    def crash(self, rng: random.Random) -> MemoryDisk:
        """The disk after a power cut: synced bytes and names are there, of the others whatever `rng` keeps."""
        with self.mutex:
            self.gone = True
            after = MemoryDisk(self._root, self.capacity)
            after._folders = set(self._folders)
            for _, names in self._changes[: rng.randrange(len(self._changes) + 1)]:
                _rename(self._durable_names, names)
            for node in {id(node): node for node in self._durable_names.values()}.values():
                node.survive(rng)
            after._names = dict(self._durable_names)
            after._durable_names = dict(self._durable_names)
            return after

    def content(self, name: str) -> bytearray:
        """The bytes of a file, to look at or to damage in place; follow with `settle` after damaging them."""
        return self._names[name].data

    def all_names(self) -> list[str]:
        """Every file, with its folders."""
        with self.mutex:
            return sorted(self._names)

    def all_folders(self) -> list[str]:
        with self.mutex:
            return sorted(self._folders)

    def settle(self) -> None:
        """Everything as it is now is durable."""
        for node in self._names.values():
            node.durable = bytearray(node.data)
            node.pending.clear()
        self._changes.clear()
        self._durable_names = dict(self._names)

    def _change(self, name: str, names: dict[str, _Node | None]) -> None:
        _rename(self._names, names)
        self._changes.append((name.rpartition("/")[0], names))


def _rename(target: dict[str, _Node], names: dict[str, _Node | None]) -> None:
    for name, node in names.items():
        if node is None:
            target.pop(name, None)
        else:
            target[name] = node
