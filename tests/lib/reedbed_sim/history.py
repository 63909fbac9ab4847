"""What clients asked for and were told: the operations of a run, as the checkers see them. Pure.

A version is named by its id as the catalog shows it, a content by its digest. Every put has a content of its own.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Final, Literal

OPEN: Final = math.inf  # the end of an operation that nobody was told of

Kind = Literal["put", "copy", "delete", "delete-version", "read"]
# ok: done, with its result. refused: its condition did not hold. failed: certainly not done. unknown: done or not
Outcome = Literal["ok", "refused", "failed", "unknown"]


def digest(content: bytes | memoryview) -> str:
    return hashlib.blake2b(content, digest_size=9).hexdigest()


@dataclass(slots=True)
class Op:
    """One operation on one key. An operation that has not ended is unknown, and its end open.

    condition: "" for none, "absent", or the version that must be the latest. version: that it made, read (None: there
    was nothing), or was to delete. content: that it stored, or read where it read all of it. removed: what a delete was
    told. source: bucket and key of a copy's source.
    """

    number: int
    client: str
    kind: Kind
    bucket: str
    key: str
    begin: float
    end: float = OPEN
    outcome: Outcome = "unknown"
    condition: str = ""
    version: str | None = None
    content: str = ""
    removed: bool | None = None
    source: tuple[str, str] | None = None
    error: str = ""

    @property
    def writes(self) -> bool:
        return self.kind != "read"

    def __str__(self) -> str:
        span = f"{self.begin:.4f}-{self.end:.4f}"
        parts = [f"#{self.number}", span, self.client, self.kind, f"{self.bucket}/{self.key}"]
        if self.condition:
            parts.append(f"if {self.condition[:32]}")
        parts.append(self.outcome)
        if self.version:
            parts.append(f"version {self.version}")
        elif self.kind == "read":
            parts.append("nothing")
        if self.content:
            parts.append(f"content {self.content}")
        if self.removed is not None:
            parts.append(f"removed {self.removed}")
        if self.error:
            parts.append(self.error)
        return " ".join(parts)


@dataclass(slots=True)
class Entry:
    """One entry of the log, as a follower read it."""

    term: int
    seq: int
    kind: str
    id: str
    bucket: str
    key: str
    version: str
    size: int


@dataclass(frozen=True, slots=True)
class Ranged:
    """A read of a part of a version."""

    version: str
    start: int
    end: int
    got: bytes


@dataclass(slots=True)
class History:
    """All operations in the order in which they began; which buckets keep versions; contents by their digests."""

    ops: list[Op] = field(default_factory=list)
    versioned: dict[str, bool] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    ranges: list[Ranged] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # that were plain at once

    def begin(self, client: str, kind: Kind, bucket: str, key: str, now: float, **more: object) -> Op:
        op = Op(len(self.ops), client, kind, bucket, key, now, **more)  # type: ignore[arg-type]
        self.ops.append(op)
        return op

    def stores(self, content: bytes) -> str:
        """A content that is about to be put; its digest."""
        name = digest(content)
        self.blobs[name] = content
        return name

    def of_key(self, bucket: str, key: str) -> list[Op]:
        return [op for op in self.ops if op.bucket == bucket and op.key == key]

    def places(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys((op.bucket, op.key) for op in self.ops))
