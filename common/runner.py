"""Work beside the event loop, injected: what has a thread of its own is a step that a runner calls again and again."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Final, Protocol

# Does a bounded part; returns the seconds until it wants to be called again, unless woken before, or None: it has ended
Step = Callable[[], float | None]

WHEN_WOKEN: Final = math.inf


class Running(Protocol):
    """One step that is being run. Any thread may call this."""

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        ...

    def wake(self) -> None:
        """Have the step called soon, whatever it said; once more if it is being called."""
        ...

    def join(self) -> None:
        """Return when it has ended. That it is to end the step has been told before, and it was woken."""
        ...


class Runner(Protocol):
    """Runs steps, each never twice at a time."""

    def start(self, name: str, step: Step, after: float = 0.0) -> Running:
        """Call the step for the first time after so many seconds, or when it is woken."""
        ...


class ThreadRunner:
    """A thread for each step."""

    def start(self, name: str, step: Step, after: float = 0.0) -> Running:
        return _StepThread(name, step, after)


class _StepThread:
    def __init__(self, name: str, step: Step, after: float) -> None:
        self._step = step
        self._after = after
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def wake(self) -> None:
        self._woken.set()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        pause: float | None = self._after
        while pause is not None:
            if pause > 0:
                self._woken.wait(None if pause == WHEN_WOKEN else pause)
                self._woken.clear()
            pause = self._step()
