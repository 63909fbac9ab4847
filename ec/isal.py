"""ISA-L, called on buffers where they lie: no copy of a shard, and no GIL held while it computes.

The library is looked for in pyeclib's wheel, which brings it, and then on the system. Matrices are bytes in row order;
an element is one byte of GF(256) with the polynomial 0x11d.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from cffi import FFI

from reedbed.common.errors import InvalidArgument


class Pointer:
    """Where the bytes of a buffer are; `len` is their number. The buffer stays locked while this is alive.

    Only the address is kept of what cffi gives: its own object would hold the view, and Python's collector, when both
    are in one cycle, clears the view first and then crashes at the end of the other.
    """

    __slots__ = ("_view", "address", "size")

    def __init__(self, address: int, view: memoryview) -> None:
        self.address = address
        self.size = view.nbytes
        self._view = view

    def __len__(self) -> int:
        return self.size


Tables: TypeAlias = Any  # what ec_init_tables wrote; its layout depends on the processor

_DECLARATIONS = """
void gf_gen_cauchy1_matrix(unsigned char *a, int m, int k);
int gf_invert_matrix(unsigned char *in, unsigned char *out, const int n);
void ec_init_tables(int k, int rows, unsigned char *a, unsigned char *gftbls);
void ec_encode_data(int len, int k, int rows, unsigned char *gftbls, unsigned char **data, unsigned char **coding);
"""
_TABLE_BYTES = 32  # of one matrix element
_SYSTEM_NAMES = ("libisal.so.2", "libisal.so")


class Isal:
    """One loaded library. OSError where it cannot be opened, AttributeError where it lacks a function."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._ffi = FFI()
        self._bytes = self._ffi.typeof("unsigned char[]")
        self._pointer_type = self._ffi.typeof("unsigned char *")
        self._pointers = self._ffi.typeof("unsigned char *[]")
        self._ffi.cdef(_DECLARATIONS)
        library: Any = self._ffi.dlopen(path)
        self._cauchy = library.gf_gen_cauchy1_matrix
        self._invert = library.gf_invert_matrix
        self._init_tables = library.ec_init_tables
        self._encode_data = library.ec_encode_data

    def cauchy(self, n: int, k: int) -> bytes:
        """The n rows of k of the systematic code: identity on top, then Cauchy rows."""
        matrix = self._ffi.new("unsigned char[]", n * k)
        self._cauchy(matrix, n, k)
        return bytes(self._ffi.buffer(matrix))

    def invert(self, matrix: bytes, k: int) -> bytes:
        """The inverse of a k times k matrix; ValueError for a singular one."""
        scratch = self._ffi.new("unsigned char[]", matrix)  # the call overwrites its input
        inverse = self._ffi.new("unsigned char[]", k * k)
        if self._invert(scratch, inverse, k) != 0:
            raise ValueError("matrix is singular")
        return bytes(self._ffi.buffer(inverse))

    def tables(self, matrix: bytes, rows: int, columns: int) -> Tables:
        """What `combine` needs to apply a matrix of `rows` times `columns`."""
        tables = self._ffi.new("unsigned char[]", _TABLE_BYTES * rows * columns)
        self._init_tables(columns, rows, self._ffi.from_buffer("unsigned char[]", matrix), tables)
        return tables

    def readable(self, buffer: object) -> Pointer:
        """The bytes of any contiguous buffer (its `len` is their number), which stays locked while this is alive."""
        return self._pointer(buffer, False)

    def writable(self, buffer: object) -> Pointer:
        """`readable` for a buffer that `combine` is to fill; InvalidArgument if it is read-only."""
        return self._pointer(buffer, True)

    def _pointer(self, buffer: object, writable: bool) -> Pointer:
        try:
            view = memoryview(buffer)  # type: ignore[arg-type]
            found = self._ffi.from_buffer(self._bytes, view, require_writable=writable)  # type: ignore[call-overload]
            address = int(self._ffi.cast("uintptr_t", found))
            self._ffi.release(found)
            return Pointer(address, view)
        except (BufferError, TypeError, ValueError) as error:
            raise InvalidArgument(f"a shard's buffer cannot be used: {error}") from error

    def combine(
        self, tables: Tables, sources: Sequence[Pointer], outputs: Sequence[Pointer], start: int, length: int
    ) -> None:
        """outputs[r][i] = sum over c of matrix[r][c] * sources[c][i], for `length` values of i from `start`."""
        if length <= 0 or not sources or not outputs:
            return
        new, cast, kind = self._ffi.new, self._ffi.cast, self._pointer_type
        data = new(self._pointers, [cast(kind, source.address + start) for source in sources])
        coding = new(self._pointers, [cast(kind, output.address + start) for output in outputs])
        self._encode_data(length, len(sources), len(outputs), tables, data, coding)


def _candidates() -> Iterator[str]:
    spec = find_spec("pyeclib")
    if spec is not None and spec.origin is not None:
        beside = Path(spec.origin).parent.parent / "pyeclib.libs"
        yield from (str(path) for path in sorted(beside.glob("libisal*")))
    yield from _SYSTEM_NAMES


@cache
def find_isal() -> Isal | None:
    """ISA-L, or None where neither pyeclib's wheel nor the system has a usable one."""
    for path in _candidates():
        try:
            return Isal(path)
        except (OSError, AttributeError):
            continue
    return None
