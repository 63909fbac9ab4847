"""What the two ends of a copy are: local paths, objects or prefixes, standard input or output. Pure, but for `exists`.

Also the rules for which keys a local path can hold, and the filters of --include and --exclude.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from reedbed.client.urls import SCHEME, format_url, is_url, parse_url
from reedbed.common.errors import InvalidArgument
from reedbed.protos.names import shown

NAME_MAX: Final = 255  # bytes of one name on Linux's file systems


@dataclass(frozen=True, slots=True)
class Local:
    """A file or folder here. `folder` is set if the text ended with a slash."""

    path: Path
    folder: bool = False

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Remote:
    """A bucket, prefix or object; `key` may be empty. Its text holds the key as it is: who prints it escapes it."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return format_url(self.bucket, self.key)


@dataclass(frozen=True, slots=True)
class Stream:
    """Standard input or output."""

    def __str__(self) -> str:
        return "-"


Location: TypeAlias = Local | Remote | Stream


def parse_location(text: str) -> Location:
    """`-`, reedbed://BUCKET[/KEY], or a local path; another scheme is InvalidArgument."""
    if text == "-":
        return Stream()
    if is_url(text):
        return Remote(*parse_url(text))
    if "://" in text:
        raise InvalidArgument(f"{shown(text)!r} is neither a local path nor a {SCHEME} URL")
    if not text:
        raise InvalidArgument("the path is empty")
    if "\0" in text:
        raise InvalidArgument(f"no local path has a NUL: {shown(text)!r}")
    return Local(Path(text), text.endswith("/"))


def name_of(source: Local | Remote | Stream) -> str:
    """The last part of a path or key; empty where there is none."""
    match source:
        case Local(path):
            return path.name
        case Remote(_, key):
            return key.rstrip("/").rpartition("/")[2]
        case Stream():
            return ""


def one_target(source: Local | Remote | Stream, target: Location) -> Location:
    """Where a single source goes: into `target` under its own name if that is a folder, a bucket or a prefix."""
    name = name_of(source)
    match target:
        case Remote(bucket, key) if not key or key.endswith("/"):
            if not name:
                raise InvalidArgument(f"{target} names no object, and the source has no name to give it")
            return Remote(bucket, key + name)
        case Local(path, folder) if folder or path.is_dir():
            if not name:
                raise InvalidArgument(f"{target} is a folder, and the source has no name to give")
            reason = unsafe(name)
            if reason:
                raise InvalidArgument(f"no local name for {source}: {reason}", hint="Name the local file")
            return Local(path / name)
        case _:
            return target


def folder_prefix(remote: Remote) -> str:
    """The prefix that the contents of a tree have: with a slash at its end, unless it is the whole bucket."""
    return remote.key if not remote.key or remote.key.endswith("/") else remote.key + "/"


def unsafe(relative: str) -> str | None:
    """Why no safe local path can hold a key (relative to the prefix that is copied); None if one can."""
    if relative.startswith("/"):
        return "it begins with /"
    if "\0" in relative:
        return "it has a NUL"
    for name in relative.split("/"):
        if name == "":
            return "it has an empty name between slashes"
        if name in (".", ".."):
            return f"it has {name} as a name"
        if len(name.encode("utf-8", "surrogateescape")) > NAME_MAX:
            return f"it has a name of over {NAME_MAX} bytes"
    return None


class Shadows:
    """Finds keys that lie below another key, as `a/b` below `a`: no file system holds both.

    Keys come in bytewise order, so those that may lie above the next one are prefixes of the one before.
    """

    def __init__(self) -> None:
        self._above: list[str] = []

    def above(self, key: str) -> str | None:
        """An earlier key that `key` lies below, if any."""
        while self._above and not key.startswith(self._above[-1]):
            self._above.pop()
        found = next((earlier for earlier in self._above if key.startswith(earlier + "/")), None)
        if found is None:
            self._above.append(key)
        return found


@dataclass(frozen=True, slots=True)
class Filters:
    """--include and --exclude as in `aws s3`: everything is included, and the last pattern that matches decides.

    A pattern stands with True if it includes.
    """

    patterns: Sequence[tuple[bool, str]] = ()

    def match(self, relative: str) -> bool:
        included = True
        for include, pattern in self.patterns:
            if fnmatch.fnmatchcase(relative, pattern):
                included = include
        return included


def overlap(one: Remote, other: Remote) -> bool:
    """Whether two trees share keys: one is the other, or lies below it."""
    if one.bucket != other.bucket:
        return False
    first, second = folder_prefix(one), folder_prefix(other)
    return first.startswith(second) or second.startswith(first)


def filters_in_order(arguments: Iterable[str]) -> Filters:
    """The filters of a command line, in the order in which they stand there."""
    patterns: list[tuple[bool, str]] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            break
        for option, include in (("--include", True), ("--exclude", False)):
            if argument == option:
                patterns.append((include, next(rest, "")))
            elif argument.startswith(option + "="):
                patterns.append((include, argument.partition("=")[2]))
    return Filters(tuple(patterns))
