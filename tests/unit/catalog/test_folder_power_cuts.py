"""Every prefix of a catalog folder's recorded life, cut: identity and mark of an orderly close beside LMDB's own file.

What folder.py does is recorded at the calls of the system that it makes; LMDB's file is taken as its last synced
transaction left it (see tests/lib/reedbed_replay). One sync of folder.py at a time is left out and must be missed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from reedbed_replay.events import ImageBegin, ImageDone, Journal, Names, Sync, SyncFolder, Write
from reedbed_replay.platter import FIXED, Left, Platter

from reedbed.catalog import folder as folders
from reedbed.catalog import lmdb_engine
from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.common.errors import ReedbedError
from reedbed.common.ids import Id

CLUSTER = Id(b"the test cluster")
CLEAN = "clean.txt"
SMALL = {"cluster": CLUSTER, "map_first": 1 << 20, "map_room": 1 << 18, "reserve": 0, "check": False}


class Recorder:
    """Stands for the module `os` within folder.py, and for `open`. `forget`: sites of syncs that are left out."""

    def __init__(self, path: Path, forget: Collection[str]) -> None:
        self.journal = Journal()
        self.sites: set[str] = set()
        self._path = path
        self._forget = forget
        self._nodes: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open_file(self, path: Path, mode: str) -> Any:
        self._nodes[path.name] = self.journal.new_node()
        self.journal.add(Names("", {path.name: self._nodes[path.name]}))
        return open(path, mode)

    def fsync(self, fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path != self._path and path.parent != self._path:
            return  # a folder above
        if path != self._path:
            self.journal.add(Write(self._nodes[path.name], 0, path.read_bytes()))
        site = self._site("folder" if path == self._path else "file")
        self.sites.add(site)
        if site not in self._forget:
            self.journal.add(SyncFolder("") if path == self._path else Sync(self._nodes[path.name]))

    def replace(self, old: Path, new: Path) -> None:
        os.replace(old, new)
        self._nodes[new.name] = self._nodes.pop(old.name)
        self.journal.add(Names("", {old.name: None, new.name: self._nodes[new.name]}))

    def unlink(self, path: Path) -> None:
        os.unlink(path)
        self.journal.add(ImageDone(None) if path.name == "data.mdb" else Names("", {path.name: None}))

    def image(self) -> ImageDone:
        return ImageDone((self._path / "data.mdb").read_bytes())

    def _site(self, what: str) -> str:
        frame, names = sys._getframe(2), []
        while frame is not None and frame.f_globals.get("__name__") == "reedbed.catalog.folder":
            if frame.f_code.co_name not in ("_write_synced", "_sync_folder", "_write_identity"):
                names.append(frame.f_code.co_name)
            frame = frame.f_back  # type: ignore[assignment]
        return f"{names[0]} {what}"


@contextmanager
def recorded(recorder: Recorder) -> Iterator[None]:
    plain_open, plain_trees, plain_commit = LmdbEngine._open_env, lmdb_engine.open_trees, LmdbEngine._commit

    def watched(action: Any) -> Any:
        recorder.journal.add(ImageBegin())
        result = action()
        recorder.journal.add(recorder.image())
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "os", recorder)
        patch.setattr(folders, "open", recorder.open_file, raising=False)
        patch.setattr(LmdbEngine, "_open_env", lambda self, first: watched(lambda: plain_open(self, first)))
        patch.setattr(lmdb_engine, "open_trees", lambda env: watched(lambda: plain_trees(env)))
        patch.setattr(LmdbEngine, "_commit", lambda self, txn: watched(lambda: plain_commit(self, txn)))
        yield


class Life:
    """A folder made, used, closed in order, used again. Positions: of begin and answer of each commit and opening."""

    def __init__(self, path: Path, forget: Collection[str] = ()) -> None:
        path.mkdir()
        self.recorder = Recorder(path, forget)
        self.commits: list[tuple[int, int]] = []  # number n sets the row n
        self.cleans: list[tuple[int, int]] = []  # an opening that took a mark, to the next orderly close
        with recorded(self.recorder):
            for clean in (True, False, True, True):
                engine = LmdbEngine(path, **SMALL)  # type: ignore[arg-type]
                opened = self._here
                for _ in range(2):
                    begin = self._here
                    with engine.write() as writer:
                        writer.put(b"row%04d" % len(self.commits), b"x" * 100)
                    self.commits.append((begin, self._here))
                closing = self._here
                if clean:
                    engine.close()
                else:
                    with pytest.MonkeyPatch.context() as patch:
                        patch.setattr(folders.Folder, "mark_closed_in_order", lambda self: None)
                        engine.close()
                self.cleans.append((opened, closing))

    @property
    def _here(self) -> int:
        return self.recorder.journal.position

    def fault(self, left: Left, path: Path, cut: int) -> str:
        """What is wrong with the folder after a cut, the empty string if nothing is."""
        path.mkdir()
        for name, content in left.files.items():
            (path / name).write_bytes(content)
        if left.image is not None:
            (path / "data.mdb").write_bytes(left.image)
        if CLEAN in left.files and any(opened < cut <= closing for opened, closing in self.cleans):
            return "the mark of an orderly close is there while the catalog is open"
        try:
            engine = LmdbEngine(path, **SMALL)  # type: ignore[arg-type]
        except ReedbedError as error:
            return f"it does not open: {error}"
        try:
            with engine.read() as reader:
                found = {int(key[3:]) for key, _ in reader.scan(b"row", b"rox")}
        finally:
            engine.close()
        for number, (begin, end) in enumerate(self.commits):
            if end <= cut and number not in found:
                return f"commit {number} is lost"
            if begin >= cut and number in found:
                return f"commit {number} had not begun"
        return ""


def first_fault(life: Life, root: Path) -> str:
    platter = Platter(image_folder="")
    seen: set[int] = set()
    events = life.recorder.journal.events
    for cut, event in enumerate(events, 1):
        following = None
        if isinstance(event, ImageBegin):
            following = next(one.image for one in events[cut:] if isinstance(one, ImageDone))
        platter.feed(event, following)
        for manner in [*range(FIXED), *range(FIXED + cut * 10, FIXED + cut * 10 + 8)]:
            left = platter.cut(manner)
            key = hash((cut, left.image, *sorted(left.files.items())))
            if key in seen:
                continue
            seen.add(key)
            fault = life.fault(left, root / str(len(seen)), cut)
            if fault:
                return f"cut {cut} behind {str(event)[:120]}, manner {manner}: {fault}"
    return ""


def test_every_prefix_of_a_folders_life_keeps_what_was_committed(tmp_path: Path) -> None:
    life = Life(tmp_path / "life")
    assert first_fault(life, tmp_path) == ""
    # without the mark the next opening reads everything once more, that is all
    assert life.recorder.sites == {*NEEDED, "mark_closed_in_order file", "mark_closed_in_order folder"}


NEEDED = [
    "_settle file",
    "_settle folder",
    "finish_creating file",
    "finish_creating folder",
    "was_closed_in_order folder",
]


@pytest.mark.parametrize("site", NEEDED)
def test_every_sync_of_the_folder_is_needed(tmp_path: Path, site: str) -> None:
    assert first_fault(Life(tmp_path / "life", {site}), tmp_path) != ""
