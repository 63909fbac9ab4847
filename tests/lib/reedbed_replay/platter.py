"""What a power cut may leave of a recorded folder.

Invariants
- What was synced before the cut is there: bytes by a sync of their file, names by a sync of their folder.
- Of the rest anything may be there: each write whole, not at all, up to a sector or in some of its sectors, or as zeros
  that only made the file longer; each change of names or none, in any combination. A rename is done or not done.
- The LMDB file is as its last finished transaction left it, or, while one was under way, as that one would have left
  it. While the names `index` and `data.mdb` were not synced since it was made, it may also be absent.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from reedbed_replay.events import (
    Cut,
    Event,
    ImageBegin,
    ImageDone,
    MakeFolder,
    Names,
    Rot,
    Sync,
    SyncFolder,
    Write,
)

SECTOR: Final = 512
FIXED: Final = 4  # manners of a cut that need no chance: see `Platter.cut`


@dataclass(slots=True)
class Left:
    """A folder after a cut. image: of the LMDB file, None if it is absent."""

    files: dict[str, bytes]
    folders: set[str]
    image: bytes | None


@dataclass(slots=True)
class _Node:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write | Cut] = field(default_factory=list)


class Platter:
    """Fed with events one by one; `cut` may be asked at any time and changes nothing.

    image_folder: folder of the LMDB file, below the recorded one.
    """

    def __init__(self, image_folder: str = "index", image: bytes | None = None) -> None:
        self._nodes: dict[int, _Node] = {}
        self._names: dict[str, int] = {}
        self._changes: list[Names] = []
        self._folders: set[str] = {""}
        self._image_folder = image_folder
        self._image = image
        self._next: list[bytes | None] = []  # states that a transaction under way may leave
        self._unsynced: set[str] = set()  # folders whose sync makes the LMDB file's name durable
        self._before: bytes | None = None  # the image that is there if the new file's name is not

    def feed(self, event: Event, following: bytes | None = None) -> None:
        """`following`: what the transaction that begins now will leave."""
        match event:
            case Write() | Cut():
                self._node(event.node).pending.append(event)
            case Sync():
                node = self._node(event.node)
                for change in node.pending:
                    _apply(node.durable, change)
                node.pending.clear()
            case Rot():
                self._node(event.node).durable[event.offset] ^= event.mask
            case Names():
                self._changes.append(event)
                for number in event.changes.values():
                    if number is not None:
                        self._node(number)
            case MakeFolder():
                self._folders.add(event.name)
            case SyncFolder():
                self._sync_folder(event.folder)
            case ImageBegin():
                self._next = [following]
            case ImageDone():
                self._next = []
                if event.image is None:
                    self._before = self._image
                    self._unsynced = {"", self._image_folder}
                elif self._image is None and not self._unsynced:
                    self._before = None
                    self._unsynced = {"", self._image_folder}
                self._image = event.image

    def _sync_folder(self, folder: str) -> None:
        later = []
        for change in self._changes:
            if change.folder == folder:
                _rename(self._names, change)
            else:
                later.append(change)
        self._changes = later
        self._unsynced.discard(folder)

    def cut(self, seed: int) -> Left:
        """One state that is possible now: seed 0 loses all that was not synced, 1 nothing, 2 names only, 3 bytes only;
        others leave it to chance."""
        rng = random.Random(seed)
        keep_bytes: Callable[[], bool] = lambda: rng.random() < 0.5  # noqa: E731
        keep_names = keep_bytes
        if seed < FIXED:
            keep_bytes, keep_names = (lambda: seed in (1, 3)), (lambda: seed in (1, 2))
        names = dict(self._names)
        for change in self._changes:
            if keep_names():
                _rename(names, change)
        files = {}
        for name, number in names.items():
            node = self._node(number)
            content = bytearray(node.durable)
            for pending in node.pending:
                _survive(content, pending, keep_bytes() if seed < FIXED else None, rng)
            files[name] = bytes(content)
        return Left(files, set(self._folders), self._image_left(seed, rng))

    @classmethod
    def holding(cls, left: Left) -> Platter:
        """One that holds what a cut left, all of it durable."""
        made = cls(image=left.image)
        made._folders |= left.folders
        for number, (name, content) in enumerate(sorted(left.files.items()), 1):
            made._names[name] = number
            made._nodes[number] = _Node(bytearray(content))
        return made

    def names(self) -> dict[str, int]:
        """Nodes of the files as processes see them now."""
        names = dict(self._names)
        for change in self._changes:
            _rename(names, change)
        return names

    def nodes(self) -> int:
        """The highest number of a node."""
        return max(self._nodes, default=0)

    def live(self) -> Left:
        """The folder as processes see it now, which is what a kill leaves."""
        return self.cut(1)

    def fork(self) -> Platter:
        """Another one with the same past."""
        return copy.deepcopy(self)

    def _image_left(self, seed: int, rng: random.Random) -> bytes | None:
        oldest = self._before if self._unsynced else self._image
        newest = self._next[0] if self._next else self._image
        if seed < FIXED:
            return newest if seed in (1, 3) else oldest
        return rng.choice([oldest, self._image, newest])

    def _node(self, number: int) -> _Node:
        return self._nodes.setdefault(number, _Node())


def _apply(target: bytearray, change: Write | Cut) -> None:
    end = change.length if isinstance(change, Cut) else change.offset
    if isinstance(change, Cut):
        del target[end:]
    if len(target) < end:
        target.extend(bytes(end - len(target)))
    if isinstance(change, Write):
        target[end : end + len(change.data)] = change.data


def _survive(target: bytearray, change: Write | Cut, kept: bool | None, rng: random.Random) -> None:
    """A change that was not synced; `kept` None leaves its fate to chance."""
    fate = rng.randrange(5) if kept is None else int(kept)
    if fate == 0:
        return
    if fate == 1 or isinstance(change, Cut):
        _apply(target, change)
        return
    pieces = list(_sectors(change))
    if fate == 2:
        pieces = pieces[: rng.randrange(len(pieces) + 1)]
    elif fate == 3:
        pieces = [piece for piece in pieces if rng.random() < 0.5]
    else:
        grown = change.offset + len(change.data)
        if len(target) < grown:
            target.extend(bytes(grown - len(target)))
        return
    for piece in pieces:
        _apply(target, piece)


def _sectors(change: Write) -> list[Write]:
    pieces = []
    begin = 0
    while begin < len(change.data):
        end = min(len(change.data), SECTOR - (change.offset + begin) % SECTOR + begin)
        pieces.append(Write(change.node, change.offset + begin, change.data[begin:end]))
        begin = end
    return pieces


def _rename(target: dict[str, int], change: Names) -> None:
    for name, node in change.changes.items():
        if node is None:
            target.pop(name, None)
        else:
            target[name] = node
