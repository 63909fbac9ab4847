"""A cluster that is measured: what is added up around a row, and when it has come to rest."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Any, cast

import pytest

from reedbed.bench import target as module
from reedbed.bench.clients import Clients
from reedbed.bench.measured import Window, written_bytes
from reedbed.bench.table import GET, PUT, STORED_FACTOR, Row
from reedbed.bench.target import Target, calm_down, fresh, measure_row


class Used(Target):
    """A cluster whose daemons use what a list says."""

    def cpu(self) -> dict[str, float]:
        return {"storaged": USED.pop(0)}


USED: list[float] = []


def test_it_is_calm_when_daemons_do_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.001)
    USED[:] = [0.0, 1.0, 1.0, 1.0, 99.0]
    assert calm_down(Used("127.0.0.1:1"))
    assert USED == [99.0]  # a second look was needed, and enough
    assert not calm_down(Used("127.0.0.1:1"), most_s=0.0)


def test_a_place_is_gone_afterwards(tmp_path: Path) -> None:
    def fail() -> None:
        with fresh(tmp_path, "place") as place:
            place.mkdir()
            (place / "file").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


class Puts:
    """Clients that write a file while they measure."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def prepare(self, row: Row) -> None:
        self._path.write_bytes(b"x" * 8192)

    def measure(self, seconds: float, most: int) -> list[Window]:
        self._path.write_bytes(b"x" * 65536)
        return [Window(most, 0.0, 1.0, 0.0, 1, array("I", [5] * most))]


@pytest.mark.parametrize("kind", [PUT, GET])
def test_what_a_row_adds_is_told(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supplied: list[int] = []
    monkeypatch.setattr(module, "supply", supplied.append)
    catalog = tmp_path / "catalog"
    catalog.mkdir()
    us = (os.getpid(),)
    target = Target("127.0.0.1:1", None, us, us, catalog, (tmp_path,))
    row = Row(kind, kind, 4096, 4, "")
    measurement, _ = measure_row(cast(Clients, cast(Any, Puts(catalog / "file"))), row, target, 1.0, 7)
    assert measurement.operations == 7
    assert supplied == ([int(7 * 4096 * STORED_FACTOR)] if kind == PUT else [])
    assert set(measurement.cpu) == {"client", "catalogd", "storaged"}
    assert set(measurement.rss) == {"client", "catalogd", "storaged"}
    assert measurement.written["catalogd"] >= 65536
    # what was there before the row counts nothing
    assert measurement.disk == ({"devices": 57344, "catalog": 57344} if kind == PUT else {})


def test_a_cluster_of_others_tells_nothing() -> None:
    target = Target("127.0.0.1:1")
    assert (target.cpu(), target.rss(), target.written(), target.disk()) == ({}, {}, {}, {})


def test_written_bytes_are_what_was_handed_over(tmp_path: Path) -> None:
    before = written_bytes([os.getpid()])
    with (tmp_path / "file").open("wb", buffering=0) as file:
        for _ in range(10):
            file.write(b"x" * 100)
    assert 1000 <= written_bytes([os.getpid()]) - before < 4096


def test_written_bytes_of_nobody() -> None:
    assert written_bytes([]) == 0
    assert written_bytes([1 << 22]) == 0
