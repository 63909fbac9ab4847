"""What a process learns of how fast devices answer reads: who is late, who is slow, and what may be spent on it.

Pure: times come in as numbers. Invariants of the state:

- A history's weight never passes WINDOW: old samples lose half their weight again and again, so it follows changes.
- A device counts as slow only by comparison with its peers: where all are slow, nobody is.
- A slow device keeps being probed, so that one that has recovered is noticed.
- The spare budget's long-run spending is at most SPARE_SHARE of what was read, in calls and in bytes.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from math import inf, log2
from statistics import median_low
from typing import Final, NamedTuple

from reedbed.common.limits import MIB

ENOUGH: Final = 8  # samples before a history says anything
WINDOW: Final = 64  # weight of a history
RECENT: Final = 16  # answers that tell whether a device is slow by now
LATE_FLOOR_S: Final = 0.001  # nothing is late before that
LATE_DEFAULT_S: Final = 0.1  # while peers have taught nothing, with the time for the bytes at
LATE_DEFAULT_RATE: Final = 50e6  # bytes a second
SLOW_FACTOR: Final = 3.0  # slow: most of the last answers take that many times the peers' p95
SLOW_FLOOR_S: Final = 0.005
HUNG_FLOOR_S: Final = 2.0
HUNG_FACTOR: Final = 10.0
PROBE_EVERY: Final = 50  # reads that avoid a slow device, then one goes to it
PROBE_AFTER_S: Final = 5.0
SPARE_SHARE: Final = 0.05
SPARE_BURST_CALLS: Final = 128.0
SPARE_BURST_BYTES: Final = 64.0 * MIB
FAILURE_MEMORY_S: Final = 2.0
JUDGED_MAX: Final = 4096

_BASE_S: Final = 20e-6
_STEPS: Final = 2  # buckets for each doubling
_BUCKETS: Final = 48


def _bucket(seconds: float) -> int:
    if seconds <= _BASE_S:
        return 0
    return min(_BUCKETS - 1, int(_STEPS * log2(seconds / _BASE_S)) + 1)


_BOUNDS: Final = tuple(_BASE_S * 2.0 ** (i / _STEPS) for i in range(_BUCKETS))  # upper ones


class _History:
    """One device's answers of one size class: a decaying histogram, and the last few, which tell sooner of a change."""

    __slots__ = ("_counts", "_p95", "_since", "recent", "weight")

    def __init__(self) -> None:
        self._counts = array("d", bytes(8 * _BUCKETS))
        self.weight = 0.0
        self.recent: deque[float] = deque(maxlen=RECENT)
        self._p95 = 0.0
        self._since = ENOUGH

    def add(self, seconds: float, overtaken: bool) -> None:
        if self.weight >= WINDOW:
            self._fade()
        self._counts[_bucket(seconds)] += 1.0
        self.weight += 1.0
        self._since += 1
        self.recent.append(inf if overtaken else seconds)

    def _fade(self) -> None:
        for i in range(_BUCKETS):
            self._counts[i] /= 2
        self.weight /= 2
        self._since = ENOUGH

    def forget(self) -> None:
        """Half of the last few answers, the older ones."""
        for _ in range(len(self.recent) // 2):
            self.recent.popleft()

    def p95(self) -> float:
        if self._since >= ENOUGH:  # a scan for each few samples only
            self._since = 0
            rest = 0.05 * self.weight
            for i in range(_BUCKETS - 1, -1, -1):
                rest -= self._counts[i]
                if rest < 0:
                    break
            self._p95 = _BOUNDS[i]
        return self._p95

    def mostly_over(self, seconds: float) -> bool:
        """Whether more than half of the last answers took longer, those that were not waited for among them."""
        return len(self.recent) >= ENOUGH and 2 * sum([s > seconds for s in self.recent]) > len(self.recent)


class LatencyBook:
    """Latencies of reads by device number and size class (powers of 4 of bytes). Not for several threads."""

    def __init__(self) -> None:
        self.budget = SpareBudget()
        self._histories: dict[int, dict[int, _History]] = {}
        self._slow: dict[int, _Avoided] = {}
        self._failed: dict[int, float] = {}
        self._records = 0
        # what follows from the histories, by device, size class and peers, good for about ENOUGH records
        self._judged: dict[tuple[int, int, tuple[int, ...]], _Judged] = {}

    def record(self, device: int, size: int, seconds: float, *, overtaken: bool = False) -> None:
        """An answer of `size` bytes came after `seconds`; or, `overtaken`, it was given up by then since bytes decoded
        from other devices came first."""
        # what is quicker than any device that counts as slow can wait to be taken into account
        self._records += ENOUGH if overtaken or seconds >= SLOW_FLOOR_S else 1
        avoided = self._slow.get(device)
        classes = self._histories.setdefault(device, {})
        if avoided is not None and not overtaken and seconds < avoided.threshold:
            for history in classes.values():  # a probe that was answered well outweighs what was
                history.forget()
            self._records += ENOUGH
        size_class = _class(size)
        if size_class not in classes:
            classes[size_class] = _History()
        classes[size_class].add(seconds, overtaken)

    def late_after(self, device: int, size: int, peers: Sequence[int]) -> float | None:
        """Seconds after which a read of `size` bytes from `device` outlasts the p95 of its peers; None while they have
        too few samples.

        It is the (lower) median of each peer's own p95, so that a slow one among them does not hide others.
        """
        return self._judge(device, size, peers).late

    def patience(self, device: int, size: int, peers: Sequence[int]) -> float:
        """`late_after`, or a careful guess where there is none."""
        late = self.late_after(device, size, peers)
        return LATE_DEFAULT_S + size / LATE_DEFAULT_RATE if late is None else late

    @staticmethod
    def hung_after(late: float) -> float:
        """Seconds after which a read that is late after `late` counts as failed."""
        return max(HUNG_FLOOR_S, HUNG_FACTOR * late)

    def is_slow(self, device: int, size: int, peers: Sequence[int]) -> bool:
        """Whether the device's median is SLOW_FACTOR times its peers' p95, at this size or, without samples of it, at
        any other."""
        return self._judge(device, size, peers).slow_from is not None

    def avoid(self, device: int, size: int, peers: Sequence[int], now: float) -> bool:
        """Whether to read around the device: it is slow, and this read is not the one that probes it."""
        threshold = self._judge(device, size, peers).slow_from
        if threshold is None:
            if self._slow:
                self._slow.pop(device, None)
            return False
        avoided = self._slow.get(device)
        if avoided is None:
            avoided = self._slow[device] = _Avoided(now)
        avoided.threshold = threshold
        avoided.reads += 1
        if avoided.reads > PROBE_EVERY or now - avoided.probed >= PROBE_AFTER_S:
            avoided.reads = 0
            avoided.probed = now
            return False
        return True

    def note_failure(self, device: int, now: float) -> None:
        """A write to the device failed: others that have a choice had better go elsewhere until the map knows more."""
        self._failed[device] = now

    def recently_failed(self, now: float) -> frozenset[int]:
        """Devices that failed a write less than FAILURE_MEMORY_S ago."""
        if not self._failed:
            return frozenset()
        self._failed = {device: at for device, at in self._failed.items() if now - at < FAILURE_MEMORY_S}
        return frozenset(self._failed)

    def _judge(self, device: int, size: int, peers: Sequence[int]) -> _Judged:
        key = (device, _class(size), peers if type(peers) is tuple else tuple(peers))
        known = self._judged.get(key)
        if known is None or self._records >= known.until:
            p95 = self._peers_p95(device, key[1], peers)
            late = None if p95 is None else max(LATE_FLOOR_S, p95)
            known = _Judged(self._records + ENOUGH, late, self._slow_from(device, size, peers))
            if len(self._judged) >= JUDGED_MAX:
                self._judged.clear()
            self._judged[key] = known
        return known

    def _peers_p95(self, device: int, size_class: int, peers: Sequence[int]) -> float | None:
        found: list[float] = []
        for peer in peers:
            if peer != device:
                classes = self._histories.get(peer)
                history = classes.get(size_class) if classes else None
                if history is not None and history.weight >= ENOUGH:
                    found.append(history.p95())
        return median_low(found) if found else None

    def _slow_from(self, device: int, size: int, peers: Sequence[int]) -> float | None:
        """The seconds that most answers of a slow device outlast; None if it is not slow."""
        classes = self._histories.get(device)
        if not classes:
            return None
        own = classes.get(_class(size))
        if own is not None and len(own.recent) >= ENOUGH:
            return self._verdict(device, _class(size), own, peers)
        for size_class, history in classes.items():
            threshold = self._verdict(device, size_class, history, peers)
            if threshold is not None:
                return threshold
        return None

    def _verdict(self, device: int, size_class: int, history: _History, peers: Sequence[int]) -> float | None:
        p95 = self._peers_p95(device, size_class, peers)
        if p95 is None:
            return None
        threshold = max(SLOW_FLOOR_S, SLOW_FACTOR * p95)
        return threshold if history.mostly_over(threshold) else None


class SpareBudget:
    """Pays for spare reads from a share of what is read anyway. Unspent budget is kept up to a burst.

    A spare read may cost more than is left, and is then owed for: so large ones come to pass too, only more rarely.
    """

    def __init__(self) -> None:
        self._calls = SPARE_BURST_CALLS
        self._bytes = SPARE_BURST_BYTES

    def earn(self, size: int) -> None:
        """An ordinary read of `size` bytes was asked for."""
        self._calls = min(SPARE_BURST_CALLS, self._calls + SPARE_SHARE)
        self._bytes = min(SPARE_BURST_BYTES, self._bytes + SPARE_SHARE * size)

    def take(self, calls: int, size: int) -> bool:
        """Whether a spare read of so many calls and bytes may be asked for; it is paid for if so."""
        if self._calls < 1.0 or self._bytes <= 0.0:
            return False
        self.spend(calls, size)
        return True

    def spend(self, calls: int, size: int) -> None:
        """A spare read that is under way turned out to need so many more calls and bytes."""
        self._calls -= calls
        self._bytes -= size


class _Judged(NamedTuple):
    until: int  # so many records
    late: float | None
    slow_from: float | None


class _Avoided:
    """How a slow device has been read around."""

    __slots__ = ("probed", "reads", "threshold")

    def __init__(self, now: float) -> None:
        self.probed = now
        self.reads = 0
        self.threshold = 0.0


def _class(size: int) -> int:
    return (size.bit_length() + 1) // 2
