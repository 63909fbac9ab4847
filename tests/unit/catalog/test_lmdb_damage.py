"""A catalog's data file that was cut or overwritten: it is refused by name, or everything in it is right.

Never may it take the process down, which LMDB does when a page that it trusts is not there: the check runs in a child.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from reedbed.catalog.lmdb_engine import LmdbEngine
from reedbed.common.errors import Corrupt
from reedbed.common.ids import Id

CLUSTER = Id(b"the test cluster")
PAGE = 4096


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A folder with rows, and with free pages of rows that went."""
    path = tmp_path / "whole"
    engine = LmdbEngine(path, cluster=CLUSTER, map_first=1 << 22, map_room=1 << 20, reserve=0)
    for batch in range(6):
        with engine.write() as writer:
            for number in range(30):
                writer.put(b"row%d/%03d" % (batch, number), b"%d" % number * 50)
    for batch in (1, 3):
        with engine.write() as writer:
            for number in range(30):
                writer.delete(b"row%d/%03d" % (batch, number))
    engine.close()
    return path


def expected() -> dict[bytes, bytes]:
    return {b"row%d/%03d" % (batch, number): b"%d" % number * 50 for batch in (0, 2, 4, 5) for number in range(30)}


def opened(path: Path) -> str:
    """ "right", or "refused"; anything else is an assertion's."""
    try:
        engine = LmdbEngine(path, cluster=CLUSTER, map_first=1 << 22, map_room=1 << 20, reserve=0)
    except Corrupt:
        return "refused"
    try:
        with engine.read() as reader:
            assert dict(reader.scan(b"row", b"rox")) == expected()
        for number in range(5):
            with engine.write() as writer:
                writer.put(b"more%d" % number, bytes(3000))
    finally:
        engine.close()
    return "right"


def test_a_data_file_cut_anywhere(whole: Path, tmp_path: Path) -> None:
    raw = (whole / "data.mdb").read_bytes()
    found = set()
    for at in range(0, len(raw), max(PAGE, len(raw) // 24 // PAGE * PAGE)):
        copy = tmp_path / f"cut{at}"
        shutil.copytree(whole, copy)
        (copy / "data.mdb").write_bytes(raw[:at])
        found.add(opened(copy))
    assert "refused" in found


def test_garbage_in_a_data_file(whole: Path, tmp_path: Path) -> None:
    raw = (whole / "data.mdb").read_bytes()
    found = set()
    for page in [0, 1, *random.Random(1).sample(range(2, len(raw) // PAGE), 20)]:
        copy = tmp_path / f"page{page}"
        shutil.copytree(whole, copy)
        bad = bytearray(raw)
        bad[page * PAGE : (page + 1) * PAGE] = random.Random(page).randbytes(PAGE)
        (copy / "data.mdb").write_bytes(bad)
        found.add(opened(copy))
    assert found == {"refused", "right"}
