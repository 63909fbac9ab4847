"""A gate that many pass at once and one passes alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Many `among` each other, or one `alone`. Who waits to be alone holds newcomers back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self._closed = False

    def enter(self) -> None:
        """Be inside with others, until `leave`; waits while one is alone."""
        with self._lock:
            while self._closed:
                self._changed.wait()
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._closed:
                self._changed.notify_all()

    @contextmanager
    def among(self) -> Iterator[None]:
        """Inside with others."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    @contextmanager
    def alone(self, seconds: float) -> Iterator[bool]:
        """True once nobody else is inside, False if that took longer than `seconds`. One caller at a time."""
        give_up = time.monotonic() + seconds
        with self._changed:
            assert not self._closed
            self._closed = True
            while self._inside and time.monotonic() < give_up:
                self._changed.wait(max(0.0, give_up - time.monotonic()))
            empty = not self._inside
        try:
            yield empty
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()
