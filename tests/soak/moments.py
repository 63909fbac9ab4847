"""Power cuts while the store's own thread writes checkpoints at any moment: `make soak`.

Such a run depends on the timing of threads, so it does not repeat to the letter, and is no test of `make test`. It has
failed twice in some thirty runs (docs/durability.md).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_FILE = Path(__file__).parent.parent / "unit" / "storaged" / "test_power_cuts.py"
_spec = importlib.util.spec_from_file_location("power_cuts", _FILE)
assert _spec is not None
assert _spec.loader is not None
cuts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cuts)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(11, 18))
def test_every_prefix_with_checkpoints_at_any_moment(seed: int) -> None:
    assert cuts.first_fault(cuts.record(seed, cuts.STEPS, rows=3), cuts.Cuts(stride=2)) == ""
