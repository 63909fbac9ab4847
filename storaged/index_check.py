"""Whether an index can be trusted, found out in a child process: LMDB maps its file, and bad pages can kill the reader.

Run as a module with the index's folder as its argument: exit code 0 if every row can be read and its sum is right, 4 if
a newer Reedbed wrote it, else 3; with the reason on standard output.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import lmdb

from reedbed.common.errors import Corrupt, NewerFormat
from reedbed.storaged import entries

DAMAGED: Final = 3
NEWER: Final = 4
ANSWER_MAX: Final = 4096


def find_damage(folder: Path) -> str:
    """What is wrong with the index, or the empty string. NewerFormat. In the calling process, which damage may kill."""
    try:
        with lmdb.open(str(folder), readonly=True, lock=False, max_dbs=len(entries.TABLES)) as env:
            for name in entries.TABLES:
                try:
                    table: Any = env.open_db(name.encode(), create=False)
                except lmdb.NotFoundError:
                    return f"the table {name} is missing"  # or its name was altered, or it was never begun
                with env.begin(db=table) as txn, txn.cursor() as cursor:
                    for key, value in cursor:
                        entries.check(name, key, value)
            _read_free_list(env)
    except (lmdb.Error, Corrupt) as error:
        return str(error) or type(error).__name__
    return ""


def _read_free_list(env: Any) -> None:
    """LMDB's list of free pages belongs to no table and is read by the first commit: damage there kills as well."""
    with open(os.devnull, "wb") as nowhere:
        env.copyfd(nowhere.fileno(), compact=True)


def find_damage_in_child(folder: Path) -> str:
    """What is wrong with the index, or the empty string; the death of the child is one more reason. NewerFormat."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.run(
        [sys.executable, "-m", "reedbed.storaged.index_check", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        check=False,
    )
    if child.returncode == 0:
        return ""
    reason = child.stdout[:ANSWER_MAX].decode("utf-8", "replace").strip()
    if child.returncode == NEWER:
        # not ours to throw away, though it could be made again
        raise NewerFormat(reason, where=str(folder), hint="Use the Reedbed that wrote it, or a newer one")
    return reason or f"the check ended with code {child.returncode}"


def main(arguments: list[str]) -> int:
    try:
        damage = find_damage(Path(arguments[0]))
    except NewerFormat as error:
        sys.stdout.write(error.what)
        return NEWER
    sys.stdout.write(damage)
    return DAMAGED if damage else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
