"""An ext4 file system in a file, on a loop device, whose power can be cut: what the kernel did not write is gone.

The cut is the file system's own: EXT4_IOC_SHUTDOWN without a flush of the journal. From then on every call fails with
EIO, and nothing in the page cache reaches the device any more. What a sync wrote before is in the image. What this
cannot show is a drive that lies about its own cache.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

_SHUTDOWN: Final = 0x8004587D  # EXT4_IOC_SHUTDOWN
_NO_LOG_FLUSH: Final = 2
SIZE: Final = 2 << 30  # of a sparse file
# the journal is written when somebody syncs, not by time: a control run without syncs would else keep most
_OPTIONS: Final = "commit=300"


class CutDisk:
    """A mounted file system at `mount`."""

    def __init__(self, folder: Path) -> None:
        """Fails the test, saying what to do, where this machine or user cannot."""
        if os.geteuid() != 0:
            pytest.fail("the power cut needs root, for loop devices and mounts: run `sudo make soak`")
        for tool, package in (("mkfs.ext4", "e2fsprogs"), ("losetup", "mount"), ("mount", "mount")):
            if shutil.which(tool) is None:
                pytest.fail(f"the power cut needs {tool}: apt-get install {package}")
        self.mount = folder / "mount"
        self.mount.mkdir(parents=True)
        self._image = folder / "image"
        self._device = ""
        with self._image.open("wb") as file:
            file.truncate(SIZE)
        _run(["mkfs.ext4", "-q", "-F", str(self._image)])
        self._device = _run(["losetup", "--find", "--show", str(self._image)]).strip()
        try:
            self.mount_again()
        except BaseException:
            self._detach()
            raise

    def cut(self) -> None:
        """The power is gone. Processes that use the file system must be ended before `mount_again`."""
        folder = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(folder)

    def mount_again(self) -> None:
        """The machine starts again: the journal is replayed."""
        if self.mount.is_mount():
            _run(["umount", str(self.mount)])
        _run(["mount", "-o", _OPTIONS, self._device, str(self.mount)])

    def close(self) -> None:
        if self.mount.is_mount():
            _run(["umount", str(self.mount)])
        self._detach()

    def _detach(self) -> None:
        _run(["losetup", "--detach", self._device])
        self._image.unlink()


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(
            f"{' '.join(command)} failed: {done.stderr.strip()}. The power cut needs loop devices and ext4 "
            "(in a container: --privileged)"
        )
    return done.stdout
