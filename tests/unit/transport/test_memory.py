"""The setting of malloc, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import resource
from reedbed.transport.memory import keep_freed_memory
done = keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    blocks = [b"x" * (1 << 20) for _ in range(8)]; del blocks
before = faults()
for _ in range(100):
    blocks = [b"x" * (1 << 20) for _ in range(8)]; del blocks
raise SystemExit(0 if not done or faults() - before < 20_000 else 1)
"""


def test_freed_memory_serves_the_next_message() -> None:
    # 800 MiB in fresh pages would be 200,000 faults
    assert subprocess.run([sys.executable, "-c", _PROGRAM], timeout=60).returncode == 0
