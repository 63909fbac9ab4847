"""The one door to the files of a device: segments, identity and reserve are reached through `Disk` only.

`RealDisk` is the system's file system below one folder; `disk_twin.MemoryDisk` keeps everything in memory, counts
calls, fails on demand and forgets on a crash whatever was not synced. Both pass one suite. The LMDB index is not
reached through it: LMDB opens its own files below `root`.

Names are relative to the folder, with `/` between parts. All calls raise OSError as the system does.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from reedbed.common.checksums import Buffer
from reedbed.common.errors import Unavailable

IOV_MAX: Final = 1024  # buffers that Linux takes in one pwritev
_KEEP_SIZE_AND_PUNCH: Final = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
# What the system lacks, not the disk: it says nothing of what lies there, and may be had again a moment later
NOT_THE_DISK: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_OF_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_NO_HOLES: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})


class Space(NamedTuple):
    """Bytes of a file system: free to this process, and in all."""

    free: int
    total: int


class Readable(Protocol):
    """What a walk over records needs of a file."""

    def read(self, offset: int, length: int) -> bytes: ...


class File(Protocol):
    """One open file. Safe for many threads; after `close` nothing may be called."""

    def size(self) -> int: ...

    def allocated(self) -> int:
        """Bytes of disk that the file takes; less than its size where holes are."""

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        """All buffers, one after the other, at `offset`. Durable after `sync`; after an error any part may be there."""

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes; fewer only at the end of the file."""

    def read_into(self, offset: int, target: memoryview) -> int:
        """Fills `target`; returns how many bytes there were, fewer than it takes only at the end of the file."""

    def read_now(self, offset: int, length: int) -> bytes | None:
        """As `read` where all of it is in memory; None, and nothing waited for, where it is not, or nobody can tell."""

    def sync(self) -> None:
        """fdatasync: what was written and the size are durable. Once it failed, nothing about the file is known."""

    def punch(self, offset: int, length: int) -> bool:
        """Give the range's room back; it reads as zeros then. False, and no change, where the file system cannot."""

    def forget(self, offset: int, length: int) -> None:
        """Let the page cache drop what it holds of the range: the next read comes from the disk itself."""

    def allocate(self, length: int) -> None:
        """Take room for `length` bytes from the start on."""

    def truncate(self, length: int) -> None: ...

    def close(self) -> None: ...


class Disk(Protocol):
    """One folder."""

    @property
    def root(self) -> Path: ...

    @property
    def in_memory(self) -> bool:
        """Whether no call waits for anything, since the file system keeps all in memory."""

    def open(self, name: str, *, create: bool = False) -> File:
        """An existing file, or with `create` a new one (FileExistsError if there is one)."""

    def names(self, folder: str = "") -> list[str]:
        """Names in a folder, sorted; none if the folder is absent."""

    def make_folder(self, name: str = "") -> None:
        """Make a folder durably; nothing happens if it is there."""

    def rename(self, old: str, new: str) -> None: ...

    def unlink(self, name: str) -> None: ...

    def sync_folder(self, folder: str = "") -> None:
        """Names made, renamed and unlinked in the folder are durable."""

    def space(self) -> Space: ...

    def lock(self, name: str) -> Callable[[], None]:
        """Hold a lock for the life of the process, or until what is returned is called. Unavailable if it is held."""


def read_whole(disk: Disk, name: str) -> bytes:
    """The content of a small file; FileNotFoundError if it is absent."""
    file = disk.open(name)
    try:
        return file.read(0, file.size())
    finally:
        file.close()


def replace_whole(disk: Disk, name: str, content: bytes) -> None:
    """Put `content` in place of a small file, durably: after a crash the old or the new content is there, whole."""
    temporary = name + ".new"
    folder = name.rpartition("/")[0]
    if temporary.rpartition("/")[2] in disk.names(folder):
        disk.unlink(temporary)  # of a crash between making and renaming it
    file = disk.open(temporary, create=True)
    try:
        file.write([content], 0)
        file.sync()
    finally:
        file.close()
    disk.rename(temporary, name)
    disk.sync_folder(folder)


