"""Logging set-up of the daemons: one line per event to standard error, with the time, or without it under systemd."""

from __future__ import annotations

import logging
import os
import sys


def get(name: str) -> logging.Logger:
    """The logger of one room, below `reedbed`."""
    return logging.getLogger(f"reedbed.{name}")


def set_up(level: str = "info") -> None:
    """Send the log of `reedbed` to standard error from `level` on. Only entry points call this."""
    # systemd's journal stamps every line itself
    stamp = "" if os.environ.get("JOURNAL_STREAM") else "%(asctime)s "
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(stamp + "%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("reedbed")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
