from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reedbed.cli.localtree import Entry, Skip, local_tree

NAMES = st.text(alphabet="ab!-.0é\n", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="reedbed-test-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def files(top: Path, **options: bool) -> list[str]:
    return [entry.relative for entry in local_tree(top, **options) if isinstance(entry, Entry)]


def skips(top: Path) -> list[Skip]:
    return [entry for entry in local_tree(top) if isinstance(entry, Skip)]


@given(st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=12))
@settings(max_examples=60, deadline=None)
def test_files_come_in_the_order_of_their_keys(paths: list[list[str]]) -> None:
    with folder() as top:
        made = set()
        for names in paths:
            path = top.joinpath(*names)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x")
            except OSError:
                continue  # a file stands where a folder should be, or the other way round
            made.add("/".join(names))
        assert files(top) == sorted(made, key=lambda name: name.encode())


def test_names_that_are_not_utf8_are_in_order_too(tmp_path: Path) -> None:
    for name in (b"a\xff", b"a", "aé".encode(), b"a\xffz"):
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).write_bytes(b"")
    found = [os.fsencode(name) for name in files(tmp_path)]
    assert found == sorted(found)
    assert len(found) == 4


def test_an_entry_tells_size_and_time_to_the_microsecond(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    os.utime(path, ns=(0, 1_700_000_000_123_456_999))
    (entry,) = local_tree(tmp_path)
    assert isinstance(entry, Entry)
    assert (entry.size, entry.modified) == (5, datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC))


def test_a_link_that_leads_back_up_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert files(tmp_path) == ["a/file"]
    (skip,) = skips(tmp_path)
    assert skip.relative == "a/up/"
    assert skip.folder
    assert "link" in skip.reason


def test_links_are_followed_and_marked(tmp_path: Path) -> None:
    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    top.mkdir()
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep" / "file").write_bytes(b"")
    (top / "link").symlink_to(elsewhere)
    (top / "one").symlink_to(elsewhere / "deep" / "file")
    entries = {entry.relative: entry for entry in local_tree(top) if isinstance(entry, Entry)}
    assert {name: entry.through_link for name, entry in entries.items()} == {"link/deep/file": True, "one": False}


def test_links_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "broken").symlink_to("nowhere")
    assert list(local_tree(tmp_path, follow=False)) == [e for e in local_tree(tmp_path) if e.relative == "file"]


def test_what_is_no_file_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # socket names are short
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock")
        found = skips(tmp_path)
    assert [skip.relative for skip in found] == ["broken", "pipe", "sock"]
    assert not files(tmp_path)


def test_a_folder_that_cannot_be_read_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "gone").mkdir()
    (tmp_path / "z").write_bytes(b"")
    walk = local_tree(tmp_path)
    assert next(walk).relative == "a"
    (tmp_path / "gone").rmdir()
    skip, last = walk
    assert isinstance(skip, Skip)
    assert (skip.relative, skip.folder) == ("gone/", True)
    assert last.relative == "z"
