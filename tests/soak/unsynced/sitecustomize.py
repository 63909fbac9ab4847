"""For the control run only: every process that finds this on its path says that it synced, and did not."""

from __future__ import annotations

import functools
import os
from typing import Any

import lmdb


def _nothing(_: Any) -> None:
    return None


os.fsync = os.fdatasync = _nothing
lmdb.open = functools.partial(lmdb.Environment, sync=False, metasync=False)
