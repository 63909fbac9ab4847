"""Every prefix of a recorded run, cut: what was acknowledged is there, what was removed is gone, nothing is half there.

`test_every_sync_is_needed` leaves out one sync of the store at a time and demands that this test goes red.
"""

from __future__ import annotations

import pytest
from reedbed_replay.cuts import STEPS, Cuts, first_fault, record


@pytest.mark.parametrize("seed", [1, 2])
def test_every_prefix_of_a_run_keeps_every_promise(seed: int) -> None:
    assert first_fault(record(seed, STEPS), Cuts()) == ""


# Each of these syncs upholds a promise: without it the test above goes red. With the seed of a run that shows it soon
NEEDED = {
    "generations.save in replace_whole file": 1,
    "generations.save in replace_whole folder": 1,
    "identity.save in replace_whole file": 1,
    "identity.save in replace_whole folder": 1,
    "keeper._unlink_dead folder": 5,
    "recovery._replay file": 1,
    "recovery.run folder": 1,
    "segments.make_segment file": 3,
    "segments.make_segment folder": 1,
    "writer._append file": 1,
}
# Without one of these a cut costs time and nothing else
#   clean mark: it names size and sum of the index; one that is lost, or back though it was taken, fits no other index
#   what recovery cut off or unlinked: the next recovery does it again; the next batch's sync covers the cut
#   list of known damage: reads and the scrubber find it again
SPARING = {
    "recovery.take_clean folder",
    "recovery.write_clean in replace_whole file",
    "recovery.write_clean in replace_whole folder",
    "recovery._replay_last file",
    "recovery._without_half_made folder",
    "damage.save in replace_whole file",
    "damage.save in replace_whole folder",
}


@pytest.mark.parametrize("site", NEEDED)
def test_every_sync_is_needed(site: str) -> None:
    for seed in (NEEDED[site], *range(1, 5)):
        run = record(seed, STEPS, {site})
        if first_fault(run, Cuts(forget={site}, chances=2)):
            return
    pytest.fail(f"nothing is lost without the sync in {site}: the replay proves nothing about it")


def test_every_sync_of_the_store_is_known_here() -> None:
    assert record(1, STEPS).sites | record(2, STEPS).sites <= {*NEEDED, *SPARING}
