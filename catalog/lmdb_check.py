"""Read a whole catalog folder in a child process: LMDB has no page checksums and may crash on a damaged file.

Run as `python -m reedbed.catalog.lmdb_check FOLDER`: exit code 0 if every row of the data file can be read and its sum
is right, 1 with the reason on standard error if not. The folder must be locked by the caller.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb

from reedbed.catalog import redo
from reedbed.catalog.lmdb_rows import TREES, LmdbRows, engine_error, open_trees
from reedbed.catalog.longkeys import LongKeys
from reedbed.catalog.transaction import SnapshotReader
from reedbed.common.errors import Corrupt, NewerFormat, ReedbedError

_NEWER = 3


def check_in_child(path: Path) -> None:
    """Corrupt if the data file in `path` cannot be read from begin to end, NewerFormat if it is not ours to judge."""
    child = subprocess.run(
        [sys.executable, "-m", "reedbed.catalog.lmdb_check", str(path)], capture_output=True, check=False
    )
    if child.returncode == 0:
        return
    reason = child.stderr.decode("utf-8", "replace").strip()[-1000:]
    if child.returncode == _NEWER:
        raise NewerFormat(f"the catalog was written by a newer Reedbed: {reason}", where=str(path))
    if child.returncode < 0:
        reason = f"reading it ends with signal {-child.returncode}"
    raise Corrupt(
        f"the catalog's data file is damaged: {reason}",
        where=str(path),
        hint="Rebuild the catalog from its copy: reedbed catalog rebuild",
    )


def check(path: Path) -> None:
    """Read and check every row. May crash the process."""
    try:
        env = lmdb.open(str(path), readonly=True, lock=False, max_dbs=TREES, readahead=False)
        trees = open_trees(env, create=False)
    except lmdb.Error as error:
        raise engine_error(error, path) from error
    with env, env.begin() as txn:
        rows = LmdbRows(txn, trees, path)
        for _ in SnapshotReader(LongKeys(rows)).scan(b""):
            pass
        floor = redo.decode_floor(rows.get(redo.FLOOR_ROW))
        found = rows.scan(redo.row_key(floor + 1), redo.AFTER_REDO, False)
        for _ in redo.decode(found, floor):
            pass
        try:
            _read_free_list(env)
        except lmdb.Error as error:
            raise engine_error(error, path) from error


def _read_free_list(env: Any) -> None:
    """LMDB's list of free pages holds no row, and the first commit reads it: bad pages there may crash the process."""
    with open(os.devnull, "wb") as nowhere, contextlib.suppress(lmdb.IncompatibleError):
        # IncompatibleError: pages that neither a tree nor the list names, which is waste and no damage
        env.copyfd(nowhere.fileno(), compact=True)


def main() -> int:
    try:
        check(Path(sys.argv[1]))
    except NewerFormat as error:
        sys.stderr.write(f"{error}\n")
        return _NEWER
    except ReedbedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
