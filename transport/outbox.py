"""What one end of a lane sends: which payloads are admitted, and what goes into the next message.

Invariants:
- `credit` is the window minus the bytes of admitted payloads that the other end has not given back. It is never below
  0 and never above the window.
- A payload is admitted whole. What was admitted but is dropped before it is sent goes back to `credit` at once; what
  was sent comes back by the other end's FRAME_CREDIT. So each byte comes back exactly once.
- Frames of one call leave in order: its pieces join the rotation when its first frame leaves.
- Small payloads wait in a line of their own, so that they do not wait for bulk; bulk leaves a reserve of the window to
  them. They may overtake a waiting bulk payload by OVERTAKE_MAX bytes, so that it is not held back for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from reedbed.common import logs
from reedbed.common.checksums import Buffer
from reedbed.common.clock import Deadline
from reedbed.common.errors import Corrupt, InvalidArgument
from reedbed.common.limits import CHUNK, FRAMES_MAX, HEADER_MAX, KIB, MESSAGE_MAX, MIB
from reedbed.transport import frames
from reedbed.transport.frames import Frame

log = logs.get("transport")

SMALL: Final = 64 * KIB  # payloads up to here travel in the call's first frame
OVERTAKE_MAX: Final = 4 * MIB
_RESERVE_PART: Final = 16  # one part of the window in so many is kept for small payloads
_SMALL_FRAMES_MAX: Final = MESSAGE_MAX - CHUNK - 64 * KIB  # bytes of a message that are not bulk
_ERROR_SIZE: Final = KIB
_SMALL_FRAMES: Final = FRAMES_MAX // 2  # of a message

assert HEADER_MAX + SMALL + 4 * KIB < _SMALL_FRAMES_MAX


def pieces(payload: Sequence[Buffer]) -> tuple[list[Buffer], int]:
    """The buffers as bytes, without empty ones, and their length together. InvalidArgument if one is not contiguous."""
    found: list[Buffer] = []
    total = 0
    for buffer in payload:
        if isinstance(buffer, memoryview) and (buffer.format != "B" or buffer.ndim != 1 or not buffer.c_contiguous):
            try:
                buffer = buffer.cast("B")
            except TypeError:
                raise InvalidArgument("a payload's buffer is not contiguous in memory") from None
        if len(buffer):
            found.append(buffer)
            total += len(buffer)
    return found, total


def _head_size(item: Frame | Outgoing) -> int:
    """Bytes of its frame without the payload, at most."""
    frame = item.head if isinstance(item, Outgoing) else item
    size = frames.FRAME_OVERHEAD + len(frame.header) + len(frame.method)
    if frame.error is not None:
        size += _ERROR_SIZE + 4 * (len(frame.error.what) + len(frame.error.where) + len(frame.error.hint))
    return size


class Outgoing:
    """One request or reply on its way out. `started` once any of it may have left."""

    __slots__ = ("_index", "_offset", "_pieces", "admitted", "deadline", "done", "dropped", "head", "left", "started")

    def __init__(
        self,
        head: Frame,
        payload: list[Buffer],
        length: int,
        deadline: Deadline | None = None,
        done: Callable[[], None] | None = None,
    ) -> None:
        """`done` is called when the last of it has been taken for a message."""
        self.head = head
        self.left = length
        self.deadline = deadline
        self.done = done
        self.admitted = self.started = self.dropped = False
        self._pieces = payload
        self._index = self._offset = 0

    def take(self, limit: int) -> list[Buffer]:
        """Up to `limit` further bytes of the payload."""
        taken: list[Buffer] = []
        while limit and self._index < len(self._pieces):
            piece = self._pieces[self._index]
            rest = len(piece) - self._offset
            if rest <= limit:
                taken.append(memoryview(piece)[self._offset :] if self._offset else piece)
                self._index += 1
                self._offset = 0
                self.left -= rest
                limit -= rest
            else:
                taken.append(memoryview(piece)[self._offset : self._offset + limit])
                self._offset += limit
                self.left -= limit
                limit = 0
        return taken

    def release(self) -> None:
        """Lets go of the buffers."""
        self._pieces = []
        self.dropped = True


class Outbox:
    """Frames and payloads that wait to be sent by one end."""

    def __init__(self, window: int = 0) -> None:
        self.window = window
        self.credit = window
        self._frames: deque[Frame | Outgoing] = deque()
        self._heads = 0  # bytes of `_frames` without payload
        self._bulk: deque[Outgoing] = deque()
        self._small_waiters: deque[Outgoing] = deque()
        self._bulk_waiters: deque[Outgoing] = deque()
        self._overtaken = 0
        self.left: list[Callable[[], None]] = []  # to be called once what was taken for messages has left

    def open(self, window: int) -> None:
        """The other end has told its window. Corrupt if it had done so before."""
        if self.window or window < 1:
            raise Corrupt("a lane's window was told twice, or is empty")
        self.window = self.credit = window

    @property
    def pending(self) -> bool:
        return bool(self._frames or self._bulk)

    @property
    def backlog(self) -> tuple[int, int]:
        """Frames that only wait for the other end to take them, not for credit: how many, and bytes of their heads."""
        return len(self._frames), self._heads

    def control(self, frame: Frame) -> None:
        """Sends a frame without payload."""
        self._push(frame)

    def send(self, outgoing: Outgoing) -> None:
        """Sends a call or reply as soon as its payload is admitted."""
        if not outgoing.left:
            outgoing.admitted = True
            self._push(outgoing)
        else:
            (self._small_waiters if outgoing.left <= SMALL else self._bulk_waiters).append(outgoing)
            self._admit()

    def drop(self, outgoing: Outgoing) -> None:
        """Sends no more of it and takes back the credit of what was not sent."""
        if outgoing.dropped:
            return
        if outgoing.admitted:
            self.credit += outgoing.left
            if outgoing.started and outgoing.left:
                self._bulk.remove(outgoing)
            elif not outgoing.started:
                self._frames.remove(outgoing)
                self._heads -= _head_size(outgoing)
        else:
            if outgoing.left > SMALL and self._bulk_waiters[0] is outgoing:
                self._overtaken = 0
            (self._small_waiters if outgoing.left <= SMALL else self._bulk_waiters).remove(outgoing)
        outgoing.release()
        self._admit()

    def give_back(self, credit: int) -> None:
        """The other end has consumed so many bytes. Corrupt if it was not sent that many."""
        if self.credit + credit > self.window:
            raise Corrupt(f"{credit} byte credits were given back, more than were used")
        self.credit += credit
        self._admit()

    def clear(self) -> None:
        """Nothing will be sent any more: lets go of all buffers."""
        for queue in (self._frames, self._bulk, self._small_waiters, self._bulk_waiters):
            for item in queue:
                if isinstance(item, Outgoing):
                    item.release()
            queue.clear()
        self._heads = 0

    def next_batch(self) -> list[Frame]:
        """What goes into the next message: all small frames, and about CHUNK bytes of bulk. Empty if nothing waits."""
        batch: list[Frame] = []
        size = 0
        queue = self._frames
        while queue and len(batch) < _SMALL_FRAMES:
            item = queue[0]
            head = _head_size(item)
            size += head
            if isinstance(item, Outgoing) and item.left <= SMALL:
                size += item.left
            if size > _SMALL_FRAMES_MAX and batch:
                break
            queue.popleft()
            self._heads -= head
            if isinstance(item, Outgoing):
                self._start(item)
            batch.append(item.head if isinstance(item, Outgoing) else item)
        room = CHUNK
        while self._bulk and room and len(batch) < FRAMES_MAX - 1:  # there may be credit besides
            outgoing = self._bulk.popleft()
            before = outgoing.left
            taken = outgoing.take(room)
            room -= before - outgoing.left
            batch.append(Frame(frames.CHUNK, outgoing.head.call, payload=taken))
            if outgoing.left:
                self._bulk.append(outgoing)
            elif outgoing.done is not None:
                outgoing.done()
        return batch

    def sent(self) -> None:
        """All that was taken has left: nobody reads its buffers any more."""
        left, self.left = self.left, []
        for done in left:
            try:
                done()
            except Exception:  # a bug, of one answer alone
                log.exception("what was to be done after an answer had left failed")

    def _push(self, item: Frame | Outgoing) -> None:
        self._frames.append(item)
        self._heads += _head_size(item)

    def _start(self, outgoing: Outgoing) -> None:
        """Its first frame leaves."""
        outgoing.started = True
        head = outgoing.head
        if outgoing.deadline is not None:
            left = outgoing.deadline.left()
            if left is not None:
                head.timeout_ms = max(1, min(0xFFFFFFFF, int(left * 1000)))
        if outgoing.left > SMALL:
            self._bulk.append(outgoing)
            return
        if outgoing.left:
            head.payload = outgoing.take(outgoing.left)
        if outgoing.done is not None:
            outgoing.done()

    def _admit(self) -> None:
        """Admits waiting payloads, in order within each line."""
        while (chosen := self._next_line()) is not None:
            outgoing = chosen.popleft()
            if chosen is self._bulk_waiters:
                self._overtaken = 0
            elif self._bulk_waiters:
                self._overtaken += outgoing.left
            outgoing.admitted = True
            self.credit -= outgoing.left
            self._push(outgoing)

    def _next_line(self) -> deque[Outgoing] | None:
        """The line whose first payload may pass now."""
        small, bulk = self._small_waiters, self._bulk_waiters
        if small and small[0].left <= self.credit and (not bulk or self._overtaken + small[0].left <= OVERTAKE_MAX):
            return small
        if bulk:
            wanted = bulk[0].left
            if wanted + self.window // _RESERVE_PART <= self.credit or wanted <= self.credit == self.window:
                return bulk
        return None
