"""Buffers that ISA-L works on may end in a cycle of garbage."""

from __future__ import annotations

import subprocess
import sys

CYCLES = """
import gc
from reedbed.ec.codec import codec_for
from reedbed.ec.profiles import parse_profile

def cycle():
    data = [memoryview(bytearray(100)) for _ in range(4)]
    parity = [memoryview(bytearray(100)) for _ in range(2)]
    fill = codec_for(parse_profile("rs-4-2")).encoder(data, parity)
    fill(0, 100)
    held = [fill, data, parity]
    held.append(held)

for _ in range(100):
    cycle()
    gc.collect()
"""


def test_a_coder_in_a_cycle_of_garbage_ends_quietly() -> None:
    """Python's collector clears views first: whoever still holds one then would crash, or be told so."""
    done = subprocess.run([sys.executable, "-c", CYCLES], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
