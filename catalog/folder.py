"""The folder of an embedded catalog: whose it is, who serves it, and whether it was closed in order.

    identity.json   {"kind": "reedbed catalog", "format": 1, "cluster": hex, "state": ..., "sum": ...}, where state is
                    "creating", "restoring" or "ready", and sum is the CRC32C of the same object without sum, with
                    sorted keys and no spaces
    serving.lock    flock of the process that serves the folder, with its pid as text; never removed
    clean.txt       size and mtime (ns) of data.mdb when it was closed in order; absent while it is open
    data.mdb        LMDB's, as is lock.mdb

A folder "creating" holds nothing that was acknowledged: making it is started again. One "restoring" holds a part of a
copy: it is not served, and may only be restored into once more. A folder "ready" has a data.mdb.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from reedbed.common.checksums import crc32c, format_checksum
from reedbed.common.errors import (
    AlreadyExists,
    Corrupt,
    InvalidArgument,
    NewerFormat,
    NotFound,
    PermissionDenied,
    ReedbedError,
    ResourceExhausted,
    Unavailable,
    WrongCluster,
)
from reedbed.common.ids import Id, check_id, format_id

FORMAT: Final = 1
KIND: Final = "reedbed catalog"
DATA: Final = "data.mdb"
IDENTITY: Final = "identity.json"
_LOCK: Final = "serving.lock"
_CLEAN: Final = "clean.txt"
_OURS: Final = frozenset({IDENTITY, IDENTITY + ".new", _LOCK, _CLEAN, _CLEAN + ".new", DATA, "lock.mdb"})


class Folder:
    """A catalog's folder, locked for this process until `release`."""

    def __init__(self, path: Path, cluster: Id | None, *, restoring: bool = False) -> None:
        """Lock `path` for `cluster`, making it if there is none; without a cluster take whatever cluster it has.

        restoring: it must be empty, or hold what an unfinished restore left, which goes.

        Raises Unavailable (served by another process), WrongCluster, NewerFormat, Corrupt, InvalidArgument (not a
        catalog's folder), NotFound (no catalog there, and no cluster to make one for).
        """
        self.path = path
        self._restoring = restoring
        found = _entries(path)
        if found - _OURS or (found and IDENTITY not in found and DATA in found):
            raise InvalidArgument(
                "the folder is not empty and not a catalog", where=str(path), hint="Give an empty folder or a new path"
            )
        if cluster is None and IDENTITY not in found:
            raise NotFound("there is no catalog in this folder", where=str(path))
        try:
            _make_folder(path)
            self._lock = _take_lock(path / _LOCK)
        except ReedbedError:  # some are an OSError too
            raise
        except OSError as error:
            raise _named(error, path) from error
        try:
            self.cluster, self.created = self._settle(cluster)
        except BaseException as error:
            self.release()
            if isinstance(error, OSError) and not isinstance(error, ReedbedError):
                raise _named(error, path) from error
            raise

    def _settle(self, cluster: Id | None) -> tuple[Id, bool]:
        """Cluster of the folder, and whether it was already complete."""
        if (self.path / IDENTITY).exists():
            there, state = _read_identity(self.path / IDENTITY)
            if self._restoring:
                if state != "restoring":
                    raise AlreadyExists(
                        f"there is a catalog of cluster {format_id(there)} in this folder",
                        where=str(self.path),
                        hint="Name an empty folder or a new path",
                    )
                self._clear()
                self._write_identity(cluster or there, "restoring")
                return cluster or there, False
            if state == "restoring":
                raise InvalidArgument(
                    "the folder holds a catalog that was not restored to its end",
                    where=str(self.path),
                    hint="Restore or rebuild it once more, into this folder or another",
                )
            if cluster is not None and there != cluster:
                raise WrongCluster(
                    f"the catalog belongs to cluster {format_id(there)}, not {format_id(cluster)}", where=str(self.path)
                )
            if state == "ready" and not self._data_size():
                raise Corrupt(
                    f"{DATA} of the catalog is missing or empty",
                    where=str(self.path),
                    hint="Bring the file back, or rebuild the catalog from its copy: reedbed catalog rebuild",
                )
            if state != "ready":
                self._clear()
            return there, state == "ready"
        assert cluster is not None
        self._write_identity(cluster, "restoring" if self._restoring else "creating")
        return cluster, False

    def _clear(self) -> None:
        for name in (DATA, "lock.mdb"):
            with suppress(FileNotFoundError):
                os.unlink(self.path / name)

    def finish_creating(self) -> None:
        """Record that the data file exists and has been synced."""
        _sync_folder(self.path)  # its name too, before anything says that it is there
        self._write_identity(self.cluster, "ready")
        self.created = True

    def was_closed_in_order(self) -> bool:
        """Whether the data file is just as the last orderly close left it. Forgets the mark durably."""
        mark = self.path / _CLEAN
        try:
            clean = mark.read_text("ascii", "replace") == self._data_state()
            os.unlink(mark)
        except FileNotFoundError:
            return False
        # a commit need not change the time that a power cut leaves: with the mark back, the file would seem untouched
        _sync_folder(self.path)
        return clean

    def mark_closed_in_order(self) -> None:
        """Remember the data file as it is. Only after it was closed."""
        _write_synced(self.path / _CLEAN, self._data_state().encode())

    def release(self) -> None:
        """Let another process serve the folder."""
        os.close(self._lock)

    def _data_size(self) -> int:
        try:
            return (self.path / DATA).stat().st_size
        except FileNotFoundError:
            return 0

    def _data_state(self) -> str:
        stat = (self.path / DATA).stat()
        return f"{stat.st_size} {stat.st_mtime_ns}\n"

    def _write_identity(self, cluster: Id, state: str) -> None:
        body = {"kind": KIND, "format": FORMAT, "cluster": format_id(cluster), "state": state}
        _write_synced(self.path / IDENTITY, json.dumps({**body, "sum": _sum(body)}).encode() + b"\n")


