"""What a storaged knows of its catalog: cluster, map epoch, term, and until when it may take writes."""

from __future__ import annotations

from dataclasses import dataclass

from reedbed.common.clock import Clock


@dataclass
class CatalogState:
    """Shared by the agent, which changes it, and the service, which asks it. Only for the event loop's thread.

    Epoch and term only rise. `_write_until` is in monotonic seconds, reckoned from the moment a heartbeat was sent, so
    that a slow answer does not prolong what the catalog granted.
    """

    cluster: bytes
    clock: Clock
    epoch: int = 0
    term: int = 0
    _write_until: float = float("-inf")

    def may_write(self) -> bool:
        return self.clock.monotonic() < self._write_until

    def granted(self, sent_at: float, seconds: float) -> None:
        """The catalog answered a heartbeat that was sent at `sent_at`."""
        self._write_until = max(self._write_until, sent_at + seconds)

    def saw(self, epoch: int, term: int) -> bool:
        """Takes over what an answer says; False for one of an older term, which must not be followed."""
        if term < self.term:
            return False
        self.term = term
        self.epoch = max(self.epoch, epoch)
        return True
