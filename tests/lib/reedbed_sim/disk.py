"""The disk of a simulated machine: the twin of storaged/disk_twin.py with an index in memory, that outlives processes.

What is chosen when a disk fails, and what a power cut leaves of what was not synced, comes from the machine's source of
randomness. `doom` ends the process within one of its next operations on the disk: before it, or after it was done.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

from reedbed.storaged.disk_twin import MemoryDisk
from reedbed.storaged.index_memory import MemoryHome


class SimDisk(MemoryDisk):
    """One device's disk, as one process sees it; the next process gets another of the same medium."""

    def __init__(self, name: str, capacity: int, rng: Random) -> None:
        super().__init__(Path(name), capacity)
        self.rng = rng
        self.home = MemoryHome(self._index)
        self.doom: tuple[int, Callable[[], None]] | None = None  # operations from now, and what ends the process
        self.fail_syncs = False
        self.failing = False  # every operation fails
        self._settled: set[str] = set()  # folders that were synced since the index was made
        self.rotten: set[str] = set()  # files in which bytes were changed

    def check(self, operation: str, name: str) -> None:
        if self.doom is not None:
            left, end = self.doom
            if left <= 0 and not self.gone:
                self.doom = None
                end()
            else:
                self.doom = (left - 1, end)
        if self.gone:
            raise OSError(errno.EIO, "the disk is gone")
        if self.failing or (self.fail_syncs and operation in ("sync", "sync_folder", "index begin")):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self.fail is not None:
            self.fail(operation, name)

    def make_folder(self, name: str = "") -> None:
        with self.mutex:
            self.check("make_folder", name)
            self._folders.add(name)

    def sync_folder(self, folder: str = "") -> None:
        super().sync_folder(folder)
        self._settled.add(folder)

    def _index(self, operation: str) -> None:
        self.check(operation, "index")
        if operation == "index begin" and not self.home.begun:
            self._settled -= {"", "index"}  # LMDB syncs no folder: a new file has no name yet that a cut would leave
        if operation == "index begin" and self.space().free <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def after_kill(self) -> SimDisk:
        """For the process after one that was killed: the page cache is as it left it."""
        self.gone = True
        after = self._next()
        after._changes = self._changes
        after._names, after._durable_names = self._names, self._durable_names
        return after

    def after_cut(self) -> SimDisk:
        """After a power cut: of what was not synced, whatever chance keeps."""
        after = self._next()
        if not {"", "index"} <= self._settled and self.rng.random() < 0.5:
            after.home.remove()
        cut = self.crash(self.rng)
        after._names, after._durable_names = cut._names, cut._durable_names
        return after

    def _next(self) -> SimDisk:
        after = SimDisk(str(self.root), self.capacity, self.rng)
        after._folders = set(self._folders)
        after._settled = self._settled
        after.fail_syncs, after.failing, after.rotten = self.fail_syncs, self.failing, self.rotten
        after.home = self.home.crash(after._index)
        return after

    def rot(self, name: str, offset: int, mask: int) -> None:
        """The medium changes a byte."""
        node = self._names[name]
        for held in (node.data, node.durable):
            if offset < len(held):
                held[offset] ^= mask
        node.pending = [
            change._replace(data=_flipped(change.data, offset - change.offset, mask))
            if change.data is not None and 0 <= offset - change.offset < len(change.data)
            else change
            for change in node.pending
        ]
        self.rotten.add(name)


def _flipped(data: bytes, at: int, mask: int) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]