def _entries(path: Path) -> set[str]:
    try:
        return set(os.listdir(path))
    except FileNotFoundError:
        return set()
    except NotADirectoryError as error:
        raise InvalidArgument("the catalog's folder is a file", where=str(path)) from error
    except OSError as error:
        raise _named(error, path) from error


def _named(error: OSError, path: Path) -> ReedbedError:
    if isinstance(error, PermissionError):
        return PermissionDenied("no permission for the catalog's folder", where=str(path))
    return ResourceExhausted(f"the catalog's folder cannot be used: {error.strerror}", where=str(path), retryable=False)


def _sum(body: dict[str, object]) -> str:
    return format_checksum(crc32c(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()))


def _read_identity(path: Path) -> tuple[Id, str]:
    raw = path.read_bytes()[:4096]
    try:
        body = json.loads(raw)
        kept = body.pop("sum")
        if body["kind"] == KIND and isinstance(body["format"], int) and kept == _sum(body):
            if body["format"] > FORMAT:
                raise NewerFormat(
                    f"the catalog has format {body['format']}, this Reedbed knows {FORMAT}",
                    where=str(path),
                    hint="Start the Reedbed that wrote it, or a newer one",
                )
            return check_id(bytes.fromhex(body["cluster"])), str(body["state"])
    except NewerFormat:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise Corrupt(
        "the catalog's identity file is damaged",
        where=str(path),
        hint="Rebuild the catalog from its copy: reedbed catalog rebuild",
    )


def _take_lock(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise Unavailable(
            f"the catalog is already served by process {pid}",
            where=str(path.parent),
            hint="Stop that process, or give another folder",
            retryable=False,
        ) from error
    except BaseException:
        os.close(lock)
        raise
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _write_synced(path: Path, data: bytes) -> None:
    new = path.with_name(path.name + ".new")
    with open(new, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    _sync_folder(path.parent)


def _make_folder(path: Path) -> None:
    """`path` with all folders above it, each durable within the one above."""
    if not path.exists():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
