"""The scale's run, on clients that only count."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reedbed.bench import scale, target
from reedbed.bench.growth import ScaleReport
from reedbed.bench.measured import Window
from reedbed.bench.scale import QUICK, Scale, ScalePlan, Sizes, objects_up_to
from reedbed.bench.table import Row
from reedbed.bench.target import Target


class Counting:
    """Clients that do nothing, and say that they did."""

    fills: list[tuple[int, int]]
    rows: list[tuple[str, int]]

    def __init__(self, hello: Any, count: int) -> None:
        self._row: Row | None = None

    def __enter__(self) -> Counting:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def fill(self, first: int, count: int, size: int) -> None:
        self.fills.append((first, count))

    def prepare(self, row: Row) -> None:
        self._row = row
        self.rows.append((row.kind, row.keys))

    def measure(self, seconds: float, most: int) -> list[Window]:
        count = min(most, 500)
        return [Window(count, 0.0, 1.0, 0.1, 1, array("I", [10] * count))]


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Devices of the clusters that were asked for."""
    asked: list[int] = []

    @contextmanager
    def fresh(folder: Path, devices: int = 6) -> Iterator[Target]:
        asked.append(devices)
        yield Target("127.0.0.1:1", catalog_folder=tmp_path, catalogd=(0,))

    Counting.fills, Counting.rows = [], []
    monkeypatch.setattr(scale, "fresh_cluster", fresh)
    monkeypatch.setattr(scale, "Clients", Counting)
    monkeypatch.setattr(scale, "settle", lambda folder: None)
    monkeypatch.setattr(target, "_LOOK_S", 0.001)
    monkeypatch.setattr(target, "disk_bytes", lambda folders: 1_000)
    return asked


def run(tmp_path: Path, *sections: str, fill_s: float = 60.0, sizes: Sizes = QUICK) -> ScaleReport:
    return Scale(ScalePlan(sections or scale.SECTIONS, tmp_path, tmp_path, 0.1, fill_s, sizes)).run()


def test_all_sections(clusters: list[int], tmp_path: Path) -> None:
    report = run(tmp_path)
    assert [section.name for section in report.sections] == list(scale.SECTIONS)
    places = {section.name: sorted({p.x for s in section.series for p in s.points}) for section in report.sections}
    assert places == {
        "objects": [200, 2_000],
        "devices": [6, 7],
        "clients": [1, 2],
        "sizes": [1024, 65536, 1 << 20],
    }
    assert clusters == [6, 6, 7, 6, 6]
    assert report.growth


def test_filling_counts_what_rows_have_put(clusters: list[int], tmp_path: Path) -> None:
    run(tmp_path, "objects", sizes=Sizes(objects=(1_000, 25_000), turns=2))
    # 1,000 were put by rows in between; numbers of filling go on without a gap
    assert Counting.fills == [(0, 1_000), (1_000, 10_000), (11_000, 10_000), (21_000, 3_000)]
    assert [keys for _, keys in Counting.rows] == [1_000] * 8 + [24_000] * 8


def test_of_several_measurements_the_cheapest_counts(
    clusters: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = iter([0.5, 0.3, 0.4] * 4)

    class Unsteady(Counting):
        def measure(self, seconds: float, most: int) -> list[Window]:
            cpu = [next(spent) if self._row is not None and self._row.kind == "LOG" else 0.1]
            return [Window(100, 0.0, 1.0, cpu[0], 1, array("I", [10] * 100))]

    monkeypatch.setattr(scale, "Clients", Unsteady)
    (section,) = run(tmp_path, "objects", sizes=Sizes(objects=(1_000, 2_000))).sections
    assert [point.measurement.cpu["client"] for point in section.series[3].points] == [0.3, 0.3]


def test_filling_ends_with_its_time_and_says_so(
    clusters: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def clock() -> float:
        return now

    class Slow(Counting):
        def fill(self, first: int, count: int, size: int) -> None:
            nonlocal now
            super().fill(first, count, size)
            now += 1.0

    monkeypatch.setattr(scale, "Clients", Slow)
    monkeypatch.setattr(scale.time, "monotonic", clock)
    (section,) = run(tmp_path, "objects", fill_s=4.5, sizes=objects_up_to(1_000_000)).sections
    assert [p.x for p in section.series[0].points] == [10_000, 51_500]
    assert section.note == "The time for filling ended at 51,500 objects; 100,000 were wanted."


def test_clusters_are_left_before_they_hold_too_much(
    clusters: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "_CLUSTER_BYTES", 1 << 20)
    monkeypatch.setattr(scale, "_ROW_BYTES", 1 << 19)
    run(tmp_path, "sizes", sizes=Sizes(sizes=(1 << 10, 1 << 20, 1 << 20)))
    assert len(clusters) == 2


@pytest.mark.parametrize(
    ("most", "places"),
    [(10**6, (10**4, 10**5, 10**6)), (10**4, (10**4,)), (30_000, (10**4, 30_000)), (1_000, (1_000,))],
)
def test_places_up_to_a_number(most: int, places: tuple[int, ...]) -> None:
    assert objects_up_to(most).objects == places