def _find_fallocate() -> Callable[[int, int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    function.restype = ctypes.c_int
    return lambda fd, mode, offset, length: int(function(fd, mode, offset, length))


_fallocate = _find_fallocate()


class RealFile:
    """A file of the system."""

    def __init__(self, fd: int, in_memory: bool = False) -> None:
        self._fd = fd
        self._in_memory = in_memory
        self._nowait = hasattr(os, "RWF_NOWAIT")

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def allocated(self) -> int:
        return os.fstat(self._fd).st_blocks * 512

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        for first in range(0, len(buffers), IOV_MAX):
            group = buffers[first : first + IOV_MAX]
            total = sum(map(len, group))
            written = os.pwritev(self._fd, group, offset)
            if written < total:
                written += self._write_rest(group, offset, written)
            offset += total

    def _write_rest(self, group: Sequence[Buffer], offset: int, written: int) -> int:
        """The system took only a part: write the rest piece by piece. Returns its length."""
        rest = 0
        position = 0
        for buffer in group:
            view = memoryview(buffer)
            begin = max(0, written - position)
            position += len(view)
            while begin < len(view):
                count = os.pwrite(self._fd, view[begin:], offset + position - len(view) + begin)
                begin += count
                rest += count
        return rest

    def read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        if len(data) == length or not data:
            return data
        pieces = [data]
        got = len(data)
        while got < length and (data := os.pread(self._fd, length - got, offset + got)):
            pieces.append(data)
            got += len(data)
        return b"".join(pieces)

    def read_into(self, offset: int, target: memoryview) -> int:
        got = 0
        while got < len(target) and (count := os.preadv(self._fd, [target[got:]], offset + got)):
            got += count
        return got

    def read_now(self, offset: int, length: int) -> bytes | None:
        if self._in_memory:
            return self.read(offset, length)
        if not self._nowait:
            return None
        target = bytearray(length)
        try:
            got = os.preadv(self._fd, [target], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                self._nowait = False
            elif error.errno != errno.EAGAIN:
                raise
            return None
        return bytes(target) if got == length else None  # the rest is not in memory, or the file ends

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def punch(self, offset: int, length: int) -> bool:
        if _fallocate is None or length <= 0:
            return False
        if _fallocate(self._fd, _KEEP_SIZE_AND_PUNCH, offset, length) == 0:
            return True
        number = ctypes.get_errno()
        if number in _NO_HOLES:
            return False
        raise OSError(number, os.strerror(number))

    def forget(self, offset: int, length: int) -> None:
        # whole pages only are dropped, so the broken ones at both ends are taken in
        begin = offset // _PAGE * _PAGE
        end = -(-(offset + length) // _PAGE) * _PAGE
        os.posix_fadvise(self._fd, begin, end - begin, os.POSIX_FADV_DONTNEED)

    def allocate(self, length: int) -> None:
        os.posix_fallocate(self._fd, 0, length)

    def truncate(self, length: int) -> None:
        os.ftruncate(self._fd, length)

    def close(self) -> None:
        os.close(self._fd)


class RealDisk:
    """The folder `root` of the system; it is made with `make_folder`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._in_memory: bool | None = None

    @property
    def root(self) -> Path:
        return self._root

    @property
    def in_memory(self) -> bool:
        if self._in_memory is None:
            self._in_memory = _file_system(os.stat(self._root).st_dev) in _OF_MEMORY
        return self._in_memory

    def open(self, name: str, *, create: bool = False) -> RealFile:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        return RealFile(os.open(self._root / name, flags, 0o640), self.in_memory)

    def names(self, folder: str = "") -> list[str]:
        try:
            return sorted(os.listdir(self._root / folder))
        except FileNotFoundError:
            return []

    def make_folder(self, name: str = "") -> None:
        path = self._root / name
        missing = [path, *path.parents]
        made = [folder for folder in missing if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in made:
            _sync_path(folder.parent)

    def rename(self, old: str, new: str) -> None:
        os.rename(self._root / old, self._root / new)

    def unlink(self, name: str) -> None:
        os.unlink(self._root / name)

    def sync_folder(self, folder: str = "") -> None:
        _sync_path(self._root / folder)

    def space(self) -> Space:
        found = os.statvfs(self._root)
        return Space(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)

    def lock(self, name: str) -> Callable[[], None]:
        fd = os.open(self._root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise held_by(holder, str(self._root)) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        return lambda: os.close(fd)


def held_by(pid: str, where: str) -> Unavailable:
    """The error of a folder that another process serves."""
    return Unavailable(
        f"the device folder is in use by process {pid}",
        where=where,
        hint="Stop that process, or name another folder",
        retryable=False,
    )


def _file_system(device: int) -> str:
    """The kind of the file system with this device number, the empty string if it cannot be told."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in mounts:
        mount, _, source = line.partition(" - ")
        if mount.split(" ", 3)[2] == number:
            return source.split(" ", 1)[0]
    return ""


def _sync_path(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
