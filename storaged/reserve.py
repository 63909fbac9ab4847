"""Room on the disk that puts may not take, so that a full device can still be emptied.

The file `reserve` holds room that other users of the disk cannot take either; it is given up when a removal or a
checkpoint meets a full disk, and taken again when there is plenty. Puts are refused as soon as less than the reserve's
size is free, or the device's own capacity is used up.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable
from typing import Final

from reedbed.common.limits import MIB
from reedbed.storaged.disk import NOT_THE_DISK, Disk

NAME: Final = "reserve"
RESERVE_BYTES: Final = 16 * MIB
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_PLENTY: Final = 4  # times the reserve must be free before it is taken


def reserve_size(capacity: int, wanted: int = RESERVE_BYTES) -> int:
    """A small device keeps a smaller reserve."""
    return min(wanted, capacity // 16)


class Reserve:
    """The reserve of one device. For many threads."""

    def __init__(self, disk: Disk, capacity: int, size: int, used: Callable[[], int]) -> None:
        """`capacity` 0 means the whole disk; `used` tells the device's own bytes."""
        self._disk = disk
        self._capacity = capacity
        self._used = used
        self._lock = threading.Lock()
        self.size = reserve_size(self.capacity(), size)

    def capacity(self) -> int:
        total = self._disk.space().total
        return min(total, self._capacity) if self._capacity else total

    def room(self) -> int:
        """Bytes that puts may take now."""
        space = self._disk.space()
        own = (min(space.total, self._capacity) if self._capacity else space.total) - self._used()
        return max(0, min(space.free - self.size, own))

    def take(self) -> None:
        """Take the reserve if it is not held and there is plenty of room. A disk that is full meanwhile is no error."""
        with self._lock:
            if NAME in self._disk.names() or self._disk.space().free < _PLENTY * self.size:
                return
            try:
                file = self._disk.open(NAME, create=True)
            except OSError as error:
                if error.errno in NO_ROOM or error.errno in NOT_THE_DISK:
                    return  # not even for its name
                raise
            try:
                file.allocate(self.size)
            except OSError:
                self._disk.unlink(NAME)
            finally:
                file.close()

    def helping(self, action: Callable[[], None]) -> None:
        """Do what a full device needs in order to be emptied: if the disk is full, once more without the reserve."""
        try:
            action()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self.release()
            action()

    def release(self) -> None:
        """Give the room back."""
        with self._lock, contextlib.suppress(FileNotFoundError):
            self._disk.unlink(NAME)
