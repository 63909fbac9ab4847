"""Memory for what a get returns: large objects in huge pages, where the system gives them.

glibc asks the kernel for memory of that size each time, and to fault it in by pages of 4 KiB takes longer than to
receive the bytes.
"""

from __future__ import annotations

import ctypes
import io
import mmap
from typing import Any, Final

from cffi import FFI

from reedbed.common.limits import MIB

HUGE_FROM: Final = 32 * MIB  # glibc never keeps pieces of that size for later
_HUGE: Final = 2 * MIB

_new_bytes: Any = ctypes.pythonapi.PyBytes_FromStringAndSize  # of None: bytes to fill, which nobody has cleared
_new_bytes.argtypes = (ctypes.c_char_p, ctypes.c_ssize_t)
_new_bytes.restype = ctypes.py_object


def _find() -> tuple[FFI, Any] | None:
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None:
        return None
    ffi = FFI()
    ffi.cdef("int madvise(void *address, size_t length, int advice);")
    try:
        library: Any = ffi.dlopen(None)
        return ffi, lambda address, length: library.madvise(ffi.cast("void *", address), length, advice)
    except (OSError, AttributeError):
        return None


_found: Final = _find()


def bytes_to_fill(size: int) -> io.BytesIO:
    """Something that holds so many bytes: what is written into its buffer it hands out as bytes, without a copy."""
    holder = io.BytesIO(_new_bytes(None, size))
    if size >= HUGE_FROM and _found is not None:
        ffi, advise = _found
        with holder.getbuffer() as view:
            address = int(ffi.cast("uintptr_t", ffi.from_buffer(view)))
            first, last = -(-address // _HUGE) * _HUGE, (address + size) // _HUGE * _HUGE
            advise(first, last - first)  # it is but advice: where it is not taken, nothing is amiss
    return holder
