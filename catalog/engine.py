"""The engine: ordered keys with transactions, the one outside thing that the catalog stands on.

What every engine promises (tests/unit/catalog/test_engine_conformance.py holds them to it):

- Keys are 1 to KEY_BYTES_MAX bytes and ordered bytewise, values 0 to VALUE_BYTES_MAX bytes.
- Write transactions are serialisable and one at a time; when `write()` has exited normally, its changes are durable.
- A reader sees one committed state, whole, for as long as it lives. States appear in the order of their commits.
- Each write transaction that changed something leaves exactly one redo record, written in the same transaction.
  Records are numbered 1, 2, 3, ... without a gap and stay until they are trimmed.
- Every value is checked on every read: a wrong one raises Corrupt that names the key.

An engine may be used from several threads; one transaction belongs to one thread. Give each table of keys a first byte
of its own: engines keep such tables apart, so that one that only grows upward is stored without holes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from reedbed.common.limits import KIB, MIB

KEY_BYTES_MAX: Final = 4 * KIB
VALUE_BYTES_MAX: Final = 16 * MIB


@dataclass(frozen=True, slots=True)
class RedoRecord:
    """What one transaction did: every key that it set (with the value it left) or removed (None), each key once."""

    number: int
    changes: list[tuple[bytes, bytes | None]]


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes that hold something, and bytes that are left for more, the reserve not among them; below 0 when in it."""

    used: int
    room: int


class Reader(Protocol):
    """One committed state. Must be short-lived: at most one page of a listing."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None. Corrupt or NewerFormat if the stored value does not check out."""

    def scan(self, start: bytes, end: bytes | None = None, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """All (key, value) with start <= key < end in bytewise order (downward with `reverse`); no `end`: to the last.

        In a Writer the scan is live: each step gives the next key of what is there at that moment, so that what was
        scanned may be deleted or changed on the way.
        """


class Writer(Reader, Protocol):
    """One write transaction; its reads see its own writes."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key`. InvalidArgument for a key or value of a wrong size.

        Where there is no room, this raises DiskFull, or a later call, or the end of the transaction.
        """

    def delete(self, key: bytes) -> bool:
        """Remove `key`; False if it was not there."""

    def mark(self) -> int:
        """Where the transaction stands."""

    def undo_to(self, mark: int) -> None:
        """Undo what was put and deleted since `mark` said this; marks from after that mean nothing any more."""

    def savepoint(self) -> AbstractContextManager[None]:
        """Undo what is put and deleted inside if the body raises (the exception goes on to the caller).

        Savepoints nest. An error of the engine itself (DiskFull, DeviceFailed) breaks the whole transaction: it
        then cannot commit, whoever catches the error.
        """


class Engine(Protocol):
    """See the module's text. A closed engine refuses everything with Unavailable."""

    def read(self) -> AbstractContextManager[Reader]:
        """A snapshot of the newest committed state."""

    def write(self, *, urgent: bool = False) -> AbstractContextManager[Writer]:
        """A write transaction: committed and durable on normal exit, without a trace if the body raises.

        Waits for the one before. DiskFull when the disk is down to its reserve, which only an `urgent` transaction
        (removals, map changes) may use. DeviceFailed once a sync has failed, until the engine is opened anew;
        the error of the commit that failed says `maybe_applied`.
        """

    def redo_position(self) -> int:
        """Number of the newest redo record, trimmed ones included; 0 when there was none."""

    def read_redo(self, after: int, limit: int) -> list[RedoRecord]:
        """The records after number `after`, in order: at least one if there is any, at most `limit`.

        LogTrimmed if the next one is already trimmed, InvalidArgument for a position that was never reached.
        """

    def trim_redo(self, upto: int) -> None:
        """Forget the records up to and including `upto`, durably. InvalidArgument past the newest one."""

    def load(self, changes: Iterable[tuple[bytes, bytes | None]], position: int) -> None:
        """Put what a copy holds, durably and whole: keys with their values, None for removed ones.

        It leaves no redo record: the state is that of record `position` from now on, and the next write leaves the one
        after it. InvalidArgument once there are records of our own, and for a position below the newest one.
        """

    def usage(self) -> Usage:
        """How full the engine is."""

    def close(self) -> None:
        """Wait for the transaction under way and let go of everything. May be called twice."""
