"""Walks a tree of files here, in the order that a bucket would list it in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import Final

from reedbed.cli.locations import Local, Remote
from reedbed.client.system import PART_PREFIX
from reedbed.protos.types import from_us

_PART: Final = re.compile(re.escape(PART_PREFIX) + "[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or object of a tree: its name relative to the tree's top, its size in bytes, and when it changed.

    `through_link`: it lies in a folder that only a symbolic link brings into the tree. `version`: of an object.
    """

    relative: str
    size: int
    modified: datetime
    where: Local | Remote
    through_link: bool = False
    version: str = ""


@dataclass(frozen=True, slots=True)
class Skip:
    """Something of the source that is not copied, and why. `folder`: it stands for all that would lie below it."""

    what: str
    reason: str
    relative: str
    folder: bool = False


@dataclass(frozen=True, slots=True)
class _Child:
    """One name in a folder, with a slash behind it if it is a folder itself."""

    name: str
    stat: os.stat_result | OSError
    link: bool


@dataclass(slots=True)
class _Level:
    """A folder that is being walked. `mark` tells it from all others, by whatever name it is reached."""

    relative: str
    children: Iterator[_Child]
    mark: tuple[int, int]
    through_link: bool


def modified_at(ns: int) -> datetime:
    """A file's time in whole microseconds, which is as fine as the catalog's."""
    return from_us(ns // 1000)


def _children(folder: Path, follow: bool) -> list[_Child]:
    """Names and what they are, in bytewise order of the keys below them."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _PART.fullmatch(entry.name):
                continue  # left behind by a download that was killed
            try:
                stat = entry.stat(follow_symlinks=follow)
                name = entry.name + "/" if S_ISDIR(stat.st_mode) else entry.name
                found.append(_Child(name, stat, entry.is_symlink()))
            except OSError as error:
                found.append(_Child(entry.name, error, False))
    found.sort(key=lambda child: os.fsencode(child.name))
    return found


def local_tree(top: Path, *, follow: bool = True) -> Iterator[Entry | Skip]:
    """All regular files below a folder. With `follow` also what links lead to; without, links are left out.

    A Skip stands for each link that leads back up, socket, pipe, device, and for what cannot be read.
    """
    levels: list[_Level] = []

    def enter(relative: str, stat: os.stat_result, through_link: bool) -> str | None:
        """Goes down into a folder, or tells why not."""
        mark = (stat.st_dev, stat.st_ino)
        if any(level.mark == mark for level in levels):
            return "it is a link to a folder that it lies in"
        try:
            children = _children(top / relative, follow)
        except OSError as error:
            return error.strerror or str(error)
        levels.append(_Level(relative, iter(children), mark, through_link))
        return None

    reason = enter("", top.stat(), False)
    if reason:
        yield Skip(str(top), reason, "", folder=True)
    while levels:
        level = levels[-1]
        child = next(level.children, None)
        if child is None:
            levels.pop()
            continue
        path, stat = level.relative + child.name, child.stat
        reason = None
        if isinstance(stat, OSError):
            reason = stat.strerror or str(stat)
        elif S_ISDIR(stat.st_mode):
            reason = enter(path, stat, level.through_link or child.link)
        elif S_ISREG(stat.st_mode):
            yield Entry(path, stat.st_size, modified_at(stat.st_mtime_ns), Local(top / path), level.through_link)
        elif not S_ISLNK(stat.st_mode):
            reason = "it is not a regular file"
        if reason:
            yield Skip(str(top / path), reason, path, folder=path.endswith("/"))
