"""How cost grows: what is flagged, what is told, and what is drawn."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reedbed.bench.growth import (
    NOISE,
    OBJECTS,
    SIZES,
    Point,
    ScaleReport,
    Section,
    Series,
    growth_of,
    pictures,
    scale_lines,
)
from reedbed.bench.machine import Machine
from reedbed.bench.measured import Measurement
from reedbed.bench.svg import Line, Panel, page, short, size, ticks


def point(x: float, cpu_ms: float = 1.0, written: int = 0, each: float = 0.0) -> Point:
    measurement = Measurement(
        operations=1_000,
        bytes=1_000_000,
        seconds=0.5,
        p50_ms=1.0,
        p99_ms=2.0,
        cpu={"client": cpu_ms},
        rss={"client": 10_000_000, "catalogd": int(x), "storaged": 3},
        written={"catalogd": written * 1_000, "storaged": 1_000},
    )
    return Point(x, measurement, each)


def section(*points: Point, puts: bool = True, name: str = OBJECTS) -> Section:
    series = [Series("PUT x32", "1/s", puts, list(points)), Series("GET x2", "MB/s", False, [point(4096.0)])]
    return Section(name, "With more & more", "things", "ext4 at /", series)


def flagged(*points: Point, puts: bool = True) -> list[str]:
    return [one.what for one in growth_of(section(*points, puts=puts)) if one.fast]


def test_a_logarithm_is_allowed_and_more_is_not() -> None:
    # 10^4 to 10^6: 1.5 times, and noise
    assert flagged(point(1e4, 1.0), point(1e6, 1.5)) == []
    assert flagged(point(1e4, 1.0), point(1e6, 1.5 * NOISE + 0.01)) == ["CPU"]
    assert flagged(point(1e4, 1.0), point(1e5, 100.0), point(1e6, 100.0)) == ["CPU"]
    assert flagged(point(1e4, 1.0)) == []


def test_what_is_written_and_kept_counts_for_puts() -> None:
    points = point(1e4, 1.0, 100, 300.0), point(1e5, 1.0, 1_000, 3_000.0)
    assert flagged(*points) == ["bytes that catalogd wrote", "bytes of the catalog for each object"]
    assert flagged(*points, puts=False) == []
    (cpu, written, each) = growth_of(section(*points))
    assert (cpu.factor, written.factor, each.factor) == (1.0, 10.0, 10.0)
    assert written.allowed == pytest.approx(1.25)


def report(*sections: Section) -> ScaleReport:
    machine = Machine("3.11.2", "/usr/bin/python3.11", "optimised", "Linux 6", "Some CPU", 2, 24 << 30)
    growth = [one for part in sections for one in growth_of(part)]
    return ScaleReport(1, "scale", "0.1.0", "2026-01-02T03:04:05+00:00", 60.0, machine, list(sections), growth)


def test_the_report_as_people_read_it() -> None:
    text = "\n".join(scale_lines(report(section(point(1e4, 1.0), point(1e5, 9.0)), section(point(4096.0), name=SIZES))))
    assert "| 10,000 " in text
    assert "| 4 KiB " in text
    assert "1 of 1 costs grow faster than logarithmically" in text
    assert re.search(r"\| PUT x32 \| +CPU \| 10,000 to 100,000 \|  9.00 \| +1.25 \| too fast \|", text)
    assert "Nothing grows faster" in "\n".join(scale_lines(report(section(point(1e4), point(1e5)))))


def test_pictures_are_xml_with_every_line() -> None:
    found = dict(pictures(report(section(point(1e4), point(1e6)), section(point(4096.0), name=SIZES))))
    assert set(found) == {"scale-objects.svg", "scale-sizes.svg"}
    for text in found.values():
        root = ElementTree.fromstring(text)
        words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert "With more & more" in words
        assert {"PUT x32", "GET x2", "catalogd"} <= set(words)


positive = st.floats(1e-6, 1e12, allow_nan=False)


@given(st.lists(st.lists(st.tuples(positive, positive), max_size=4), max_size=4))
def test_any_points_can_be_drawn_within_the_picture(lines: list[list[tuple[float, float]]]) -> None:
    drawn = [Line(f"<{number}>", points) for number, points in enumerate(lines)]
    text = page("a page", [Panel("a panel", "x", drawn)])
    root = ElementTree.fromstring(text)
    for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 <= float(circle.attrib["cx"]) <= 460
        assert 0 <= float(circle.attrib["cy"]) <= 300


def test_names_of_lines_that_end_together_do_not_lie_on_each_other() -> None:
    text = page("a page", [Panel("a panel", "x", [Line(f"line {number}", [(1, 1), (9, 1)]) for number in range(5)])])
    places = sorted(float(y) for y in re.findall(r'class="name" x="[\d.]+" y="([\d.]+)"', text))
    assert len(places) == 5
    assert all(after - before >= 12 for before, after in itertools.pairwise(places))


@given(positive, st.floats(4.0, 1e9))
def test_axes_have_round_numbers_within_their_bounds(low: float, factor: float) -> None:
    found = ticks(low, low * factor)
    assert 1 <= len(found) <= 12
    assert all(low * 0.999 <= tick <= low * factor * 1.001 for tick in found)


@pytest.mark.parametrize(("value", "text"), [(0.25, "0.25"), (20, "20"), (3_000, "3 k"), (1.5e6, "1.5 M")])
def test_numbers_of_an_axis(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(("value", "text"), [(100, "100 B"), (1024, "1 KiB"), (256 << 20, "256 MiB")])
def test_sizes_of_an_axis(value: float, text: str) -> None:
    assert size(value) == text
