"""Emptying a device's folder: everything goes but a few named files. What it ends with is durable."""

from __future__ import annotations

from collections.abc import Collection

from reedbed.storaged.disk import Disk
from reedbed.storaged.index import IndexHome


def wipe(disk: Disk, home: IndexHome, keep: Collection[str]) -> None:
    """Remove all files of the folder and of the folders in it, but those of `keep`. OSError; may be done again."""
    home.remove()
    for name in disk.names():
        if name in keep:
            continue
        try:
            disk.unlink(name)
        except (IsADirectoryError, PermissionError, FileNotFoundError):  # a folder, or an index that is gone by now
            inside = disk.names(name)
            for one in inside:
                disk.unlink(f"{name}/{one}")
            if inside:
                disk.sync_folder(name)
    disk.sync_folder()
