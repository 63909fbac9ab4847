"""Whether an index can be trusted, found out in a child process: LMDB maps its file, and bad pages can kill the reader.

Run as a module with the index's folder as its argument: exit code 0 if every row can be read and its sum is right, 4 if
a newer Reedbed wrote it, else 3; with the reason on standard output.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import lmdb

from reedbed.common.errors import Corrupt, NewerFormat
from reedbed.storaged import entries

DAMAGED: Final = 3
NEWER: Final = 4
ANSWER_MAX: Final = 4096


def find_damage(folder: Path) -> str:
    """What is wrong with the index, or the empty string. NewerFormat. In the calling process, which damage may kill.

    Pages have no sums: one altered bit in the number of a page hides rows or brings old ones back, all of them good.
    """
    live: Counter[int] = Counter()  # shards by segment, as their rows say
    told: Counter[int] = Counter()  # and as the segments' rows do
    try:
        with lmdb.open(str(folder), readonly=True, lock=False, max_dbs=len(entries.TABLES)) as env:
            for name in entries.TABLES:
                try:
                    table: Any = env.open_db(name.encode(), create=False)
                except lmdb.NotFoundError:
                    return f"the table {name} is missing"  # or its name was altered, or it was never begun
                with env.begin(db=table) as txn, txn.cursor() as cursor:
                    walked = 0
                    before = b""
                    for key, value in cursor:
                        entries.check(name, key, value)
                        if key <= before:
                            return f"the table {name} is out of order"
                        before = key
                        walked += 1
                        if name == "shards" and (entry := entries.decode_entry(key, value)).state == entries.LIVE:
                            live[entry.segment] += 1
                        if name == "segments":
                            told[entries.split_segment(key)] = entries.decode_info(key, value).live
                    if walked != txn.stat(table)["entries"]:
                        return f"the table {name} has rows that are not found"
            _read_free_list(env)
            if live != told:
                return "the table shards has not the rows that the table segments tells of"
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
