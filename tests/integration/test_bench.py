"""The benchmark on real processes, quick: the shape of its report, not its figures."""

from __future__ import annotations

import json
from pathlib import Path

from reedbed_cluster import LocalCluster
from reedbed_cluster.commands import reedbed

from reedbed.bench.report import read_report


def test_a_quick_report_of_a_cluster(cluster: LocalCluster, tmp_path: Path) -> None:
    output = tmp_path / "report"
    wanted = ["--rows", "GET 4 KiB, *", "--rows", "LIST*", "--rows", "DELETE*"]
    done = reedbed("bench", "objects", "--quick", "--endpoint", cluster.endpoint, *wanted, "--output", output, "--json")
    assert done.code == 0, done.err
    report = read_report(output / "objects.json")
    assert json.loads((output / "objects.json").read_text()) == done.json
    assert "| LIST 500 keys" in (output / "objects.md").read_text()
    rows = report.media["cluster"].rows
    names = ["PUT 4 KiB x32", "PUT 4 KiB, 2 processes", "GET 4 KiB, 2 processes", "LIST 500 keys", "DELETE 4 KiB x32"]
    assert [row.name for row in rows] == names
    for row in rows:
        (measured,) = row.reedbed
        assert measured is not None
        assert measured.operations > 0
        assert measured.p50_ms <= measured.p99_ms
        assert row.summary is not None
        assert row.nginx == []
    assert not json.loads(reedbed("ls", "--json", endpoint=cluster.endpoint).out or b"null")


def test_a_cluster_that_does_not_answer(tmp_path: Path) -> None:
    done = reedbed("bench", "objects", "--quick", "--endpoint", "127.0.0.1:1", "--rows", "PUT 4 KiB x1", "--json")
    assert json.loads(done.err)["error"]["code"] == "Unavailable"
    assert done.out == b""
