"""Whether space is short: then compaction goes first, and what was deleted is kept no longer than reads may take."""

from __future__ import annotations

from typing import Final

from reedbed.protos.types import ClusterMap

SHORT_ABOVE: Final = 0.85  # of a device's size


def is_short(map_: ClusterMap) -> bool:
    """Whether some device that is up is nearly full."""
    return any(
        device.state == "up" and device.used > SHORT_ABOVE * max(1, device.capacity) for device in map_.devices.values()
    )
