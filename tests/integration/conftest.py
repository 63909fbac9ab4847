"""Fixtures of the tests on real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from reedbed_cluster import LocalCluster, local_cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """Six devices under rs-4-2, fresh for each test."""
    with local_cluster(tmp_path / "cluster") as started:
        yield started
