"""A small world: limits of the product that are turned down, so that a seed of a second meets what takes days.

Nothing here changes what is done, only from which size or time on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from reedbed.catalog import catalogd, placement, sweep
from reedbed.client import many, packer, put
from reedbed.common.clock import SystemClock
from reedbed.ec import cut

SHARD: Final = 96 * 1024  # of a full extent; more than one block
PACK_MAX: Final = 24 * 1024  # larger objects get extents of their own
SMALL_SHARD: Final = 8 * 1024
PGS_PER_DEVICE: Final = 4
REGISTER_AFTER_S: Final = 3.0
UPLOAD_IDLE_S: Final = 60.0
LAG_S: Final = 30.0  # of the horizon; its relation to the one before is that of the product

assert REGISTER_AFTER_S * 4 < LAG_S


def _no_clock(*_: object) -> float:
    raise AssertionError("something reads the machine's clock by itself")


@contextmanager
def small_world() -> Iterator[None]:
    """Within the context everything is small, and whoever asks for the machine's clock fails."""
    with ExitStack() as stack:

        def put_in(where: Any, name: str, value: object) -> None:
            stack.enter_context(patch.object(where, name, value))

        put_in(placement, "PGS_PER_DEVICE", PGS_PER_DEVICE)
        put_in(cut, "SMALL_SHARD", SMALL_SHARD)
        put_in(cut.extent_bytes, "__defaults__", (SHARD,))
        put_in(cut.layout_for, "__defaults__", (SHARD,))
        put_in(cut.cut_object, "__defaults__", (SHARD,))
        put_in(cut.group, "__defaults__", (SHARD,))
        for module in (packer, put, many):
            put_in(module, "PACK_MAX", PACK_MAX)
        put_in(put.Putter.__init__, "__defaults__", (REGISTER_AFTER_S,))
        put_in(catalogd, "SWEEP_S", 2.0)
        put_in(sweep, "UPLOAD_IDLE_S", UPLOAD_IDLE_S)
        put_in(SystemClock, "monotonic", _no_clock)
        put_in(SystemClock, "wall", _no_clock)
        yield
