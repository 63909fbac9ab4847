"""Files of backups: what is written comes back, and whatever is wrong with one is named."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from reedbed.catalog import pieces
from reedbed.catalog.backups import About, BackupReader, BackupWriter, check, check_target
from reedbed.catalog.engine import RedoRecord
from reedbed.common.errors import Corrupt, InvalidArgument, NewerFormat, NotFound

ABOUT = About("0f" * 16, 7, 41, 1_700_000_000_000_000, "127.0.0.1:7300", "reedbed")
ROWS = [(b"a", b"1"), (b"b", b"")]
RECORDS = [RedoRecord(42, [(b"a", b"2")]), RedoRecord(43, [(b"b", None)])]


def written(path: Path) -> Path:
    with BackupWriter(path, ABOUT) as writer:
        writer.rows(pieces.pack_rows(ROWS), len(ROWS))
        writer.run(pieces.pack_run(RECORDS), RECORDS[-1].number)
        writer.finish()
    return path


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    reader = BackupReader(written(tmp_path / "backup"))
    assert reader.about == ABOUT
    assert list(reader.parts()) == [ROWS, RECORDS]
    summary = reader.summary()
    assert (summary.last, summary.rows, summary.records) == (43, 2, 2)
    assert summary.size == (tmp_path / "backup").stat().st_size
    assert os.listdir(tmp_path) == ["backup"]


def test_the_older_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "backup")
    before = path.read_bytes()
    with BackupWriter(path, ABOUT) as writer:  # and never finished
        writer.rows(pieces.pack_rows(ROWS), len(ROWS))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["backup"]


def test_only_a_file_is_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for path in (tmp_path, pipe, tmp_path / "link", Path(), Path("..")):
        with pytest.raises(InvalidArgument, match="has to be a file"):
            check_target(path)
        with pytest.raises(InvalidArgument, match="has to be a file"):
            written(path)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]
    check_target(tmp_path / "new")
    check_target(written(tmp_path / "there"))


def test_no_altered_or_missing_byte_passes(tmp_path: Path) -> None:
    whole = written(tmp_path / "backup").read_bytes()
    path = tmp_path / "altered"
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises((Corrupt, InvalidArgument, NewerFormat)):
            check(path)
        path.write_bytes(whole[:at])
        with pytest.raises((Corrupt, InvalidArgument)):
            check(path)
    path.write_bytes(whole + b"more")
    with pytest.raises(Corrupt):
        check(path)
    path.write_bytes(whole[:4] + b"\x02" + whole[5:])
    with pytest.raises(NewerFormat):
        check(path)
    with pytest.raises(NotFound):
        check(tmp_path / "none")
