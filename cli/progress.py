"""Progress of long work on a terminal: bytes, rate and time left. In a pipe: nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from reedbed.cli.lines import Lines
from reedbed.cli.output import on_terminal, safe_text, say_lines

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def _bar() -> Progress:
    # rich takes long to load, and most commands show no bar
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[files]}"),
        console=Console(stderr=True),
        transient=True,
        # the bar is on standard error; what goes to standard output stays there
        redirect_stdout=False,
        redirect_stderr=False,
    )


class Meter:
    """Counts what is done of work whose total may still grow. Shown on standard error while in its context."""

    def __init__(self, label: str, *, show: bool) -> None:
        self.done_bytes = 0
        self.done_files = 0
        self._total_bytes = 0
        self._total_files = 0
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._lines = Lines(self._print)
        if show and on_terminal():
            self._progress = _bar()
            self._task = self._progress.add_task(label, total=None, files="")

    def __enter__(self) -> Meter:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def expect(self, size: int) -> None:
        """One more file of `size` bytes is to be done."""
        self._total_bytes += size
        self._total_files += 1
        self._show()

    def moved(self, count: int) -> None:
        """So many more bytes are done."""
        self.done_bytes += count
        self._show()

    def finished(self) -> None:
        """One more file is done."""
        self.done_files += 1
        self._show()

    async def line(self, text: str) -> None:
        """A line on standard output that does not tear the bar. BrokenPipeError when nobody reads it any more."""
        await self._lines.put(text)

    async def drain(self) -> None:
        """Returns when all lines are out."""
        await self._lines.drain()

    def _print(self, lines: Sequence[str]) -> None:
        if self._progress and sys.stdout.isatty():
            # both are the same terminal: the lines go above the bar
            text = "\n".join(map(safe_text, lines))
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            say_lines(lines)

    def _show(self) -> None:
        if self._progress and self._task is not None:
            self._progress.update(
                self._task,
                completed=self.done_bytes,
                total=self._total_bytes or None,
                files=f"{self.done_files:,}/{self._total_files:,} files" if self._total_files else "",
            )
