"""Power cuts while the store's own thread writes checkpoints at any moment: `make soak`.

Such a run depends on the timing of threads, so it does not repeat to the letter, and is no test of `make test`. What it
has found is tested there, each by itself.
"""

from __future__ import annotations

import pytest
from reedbed_replay.cuts import STEPS, Cuts, first_fault, record


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(11, 18))
def test_every_prefix_with_checkpoints_at_any_moment(seed: int) -> None:
    assert first_fault(record(seed, STEPS, rows=3), Cuts(stride=2)) == ""
