from __future__ import annotations

import json
from typing import Any

import pytest

from reedbed.cli.health import health, lines
from reedbed.cli.status import watch
from reedbed.common.errors import ReedbedError, Unavailable


def device(number: int, state: str = "up", **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "state": state,
        "address": f"127.0.0.1:{number}",
        "host": "",
        "rack": f"r{number}",
        "zone": "",
        "capacity": 1 << 30,
        "used": 1 << 28,
        "shards": 12345,
        "damaged": 0,
        **more,
    }


def status(*devices: dict[str, Any], degraded: int = 0) -> dict[str, Any]:
    return {
        "cluster": "c" * 32,
        "term": 3,
        "epoch": 14,
        "level": "device",
        "default_profile": "rs-4-2",
        "horizon": "0" * 32,
        "log": {"term": 3, "seq": 99, "floor": 1},
        "counts": {"buckets": 1, "objects": 1000, "versions": 1000, "bytes": 5 << 20, "live_extents": 10, "uploads": 0},
        "devices": list(devices),
        "pgs": {"rs-4-2": 100},
        "queues": {"removals": 0, "degraded": degraded, "dropped": 0},
    }


SIX = [device(number) for number in range(1, 7)]


def with_down(count: int) -> list[dict[str, Any]]:
    return [{**one, "state": "down"} if number < count else one for number, one in enumerate(SIX)]


@pytest.mark.parametrize(
    ("what", "level", "word"),
    [
        (status(*SIX), "healthy", "all 6 devices"),
        (status(*with_down(1)), "degraded", "5 of 6"),
        (status(*with_down(2)), "degraded", "4 of 6"),
        (status(*with_down(3)), "failing", "needs 4"),
        (status(), "failing", "0 of 0"),
        (status(*SIX[:5]), "degraded", "wants 6"),
        (status(*SIX, degraded=1234), "degraded", "1,234 extents"),
        (status(*SIX[:5], device(6, damaged=2)), "degraded", "2 shards"),
        (status(*SIX, device(7), device(8, "out")), "degraded", "7 of 8"),
    ],
)
def test_how_a_cluster_is(what: dict[str, Any], level: str, word: str) -> None:
    state = health(what)
    assert state.level == level
    assert word in state.why
    first = next(iter(lines(what)))
    assert first == f"{level}: {state.why}"


def test_the_report_tells_every_device_and_total() -> None:
    text = "\n".join(lines(status(*with_down(2), degraded=7)))
    for number in range(1, 7):
        assert f"127.0.0.1:{number}" in text
        assert f"rack=r{number}" in text
    assert text.count("down") == 2
    for part in ("256.0 MiB (25%)", "12,345", "1,000 in 1 buckets, 5.0 MiB", "1.5 GiB of 6.0 GiB", "7 degraded"):
        assert part in text
    assert "100 of rs-4-2" in text
    assert "term 3" in text


class Answers:
    """Answers of a catalogd, one after the other; after the last comes Ctrl-C."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: dict[str, Any] | ReedbedError) -> None:
        self._answers = list(answers)
        monkeypatch.setattr("time.sleep", self._sleep)

    def __call__(self) -> dict[str, Any]:
        answer = self._answers.pop(0)
        if isinstance(answer, ReedbedError):
            raise answer
        return answer

    def _sleep(self, seconds: float) -> None:
        if not self._answers:
            raise KeyboardInterrupt


def test_watching_outlasts_a_catalogd_that_goes_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = Unavailable("nobody answers\n")
    watch(Answers(monkeypatch, status(*SIX), gone, status(*with_down(1))), as_json=False)
    words = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert [word for word in words if word in ("healthy", "unreachable", "degraded")] == [
        "healthy",
        "unreachable",
        "degraded",
    ]
    watch(Answers(monkeypatch, status(*SIX), gone, status(*with_down(3))), as_json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row.get("health") for row in rows] == ["healthy", None, "failing"]
    assert rows[1]["error"]["code"] == "Unavailable"


def test_watching_a_cluster_that_never_answered_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable):
        watch(Answers(monkeypatch, Unavailable("nobody")), as_json=False)
