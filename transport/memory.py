"""Malloc, set for messages of a megabyte.

glibc gives freed memory of that size back to the kernel at once, and each message pays for clearing fresh pages, in
Python and in gRPC alike: that halves the throughput of bulk. So up to KEEP bytes stay at the top of the heap. Each
thread would get a heap of its own, and what one thread has freed is then lost to the others: so there are but ARENAS.
"""

from __future__ import annotations

from typing import Any, Final

from cffi import FFI

from reedbed.common.limits import MESSAGE_MAX, MIB

KEEP: Final = 64 * MIB  # of freed memory that a process keeps for its next messages
ARENAS: Final = 2

_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def keep_freed_memory() -> bool:
    """Makes this process keep freed memory for its next messages. Only entry points call this, before they serve.

    False, and nothing changed, where the C library has no mallopt.
    """
    ffi = FFI()
    ffi.cdef("int mallopt(int param, int value);")
    try:
        library: Any = ffi.dlopen(None)
        mallopt = library.mallopt
    except (AttributeError, OSError):
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, 2 * MESSAGE_MAX)
        and mallopt(_M_TRIM_THRESHOLD, KEEP)
        and mallopt(_M_ARENA_MAX, ARENAS)
    )
