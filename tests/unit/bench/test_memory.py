"""Memory that is used and freed before what writes is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from reedbed.bench import memory
from reedbed.common.limits import GIB, KIB, MIB


def test_what_is_wanted_is_supplied_in_whole_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: GIB)
    assert memory.supply(MIB + 1) == MIB
    assert memory.supply(100) == 0
    assert memory.supply(0) == 0


def test_no_more_than_a_quarter_of_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 8 * MIB)
    assert memory.supply(GIB) == 2 * MIB


def test_what_is_available_is_told_by_the_kernel(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:  100 kB\nMemAvailable:   48 kB\n")
    assert memory.available(file) == 48 * KIB
    file.write_text("MemAvailable: none\n")
    assert memory.available(file) == 0
    assert memory.available(tmp_path / "absent") == 0
