"""Keys of any length in a store whose own keys are short, with the order kept.

A tree of nodes; the root is node 0. A node holds keys relative to it:

    key of up to HEAD_BYTES       row (node, key)                  -> stored value
    longer key                    row (node, first HEAD_BYTES + 1 zero byte) -> number of the node that holds the rest

The second kind, a marker, is told by its length of HEAD_BYTES + 1. In the order of rows it comes right after its head
and before every other row above the head, which is just where the longer keys belong.

Names of rows below: a table byte, then for every node but the root its number in 8 bytes, big-endian, then the key.
A marker's value is the 8-byte number, sealed like every other value.

Invariants:
- A node other than the root has exactly one marker and at least one row; it comes and goes with its first and last row.
- A new node's number is one above the highest in use, so no row with that number is there yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from reedbed.catalog.sealed import seal, show_key, unseal
from reedbed.common.errors import Corrupt

HEAD_BYTES: Final = 480
ROOT_TABLE: Final = b"\x10"
NODE_TABLE: Final = b"\x11"
_AFTER_NODES: Final = b"\x12"
_MARK: Final = b"\0"
_NUMBER_BYTES: Final = 8
ROW_KEY_MAX: Final = len(NODE_TABLE) + _NUMBER_BYTES + HEAD_BYTES + 1

assert ROW_KEY_MAX <= 511  # LMDB's limit


class ShortRows(Protocol):
    """Ordered rows within one transaction whose keys may have up to ROW_KEY_MAX bytes."""

    def get(self, key: bytes) -> bytes | None: ...

    def put(self, key: bytes, stored: bytes) -> None: ...

    def delete(self, key: bytes) -> bool: ...

    def store(self, rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Set rows in the order of their keys; remove those without a value."""

    def scan(self, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        """start <= key < end."""


def _table(node: int) -> bytes:
    return NODE_TABLE + node.to_bytes(_NUMBER_BYTES, "big") if node else ROOT_TABLE


def _after(table: bytes) -> bytes:
    """The first row key above all that begin with `table`."""
    return (int.from_bytes(table, "big") + 1).to_bytes(len(table), "big")


class LongKeys:
    """`transaction.Rows` over ShortRows."""

    def __init__(self, rows: ShortRows) -> None:
        self._rows = rows

    def get(self, key: bytes) -> bytes | None:
        if len(key) <= HEAD_BYTES:
            return self._rows.get(ROOT_TABLE + key)
        node = 0
        while len(key) > HEAD_BYTES:
            below = self._node_of(_table(node) + key[:HEAD_BYTES] + _MARK)
            if below is None:
                return None
            node, key = below, key[HEAD_BYTES:]
        return self._rows.get(_table(node) + key)

    def store(self, rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        short: list[tuple[bytes, bytes | None]] = []
        for key, stored in rows:
            if len(key) <= HEAD_BYTES:
                short.append((ROOT_TABLE + key, stored))
            elif stored is None:
                self.delete(key)
            else:
                self.put(key, stored)
        self._rows.store(short)

    def put(self, key: bytes, stored: bytes) -> None:
        node = 0
        while len(key) > HEAD_BYTES:
            marker = _table(node) + key[:HEAD_BYTES] + _MARK
            below = self._node_of(marker)
            if below is None:
                # A node that this very call made has no row yet, so it does not show in the table
                below = max(node, self._last_node()) + 1
                self._rows.put(marker, seal(marker, below.to_bytes(_NUMBER_BYTES, "big")))
            node, key = below, key[HEAD_BYTES:]
        self._rows.put(_table(node) + key, stored)

    def delete(self, key: bytes) -> bool:
        markers: list[tuple[bytes, int]] = []
        node = 0
        while len(key) > HEAD_BYTES:
            marker = _table(node) + key[:HEAD_BYTES] + _MARK
            below = self._node_of(marker)
            if below is None:
                return False
            markers.append((marker, below))
            node, key = below, key[HEAD_BYTES:]
        if not self._rows.delete(_table(node) + key):
            return False
        for marker, below in reversed(markers):
            table = _table(below)
            if next(self._rows.scan(table, _after(table), False), None) is not None:
                break
            self._rows.delete(marker)
        return True

    def scan(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        return self._scan(0, start, end, reverse)

    def _scan(self, node: int, start: bytes, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        table = _table(node)
        low, low_rest = _bound(start)
        if end is None:
            high, high_head, high_rest = _after(table), None, b""
        else:
            high, high_rest = _bound(end)
            high_head = end[:HEAD_BYTES] if high_rest else None
            # The marker that leads to the end is itself within
            high = table + high + (b"\0" if high_rest else b"")
        for row, stored in self._rows.scan(table + low, high, reverse):
            key = row[len(table) :]
            if len(key) <= HEAD_BYTES:
                yield key, stored
                continue
            head = key[:HEAD_BYTES]
            below = _number(row, stored)
            from_ = low_rest if key == low else b""
            to = high_rest if head == high_head else None
            for rest, value in self._scan(below, from_, to, reverse):
                yield head + rest, value

    def _node_of(self, marker: bytes) -> int | None:
        stored = self._rows.get(marker)
        return None if stored is None else _number(marker, stored)

    def _last_node(self) -> int:
        for row, _ in self._rows.scan(NODE_TABLE, _AFTER_NODES, True):
            return int.from_bytes(row[len(NODE_TABLE) : len(NODE_TABLE) + _NUMBER_BYTES], "big")
        return 0


def _bound(key: bytes) -> tuple[bytes, bytes]:
    """A bound as a row of its node, and the rest of it below the marker that this row is."""
    if len(key) <= HEAD_BYTES:
        return key, b""
    return key[:HEAD_BYTES] + _MARK, key[HEAD_BYTES:]


def _number(marker: bytes, stored: bytes) -> int:
    number = unseal(marker, stored)
    if len(number) != _NUMBER_BYTES or not any(number):
        raise Corrupt("a marker of long keys holds no node number", where=f"row {show_key(marker)}")
    return int.from_bytes(number, "big")
