from __future__ import annotations

import pytest
from reedbed_cluster.dictstore import DictStore


@pytest.fixture
def store() -> DictStore:
    return DictStore()
