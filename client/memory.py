"""Memory for what a get returns: bytes that are filled in place, large ones in huge pages where the system gives them.

glibc asks the kernel for memory of that size each time, and to fault it in by pages of 4 KiB takes longer than to
receive the bytes.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any, Final

from cffi import FFI

from reedbed.common.limits import MIB

HUGE_FROM: Final = 32 * MIB  # glibc never keeps pieces of that size for later
_HUGE: Final = 2 * MIB

_new_bytes: Any = ctypes.pythonapi.PyBytes_FromStringAndSize  # of None: bytes to fill, which nobody has cleared
_new_bytes.argtypes = (ctypes.c_char_p, ctypes.c_ssize_t)
_new_bytes.restype = ctypes.py_object

_ffi: Final = FFI()
_BYTES: Final = _ffi.typeof("uint8_t[]")


def _find() -> Any:
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None:
        return None
    _ffi.cdef("int madvise(void *address, size_t length, int advice);")
    try:
        library: Any = _ffi.dlopen(None)
        advise = library.madvise
    except (OSError, AttributeError):
        return None
    return lambda address, length: advise(_ffi.cast("void *", address), length, advice)


_advise: Final = _find()


def bytes_to_fill(size: int) -> tuple[bytes, memoryview]:
    """So many bytes that hold anything, and the view to fill them by. Nobody else may see them before they are filled,
    and nobody may write to them afterwards: then they are bytes as any others, which took no copy."""
    if not size:
        return b"", memoryview(bytearray())
    data: bytes = _new_bytes(None, size)
    pointer: Any = _ffi.from_buffer(_BYTES, data)
    if size >= HUGE_FROM and _advise is not None:
        address = int(_ffi.cast("uintptr_t", pointer))
        first, last = -(-address // _HUGE) * _HUGE, (address + size) // _HUGE * _HUGE
        _advise(first, last - first)  # it is but advice: where it is not taken, nothing is amiss
    return data, memoryview(_ffi.buffer(pointer)).cast("B")
